/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Limits of disks and interfaces. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_validate.h"
#include "driver/kumo_hotplug_disk.h"
#include "driver/kumo_interface.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- limits of a disk --- */

static const struct {
    const char *name;
    size_t offset; /* in virDomainBlockIoTuneInfo */
} kumoIoTuneFields[] = {
#define FIELD(name, member)                                                                        \
    {                                                                                              \
        VIR_DOMAIN_BLOCK_IOTUNE_##name, offsetof(virDomainBlockIoTuneInfo, member)                 \
    }
    FIELD(TOTAL_BYTES_SEC, total_bytes_sec),
    FIELD(READ_BYTES_SEC, read_bytes_sec),
    FIELD(WRITE_BYTES_SEC, write_bytes_sec),
    FIELD(TOTAL_IOPS_SEC, total_iops_sec),
    FIELD(READ_IOPS_SEC, read_iops_sec),
    FIELD(WRITE_IOPS_SEC, write_iops_sec),
    FIELD(TOTAL_BYTES_SEC_MAX, total_bytes_sec_max),
    FIELD(READ_BYTES_SEC_MAX, read_bytes_sec_max),
    FIELD(WRITE_BYTES_SEC_MAX, write_bytes_sec_max),
    FIELD(TOTAL_IOPS_SEC_MAX, total_iops_sec_max),
    FIELD(READ_IOPS_SEC_MAX, read_iops_sec_max),
    FIELD(WRITE_IOPS_SEC_MAX, write_iops_sec_max),
    FIELD(SIZE_IOPS_SEC, size_iops_sec),
    FIELD(TOTAL_BYTES_SEC_MAX_LENGTH, total_bytes_sec_max_length),
    FIELD(READ_BYTES_SEC_MAX_LENGTH, read_bytes_sec_max_length),
    FIELD(WRITE_BYTES_SEC_MAX_LENGTH, write_bytes_sec_max_length),
    FIELD(TOTAL_IOPS_SEC_MAX_LENGTH, total_iops_sec_max_length),
    FIELD(READ_IOPS_SEC_MAX_LENGTH, read_iops_sec_max_length),
    FIELD(WRITE_IOPS_SEC_MAX_LENGTH, write_iops_sec_max_length),
#undef FIELD
};

static unsigned long long *kumoIoTuneField(virDomainBlockIoTuneInfo *tune, size_t i)
{
    return (unsigned long long *)(void *)((char *)tune + kumoIoTuneFields[i].offset);
}

/* Those of reads, of writes and of both together are one matter. */
static const char *kumoIoTuneFamily(const char *name)
{
    static const char *const prefixes[] = { "total_", "read_", "write_" };

    for (size_t i = 0; i < G_N_ELEMENTS(prefixes); i++) {
        if (STRPREFIX(name, prefixes[i]))
            return name + strlen(prefixes[i]);
    }
    return name;
}

/* As with libvirt's other drivers, who says something of a family has said all of it. */
static void kumoForgetIoTuneFamily(virDomainBlockIoTuneInfo *tune, const char *name)
{
    const char *family = kumoIoTuneFamily(name);

    for (size_t i = 0; i < G_N_ELEMENTS(kumoIoTuneFields); i++) {
        if (STREQ(kumoIoTuneFamily(kumoIoTuneFields[i].name), family))
            *kumoIoTuneField(tune, i) = 0;
    }
}

static int kumoCheckIoTuneFamilies(virDomainBlockIoTuneInfo *tune)
{
    static const char *const families[] = { "bytes_sec", "iops_sec", "bytes_sec_max",
                                            "iops_sec_max" };

    for (size_t f = 0; f < G_N_ELEMENTS(families); f++) {
        bool total = false;
        bool half = false;

        for (size_t i = 0; i < G_N_ELEMENTS(kumoIoTuneFields); i++) {
            const char *name = kumoIoTuneFields[i].name;

            if (STRNEQ(kumoIoTuneFamily(name), families[f]) || !*kumoIoTuneField(tune, i))
                continue;
            *(STRPREFIX(name, "total_") ? &total : &half) = true;
        }
        if (total && half) {
            virReportError(VIR_ERR_INVALID_ARG,
                           _("total and read/write %s cannot be set at the same time"),
                           families[f]);
            return -1;
        }
    }
    return 0;
}

