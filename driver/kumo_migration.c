/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's steps of a migration. */
#include "driver/kumo_migration.h"

#include "driver/kumo_cookie.h"
#include "driver/kumo_job.h"
#include "driver/kumo_lifecycle.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_process.h"
#include "driver/kumo_run.h"
#include "virclosecallbacks.h"
#include "virfile.h"
#include "virtime.h"
#include "viruri.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_migration");

/* For who asks for parallel connections and does not say how many. */
#define KUMO_PARALLEL_CONNECTIONS 2

/* How often a VMM is asked that cannot say yet what became of the VM. */
#define KUMO_SENDING_LOOK_MS 500

/* --- Begin --- */

static int kumoMigrationCheckDisk(const virDomainDiskDef *disk)
{
    const char *path = virDomainDiskGetSource(disk);
    int rc;

    if (virStorageSourceIsEmpty(disk->src) || disk->src->readonly)
        return 0;
    if (virStorageSourceGetActualType(disk->src) == VIR_STORAGE_TYPE_FILE) {
        if ((rc = kumoCompatIsSharedFS(path)) < 0)
            return -1;
        if (rc == 0) {
            virReportError(VIR_ERR_MIGRATE_UNSAFE, "%s",
                           _("Migration without shared storage is unsafe"));
            return -1;
        }
        /* Such file systems keep the page caches of all hosts coherent. */
        if ((rc = virFileIsClusterFS(path)) != 0)
            return rc < 0 ? -1 : 0;
    }
    if (disk->src->shared || disk->cachemode == VIR_DOMAIN_DISK_CACHE_DISABLE ||
        disk->cachemode == VIR_DOMAIN_DISK_CACHE_DIRECTSYNC)
        return 0;
    virReportError(VIR_ERR_MIGRATE_UNSAFE, "%s",
                   _("Migration may lead to data corruption if disks use cache other than none or "
                     "directsync"));
    return -1;
}

static int kumoMigrationCheckDomain(virDomainObj *vm, unsigned int flags)
{
    const kumoDomainObjPrivate *priv = vm->privateData;

    if (flags & VIR_MIGRATE_OFFLINE) {
        if (virDomainObjIsActive(vm)) {
            virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                           _("offline migration cannot handle a running domain"));
            return -1;
        }
        if (vm->hasManagedSave) {
            virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                           _("offline migration does not take the managed save image along"));
            return -1;
        }
        return 0;
    }
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (priv->bootPending) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("the guest has not been started yet, there is nothing to be migrated"));
        return -1;
    }
    if (priv->autodestroy) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("domain is marked for auto destroy"));
        return -1;
    }
    if (flags & VIR_MIGRATE_UNSAFE)
        return 0;
    for (size_t i = 0; i < vm->def->ndisks; i++) {
        if (kumoMigrationCheckDisk(vm->def->disks[i]) < 0)
            return -1;
    }
    return 0;
}

int kumoMigrationCheckResumable(virDomainObj *vm, virDomainState state)
{
    int failed = state == VIR_DOMAIN_PAUSED ? VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
                                            : VIR_DOMAIN_RUNNING_POSTCOPY_FAILED;
    int reason;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (virDomainObjGetState(vm, &reason) == state && reason == failed)
        return 0;
    virReportError(VIR_ERR_OPERATION_INVALID, _("post-copy migration of domain %s has not failed"),
                   vm->def->name);
    return -1;
}

/* Of a migration whose connection broke, at its source. */
static int kumoMigrationCheckResume(virDomainObj *vm, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (!(flags & (VIR_MIGRATE_CHANGE_PROTECTION | VIR_MIGRATE_PEER2PEER))) {
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, "%s",
                       _("resuming failed post-copy migration requires change protection"));
        return -1;
    }
    if (kumoMigrationCheckResumable(vm, VIR_DOMAIN_PAUSED) < 0)
        return -1;
    /* The VMM is where it was; only the job is a new one. */
    priv->stream = KUMO_STREAM_RUNNING;
    priv->postcopy = KUMO_POSTCOPY_FAILED;
    return 0;
}

