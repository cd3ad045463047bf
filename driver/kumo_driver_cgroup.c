/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a domain may use of the host's memory and disks, as control groups hold it to. */
#include "driver/kumo_driver.h"

#include "domain_cgroup.h"
#include "domain_driver.h"
#include "driver/conf/kumo_memory.h"
#include "driver/kumo_cgroup.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"
#include "virnuma.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- memory --- */

static int kumoSetMemoryLimits(kumoUpdate *update, virTypedParameterPtr params, int nparams)
{
    kumoDomainObjPrivate *priv = update->vm->privateData;

    if (update->live && kumoCgroupCheckController(update->vm, VIR_CGROUP_CONTROLLER_MEMORY) < 0)
        return -1;
    if (virDomainCgroupSetMemoryLimitParameters(priv->cgroup, update->vm, update->live,
                                                update->config, params, nparams) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetMemoryParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                  unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_MEMORY_HARD_LIMIT,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_MEMORY_SOFT_LIMIT,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_MEMORY_SWAP_HARD_LIMIT,
                               VIR_TYPED_PARAM_ULLONG, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetMemoryParametersEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_OPERATION_UNSUPPORTED,
                                  _("memory tuning is not available in session mode")) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetMemoryLimits(&update, params, nparams);
}

/* What the kernel holds the domain to. A kernel without accounting of swap knows no such limit. */
static int kumoLookAtMemory(virDomainObj *vm, virDomainMemtune *mem)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (virCgroupGetMemoryHardLimit(priv->cgroup, &mem->hard_limit) < 0 ||
        virCgroupGetMemorySoftLimit(priv->cgroup, &mem->soft_limit) < 0)
        return -1;
    if (virCgroupGetMemSwapHardLimit(priv->cgroup, &mem->swap_hard_limit) < 0) {
        if (!virLastErrorIsSystemErrno(ENOENT) && !virLastErrorIsSystemErrno(EOPNOTSUPP))
            return -1;
        virResetLastError();
        mem->swap_hard_limit = VIR_DOMAIN_MEMORY_PARAM_UNLIMITED;
    }
    return 0;
}

int kumoDomainGetMemoryParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                  unsigned int flags)
{
    virDomainMemtune mem = { 0 };
    const struct {
        const char *name;
        const unsigned long long *value;
    } fields[] = {
        { VIR_DOMAIN_MEMORY_HARD_LIMIT, &mem.hard_limit },
        { VIR_DOMAIN_MEMORY_SOFT_LIMIT, &mem.soft_limit },
        { VIR_DOMAIN_MEMORY_SWAP_HARD_LIMIT, &mem.swap_hard_limit },
    };
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetMemoryParametersEnsureACL(dom->conn, vm->def) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_OPERATION_UNSUPPORTED,
                                  _("memory tuning is not available in session mode")) < 0)
        return -1;
    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (*nparams == 0) {
        *nparams = G_N_ELEMENTS(fields);
        return 0;
    }
    if (persistent)
        mem = persistent->mem;
    else if (kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_MEMORY) < 0 ||
             kumoLookAtMemory(vm, &mem) < 0)
        return -1;

    *nparams = MIN(*nparams, (int)G_N_ELEMENTS(fields));
    for (int i = 0; i < *nparams; i++) {
        if (virTypedParameterAssign(&params[i], fields[i].name, VIR_TYPED_PARAM_ULLONG,
                                    *fields[i].value) < 0)
            return -1;
    }
    return 0;
}

/* --- where memory comes from --- */

static int kumoApplyNodes(virCgroup *group, void *opaque)
{
    return virCgroupSetCpusetMems(group, opaque);
}

