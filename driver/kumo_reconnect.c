/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_reconnect.h"

#include "driver/kumo_cgroup.h"
#include "driver/kumo_hotplug.h"
#include "driver/kumo_hotplug_memory.h"
#include "driver/kumo_interface.h"
#include "driver/kumo_job.h"
#include "driver/kumo_lifecycle.h"
#include "driver/kumo_log.h"
#include "driver/kumo_migration.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_perf.h"
#include "driver/kumo_process.h"
#include "driver/kumo_resize.h"
#include "driver/kumo_run.h"
#include "driver/kumo_save.h"
#include "virnetdev.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_reconnect");

/* A client that embeds the driver may ask one question and go: it should not be told of yesterday.
 */
#define KUMO_RECONNECT_WAIT_US (2 * G_USEC_PER_SEC)

/* How many reconnects are under way. It outlives whoever no longer waits. */
typedef struct {
    gint refs; /* atomic */
    GMutex lock;
    GCond changed;
    unsigned int pending;
    kumoDriver *driver;
} kumoReconnects;

typedef struct {
    kumoReconnects *all;
    virDomainObj *vm;
    /* The job that the daemon before us left. */
    virDomainAsyncJob job;
} kumoReconnect;

static void kumoReconnectsUnref(kumoReconnects *all)
{
    if (!g_atomic_int_dec_and_test(&all->refs))
        return;
    g_mutex_clear(&all->lock);
    g_cond_clear(&all->changed);
    g_free(all);
}

/* A start that the last daemon did not bring to its end has failed. */
static bool kumoReconnectIsHalfStarted(virDomainObj *vm)
{
    int reason;

    return virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED &&
           reason == VIR_DOMAIN_PAUSED_STARTING_UP;
}

/* Brings the domain's state in line with the VMM's. */
static void kumoReconnectSync(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_auto(kumoMonitorInfo) info = { 0 };
    kumoMonitor *mon;
    int rc;

    if (kumoReconnectIsHalfStarted(vm)) {
        VIR_WARN("domain %s: its start was not brought to an end", vm->def->name);
        kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_FAILED);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
        return;
    }

    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorGetInfo(mon, &info);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return;
    if (rc < 0) {
        VIR_WARN("domain %s: its VMM does not answer: %s", vm->def->name, virGetLastErrorMessage());
        return;
    }

    kumoHotplugSync(vm, (const char *const *)info.devices);
    kumoResizeSync(vm, info.vcpus);
    kumoInterfacesReconnect(priv->driver, vm->def);

    switch (info.state) {
    case KUMO_MONITOR_STATE_RUNNING:
        priv->bootPending = false;
        kumoLifecycleOnline(vm);
        if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_RUNNING)
            virDomainObjSetState(vm, VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_UNKNOWN);
        break;
    case KUMO_MONITOR_STATE_PAUSED:
        if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_PAUSED)
            virDomainObjSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_UNKNOWN);
        break;
    case KUMO_MONITOR_STATE_CREATED:
    case KUMO_MONITOR_STATE_SHUTDOWN:
        if (!priv->bootPending) {
            kumoLifecycleGuestEnded(vm);
            return;
        }
        break;
    }
    kumoHotplugRefreshMemory(vm);
    kumoDomainSaveStatus(vm);
}

/* Brings a job to an end that nobody will take up again. */
static void kumoReconnectRecover(virDomainObj *vm, const kumoReconnect *one)
{
    switch (one->job) {
    case VIR_ASYNC_JOB_SAVE:
        kumoSaveRecover(vm);
        break;
    case VIR_ASYNC_JOB_START:
        kumoSaveRecoverIncoming(vm);
        break;
    default:
        break;
    }
}

/* Others may ask for the domain meanwhile, and end it: it can take long. */
static void kumoReconnectIncoming(virDomainObj *vm)
{
    if (kumoJobResume(vm, VIR_ASYNC_JOB_MIGRATION_IN) < 0)
        return;
    if (virDomainObjIsActive(vm) && !kumoReconnectIsHalfStarted(vm))
        kumoMigrationRecoverIn(vm);
    if (virDomainObjIsActive(vm))
        kumoReconnectSync(vm);
    if (virDomainObjIsActive(vm))
        kumoMigrationRecoverMemory(vm);
    kumoJobEnd(vm);
}

/* Until it is at its end, a daemon that comes after us has to do it. */
static void kumoReconnectOutgoing(virDomainObj *vm)
{
    if (kumoJobResume(vm, VIR_ASYNC_JOB_MIGRATION_OUT) < 0)
        return;
    if (virDomainObjIsActive(vm))
        kumoMigrationRecoverOut(vm);
    kumoJobEnd(vm);
}

static void kumoReconnectThread(void *opaque)
{
    g_autofree kumoReconnect *one = opaque;
    virDomainObj *vm = one->vm;
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;

    virObjectLock(vm);
    if (one->job == VIR_ASYNC_JOB_MIGRATION_OUT)
        kumoReconnectOutgoing(vm);
    if (one->job == VIR_ASYNC_JOB_MIGRATION_IN) {
        kumoReconnectIncoming(vm);
    } else if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) == 0) {
        if (virDomainObjIsActive(vm))
            kumoReconnectRecover(vm, one);
        if (virDomainObjIsActive(vm))
            kumoReconnectSync(vm);
        virDomainObjEndJob(vm);
    }
    kumoDomainRemoveInactive(driver, vm);
    virDomainObjEndAPI(&vm);

    g_mutex_lock(&one->all->lock);
    one->all->pending--;
    g_cond_signal(&one->all->changed);
    g_mutex_unlock(&one->all->lock);
    kumoReconnectsUnref(one->all);
}