static char *kumoMigrationFormat(kumoDriver *driver, virDomainDef *def)
{
    return virDomainDefFormat(def, driver->xmlopt,
                              VIR_DOMAIN_DEF_FORMAT_INACTIVE | VIR_DOMAIN_DEF_FORMAT_SECURE |
                                  VIR_DOMAIN_DEF_FORMAT_MIGRATABLE);
}

/*
 * Returns: (transfer full): @xml, or @def's own without one, as it goes to the destination; NULL
 * with the error reported: a guest made from @def would not find its machine there.
 */
static char *kumoMigrationChooseXml(kumoDriver *driver, virDomainDef *def, const char *xml)
{
    g_autofree char *own = kumoMigrationFormat(driver, def);
    g_autoptr(virDomainDef) before = NULL;
    g_autoptr(virDomainDef) after = NULL;

    if (!own || !xml)
        return g_steal_pointer(&own);
    if (!(before = virDomainDefParseString(own, driver->xmlopt, NULL,
                                           VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                               VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE)) ||
        !(after =
              virDomainDefParseString(xml, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE)) ||
        !virDomainDefCheckABIStability(before, after, driver->xmlopt))
        return NULL;
    return kumoMigrationFormat(driver, after);
}

static void kumoMigrationHandOn(kumoMigrationCookies *cookies, const kumoCookie *cookie)
{
    if (!cookies->out)
        return;
    *cookies->out = kumoCookieFormat(cookie);
    *cookies->outLen = (int)strlen(*cookies->out) + 1;
}

char *kumoMigrationBegin(virDomainObj *vm, const kumoMigrationParams *params,
                         kumoMigrationCookies *cookies, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    virDomainDef *next = vm->newDef ? vm->newDef : vm->def;
    g_autoptr(kumoCookie) cookie = NULL;
    g_autofree char *xml = NULL;

    if (kumoMigrationCheckFlags(flags) < 0 || kumoMigrationCheckParams(params, flags) < 0 ||
        (flags & VIR_MIGRATE_POSTCOPY_RESUME ? kumoMigrationCheckResume(vm, flags)
                                             : kumoMigrationCheckDomain(vm, flags)) < 0)
        return NULL;
    cookie = kumoCookieNew(vm->def);
    if (kumoCookieSetHost(cookie) < 0 ||
        !(xml = kumoMigrationChooseXml(driver, vm->def, params->destXml)))
        return NULL;
    if (flags & VIR_MIGRATE_PERSIST_DEST &&
        !(cookie->persistentXml = kumoMigrationChooseXml(driver, next, params->persistXml)))
        return NULL;
    kumoMigrationHandOn(cookies, cookie);
    kumoJobSetPhase(vm, KUMO_PHASE_BEGIN);
    return g_steal_pointer(&xml);
}

/* --- Perform --- */

/* Returns: (transfer full): the destination as the VMM takes it, or NULL with the error reported.
 */
static char *kumoMigrationSendUrl(const char *text)
{
    g_autoptr(virURI) uri = NULL;

    if (!text) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("the destination has named no address"));
        return NULL;
    }
    if (!(uri = virURIParse(text)))
        return NULL;
    if (STREQ_NULLABLE(uri->scheme, "unix"))
        return kumoMigrationSocketUrl(uri, text);
    if (STRNEQ_NULLABLE(uri->scheme, "tcp") || !uri->server || uri->port == 0) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("the migration URI '%s' is not of the form tcp://HOST:PORT"), text);
        return NULL;
    }
    return g_strdup_printf(strchr(uri->server, ':') ? "tcp:[%s]:%d" : "tcp:%s:%d", uri->server,
                           uri->port);
}

/* The VM is not the destination's, as far as the VMM knows. */
static void kumoMigrationFailed(virDomainObj *vm, kumoMigrationCookies *cookies)
{
    const kumoDomainObjPrivate *priv = vm->privateData;
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    kumoJobComplete(vm, kumoJobFailedStatus(vm));
    /* A VMM that says so and runs the guest has its disks: the other one will never get them. */
    if (cookies && priv->stream == KUMO_STREAM_FAILED &&
        virDomainObjGetState(vm, NULL) == VIR_DOMAIN_RUNNING) {
        g_autoptr(kumoCookie) cookie = kumoCookieNew(vm->def);

        cookie->runsAtSource = true;
        kumoMigrationHandOn(cookies, cookie);
    }
    virErrorRestore(&saved);
}

