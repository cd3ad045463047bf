/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_lifecycle.h"

#include "driver/kumo_cgroup.h"
#include "driver/kumo_hotplug.h"
#include "driver/kumo_interface.h"
#include "driver/kumo_job.h"
#include "driver/kumo_log.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_process.h"
#include "driver/kumo_resize.h"
#include "driver/kumo_run.h"
#include "driver/kumo_unplug.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_lifecycle");

typedef enum {
    KUMO_WORK_GUEST_ENDED,
    KUMO_WORK_GUEST_PANICKED,
    KUMO_WORK_STOP_AT_REBOOT,
    KUMO_WORK_PROCESS_ENDED,
    KUMO_WORK_DEVICE_REMOVED,
    KUMO_WORK_BALLOON_CHANGED,
    KUMO_WORK_MIGRATED,
} kumoWorkKind;

typedef struct {
    kumoWorkKind kind;
    virDomainObj *vm;
    int id;      /* of the run that it is about */
    char *alias; /* of the device that it is about, or NULL */
} kumoWork;

static void kumoWorkFree(kumoWork *work)
{
    g_free(work->alias);
    g_free(work);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoWork, kumoWorkFree)

static void kumoLifecycleSubmitDevice(virDomainObj *vm, kumoWorkKind kind, const char *alias)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoWork *work = g_new0(kumoWork, 1);

    work->kind = kind;
    work->vm = virObjectRef(vm);
    work->id = vm->def->id;
    work->alias = g_strdup(alias);
    if (virThreadPoolSendJob(priv->driver->workers, 0, work) < 0) {
        VIR_ERROR(_("domain %s: no worker for what happened to it"), vm->def->name);
        virObjectUnref(vm);
        kumoWorkFree(work);
    }
}

static void kumoLifecycleSubmit(virDomainObj *vm, kumoWorkKind kind)
{
    kumoLifecycleSubmitDevice(vm, kind, NULL);
}

static void kumoLifecyclePlace(virDomainObj *vm)
{
    if (kumoCgroupPlaceThreads(vm) < 0)
        VIR_WARN("domain %s: %s", vm->def->name, virGetLastErrorMessage());
}

static int kumoLifecyclePausedDetail(virDomainPausedReason reason)
{
    switch (reason) {
    case VIR_DOMAIN_PAUSED_MIGRATION:
        return VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED;
    case VIR_DOMAIN_PAUSED_POSTCOPY:
        return VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY;
    case VIR_DOMAIN_PAUSED_POSTCOPY_FAILED:
        return VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED;
    default:
        return VIR_DOMAIN_EVENT_SUSPENDED_PAUSED;
    }
}

void kumoLifecyclePaused(virDomainObj *vm, virDomainPausedReason reason)
{
    if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_RUNNING)
        return;
    /* No device takes an address while another one has it: the guest's next host may be this one.
     */
    if (reason == VIR_DOMAIN_PAUSED_MIGRATION || reason == VIR_DOMAIN_PAUSED_POSTCOPY)
        kumoInterfacesOffline(vm->def);
    kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, (int)reason, VIR_DOMAIN_EVENT_SUSPENDED,
                       kumoLifecyclePausedDetail(reason));
}

static int kumoLifecycleResumedDetail(virDomainRunningReason reason)
{
    switch (reason) {
    case VIR_DOMAIN_RUNNING_MIGRATED:
    case VIR_DOMAIN_RUNNING_MIGRATION_CANCELED:
        return VIR_DOMAIN_EVENT_RESUMED_MIGRATED;
    case VIR_DOMAIN_RUNNING_POSTCOPY:
        return VIR_DOMAIN_EVENT_RESUMED_POSTCOPY;
    case VIR_DOMAIN_RUNNING_RESTORED:
        return VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT;
    default:
        return VIR_DOMAIN_EVENT_RESUMED_UNPAUSED;
    }
}

