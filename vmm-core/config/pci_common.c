/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum { PCI_SLOT_MAX = 31 };

static const KumoField pci_common_fields[] = {
    { .cli = "id",
      .json = "id",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPciCommon, id),
      .max = KUMO_ID_MAX },
    { .cli = "iommu", .json = "iommu", .type = KUMO_FIELD_NOT_YET, .json_default = "false" },
    { .cli = "pci_segment",
      .json = "pci_segment",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoPciCommon, pci_segment),
      .max = KUMO_MAX_PCI_SEGMENTS - 1 },
    { .cli = "pci_device_id",
      .json = "pci_device_id",
      .chosen = true,
      .type = KUMO_FIELD_SLOT,
      .offset = offsetof(KumoPciCommon, pci_device_id),
      .max = PCI_SLOT_MAX },
};

static bool pci_common_validate(const void *object, const char *path, GError **error)
{
    const KumoPciCommon *pci = object;

    for (const char *c = pci->id; c && *c; c++) {
        if (g_ascii_iscntrl(*c) || *c == '/') {
            g_autofree char *shown = kumo_quote_value(pci->id);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.id: %s is not allowed, must be without '/' and control characters",
                        path, shown);
            return false;
        }
    }
    if (pci->pci_device_id == 0 && pci->pci_segment == 0) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "%s.pci_device_id: 0 is not allowed, must be a number from 1 to %d: 0 is the host "
            "bridge",
            path, PCI_SLOT_MAX);
        return false;
    }
    return true;
}

const KumoSection kumo_pci_common_section = {
    .fields = pci_common_fields,
    .n_fields = G_N_ELEMENTS(pci_common_fields),
    .size = sizeof(KumoPciCommon),
    .validate = pci_common_validate,
};
