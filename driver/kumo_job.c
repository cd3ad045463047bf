/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_job.h"

#include "driver/kumo_log.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_process.h"
#include "virthread.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_job");

/* How often the end of a process is looked for by who waits for its stream. */
#define KUMO_STREAM_LOOK_MS 500

#define KUMO_PAGE_BYTES 4096

int kumoJobBegin(virDomainObj *vm, virDomainAsyncJob job, virDomainJobOperation operation,
                 unsigned int apiFlags)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (virDomainObjBeginAsyncJob(vm, job, operation, apiFlags) < 0)
        return -1;
    vm->job->mask = VIR_JOB_DEFAULT_MASK;
    if (job == VIR_ASYNC_JOB_MIGRATION_OUT)
        vm->job->mask |= JOB_MASK(VIR_JOB_MIGRATION_OP) | JOB_MASK(VIR_JOB_SUSPEND);
    priv->stream = KUMO_STREAM_NONE;
    priv->postcopy = KUMO_POSTCOPY_NONE;
    priv->postcopyAsked = false;
    priv->migrationAbandoned = false;
    return 0;
}

void kumoJobEnd(virDomainObj *vm)
{
    if (vm->job->asyncJob != VIR_ASYNC_JOB_NONE)
        virDomainObjEndAsyncJob(vm);
}

void kumoJobRelease(virDomainObj *vm)
{
    vm->job->asyncOwner = 0;
    kumoDomainSaveStatus(vm);
}

int kumoJobResume(virDomainObj *vm, virDomainAsyncJob job)
{
    if (vm->job->asyncJob != job) {
        virReportError(VIR_ERR_OPERATION_INVALID, _("domain '%s' is not being migrated"),
                       vm->def->name);
        return -1;
    }
    if (vm->job->asyncOwner) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("another step of the migration of domain '%s' is under way"),
                       vm->def->name);
        return -1;
    }
    vm->job->asyncOwner = virThreadSelfID();
    return 0;
}

int kumoJobRestore(virDomainObj *vm, virDomainAsyncJob job, kumoMigrationPhase phase,
                   unsigned int apiFlags)
{
    const virDomainJobOperation operation = job == VIR_ASYNC_JOB_MIGRATION_OUT
                                                ? VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
                                                : VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN;
    kumoDomainObjPrivate *priv = vm->privateData;

    if (kumoJobBegin(vm, job, operation, apiFlags) < 0)
        return -1;
    vm->job->phase = (int)phase;
    if (phase == KUMO_PHASE_POSTCOPY)
        priv->postcopy = KUMO_POSTCOPY_STARTED;
    kumoJobRelease(vm);
    return 0;
}

void kumoJobSetPhase(virDomainObj *vm, kumoMigrationPhase phase)
{
    vm->job->phase = (int)phase;
    kumoDomainSaveStatus(vm);
}

virDomainJobStatus kumoJobFailedStatus(const virDomainObj *vm)
{
    return vm->job->abortJob ? VIR_DOMAIN_JOB_STATUS_CANCELED : VIR_DOMAIN_JOB_STATUS_FAILED;
}

static void kumoJobSetElapsed(virDomainJobData *job)
{
    unsigned long long now;

    if (job->started && virTimeMillisNow(&now) == 0 && now > job->started)
        job->timeElapsed = now - job->started;
}

void kumoJobComplete(virDomainObj *vm, virDomainJobStatus status)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virDomainJobObj *job = vm->job;
    virTypedParameterPtr params = NULL;
    int nparams = 0;
    kumoJobStats *stats;

    if (!job->current)
        return;
    stats = job->current->privateData;
    kumoJobSetElapsed(job->current);
    job->current->status = status;
    stats->remainingBytes = status == VIR_DOMAIN_JOB_STATUS_COMPLETED ? 0 : stats->remainingBytes;
    if (status != VIR_DOMAIN_JOB_STATUS_COMPLETED && !job->current->errmsg && priv->streamError)
        job->current->errmsg = g_strdup(priv->streamError);

    virDomainJobDataFree(job->completed);
    job->completed = virDomainJobDataCopy(job->current);
    if (kumoJobToParams(job->completed, &params, &nparams) < 0) {
        VIR_WARN("domain %s: the end of its job is not told: %s", vm->def->name,
                 virGetLastErrorMessage());
        return;
    }
    virObjectEventStateQueue(priv->driver->events,
                             virDomainEventJobCompletedNewFromObj(vm, params, nparams));
}

