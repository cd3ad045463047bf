/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What others ask an agent within the guest. kumo has no channel to one: the answers are those that
 * libvirt's QEMU driver gives for a domain without. Tools know them and go on. The host name is the
 * exception: the network may know it.
 */
#include "driver/kumo_driver.h"

#include "driver/kumo_secondary.h"
#include "viraccessapicheck.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoReportNoAgent(virDomainObj *vm)
{
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_RUNNING)
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("domain is not running"));
    else
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, "%s",
                       _("a guest agent is not configured, kumo has no channel for one"));
    return -1;
}

static int kumoAskAgent(virDomainPtr dom, int (*ensureACL)(virConnectPtr conn, virDomainDef *def))
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);

    if (vm && ensureACL(dom->conn, vm->def) >= 0)
        ignore_value(kumoReportNoAgent(vm));
    virDomainObjEndAPI(&vm);
    return -1;
}

int kumoDomainGetTime(virDomainPtr dom, long long *seconds G_GNUC_UNUSED,
                      unsigned int *nseconds G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainGetTimeEnsureACL);
}

int kumoDomainSetTime(virDomainPtr dom, long long seconds G_GNUC_UNUSED,
                      unsigned int nseconds G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(VIR_DOMAIN_TIME_SYNC, -1);
    return kumoAskAgent(dom, virDomainSetTimeEnsureACL);
}

int kumoDomainSetUserPassword(virDomainPtr dom, const char *user G_GNUC_UNUSED,
                              const char *password G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(VIR_DOMAIN_PASSWORD_ENCRYPTED, -1);
    return kumoAskAgent(dom, virDomainSetUserPasswordEnsureACL);
}

int kumoDomainFSFreeze(virDomainPtr dom, const char **mountpoints G_GNUC_UNUSED,
                       unsigned int nmountpoints G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainFSFreezeEnsureACL);
}

int kumoDomainFSThaw(virDomainPtr dom, const char **mountpoints G_GNUC_UNUSED,
                     unsigned int nmountpoints G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainFSThawEnsureACL);
}

int kumoDomainFSTrim(virDomainPtr dom, const char *mountpoint G_GNUC_UNUSED,
                     unsigned long long minimum G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainFSTrimEnsureACL);
}

int kumoDomainGetFSInfo(virDomainPtr dom, virDomainFSInfoPtr **info G_GNUC_UNUSED,
                        unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainGetFSInfoEnsureACL);
}

int kumoDomainGetGuestVcpus(virDomainPtr dom, virTypedParameterPtr *params G_GNUC_UNUSED,
                            unsigned int *nparams G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainGetGuestVcpusEnsureACL);
}

int kumoDomainSetGuestVcpus(virDomainPtr dom, const char *cpumap G_GNUC_UNUSED,
                            int state G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainSetGuestVcpusEnsureACL);
}

int kumoDomainAuthorizedSSHKeysGet(virDomainPtr dom, const char *user G_GNUC_UNUSED,
                                   char ***keys G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainAuthorizedSshKeysGetEnsureACL);
}

int kumoDomainAuthorizedSSHKeysSet(virDomainPtr dom, const char *user G_GNUC_UNUSED,
                                   const char **keys G_GNUC_UNUSED,
                                   unsigned int nkeys G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(
        VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND | VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_REMOVE, -1);
    return kumoAskAgent(dom, virDomainAuthorizedSshKeysSetEnsureACL);
}

/* To be awake the guest would have to say that it sleeps. */
int kumoDomainPMSuspendForDuration(virDomainPtr dom, unsigned int target G_GNUC_UNUSED,
                                   unsigned long long duration G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainPMSuspendForDurationEnsureACL);
}

int kumoDomainGetGuestInfo(virDomainPtr dom, unsigned int types G_GNUC_UNUSED,
                           virTypedParameterPtr *params G_GNUC_UNUSED, int *nparams G_GNUC_UNUSED,
                           unsigned int flags)
{
    virCheckFlags(0, -1);
    return kumoAskAgent(dom, virDomainGetGuestInfoEnsureACL);
}

/* How long an agent may take. Nobody is asked, so it takes any time that there is. */
int kumoDomainAgentSetResponseTimeout(virDomainPtr dom, int timeout, unsigned int flags)
{
    virDomainObj *vm;
    int ret;

    virCheckFlags(0, -1);

    if (timeout < VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK) {
        virReportError(VIR_ERR_INVALID_ARG, _("the timeout %d is less than the least one, %d"),
                       timeout, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
        return -1;
    }
    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    ret = virDomainAgentSetResponseTimeoutEnsureACL(dom->conn, vm->def);
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- the host name --- */

/* Returns: (transfer full): the name in a lease of @net, or NULL. An error is reported. */
static char *kumoLeaseHostname(virConnectPtr conn, const virDomainNetDef *net)
{
    g_autoptr(virNetwork) network = virNetworkLookupByName(conn, net->data.network.name);
    char mac[VIR_MAC_STRING_BUFLEN];
    virNetworkDHCPLeasePtr *leases = NULL;
    char *name = NULL;
    int n;

    if (!network ||
        (n = virNetworkGetDHCPLeases(network, virMacAddrFormat(&net->mac, mac), &leases, 0)) < 0)
        return NULL;
    for (int i = 0; i < n; i++) {
        if (!name)
            name = g_strdup(leases[i]->hostname);
        virNetworkDHCPLeaseFree(leases[i]);
    }
    g_free(leases);
    return name;
}

static char *kumoHostnameByLease(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virConnectPtr conn;
    char *name = NULL;

    if (virDomainObjCheckActive(vm) < 0)
        return NULL;
    if (!(conn = kumoSecondaryNetwork(priv->driver)))
        return NULL;
    for (size_t i = 0; i < vm->def->nnets && !name; i++) {
        if (vm->def->nets[i]->type == VIR_DOMAIN_NET_TYPE_NETWORK)
            name = kumoLeaseHostname(conn, vm->def->nets[i]);
    }
    if (!name && virGetLastErrorCode() == VIR_ERR_OK)
        virReportError(VIR_ERR_NO_HOSTNAME, _("no hostname found for domain %s"), vm->def->name);
    kumoSecondaryNetworkDone(conn);
    return name;
}

char *kumoDomainGetHostname(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    char *ret = NULL;

    virCheckFlags(VIR_DOMAIN_GET_HOSTNAME_LEASE | VIR_DOMAIN_GET_HOSTNAME_AGENT, NULL);
    VIR_EXCLUSIVE_FLAGS_RET(VIR_DOMAIN_GET_HOSTNAME_LEASE, VIR_DOMAIN_GET_HOSTNAME_AGENT, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainGetHostnameEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (!(flags & VIR_DOMAIN_GET_HOSTNAME_LEASE)) {
        ignore_value(kumoReportNoAgent(vm));
        goto cleanup;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_QUERY) < 0)
        goto cleanup;
    ret = kumoHostnameByLease(vm);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
