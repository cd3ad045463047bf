/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_cgroup.h"

#include "driver/conf/kumo_memory.h"

#define LIBVIRT_VIRCGROUPPRIV_H_ALLOW /* to name the group of a process that is gone */

#include "domain_cgroup.h"
#include "domain_driver.h"
#include "driver/kumo_stats.h"
#include "driver/kumo_threads.h"
#include "vircgrouppriv.h"
#include "virfile.h"
#include "virprocess.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_cgroup");

#define KUMO_CGROUP_PREFIX "kumo"

static char *kumoCgroupMachineName(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    const kumoDriver *driver = priv->driver;

    return virDomainDriverGenerateMachineName(KUMO_CGROUP_PREFIX, driver->embeddedRoot, vm->def->id,
                                              vm->def->name, driver->privileged);
}

/* The first limit that the definition has and that needs the controller, or NULL. */
static const char *kumoCgroupNeeds(const virDomainDef *def, bool privileged, int controller)
{
    const virDomainCputune *tune = &def->cputune;
    const virDomainMemtune *mem = &def->mem;

    switch (controller) {
    case VIR_CGROUP_CONTROLLER_CPU:
        return tune->sharesSpecified                           ? "/domain/cputune/shares"
               : tune->period || tune->quota                   ? "/domain/cputune/quota"
               : tune->emulator_period || tune->emulator_quota ? "/domain/cputune/emulator_quota"
               : tune->iothread_period || tune->iothread_quota ? "/domain/cputune/iothread_quota"
               : tune->global_period || tune->global_quota     ? "/domain/cputune/global_quota"
                                                               : NULL;
    case VIR_CGROUP_CONTROLLER_MEMORY:
        return virMemoryLimitIsSet(mem->hard_limit) || virMemoryLimitIsSet(mem->soft_limit) ||
                       virMemoryLimitIsSet(mem->swap_hard_limit)
                   ? "/domain/memtune"
                   : NULL;
    case VIR_CGROUP_CONTROLLER_BLKIO:
        return def->blkio.weight || def->blkio.ndevices ? "/domain/blkiotune" : NULL;
    case VIR_CGROUP_CONTROLLER_CPUSET:
        return kumoMemoryNodesByGroup(def, privileged) ? "/domain/numatune" : NULL;
    default:
        return NULL;
    }
}

static int kumoCgroupCheck(virDomainObj *vm)
{
    static const int controllers[] = {
        VIR_CGROUP_CONTROLLER_CPU,
        VIR_CGROUP_CONTROLLER_MEMORY,
        VIR_CGROUP_CONTROLLER_BLKIO,
        VIR_CGROUP_CONTROLLER_CPUSET,
    };
    kumoDomainObjPrivate *priv = vm->privateData;

    for (size_t i = 0; i < G_N_ELEMENTS(controllers); i++) {
        const char *what = kumoCgroupNeeds(vm->def, priv->driver->privileged, controllers[i]);

        if (!what || virCgroupHasController(priv->cgroup, controllers[i]))
            continue;
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s needs the cgroup controller '%s', which is not available %s"), what,
                       virCgroupControllerTypeToString(controllers[i]),
                       priv->driver->privileged ? _("on this host") : _("in session mode"));
        return -1;
    }
    return 0;
}

/* The nodes that all memory has to come from, as text, or NULL if it may come from any. */
static char *kumoCgroupMemoryNodes(const virDomainDef *def)
{
    if (!kumoMemoryNodesByGroup(def, true))
        return NULL;
    return virDomainNumatuneFormatNodeset(def->numa, NULL, -1);
}

/* Are there groups of single threads, and are they of any use? */
static bool kumoCgroupHasThreads(const kumoDomainObjPrivate *priv)
{
    return virCgroupHasController(priv->cgroup, VIR_CGROUP_CONTROLLER_CPU) ||
           virCgroupHasController(priv->cgroup, VIR_CGROUP_CONTROLLER_CPUSET);
}

/* After something failed for a thread: one that has ended meanwhile needs nothing. */
static int kumoCgroupUnlessGone(pid_t tid)
{
    g_autofree char *path = g_strdup_printf("/proc/%lld", (long long)tid);

    if (virFileExists(path))
        return -1;
    virResetLastError();
    return 0;
}

