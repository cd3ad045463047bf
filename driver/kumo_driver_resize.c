/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vCPUs, memory and disks of another size, running and defined. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_definition.h"
#include "driver/conf/kumo_memory.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_resize.h"
#include "driver/kumo_stats.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- vCPUs --- */

static int kumoCheckVcpus(const virDomainDef *def, unsigned int vcpus)
{
    if (vcpus <= virDomainDefGetVcpusMax(def))
        return 0;
    virReportError(VIR_ERR_INVALID_ARG, _("requested vcpus is greater than max allowable: %u > %u"),
                   vcpus, virDomainDefGetVcpusMax(def));
    return -1;
}

static int kumoDefineMaxVcpus(kumoDriver *driver, virDomainDef *def, unsigned int vcpus)
{
    unsigned int topology;

    if (virDomainDefGetVcpusTopology(def, &topology) == 0 && vcpus != topology) {
        virReportError(VIR_ERR_INVALID_ARG, "%s",
                       _("CPU topology doesn't match the desired vcpu count"));
        return -1;
    }
    return virDomainDefSetVcpusMax(def, vcpus, driver->xmlopt);
}

static int kumoSetMaxVcpus(kumoUpdate *update, unsigned int vcpus)
{
    if (update->live) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("maximum vcpu count of a live domain can't be modified"));
        return -1;
    }
    virDomainDefVcpuOrderClear(update->config);
    if (kumoDefineMaxVcpus(update->driver, update->config, vcpus) < 0 ||
        kumoUpdateSettle(update) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

static int kumoSetVcpus(kumoUpdate *update, unsigned int vcpus)
{
    if ((update->live && kumoCheckVcpus(update->live, vcpus) < 0) ||
        (update->config && kumoCheckVcpus(update->config, vcpus) < 0))
        return -1;
    if (update->config) {
        virDomainDefVcpuOrderClear(update->config);
        if (kumoDefinitionSetVcpus(update->config, vcpus) < 0)
            return -1;
    }
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && kumoResizeVcpus(update->vm, vcpus) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetVcpusFlags(virDomainPtr dom, unsigned int vcpus, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    /* Every vCPU can be unplugged but the first. */
    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_VCPU_MAXIMUM |
                      VIR_DOMAIN_VCPU_GUEST | VIR_DOMAIN_VCPU_HOTPLUGGABLE,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetVcpusFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        return -1;
    if (flags & VIR_DOMAIN_VCPU_GUEST) {
        ignore_value(kumoReportNoAgent(vm));
        return -1;
    }
    if (kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return flags & VIR_DOMAIN_VCPU_MAXIMUM ? kumoSetMaxVcpus(&update, vcpus)
                                           : kumoSetVcpus(&update, vcpus);
}

int kumoDomainSetVcpus(virDomainPtr dom, unsigned int vcpus)
{
    return kumoDomainSetVcpusFlags(dom, vcpus, VIR_DOMAIN_AFFECT_LIVE);
}

/*
 * How many vCPUs there are when those of @map are on (or off). They come and go in the order of
 * their numbers. Returns -1 with the error reported.
 */
static int kumoCountVcpus(virDomainDef *def, virBitmap *map, bool on)
{
    g_autoptr(virBitmap) online = virDomainDefGetOnlineVcpumap(def);
    ssize_t vcpu = -1;

    if (!online)
        return -1;
    while ((vcpu = virBitmapNextSetBit(map, vcpu)) >= 0) {
        if (vcpu >= virDomainDefGetVcpusMax(def)) {
            virReportError(VIR_ERR_INVALID_ARG, _("there is no vCPU %zd"), vcpu);
            return -1;
        }
        if (on)
            virBitmapSetBitExpand(online, (size_t)vcpu);
        else
            ignore_value(virBitmapClearBit(online, (size_t)vcpu));
    }
    if (virBitmapIsBitSet(online, 0) &&
        (size_t)virBitmapLastSetBit(online) + 1 == virBitmapCountBits(online))
        return (int)virBitmapCountBits(online);
    virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                   _("vCPUs come and go in the order of their numbers: one that is off before one "
                     "that is on is not supported by kumo"));
    return -1;
}

static int kumoCheckVcpuStates(virDomainDef *live, virBitmap *map, bool on)
{
    ssize_t number = -1;

    while ((number = virBitmapNextSetBit(map, number)) >= 0) {
        const virDomainVcpuDef *vcpu = virDomainDefGetVcpu(live, (unsigned int)number);

        if (!vcpu || vcpu->online != on)
            continue;
        virReportError(VIR_ERR_INVALID_ARG, _("vcpu '%zd' is already in requested state"), number);
        return -1;
    }
    return 0;
}

static int kumoSetVcpu(kumoUpdate *update, virBitmap *map, bool on)
{
    int vcpus;

    if (update->live && kumoCheckVcpuStates(update->live, map, on) < 0)
        return -1;
    if (update->config) {
        if (virBitmapIsBitSet(map, 0)) {
            virReportError(VIR_ERR_INVALID_ARG, "%s", _("vCPU '0' can't be modified"));
            return -1;
        }
        if ((vcpus = kumoCountVcpus(update->config, map, on)) < 0)
            return -1;
        virDomainDefVcpuOrderClear(update->config);
        if (kumoDefinitionSetVcpus(update->config, (unsigned int)vcpus) < 0)
            return -1;
    }
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && ((vcpus = kumoCountVcpus(update->live, map, on)) < 0 ||
                         kumoResizeVcpus(update->vm, (unsigned int)vcpus) < 0))
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetVcpu(virDomainPtr dom, const char *cpumap, int state, unsigned int flags)
{
    g_autoptr(virBitmap) map = NULL;
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (state != 0 && state != 1) {
        virReportError(VIR_ERR_INVALID_ARG, _("a vCPU has no state %d"), state);
        return -1;
    }
    if (virBitmapParse(cpumap, &map, VIR_DOMAIN_CPUMASK_LEN) < 0)
        return -1;
    if (virBitmapIsAllClear(map)) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("no vcpus selected for modification"));
        return -1;
    }

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetVcpuEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetVcpu(&update, map, state == 1);
}