static int kumoFindTunedDisk(virDomainDef *def, const char *path, virDomainDiskDef **disk)
{
    if ((*disk = virDomainDiskByName(def, path, true)))
        return 0;
    virReportError(VIR_ERR_INVALID_ARG, _("disk '%s' was not found in the domain config"), path);
    return -1;
}

static int kumoReadIoTuneField(const virTypedParameter *param, virDomainBlockIoTuneInfo *tune)
{
    bool isGroup = STREQ(param->field, VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME);
    size_t i = 0;

    while (i < G_N_ELEMENTS(kumoIoTuneFields) && STRNEQ(param->field, kumoIoTuneFields[i].name))
        i++;
    if (i == G_N_ELEMENTS(kumoIoTuneFields) && !isGroup) {
        virReportError(VIR_ERR_INVALID_ARG, _("parameter '%s' is not known"), param->field);
        return -1;
    }
    if (param->type != (isGroup ? VIR_TYPED_PARAM_STRING : VIR_TYPED_PARAM_ULLONG)) {
        virReportError(VIR_ERR_INVALID_ARG, _("parameter '%s' is not of type %s"), param->field,
                       isGroup ? "string" : "ullong");
        return -1;
    }
    if (isGroup) {
        g_free(tune->group_name);
        tune->group_name = g_strdup(param->value.s);
    } else {
        *kumoIoTuneField(tune, i) = param->value.ul;
    }
    return 0;
}

/* Who comes into a group has its limits but for what is said of them. */
static const virDomainBlockIoTuneInfo *
kumoIoTuneBefore(const virDomainDef *def, const virDomainDiskDef *disk, const char *group)
{
    if (group && STRNEQ_NULLABLE(disk->blkdeviotune.group_name, group)) {
        for (size_t i = 0; i < def->ndisks; i++) {
            if (STREQ_NULLABLE(def->disks[i]->blkdeviotune.group_name, group))
                return &def->disks[i]->blkdeviotune;
        }
    }
    return &disk->blkdeviotune;
}

/* Lays @params over what @disk has. Fills @tune, whose group_name is the caller's to free. */
static int kumoReadIoTune(const virDomainDef *def, const virDomainDiskDef *disk,
                          const virTypedParameter *params, int nparams,
                          virDomainBlockIoTuneInfo *tune)
{
    const char *group = NULL;
    const char *unsupported;

    for (int n = 0; n < nparams; n++) {
        if (STREQ(params[n].field, VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME) &&
            params[n].type == VIR_TYPED_PARAM_STRING)
            group = params[n].value.s;
    }
    virDomainBlockIoTuneInfoCopy(kumoIoTuneBefore(def, disk, group), tune);
    for (int n = 0; n < nparams; n++)
        kumoForgetIoTuneFamily(tune, params[n].field);
    for (int n = 0; n < nparams; n++) {
        if (kumoReadIoTuneField(&params[n], tune) < 0)
            return -1;
    }
    if (kumoCheckIoTuneFamilies(tune) < 0)
        return -1;
    if (!virDomainBlockIoTuneInfoHasAny(tune)) {
        if (group && STRNEQ_NULLABLE(disk->blkdeviotune.group_name, group)) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("the group '%s' cannot be had without a limit"), group);
            return -1;
        }
        /* Without limits there is nothing to share. */
        g_clear_pointer(&tune->group_name, g_free);
    }
    if (!(unsupported = kumoIoTuneUnsupported(tune)))
        return 0;
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("the block I/O limit %s is not supported by kumo"),
                   unsupported);
    return -1;
}

