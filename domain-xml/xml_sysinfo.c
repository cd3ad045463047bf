/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <sysinfo> and <uuid>: what the guest reads in SMBIOS. */
#include "domain-xml/xml.h"

#include "viruuid.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static void replace(char **to, const char *from)
{
    if (!from)
        return;
    g_free(*to);
    *to = g_strdup(from);
}

int kumo_xml_sysinfo(const virDomainDef *def, KumoVmConfig *config)
{
    KumoPlatformConfig *platform = &config->platform;
    char uuid[VIR_UUID_STRING_BUFLEN];

    virUUIDFormat(def->uuid, uuid);
    replace(&platform->system_uuid, uuid);

    /* As with other drivers, <sysinfo> alone has no effect: <os><smbios mode='sysinfo'/> puts it to
     * use. */
    if (def->os.smbios_mode != VIR_DOMAIN_SMBIOS_SYSINFO)
        return 0;

    for (size_t i = 0; i < def->nsysinfo; i++) {
        const virSysinfoDef *info = def->sysinfo[i];

        if (info->system) {
            replace(&platform->system_manufacturer, info->system->manufacturer);
            replace(&platform->system_product_name, info->system->product);
            replace(&platform->system_version, info->system->version);
            replace(&platform->system_serial_number, info->system->serial);
            replace(&platform->system_uuid, info->system->uuid);
            replace(&platform->system_sku_number, info->system->sku);
            replace(&platform->system_family, info->system->family);
        }
        if (info->chassis)
            replace(&platform->chassis_asset_tag, info->chassis->asset);
        for (size_t j = 0; info->oemStrings && j < info->oemStrings->nvalues; j++)
            g_ptr_array_add(platform->oem_strings, g_strdup(info->oemStrings->values[j]));
    }
    return 0;
}
