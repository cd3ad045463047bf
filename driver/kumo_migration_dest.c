/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The destination's steps of a migration. */
#include "driver/kumo_migration.h"

#include "driver/kumo_cgroup.h"
#include "driver/kumo_cookie.h"
#include "driver/kumo_job.h"
#include "driver/kumo_lifecycle.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_process.h"
#include "driver/kumo_run.h"
#include "virclosecallbacks.h"
#include "virsocketaddr.h"
#include "virtime.h"
#include "viruri.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_migration_dest");

/* Until the VMM has said that the VM is here, when the source says that it is. */
#define KUMO_ARRIVAL_WAIT_MS (30 * 1000ULL)

/* How often a VMM is asked for a VM that is about to be here, or that has not answered. */
#define KUMO_ARRIVAL_LOOK_MS 200
#define KUMO_ARRIVAL_WAKE_MS 2000

/* --- Prepare: where the VM comes in --- */

typedef struct {
    char *listenUrl;     /* for the VMM */
    char *uri;           /* for the source, or NULL: what it said */
    unsigned short port; /* that was allocated, or 0 */
} kumoMigrationPlace;

static void kumoMigrationPlaceClear(kumoMigrationPlace *place)
{
    g_clear_pointer(&place->listenUrl, g_free);
    g_clear_pointer(&place->uri, g_free);
    if (place->port)
        virPortAllocatorRelease(place->port);
    place->port = 0;
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(kumoMigrationPlace, kumoMigrationPlaceClear);

static char *kumoMigrationHost(const kumoDriverConfig *cfg)
{
    g_autofree char *host = cfg->migrationHost ? g_strdup(cfg->migrationHost) : virGetHostname();

    if (host && STRPREFIX(host, "localhost")) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s",
                       _("this host calls itself localhost; the destination of a migration needs "
                         "a name that others know (migration_host in kumo.conf)"));
        return NULL;
    }
    return g_steal_pointer(&host);
}

static char *kumoMigrationFormatUri(const char *host, int port)
{
    return g_strdup_printf(strchr(host, ':') ? "tcp://[%s]:%d" : "tcp://%s:%d", host, port);
}

/* Where the VMM makes a socket itself: at @uri's path, which the source knows. */
static int kumoMigrationFindSocket(const kumoMigrationParams *params, const virURI *uri,
                                   kumoMigrationPlace *place)
{
    if (params->listenAddress) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("the listen address %s does not go with the migration URI %s"),
                       params->listenAddress, params->uri);
        return -1;
    }
    return (place->listenUrl = kumoMigrationSocketUrl(uri, params->uri)) ? 0 : -1;
}

static int kumoMigrationFindPort(kumoDriver *driver, const kumoMigrationParams *params,
                                 const virURI *uri, kumoMigrationPlace *place)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    const char *listen = params->listenAddress ? params->listenAddress : cfg->migrationAddress;
    g_autofree char *host = NULL;
    int port = uri ? uri->port : 0;

    if (uri && !uri->server) {
        virReportError(VIR_ERR_INVALID_ARG, _("missing host in migration URI: %s"), params->uri);
        return -1;
    }
    if (!(host = uri ? g_strdup(uri->server) : kumoMigrationHost(cfg)))
        return -1;
    if (port == 0) {
        if (virPortAllocatorAcquire(driver->migrationPorts, &place->port) < 0)
            return -1;
        port = place->port;
    }
    if (!uri || uri->port == 0 || !STRPREFIX(params->uri, "tcp://"))
        place->uri = kumoMigrationFormatUri(host, port);
    if (!listen)
        listen = virSocketAddrNumericFamily(host) == AF_INET6 ? "::" : "0.0.0.0";
    place->listenUrl =
        g_strdup_printf(strchr(listen, ':') ? "tcp:[%s]:%d" : "tcp:%s:%d", listen, port);
    return 0;
}