static int kumoCgroupSetScheduler(pid_t tid, const virDomainThreadSchedParam *sched)
{
    return virProcessSetScheduler(tid, sched->policy, sched->priority) < 0
               ? kumoCgroupUnlessGone(tid)
               : 0;
}

/*
 * Moving a thread into a group of CPUs makes the kernel forget where the thread may run, and tell
 * nobody. It is put back.
 */
static int kumoCgroupAddThread(virCgroup *group, pid_t tid)
{
    g_autoptr(virBitmap) cpus = virProcessGetAffinity(tid);

    return !cpus || virCgroupAddThread(group, tid) < 0 ||
                   virProcessSetAffinity(tid, cpus, false) < 0
               ? kumoCgroupUnlessGone(tid)
               : 0;
}

static int kumoCgroupSetupThread(virDomainObj *vm, virCgroup *group, unsigned long long period,
                                 long long quota)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *nodes = kumoCgroupMemoryNodes(vm->def);

    if (nodes && virCgroupSetCpusetMems(group, nodes) < 0)
        return -1;
    return virCgroupHasController(priv->cgroup, VIR_CGROUP_CONTROLLER_CPU)
               ? virDomainCgroupSetupVcpuBW(group, period, quota)
               : 0;
}

static int kumoCgroupAddIfPossible(pid_t tid, const char *name G_GNUC_UNUSED, void *opaque)
{
    /* One of the kernel's, such as a worker of io_uring, stays where it is. */
    if (kumoCgroupAddThread(opaque, tid) < 0)
        virResetLastError();
    return 0;
}

static int kumoCgroupPlaceEmulator(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virCgroup) group = NULL;

    if (virCgroupNewThread(priv->cgroup, VIR_CGROUP_THREAD_EMULATOR, 0, true, &group) < 0 ||
        kumoCgroupSetupThread(vm, group, vm->def->cputune.emulator_period,
                              vm->def->cputune.emulator_quota) < 0)
        return -1;

    /* The main thread first: what is there is its children, and so will be what comes. */
    if (kumoCgroupAddThread(group, vm->pid) < 0)
        return -1;
    return kumoThreadsForEach(vm->pid, kumoCgroupAddIfPossible, group);
}

int kumoCgroupSetup(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autofree char *machine = kumoCgroupMachineName(vm);

    if (!machine ||
        virDomainCgroupSetupCgroup(KUMO_CGROUP_PREFIX, vm, 0, NULL, &priv->cgroup,
                                   cfg->cgroupControllers, 0, priv->driver->privileged,
                                   machine) < 0 ||
        kumoCgroupCheck(vm) < 0)
        return -1;
    if (!priv->cgroup)
        return 0;
    if (virCgroupHasController(priv->cgroup, VIR_CGROUP_CONTROLLER_CPU) &&
        virDomainCgroupSetupGlobalCpuCgroup(vm, priv->cgroup) < 0)
        return -1;
    return kumoCgroupHasThreads(priv) ? kumoCgroupPlaceEmulator(vm) : 0;
}

static int kumoCgroupPlaceVcpu(virDomainObj *vm, unsigned int vcpu)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    const virDomainThreadSchedParam *sched = &virDomainDefGetVcpu(vm->def, vcpu)->sched;
    pid_t tid = kumoStatsVcpuThread(vm->pid, vcpu);
    g_autoptr(virCgroup) group = NULL;

    if (tid > 0 && kumoCgroupSetScheduler(tid, sched) < 0)
        return -1;
    if (!kumoCgroupHasThreads(priv))
        return 0;
    if (virCgroupNewThread(priv->cgroup, VIR_CGROUP_THREAD_VCPU, (int)vcpu, true, &group) < 0 ||
        kumoCgroupSetupThread(vm, group, vm->def->cputune.period, vm->def->cputune.quota) < 0)
        return -1;
    /* Without a thread the vCPU is about to come or to go. */
    return tid > 0 ? kumoCgroupAddThread(group, tid) : 0;
}

int kumoCgroupPlaceVcpus(virDomainObj *vm)
{
    for (unsigned int i = 0; i < virDomainDefGetVcpusMax(vm->def); i++) {
        if (virDomainDefGetVcpu(vm->def, i)->online && kumoCgroupPlaceVcpu(vm, i) < 0)
            return -1;
    }
    return 0;
}

/* --- I/O threads --- */