/* The kernel moves what the guest has already. */
static int kumoSetNodesLive(virDomainObj *vm, virBitmap *nodes)
{
    g_autoptr(virCgroup) emulator = NULL;
    g_autofree char *text = virBitmapFormat(nodes);

    if (!text || !virNumaNodesetIsAvailable(nodes))
        return -1;
    if (!(emulator = kumoCgroupEmulator(vm)))
        return -1;
    return kumoApplyNodes(emulator, text) < 0 ? -1
                                              : kumoCgroupForEachVcpu(vm, kumoApplyNodes, text);
}

static int kumoSetNuma(kumoUpdate *update, int mode, virBitmap *nodes)
{
    virDomainDef *live = update->live;
    virDomainNumatuneMemMode before;
    bool has = live && virDomainNumatuneGetMode(live->numa, -1, &before) == 0;

    if (live && (kumoCgroupCheckPrivileged(update->driver, VIR_ERR_OPERATION_UNSUPPORTED,
                                           _("NUMA tuning is not available in session mode")) < 0 ||
                 kumoCgroupCheckController(update->vm, VIR_CGROUP_CONTROLLER_CPUSET) < 0))
        return -1;
    /* The policy of a process that runs is its own affair. */
    if (live && mode != -1 &&
        (has ? (int)before != mode
             : mode == VIR_DOMAIN_NUMATUNE_MEM_PREFERRED ||
                   mode == VIR_DOMAIN_NUMATUNE_MEM_INTERLEAVE)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("can't change numatune mode for running domain"));
        return -1;
    }
    if (has && nodes && !kumoMemoryNodesByGroup(live, true)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("change of nodeset for running domain requires strict numa mode"));
        return -1;
    }
    if (update->config && virDomainNumatuneSet(update->config->numa, true, -1, mode, nodes) < 0)
        return -1;
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (live && ((nodes && kumoSetNodesLive(update->vm, nodes) < 0) ||
                 virDomainNumatuneSet(live->numa, true, -1, mode, nodes) < 0))
        return -1;
    return kumoUpdateFinish(update);
}

/* Reads @params. @nodes: (transfer full): NULL if they name none; @mode: likewise -1. */
static int kumoReadNuma(const virTypedParameter *params, int nparams, int *mode, virBitmap **nodes)
{
    for (int i = 0; i < nparams; i++) {
        if (STREQ(params[i].field, VIR_DOMAIN_NUMA_MODE)) {
            *mode = params[i].value.i;
            if (*mode < 0 || *mode >= VIR_DOMAIN_NUMATUNE_MEM_LAST) {
                virReportError(VIR_ERR_INVALID_ARG, _("unsupported numatune mode: '%d'"), *mode);
                return -1;
            }
        } else if (STREQ(params[i].field, VIR_DOMAIN_NUMA_NODESET)) {
            g_clear_pointer(nodes, virBitmapFree);
            if (virBitmapParse(params[i].value.s, nodes, VIR_DOMAIN_CPUMASK_LEN) < 0)
                return -1;
            if (virBitmapIsAllClear(*nodes)) {
                virReportError(VIR_ERR_OPERATION_INVALID, _("invalid nodeset of 'numatune': %s"),
                               params[i].value.s);
                return -1;
            }
        }
    }
    return 0;
}

int kumoDomainSetNumaParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                unsigned int flags)
{
    g_autoptr(virBitmap) nodes = NULL;
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };
    int mode = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_NUMA_MODE, VIR_TYPED_PARAM_INT,
                               VIR_DOMAIN_NUMA_NODESET, VIR_TYPED_PARAM_STRING, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetNumaParametersEnsureACL(dom->conn, vm->def, flags) < 0)
        return -1;
    if (kumoReadNuma(params, nparams, &mode, &nodes) < 0 || kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetNuma(&update, mode, nodes);
}

int kumoDomainGetNumaParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                unsigned int flags)
{
    virDomainNumatuneMemMode mode = VIR_DOMAIN_NUMATUNE_MEM_STRICT;
    g_autofree char *nodes = NULL;
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *def;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetNumaParametersEnsureACL(dom->conn, vm->def) < 0)
        return -1;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        return -1;
    if (*nparams == 0) {
        *nparams = 2;
        return 0;
    }

    ignore_value(virDomainNumatuneGetMode(def->numa, -1, &mode));
    /* Without the element there are no nodes to be told. */
    if (!(nodes = virDomainNumatuneFormatNodeset(def->numa, NULL, -1)))
        nodes = g_strdup("");
    *nparams = MIN(*nparams, 2);
    if (virTypedParameterAssign(&params[0], VIR_DOMAIN_NUMA_MODE, VIR_TYPED_PARAM_INT, (int)mode) <
            0 ||
        (*nparams > 1 && virTypedParameterAssign(&params[1], VIR_DOMAIN_NUMA_NODESET,
                                                 VIR_TYPED_PARAM_STRING, g_strdup(nodes)) < 0))
        return -1;
    return 0;
}

/* --- disks --- */

/* Weight and the five limits by device. */
#define KUMO_NBLKIO 6

/* libvirt's helper sets what it understands and goes on after what it does not: first read all. */
static int kumoCheckBlkio(const virTypedParameter *params, int nparams)
{
    for (int i = 0; i < nparams; i++) {
        virBlkioDevice *devices = NULL;
        size_t ndevices = 0;
        int rc;

        if (params[i].type != VIR_TYPED_PARAM_STRING)
            continue;
        rc = virDomainDriverParseBlkioDeviceStr(params[i].value.s, params[i].field, &devices,
                                                &ndevices);
        virBlkioDeviceArrayClear(devices, ndevices);
        g_free(devices);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static int kumoSetBlkio(kumoUpdate *update, virTypedParameterPtr params, int nparams)
{
    kumoDomainObjPrivate *priv = update->vm->privateData;

    if (update->live && kumoCgroupCheckController(update->vm, VIR_CGROUP_CONTROLLER_BLKIO) < 0)
        return -1;
    if (kumoCheckBlkio(params, nparams) < 0)
        return -1;
    if (update->config &&
        virDomainDriverSetupPersistentDefBlkioParams(update->config, params, nparams) < 0)
        return -1;
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live &&
        virDomainCgroupSetupDomainBlkioParameters(priv->cgroup, update->live, params, nparams) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetBlkioParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                 unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_BLKIO_WEIGHT, VIR_TYPED_PARAM_UINT,
                               VIR_DOMAIN_BLKIO_DEVICE_WEIGHT, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_READ_IOPS, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_WRITE_IOPS, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_READ_BPS, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_WRITE_BPS, VIR_TYPED_PARAM_STRING, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetBlkioParametersEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_CONFIG_UNSUPPORTED,
                                  _("block I/O tuning is not available in session mode")) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetBlkio(&update, params, nparams);
}

int kumoDomainGetBlkioParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                 unsigned int flags)
{
    kumoDomainObjPrivate *priv;
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *live;
    virDomainDef *persistent;
    unsigned int weight;
    int max = MIN(*nparams, KUMO_NBLKIO);

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainGetBlkioParametersEnsureACL(dom->conn, vm->def) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_CONFIG_UNSUPPORTED,
                                  _("block I/O tuning is not available in session mode")) < 0)
        return -1;
    if (*nparams == 0) {
        *nparams = KUMO_NBLKIO;
        return 0;
    }
    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (persistent)
        weight = persistent->blkio.weight;
    else if (kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_BLKIO) < 0 ||
             virCgroupGetBlkioWeight(priv->cgroup, &weight) < 0)
        return -1;

    *nparams = 1;
    if (virTypedParameterAssign(&params[0], VIR_DOMAIN_BLKIO_WEIGHT, VIR_TYPED_PARAM_UINT, weight) <
            0 ||
        virDomainGetBlkioParametersAssignFromDef(persistent ? persistent : live, params, nparams,
                                                 max) < 0)
        return -1;
    return 0;
}