static unsigned int kumoMigrationConnections(const kumoMigrationParams *params, unsigned int flags)
{
    if (!(flags & VIR_MIGRATE_PARALLEL))
        return 0;
    return params->connections ? (unsigned int)params->connections : KUMO_PARALLEL_CONNECTIONS;
}

/* What a client has set since the VMM was asked to send with @downtimeMs, @bandwidthMib and
 * @postcopyMib. */
static int kumoMigrationCatchUp(virDomainObj *vm, unsigned long long downtimeMs,
                                unsigned long long bandwidthMib, unsigned long long postcopyMib)
{
    const kumoDomainObjPrivate *priv = vm->privateData;
    json_t *changes = json_object();
    kumoMonitor *mon;
    int rc;

    if (priv->maxDowntimeMs != downtimeMs)
        json_object_set_new(changes, "downtime_ms", json_integer((json_int_t)priv->maxDowntimeMs));
    if (priv->maxBandwidthMib != bandwidthMib)
        json_object_set_new(changes, "max_bandwidth",
                            json_integer((json_int_t)(priv->maxBandwidthMib << 20)));
    if (priv->maxPostcopyMib != postcopyMib)
        json_object_set_new(changes, "max_postcopy_bandwidth",
                            json_integer((json_int_t)(priv->maxPostcopyMib << 20)));
    if (json_object_size(changes) == 0) {
        json_decref(changes);
        return 0;
    }
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorUpdateMigration(mon, changes);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

/*
 * The VMM was asked to send and may do so, though something failed since. The error stays reported.
 *
 * Returns: 0 if the guest has gone nevertheless, or -1.
 */
static int kumoMigrationCallBack(virDomainObj *vm)
{
    virErrorPtr saved = NULL;
    kumoMonitor *mon;
    int rc;

    virErrorPreserveLast(&saved);
    if (!virDomainObjIsActive(vm))
        goto cleanup;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorCancelMigration(mon); /* a VMM that sends nothing says so */
    if (kumoDomainObjExitMonitor(vm, mon) == 0 && rc == 0 && kumoJobMigrationWait(vm, NULL) == 0) {
        virFreeError(g_steal_pointer(&saved));
        virResetLastError();
        return 0;
    }

cleanup:
    virErrorRestore(&saved);
    return -1;
}

/*
 * The destination's daemon is lost: nobody there would make the guest a domain. The VMM may have
 * gone too far to be called off.
 *
 * Returns: 0 if the guest has gone nevertheless, or -1 with the error reported.
 */
static int kumoMigrationCallOff(virDomainObj *vm, const kumoMigrationDaemon *peer)
{
    kumoMonitor *mon;
    int rc;

    VIR_WARN("domain %s: the daemon %s that it migrates to is lost", vm->def->name, peer->uri);
    mon = kumoDomainObjEnterMonitor(vm);
    if ((rc = kumoMonitorCancelMigration(mon)) < 0)
        virResetLastError();
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (kumoJobMigrationWait(vm, NULL) == 0)
        return 0;
    /* If it was too late for that, what the VMM says of its end is more to the point. */
    if (rc == 0 && virDomainObjIsActive(vm) && !vm->job->abortJob)
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the connection to the destination's daemon %s was lost"), peer->uri);
    return -1;
}

/* Returns: 0 when the guest is at the destination, or -1 with the error reported. */
static int kumoMigrationAwait(virDomainObj *vm, const kumoMigrationDaemon *peer)
{
    int rc = kumoJobMigrationWait(vm, peer ? peer->conn : NULL);

    return rc > 0 ? kumoMigrationCallOff(vm, peer) : rc;
}

/* Until memory follows over another connection. Returns: 0, or -1 with the error reported. */
static int kumoMigrationPerformResume(virDomainObj *vm, const kumoMigrationParams *params,
                                      const kumoMigrationDaemon *peer, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autofree char *url = kumoMigrationSendUrl(params->uri);
    const kumoMonitorSend how = { .url = url,
                                  .fd = -1,
                                  .tlsDir = flags & VIR_MIGRATE_TLS ? cfg->migrationTlsDir : NULL,
                                  .tlsName = params->tlsDestination };
    kumoMonitor *mon;
    int rc;

    if (!url || kumoMigrationCheckResumable(vm, VIR_DOMAIN_PAUSED) < 0)
        return -1;
    priv->stream = KUMO_STREAM_RUNNING;
    priv->postcopy = KUMO_POSTCOPY_RECOVERING;
    kumoJobSetPhase(vm, KUMO_PHASE_PERFORM);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorRecoverSend(mon, &how);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc < 0) {
        priv->postcopy = KUMO_POSTCOPY_FAILED;
        return -1;
    }
    if (kumoMigrationAwait(vm, peer) < 0)
        return -1;
    kumoJobSetPhase(vm, KUMO_PHASE_POSTCOPY);
    return 0;
}