/* --- the VMM's stream --- */

static int kumoJobCheckAbort(const virDomainObj *vm)
{
    if (!vm->job->abortJob)
        return 0;
    virReportError(VIR_ERR_OPERATION_ABORTED, _("the job of domain '%s' was cancelled by a client"),
                   vm->def->name);
    return -1;
}

int kumoJobStreamBegin(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (kumoJobCheckAbort(vm) < 0)
        return -1;
    priv->stream = KUMO_STREAM_RUNNING;
    priv->streamIteration = 0;
    priv->postcopy = KUMO_POSTCOPY_NONE;
    priv->postcopyAsked = false;
    memset(priv->streamRoundMs, 0, sizeof(priv->streamRoundMs));
    g_clear_pointer(&priv->streamError, g_free);
    return 0;
}

static int kumoJobStreamFailed(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (kumoJobCheckAbort(vm) == 0)
        virReportError(VIR_ERR_OPERATION_FAILED, "%s",
                       priv->streamError ? priv->streamError : _("the VMM does not say why"));
    return -1;
}

typedef bool (*kumoJobCondition)(const kumoDomainObjPrivate *priv);

static bool kumoJobStreamIsOver(const kumoDomainObjPrivate *priv)
{
    return priv->stream == KUMO_STREAM_FINISHED;
}

static bool kumoJobGuestIsAway(const kumoDomainObjPrivate *priv)
{
    return priv->stream == KUMO_STREAM_FINISHED || priv->postcopy == KUMO_POSTCOPY_STARTED;
}

static bool kumoJobMemoryIsHere(const kumoDomainObjPrivate *priv)
{
    return priv->postcopy == KUMO_POSTCOPY_COMPLETED;
}

static int kumoJobWaitFor(virDomainObj *vm, unsigned long long timeoutMs, kumoJobCondition is,
                          virConnectPtr peer)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    unsigned long long now, end = 0;
    int id = vm->def->id;

    while (virDomainObjIsActive(vm) && vm->def->id == id) {
        if (is(priv))
            return 0;
        if (priv->stream == KUMO_STREAM_FAILED || priv->postcopy == KUMO_POSTCOPY_FAILED)
            return kumoJobStreamFailed(vm);
        if (peer && virConnectIsAlive(peer) <= 0) {
            virResetLastError();
            return 1;
        }
        if (virTimeMillisNow(&now) < 0)
            return -1;
        if (end == 0)
            end = timeoutMs ? now + timeoutMs : G_MAXUINT64;
        if (now >= end) {
            virReportError(VIR_ERR_OPERATION_TIMEOUT,
                           _("the VM of domain '%s' has not come in time"), vm->def->name);
            return -1;
        }
        if (!kumoProcessIsAlive(vm) &&
            (priv->stream == KUMO_STREAM_RUNNING || priv->postcopy == KUMO_POSTCOPY_STARTED)) {
            g_autofree char *tail = kumoLogTail(vm);

            virReportError(VIR_ERR_OPERATION_FAILED,
                           _("the VMM of domain '%s' ended unexpectedly; its log ends with: %s"),
                           vm->def->name, tail ? tail : "");
            return -1;
        }
        virDomainObjWaitUntil(vm, MIN(end, now + KUMO_STREAM_LOOK_MS));
    }
    virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%s' ended meanwhile"), vm->def->name);
    return -1;
}

int kumoJobStreamWait(virDomainObj *vm, unsigned long long timeoutMs)
{
    return kumoJobWaitFor(vm, timeoutMs, kumoJobStreamIsOver, NULL);
}

