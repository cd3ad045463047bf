/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_run.h"

#include <unistd.h>

#include "domain-xml/xml.h"
#include "domain_audit.h"
#include "driver/conf/kumo_address.h"
#include "driver/kumo_cgroup.h"
#include "driver/kumo_interface.h"
#include "driver/kumo_job.h"
#include "driver/kumo_job_call.h"
#include "driver/kumo_log.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_perf.h"
#include "driver/kumo_pin.h"
#include "driver/kumo_prepare.h"
#include "driver/kumo_process.h"
#include "virclosecallbacks.h"
#include "virprocess.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_run");

/* Whoever sets a hard limit has said how much there may be of everything. */
static int kumoRunAllowLocks(virDomainObj *vm)
{
    unsigned long long limit = vm->def->mem.hard_limit;
    unsigned long long bytes =
        virMemoryLimitIsSet(limit) ? limit * 1024 : VIR_DOMAIN_MEMORY_PARAM_UNLIMITED;
    g_autofree char *why = NULL;

    if (!vm->def->mem.locked || virProcessSetMaxMemLock(vm->pid, bytes) == 0)
        return 0;
    why = g_strdup(virGetLastErrorMessage());
    virReportError(VIR_ERR_OPERATION_FAILED, _("/domain/memoryBacking/locked: %s"), why);
    return -1;
}

/* Before the VM is made: the threads and the memory that it gets then follow the main thread. */
static int kumoRunPlace(virDomainObj *vm)
{
    virBitmap *cpus =
        vm->def->cputune.emulatorpin ? vm->def->cputune.emulatorpin : vm->def->cpumask;

    if (kumoCgroupSetup(vm) < 0 || kumoPerfStart(vm) < 0 || kumoRunAllowLocks(vm) < 0)
        return -1;
    return cpus ? kumoPinEmulator(vm->pid, cpus) : 0;
}

/*
 * Everything that the VMM finds when it begins to run. What is taken from the host is on disk
 * before: a daemon that is killed meanwhile is followed by one that gives it back.
 */
static GPtrArray *kumoRunEquip(virDomainObj *vm, const kumoMonitorReceive *incoming)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(GPtrArray) taps = NULL;

    if (kumoRunPlace(vm) < 0 || kumoPrepareLabels(vm) < 0)
        return NULL;
    /* The kernel hands a confined process no file that its profile does not have. */
    if (incoming && incoming->fd >= 0 &&
        virSecurityManagerSetImageFDLabel(priv->driver->security, vm->def, incoming->fd) < 0)
        return NULL;
    priv->unclaimed = false;
    if (kumoInterfacesClaim(priv->driver, vm->def) < 0)
        return NULL;
    kumoDomainSaveStatus(vm);
    if (!(taps = kumoInterfacesConnect(priv->driver, vm->def)))
        return NULL;
    kumoDomainSaveStatus(vm);
    return g_steal_pointer(&taps);
}

/* Makes the VM in the VMM, up to where it only has to be booted, or has it come in. */
static int kumoRunCreateVm(virDomainObj *vm, KumoVmConfig *config, const GPtrArray *taps,
                           const kumoMonitorReceive *incoming)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    kumoMonitor *mon;
    int rc;

    /* The text only says how many descriptors a device has; they come beside it, in the same order.
     */
    for (guint i = 0; i < config->nets->len; i++) {
        const kumoTaps *tap = g_ptr_array_index(taps, i);

        kumoTapsAnnounce(tap, g_ptr_array_index(config->nets, i));
        g_array_append_vals(fds, tap->fds, (guint)tap->nfds);
    }

    if (incoming && kumoJobStreamBegin(vm) < 0)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorPing(mon);
    if (rc == 0 && incoming)
        rc = kumoMonitorReceiveVm(mon, incoming, config, (const int *)(void *)fds->data, fds->len);
    else if (rc == 0)
        rc = kumoMonitorCreate(mon, config, (const int *)(void *)fds->data, fds->len);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc < 0)
        priv->stream = KUMO_STREAM_NONE;
    return rc;
}

static void kumoRunSetPty(virDomainChrSourceDef *source, const char *path)
{
    if (source->type != VIR_DOMAIN_CHR_TYPE_PTY || !path)
        return;
    g_free(source->data.file.path);
    source->data.file.path = g_strdup(path);
}

