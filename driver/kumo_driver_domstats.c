/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The statistics of many domains at once, in groups: what monitoring tools ask for. */
#include "driver/kumo_driver.h"

#include "driver/kumo_resize.h"
#include "driver/kumo_stats.h"
#include "viraccessapicheck.h"
#include "virnetdevtap.h"
#include "virperf.h"
#include "virprocess.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* What a group works with. */
typedef struct {
    virDomainObj *vm;
    json_t *counters; /* NULL: the domain does not run, or nobody was to wait for the VMM */
    virTypedParamList *params;
} kumoStatsContext;

static void kumoAddState(const kumoStatsContext *ctx)
{
    int reason;
    int state = virDomainObjGetState(ctx->vm, &reason);

    kumoCompatAddInt(ctx->params, state, "state.state");
    kumoCompatAddInt(ctx->params, reason, "state.reason");
}

static void kumoAddCpu(const kumoStatsContext *ctx)
{
    unsigned long long total = 0, user = 0, system = 0;

    if (!virDomainObjIsActive(ctx->vm) ||
        virProcessGetStatInfo(&total, &user, &system, NULL, NULL, ctx->vm->pid, 0) < 0)
        return;
    kumoCompatAddULLong(ctx->params, total, "cpu.time");
    kumoCompatAddULLong(ctx->params, user, "cpu.user");
    kumoCompatAddULLong(ctx->params, system, "cpu.system");
}

static void kumoAddBalloon(const kumoStatsContext *ctx)
{
    static const char *const names[VIR_DOMAIN_MEMORY_STAT_NR] = {
        [VIR_DOMAIN_MEMORY_STAT_SWAP_IN] = "swap_in",
        [VIR_DOMAIN_MEMORY_STAT_SWAP_OUT] = "swap_out",
        [VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT] = "major_fault",
        [VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT] = "minor_fault",
        [VIR_DOMAIN_MEMORY_STAT_UNUSED] = "unused",
        [VIR_DOMAIN_MEMORY_STAT_AVAILABLE] = "available",
        [VIR_DOMAIN_MEMORY_STAT_RSS] = "rss",
        [VIR_DOMAIN_MEMORY_STAT_USABLE] = "usable",
        [VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE] = "last-update",
        [VIR_DOMAIN_MEMORY_STAT_DISK_CACHES] = "disk_caches",
        [VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGALLOC] = "hugetlb_pgalloc",
        [VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGFAIL] = "hugetlb_pgfail",
    };
    virDomainMemoryStatStruct stats[VIR_DOMAIN_MEMORY_STAT_NR];
    virDomainDef *def = ctx->vm->def;
    int n = ctx->counters ? kumoStatsMemory(ctx->vm, ctx->counters, stats, G_N_ELEMENTS(stats)) : 0;
    unsigned long long current = def->mem.cur_balloon;

    for (int i = 0; i < n; i++) {
        if (stats[i].tag == VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON)
            current = stats[i].val;
    }
    kumoCompatAddULLong(ctx->params, current, "balloon.current");
    kumoCompatAddULLong(ctx->params, virDomainDefGetMemoryTotal(def), "balloon.maximum");
    for (int i = 0; i < n; i++) {
        if (names[stats[i].tag])
            kumoCompatAddULLong(ctx->params, stats[i].val, "balloon.%s", names[stats[i].tag]);
    }
}

static void kumoAddVcpus(const kumoStatsContext *ctx)
{
    virDomainDef *def = ctx->vm->def;

    kumoCompatAddUInt(ctx->params, virDomainDefGetVcpus(def), "vcpu.current");
    kumoCompatAddUInt(ctx->params, virDomainDefGetVcpusMax(def), "vcpu.maximum");
    for (unsigned int i = 0; i < virDomainDefGetVcpusMax(def); i++) {
        unsigned long long time = 0, wait = 0;
        pid_t tid;

        if (!virDomainDefGetVcpu(def, i)->online)
            continue;
        if (!virDomainObjIsActive(ctx->vm)) {
            kumoCompatAddInt(ctx->params, VIR_VCPU_OFFLINE, "vcpu.%u.state", i);
            continue;
        }
        kumoCompatAddInt(ctx->params, VIR_VCPU_RUNNING, "vcpu.%u.state", i);
        tid = kumoStatsVcpuThread(ctx->vm->pid, i);
        if (tid > 0 && virProcessGetStatInfo(&time, NULL, NULL, NULL, NULL, ctx->vm->pid, tid) == 0)
            kumoCompatAddULLong(ctx->params, time, "vcpu.%u.time", i);
        if (tid > 0 && virProcessGetSchedInfo(&wait, ctx->vm->pid, tid) == 0)
            kumoCompatAddULLong(ctx->params, wait, "vcpu.%u.wait", i);
    }
}

