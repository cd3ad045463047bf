/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vCPUs, memory and disks of another size, running and defined. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_definition.h"
#include "driver/conf/kumo_memory.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_resize.h"
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

static int kumoSetVcpus(virDomainObj *vm, unsigned int vcpus, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    bool maximum = flags & VIR_DOMAIN_VCPU_MAXIMUM;
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (maximum && live) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("maximum vcpu count of a live domain can't be modified"));
        return -1;
    }
    if ((!maximum && live && kumoCheckVcpus(live, vcpus) < 0) ||
        (!maximum && persistent && kumoCheckVcpus(persistent, vcpus) < 0))
        return -1;

    if (persistent) {
        if (!(copy = virDomainObjCopyPersistentDef(vm, driver->xmlopt, NULL)))
            return -1;
        virDomainDefVcpuOrderClear(copy);
        if ((maximum ? kumoDefineMaxVcpus(driver, copy, vcpus)
                     : kumoDefinitionSetVcpus(copy, vcpus)) < 0 ||
            kumoDefinitionSettle(driver, copy, VIR_DOMAIN_DEF_PARSE_INACTIVE) < 0)
            return -1;
    }
    if (live && kumoResizeVcpus(vm, vcpus) < 0)
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainSetVcpusFlags(virDomainPtr dom, unsigned int vcpus, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    /* Every vCPU can be unplugged but the first. */
    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_VCPU_MAXIMUM |
                      VIR_DOMAIN_VCPU_GUEST | VIR_DOMAIN_VCPU_HOTPLUGGABLE,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetVcpusFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (flags & VIR_DOMAIN_VCPU_GUEST) {
        ignore_value(kumoReportNoAgent(vm));
        goto cleanup;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoSetVcpus(vm, vcpus, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
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

static int kumoSetVcpu(virDomainObj *vm, virBitmap *map, bool on, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDef *live;
    virDomainDef *persistent;
    int vcpus;

    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (live && kumoCheckVcpuStates(live, map, on) < 0)
        return -1;
    if (persistent) {
        if (virBitmapIsBitSet(map, 0)) {
            virReportError(VIR_ERR_INVALID_ARG, "%s", _("vCPU '0' can't be modified"));
            return -1;
        }
        if ((vcpus = kumoCountVcpus(persistent, map, on)) < 0 ||
            !(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)))
            return -1;
        virDomainDefVcpuOrderClear(copy);
        if (kumoDefinitionSetVcpus(copy, (unsigned int)vcpus) < 0 ||
            kumoDefinitionSettle(priv->driver, copy, VIR_DOMAIN_DEF_PARSE_INACTIVE) < 0)
            return -1;
    }
    if (live && ((vcpus = kumoCountVcpus(live, map, on)) < 0 ||
                 kumoResizeVcpus(vm, (unsigned int)vcpus) < 0))
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainSetVcpu(virDomainPtr dom, const char *cpumap, int state, unsigned int flags)
{
    g_autoptr(virBitmap) map = NULL;
    virDomainObj *vm;
    int ret = -1;

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

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetVcpuEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoSetVcpu(vm, map, state == 1, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
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

static int kumoSetMemory(virDomainObj *vm, unsigned long long kib, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    bool maximum = flags & VIR_DOMAIN_MEM_MAXIMUM;
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (maximum && live) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot resize the maximum memory on an active domain"));
        return -1;
    }
    if (!maximum && ((live && kib > virDomainDefGetMemoryTotal(live)) ||
                     (persistent && kib > virDomainDefGetMemoryTotal(persistent)))) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("cannot set memory higher than max memory"));
        return -1;
    }

    if (persistent) {
        if (!(copy = virDomainObjCopyPersistentDef(vm, driver->xmlopt, NULL)))
            return -1;
        if (maximum && kumoDefineMaxMemory(copy, kib) < 0)
            return -1;
        if (!maximum)
            copy->mem.cur_balloon = kib;
        if (kumoDefinitionSettle(driver, copy, VIR_DOMAIN_DEF_PARSE_INACTIVE) < 0)
            return -1;
    }
    if (live && kumoResizeBalloon(vm, kib) < 0)
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainSetMemoryFlags(virDomainPtr dom, unsigned long kib, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_MEM_MAXIMUM, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetMemoryFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoSetMemory(vm, kib, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
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

static int kumoBlockResize(virDomainObj *vm, const char *path, unsigned long long bytes)
{
    virDomainDiskDef *disk;
    g_autofree char *alias = NULL;
    kumoMonitor *mon;
    int rc;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (!(disk = virDomainDiskByName(vm->def, path, false))) {
        virReportError(VIR_ERR_INVALID_ARG, _("disk '%s' was not found in the domain config"),
                       path);
        return -1;
    }
    if (virStorageSourceIsEmpty(disk->src) || disk->src->readonly) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, _("can't resize empty or readonly disk '%s'"),
                       disk->dst);
        return -1;
    }

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
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_BLOCK_RESIZE_BYTES, -1);

    if (!(flags & VIR_DOMAIN_BLOCK_RESIZE_BYTES)) {
        if (size > ULLONG_MAX / 1024) {
            virReportError(VIR_ERR_OVERFLOW, _("size must be less than %llu"), ULLONG_MAX / 1024);
            return -1;
        }
        size *= 1024;
    }

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainBlockResizeEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoBlockResize(vm, path, size);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