static int kumoDefineIoTune(virDomainDef *def, virDomainDiskDef *disk,
                            const virTypedParameter *params, int nparams)
{
    virDomainBlockIoTuneInfo tune = { 0 };
    g_autofree char *group = NULL;
    int rc = kumoReadIoTune(def, disk, params, nparams, &tune);

    group = tune.group_name;
    if (rc < 0)
        return -1;
    virDomainDiskSetBlockIOTune(disk, &tune);
    for (size_t i = 0; group && i < def->ndisks; i++) {
        if (def->disks[i] != disk && STREQ_NULLABLE(def->disks[i]->blkdeviotune.group_name, group))
            virDomainDiskSetBlockIOTune(def->disks[i], &tune);
    }
    return 0;
}

static void kumoTellIoTune(virDomainObj *vm, const char *target, virTypedParameterPtr params,
                           int nparams)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virTypedParameterPtr told = NULL;
    int ntold = 0;
    int max = 0;

    if (virTypedParamsAddString(&told, &ntold, &max, VIR_DOMAIN_TUNABLE_BLKDEV_DISK, target) < 0)
        goto cleanup;
    for (int i = 0; i < nparams; i++) {
        g_autofree char *name = g_strdup_printf("blkdeviotune.%s", params[i].field);

        if ((params[i].type == VIR_TYPED_PARAM_STRING
                 ? virTypedParamsAddString(&told, &ntold, &max, name, params[i].value.s)
                 : virTypedParamsAddULLong(&told, &ntold, &max, name, params[i].value.ul)) < 0)
            goto cleanup;
    }
    virObjectEventStateQueue(priv->driver->events,
                             virDomainEventTunableNewFromObj(vm, &told, ntold));

cleanup:
    virTypedParamsFree(told, ntold);
}

static int kumoSetBlockIoTuneLive(virDomainObj *vm, const char *path, virTypedParameterPtr params,
                                  int nparams)
{
    virDomainBlockIoTuneInfo tune = { 0 };
    g_autofree char *target = NULL;
    virDomainDiskDef *disk;
    int rc;

    if (kumoFindTunedDisk(vm->def, path, &disk) < 0)
        return -1;
    target = g_strdup(disk->dst);
    rc = kumoReadIoTune(vm->def, disk, params, nparams, &tune);
    if (rc == 0)
        rc = kumoHotplugSetIoTune(vm, disk, &tune);
    g_free(tune.group_name);
    if (rc == 0)
        kumoTellIoTune(vm, target, params, nparams);
    return rc;
}

static int kumoSetBlockIoTune(kumoUpdate *update, const char *path, virTypedParameterPtr params,
                              int nparams)
{
    virDomainDiskDef *disk;

    if (update->config && (kumoFindTunedDisk(update->config, path, &disk) < 0 ||
                           kumoDefineIoTune(update->config, disk, params, nparams) < 0))
        return -1;
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && kumoSetBlockIoTuneLive(update->vm, path, params, nparams) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetBlockIoTune(virDomainPtr dom, const char *path, virTypedParameterPtr params,
                             int nparams, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetBlockIoTuneEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetBlockIoTune(&update, path, params, nparams);
}

int kumoDomainGetBlockIoTune(virDomainPtr dom, const char *path, virTypedParameterPtr params,
                             int *nparams, unsigned int flags)
{
    virDomainDiskDef *disk;
    g_auto(kumoLockedDomain) vm = NULL;
    bool strings = flags & VIR_TYPED_PARAM_STRING_OKAY;
    virDomainDef *def;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetBlockIoTuneEnsureACL(dom->conn, vm->def) < 0)
        return -1;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        return -1;
    if (*nparams == 0) {
        *nparams = G_N_ELEMENTS(kumoIoTuneFields) + 1;
        return 0;
    }
    if (kumoFindTunedDisk(def, path, &disk) < 0)
        return -1;
    *nparams = MIN(*nparams, (int)G_N_ELEMENTS(kumoIoTuneFields) + 1);
    /* The last one, for clients that know strings. */
    if (*nparams > (int)G_N_ELEMENTS(kumoIoTuneFields)) {
        const char *group = disk->blkdeviotune.group_name;

        if (!strings)
            (*nparams)--;
        else if (virTypedParameterAssign(&params[*nparams - 1], VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME,
                                         VIR_TYPED_PARAM_STRING,
                                         g_strdup(NULLSTR_EMPTY(group))) < 0)
            return -1;
    }
    for (int i = 0; i < MIN(*nparams, (int)G_N_ELEMENTS(kumoIoTuneFields)); i++) {
        if (virTypedParameterAssign(&params[i], kumoIoTuneFields[i].name, VIR_TYPED_PARAM_ULLONG,
                                    *kumoIoTuneField(&disk->blkdeviotune, (size_t)i)) < 0)
            return -1;
    }
    return 0;
}

