/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_interface.h"

#include "domain_audit.h"
#include "driver/kumo_macvtap.h"
#include "driver/kumo_secondary.h"
#include "netdev_bandwidth_conf.h"
#include "virfile.h"
#include "virnetdev.h"
#include "virnetdevbandwidth.h"
#include "virnetdevbridge.h"
#include "virnetdevopenvswitch.h"
#include "virnetdevtap.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_interface");

#define KUMO_TUN_PATH "/dev/net/tun"

void kumoTapsFree(kumoTaps *taps)
{
    if (!taps)
        return;
    for (size_t i = 0; i < taps->nfds; i++)
        VIR_FORCE_CLOSE(taps->fds[i]);
    g_free(taps->fds);
    g_free(taps);
}

static kumoTaps *kumoTapsNew(size_t nfds)
{
    kumoTaps *taps = g_new0(kumoTaps, 1);

    taps->fds = g_new(int, nfds);
    taps->nfds = nfds;
    for (size_t i = 0; i < nfds; i++)
        taps->fds[i] = -1;
    return taps;
}

void kumoTapsAnnounce(const kumoTaps *taps, KumoNetConfig *config)
{
    const int missing = -1;

    config->fds = g_array_new(FALSE, FALSE, sizeof(int));
    for (size_t i = 0; i < taps->nfds; i++)
        g_array_append_val(config->fds, missing);
}

/* A tap of our own with a MAC address that is not the guest's: the bridge would mistake the two. */
static int kumoInterfaceSetTapMac(const virDomainNetDef *net)
{
    virMacAddr mac;

    virMacAddrSet(&mac, &net->mac);
    mac.addr[0] = mac.addr[0] == 0xfe ? 0xfa : 0xfe;
    return virNetDevSetMAC(net->ifname, &mac);
}

static int kumoInterfaceOpenEthernet(virDomainNetDef *net, kumoTaps *taps)
{
    unsigned int flags = VIR_NETDEV_TAP_CREATE_IFUP | VIR_NETDEV_TAP_CREATE_VNET_HDR;

    if (net->managed_tap == VIR_TRISTATE_BOOL_NO) {
        if (virNetDevExists(net->ifname) != 1) {
            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("interface %s has target managed='no', but there is no such device"),
                           net->ifname);
            return -1;
        }
        flags |= VIR_NETDEV_TAP_CREATE_ALLOW_EXISTING;
        return virNetDevTapCreate(&net->ifname, KUMO_TUN_PATH, taps->fds, taps->nfds, flags);
    }

    if (virNetDevTapCreate(&net->ifname, KUMO_TUN_PATH, taps->fds, taps->nfds, flags) < 0 ||
        kumoInterfaceSetTapMac(net) < 0)
        return -1;
    if (net->mtu && virNetDevSetMTU(net->ifname, net->mtu) < 0)
        return -1;
    return virNetDevSetOnline(net->ifname, true);
}

/* A network may leave the bridge's table of addresses to libvirt. */
static int kumoInterfaceSetTable(const virDomainNetDef *net, const char *bridge)
{
    if (virDomainNetGetActualBridgeMACTableManager((virDomainNetDef *)net) !=
        VIR_NETWORK_BRIDGE_MAC_TABLE_MANAGER_LIBVIRT)
        return 0;
    if (virNetDevBridgePortSetLearning(bridge, net->ifname, false) < 0 ||
        virNetDevBridgePortSetUnicastFlood(bridge, net->ifname, false) < 0)
        return -1;
    return virNetDevBridgeFDBAdd(&net->mac, net->ifname,
                                 VIR_NETDEVBRIDGE_FDB_FLAG_MASTER | VIR_NETDEVBRIDGE_FDB_FLAG_TEMP);
}