static void kumoReconnectReserve(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    int last;

    while ((last = g_atomic_int_get(&driver->lastId)) < vm->def->id &&
           !g_atomic_int_compare_and_exchange(&driver->lastId, last, vm->def->id))
        ;
    for (size_t i = 0; i < vm->def->nnets; i++) {
        if (vm->def->nets[i]->ifname)
            virNetDevReserveName(vm->def->nets[i]->ifname);
    }
    if (virSecurityManagerReserveLabel(driver->security, vm->def, vm->pid) < 0)
        VIR_WARN("domain %s: its security label could not be reserved", vm->def->name);
    priv->identified = true;
}

static int kumoReconnectOne(virDomainObj *vm, void *opaque)
{
    kumoReconnects *all = opaque;
    kumoDriver *driver = all->driver;
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoReconnect *one;
    virDomainAsyncJob job;
    kumoMigrationPhase phase;
    unsigned int flags;
    virThread thread;

    virObjectLock(vm);
    /* No thread of ours has it. */
    job = vm->job->asyncJob;
    phase = (kumoMigrationPhase)vm->job->phase;
    flags = vm->job->apiFlags;
    virDomainObjResetAsyncJob(vm->job);
    if (!virDomainObjIsActive(vm))
        goto cleanup;
    if (priv->migrationPort && virPortAllocatorSetUsed(priv->migrationPort) < 0)
        VIR_WARN("port %u of domain %s cannot be reserved", priv->migrationPort, vm->def->name);

    kumoReconnectReserve(vm);
    kumoLogFind(vm);
    if (g_atomic_int_add(&driver->nactive, 1) == 0 && driver->inhibit)
        driver->inhibit(true, driver->inhibitOpaque);

    /* The VMM's events, which are read from here on, are those of a VM that goes or comes. */
    if ((job == VIR_ASYNC_JOB_MIGRATION_OUT || job == VIR_ASYNC_JOB_MIGRATION_IN) &&
        kumoJobRestore(vm, job, phase, flags) < 0)
        VIR_WARN("domain %s: its migration cannot be brought to an end: %s", vm->def->name,
                 virGetLastErrorMessage());

    /* Opened first: a process that ends after this is noticed by its pidfd. */
    if (!kumoProcessIsAlive(vm) || kumoProcessWatch(vm) < 0 || !kumoProcessIsAlive(vm) ||
        kumoCgroupReconnect(vm) < 0) {
        g_autofree char *tail = kumoLogTail(vm);

        if (priv->migratedAway) {
            kumoMigrationRecoverAway(vm);
            goto stopped;
        }
        VIR_WARN("domain %s: its VMM is gone; its log ends with: %s", vm->def->name,
                 NULLSTR_EMPTY(tail));
        kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_CRASHED);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
    stopped:
        kumoJobEnd(vm);
        goto cleanup;
    }
    kumoPerfReconnect(vm);

    one = g_new0(kumoReconnect, 1);
    one->all = all;
    one->vm = virObjectRef(vm);
    one->job = job;
    g_atomic_int_inc(&all->refs);
    g_mutex_lock(&all->lock);
    all->pending++;
    g_mutex_unlock(&all->lock);
    if (virThreadCreateFull(&thread, false, kumoReconnectThread, "kumo-reconnect", false, one) <
        0) {
        VIR_WARN("domain %s: no thread to reconnect to its VMM", vm->def->name);
        g_mutex_lock(&all->lock);
        all->pending--;
        g_mutex_unlock(&all->lock);
        kumoReconnectsUnref(all);
        kumoJobEnd(vm);
        virObjectUnref(vm);
        g_free(one);
    }

cleanup:
    virObjectUnlock(vm);
    return 0;
}

static int kumoReconnectRemove(virDomainObj *vm, void *opaque G_GNUC_UNUSED)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    virObjectLock(vm);
    if (!vm->persistent && !virDomainObjIsActive(vm))
        virDomainObjListRemoveLocked(priv->driver->domains, vm);
    virObjectUnlock(vm);
    return 0;
}

void kumoReconnectAll(kumoDriver *driver)
{
    kumoReconnects *all = g_new0(kumoReconnects, 1);
    gint64 deadlineUs = g_get_monotonic_time() + KUMO_RECONNECT_WAIT_US;

    all->refs = 1;
    all->driver = driver;
    g_mutex_init(&all->lock);
    g_cond_init(&all->changed);

    virDomainObjListForEach(driver->domains, false, kumoReconnectOne, all);
    virDomainObjListForEach(driver->domains, true, kumoReconnectRemove, NULL);

    g_mutex_lock(&all->lock);
    while (driver->embeddedRoot && all->pending > 0 &&
           g_cond_wait_until(&all->changed, &all->lock, deadlineUs))
        ;
    g_mutex_unlock(&all->lock);
    kumoReconnectsUnref(all);
}