void kumoLifecycleOnline(virDomainObj *vm)
{
    if (kumoInterfacesOnline(vm->def) == 0)
        return;
    VIR_WARN("domain %s: %s", vm->def->name, virGetLastErrorMessage());
    virResetLastError();
}

void kumoLifecycleResumed(virDomainObj *vm, virDomainRunningReason reason)
{
    if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_PAUSED)
        return;
    /* Of a guest that came from elsewhere the threads are new. */
    kumoLifecyclePlace(vm);
    kumoLifecycleOnline(vm);
    kumoDomainSetState(vm, VIR_DOMAIN_RUNNING, (int)reason, VIR_DOMAIN_EVENT_RESUMED,
                       kumoLifecycleResumedDetail(reason));
}

/* Why the VMM has paused or resumed the guest: the job that is under way may be the reason. */
static virDomainPausedReason kumoLifecyclePauseReason(const virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;

    if (vm->job->asyncJob != VIR_ASYNC_JOB_MIGRATION_OUT)
        return priv->pauseReason;
    return priv->postcopyAsked ? VIR_DOMAIN_PAUSED_POSTCOPY : VIR_DOMAIN_PAUSED_MIGRATION;
}

static virDomainRunningReason kumoLifecycleResumeReason(const virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;

    switch (vm->job->asyncJob) {
    case VIR_ASYNC_JOB_MIGRATION_OUT:
        return VIR_DOMAIN_RUNNING_MIGRATION_CANCELED;
    case VIR_ASYNC_JOB_MIGRATION_IN:
        return priv->postcopy == KUMO_POSTCOPY_STARTED ? VIR_DOMAIN_RUNNING_POSTCOPY
                                                       : VIR_DOMAIN_RUNNING_MIGRATED;
    case VIR_ASYNC_JOB_SAVE:
        return VIR_DOMAIN_RUNNING_SAVE_CANCELED;
    case VIR_ASYNC_JOB_START:
        return VIR_DOMAIN_RUNNING_RESTORED;
    default:
        return VIR_DOMAIN_RUNNING_UNPAUSED;
    }
}

/*
 * Does an event only tell what a call of ours did? Who made the call has set the state, and may
 * have set it to something else since.
 */
static bool kumoLifecycleIsEcho(unsigned int *calls)
{
    if (*calls == 0)
        return false;
    (*calls)--;
    return true;
}

/*
 * Calls the VMM, whose event is counted in @calls.
 *
 * Returns: 0, or -1 with the error reported. @happened then: the event came, though the answer did
 * not.
 */
static int kumoLifecycleCall(virDomainObj *vm, int (*call)(kumoMonitor *mon), unsigned int *calls,
                             bool *happened)
{
    unsigned int expected = ++*calls;
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = call(mon);

    *happened = false;
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc == 0)
        return 0;
    *happened = *calls < expected;
    if (!*happened)
        (*calls)--;
    return -1;
}

int kumoLifecyclePause(virDomainObj *vm, virDomainPausedReason reason)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    bool happened;
    int rc = kumoLifecycleCall(vm, kumoMonitorPause, &priv->ownPauses, &happened);

    if (rc == 0 || happened)
        kumoLifecyclePaused(vm, reason);
    return rc;
}

int kumoLifecycleResume(virDomainObj *vm, virDomainRunningReason reason)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    bool happened;
    int rc;

    if (kumoInterfacesOnline(vm->def) < 0)
        return -1;
    rc = kumoLifecycleCall(vm, kumoMonitorResume, &priv->ownResumes, &happened);
    if (rc == 0 || happened)
        kumoLifecycleResumed(vm, reason);
    return rc;
}

static void kumoLifecycleRebooted(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    kumoResizeRebooted(vm);
    kumoLifecyclePlace(vm);
    /* The new machine begins with what was asked for. */
    if (vm->def->nmems > 0)
        kumoLifecycleSubmit(vm, KUMO_WORK_BALLOON_CHANGED);
    virObjectEventStateQueue(priv->driver->events, virDomainEventRebootNewFromObj(vm));
    if (vm->def->onReboot == VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY)
        kumoLifecycleSubmit(vm, KUMO_WORK_STOP_AT_REBOOT);
}