static int kumoInterfaceOpenBridge(virDomainDef *def, virDomainNetDef *net, kumoTaps *taps)
{
    const char *bridge = virDomainNetGetActualBridgeName(net);

    if (!bridge) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("the interface has no bridge"));
        return -1;
    }
    if (virNetDevTapCreateInBridgePort(
            bridge, &net->ifname, &net->mac, def->uuid, KUMO_TUN_PATH, taps->fds, taps->nfds,
            virDomainNetGetActualVirtPortProfile(net), virDomainNetGetActualVlan(net),
            virDomainNetGetActualPortOptionsIsolated(net), NULL, net->mtu, NULL,
            VIR_NETDEV_TAP_CREATE_IFUP | VIR_NETDEV_TAP_CREATE_VNET_HDR) < 0)
        return -1;

    return kumoInterfaceSetTable(net, bridge);
}

static int kumoInterfaceOpen(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net,
                             kumoTaps *taps)
{
    virDomainNetType type = virDomainNetGetActualType(net);
    const virNetDevBandwidth *bandwidth = virDomainNetGetActualBandwidth(net);
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);

    switch ((int)type) {
    case VIR_DOMAIN_NET_TYPE_BRIDGE:
    case VIR_DOMAIN_NET_TYPE_NETWORK:
        if (kumoInterfaceOpenBridge(def, net, taps) < 0)
            return -1;
        break;
    case VIR_DOMAIN_NET_TYPE_ETHERNET:
        if (kumoInterfaceOpenEthernet(net, taps) < 0)
            return -1;
        break;
    case VIR_DOMAIN_NET_TYPE_DIRECT:
        if (kumoMacvtapOpen(def, net, cfg->stateDir, taps->fds, taps->nfds) < 0)
            return -1;
        break;
    default:
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("an interface of type %s is not supported by kumo"),
                       virDomainNetTypeToString(type));
        return -1;
    }

    for (size_t i = 0; i < taps->nfds; i++) {
        if (virSecurityManagerSetTapFDLabel(driver->security, def, taps->fds[i]) < 0)
            return -1;
    }
    if (bandwidth && kumoCompatNetBandwidthSet(net, bandwidth) < 0)
        return -1;
    return net->filter ? kumoSecondaryFilter(driver, def, net, false) : 0;
}

static bool kumoInterfaceIsDirect(const virDomainNetDef *net)
{
    return virDomainNetGetActualType(net) == VIR_DOMAIN_NET_TYPE_DIRECT;
}

int kumoInterfaceClaim(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    virErrorPtr saved = NULL;

    if (net->type == VIR_DOMAIN_NET_TYPE_NETWORK) {
        virConnectPtr conn = kumoSecondaryNetwork(driver);
        int rc = conn ? virDomainNetAllocateActualDevice(conn, def, net) : -1;

        kumoSecondaryNetworkDone(conn);
        if (rc < 0)
            return -1;
    }
    if (kumoInterfaceIsDirect(net) && kumoMacvtapClaim(net, cfg->stateDir) < 0) {
        virErrorPreserveLast(&saved);
        kumoInterfaceRelease(driver, def, net);
        virErrorRestore(&saved);
        return -1;
    }
    /* A name that libvirt made up for an earlier run is made up anew. */
    if (net->ifname && STRPREFIX(net->ifname, "vnet"))
        g_clear_pointer(&net->ifname, g_free);
    return 0;
}

kumoTaps *kumoInterfaceConnect(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net)
{
    g_autoptr(kumoTaps) taps = kumoTapsNew(MAX(net->driver.virtio.queues, 1));
    virErrorPtr saved = NULL;

    if (kumoInterfaceOpen(driver, def, net, taps) < 0) {
        virErrorPreserveLast(&saved);
        virDomainAuditNetDevice(def, net, KUMO_TUN_PATH, false);
        virErrorRestore(&saved);
        return NULL;
    }
    virDomainAuditNetDevice(def, net, KUMO_TUN_PATH, true);
    return g_steal_pointer(&taps);
}