int kumoMigrationPerform(virDomainObj *vm, const kumoMigrationParams *params,
                         const kumoMigrationDaemon *peer, kumoMigrationCookies *cookies,
                         unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autofree char *url = kumoMigrationSendUrl(params->uri);
    const unsigned long long downtimeMs = priv->maxDowntimeMs;
    const unsigned long long ownMib = priv->maxBandwidthMib;
    const unsigned long long ownPostcopyMib = priv->maxPostcopyMib;
    unsigned long long mib = params->bandwidthMib ? params->bandwidthMib : ownMib;
    unsigned long long postcopyMib = params->postcopyMib ? params->postcopyMib : ownPostcopyMib;
    kumoMonitorSend how = { .url = url,
                            .fd = -1,
                            .downtimeMs = downtimeMs,
                            .bandwidth = mib << 20,
                            .postcopyBandwidth = postcopyMib << 20,
                            .connections = kumoMigrationConnections(params, flags),
                            .postcopy = (flags & VIR_MIGRATE_POSTCOPY) != 0,
                            .zstd = (flags & VIR_MIGRATE_COMPRESSED) != 0,
                            .autoConverge = (flags & VIR_MIGRATE_AUTO_CONVERGE) != 0,
                            .convergeInitial = params->convergeInitial,
                            .convergeIncrement = params->convergeIncrement,
                            .tlsDir = flags & VIR_MIGRATE_TLS ? cfg->migrationTlsDir : NULL,
                            .tlsName = params->tlsDestination };
    g_autoptr(kumoCookie) cookie = NULL;
    kumoMonitor *mon;
    int rc;

    if (flags & VIR_MIGRATE_POSTCOPY_RESUME)
        return kumoMigrationPerformResume(vm, params, peer, flags);
    if (!url || kumoJobStreamBegin(vm) < 0) {
        kumoMigrationFailed(vm, cookies);
        return -1;
    }
    kumoJobSetPhase(vm, KUMO_PHASE_PERFORM);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorSendVm(mon, &how);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        rc = -1;
    if (rc == 0)
        rc = kumoMigrationCatchUp(vm, downtimeMs, ownMib, ownPostcopyMib);
    rc = rc < 0 ? kumoMigrationCallBack(vm) : kumoMigrationAwait(vm, peer);
    if (rc < 0) {
        kumoMigrationFailed(vm, cookies);
        return -1;
    }
    /* The destination takes the guest as its own at once, and Confirm waits for the memory. */
    if (priv->stream == KUMO_STREAM_RUNNING) {
        kumoJobSetPhase(vm, KUMO_PHASE_POSTCOPY);
        return 0;
    }

    /* From here on the domain here is but a memory of it. */
    priv->migratedAway = true;
    kumoLifecyclePaused(vm, VIR_DOMAIN_PAUSED_MIGRATION);
    kumoJobSetPhase(vm, KUMO_PHASE_PERFORM_DONE);
    if (kumoJobRefresh(vm) < 0)
        return 0;
    cookie = kumoCookieNew(vm->def);
    cookie->hasStats = true;
    cookie->stats = *(const kumoJobStats *)vm->job->current->privateData;
    cookie->elapsedMs = vm->job->current->timeElapsed;
    kumoMigrationHandOn(cookies, cookie);
    return 0;
}