static int kumoMigrationFindPlace(kumoDriver *driver, const kumoMigrationParams *params,
                                  kumoMigrationPlace *place)
{
    g_autoptr(virURI) uri = NULL;
    g_autofree char *text = NULL;

    if (!params->uri)
        return kumoMigrationFindPort(driver, params, NULL, place);
    /* An older form of it has no slashes. */
    if (STRPREFIX(params->uri, "tcp:") && !STRPREFIX(params->uri, "tcp://"))
        text = g_strdup_printf("tcp://%s", params->uri + strlen("tcp:"));
    if (!(uri = virURIParse(text ? text : params->uri)))
        return -1;
    if (STREQ_NULLABLE(uri->scheme, "tcp"))
        return kumoMigrationFindPort(driver, params, uri, place);
    if (STREQ_NULLABLE(uri->scheme, "unix"))
        return kumoMigrationFindSocket(params, uri, place);
    virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, _("unsupported scheme %s in migration URI %s"),
                   NULLSTR(uri->scheme), params->uri);
    return -1;
}

/* --- Prepare: the domain --- */

static int kumoMigrationCheckDef(kumoDriver *driver, virDomainDef *def, const kumoCookie *cookie,
                                 const char *destName)
{
    g_autoptr(virDomainDef) persistent = NULL;
    char uuid[VIR_UUID_STRING_BUFLEN];

    virUUIDFormat(def->uuid, uuid);
    if (STRNEQ_NULLABLE(cookie->uuid, uuid) || STRNEQ_NULLABLE(cookie->name, def->name)) {
        virReportError(VIR_ERR_INTERNAL_ERROR,
                       _("the cookie of domain '%s' (%s) comes with the definition of '%s' (%s)"),
                       NULLSTR(cookie->name), NULLSTR(cookie->uuid), def->name, uuid);
        return -1;
    }
    if (kumoCookieCheckHost(cookie) < 0)
        return -1;
    /* What is wrong with it is known before the VM has come. */
    if (cookie->persistentXml) {
        if (!(persistent = virDomainDefParseString(cookie->persistentXml, driver->xmlopt, NULL,
                                                   VIR_DOMAIN_DEF_PARSE_INACTIVE)))
            return -1;
        if (memcmp(persistent->uuid, def->uuid, VIR_UUID_BUFLEN) != 0) {
            virReportError(VIR_ERR_INVALID_ARG, "%s",
                           _("the persistent definition is of another domain"));
            return -1;
        }
    }
    if (destName) {
        g_free(def->name);
        def->name = g_strdup(destName);
    }
    return 0;
}

static int kumoMigrationStart(virDomainObj *vm, const kumoCookie *cookie, kumoMigrationPlace *place,
                              unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    kumoMonitorReceive incoming = { .url = place->listenUrl,
                                    .fd = -1,
                                    .paused = (flags & VIR_MIGRATE_PAUSED) != 0,
                                    .postcopy = (flags & VIR_MIGRATE_POSTCOPY) != 0,
                                    .tlsDir =
                                        flags & VIR_MIGRATE_TLS ? cfg->migrationTlsDir : NULL };

    if (kumoCookieApply(cookie, vm->def) < 0)
        return -1;
    priv->migrationPort = place->port; /* given back when the process ends */
    place->port = 0;
    if (kumoRunStartIncoming(NULL, vm, &incoming, "migrated", 0) < 0)
        return -1;
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_MIGRATED);
    return 0;
}

/* The VM has not come, and will not. */
static void kumoMigrationDrop(virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    /* Who destroys it does the same, and waits for the job. */
    if (virDomainObjIsActive(vm) && !priv->beingDestroyed) {
        kumoJobComplete(vm, VIR_DOMAIN_JOB_STATUS_FAILED);
        kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_FAILED);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
    }
    virErrorRestore(&saved);
}

/* What nobody waits for any more: it takes as long as it takes until the VMM answers, and until the
 * guest's memory is here. */
static void kumoMigrationSettle(void *opaque)
{
    virDomainObj *vm = opaque;
    kumoDomainObjPrivate *priv = vm->privateData;

    virObjectLock(vm);
    if (kumoJobResume(vm, VIR_ASYNC_JOB_MIGRATION_IN) == 0) {
        if (virDomainObjIsActive(vm))
            kumoMigrationRecoverIn(vm);
        if (virDomainObjIsActive(vm))
            kumoMigrationRecoverMemory(vm);
        kumoJobEnd(vm);
        kumoDomainRemoveInactive(priv->driver, vm);
    }
    virDomainObjEndAPI(&vm);
}

/* @vm: with a job that no thread has */
static void kumoMigrationStartSettling(virDomainObj *vm)
{
    virThread thread;

    virObjectRef(vm);
    if (virThreadCreateFull(&thread, false, kumoMigrationSettle, "kumo-arrival", false, vm) == 0)
        return;
    VIR_WARN("domain %s: no thread that looks for its VM", vm->def->name);
    virObjectUnref(vm);
}

