/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_migration_peer.h"

#include "driver/kumo_job.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_migration_peer");

/* A destination that says nothing for so long is gone. */
#define KUMO_PEER_KEEPALIVE_S     5
#define KUMO_PEER_KEEPALIVE_COUNT 5

/* What goes from step to step. */
typedef struct {
    virConnectPtr dconn;
    virTypedParameterPtr params;
    int nparams;
    int maxparams;
    char *cookie; /* that the last step gave */
    int cookieLen;
    char *uri; /* where the destination waits */
} kumoPeer;

static void kumoPeerClear(kumoPeer *peer)
{
    virTypedParamsFree(peer->params, peer->nparams);
    g_free(peer->cookie);
    g_free(peer->uri);
    g_clear_pointer(&peer->dconn, virObjectUnref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(kumoPeer, kumoPeerClear);

/* Hands the last step's cookie to the next one, which writes its own. */
static char *kumoPeerTakeCookie(kumoPeer *peer, int *len)
{
    *len = peer->cookieLen;
    peer->cookieLen = 0;
    return g_steal_pointer(&peer->cookie);
}

static int kumoPeerConnect(kumoPeer *peer, const char *dconnuri)
{
    int params;

    if (!(peer->dconn = virConnectOpenAuth(dconnuri, virConnectAuthPtrDefault, 0))) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("Failed to connect to remote libvirt URI %s: %s"), dconnuri,
                       virGetLastErrorMessage());
        return -1;
    }
    if (virConnectSetKeepAlive(peer->dconn, KUMO_PEER_KEEPALIVE_S, KUMO_PEER_KEEPALIVE_COUNT) < 0)
        return -1;
    params = VIR_DRV_SUPPORTS_FEATURE(peer->dconn->driver, peer->dconn,
                                      VIR_DRV_FEATURE_MIGRATION_PARAMS);
    if (params < 0)
        return -1;
    if (params == 0) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the destination %s does not support migration with parameters"),
                       dconnuri);
        return -1;
    }
    return 0;
}

static int kumoPeerAddString(kumoPeer *peer, const char *name, const char *value)
{
    if (!value)
        return 0;
    return virTypedParamsAddString(&peer->params, &peer->nparams, &peer->maxparams, name, value);
}

/* What the destination has to know of what the client asked for. */
static int kumoPeerFillParams(kumoPeer *peer, const kumoMigrationParams *params, const char *xml,
                              const char *name)
{
    if (kumoPeerAddString(peer, VIR_MIGRATE_PARAM_DEST_XML, xml) < 0 ||
        kumoPeerAddString(peer, VIR_MIGRATE_PARAM_DEST_NAME,
                          params->destName ? params->destName : name) < 0 ||
        kumoPeerAddString(peer, VIR_MIGRATE_PARAM_URI, params->uri) < 0 ||
        kumoPeerAddString(peer, VIR_MIGRATE_PARAM_LISTEN_ADDRESS, params->listenAddress) < 0)
        return -1;
    for (size_t i = 0; i < params->ncompression; i++) {
        if (kumoPeerAddString(peer, VIR_MIGRATE_PARAM_COMPRESSION, params->compression[i]) < 0)
            return -1;
    }
    if (params->connections &&
        virTypedParamsAddInt(&peer->params, &peer->nparams, &peer->maxparams,
                             VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, params->connections) < 0)
        return -1;
    return 0;
}

static int kumoPeerPrepare(kumoPeer *peer, virDomainObj *vm, unsigned int flags)
{
    int inLen;
    g_autofree char *in = kumoPeerTakeCookie(peer, &inLen);
    int rc;

    virObjectUnlock(vm);
    rc = peer->dconn->driver->domainMigratePrepare3Params(peer->dconn, peer->params, peer->nparams,
                                                          in, inLen, &peer->cookie,
                                                          &peer->cookieLen, &peer->uri, flags);
    virObjectLock(vm);
    return rc;
}

