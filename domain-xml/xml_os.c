/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <os>: what is loaded into the guest. */
#include "domain-xml/xml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumo_xml_os(const virDomainDef *def, const char *firmware, KumoVmConfig *config)
{
    KumoPayloadConfig *payload = &config->payload;
    const virDomainOSDef *os = &def->os;

    if (os->kernel) {
        payload->kernel = g_strdup(os->kernel);
        payload->initramfs = g_strdup(os->initrd);
        payload->cmdline = g_strdup(os->cmdline);
        return 0;
    }

    if (os->loader && os->loader->path)
        firmware = os->loader->path;
    if (!firmware) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("/domain/os names neither a kernel nor a loader, and no firmware is "
                         "installed or set in kumo.conf"));
        return -1;
    }
    payload->firmware = g_strdup(firmware);
    return 0;
}