/* Who prepared this has gone: it is over, unless the VM is here already. */
static void kumoMigrationAbandonIncoming(virDomainObj *vm, virConnectPtr conn G_GNUC_UNUSED)
{
    /* Else its last step is under way. */
    if (vm->job->asyncJob != VIR_ASYNC_JOB_MIGRATION_IN || vm->job->asyncOwner)
        return;
    VIR_WARN("domain %s: who migrates it to this host has gone", vm->def->name);
    kumoMigrationStartSettling(vm);
}

/* --- Prepare: a domain that is here --- */

static int kumoMigrationListenAgain(virDomainObj *vm, kumoMigrationPlace *place, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    const kumoMonitorReceive how = { .url = place->listenUrl,
                                     .fd = -1,
                                     .tlsDir =
                                         flags & VIR_MIGRATE_TLS ? cfg->migrationTlsDir : NULL };
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorRecoverReceive(mon, &how);

    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    if (place->port) {
        virPortAllocatorRelease(priv->migrationPort);
        priv->migrationPort = place->port;
        place->port = 0;
    }
    return 0;
}

/* Its memory is to follow over another connection, after one broke. */
static int kumoMigrationPrepareResume(virConnectPtr conn, const virDomainDef *def,
                                      const kumoMigrationParams *params, char **ret_uri,
                                      unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_auto(kumoMigrationPlace) place = { 0 };
    kumoDomainObjPrivate *priv;
    virDomainObj *vm = virDomainObjListFindByUUID(driver->domains, def->uuid);
    int rc = -1;

    if (!vm) {
        virReportError(VIR_ERR_NO_DOMAIN, _("no domain with matching name '%s'"), def->name);
        return -1;
    }
    priv = vm->privateData;
    if (kumoMigrationFindPlace(driver, params, &place) < 0 ||
        kumoMigrationCheckResumable(vm, VIR_DOMAIN_RUNNING) < 0 ||
        kumoJobBegin(vm, VIR_ASYNC_JOB_MIGRATION_IN, VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, flags) <
            0) {
        virDomainObjEndAPI(&vm);
        return -1;
    }
    if (kumoMigrationCheckResumable(vm, VIR_DOMAIN_RUNNING) == 0) {
        priv->stream = KUMO_STREAM_FINISHED;
        priv->postcopy = KUMO_POSTCOPY_RECOVERING;
        kumoJobSetPhase(vm, KUMO_PHASE_PREPARE);
        rc = kumoMigrationListenAgain(vm, &place, flags);
    }
    if (rc == 0) {
        *ret_uri = g_steal_pointer(&place.uri);
        virCloseCallbacksDomainAdd(vm, conn, kumoMigrationAbandonIncoming);
        kumoJobRelease(vm);
    } else {
        priv->postcopy = KUMO_POSTCOPY_FAILED;
        kumoJobEnd(vm);
    }
    virDomainObjEndAPI(&vm);
    return rc;
}

int kumoMigrationPrepare(virConnectPtr conn, virDomainDef **def, const kumoMigrationParams *params,
                         kumoMigrationCookies *cookies, char **ret_uri, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(kumoCookie) cookie = NULL;
    g_auto(kumoMigrationPlace) place = { 0 };
    kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    int rc = 0;

    if (kumoMigrationCheckFlags(flags) < 0 ||
        !(cookie = kumoCookieParse(cookies->in, (size_t)cookies->inLen)) ||
        kumoMigrationCheckDef(driver, *def, cookie, params->destName) < 0)
        return -1;
    if (flags & VIR_MIGRATE_POSTCOPY_RESUME)
        return kumoMigrationPrepareResume(conn, *def, params, ret_uri, flags);
    if (kumoMigrationFindPlace(driver, params, &place) < 0)
        return -1;
    if (!(vm = virDomainObjListAdd(
              driver->domains, def, driver->xmlopt,
              VIR_DOMAIN_OBJ_LIST_ADD_LIVE | VIR_DOMAIN_OBJ_LIST_ADD_CHECK_LIVE, NULL)))
        return -1;
    priv = vm->privateData;
    if (kumoJobBegin(vm, VIR_ASYNC_JOB_MIGRATION_IN, VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, flags) <
        0) {
        kumoDomainRemoveInactive(driver, vm);
        virDomainObjEndAPI(&vm);
        return -1;
    }
    kumoJobSetPhase(vm, KUMO_PHASE_PREPARE);
    if (!(flags & VIR_MIGRATE_OFFLINE))
        rc = kumoMigrationStart(vm, cookie, &place, flags);
    if (rc == 0) {
        g_free(priv->persistentXml);
        priv->persistentXml = g_steal_pointer(&cookie->persistentXml);
        *ret_uri = g_steal_pointer(&place.uri);
        virCloseCallbacksDomainAdd(vm, conn, kumoMigrationAbandonIncoming);
        kumoJobRelease(vm);
    } else {
        kumoJobEnd(vm);
        virDomainObjRemoveTransientDef(vm);
        kumoDomainRemoveInactive(driver, vm);
    }
    virDomainObjEndAPI(&vm);
    return rc;
}