int kumoJobMigrationWait(virDomainObj *vm, virConnectPtr peer)
{
    return kumoJobWaitFor(vm, 0, kumoJobGuestIsAway, peer);
}

int kumoJobPostcopyWait(virDomainObj *vm)
{
    return kumoJobWaitFor(vm, 0, kumoJobMemoryIsHere, NULL);
}

static bool kumoJobGuestStands(const virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;

    return vm->def->id == -1 || priv->stream != KUMO_STREAM_RUNNING ||
           virDomainObjGetState((virDomainObj *)vm, NULL) != VIR_DOMAIN_RUNNING;
}

int kumoJobStopGuest(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    unsigned long long now;
    kumoMonitor *mon;
    int rc;

    if (priv->stream != KUMO_STREAM_RUNNING) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("another step of the migration of domain '%s' is under way"),
                       vm->def->name);
        return -1;
    }
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorUpdateMigration(mon, json_pack("{s:b}", "stop_guest", 1));
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    while (!kumoJobGuestStands(vm)) {
        if (virTimeMillisNow(&now) < 0)
            return -1;
        virDomainObjWaitUntil(vm, now + KUMO_STREAM_LOOK_MS);
    }
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    return virDomainObjGetState(vm, NULL) == VIR_DOMAIN_RUNNING ? 1 : 0;
}

bool kumoJobIsOverUnseen(const virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;

    return priv->postcopy == KUMO_POSTCOPY_STARTED && priv->stream == KUMO_STREAM_FINISHED &&
           (vm->job->asyncJob == VIR_ASYNC_JOB_NONE ||
            (vm->job->asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT && vm->job->asyncOwner == 0 &&
             priv->migrationAbandoned));
}

/* The guest can go on neither here nor at the other end. */
static void kumoJobPostcopyFailed(virDomainObj *vm, const char *why)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    int reason;

    priv->postcopy = KUMO_POSTCOPY_FAILED;
    g_free(priv->streamError);
    priv->streamError = g_strdup(why);
    if (virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED &&
        reason == VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)
        return;
    kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
                       VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED);
}

/* A connection has broken. Here the guest runs on, as far as it gets without the rest. */
void kumoJobPostcopyBroken(virDomainObj *vm, const char *why)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    int reason;

    if (virDomainObjGetState(vm, &reason) != VIR_DOMAIN_RUNNING) {
        kumoJobPostcopyFailed(vm, why);
        return;
    }
    priv->postcopy = KUMO_POSTCOPY_FAILED;
    g_free(priv->streamError);
    priv->streamError = g_strdup(why);
    if (reason != VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
        kumoDomainSetState(vm, VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_POSTCOPY_FAILED,
                           VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED);
}

void kumoJobPostcopyFollows(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    int reason;
    virDomainState state = virDomainObjGetState(vm, &reason);

    priv->postcopy = KUMO_POSTCOPY_STARTED;
    g_clear_pointer(&priv->streamError, g_free);
    if (state == VIR_DOMAIN_RUNNING && reason == VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
        kumoDomainSetState(vm, VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_POSTCOPY,
                           VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_POSTCOPY);
    else if (state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)
        kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY,
                           VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY);
}

/* Nobody may wait for that any more. */
static void kumoJobPostcopyCompleted(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    int reason;

    priv->postcopy = KUMO_POSTCOPY_COMPLETED;
    if (vm->job->asyncJob == VIR_ASYNC_JOB_NONE &&
        virDomainObjGetState(vm, &reason) == VIR_DOMAIN_RUNNING &&
        (reason == VIR_DOMAIN_RUNNING_POSTCOPY || reason == VIR_DOMAIN_RUNNING_POSTCOPY_FAILED))
        kumoDomainSetState(vm, VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_MIGRATED,
                           VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_MIGRATED);
}