/* Is a thread of that name a queue of the disk's, "ALIAS_qN"? */
static bool kumoCgroupIsQueueOf(const char *comm, const virDomainDiskDef *disk)
{
    const char *alias = disk->info.alias;
    const char *suffix = strrchr(comm, '_');
    size_t len;

    if (!alias || !suffix || suffix[1] != 'q' || !g_ascii_isdigit(suffix[2]))
        return false;
    len = (size_t)(suffix - comm);
    return STREQLEN(alias, comm, len) &&
           (alias[len] == '\0' || strlen(comm) == KUMO_THREAD_NAME_LEN);
}

static bool kumoCgroupSameNames(const virDomainDiskDef *one, const virDomainDiskDef *other)
{
    /* The last queues have the longest numbers, and the first the shortest. */
    for (unsigned int queue = 0; queue <= MAX(one->queues, 1); queue++) {
        g_autofree char *suffix = g_strdup_printf("_q%u", queue);
        g_autofree char *comm =
            g_strdup_printf("%.*s%s", (int)(KUMO_THREAD_NAME_LEN - strlen(suffix)),
                            NULLSTR_EMPTY(one->info.alias), suffix);

        if (kumoCgroupIsQueueOf(comm, other))
            return true;
    }
    return false;
}

int kumoCgroupCheckIOThreads(const virDomainDef *def)
{
    for (size_t i = 0; i < def->ndisks; i++) {
        for (size_t k = 0; k < def->ndisks; k++) {
            if (def->disks[i]->iothread == def->disks[k]->iothread ||
                !kumoCgroupSameNames(def->disks[i], def->disks[k]))
                continue;
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("the aliases '%s' and '%s' are too much alike: the threads of the two "
                             "disks, which have different I/O threads, have the same names"),
                           def->disks[i]->info.alias, def->disks[k]->info.alias);
            return -1;
        }
    }
    return 0;
}

static bool kumoCgroupTunesIOThreads(const virDomainDef *def)
{
    if (def->cputune.iothread_period || def->cputune.iothread_quota)
        return true;
    for (size_t i = 0; i < def->niothreadids; i++) {
        if (def->iothreadids[i]->sched.policy != VIR_PROC_POLICY_NONE)
            return true;
    }
    return false;
}

/* Returns: the I/O thread of the disk that a thread of that name works for, or NULL. */
static virDomainIOThreadIDDef *kumoCgroupIOThreadOf(const virDomainDef *def, const char *comm)
{
    unsigned int id = 0;

    for (size_t i = 0; i < def->ndisks; i++) {
        if (!kumoCgroupIsQueueOf(comm, def->disks[i]))
            continue;
        /* It may be either's: nothing is set for I/O threads then, see kumoCgroupCheckIOThreads. */
        if (id && id != def->disks[i]->iothread)
            return NULL;
        if (!(id = def->disks[i]->iothread))
            return NULL;
    }
    return id ? virDomainIOThreadIDFind(def, id) : NULL;
}

static int kumoCgroupNewIOThread(virDomainObj *vm, unsigned int id, virCgroup **group)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    return virCgroupNewThread(priv->cgroup, VIR_CGROUP_THREAD_IOTHREAD, (int)id, true, group);
}

static int kumoCgroupPlaceQueue(pid_t tid, const char *comm, void *opaque)
{
    virDomainObj *vm = opaque;
    const virDomainIOThreadIDDef *thread = kumoCgroupIOThreadOf(vm->def, comm);
    g_autoptr(virCgroup) group = NULL;

    if (!thread)
        return 0;
    if (kumoCgroupSetScheduler(tid, &thread->sched) < 0)
        return -1;
    if (!kumoCgroupHasThreads(vm->privateData))
        return 0;
    return kumoCgroupNewIOThread(vm, thread->iothread_id, &group) < 0
               ? -1
               : kumoCgroupAddThread(group, tid);
}

int kumoCgroupPlaceIOThreads(virDomainObj *vm)
{
    if (vm->def->niothreadids == 0)
        return 0;
    if (kumoCgroupTunesIOThreads(vm->def) && kumoCgroupCheckIOThreads(vm->def) < 0)
        return -1;
    for (size_t i = 0; kumoCgroupHasThreads(vm->privateData) && i < vm->def->niothreadids; i++) {
        g_autoptr(virCgroup) group = NULL;

        if (kumoCgroupNewIOThread(vm, vm->def->iothreadids[i]->iothread_id, &group) < 0 ||
            kumoCgroupSetupThread(vm, group, vm->def->cputune.iothread_period,
                                  vm->def->cputune.iothread_quota) < 0)
            return -1;
    }
    return kumoThreadsForEach(vm->pid, kumoCgroupPlaceQueue, vm);
}

