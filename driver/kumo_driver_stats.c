/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Statistics of one device of a domain, or of its memory. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_memory.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_resize.h"
#include "driver/kumo_secondary.h"
#include "driver/kumo_stats.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"
#include "virnetdevtap.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- disks --- */

/* @path: target or source of a disk; empty: all of them. Returns -1 with the error reported. */
static int kumoGetBlockStats(virDomainObj *vm, const char *path, kumoBlockStats *stats)
{
    json_t *counters = NULL;
    g_autofree char *alias = NULL;
    bool found = false;

    memset(stats, 0, sizeof(*stats));
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (*path) {
        virDomainDiskDef *disk = virDomainDiskByName(vm->def, path, false);

        if (!disk) {
            virReportError(VIR_ERR_INVALID_ARG, _("invalid path: %s"), path);
            return -1;
        }
        alias = g_strdup(disk->info.alias);
        found = virStorageSourceIsEmpty(disk->src); /* nothing was read of an empty drive */
    }
    if (kumoStatsCounters(vm, &counters) < 0)
        return -1;
    for (size_t i = 0; i < vm->def->ndisks; i++) {
        const char *name = vm->def->disks[i]->info.alias;

        if (!alias || STREQ_NULLABLE(alias, name))
            found |= kumoStatsAddBlock(counters, name, stats);
    }
    json_decref(counters);
    if (found || !alias)
        return 0;
    virReportError(VIR_ERR_INTERNAL_ERROR, _("the VMM has no statistics of disk '%s'"), path);
    return -1;
}

/* The shape that both calls share. */
static int kumoDomainBlockStatsOf(virDomainPtr dom, const char *path, kumoBlockStats *stats,
                                  int (*ensureACL)(virConnectPtr, virDomainDef *))
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    if (ensureACL(dom->conn, vm->def) >= 0 && virDomainObjBeginJob(vm, VIR_JOB_QUERY) == 0) {
        ret = kumoGetBlockStats(vm, path, stats);
        virDomainObjEndJob(vm);
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainBlockStats(virDomainPtr dom, const char *path, virDomainBlockStatsPtr stats)
{
    kumoBlockStats block;

    if (kumoDomainBlockStatsOf(dom, path, &block, virDomainBlockStatsEnsureACL) < 0)
        return -1;
    stats->rd_req = (long long)block.readOps;
    stats->rd_bytes = (long long)block.readBytes;
    stats->wr_req = (long long)block.writeOps;
    stats->wr_bytes = (long long)block.writeBytes;
    stats->errs = -1; /* not counted */
    return 0;
}

int kumoDomainBlockStatsFlags(virDomainPtr dom, const char *path, virTypedParameterPtr params,
                              int *nparams, unsigned int flags)
{
    kumoBlockStats block;

    virCheckFlags(VIR_TYPED_PARAM_STRING_OKAY, -1);

    if (kumoDomainBlockStatsOf(dom, path, &block, virDomainBlockStatsFlagsEnsureACL) < 0)
        return -1;

    const struct {
        const char *name;
        unsigned long long value;
    } values[] = {
        { VIR_DOMAIN_BLOCK_STATS_READ_BYTES, block.readBytes },
        { VIR_DOMAIN_BLOCK_STATS_READ_REQ, block.readOps },
        { VIR_DOMAIN_BLOCK_STATS_READ_TOTAL_TIMES, block.readTimeNs },
        { VIR_DOMAIN_BLOCK_STATS_WRITE_BYTES, block.writeBytes },
        { VIR_DOMAIN_BLOCK_STATS_WRITE_REQ, block.writeOps },
        { VIR_DOMAIN_BLOCK_STATS_WRITE_TOTAL_TIMES, block.writeTimeNs },
    };

    if (*nparams == 0) {
        *nparams = G_N_ELEMENTS(values);
        return 0;
    }
    *nparams = MIN(*nparams, (int)G_N_ELEMENTS(values));
    for (int i = 0; i < *nparams; i++) {
        if (virTypedParameterAssign(&params[i], values[i].name, VIR_TYPED_PARAM_LLONG,
                                    (long long)values[i].value) < 0)
            return -1;
    }
    return 0;
}

int kumoDomainGetBlockInfo(virDomainPtr dom, const char *path, virDomainBlockInfoPtr info,
                           unsigned int flags)
{
    virDomainDiskDef *disk;
    kumoImageSize size;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetBlockInfoEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (!(disk = virDomainDiskByName(vm->def, path, false))) {
        virReportError(VIR_ERR_INVALID_ARG, _("invalid path %s not assigned to domain"), path);
        goto cleanup;
    }
    if (virStorageSourceIsEmpty(disk->src)) {
        virReportError(VIR_ERR_INVALID_ARG, _("disk '%s' has no source at present"), disk->dst);
        goto cleanup;
    }
    if (kumoStatsImage(disk->src, &size) < 0)
        goto cleanup;
    info->capacity = size.capacity;
    info->allocation = size.allocation;
    info->physical = size.physical;
    ret = 0;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- interfaces --- */

int kumoDomainInterfaceStats(virDomainPtr dom, const char *device, virDomainInterfaceStatsPtr stats)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    virDomainNetDef *net;
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainInterfaceStatsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto cleanup;
    if (!(net = virDomainNetFind(vm->def, device)))
        goto cleanup;
    /* What a tap sends is what the guest receives. */
    ret = virNetDevTapInterfaceStats(net->ifname, stats, !virDomainNetTypeSharesHostView(net));

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainInterfaceAddresses(virDomainPtr dom, virDomainInterfacePtr **ifaces,
                                 unsigned int source, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    virConnectPtr network;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainInterfaceAddressesEnsureACL(dom->conn, vm->def, source) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto cleanup;

    switch (source) {
    case VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE:
        if (!(network = kumoSecondaryNetwork(driver)))
            break;
        ret = virDomainNetDHCPInterfaces(vm->def, ifaces);
        kumoSecondaryNetworkDone(network);
        break;
    case VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP:
        ret = virDomainNetARPInterfaces(vm->def, ifaces);
        break;
    case VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT:
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, "%s", _("there is no guest agent"));
        break;
    default:
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, _("unknown IP address data source %u"),
                       source);
        break;
    }

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- memory --- */

int kumoDomainMemoryStats(virDomainPtr dom, virDomainMemoryStatPtr stats, unsigned int nstats,
                          unsigned int flags)
{
    json_t *counters = NULL;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainMemoryStatsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_QUERY) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) >= 0 && kumoStatsCounters(vm, &counters) == 0) {
        ret = kumoStatsMemory(vm, counters, stats, nstats);
        json_decref(counters);
    }
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

static int kumoChangeMemoryStatsPeriod(virDomainObj *vm, int period)
{
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorUpdateBalloon(mon, json_pack("{s:i}", "stats_period", period));

    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    vm->def->memballoon->period = period;
    return 0;
}

static int kumoSetMemoryStatsPeriod(kumoUpdate *update, int period)
{
    if ((update->live && !kumoHasBalloon(update->live)) ||
        (update->config && !kumoHasBalloon(update->config))) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("no memory balloon: there are no statistics to be asked for"));
        return -1;
    }
    if (update->config)
        update->config->memballoon->period = period;
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && kumoChangeMemoryStatsPeriod(update->vm, period) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetMemoryStatsPeriod(virDomainPtr dom, int period, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetMemoryStatsPeriodEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetMemoryStatsPeriod(&update, period);
}
