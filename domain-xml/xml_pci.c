/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every device on the PCI bus has. */
#include "domain-xml/xml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

void kumo_xml_pci(const virDomainDeviceInfo *info, KumoPciCommon *pci)
{
    g_free(pci->id);
    pci->id = g_strdup(info->alias);
    if (info->type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI)
        pci->pci_device_id = (int)info->addr.pci.slot;
}