static void kumoAddInterfaces(const kumoStatsContext *ctx)
{
    virDomainDef *def = ctx->vm->def;

    if (!virDomainObjIsActive(ctx->vm))
        return;
    kumoCompatAddUInt(ctx->params, (unsigned int)def->nnets, "net.count");
    for (size_t i = 0; i < def->nnets; i++) {
        virDomainNetDef *net = def->nets[i];
        virDomainInterfaceStatsStruct stats;

        if (!net->ifname)
            continue;
        kumoCompatAddString(ctx->params, net->ifname, "net.%zu.name", i);
        if (virNetDevTapInterfaceStats(net->ifname, &stats, !virDomainNetTypeSharesHostView(net)) <
            0)
            continue;

        const struct {
            const char *name;
            long long value;
        } values[] = {
            { "rx.bytes", stats.rx_bytes }, { "rx.pkts", stats.rx_packets },
            { "rx.errs", stats.rx_errs },   { "rx.drop", stats.rx_drop },
            { "tx.bytes", stats.tx_bytes }, { "tx.pkts", stats.tx_packets },
            { "tx.errs", stats.tx_errs },   { "tx.drop", stats.tx_drop },
        };

        for (size_t n = 0; n < G_N_ELEMENTS(values); n++) {
            if (values[n].value >= 0)
                kumoCompatAddULLong(ctx->params, (unsigned long long)values[n].value, "net.%zu.%s",
                                    i, values[n].name);
        }
    }
}

static void kumoAddBlock(const kumoStatsContext *ctx, const virDomainDiskDef *disk, size_t i)
{
    kumoBlockStats stats = { 0 };
    kumoImageSize size;

    kumoCompatAddString(ctx->params, disk->dst, "block.%zu.name", i);
    if (disk->src->path)
        kumoCompatAddString(ctx->params, disk->src->path, "block.%zu.path", i);
    if (ctx->counters && disk->info.alias &&
        kumoStatsAddBlock(ctx->counters, disk->info.alias, &stats)) {
        kumoCompatAddULLong(ctx->params, stats.readOps, "block.%zu.rd.reqs", i);
        kumoCompatAddULLong(ctx->params, stats.readBytes, "block.%zu.rd.bytes", i);
        kumoCompatAddULLong(ctx->params, stats.readTimeNs, "block.%zu.rd.times", i);
        kumoCompatAddULLong(ctx->params, stats.writeOps, "block.%zu.wr.reqs", i);
        kumoCompatAddULLong(ctx->params, stats.writeBytes, "block.%zu.wr.bytes", i);
        kumoCompatAddULLong(ctx->params, stats.writeTimeNs, "block.%zu.wr.times", i);
    }
    if (!virStorageSourceIsEmpty(disk->src) && kumoStatsImage(disk->src, &size) == 0) {
        kumoCompatAddULLong(ctx->params, size.allocation, "block.%zu.allocation", i);
        kumoCompatAddULLong(ctx->params, size.capacity, "block.%zu.capacity", i);
        kumoCompatAddULLong(ctx->params, size.physical, "block.%zu.physical", i);
    }
}

static void kumoAddBlocks(const kumoStatsContext *ctx)
{
    virDomainDef *def = ctx->vm->def;

    kumoCompatAddUInt(ctx->params, (unsigned int)def->ndisks, "block.count");
    for (size_t i = 0; i < def->ndisks; i++)
        kumoAddBlock(ctx, def->disks[i], i);
}

/* How long they poll nobody can set, so there is nothing to be told of each. */
static void kumoAddIOThreads(const kumoStatsContext *ctx)
{
    virDomainDef *def = ctx->vm->def;

    if (virDomainObjIsActive(ctx->vm) && def->niothreadids > 0)
        kumoCompatAddUInt(ctx->params, (unsigned int)def->niothreadids, "iothread.count");
}

static void kumoAddPerf(const kumoStatsContext *ctx)
{
    kumoDomainObjPrivate *priv = ctx->vm->privateData;

    for (int i = 0; i < VIR_PERF_EVENT_LAST; i++) {
        uint64_t value = 0;

        if (virPerfEventIsEnabled(priv->perf, (virPerfEventType)i) &&
            virPerfReadEvent(priv->perf, (virPerfEventType)i, &value) == 0)
            kumoCompatAddULLong(ctx->params, value, "perf.%s", virPerfEventTypeToString(i));
    }
}

static const struct {
    virDomainStatsTypes type;
    void (*add)(const kumoStatsContext *ctx);
    bool asksVmm;
} kumoStatsGroups[] = {
    { VIR_DOMAIN_STATS_STATE, kumoAddState, false },
    { VIR_DOMAIN_STATS_CPU_TOTAL, kumoAddCpu, false },
    { VIR_DOMAIN_STATS_BALLOON, kumoAddBalloon, true },
    { VIR_DOMAIN_STATS_VCPU, kumoAddVcpus, false },
    { VIR_DOMAIN_STATS_INTERFACE, kumoAddInterfaces, false },
    { VIR_DOMAIN_STATS_BLOCK, kumoAddBlocks, true },
    { VIR_DOMAIN_STATS_PERF, kumoAddPerf, false },
    { VIR_DOMAIN_STATS_IOTHREAD, kumoAddIOThreads, false },
};