int kumoCgroupPlaceThreads(virDomainObj *vm)
{
    return kumoCgroupPlaceVcpus(vm) < 0 ? -1 : kumoCgroupPlaceIOThreads(vm);
}

void kumoCgroupForgetIOThread(virDomainObj *vm, unsigned int id)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (kumoCgroupHasThreads(priv) &&
        virCgroupDelThread(priv->cgroup, VIR_CGROUP_THREAD_IOTHREAD, (int)id) < 0) {
        VIR_WARN("domain %s: the control group of I/O thread %u could not be removed: %s",
                 vm->def->name, id, virGetLastErrorMessage());
        virResetLastError();
    }
}

int kumoCgroupForEachIOThread(virDomainObj *vm, int (*func)(virCgroup *group, void *opaque),
                              void *opaque)
{
    for (size_t i = 0; i < vm->def->niothreadids; i++) {
        g_autoptr(virCgroup) group = NULL;

        if (kumoCgroupNewIOThread(vm, vm->def->iothreadids[i]->iothread_id, &group) < 0 ||
            func(group, opaque) < 0)
            return -1;
    }
    return 0;
}

int kumoCgroupReconnect(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autofree char *machine = kumoCgroupMachineName(vm);

    if (!machine)
        return -1;
    return virDomainCgroupConnectCgroup(KUMO_CGROUP_PREFIX, vm, &priv->cgroup,
                                        cfg->cgroupControllers, priv->driver->privileged, machine);
}

/* The group of a process that ended while nobody looked: only its name tells of it. */
static virCgroup *kumoCgroupFind(virDomainObj *vm, const char *machine)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virCgroup) partition = NULL;
    virCgroup *group = NULL;

    if (!priv->driver->privileged || !vm->def->resource || !vm->def->resource->partition ||
        !virCgroupAvailable())
        return NULL;
    if (virCgroupNewPartition(vm->def->resource->partition, false, -1, &partition) < 0 ||
        virCgroupNewDomainPartition(partition, KUMO_CGROUP_PREFIX, machine, &group) < 0)
        virResetLastError();
    return group;
}

void kumoCgroupRemove(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virCgroup) group = g_steal_pointer(&priv->cgroup);
    g_autofree char *machine = kumoCgroupMachineName(vm);

    if (machine && !group)
        group = kumoCgroupFind(vm, machine);
    if (machine && virDomainCgroupRemoveCgroup(vm, group, machine) < 0)
        VIR_WARN("domain %s: its control groups could not all be removed", vm->def->name);
}

int kumoCgroupForEachVcpu(virDomainObj *vm, int (*func)(virCgroup *group, void *opaque),
                          void *opaque)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    for (unsigned int i = 0; i < virDomainDefGetVcpusMax(vm->def); i++) {
        g_autoptr(virCgroup) group = NULL;

        if (!virDomainDefGetVcpu(vm->def, i)->online)
            continue;
        if (virCgroupNewThread(priv->cgroup, VIR_CGROUP_THREAD_VCPU, (int)i, false, &group) < 0 ||
            func(group, opaque) < 0)
            return -1;
    }
    return 0;
}

virCgroup *kumoCgroupEmulator(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virCgroup *group = NULL;

    ignore_value(virCgroupNewThread(priv->cgroup, VIR_CGROUP_THREAD_EMULATOR, 0, false, &group));
    return group;
}

int kumoCgroupCheckPrivileged(const kumoDriver *driver, virErrorNumber code, const char *message)
{
    if (driver->privileged)
        return 0;
    virReportError(code, "%s", message);
    return -1;
}

int kumoCgroupCheckController(virDomainObj *vm, int controller)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (virCgroupHasController(priv->cgroup, controller))
        return 0;
    virReportError(VIR_ERR_OPERATION_INVALID, _("the cgroup controller '%s' is not available"),
                   virCgroupControllerTypeToString(controller));
    return -1;
}