int kumoRunRefreshConsoles(virDomainObj *vm)
{
    g_auto(kumoMonitorInfo) info = { 0 };
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorGetInfo(mon, &info);

    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;

    if (vm->def->nserials > 0)
        kumoRunSetPty(vm->def->serials[0]->source, info.serialPath);
    for (size_t i = 0; i < vm->def->nconsoles; i++) {
        virDomainChrDef *console = vm->def->consoles[i];

        kumoRunSetPty(console->source,
                      console->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_VIRTIO
                          ? info.consolePath
                          : info.serialPath);
    }
    return 0;
}

int kumoRunBoot(virDomainObj *vm)
{
    kumoMonitor *mon;
    int rc;

    if (kumoInterfacesOnline(vm->def) < 0)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorBoot(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    return kumoCgroupPlaceThreads(vm);
}

/* What makes a domain less safe, or harder to move, than others: for virsh dominfo and the log. */
static void kumoRunTaint(virDomainObj *vm, const kumoDriverConfig *cfg)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (priv->driver->privileged && cfg->user == 0 &&
        virDomainObjTaint(vm, VIR_DOMAIN_TAINT_HIGH_PRIVILEGES))
        VIR_WARN("domain %s: its VMM runs as root", vm->def->name);
    if (vm->def->cpu && vm->def->cpu->mode == VIR_CPU_MODE_HOST_PASSTHROUGH &&
        virDomainObjTaint(vm, VIR_DOMAIN_TAINT_HOST_CPU))
        VIR_WARN("domain %s: its CPU is the host's, whatever that has", vm->def->name);
}

static int kumoRunLaunch(virDomainObj *vm, bool paused, const kumoMonitorReceive *incoming)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autoptr(GPtrArray) taps = NULL;
    g_autoptr(KumoVmConfig) config = NULL;
    g_autoptr(virCommand) cmd = NULL;

    priv->handshake = false;
    kumoRunTaint(vm, cfg);
    if (kumoPrepareDomain(vm, cfg) < 0 ||
        !(config = kumo_xml_to_config(vm->def, cfg->firmware, priv->memoryDir)) ||
        kumoPrepareIdentity(vm) < 0 || !(cmd = kumoProcessSpawn(vm, cfg)) ||
        !(taps = kumoRunEquip(vm, incoming)) || virCommandHandshakeNotify(cmd) < 0)
        return -1;
    priv->handshake = false;
    if (kumoRunCreateVm(vm, config, taps, incoming) < 0)
        return -1;

    if (incoming)
        return 0;
    if (!paused && kumoRunBoot(vm) < 0)
        return -1;
    priv->bootPending = paused;
    return kumoRunRefreshConsoles(vm);
}

/* The domain is active from here on, whatever comes of it. */
static int kumoRunBegin(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;

    if (virDomainObjIsActive(vm)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("the domain is already running"));
        return -1;
    }
    if (virDomainObjSetDefTransient(driver->xmlopt, vm, NULL) < 0)
        return -1;

    vm->def->id = g_atomic_int_add(&driver->lastId, 1) + 1;
    /* What an earlier run's process said does not tell why this one has not started. */
    g_clear_pointer(&priv->logPath, g_free);
    priv->beingDestroyed = false;
    priv->unclaimed = true;
    priv->ownPauses = priv->ownResumes = 0;
    priv->rebootPending = false;
    priv->migratedAway = false;
    priv->autodestroy = false;
    priv->wantedVcpus = 0;
    priv->maxDowntimeMs = 0;
    priv->maxBandwidthMib = 0;
    priv->maxPostcopyMib = 0;
    priv->stream = KUMO_STREAM_NONE;
    priv->pauseReason = VIR_DOMAIN_PAUSED_UNKNOWN;
    virDomainObjSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_STARTING_UP);
    if (g_atomic_int_add(&driver->nactive, 1) == 0 && driver->inhibit)
        driver->inhibit(true, driver->inhibitOpaque);
    return 0;
}

/* Launches the process, or undoes all of it. */
static int kumoRunTry(virDomainObj *vm, bool paused, const kumoMonitorReceive *incoming,
                      const char *audit)
{
    virErrorPtr saved = NULL;

    if (kumoRunBegin(vm) < 0)
        return -1;
    if (kumoRunLaunch(vm, paused, incoming) < 0) {
        kumoProcessExplainError(vm);
        virErrorPreserveLast(&saved);
        virDomainAuditStart(vm, audit, false);
        if (virDomainObjIsActive(vm))
            kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_FAILED);
        virErrorRestore(&saved);
        return -1;
    }
    virDomainAuditStart(vm, audit, true);
    return 0;
}

static void kumoRunBind(virConnectPtr conn, virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    virCloseCallbacksDomainAdd(vm, conn, kumoRunAutoDestroy);
    priv->autodestroy = true;
}

