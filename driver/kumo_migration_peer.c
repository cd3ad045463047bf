/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_migration_peer.h"

#include "driver/kumo_job.h"
#include "driver/kumo_job_call.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_migration_peer");

/*
 * What goes from step to step: for the thread that has the job, and, while it waits for one, for
 * that of the call. A call that it does not wait for any more has it alone.
 */
typedef struct {
    char *daemonUri;
    int keepaliveIntervalS;
    unsigned int keepaliveCount;

    virConnectPtr dconn;
    virTypedParameterPtr params;
    int nparams;
    int maxparams;
    unsigned int flags; /* as the destination gets them */
    bool cancelled;
    bool there;   /* the destination has the domain */
    char *cookie; /* that the last step gave */
    int cookieLen;
    char *uri; /* where the destination waits */
} kumoPeer;

static void kumoPeerClear(void *opaque)
{
    kumoPeer *peer = opaque;

    virTypedParamsFree(peer->params, peer->nparams);
    g_free(peer->cookie);
    g_free(peer->uri);
    g_free(peer->daemonUri);
    g_clear_pointer(&peer->dconn, virObjectUnref);
}

static void kumoPeerRelease(kumoPeer *peer)
{
    g_atomic_rc_box_release_full(peer, kumoPeerClear);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoPeer, kumoPeerRelease);

static kumoPeer *kumoPeerNew(const kumoDriverConfig *cfg, const char *dconnuri)
{
    kumoPeer *peer = g_atomic_rc_box_new0(kumoPeer);

    peer->daemonUri = g_strdup(dconnuri);
    peer->keepaliveIntervalS = cfg->keepaliveIntervalS;
    peer->keepaliveCount = cfg->keepaliveCount;
    return peer;
}

/* Hands the last step's cookie to the next one, which writes its own. */
static char *kumoPeerTakeCookie(kumoPeer *peer, int *len)
{
    *len = peer->cookieLen;
    peer->cookieLen = 0;
    return g_steal_pointer(&peer->cookie);
}

/* --- calls to the destination's daemon, each in a thread of its own --- */

static void kumoPeerReportConnect(const char *uri)
{
    g_autofree char *why = g_strdup(virGetLastErrorMessage());

    virReportError(VIR_ERR_OPERATION_FAILED, _("Failed to connect to remote libvirt URI %s: %s"),
                   uri, why);
}

static int kumoPeerOpen(void *opaque)
{
    kumoPeer *peer = opaque;
    int params;

    if (!(peer->dconn = virConnectOpenAuth(peer->daemonUri, virConnectAuthPtrDefault, 0))) {
        kumoPeerReportConnect(peer->daemonUri);
        return -1;
    }
    if (virConnectSetKeepAlive(peer->dconn, peer->keepaliveIntervalS, peer->keepaliveCount) < 0)
        return -1;
    params = VIR_DRV_SUPPORTS_FEATURE(peer->dconn->driver, peer->dconn,
                                      VIR_DRV_FEATURE_MIGRATION_PARAMS);
    if (params < 0)
        return -1;
    if (params == 0) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the destination %s does not support migration with parameters"),
                       peer->daemonUri);
        return -1;
    }
    return 0;
}

/* A step has failed: perhaps because nobody is there any more. */
static void kumoPeerExplain(const kumoPeer *peer)
{
    virErrorPtr error = NULL;

    virErrorPreserveLast(&error);
    if (virConnectIsAlive(peer->dconn) > 0) {
        virErrorRestore(&error);
        return;
    }
    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("the connection to the destination's daemon %s was lost: %s"), peer->daemonUri,
                   error && error->message ? error->message : "");
    virFreeError(error);
}

static int kumoPeerPrepare(void *opaque)
{
    kumoPeer *peer = opaque;
    int inLen;
    g_autofree char *in = kumoPeerTakeCookie(peer, &inLen);

    if (peer->dconn->driver->domainMigratePrepare3Params(peer->dconn, peer->params, peer->nparams,
                                                         in, inLen, &peer->cookie, &peer->cookieLen,
                                                         &peer->uri, peer->flags) == 0)
        return 0;
    kumoPeerExplain(peer);
    return -1;
}

static int kumoPeerFinish(void *opaque)
{
    kumoPeer *peer = opaque;
    int inLen;
    g_autofree char *in = kumoPeerTakeCookie(peer, &inLen);
    virDomainPtr ddomain = peer->dconn->driver->domainMigrateFinish3Params(
        peer->dconn, peer->params, peer->nparams, in, inLen, &peer->cookie, &peer->cookieLen,
        peer->flags, peer->cancelled);

    peer->there = ddomain != NULL;
    virObjectUnref(ddomain);
    if (peer->there)
        return 0;
    kumoPeerExplain(peer);
    return -1;
}

static int kumoPeerClose(void *opaque)
{
    kumoPeer *peer = opaque;

    g_clear_pointer(&peer->dconn, virObjectUnref);
    return 0;
}

/* --- the steps --- */

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

static int kumoPeerPerform(kumoPeer *peer, virDomainObj *vm, const kumoMigrationParams *params,
                           unsigned int flags)
{
    const kumoMigrationDaemon daemon = { peer->dconn, peer->daemonUri };
    kumoMigrationParams how = *params;
    int inLen;
    g_autofree char *in = kumoPeerTakeCookie(peer, &inLen);
    kumoMigrationCookies cookies = { in, inLen, &peer->cookie, &peer->cookieLen };

    if (peer->uri)
        how.uri = peer->uri;
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    return kumoMigrationPerform(vm, &how, &daemon, &cookies, flags);
}