void kumoInterfaceRelease(kumoDriver *driver, virDomainDef *def G_GNUC_UNUSED, virDomainNetDef *net)
{
    const virNetDevVPortProfile *port = virDomainNetGetActualVirtPortProfile(net);
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);

    if (net->filter && net->ifname)
        kumoSecondaryFilterRemove(driver, net);
    if (net->ifname && virNetDevExists(net->ifname) == 1 && virDomainNetGetActualBandwidth(net) &&
        virNetDevBandwidthClear(net->ifname) < 0)
        VIR_WARN("bandwidth limits of %s could not be cleared", net->ifname);

    /* A tap that is not persistent goes with its last descriptor, but a switch keeps the port. */
    if (net->ifname && port && port->virtPortType == VIR_NETDEV_VPORT_PROFILE_OPENVSWITCH) {
#if KUMO_LIBVIRT_11_3
        ignore_value(virNetDevOpenvswitchRemovePort(net->ifname));
#else
        ignore_value(
            virNetDevOpenvswitchRemovePort(virDomainNetGetActualBridgeName(net), net->ifname));
#endif
    }

    if (kumoInterfaceIsDirect(net))
        kumoMacvtapDelete(net, cfg->stateDir);

    if (net->type == VIR_DOMAIN_NET_TYPE_NETWORK && net->data.network.actual) {
        virConnectPtr conn = kumoSecondaryNetwork(driver);

        if (conn)
            kumoCompatNetReleaseActual(conn, def, net);
        else
            VIR_WARN("the network port of %s could not be released", net->ifname);
        kumoSecondaryNetworkDone(conn);
    }
}

/* After an attempt to set others the limits are those of the definition again. */
static void kumoInterfaceRestoreBandwidth(const virDomainNetDef *net)
{
    const virNetDevBandwidth *bandwidth = virDomainNetGetActualBandwidth(net);
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    if (bandwidth)
        ignore_value(kumoCompatNetBandwidthSet(net, bandwidth));
    else
        ignore_value(virNetDevBandwidthClear(net->ifname));
    virErrorRestore(&saved);
}

int kumoInterfaceSetBandwidth(virDomainNetDef *net, const virNetDevBandwidth *bandwidth)
{
    g_autoptr(virNetDevBandwidth) copy = NULL;
    g_autoptr(virNetDevBandwidth) actual = NULL;

    if (virNetDevBandwidthCopy(&copy, bandwidth) < 0 ||
        virNetDevBandwidthCopy(&actual, bandwidth) < 0)
        return -1;
    if (bandwidth && (bandwidth->in || bandwidth->out)) {
        if (kumoCompatNetBandwidthSet(net, bandwidth) < 0) {
            kumoInterfaceRestoreBandwidth(net);
            return -1;
        }
    } else if (virNetDevBandwidthClear(net->ifname) < 0) {
        return -1;
    }
    virNetDevBandwidthFree(net->bandwidth);
    net->bandwidth = g_steal_pointer(&copy);
    /* What the network said at the start, if it is one's. */
    if (net->type == VIR_DOMAIN_NET_TYPE_NETWORK && net->data.network.actual) {
        virNetDevBandwidthFree(net->data.network.actual->bandwidth);
        net->data.network.actual->bandwidth = g_steal_pointer(&actual);
    }
    return 0;
}

int kumoInterfaceOnline(const virDomainNetDef *net)
{
    return kumoInterfaceIsDirect(net) ? kumoMacvtapOnline(net) : 0;
}

int kumoInterfacesOnline(const virDomainDef *def)
{
    for (size_t i = 0; i < def->nnets; i++) {
        if (kumoInterfaceOnline(def->nets[i]) < 0)
            return -1;
    }
    return 0;
}