/* Which of the groups that @wanted asks for (0: all) there are. Returns -1 with the error reported.
 */
static int kumoCheckGroups(unsigned int wanted, bool enforce, unsigned int *groups, bool *asksVmm)
{
    unsigned int known = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(kumoStatsGroups); i++)
        known |= kumoStatsGroups[i].type;
    if (enforce && (wanted & ~known)) {
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED,
                       _("statistics of the types 0x%x are not supported by kumo"),
                       wanted & ~known);
        return -1;
    }
    *groups = wanted ? wanted & known : known;
    *asksVmm = false;
    for (size_t i = 0; i < G_N_ELEMENTS(kumoStatsGroups); i++)
        *asksVmm |= kumoStatsGroups[i].asksVmm && (*groups & kumoStatsGroups[i].type);
    return 0;
}

static virDomainStatsRecordPtr kumoStatsRecord(virConnectPtr conn, virDomainObj *vm,
                                               unsigned int groups, json_t *counters)
{
    g_autoptr(virTypedParamList) params = kumoCompatParamListNew();
    kumoStatsContext ctx = { .vm = vm, .counters = counters, .params = params };
    virDomainStatsRecordPtr record = g_new0(virDomainStatsRecord, 1);

    for (size_t i = 0; i < G_N_ELEMENTS(kumoStatsGroups); i++) {
        if (groups & kumoStatsGroups[i].type)
            kumoStatsGroups[i].add(&ctx);
    }
    /* A group that found nothing out is left out; that is no error. */
    virResetLastError();
    if (!(record->dom = virGetDomain(conn, vm->def->name, vm->def->uuid, vm->def->id))) {
        g_free(record);
        return NULL;
    }
    kumoCompatStealParams(params, record);
    return record;
}

/* Returns: (transfer full): what the VMM counted; NULL if it is not to be had. */
static json_t *kumoStatsAsk(virDomainObj *vm, bool nowait)
{
    json_t *counters = NULL;

    if (!virDomainObjIsActive(vm) || (nowait ? virDomainObjBeginJobNowait(vm, VIR_JOB_QUERY)
                                             : virDomainObjBeginJob(vm, VIR_JOB_QUERY)) < 0)
        return NULL;
    if (virDomainObjIsActive(vm))
        ignore_value(kumoStatsCounters(vm, &counters));
    virDomainObjEndJob(vm);
    return counters;
}

int kumoConnectGetAllDomainStats(virConnectPtr conn, virDomainPtr *doms, unsigned int ndoms,
                                 unsigned int stats, virDomainStatsRecordPtr **retStats,
                                 unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    unsigned int filter = flags & (VIR_CONNECT_LIST_DOMAINS_FILTERS_ACTIVE |
                                   VIR_CONNECT_LIST_DOMAINS_FILTERS_PERSISTENT |
                                   VIR_CONNECT_LIST_DOMAINS_FILTERS_STATE);
    bool nowait = flags & VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
    virDomainStatsRecordPtr *records;
    virDomainObj **vms = NULL;
    unsigned int groups;
    size_t nvms = 0;
    bool asksVmm;
    int n = 0;

    /* No image has a backing image. */
    virCheckFlags(
        VIR_CONNECT_LIST_DOMAINS_FILTERS_ACTIVE | VIR_CONNECT_LIST_DOMAINS_FILTERS_PERSISTENT |
            VIR_CONNECT_LIST_DOMAINS_FILTERS_STATE | VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT |
            VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING |
            VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS,
        -1);

    if (virConnectGetAllDomainStatsEnsureACL(conn) < 0)
        return -1;
    if (kumoCheckGroups(stats, flags & VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS, &groups,
                        &asksVmm) < 0)
        return -1;

    if (ndoms) {
        if (virDomainObjListConvert(driver->domains, conn, doms, ndoms, &vms, &nvms,
                                    virConnectGetAllDomainStatsCheckACL, filter, true) < 0)
            return -1;
    } else {
        virDomainObjListCollect(driver->domains, conn, &vms, &nvms,
                                virConnectGetAllDomainStatsCheckACL, filter);
    }

    records = g_new0(virDomainStatsRecordPtr, nvms + 1);
    for (size_t i = 0; i < nvms; i++) {
        json_t *counters;

        virObjectLock(vms[i]);
        counters = asksVmm ? kumoStatsAsk(vms[i], nowait) : NULL;
        if ((records[n] = kumoStatsRecord(conn, vms[i], groups, counters)))
            n++;
        virObjectUnlock(vms[i]);
        json_decref(counters);
    }
    virObjectListFreeCount(vms, nvms);
    *retStats = records;
    return n;
}