/* --- Confirm --- */

/* From here on the run ends because the VM is elsewhere, whoever has to end it. */
static void kumoMigrationSetAway(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    priv->migratedAway = true;
    kumoDomainSaveStatus(vm);
}

static void kumoMigrationLeave(virDomainObj *vm)
{
    if (!virDomainObjIsActive(vm))
        return;
    kumoJobComplete(vm, VIR_DOMAIN_JOB_STATUS_COMPLETED);
    kumoMigrationSetAway(vm);
    kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_MIGRATED);
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_MIGRATED);
}

/*
 * The domain goes with its definition. That goes first: while the domain is active, what is known
 * of its end outlives the daemon.
 */
static int kumoMigrationUndefine(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    int rc = 0;

    if (vm->persistent)
        rc = virDomainDeleteConfig(cfg->configDir, cfg->autostartDir, vm);
    kumoMigrationLeave(vm);
    if (!vm->persistent || rc < 0)
        return rc;
    vm->persistent = 0;
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_UNDEFINED, VIR_DOMAIN_EVENT_UNDEFINED_REMOVED);
    return 0;
}

/* Its destination did not answer the VMM, which keeps it paused then. */
static bool kumoMigrationIsUncertain(virDomainObj *vm)
{
    kumoMonitorSent sent = KUMO_MONITOR_SENT_NOT;
    kumoMonitor *mon;
    int rc;

    if (vm->job->phase != KUMO_PHASE_PERFORM || !virDomainObjIsActive(vm))
        return false;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorSentState(mon, &sent);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0) {
        virResetLastError();
        return false;
    }
    return sent == KUMO_MONITOR_SENT_UNKNOWN;
}

int kumoMigrationConfirm(virDomainObj *vm, kumoMigrationCookies *cookies, unsigned int flags,
                         bool cancelled)
{
    g_autoptr(kumoCookie) cookie = kumoCookieParse(cookies->in, (size_t)cookies->inLen);
    bool gone = vm->job->phase == KUMO_PHASE_PERFORM_DONE;

    if (!cookie)
        virResetLastError(); /* it has nothing that is needed */
    if (vm->job->phase == KUMO_PHASE_POSTCOPY) {
        if (kumoJobStreamWait(vm, 0) < 0) {
            kumoMigrationFailed(vm, NULL);
            return -1;
        }
        ignore_value(kumoJobRefresh(vm));
        gone = true;
    }
    /* What its destination did not say to the VMM, the daemon there does. */
    if (!gone && !cancelled)
        gone = kumoMigrationIsUncertain(vm);
    if (gone && cancelled)
        VIR_WARN("domain %s: its VM is at the destination, whose daemon has not confirmed it",
                 vm->def->name);
    if (!cancelled && flags & VIR_MIGRATE_UNDEFINE_SOURCE && gone) {
        vm->job->apiFlags = flags;
        kumoMigrationSetAway(vm);
        kumoJobSetPhase(vm, KUMO_PHASE_CONFIRM);
    }
    if (!cancelled && flags & VIR_MIGRATE_UNDEFINE_SOURCE && (gone || flags & VIR_MIGRATE_OFFLINE))
        return kumoMigrationUndefine(vm);
    if (gone)
        kumoMigrationLeave(vm);
    return 0;
}