void kumoInterfacesOffline(const virDomainDef *def)
{
    for (size_t i = 0; i < def->nnets; i++) {
        if (!kumoInterfaceIsDirect(def->nets[i]) || kumoMacvtapOffline(def->nets[i]) == 0)
            continue;
        VIR_WARN("domain %s: %s could not be taken off line: %s", def->name, def->nets[i]->ifname,
                 virGetLastErrorMessage());
        virResetLastError();
    }
}

int kumoInterfacesClaim(kumoDriver *driver, virDomainDef *def)
{
    for (size_t i = 0; i < def->nnets; i++) {
        if (kumoInterfaceClaim(driver, def, def->nets[i]) == 0)
            continue;
        /* What was not claimed is not released: its name may be that of another's device. */
        for (size_t k = i; k < def->nnets; k++) {
            if (kumoInterfaceIsDirect(def->nets[k]))
                g_clear_pointer(&def->nets[k]->ifname, g_free);
        }
        return -1;
    }
    return 0;
}

GPtrArray *kumoInterfacesConnect(kumoDriver *driver, virDomainDef *def)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)kumoTapsFree);

    for (size_t i = 0; i < def->nnets; i++) {
        kumoTaps *taps = kumoInterfaceConnect(driver, def, def->nets[i]);

        if (!taps)
            return NULL;
        g_ptr_array_add(all, taps);
    }
    return g_steal_pointer(&all);
}

void kumoInterfacesRelease(kumoDriver *driver, virDomainDef *def)
{
    for (size_t i = 0; i < def->nnets; i++)
        kumoInterfaceRelease(driver, def, def->nets[i]);
}

/*
 * A network that was stopped and started meanwhile has a new bridge, and knows no port: its port is
 * claimed anew, and the tap put into the bridge where it is in no other's.
 */
static int kumoInterfaceReattach(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net)
{
    virDomainNetType type = virDomainNetGetActualType(net);
    bool bridged = type == VIR_DOMAIN_NET_TYPE_BRIDGE || type == VIR_DOMAIN_NET_TYPE_NETWORK;
    g_autofree char *before = NULL;
    virConnectPtr conn = NULL;

    if (bridged && virNetDevGetMaster(net->ifname, &before) < 0)
        return -1;
    /* The call reports no failure but by the thread's error. Without a connection, it does what it
     * can: the bridge is known. */
    virResetLastError();
    if (net->type == VIR_DOMAIN_NET_TYPE_NETWORK)
        conn = kumoSecondaryNetwork(driver);
    virDomainNetNotifyActualDevice(conn, def, net);
    kumoSecondaryNetworkDone(conn);
    if (virGetLastErrorCode() != VIR_ERR_OK)
        return -1;
    if (bridged && STRNEQ_NULLABLE(before, virDomainNetGetActualBridgeName(net)))
        return kumoInterfaceSetTable(net, virDomainNetGetActualBridgeName(net));
    return 0;
}

void kumoInterfacesReconnect(kumoDriver *driver, virDomainDef *def)
{
    for (size_t i = 0; i < def->nnets; i++) {
        virDomainNetDef *net = def->nets[i];
        const virNetDevBandwidth *bandwidth;

        if (!net->ifname || virNetDevExists(net->ifname) != 1)
            continue;
        if (kumoInterfaceReattach(driver, def, net) < 0) {
            VIR_WARN("domain %s: %s could not be put back into its network: %s", def->name,
                     net->ifname, virGetLastErrorMessage());
            virResetLastError();
        }
        bandwidth = virDomainNetGetActualBandwidth(net);
        if (bandwidth && kumoCompatNetBandwidthSet(net, bandwidth) < 0) {
            VIR_WARN("domain %s: the bandwidth limits of %s could not be set: %s", def->name,
                     net->ifname, virGetLastErrorMessage());
            virResetLastError();
        }
        if (net->filter && kumoSecondaryFilter(driver, def, net, true) < 0) {
            VIR_WARN("domain %s: the filter of %s could not be put to work: %s", def->name,
                     net->ifname, virGetLastErrorMessage());
            virResetLastError();
        }
    }
}
