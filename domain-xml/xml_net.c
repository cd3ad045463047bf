/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <interface>. The tap is made and opened by the driver. */
#include "domain-xml/xml.h"

#include "virmacaddr.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

KumoNetConfig *kumo_xml_net(const virDomainNetDef *net)
{
    g_autoptr(KumoNetConfig) config = kumo_net_config_new();
    char mac[VIR_MAC_STRING_BUFLEN];
    unsigned int queue_size =
        MAX(net->driver.virtio.rx_queue_size, net->driver.virtio.tx_queue_size);

    kumo_xml_pci(&net->info, &config->pci);
    config->mac = g_strdup(virMacAddrFormat(&net->mac, mac));
    config->mtu = net->mtu;
    config->link_up = net->linkstate != VIR_DOMAIN_NET_INTERFACE_LINK_STATE_DOWN;
    /* libvirt counts pairs of queues. */
    if (net->driver.virtio.queues)
        config->num_queues = 2 * net->driver.virtio.queues;
    if (queue_size)
        config->queue_size = queue_size;
    return g_steal_pointer(&config);
}