/* --- Finish --- */

/* Makes the domain persistent, as the source asked for. */
static int kumoMigrationDefine(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    g_autofree char *xml = g_steal_pointer(&priv->persistentXml);
    g_autoptr(virDomainDef) def = NULL;
    bool was = vm->persistent;

    if (!xml)
        return 0;
    if (!(def = virDomainDefParseString(xml, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE)))
        return -1;
    g_free(def->name);
    def->name = g_strdup(vm->def->name);
    if (kumoDomainSaveDefinition(vm, &def) < 0)
        return -1;
    vm->persistent = 1;
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_DEFINED,
                         was ? VIR_DOMAIN_EVENT_DEFINED_UPDATED : VIR_DOMAIN_EVENT_DEFINED_ADDED);
    return 0;
}

/*
 * Finds out whether the VM is here, waiting for one that is about to be.
 *
 * Returns: 0 with what is certain in @arrival (NONE, WHOLE or PARTIAL), or -1 with the error
 * reported: the VMM does not say. Then it may have the only copy of the VM.
 */
static int kumoMigrationEndArrival(virDomainObj *vm, kumoMonitorArrival *arrival)
{
    unsigned long long now, end = 0;
    kumoMonitor *mon;
    int rc;

    *arrival = KUMO_ARRIVAL_NONE;
    while (virDomainObjIsActive(vm)) {
        mon = kumoDomainObjEnterMonitor(vm);
        rc = kumoMonitorEndArrival(mon, arrival);
        if (kumoDomainObjExitMonitor(vm, mon) < 0)
            break;
        if (rc < 0 && kumoProcessIsAlive(vm))
            return -1;
        if (rc < 0 || *arrival != KUMO_ARRIVAL_COMING)
            return 0;
        if (virTimeMillisNow(&now) < 0)
            return -1;
        if (end == 0)
            end = now + KUMO_ARRIVAL_WAIT_MS;
        if (now >= end) {
            virReportError(VIR_ERR_OPERATION_TIMEOUT,
                           _("the VM of domain '%s' has not come in time"), vm->def->name);
            return -1;
        }
        virDomainObjWaitUntil(vm, now + KUMO_ARRIVAL_LOOK_MS);
    }
    *arrival = KUMO_ARRIVAL_NONE;
    virResetLastError();
    return 0;
}

/*
 * The VM is here: the domain becomes what it is.
 *
 * Returns: 0, or -1 with the error reported: the VMM does not answer.
 */
static int kumoMigrationArrive(virDomainObj *vm, kumoMonitorArrival arrival)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    const bool paused = vm->job->apiFlags & VIR_MIGRATE_PAUSED;
    g_auto(kumoMonitorInfo) info = { 0 };
    kumoMonitor *mon;
    int rc;

    kumoJobSetPhase(vm, KUMO_PHASE_FINISH);
    /* The guest runs already: it is not ended for that. */
    if (kumoCgroupPlaceThreads(vm) < 0) {
        VIR_WARN("domain %s: %s", vm->def->name, virGetLastErrorMessage());
        virResetLastError();
    }
    if (kumoRunRefreshConsoles(vm) < 0)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorGetInfo(mon, &info);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    /* A daemon before us may have read the event, and the one that ends it is yet to come. */
    if (arrival == KUMO_ARRIVAL_PARTIAL &&
        (priv->postcopy == KUMO_POSTCOPY_NONE || priv->postcopy == KUMO_POSTCOPY_RECOVERING))
        priv->postcopy = KUMO_POSTCOPY_STARTED;
    if (info.state == KUMO_MONITOR_STATE_PAUSED && paused)
        kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_USER,
                           VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_PAUSED);
    else if (info.state == KUMO_MONITOR_STATE_RUNNING)
        kumoLifecycleResumed(vm, priv->postcopy == KUMO_POSTCOPY_STARTED || info.postcopyBroken
                                     ? VIR_DOMAIN_RUNNING_POSTCOPY
                                     : VIR_DOMAIN_RUNNING_MIGRATED);
    /* When it resumed, a source on this host may still have had the address. */
    if (info.state == KUMO_MONITOR_STATE_RUNNING)
        kumoLifecycleOnline(vm);
    if (info.postcopyBroken)
        kumoJobPostcopyBroken(vm, info.postcopyBroken);
    return 0;
}

