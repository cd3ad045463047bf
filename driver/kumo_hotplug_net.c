/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_hotplug_net.h"

#include "domain-xml/xml.h"
#include "domain_audit.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_refuse.h"
#include "driver/kumo_interface.h"
#include "driver/kumo_monitor.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static kumoDriver *kumoDriverOf(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    return priv->driver;
}

static void kumoHotplugUndoNet(virDomainObj *vm, virDomainDeviceDef *dev, virDomainNetDef *net)
{
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    virDomainNetRemoveByObj(vm->def, net);
    kumoInterfaceRelease(kumoDriverOf(vm), vm->def, net);
    kumoDomainSaveStatus(vm);
    virErrorRestore(&saved);
    dev->data.net = net;
}

int kumoHotplugAttachNet(virDomainObj *vm, virDomainDeviceDef *dev)
{
    virDomainNetDef *net = dev->data.net;
    g_autoptr(KumoNetConfig) config = NULL;
    g_autoptr(kumoTaps) taps = NULL;
    kumoMonitor *mon;
    int rc;

    if (kumoAssignDevice(vm->def, dev) < 0 || !(config = kumo_xml_net(net)) ||
        kumoInterfaceClaim(kumoDriverOf(vm), vm->def, net) < 0)
        return -1;

    /* Noted first, as with disks. */
    if (kumoCompatNetInsert(vm->def, net) < 0) {
        kumoInterfaceRelease(kumoDriverOf(vm), vm->def, net);
        return -1;
    }
    dev->data.net = NULL;
    kumoDomainSaveStatus(vm);
    taps = kumoInterfaceConnect(kumoDriverOf(vm), vm->def, net);
    if (!taps || kumoInterfaceOnline(net) < 0) {
        kumoHotplugUndoNet(vm, dev, net);
        return -1;
    }
    kumoDomainSaveStatus(vm);
    kumoTapsAnnounce(taps, config);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorAddNet(mon, config, taps->fds, taps->nfds);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        rc = -1;
    virDomainAuditNet(vm, NULL, net, "attach", rc == 0);
    if (rc < 0)
        kumoHotplugUndoNet(vm, dev, net);
    return rc < 0 ? -1 : 0;
}

void kumoHotplugRemoveNet(virDomainObj *vm, virDomainNetDef *net)
{
    virDomainNetRemoveByObj(vm->def, net);
    kumoInterfaceRelease(kumoDriverOf(vm), vm->def, net);
    virDomainAuditNet(vm, net, NULL, "detach", true);
    virDomainNetDefFree(net);
}

/* Returns: (nullable): what of the host the interface is connected to, by its definition. */
static const char *kumoHotplugNetSource(const virDomainNetDef *net)
{
    switch ((int)net->type) {
    case VIR_DOMAIN_NET_TYPE_NETWORK:
        return net->data.network.name;
    case VIR_DOMAIN_NET_TYPE_BRIDGE:
        return net->data.bridge.brname;
    case VIR_DOMAIN_NET_TYPE_DIRECT:
        return net->data.direct.linkdev;
    default:
        return NULL;
    }
}

static int kumoHotplugCompareNets(const virDomainNetDef *old, const virDomainNetDef *new)
{
    bool bothDirect =
        old->type == VIR_DOMAIN_NET_TYPE_DIRECT && new->type == VIR_DOMAIN_NET_TYPE_DIRECT;
    const kumoDifference items[] = {
        { old->type != new->type, "the type" },
        { virMacAddrCmp(&old->mac, &new->mac) != 0, "the MAC address" },
        { old->model != new->model, "the model" },
        { STRNEQ_NULLABLE(kumoHotplugNetSource(old), kumoHotplugNetSource(new)), "the source" },
        { bothDirect && old->data.direct.mode != new->data.direct.mode, "the mode" },
        { new->ifname &&STRNEQ_NULLABLE(old->ifname, new->ifname), "the target" },
        { old->mtu != new->mtu, "the MTU" },
        { old->driver.virtio.queues != new->driver.virtio.queues, "the number of queues" },
        { old->driver.virtio.rx_queue_size != new->driver.virtio.rx_queue_size ||
              old->driver.virtio.tx_queue_size != new->driver.virtio.tx_queue_size,
          "the size of the queues" },
        { !virNetDevVlanEqual(&old->vlan, &new->vlan), "the VLAN" },
        { STRNEQ_NULLABLE(old->filter, new->filter) ||
              !virNWFilterHashTableEqual(old->filterparams, new->filterparams),
          "the filter" },
        { new->info.type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI &&
              !virPCIDeviceAddressEqual(&old->info.addr.pci, &new->info.addr.pci),
          "the PCI address" },
    };

    return kumoRefuseChanges(old->info.alias, items, G_N_ELEMENTS(items));
}

static int kumoHotplugSetLink(virDomainObj *vm, virDomainNetDef *net,
                              virDomainNetInterfaceLinkState state)
{
    bool up = state != VIR_DOMAIN_NET_INTERFACE_LINK_STATE_DOWN;
    g_autofree char *alias = g_strdup(net->info.alias);
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorUpdateNet(mon, json_pack("{s:s, s:b}", "id", alias, "link_up", up));

    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    net->linkstate = state;
    return 0;
}

int kumoHotplugUpdateNet(virDomainObj *vm, const virDomainNetDef *new)
{
    int idx = virDomainNetFindIdx(vm->def, (virDomainNetDef *)new);
    virDomainNetDef *old;

    if (idx < 0)
        return -1;
    old = vm->def->nets[idx];
    if (kumoHotplugCompareNets(old, new) < 0)
        return -1;

    if (!virNetDevBandwidthEqual(virDomainNetGetActualBandwidth(old), new->bandwidth) &&
        kumoInterfaceSetBandwidth(old, new->bandwidth) < 0)
        return -1;
    /* Without a word about it the link is up. */
    if ((old->linkstate == VIR_DOMAIN_NET_INTERFACE_LINK_STATE_DOWN) !=
            (new->linkstate == VIR_DOMAIN_NET_INTERFACE_LINK_STATE_DOWN) &&
        kumoHotplugSetLink(vm, old, new->linkstate) < 0)
        return -1;
    old->linkstate = new->linkstate;
    return 0;
}