static int kumoPeerPerform(kumoPeer *peer, virDomainObj *vm, const kumoMigrationParams *params,
                           unsigned int flags)
{
    kumoMigrationParams how = *params;
    int inLen;
    g_autofree char *in = kumoPeerTakeCookie(peer, &inLen);
    kumoMigrationCookies cookies = { in, inLen, &peer->cookie, &peer->cookieLen };

    if (peer->uri)
        how.uri = peer->uri;
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    return kumoMigrationPerform(vm, &how, &cookies, flags);
}

/* Returns: whether the destination has the domain. */
static bool kumoPeerFinish(kumoPeer *peer, virDomainObj *vm, unsigned int flags, bool cancelled)
{
    int inLen;
    g_autofree char *in = kumoPeerTakeCookie(peer, &inLen);
    virDomainPtr ddomain;
    bool there;

    virObjectUnlock(vm);
    ddomain = peer->dconn->driver->domainMigrateFinish3Params(
        peer->dconn, peer->params, peer->nparams, in, inLen, &peer->cookie, &peer->cookieLen, flags,
        cancelled);
    virObjectLock(vm);
    there = ddomain != NULL;
    if (cancelled && there)
        VIR_ERROR(_("domain %s: the destination has it, though its migration failed here"),
                  vm->def->name);
    virObjectUnref(ddomain);
    return there;
}

/* All steps with a destination that is connected; @vm has the job. */
static int kumoPeerMigrate(kumoPeer *peer, virDomainObj *vm, const kumoMigrationParams *params,
                           unsigned int flags)
{
    kumoMigrationCookies first = { .out = &peer->cookie, .outLen = &peer->cookieLen };
    kumoMigrationCookies last = { 0 };
    g_autofree char *xml = kumoMigrationBegin(vm, params, &first, flags);
    virErrorPtr error = NULL;
    unsigned int destFlags;
    int rc = 0;

    if (!xml || kumoPeerFillParams(peer, params, xml, vm->def->name) < 0)
        return -1;
    if (virDomainObjGetState(vm, NULL) == VIR_DOMAIN_PAUSED)
        flags |= VIR_MIGRATE_PAUSED;
    destFlags = flags & ~(unsigned int)(VIR_MIGRATE_ABORT_ON_ERROR | VIR_MIGRATE_AUTO_CONVERGE);
    if (kumoPeerPrepare(peer, vm, destFlags) < 0)
        return -1;

    if (!(flags & VIR_MIGRATE_OFFLINE)) {
        rc = kumoPeerPerform(peer, vm, params, flags);
        virErrorPreserveLast(&error);
    }
    if (!kumoPeerFinish(peer, vm, destFlags, rc < 0) && rc == 0) {
        virErrorPreserveLast(&error);
        rc = -1;
    }
    last.in = peer->cookie;
    last.inLen = peer->cookieLen;
    if (kumoMigrationConfirm(vm, &last, flags, rc < 0) < 0 && rc == 0)
        rc = -1;
    else if (rc < 0)
        virErrorRestore(&error);
    else
        virFreeError(error);
    return rc;
}

int kumoMigrationPeer(virConnectPtr conn, virDomainObj *vm, const char *dconnuri,
                      const kumoMigrationParams *params, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_auto(kumoPeer) peer = { 0 };
    int rc;

    if (!dconnuri) {
        virReportError(VIR_ERR_INVALID_ARG, "%s",
                       _("a peer-to-peer migration needs the destination's URI"));
        return -1;
    }
    if (kumoJobBegin(vm, VIR_ASYNC_JOB_MIGRATION_OUT, VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
                     flags) < 0)
        return -1;
    virObjectUnlock(vm);
    rc = kumoPeerConnect(&peer, dconnuri);
    virObjectLock(vm);
    if (rc == 0)
        rc = kumoPeerMigrate(&peer, vm, params, flags);
    kumoJobEnd(vm);
    kumoDomainRemoveInactive(driver, vm);
    return rc;
}