void kumoMigrationAbandon(virDomainObj *vm, virConnectPtr conn G_GNUC_UNUSED)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (vm->job->asyncJob != VIR_ASYNC_JOB_MIGRATION_OUT)
        return;
    VIR_WARN("domain %s: the client that migrates it has gone", vm->def->name);
    /* While the VMM sends, a thread of ours waits for it and does the rest. */
    if (vm->job->asyncOwner)
        return;
    /* What ends it is the VMM. */
    if (vm->job->phase == KUMO_PHASE_POSTCOPY && priv->stream == KUMO_STREAM_RUNNING) {
        priv->migrationAbandoned = true;
        return;
    }
    if (vm->job->phase == KUMO_PHASE_POSTCOPY && priv->stream == KUMO_STREAM_FINISHED)
        kumoMigrationLeave(vm);
    if (vm->job->phase == KUMO_PHASE_PERFORM_DONE)
        kumoMigrationLeave(vm);
    kumoJobEnd(vm);
    kumoDomainRemoveInactive(priv->driver, vm);
}

/* --- a daemon that comes later --- */

void kumoMigrationRecoverAway(virDomainObj *vm)
{
    if (vm->job->phase != KUMO_PHASE_CONFIRM || !(vm->job->apiFlags & VIR_MIGRATE_UNDEFINE_SOURCE))
        kumoMigrationLeave(vm);
    else if (kumoMigrationUndefine(vm) < 0)
        VIR_WARN("domain %s: its VM is at the destination, but: %s", vm->def->name,
                 virGetLastErrorMessage());
}

/* Memory follows the guest. An event tells of the end, and may have done so already. */
static void kumoMigrationRecoverPostcopy(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    int reason;

    if (priv->postcopy == KUMO_POSTCOPY_NONE)
        priv->postcopy = KUMO_POSTCOPY_STARTED;
    if (priv->stream == KUMO_STREAM_FINISHED) {
        kumoMigrationLeave(vm);
        return;
    }
    if (virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED &&
        reason == VIR_DOMAIN_PAUSED_POSTCOPY_FAILED) {
        /* It may be news that it has been resumed, or that it is broken again. */
        if (priv->postcopy != KUMO_POSTCOPY_FAILED)
            kumoJobPostcopyFollows(vm);
        return;
    }
    if (virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED &&
        reason == VIR_DOMAIN_PAUSED_POSTCOPY)
        return;
    kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY,
                       VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY);
}

/*
 * Calls off what nobody would confirm.
 *
 * Returns: 0 with what is certain in @sent, or -1 with the error reported: the VMM does not say,
 * or not yet, for it waits for the destination's last word.
 */
static int kumoMigrationEndSending(virDomainObj *vm, kumoMonitorSent *sent)
{
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc;

    /* Too late, or over, is an answer, too. */
    ignore_value(kumoMonitorCancelMigration(mon));
    virResetLastError();
    rc = kumoMonitorSentState(mon, sent);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    if (*sent != KUMO_MONITOR_SENT_UNDER_WAY)
        return 0;
    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("another step of the migration of domain '%s' is under way"), vm->def->name);
    return -1;
}

void kumoMigrationRecoverOut(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoMonitorSent sent = KUMO_MONITOR_SENT_NOT;
    unsigned long long now;
    bool told = false;

    if (priv->migratedAway) {
        kumoMigrationRecoverAway(vm);
        return;
    }
    /* The event that tells of the end may be read already: whoever asks has to hear it. */
    while (kumoMigrationEndSending(vm, &sent) < 0) {
        if (!virDomainObjIsActive(vm))
            return;
        if (!told)
            VIR_WARN("domain %s: what became of its migration is not known yet: %s", vm->def->name,
                     virGetLastErrorMessage());
        told = true;
        virResetLastError();
        if (vm->job->phase == KUMO_PHASE_BEGIN || !kumoProcessIsAlive(vm) ||
            virTimeMillisNow(&now) < 0)
            return;
        virDomainObjWaitUntil(vm, now + KUMO_SENDING_LOOK_MS);
    }
    if (sent == KUMO_MONITOR_SENT_DONE)
        kumoMigrationLeave(vm);
    else if (sent == KUMO_MONITOR_SENT_FOLLOWS)
        kumoMigrationRecoverPostcopy(vm);
    else if (sent == KUMO_MONITOR_SENT_BROKEN)
        kumoJobPostcopyBroken(vm, _("the connection broke while no daemon was there"));
}