/* With post-copy the guest is here before its memory. Returns: 0, or -1 with the error reported: it
 * can run no more. */
static int kumoMigrationAwaitMemory(virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;
    int reason;

    if (priv->postcopy != KUMO_POSTCOPY_NONE && kumoJobPostcopyWait(vm) < 0) {
        kumoJobComplete(vm, VIR_DOMAIN_JOB_STATUS_FAILED);
        return -1;
    }
    if (virDomainObjGetState(vm, &reason) == VIR_DOMAIN_RUNNING &&
        reason == VIR_DOMAIN_RUNNING_POSTCOPY)
        kumoDomainSetState(vm, VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_MIGRATED,
                           VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_MIGRATED);
    return 0;
}

static void kumoMigrationTakeStats(virDomainObj *vm, const kumoCookie *cookie)
{
    virDomainJobData *job = vm->job->current;

    if (!job || !cookie || !cookie->hasStats)
        return;
    *(kumoJobStats *)job->privateData = cookie->stats;
}

/*
 * Finds out what has come of a VM whose arrival the VMM has not told of.
 *
 * Returns: 0 if it is here, or -1 with the error reported: it is not, and the domain has ended, or
 * @undecided.
 */
static int kumoMigrationLookFor(virDomainObj *vm, kumoMonitorArrival *arrival, bool *undecided)
{
    virErrorPtr why = NULL;

    virErrorPreserveLast(&why);
    if (kumoMigrationEndArrival(vm, arrival) < 0) {
        virFreeError(why);
        *undecided = true;
        return -1;
    }
    if (*arrival == KUMO_ARRIVAL_NONE) {
        virErrorRestore(&why);
        kumoMigrationDrop(vm);
        if (virGetLastErrorCode() == VIR_ERR_OK)
            virReportError(VIR_ERR_MIGRATE_FINISH_OK, "%s", _("migration successfully aborted"));
        return -1;
    }
    virFreeError(why);
    virResetLastError();
    VIR_WARN("domain %s: its VM is here, though its source thinks that it is not", vm->def->name);
    return 0;
}

/* The same of a domain whose memory is to follow again; with @cancelled the source could not come.
 */
static int kumoMigrationConcludeResume(virDomainObj *vm, bool cancelled, bool *undecided)
{
    kumoMonitorArrival arrival;

    if (cancelled && (kumoMigrationEndArrival(vm, &arrival) < 0 ||
                      (arrival == KUMO_ARRIVAL_NONE ? -1 : kumoMigrationArrive(vm, arrival)) < 0)) {
        *undecided = virDomainObjIsActive(vm);
        return -1;
    }
    kumoJobSetPhase(vm, KUMO_PHASE_FINISH);
    if (kumoMigrationAwaitMemory(vm) < 0)
        return -1;
    kumoJobComplete(vm, VIR_DOMAIN_JOB_STATUS_COMPLETED);
    return 0;
}

/*
 * Returns: 0 if the domain is here, or -1 with the error reported: it is not, it can run no more,
 * or
 * @undecided: that will turn out.
 */