static void kumoJobPostcopyEvent(virDomainObj *vm, const char *what, const kumoEvent *event)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    int reason;

    if (STREQ(what, "started")) {
        priv->postcopy = KUMO_POSTCOPY_STARTED;
        /* For a daemon that comes after us: this event is read once. */
        if (vm->job->asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT)
            kumoJobSetPhase(vm, KUMO_PHASE_POSTCOPY);
        if (vm->job->asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT &&
            virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED &&
            reason == VIR_DOMAIN_PAUSED_MIGRATION)
            kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY,
                               VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY);
    } else if (STREQ(what, "completed")) {
        kumoJobPostcopyCompleted(vm);
    } else if (STREQ(what, "recovered")) {
        kumoJobPostcopyFollows(vm);
    } else if (STREQ(what, "failed")) {
        kumoJobPostcopyFailed(vm, event->error);
    } else if (STREQ(what, "paused")) {
        kumoJobPostcopyBroken(vm, event->error);
    }
    virDomainObjBroadcast(vm);
}

static void kumoJobIteration(virDomainObj *vm, long long number)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoJobStats *stats = vm->job->current ? vm->job->current->privateData : NULL;
    unsigned long long now = 0;

    ignore_value(virTimeMillisNow(&now));
    priv->streamIteration = (unsigned int)number + 1;
    priv->streamRoundMs[0] = priv->streamRoundMs[1];
    priv->streamRoundMs[1] = now;
    if (stats && !stats->hasSetup && now > vm->job->current->started) {
        stats->hasSetup = true;
        stats->setupMs = now - vm->job->current->started;
    }
    if (vm->job->asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT)
        virObjectEventStateQueue(priv->driver->events, virDomainEventMigrationIterationNewFromObj(
                                                           vm, (int)priv->streamIteration));
}

bool kumoJobEvent(virDomainObj *vm, const kumoEvent *event)
{
    static const char prefix[] = "migration-", postcopy[] = "postcopy-migration-";
    kumoDomainObjPrivate *priv = vm->privateData;
    const char *what = event->event;

    if (STRPREFIX(what, postcopy)) {
        kumoJobPostcopyEvent(vm, what + strlen(postcopy), event);
        return true;
    }
    if (!STRPREFIX(what, prefix))
        return false;
    what += strlen(prefix);
    if (STRPREFIX(what, "receive-"))
        what += strlen("receive-");

    if (STREQ(what, "finished")) {
        priv->stream = KUMO_STREAM_FINISHED;
    } else if (STREQ(what, "failed")) {
        priv->stream = KUMO_STREAM_FAILED;
        g_free(priv->streamError);
        priv->streamError = g_strdup(event->error);
        if (priv->postcopy == KUMO_POSTCOPY_STARTED)
            kumoJobPostcopyFailed(vm, event->error);
    } else if (STREQ(what, "memory-iteration") && event->number >= 0) {
        kumoJobIteration(vm, event->number);
    }
    virDomainObjBroadcast(vm);
    return true;
}

/* --- numbers --- */

int kumoJobRefresh(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoJobStats stats = { 0 };
    kumoMonitor *mon;
    int rc;

    if (priv->stream == KUMO_STREAM_NONE || !vm->job->current || !virDomainObjIsActive(vm))
        return 0;

    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorMigrationProgress(mon, &stats);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc < 0) {
        /* A process that is about to end says nothing more. */
        VIR_DEBUG("no progress: %s", virGetLastErrorMessage());
        virResetLastError();
        return 0;
    }
    if (vm->job->current) {
        kumoJobStats *current = vm->job->current->privateData;
        unsigned long long roundMs = priv->streamRoundMs[1] - priv->streamRoundMs[0];

        stats.hasSetup = current->hasSetup;
        stats.setupMs = current->setupMs;
        /* The VMM counts by rounds. */
        stats.dirtyPagesPerSecond =
            priv->streamRoundMs[0] && roundMs ? stats.dirtyPagesPerSecond * 1000 / roundMs : 0;
        *current = stats;
        if (vm->job->current->status == VIR_DOMAIN_JOB_STATUS_ACTIVE)
            vm->job->current->status = VIR_DOMAIN_JOB_STATUS_MIGRATING;
        kumoJobSetElapsed(vm->job->current);
    }
    return 0;
}

