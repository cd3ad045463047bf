/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum {
    SMBIOS_STRING_MAX = 1024,
    RTC_OFFSET_MAX_S = 2000000000, /* about 63 years */
};

static const KumoField platform_fields[] = {
    { .cli = "system_manufacturer",
      .json = "system_manufacturer",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_manufacturer),
      .max = SMBIOS_STRING_MAX },
    { .cli = "system_product_name",
      .json = "system_product_name",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_product_name),
      .max = SMBIOS_STRING_MAX },
    { .cli = "system_version",
      .json = "system_version",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_version),
      .max = SMBIOS_STRING_MAX },
    { .cli = "system_serial_number",
      .json = "system_serial_number",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_serial_number),
      .max = SMBIOS_STRING_MAX },
    { .cli = "serial_number",
      .json = "serial_number",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_serial_number),
      .max = SMBIOS_STRING_MAX,
      .alias = true },
    { .cli = "system_uuid",
      .json = "system_uuid",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_uuid),
      .max = SMBIOS_STRING_MAX },
    { .cli = "uuid",
      .json = "uuid",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_uuid),
      .max = SMBIOS_STRING_MAX,
      .alias = true },
    { .cli = "system_sku_number",
      .json = "system_sku_number",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_sku_number),
      .max = SMBIOS_STRING_MAX },
    { .cli = "system_family",
      .json = "system_family",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, system_family),
      .max = SMBIOS_STRING_MAX },
    { .cli = "oem_strings",
      .json = "oem_strings",
      .type = KUMO_FIELD_STRINGS,
      .offset = offsetof(KumoPlatformConfig, oem_strings),
      .max = SMBIOS_STRING_MAX },
    { .cli = "chassis_asset_tag",
      .json = "chassis_asset_tag",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPlatformConfig, chassis_asset_tag),
      .max = SMBIOS_STRING_MAX },
    /* kumo's own. What a guest set its clock by is the past. */
    { .cli = "rtc_offset",
      .json = "rtc_offset",
      .type = KUMO_FIELD_S32,
      .offset = offsetof(KumoPlatformConfig, rtc_offset_s),
      .max = RTC_OFFSET_MAX_S,
      .host = true },
    { .cli = "num_pci_segments",
      .json = "num_pci_segments",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoPlatformConfig, num_pci_segments),
      .def = 1,
      .min = 1,
      .max = KUMO_MAX_PCI_SEGMENTS },
    { .cli = "iommu_segments", .json = "iommu_segments", .type = KUMO_FIELD_NOT_YET },
    { .cli = "iommu_address_width",
      .json = "iommu_address_width_bits",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "64" },
    { .cli = "iommufd", .json = "iommufd", .type = KUMO_FIELD_NOT_YET, .json_default = "false" },
    { .cli = "iommufd_fd", .json = "iommufd_fd", .type = KUMO_FIELD_NOT_YET },
    { .cli = "vfio_p2p_dma",
      .json = "vfio_p2p_dma",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "true" },
    { .cli = "sev_snp", .json = "sev_snp", .type = KUMO_FIELD_NOT_YET, .json_default = "false" },
    { .cli = "tdx", .json = "tdx", .type = KUMO_FIELD_NOT_YET, .json_default = "false" },
};

static bool platform_validate(const void *object, const char *path, GError **error)
{
    const KumoPlatformConfig *platform = object;

    if (platform->system_uuid && !g_uuid_string_is_valid(platform->system_uuid)) {
        g_autofree char *shown = kumo_quote_value(platform->system_uuid);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.system_uuid: %s is not allowed, must be like "
                    "00112233-4455-6677-8899-aabbccddeeff",
                    path, shown);
        return false;
    }
    for (guint i = 0; i < platform->oem_strings->len; i++) {
        const char *text = platform->oem_strings->pdata[i];

        /* SMBIOS ends the list of strings at the first empty one. */
        if (!*text) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.oem_strings[%u]: \"\" is not allowed, must not be empty", path, i);
            return false;
        }
    }
    return true;
}

static const KumoField pci_segment_fields[] = {
    { .cli = "pci_segment",
      .json = "pci_segment",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoPciSegmentConfig, pci_segment),
      .max = KUMO_MAX_PCI_SEGMENTS - 1 },
    { .cli = "mmio32_aperture_weight",
      .json = "mmio32_aperture_weight",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoPciSegmentConfig, mmio32_aperture_weight),
      .def = 1,
      .min = 1 },
    { .cli = "mmio64_aperture_weight",
      .json = "mmio64_aperture_weight",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoPciSegmentConfig, mmio64_aperture_weight),
      .def = 1,
      .min = 1 },
};

const KumoSection kumo_pci_segment_section = {
    .option = "pci-segment",
    .fields = pci_segment_fields,
    .n_fields = G_N_ELEMENTS(pci_segment_fields),
    .size = sizeof(KumoPciSegmentConfig),
};

const KumoSection kumo_platform_section = {
    .option = "platform",
    .fields = platform_fields,
    .n_fields = G_N_ELEMENTS(platform_fields),
    .size = sizeof(KumoPlatformConfig),
    .validate = platform_validate,
};