/* --- a mark on a disk --- */

static int kumoSetBlockThreshold(kumoUpdate *update, const char *path, unsigned long long bytes)
{
    virDomainObj *vm = update->vm;
    virDomainDiskDef *disk;
    kumoMonitor *mon;
    json_t *changes;
    int rc;

    if (kumoFindTunedDisk(update->live, path, &disk) < 0)
        return -1;
    if (bytes > LLONG_MAX) {
        virReportError(VIR_ERR_OVERFLOW, _("threshold must be less than %llu"),
                       (unsigned long long)LLONG_MAX);
        return -1;
    }
    changes = json_pack("{s:s, s:I}", "id", disk->info.alias, "write_threshold", (json_int_t)bytes);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorUpdateDisk(mon, changes);
    return kumoDomainObjExitMonitor(vm, mon) < 0 ? -1 : rc;
}

int kumoDomainSetBlockThreshold(virDomainPtr dom, const char *path, unsigned long long bytes,
                                unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetBlockThresholdEnsureACL(dom->conn, vm->def) < 0 ||
        kumoUpdateBegin(&update, vm, VIR_DOMAIN_AFFECT_LIVE) < 0)
        return -1;
    return kumoSetBlockThreshold(&update, path, bytes);
}

/* --- bandwidth of an interface --- */

static const struct {
    const char *name;
    bool out;
    size_t offset; /* in virNetDevBandwidthRate */
} kumoBandwidthFields[] = {
    { VIR_DOMAIN_BANDWIDTH_IN_AVERAGE, false, offsetof(virNetDevBandwidthRate, average) },
    { VIR_DOMAIN_BANDWIDTH_IN_PEAK, false, offsetof(virNetDevBandwidthRate, peak) },
    { VIR_DOMAIN_BANDWIDTH_IN_BURST, false, offsetof(virNetDevBandwidthRate, burst) },
    { VIR_DOMAIN_BANDWIDTH_IN_FLOOR, false, offsetof(virNetDevBandwidthRate, floor) },
    { VIR_DOMAIN_BANDWIDTH_OUT_AVERAGE, true, offsetof(virNetDevBandwidthRate, average) },
    { VIR_DOMAIN_BANDWIDTH_OUT_PEAK, true, offsetof(virNetDevBandwidthRate, peak) },
    { VIR_DOMAIN_BANDWIDTH_OUT_BURST, true, offsetof(virNetDevBandwidthRate, burst) },
};

static unsigned long long *kumoBandwidthField(virNetDevBandwidthRate *rate, size_t i)
{
    return (unsigned long long *)(void *)((char *)rate + kumoBandwidthFields[i].offset);
}

/* One direction: what @params say of it, else what it was. A rate without an average is none. */
static virNetDevBandwidthRate *kumoReadRate(const virTypedParameter *params, int nparams, bool out,
                                            const virNetDevBandwidthRate *before)
{
    g_autofree virNetDevBandwidthRate *rate = g_new0(virNetDevBandwidthRate, 1);
    bool named = false;

    for (int n = 0; n < nparams; n++) {
        for (size_t i = 0; i < G_N_ELEMENTS(kumoBandwidthFields); i++) {
            if (kumoBandwidthFields[i].out != out ||
                STRNEQ(params[n].field, kumoBandwidthFields[i].name))
                continue;
            *kumoBandwidthField(rate, i) = params[n].value.ui;
            named = true;
        }
    }
    if (!named)
        return before ? g_memdup2(before, sizeof(*before)) : NULL;
    return rate->average ? g_steal_pointer(&rate) : NULL;
}

