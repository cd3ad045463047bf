/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_macvtap.h"

#include "virfile.h"
#include "virnetdev.h"
#include "virnetdevmacvlan.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_macvtap");

/* What the definition may not have is refused with it; this is of what a network adds. */
static int kumoMacvtapRefuse(const virDomainNetDef *net)
{
    const virNetDevVPortProfile *port = virDomainNetGetActualVirtPortProfile(net);
    const virNetDevVlan *vlan = virDomainNetGetActualVlan(net);
    const char *what = NULL;

    if (port && port->virtPortType != VIR_NETDEV_VPORT_PROFILE_NONE)
        what = "virtualport";
    else if (vlan && vlan->nTags > 0)
        what = "vlan";
    else if (virDomainNetGetActualTrustGuestRxFilters(net))
        what = "trustGuestRxFilters";
    else if (net->filter)
        what = "filterref";
    if (!what)
        return 0;
    virReportError(
        VIR_ERR_CONFIG_UNSUPPORTED,
        _("%s of a network whose interfaces are of type direct is not supported by kumo"), what);
    return -1;
}

static int kumoMacvtapCheckDevice(const virDomainNetDef *net, const char *stateDir)
{
    const char *device = virDomainNetGetActualDirectDev(net);
    g_autofree char *kept = NULL;
    int exists;

    if (!device || (exists = virNetDevExists(device)) == 0) {
        virReportError(VIR_ERR_OPERATION_FAILED, _("there is no network device %s on this host"),
                       NULLSTR(device));
        return -1;
    }
    if (exists < 0)
        return -1;

    /* A second one would take the first guest's address for the device's own. */
    kept = g_strdup_printf("%s/%s", stateDir, device);
    if (virDomainNetGetActualDirectMode(net) == VIR_NETDEV_MACVLAN_MODE_PASSTHRU &&
        virFileExists(kept)) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("network device %s is already passed through to a domain"), device);
        return -1;
    }
    return 0;
}

static int kumoMacvtapChooseName(virDomainNetDef *net)
{
    int exists;

    /* A name that libvirt made up for an earlier run is made up anew. */
    if (net->ifname && STRPREFIX(net->ifname, VIR_NET_GENERATED_MACVTAP_PREFIX))
        g_clear_pointer(&net->ifname, g_free);
    if (virNetDevGenerateName(&net->ifname, VIR_NET_DEV_GEN_NAME_MACVTAP) < 0 ||
        (exists = virNetDevExists(net->ifname)) < 0)
        return -1;
    if (exists) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("there is already a network device %s on this host"), net->ifname);
        return -1;
    }
    return 0;
}

int kumoMacvtapClaim(virDomainNetDef *net, const char *stateDir)
{
    if (kumoMacvtapRefuse(net) < 0 || kumoMacvtapCheckDevice(net, stateDir) < 0 ||
        kumoMacvtapChooseName(net) < 0) {
        g_clear_pointer(&net->ifname, g_free);
        return -1;
    }
    return 0;
}

int kumoMacvtapOpen(const virDomainDef *def, virDomainNetDef *net, char *stateDir, int *fds,
                    size_t nfds)
{
    g_autofree char *made = NULL;

    if (virNetDevMacVLanCreateWithVPortProfile(
            net->ifname, &net->mac, virDomainNetGetActualDirectDev(net),
            virDomainNetGetActualDirectMode(net), NULL, def->uuid, NULL, &made,
            VIR_NETDEV_VPORT_PROFILE_OP_CREATE, stateDir, fds, nfds,
            VIR_NETDEV_MACVLAN_CREATE_WITH_TAP | VIR_NETDEV_MACVLAN_VNET_HDR) < 0)
        return -1;
    for (size_t i = 0; i < nfds; i++) {
        if (virSetInherit(fds[i], false) < 0) {
            virReportSystemError(errno, _("cannot set flags of the descriptor of %s"), net->ifname);
            return -1;
        }
    }
    return net->mtu ? virNetDevSetMTU(net->ifname, net->mtu) : 0;
}

int kumoMacvtapOnline(const virDomainNetDef *net)
{
    const char *device = virDomainNetGetActualDirectDev(net);
    bool online;

    /* Up already, it is left alone: on some hardware that would interrupt the link. */
    if (virNetDevGetOnline(device, &online) < 0 ||
        (!online && virNetDevSetOnline(device, true) < 0))
        return -1;
    return virNetDevSetOnline(net->ifname, true);
}

int kumoMacvtapOffline(const virDomainNetDef *net)
{
    return virNetDevSetOnline(net->ifname, false);
}

/* Of a device that is passed through the macvtap has the address, whatever that is by now. */
static bool kumoMacvtapIsOurs(const virDomainNetDef *net)
{
    virMacAddr mac;

    if (virNetDevExists(net->ifname) != 1 || !virNetDevMacVLanIsMacvtap(net->ifname))
        return false;
    return virDomainNetGetActualDirectMode(net) == VIR_NETDEV_MACVLAN_MODE_PASSTHRU ||
           (virNetDevGetMAC(net->ifname, &mac) == 0 && virMacAddrCmp(&mac, &net->mac) == 0);
}

static void kumoMacvtapRestoreDevice(const char *device, const char *stateDir)
{
    g_autofree virMacAddr *adminMac = NULL;
    g_autofree virMacAddr *mac = NULL;
    g_autoptr(virNetDevVlan) vlan = NULL;

    if (virNetDevReadNetConfig(device, -1, stateDir, &adminMac, &vlan, &mac) < 0 ||
        ((adminMac || vlan || mac) &&
         virNetDevSetNetConfig(device, -1, adminMac, vlan, mac, vlan != NULL) < 0))
        VIR_WARN("the address of %s could not be restored: %s", device, virGetLastErrorMessage());
}

/*
 * libvirt's own counterpart of what made the device also ends a watch for messages of a switch,
 * which only a virtualport has. It needs a service that programs with an embedded driver do not
 * run.
 */
void kumoMacvtapDelete(virDomainNetDef *net, const char *stateDir)
{
    virErrorPtr saved = NULL;

    if (!net->ifname)
        return;
    virErrorPreserveLast(&saved);
    if (kumoMacvtapIsOurs(net) && virNetDevMacVLanDelete(net->ifname) < 0)
        VIR_WARN("%s could not be removed: %s", net->ifname, virGetLastErrorMessage());
    if (virDomainNetGetActualDirectMode(net) == VIR_NETDEV_MACVLAN_MODE_PASSTHRU)
        kumoMacvtapRestoreDevice(virDomainNetGetActualDirectDev(net), stateDir);
    g_clear_pointer(&net->ifname, g_free);
    virErrorRestore(&saved);
}
