/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a domain may use of the host's memory and disks, as control groups hold it to. */
#include "driver/kumo_driver.h"

#include "domain_cgroup.h"
#include "domain_driver.h"
#include "driver/conf/kumo_definition.h"
#include "driver/kumo_cgroup.h"
#include "viraccessapicheck.h"
#include "virnuma.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- memory --- */

static int kumoSetMemoryLimits(virDomainObj *vm, virTypedParameterPtr params, int nparams,
                               unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (live && kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_MEMORY) < 0)
        return -1;
    if (persistent && !(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)))
        return -1;

    if (virDomainCgroupSetMemoryLimitParameters(priv->cgroup, vm, live, copy, params, nparams) <
        0) {
        virErrorPtr saved = NULL;

        /* Some may be set already. What the live definition has of them is what was set. */
        virErrorPreserveLast(&saved);
        if (live)
            kumoDomainSaveStatus(vm);
        virErrorRestore(&saved);
        return -1;
    }
    if (live)
        kumoDomainSaveStatus(vm);
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainSetMemoryParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                  unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_MEMORY_HARD_LIMIT,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_MEMORY_SOFT_LIMIT,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_MEMORY_SWAP_HARD_LIMIT,
                               VIR_TYPED_PARAM_ULLONG, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetMemoryParametersEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_OPERATION_UNSUPPORTED,
                                  _("memory tuning is not available in session mode")) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoSetMemoryLimits(vm, params, nparams, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
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
    virDomainObj *vm;
    virDomainDef *live;
    virDomainDef *persistent;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetMemoryParametersEnsureACL(dom->conn, vm->def) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_OPERATION_UNSUPPORTED,
                                  _("memory tuning is not available in session mode")) < 0)
        goto cleanup;
    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        goto cleanup;
    if (*nparams == 0) {
        *nparams = G_N_ELEMENTS(fields);
        ret = 0;
        goto cleanup;
    }
    if (persistent)
        mem = persistent->mem;
    else if (kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_MEMORY) < 0 ||
             kumoLookAtMemory(vm, &mem) < 0)
        goto cleanup;

    *nparams = MIN(*nparams, (int)G_N_ELEMENTS(fields));
    for (int i = 0; i < *nparams; i++) {
        if (virTypedParameterAssign(&params[i], fields[i].name, VIR_TYPED_PARAM_ULLONG,
                                    *fields[i].value) < 0)
            goto cleanup;
    }
    ret = 0;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
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

static int kumoDefineNodes(kumoDriver *driver, virDomainDef *def, int mode, virBitmap *nodes)
{
    if (virDomainNumatuneSet(def->numa, true, -1, mode, nodes) < 0)
        return -1;
    return kumoDefinitionSettle(driver, def, VIR_DOMAIN_DEF_PARSE_INACTIVE);
}

static int kumoSetNuma(virDomainObj *vm, int mode, virBitmap *nodes, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDef) copy = NULL;
    virDomainNumatuneMemMode before;
    virDomainDef *live;
    virDomainDef *persistent;

    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (live && (kumoCgroupCheckPrivileged(priv->driver, VIR_ERR_OPERATION_UNSUPPORTED,
                                           _("NUMA tuning is not available in session mode")) < 0 ||
                 kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_CPUSET) < 0))
        return -1;
    if (live && mode != -1 && virDomainNumatuneGetMode(live->numa, -1, &before) == 0 &&
        (int)before != mode) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("can't change numatune mode for running domain"));
        return -1;
    }
    if (persistent && (!(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)) ||
                       kumoDefineNodes(priv->driver, copy, mode, nodes) < 0))
        return -1;
    if (live) {
        if (nodes && kumoSetNodesLive(vm, nodes) < 0)
            return -1;
        if (virDomainNumatuneSet(live->numa, true, -1, mode, nodes) < 0)
            return -1;
        kumoDomainSaveStatus(vm);
    }
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
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
            if (*mode != VIR_DOMAIN_NUMATUNE_MEM_STRICT &&
                *mode != VIR_DOMAIN_NUMATUNE_MEM_RESTRICTIVE) {
                virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                               _("the numatune mode '%s' is not supported by kumo"),
                               virDomainNumatuneMemModeTypeToString(*mode));
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
    virDomainObj *vm;
    int mode = -1;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_NUMA_MODE, VIR_TYPED_PARAM_INT,
                               VIR_DOMAIN_NUMA_NODESET, VIR_TYPED_PARAM_STRING, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetNumaParametersEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (kumoReadNuma(params, nparams, &mode, &nodes) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoSetNuma(vm, mode, nodes, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetNumaParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                unsigned int flags)
{
    virDomainNumatuneMemMode mode = VIR_DOMAIN_NUMATUNE_MEM_STRICT;
    g_autofree char *nodes = NULL;
    virDomainObj *vm;
    virDomainDef *def;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetNumaParametersEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        goto cleanup;
    if (*nparams == 0) {
        *nparams = 2;
        ret = 0;
        goto cleanup;
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
        goto cleanup;
    ret = 0;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
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

static int kumoSetBlkio(virDomainObj *vm, virTypedParameterPtr params, int nparams,
                        unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (live && kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_BLKIO) < 0)
        return -1;
    if (kumoCheckBlkio(params, nparams) < 0)
        return -1;
    if (persistent && (!(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)) ||
                       virDomainDriverSetupPersistentDefBlkioParams(copy, params, nparams) < 0 ||
                       kumoDefinitionSettle(priv->driver, copy, VIR_DOMAIN_DEF_PARSE_INACTIVE) < 0))
        return -1;
    if (live) {
        int rc = virDomainCgroupSetupDomainBlkioParameters(priv->cgroup, live, params, nparams);

        kumoDomainSaveStatus(vm);
        if (rc < 0)
            return -1;
    }
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainSetBlkioParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                 unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_BLKIO_WEIGHT, VIR_TYPED_PARAM_UINT,
                               VIR_DOMAIN_BLKIO_DEVICE_WEIGHT, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_READ_IOPS, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_WRITE_IOPS, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_READ_BPS, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_BLKIO_DEVICE_WRITE_BPS, VIR_TYPED_PARAM_STRING, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetBlkioParametersEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_CONFIG_UNSUPPORTED,
                                  _("block I/O tuning is not available in session mode")) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoSetBlkio(vm, params, nparams, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetBlkioParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                 unsigned int flags)
{
    kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    virDomainDef *live;
    virDomainDef *persistent;
    unsigned int weight;
    int max = MIN(*nparams, KUMO_NBLKIO);
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainGetBlkioParametersEnsureACL(dom->conn, vm->def) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_CONFIG_UNSUPPORTED,
                                  _("block I/O tuning is not available in session mode")) < 0)
        goto cleanup;
    if (*nparams == 0) {
        *nparams = KUMO_NBLKIO;
        ret = 0;
        goto cleanup;
    }
    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        goto cleanup;
    if (persistent)
        weight = persistent->blkio.weight;
    else if (kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_BLKIO) < 0 ||
             virCgroupGetBlkioWeight(priv->cgroup, &weight) < 0)
        goto cleanup;

    *nparams = 1;
    if (virTypedParameterAssign(&params[0], VIR_DOMAIN_BLKIO_WEIGHT, VIR_TYPED_PARAM_UINT, weight) <
            0 ||
        virDomainGetBlkioParametersAssignFromDef(persistent ? persistent : live, params, nparams,
                                                 max) < 0)
        goto cleanup;
    ret = 0;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