/* --- memory --- */

static int kumoDefineMaxMemory(virDomainDef *def, unsigned long long kib)
{
    if (virDomainNumaGetNodeCount(def->numa) > 0) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("initial memory size of a domain with NUMA nodes cannot be modified with "
                         "this API"));
        return -1;
    }
    if (def->mem.max_memory && def->mem.max_memory < kib) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot set initial memory size greater than the maximum memory size"));
        return -1;
    }
    /* Without a balloon the guest always has all. */
    if (def->mem.cur_balloon > kib || !kumoHasBalloon(def))
        def->mem.cur_balloon = kib;
    virDomainDefSetMemoryTotal(def, kib);
    return 0;
}

static int kumoSetMaxMemory(kumoUpdate *update, unsigned long long kib)
{
    if (update->live) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot resize the maximum memory on an active domain"));
        return -1;
    }
    if (kumoDefineMaxMemory(update->config, kib) < 0 || kumoUpdateSettle(update) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

static int kumoSetMemory(kumoUpdate *update, unsigned long long kib)
{
    if ((update->live && kib > virDomainDefGetMemoryTotal(update->live)) ||
        (update->config && kib > virDomainDefGetMemoryTotal(update->config))) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("cannot set memory higher than max memory"));
        return -1;
    }

    if (update->config)
        update->config->mem.cur_balloon = kib;
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && kumoResizeBalloon(update->vm, kib) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetMemoryFlags(virDomainPtr dom, unsigned long kib, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_MEM_MAXIMUM, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetMemoryFlagsEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return flags & VIR_DOMAIN_MEM_MAXIMUM ? kumoSetMaxMemory(&update, kib)
                                          : kumoSetMemory(&update, kib);
}

int kumoDomainSetMemory(virDomainPtr dom, unsigned long kib)
{
    return kumoDomainSetMemoryFlags(dom, kib, VIR_DOMAIN_AFFECT_LIVE);
}

int kumoDomainSetMaxMemory(virDomainPtr dom, unsigned long kib)
{
    return kumoDomainSetMemoryFlags(dom, kib, VIR_DOMAIN_MEM_MAXIMUM);
}

/* --- disks --- */

/* Of a block device: the size that it has, whether it was named or not. */
static int kumoBlockCapacity(const virDomainDiskDef *disk, unsigned long long *bytes)
{
    kumoImageSize size;

    if (!virStorageSourceIsBlockLocal(disk->src)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("disk '%s' is no block device, whose capacity it could have"), disk->dst);
        return -1;
    }
    if (kumoStatsImage(disk->src, &size) < 0)
        return -1;
    if (*bytes && *bytes != size.physical) {
        virReportError(VIR_ERR_INVALID_ARG, _("disk '%s' has %llu bytes, not %llu"), disk->dst,
                       size.physical, *bytes);
        return -1;
    }
    *bytes = size.physical;
    return 0;
}

static int kumoBlockResize(kumoUpdate *update, const char *path, unsigned long long bytes,
                           bool capacity)
{
    virDomainObj *vm = update->vm;
    virDomainDiskDef *disk;
    g_autofree char *alias = NULL;
    kumoMonitor *mon;
    int rc;

    if (!(disk = virDomainDiskByName(update->live, path, false))) {
        virReportError(VIR_ERR_INVALID_ARG, _("disk '%s' was not found in the domain config"),
                       path);
        return -1;
    }
    if (virStorageSourceIsEmpty(disk->src) || disk->src->readonly) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, _("can't resize empty or readonly disk '%s'"),
                       disk->dst);
        return -1;
    }

    if (capacity && kumoBlockCapacity(disk, &bytes) < 0)
        return -1;

    alias = g_strdup(disk->info.alias);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorResizeDisk(mon, alias, bytes);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

int kumoDomainBlockResize(virDomainPtr dom, const char *path, unsigned long long size,
                          unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_BLOCK_RESIZE_BYTES | KUMO_BLOCK_RESIZE_CAPACITY, -1);

    if (!(flags & VIR_DOMAIN_BLOCK_RESIZE_BYTES)) {
        if (size > ULLONG_MAX / 1024) {
            virReportError(VIR_ERR_OVERFLOW, _("size must be less than %llu"), ULLONG_MAX / 1024);
            return -1;
        }
        size *= 1024;
    }

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainBlockResizeEnsureACL(dom->conn, vm->def) < 0 ||
        kumoUpdateBegin(&update, vm, VIR_DOMAIN_AFFECT_LIVE) < 0)
        return -1;
    return kumoBlockResize(&update, path, size, flags & KUMO_BLOCK_RESIZE_CAPACITY);
}