int kumoRunStart(virConnectPtr conn, virDomainObj *vm, virDomainRunningReason reason,
                 virDomainEventStartedDetailType detail, unsigned int flags)
{
    bool paused = flags & KUMO_START_PAUSED;

    if (kumoRunTry(vm, paused, NULL, "booted") < 0)
        return -1;
    if (conn && (flags & KUMO_START_AUTODESTROY))
        kumoRunBind(conn, vm);

    kumoDomainSetState(vm, paused ? VIR_DOMAIN_PAUSED : VIR_DOMAIN_RUNNING,
                       paused ? (int)VIR_DOMAIN_PAUSED_USER : (int)reason, VIR_DOMAIN_EVENT_STARTED,
                       detail);
    if (paused)
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_PAUSED);
    return 0;
}

int kumoRunStartIncoming(virConnectPtr conn, virDomainObj *vm, const kumoMonitorReceive *incoming,
                         const char *audit, unsigned int flags)
{
    if (kumoRunTry(vm, true, incoming, audit) < 0)
        return -1;
    if (conn && (flags & KUMO_START_AUTODESTROY))
        kumoRunBind(conn, vm);
    kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION, -1, 0);
    return 0;
}

static const char *kumoRunAuditReason(virDomainShutoffReason reason)
{
    switch (reason) {
    case VIR_DOMAIN_SHUTOFF_DESTROYED:
        return "destroyed";
    case VIR_DOMAIN_SHUTOFF_MIGRATED:
        return "migrated";
    case VIR_DOMAIN_SHUTOFF_SAVED:
        return "saved";
    case VIR_DOMAIN_SHUTOFF_FAILED:
        return "failed";
    default:
        return "shutdown";
    }
}

void kumoRunStop(virDomainObj *vm, virDomainShutoffReason reason)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autofree char *statusFile = NULL;
    bool beingDestroyed = priv->beingDestroyed;
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    priv->beingDestroyed = true;

    if (kumoProcessKill(vm, true) < 0)
        VIR_WARN("domain %s: process %lld does not end", vm->def->name, (long long)vm->pid);

    kumoProcessForget(vm);
    kumoLogClose(vm, reason);
    virCloseCallbacksDomainRemove(vm, NULL, kumoRunAutoDestroy);
    virChrdevFree(priv->chrdevs);
    priv->chrdevs = virChrdevAlloc();

    kumoPerfStop(vm);
    kumoCgroupRemove(vm);
    /* Before that the names in the definition may be those of others' devices. */
    if (!priv->unclaimed)
        kumoInterfacesRelease(driver, vm->def);
    priv->unclaimed = false;
    kumoPrepareUndo(vm);
    statusFile = virDomainConfigFile(cfg->stateDir, vm->def->name);
    if (unlink(statusFile) < 0 && errno != ENOENT)
        VIR_WARN("cannot remove %s: %s", statusFile, g_strerror(errno));
    virDomainAuditStop(vm, kumoRunAuditReason(reason));

    vm->taint = 0;
    vm->pid = 0;
    vm->def->id = -1;
    priv->startTime = 0;
    priv->bootPending = false;
    priv->rebootPending = false;
    priv->beingDestroyed = beingDestroyed;
    priv->migratedAway = false;
    priv->autodestroy = false;
    priv->stream = KUMO_STREAM_NONE;
    g_clear_pointer(&priv->persistentXml, g_free);
    if (priv->migrationPort) {
        virPortAllocatorRelease(priv->migrationPort);
        priv->migrationPort = 0;
    }
    virDomainObjSetState(vm, VIR_DOMAIN_SHUTOFF, reason);
    /* Who waits for its stream, or for another daemon, finds that it has ended. */
    virDomainObjBroadcast(vm);
    kumoJobCallWake(vm);
    virDomainObjRemoveTransientDef(vm);
    if (g_atomic_int_dec_and_test(&driver->nactive) && driver->inhibit)
        driver->inhibit(false, driver->inhibitOpaque);

    virErrorRestore(&saved);
}

void kumoRunAutoDestroy(virDomainObj *vm, virConnectPtr conn G_GNUC_UNUSED)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    priv->beingDestroyed = true;
    kumoProcessKill(vm, true);
    if (virDomainObjBeginJob(vm, VIR_JOB_DESTROY) < 0)
        return;
    if (virDomainObjIsActive(vm)) {
        kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_DESTROYED);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_DESTROYED);
    }
    virDomainObjEndJob(vm);
    kumoDomainRemoveInactive(priv->driver, vm);
}