static void kumoLifecycleDiskEvent(virDomainObj *vm, const virDomainDiskDef *disk,
                                   const kumoEvent *what)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virObjectEventState *events = priv->driver->events;
    const char *path = virDomainDiskGetSource(disk);
    const char *alias = disk->info.alias;
    const char *reason = STREQ_NULLABLE(what->error, "ENOSPC") ? "enospc" : "";

    if (STREQ(what->event, "block-threshold")) {
        virObjectEventStateQueue(events, virDomainEventBlockThresholdNewFromObj(
                                             vm, disk->dst, path, what->threshold, what->excess));
        return;
    }
    /* The guest is told, and goes on. */
    kumoCompatNoteIOError(disk->src, NULLSTR(what->error));
    virObjectEventStateQueue(events,
                             virDomainEventIOErrorNewFromObj(vm, NULLSTR_EMPTY(path), alias,
                                                             VIR_DOMAIN_EVENT_IO_ERROR_REPORT));
    virObjectEventStateQueue(
        events, virDomainEventIOErrorReasonNewFromObj(vm, NULLSTR_EMPTY(path), alias,
                                                      VIR_DOMAIN_EVENT_IO_ERROR_REPORT, reason));
}

static void kumoLifecycleDeviceEvent(virDomainObj *vm, const kumoEvent *what)
{
    if (STREQ(what->event, "target-reached")) {
        kumoLifecycleSubmit(vm, KUMO_WORK_BALLOON_CHANGED);
        return;
    }
    if (!what->id || (STRNEQ(what->event, "io-error") && STRNEQ(what->event, "block-threshold")))
        return;
    for (size_t i = 0; i < vm->def->ndisks; i++) {
        if (STREQ_NULLABLE(vm->def->disks[i]->info.alias, what->id))
            kumoLifecycleDiskEvent(vm, vm->def->disks[i], what);
    }
}

static void kumoLifecycleEvent(virDomainObj *vm, const kumoEvent *what)
{
    const char *source = what->source;
    const char *event = what->event;
    kumoDomainObjPrivate *priv = vm->privateData;

    if (STREQ(source, "guest") && STREQ(event, "panic")) {
        kumoLifecycleSubmit(vm, KUMO_WORK_GUEST_PANICKED);
        return;
    }
    if (STREQ(source, "virtio-device")) {
        kumoLifecycleDeviceEvent(vm, what);
        return;
    }
    if (STRNEQ(source, "vm"))
        return;
    if (kumoJobEvent(vm, what)) {
        if (kumoJobIsOverUnseen(vm))
            kumoLifecycleSubmit(vm, KUMO_WORK_MIGRATED);
        return;
    }

    if (STREQ(event, "rebooting")) {
        priv->rebooting = true;
    } else if (STREQ(event, "rebooted")) {
        priv->rebooting = false;
        kumoLifecycleRebooted(vm);
    } else if (STREQ(event, "shutdown")) {
        /* A reboot may shut the old VM down with an event of its own. */
        if (!priv->rebooting)
            kumoLifecycleSubmit(vm, KUMO_WORK_GUEST_ENDED);
    } else if (STREQ(event, "paused")) {
        if (!kumoLifecycleIsEcho(&priv->ownPauses))
            kumoLifecyclePaused(vm, kumoLifecyclePauseReason(vm));
    } else if (STREQ(event, "resumed")) {
        if (!kumoLifecycleIsEcho(&priv->ownResumes) && !priv->bootPending)
            kumoLifecycleResumed(vm, kumoLifecycleResumeReason(vm));
    } else if (STREQ(event, "vcpu-removed") && what->id) {
        kumoResizeVcpuRemoved(vm, what->id);
    } else if (STREQ(event, "device-removed") && what->id) {
        /* Whoever waits for it holds the job, and does the rest itself. */
        if (!kumoUnplugSeen(vm, what->id))
            kumoLifecycleSubmitDevice(vm, KUMO_WORK_DEVICE_REMOVED, what->id);
    } else if (STREQ(event, "device-removal-failed") && what->id) {
        kumoHotplugRemovalFailed(vm, what->id);
    }
}