static virNetDevBandwidth *kumoReadBandwidth(const virTypedParameter *params, int nparams,
                                             const virNetDevBandwidth *before)
{
    virNetDevBandwidth *bandwidth = g_new0(virNetDevBandwidth, 1);

    bandwidth->in = kumoReadRate(params, nparams, false, before ? before->in : NULL);
    bandwidth->out = kumoReadRate(params, nparams, true, before ? before->out : NULL);
    if (!bandwidth->in && !bandwidth->out)
        g_clear_pointer(&bandwidth, virNetDevBandwidthFree);
    return bandwidth;
}

static int kumoSetInterfaceParameters(kumoUpdate *update, const char *device,
                                      const virTypedParameter *params, int nparams)
{
    virDomainNetDef *net = NULL;
    virDomainNetDef *defined;

    if (update->live && !(net = virDomainNetFind(update->live, device)))
        return -1;
    if (update->config) {
        virNetDevBandwidth *bandwidth;

        if (!(defined = virDomainNetFind(update->config, device)))
            return -1;
        bandwidth = kumoReadBandwidth(params, nparams, defined->bandwidth);
        virNetDevBandwidthFree(defined->bandwidth);
        defined->bandwidth = bandwidth;
    }
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (net) {
        g_autoptr(virNetDevBandwidth) bandwidth =
            kumoReadBandwidth(params, nparams, virDomainNetGetActualBandwidth(net));

        if (kumoInterfaceSetBandwidth(net, bandwidth) < 0)
            return -1;
    }
    return kumoUpdateFinish(update);
}

int kumoDomainSetInterfaceParameters(virDomainPtr dom, const char *device,
                                     virTypedParameterPtr params, int nparams, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    /* A floor needs a network that hands out what is left. */
    if (virTypedParamsValidate(
            params, nparams, VIR_DOMAIN_BANDWIDTH_IN_AVERAGE, VIR_TYPED_PARAM_UINT,
            VIR_DOMAIN_BANDWIDTH_IN_PEAK, VIR_TYPED_PARAM_UINT, VIR_DOMAIN_BANDWIDTH_IN_BURST,
            VIR_TYPED_PARAM_UINT, VIR_DOMAIN_BANDWIDTH_OUT_AVERAGE, VIR_TYPED_PARAM_UINT,
            VIR_DOMAIN_BANDWIDTH_OUT_PEAK, VIR_TYPED_PARAM_UINT, VIR_DOMAIN_BANDWIDTH_OUT_BURST,
            VIR_TYPED_PARAM_UINT, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetInterfaceParametersEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetInterfaceParameters(&update, device, params, nparams);
}

int kumoDomainGetInterfaceParameters(virDomainPtr dom, const char *device,
                                     virTypedParameterPtr params, int *nparams, unsigned int flags)
{
    virNetDevBandwidthRate none = { 0 };
    virDomainNetDef *net;
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *def;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetInterfaceParametersEnsureACL(dom->conn, vm->def) < 0)
        return -1;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        return -1;
    if (*nparams == 0) {
        *nparams = G_N_ELEMENTS(kumoBandwidthFields);
        return 0;
    }
    if (!(net = virDomainNetFind(def, device)))
        return -1;
    *nparams = MIN(*nparams, (int)G_N_ELEMENTS(kumoBandwidthFields));
    for (int i = 0; i < *nparams; i++) {
        virNetDevBandwidth *bandwidth = net->bandwidth;
        virNetDevBandwidthRate *rate = !bandwidth                   ? NULL
                                       : kumoBandwidthFields[i].out ? bandwidth->out
                                                                    : bandwidth->in;
        unsigned long long value = *kumoBandwidthField(rate ? rate : &none, (size_t)i);

        if (virTypedParameterAssign(&params[i], kumoBandwidthFields[i].name, VIR_TYPED_PARAM_UINT,
                                    (unsigned int)value) < 0)
            return -1;
    }
    return 0;
}