static int kumoMigrationConclude(virDomainObj *vm, kumoMigrationCookies *cookies,
                                 unsigned int flags, bool cancelled, bool *undecided)
{
    kumoMonitorArrival arrival = KUMO_ARRIVAL_WHOLE;
    g_autoptr(kumoCookie) cookie = NULL;

    if (flags & VIR_MIGRATE_OFFLINE) {
        /* Prepare put it where a running one's would be. */
        virDomainObjRemoveTransientDef(vm);
        if (cancelled) {
            virReportError(VIR_ERR_MIGRATE_FINISH_OK, "%s", _("migration successfully aborted"));
            return -1;
        }
        return kumoMigrationDefine(vm);
    }
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (!(cookie = kumoCookieParse(cookies->in, (size_t)cookies->inLen)))
        virResetLastError(); /* nothing in it has to be known */
    if (cancelled && cookie && cookie->runsAtSource) {
        /* The VMM is not asked: if it stands still, it is ended nevertheless. */
        kumoMigrationDrop(vm);
        virReportError(VIR_ERR_MIGRATE_FINISH_OK, "%s", _("migration successfully aborted"));
        return -1;
    }
    if (flags & VIR_MIGRATE_POSTCOPY_RESUME)
        return kumoMigrationConcludeResume(vm, cancelled, undecided);
    vm->job->apiFlags = flags;
    if ((cancelled || kumoJobStreamWait(vm, KUMO_ARRIVAL_WAIT_MS) < 0) &&
        kumoMigrationLookFor(vm, &arrival, undecided) < 0)
        return -1;
    kumoMigrationTakeStats(vm, cookie);
    if (kumoMigrationArrive(vm, arrival) < 0) {
        *undecided = virDomainObjIsActive(vm);
        return -1;
    }
    if (kumoMigrationDefine(vm) < 0 || kumoMigrationAwaitMemory(vm) < 0)
        return -1;
    kumoJobComplete(vm, VIR_DOMAIN_JOB_STATUS_COMPLETED);
    return 0;
}

virDomainPtr kumoMigrationFinish(virConnectPtr conn, virDomainObj *vm,
                                 kumoMigrationCookies *cookies, unsigned int flags, bool cancelled)
{
    kumoDriver *driver = conn->privateData;
    virDomainPtr dom = NULL;
    bool undecided = false;

    if (kumoJobResume(vm, VIR_ASYNC_JOB_MIGRATION_IN) < 0) {
        virDomainObjEndAPI(&vm);
        return NULL;
    }
    virCloseCallbacksDomainRemove(vm, conn, kumoMigrationAbandonIncoming);
    if (kumoMigrationConclude(vm, cookies, flags, cancelled, &undecided) == 0)
        dom = virGetDomain(conn, vm->def->name, vm->def->uuid, vm->def->id);
    if (undecided) {
        kumoJobRelease(vm);
        kumoMigrationStartSettling(vm);
    } else {
        kumoJobEnd(vm);
    }
    kumoDomainRemoveInactive(driver, vm);
    virDomainObjEndAPI(&vm);
    return dom;
}

/* --- what nobody waits for: a daemon that comes later, or without who began it --- */

void kumoMigrationRecoverIn(virDomainObj *vm)
{
    kumoMonitorArrival arrival;
    unsigned long long now;
    bool told = false;

    /* It may have the only copy of the VM, so it is not ended before it has said that it has none.
     */
    while (kumoMigrationEndArrival(vm, &arrival) < 0 ||
           (arrival != KUMO_ARRIVAL_NONE && kumoMigrationArrive(vm, arrival) < 0)) {
        if (!told && virDomainObjIsActive(vm))
            VIR_WARN("domain %s: it is not known yet whether its VM has come: %s", vm->def->name,
                     virGetLastErrorMessage());
        told = true;
        virResetLastError();
        if (virTimeMillisNow(&now) < 0)
            return;
        virDomainObjWaitUntil(vm, now + KUMO_ARRIVAL_WAKE_MS);
    }
    virResetLastError();
    if (arrival == KUMO_ARRIVAL_NONE)
        kumoMigrationDrop(vm);
    else if (kumoMigrationDefine(vm) < 0)
        VIR_ERROR(_("domain %s: its VM has come, but: %s"), vm->def->name,
                  virGetLastErrorMessage());
}

void kumoMigrationRecoverMemory(virDomainObj *vm)
{
    if (kumoMigrationAwaitMemory(vm) < 0) {
        VIR_ERROR(_("domain %s: its VM has come, but: %s"), vm->def->name,
                  virGetLastErrorMessage());
        return;
    }
    kumoJobComplete(vm, VIR_DOMAIN_JOB_STATUS_COMPLETED);
}