static void kumoLifecycleProcessEnded(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    virDomainObjBroadcast(vm);
    if (!priv->beingDestroyed)
        kumoLifecycleSubmit(vm, KUMO_WORK_PROCESS_ENDED);
}

const kumoEventHandlers kumoLifecycleHandlers = {
    .event = kumoLifecycleEvent,
    .processEnded = kumoLifecycleProcessEnded,
};

/* Ends the run and tells why. */
static void kumoLifecycleEnd(virDomainObj *vm, virDomainShutoffReason reason, int detail)
{
    kumoRunStop(vm, reason);
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, detail);
    /* A migration between two of its steps: there will be no other. */
    if (vm->job->asyncJob != VIR_ASYNC_JOB_NONE && vm->job->asyncOwner == 0)
        kumoJobEnd(vm);
}

void kumoLifecycleGuestEnded(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    bool again = priv->rebootPending || vm->def->onPoweroff == VIR_DOMAIN_LIFECYCLE_ACTION_RESTART;

    if (!again) {
        kumoDomainSetState(vm, VIR_DOMAIN_SHUTDOWN, VIR_DOMAIN_SHUTDOWN_USER,
                           VIR_DOMAIN_EVENT_SHUTDOWN, VIR_DOMAIN_EVENT_SHUTDOWN_GUEST);
        kumoLifecycleEnd(vm, VIR_DOMAIN_SHUTOFF_SHUTDOWN, VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN);
        return;
    }

    priv->rebootPending = false;
    if (kumoRunBoot(vm) < 0) {
        if (!virDomainObjIsActive(vm))
            return; /* the process's end is handled by itself */
        VIR_ERROR(_("domain %s: the guest could not be started again: %s"), vm->def->name,
                  virGetLastErrorMessage());
        kumoLifecycleEnd(vm, VIR_DOMAIN_SHUTOFF_FAILED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
        return;
    }
    ignore_value(kumoRunRefreshConsoles(vm));
    kumoDomainSaveStatus(vm);
    kumoLifecycleRebooted(vm);
}

/* Has the guest really ended? An event says what was, not what is. */
static bool kumoLifecycleIsGuestGone(virDomainObj *vm)
{
    g_auto(kumoMonitorInfo) info = { 0 };
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorGetInfo(mon, &info);

    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return false;
    /* A VMM that no longer answers has said enough. */
    return rc < 0 || info.state == KUMO_MONITOR_STATE_CREATED ||
           info.state == KUMO_MONITOR_STATE_SHUTDOWN;
}

static void kumoLifecycleRestart(virDomainObj *vm)
{
    if (kumoRunStart(NULL, vm, VIR_DOMAIN_RUNNING_CRASHED, VIR_DOMAIN_EVENT_STARTED_BOOTED, 0) < 0)
        VIR_ERROR(_("domain %s: it could not be started again: %s"), vm->def->name,
                  virGetLastErrorMessage());
}

static void kumoLifecycleCrashed(virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;
    bool again = vm->def->onCrash == VIR_DOMAIN_LIFECYCLE_ACTION_RESTART;
    g_autofree char *tail = kumoLogTail(vm);

    if (priv->migratedAway) {
        kumoLifecycleEnd(vm, VIR_DOMAIN_SHUTOFF_MIGRATED, VIR_DOMAIN_EVENT_STOPPED_MIGRATED);
        return;
    }
    VIR_WARN("domain %s: its VMM ended unexpectedly; its log ends with: %s", vm->def->name,
             tail ? tail : "");
    kumoLifecycleEnd(vm, VIR_DOMAIN_SHUTOFF_CRASHED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
    if (again)
        kumoLifecycleRestart(vm);
}

static void kumoLifecyclePanicked(virDomainObj *vm)
{
    bool again = vm->def->onCrash == VIR_DOMAIN_LIFECYCLE_ACTION_RESTART;

    kumoDomainSetState(vm, VIR_DOMAIN_CRASHED, VIR_DOMAIN_CRASHED_PANICKED,
                       VIR_DOMAIN_EVENT_CRASHED, VIR_DOMAIN_EVENT_CRASHED_PANICKED);
    kumoLifecycleEnd(vm, VIR_DOMAIN_SHUTOFF_CRASHED, VIR_DOMAIN_EVENT_STOPPED_CRASHED);
    if (again)
        kumoLifecycleRestart(vm);
}

/*
 * Waits for the end of a migration and the like, as long as it takes: who has such a job notices
 * itself when the process ends. Between two steps of a migration nobody has it.
 */
static int kumoLifecycleBeginJob(virDomainObj *vm, const kumoWork *work)
{
    for (;;) {
        bool orphaned = vm->job->asyncJob != VIR_ASYNC_JOB_NONE && vm->job->asyncOwner == 0;

        if (virDomainObjBeginJob(vm, orphaned && (work->kind == KUMO_WORK_PROCESS_ENDED ||
                                                  work->kind == KUMO_WORK_MIGRATED)
                                         ? VIR_JOB_DESTROY
                                         : VIR_JOB_MODIFY) == 0)
            return 0;
        if (virGetLastErrorCode() != VIR_ERR_OPERATION_TIMEOUT ||
            vm->job->asyncJob == VIR_ASYNC_JOB_NONE || vm->def->id != work->id)
            return -1;
        virResetLastError();
    }
}

void kumoLifecycleWorker(void *job, void *opaque)
{
    g_autoptr(kumoWork) work = job;
    kumoDriver *driver = opaque;
    virDomainObj *vm = work->vm;
    kumoDomainObjPrivate *priv = vm->privateData;

    virObjectLock(vm);
    if (vm->def->id != work->id || priv->beingDestroyed)
        goto cleanup;
    if (kumoLifecycleBeginJob(vm, work) < 0) {
        VIR_ERROR(_("domain %s: what happened to it cannot be dealt with: %s"), vm->def->name,
                  virGetLastErrorMessage());
        goto cleanup;
    }
    if (!virDomainObjIsActive(vm) || vm->def->id != work->id)
        goto endjob;

    switch (work->kind) {
    case KUMO_WORK_GUEST_ENDED:
        if (kumoLifecycleIsGuestGone(vm) && virDomainObjIsActive(vm))
            kumoLifecycleGuestEnded(vm);
        break;
    case KUMO_WORK_GUEST_PANICKED:
        kumoLifecyclePanicked(vm);
        break;
    case KUMO_WORK_STOP_AT_REBOOT:
        kumoLifecycleEnd(vm, VIR_DOMAIN_SHUTOFF_SHUTDOWN, VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN);
        break;
    case KUMO_WORK_PROCESS_ENDED:
        if (!kumoProcessIsAlive(vm))
            kumoLifecycleCrashed(vm);
        break;
    case KUMO_WORK_DEVICE_REMOVED:
        kumoHotplugRemove(vm, work->alias);
        break;
    case KUMO_WORK_BALLOON_CHANGED:
        kumoResizeRefreshMemory(vm);
        break;
    case KUMO_WORK_MIGRATED:
        priv->migratedAway = true;
        kumoDomainSaveStatus(vm);
        kumoLifecycleEnd(vm, VIR_DOMAIN_SHUTOFF_MIGRATED, VIR_DOMAIN_EVENT_STOPPED_MIGRATED);
        break;
    }

endjob:
    virDomainObjEndJob(vm);
    kumoDomainRemoveInactive(driver, vm);
cleanup:
    virDomainObjEndAPI(&vm);
}