static void kumoJobAddMemory(virTypedParamList *list, const kumoJobStats *stats)
{
    unsigned long long processed = stats->sentBytes;

    kumoCompatAddULLong(list, stats->totalBytes, VIR_DOMAIN_JOB_DATA_TOTAL);
    kumoCompatAddULLong(list, processed, VIR_DOMAIN_JOB_DATA_PROCESSED);
    kumoCompatAddULLong(list, stats->remainingBytes, VIR_DOMAIN_JOB_DATA_REMAINING);
    kumoCompatAddULLong(list, stats->totalBytes, VIR_DOMAIN_JOB_MEMORY_TOTAL);
    kumoCompatAddULLong(list, processed, VIR_DOMAIN_JOB_MEMORY_PROCESSED);
    kumoCompatAddULLong(list, stats->remainingBytes, VIR_DOMAIN_JOB_MEMORY_REMAINING);
    kumoCompatAddULLong(list, stats->bytesPerSecond, VIR_DOMAIN_JOB_MEMORY_BPS);
    kumoCompatAddULLong(list, stats->zeroPages, VIR_DOMAIN_JOB_MEMORY_CONSTANT);
    kumoCompatAddULLong(list, stats->dataPages, VIR_DOMAIN_JOB_MEMORY_NORMAL);
    kumoCompatAddULLong(list, stats->dataPages * KUMO_PAGE_BYTES,
                        VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES);
    kumoCompatAddULLong(list, stats->dirtyPagesPerSecond, VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE);
    kumoCompatAddULLong(list, stats->iteration, VIR_DOMAIN_JOB_MEMORY_ITERATION);
    kumoCompatAddULLong(list, KUMO_PAGE_BYTES, VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE);
    /* Disks stay where they are. */
    kumoCompatAddULLong(list, 0, VIR_DOMAIN_JOB_DISK_TOTAL);
    kumoCompatAddULLong(list, 0, VIR_DOMAIN_JOB_DISK_PROCESSED);
    kumoCompatAddULLong(list, 0, VIR_DOMAIN_JOB_DISK_REMAINING);
    if (stats->throttle)
        kumoCompatAddInt(list, (int)stats->throttle, VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE);
}

int kumoJobToParams(const virDomainJobData *job, virTypedParameterPtr *params, int *nparams)
{
    g_autoptr(virTypedParamList) list = kumoCompatParamListNew();
    const kumoJobStats *stats = job->privateData;
    bool active = virDomainJobStatusToType(job->status) == VIR_DOMAIN_JOB_UNBOUNDED;

    kumoCompatAddInt(list, (int)job->operation, VIR_DOMAIN_JOB_OPERATION);
    kumoCompatAddULLong(list, job->timeElapsed, VIR_DOMAIN_JOB_TIME_ELAPSED);
    if (active && stats->bytesPerSecond)
        kumoCompatAddULLong(list, stats->remainingBytes * 1000 / stats->bytesPerSecond,
                            VIR_DOMAIN_JOB_TIME_REMAINING);
    if (stats->hasDowntime)
        kumoCompatAddULLong(list, stats->downtimeMs, VIR_DOMAIN_JOB_DOWNTIME);
    if (stats->hasSetup)
        kumoCompatAddULLong(list, stats->setupMs, VIR_DOMAIN_JOB_SETUP_TIME);
    kumoJobAddMemory(list, stats);
    if (!active) {
        kumoCompatAddBool(list, job->status == VIR_DOMAIN_JOB_STATUS_COMPLETED,
                          VIR_DOMAIN_JOB_SUCCESS);
        if (job->errmsg)
            kumoCompatAddString(list, job->errmsg, VIR_DOMAIN_JOB_ERRMSG);
    }
    return kumoCompatTakeParams(list, params, nparams);
}