/* A call of @peer's, which is NULL afterwards if it is left alone; the rest as kumoJobCallRun. */
static int kumoPeerCall(kumoPeer **peer, virDomainObj *vm, int (*work)(void *box),
                        unsigned long long timeoutMs, kumoJobCallPatience patience)
{
    void *box = *peer;
    int rc = kumoJobCallRun(vm, work, &box, kumoPeerClear, timeoutMs, patience);

    *peer = box;
    return rc;
}

static int kumoPeerConnect(kumoPeer **peer, virDomainObj *vm, const kumoDriverConfig *cfg,
                           const char *dconnuri)
{
    if (kumoPeerCall(peer, vm, kumoPeerOpen, cfg->migrationConnectMs, KUMO_CALL_UNLESS_ABORTED) ==
        0)
        return 0;
    if (!*peer && virGetLastErrorCode() == VIR_ERR_OPERATION_TIMEOUT)
        kumoPeerReportConnect(dconnuri);
    return -1;
}

/*
 * Makes sure that both ends know where the VM is, after what @rc says of Perform.
 *
 * Returns: @rc, or -1 with the error reported if the destination does not have the domain.
 */
static int kumoPeerConclude(kumoPeer **peer, virDomainObj *vm, unsigned int flags, int rc)
{
    kumoMigrationCookies last = { 0 };
    virErrorPtr error = NULL;
    const bool cancelled = rc < 0;
    int there;

    virErrorPreserveLast(&error);
    (*peer)->cancelled = cancelled;
    /* For a guest that runs on here nobody has to wait for what the destination cleans up. */
    there = kumoPeerCall(peer, vm, kumoPeerFinish, 0,
                         cancelled ? KUMO_CALL_UNLESS_ABORTED_AGAIN : KUMO_CALL_TO_ITS_END);
    if (cancelled && there == 0) {
        VIR_ERROR(_("domain %s: the destination has it, though its migration failed here"),
                  vm->def->name);
    } else if (!cancelled && there < 0) {
        virErrorPreserveLast(&error);
        rc = -1;
    }
    if (*peer) {
        last.in = (*peer)->cookie;
        last.inLen = (*peer)->cookieLen;
    }
    if (kumoMigrationConfirm(vm, &last, flags, rc < 0) < 0 && rc == 0)
        rc = -1;
    else if (rc < 0)
        virErrorRestore(&error);
    virFreeError(error);
    return rc;
}

/* All steps with a destination that is connected; @vm has the job. */
static int kumoPeerMigrate(kumoPeer **peer, virDomainObj *vm, const kumoMigrationParams *params,
                           unsigned int flags)
{
    kumoMigrationCookies first = { .out = &(*peer)->cookie, .outLen = &(*peer)->cookieLen };
    g_autofree char *xml = kumoMigrationBegin(vm, params, &first, flags);
    int rc = 0;

    if (!xml || kumoPeerFillParams(*peer, params, xml, vm->def->name) < 0)
        return -1;
    if (virDomainObjGetState(vm, NULL) == VIR_DOMAIN_PAUSED &&
        !(flags & VIR_MIGRATE_POSTCOPY_RESUME))
        flags |= VIR_MIGRATE_PAUSED;
    (*peer)->flags =
        flags & ~(unsigned int)(VIR_MIGRATE_ABORT_ON_ERROR | VIR_MIGRATE_AUTO_CONVERGE);
    if (kumoPeerCall(peer, vm, kumoPeerPrepare, 0, KUMO_CALL_UNLESS_ABORTED) < 0)
        return -1;
    if (!(flags & VIR_MIGRATE_OFFLINE))
        rc = kumoPeerPerform(*peer, vm, params, flags);
    return kumoPeerConclude(peer, vm, flags, rc);
}

int kumoMigrationPeer(virConnectPtr conn, virDomainObj *vm, const char *dconnuri,
                      const kumoMigrationParams *params, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autoptr(kumoPeer) peer = NULL;
    virErrorPtr error = NULL;
    int rc;

    if (!dconnuri) {
        virReportError(VIR_ERR_INVALID_ARG, "%s",
                       _("a peer-to-peer migration needs the destination's URI"));
        return -1;
    }
    if (kumoJobBegin(vm, VIR_ASYNC_JOB_MIGRATION_OUT, VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
                     flags) < 0)
        return -1;
    peer = kumoPeerNew(cfg, dconnuri);
    rc = kumoPeerConnect(&peer, vm, cfg, dconnuri);
    if (rc == 0)
        rc = kumoPeerMigrate(&peer, vm, params, flags);
    virErrorPreserveLast(&error);
    /* One that has begun to say nothing does not answer that either. */
    if (peer && peer->dconn)
        ignore_value(kumoPeerCall(&peer, vm, kumoPeerClose, cfg->migrationConnectMs,
                                  KUMO_CALL_UNLESS_ABORTED_AGAIN));
    virErrorRestore(&error);
    kumoJobEnd(vm);
    kumoDomainRemoveInactive(driver, vm);
    return rc;
}
