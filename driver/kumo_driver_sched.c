/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a domain may use of the host's processors, and has used, as control groups have it. */
#include "driver/kumo_driver.h"

#include "domain_cgroup.h"
#include "driver/kumo_cgroup.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

typedef enum {
    KUMO_SCHED_SHARES,
    KUMO_SCHED_PERIOD,
    KUMO_SCHED_QUOTA,
} kumoSchedKind;

typedef enum {
    KUMO_SCHED_GLOBAL, /* the whole process */
    KUMO_SCHED_VCPU,   /* each vCPU */
    KUMO_SCHED_EMULATOR,
    KUMO_SCHED_IOTHREAD, /* each I/O thread */
} kumoSchedWhom;

/* As virDomainGetSchedulerParameters numbers them: some clients go by the order. */
static const struct {
    const char *name;
    const char *tunable;
    kumoSchedKind kind;
    kumoSchedWhom whom;
    size_t offset; /* in virDomainCputune */
} kumoSchedFields[] = {
#define FIELD(api, event, kind, whom, member)                                                      \
    {                                                                                              \
        VIR_DOMAIN_SCHEDULER_##api, VIR_DOMAIN_TUNABLE_CPU_##event, KUMO_SCHED_##kind,             \
            KUMO_SCHED_##whom, offsetof(virDomainCputune, member)                                  \
    }
    FIELD(CPU_SHARES, CPU_SHARES, SHARES, GLOBAL, shares),
    FIELD(VCPU_PERIOD, VCPU_PERIOD, PERIOD, VCPU, period),
    FIELD(VCPU_QUOTA, VCPU_QUOTA, QUOTA, VCPU, quota),
    FIELD(EMULATOR_PERIOD, EMULATOR_PERIOD, PERIOD, EMULATOR, emulator_period),
    FIELD(EMULATOR_QUOTA, EMULATOR_QUOTA, QUOTA, EMULATOR, emulator_quota),
    FIELD(GLOBAL_PERIOD, GLOBAL_PERIOD, PERIOD, GLOBAL, global_period),
    FIELD(GLOBAL_QUOTA, GLOBAL_QUOTA, QUOTA, GLOBAL, global_quota),
    FIELD(IOTHREAD_PERIOD, IOTHREAD_PERIOD, PERIOD, IOTHREAD, iothread_period),
    FIELD(IOTHREAD_QUOTA, IOTHREAD_QUOTA, QUOTA, IOTHREAD, iothread_quota),
#undef FIELD
};

/* Periods are unsigned, quotas signed; both have 64 bits. */
static void *kumoSchedField(virDomainCputune *tune, size_t i)
{
    return (char *)tune + kumoSchedFields[i].offset;
}

static unsigned long long kumoSchedGet(virDomainCputune *tune, size_t i)
{
    return *(unsigned long long *)kumoSchedField(tune, i);
}

static void kumoSchedSet(virDomainCputune *tune, size_t i, unsigned long long value)
{
    *(unsigned long long *)kumoSchedField(tune, i) = value;
    if (kumoSchedFields[i].kind == KUMO_SCHED_SHARES)
        tune->sharesSpecified = true;
}

/* A period or a quota of 0 stands for none given, a negative quota for no limit. */
static int kumoSchedCheck(const virTypedParameter *param, size_t i)
{
    bool isPeriod = kumoSchedFields[i].kind == KUMO_SCHED_PERIOD;
    unsigned long long min = isPeriod ? VIR_CGROUP_CPU_PERIOD_MIN : VIR_CGROUP_CPU_QUOTA_MIN;
    unsigned long long max = isPeriod ? VIR_CGROUP_CPU_PERIOD_MAX : VIR_CGROUP_CPU_QUOTA_MAX;

    if (kumoSchedFields[i].kind == KUMO_SCHED_SHARES || param->value.ul == 0 ||
        (!isPeriod && param->value.l < 0) || (param->value.ul >= min && param->value.ul <= max))
        return 0;
    virReportError(VIR_ERR_INVALID_ARG, _("value of '%s' is out of range [%llu, %llu]"),
                   param->field, min, max);
    return -1;
}

/* Lays @params over @tune; @given: which of the fields they name. */
static int kumoSchedRead(const virTypedParameter *params, int nparams, virDomainCputune *tune,
                         bool given[G_N_ELEMENTS(kumoSchedFields)])
{
    for (int n = 0; n < nparams; n++) {
        for (size_t i = 0; i < G_N_ELEMENTS(kumoSchedFields); i++) {
            if (STRNEQ(params[n].field, kumoSchedFields[i].name))
                continue;
            if (kumoSchedCheck(&params[n], i) < 0)
                return -1;
            given[i] = true;
            kumoSchedSet(tune, i, params[n].value.ul);
        }
    }
    return 0;
}

typedef struct {
    unsigned long long period;
    long long quota;
} kumoBandwidth;

static int kumoSchedApplyThread(virCgroup *group, void *opaque)
{
    const kumoBandwidth *bandwidth = opaque;

    return virDomainCgroupSetupVcpuBW(group, bandwidth->period, bandwidth->quota);
}

/* Makes the kernel do what field @i of @tune says. */
static int kumoSchedApply(virDomainObj *vm, virDomainCputune *tune, size_t i)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    unsigned long long value = kumoSchedGet(tune, i);
    kumoBandwidth bandwidth = {
        .period = kumoSchedFields[i].kind == KUMO_SCHED_PERIOD ? value : 0,
        .quota = kumoSchedFields[i].kind == KUMO_SCHED_QUOTA ? (long long)value : 0,
    };

    if (kumoSchedFields[i].kind == KUMO_SCHED_SHARES)
        return virCgroupSetCpuShares(priv->cgroup, value);

    switch (kumoSchedFields[i].whom) {
    case KUMO_SCHED_VCPU:
        return kumoCgroupForEachVcpu(vm, kumoSchedApplyThread, &bandwidth);
    case KUMO_SCHED_IOTHREAD:
        return kumoCgroupForEachIOThread(vm, kumoSchedApplyThread, &bandwidth);
    case KUMO_SCHED_EMULATOR: {
        g_autoptr(virCgroup) emulator = kumoCgroupEmulator(vm);

        return emulator ? kumoSchedApplyThread(emulator, &bandwidth) : -1;
    }
    case KUMO_SCHED_GLOBAL:
    default:
        return kumoSchedApplyThread(priv->cgroup, &bandwidth);
    }
}

/* All have the same. Before the first boot there are no groups. */
static int kumoSchedLookIOThreads(virDomainObj *vm, virDomainCputune *tune)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virCgroup) group = NULL;

    tune->iothread_period = vm->def->cputune.iothread_period;
    tune->iothread_quota = vm->def->cputune.iothread_quota;
    if (vm->def->niothreadids == 0)
        return 0;
    if (virCgroupNewThread(priv->cgroup, VIR_CGROUP_THREAD_IOTHREAD,
                           (int)vm->def->iothreadids[0]->iothread_id, false, &group) < 0) {
        virResetLastError();
        return 0;
    }
    return virCgroupGetCpuPeriodQuota(group, &tune->iothread_period, &tune->iothread_quota);
}

/* What the kernel does at the moment. */
static int kumoSchedLook(virDomainObj *vm, virDomainCputune *tune)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virCgroup) emulator = kumoCgroupEmulator(vm);
    g_autoptr(virCgroup) vcpu = NULL;

    if (!emulator || virCgroupGetCpuShares(priv->cgroup, &tune->shares) < 0)
        return -1;
    if (!virCgroupSupportsCpuBW(priv->cgroup))
        return 0;
    if (virCgroupGetCpuPeriodQuota(priv->cgroup, &tune->global_period, &tune->global_quota) < 0 ||
        virCgroupGetCpuPeriodQuota(emulator, &tune->emulator_period, &tune->emulator_quota) < 0)
        return -1;
    /* All vCPUs have the same. One that has not booted has no group yet. */
    tune->period = vm->def->cputune.period;
    tune->quota = vm->def->cputune.quota;
    if (kumoSchedLookIOThreads(vm, tune) < 0)
        return -1;
    if (virCgroupNewThread(priv->cgroup, VIR_CGROUP_THREAD_VCPU, 0, false, &vcpu) < 0) {
        virResetLastError();
        return 0;
    }
    return virCgroupGetCpuPeriodQuota(vcpu, &tune->period, &tune->quota);
}

/* All of @given, or none. */
static int kumoSchedApplyAll(virDomainObj *vm, virDomainCputune *tune, const bool *given)
{
    virDomainCputune before = { 0 };
    virErrorPtr saved = NULL;
    size_t i = 0;

    if (kumoSchedLook(vm, &before) < 0)
        return -1;
    while (i < G_N_ELEMENTS(kumoSchedFields) && (!given[i] || kumoSchedApply(vm, tune, i) == 0))
        i++;
    if (i == G_N_ELEMENTS(kumoSchedFields))
        return 0;

    virErrorPreserveLast(&saved);
    for (size_t n = 0; n <= i; n++) {
        if (given[n])
            ignore_value(kumoSchedApply(vm, &before, n));
    }
    virErrorRestore(&saved);
    return -1;
}

static void kumoSchedTell(virDomainObj *vm, virDomainCputune *tune, const bool *given)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virTypedParameterPtr told = NULL;
    int ntold = 0;
    int max = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(kumoSchedFields); i++) {
        unsigned long long value = kumoSchedGet(tune, i);

        if (given[i])
            ignore_value(kumoSchedFields[i].kind == KUMO_SCHED_QUOTA
                             ? virTypedParamsAddLLong(&told, &ntold, &max,
                                                      kumoSchedFields[i].tunable, (long long)value)
                             : virTypedParamsAddULLong(&told, &ntold, &max,
                                                       kumoSchedFields[i].tunable, value));
    }
    if (ntold > 0)
        virObjectEventStateQueue(priv->driver->events,
                                 virDomainEventTunableNewFromObj(vm, &told, ntold));
    virTypedParamsFree(told, ntold);
}

static int kumoSetSchedulerLive(virDomainObj *vm, const virTypedParameter *params, int nparams)
{
    bool given[G_N_ELEMENTS(kumoSchedFields)] = { false };
    virDomainCputune tune = vm->def->cputune;

    if (kumoSchedRead(params, nparams, &tune, given) < 0)
        return -1;
    /* The kernel has no word for "as if nothing had been said". */
    for (size_t i = 1; i < G_N_ELEMENTS(kumoSchedFields); i++) {
        if (given[i] && kumoSchedGet(&tune, i) == 0) {
            given[i] = false;
            kumoSchedSet(&tune, i, kumoSchedGet(&vm->def->cputune, i));
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(kumoSchedFields); i++) {
        if (given[i] && kumoSchedFields[i].whom == KUMO_SCHED_IOTHREAD &&
            kumoCgroupCheckIOThreads(vm->def) < 0)
            return -1;
    }
    if (kumoSchedApplyAll(vm, &tune, given) < 0)
        return -1;
    vm->def->cputune = tune;
    kumoSchedTell(vm, &tune, given);
    return 0;
}

static int kumoSetScheduler(kumoUpdate *update, const virTypedParameter *params, int nparams)
{
    bool given[G_N_ELEMENTS(kumoSchedFields)] = { false };

    if (update->live && kumoCgroupCheckController(update->vm, VIR_CGROUP_CONTROLLER_CPU) < 0)
        return -1;
    if (update->config && kumoSchedRead(params, nparams, &update->config->cputune, given) < 0)
        return -1;
    if (update->live && kumoSetSchedulerLive(update->vm, params, nparams) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainSetSchedulerParametersFlags(virDomainPtr dom, virTypedParameterPtr params,
                                          int nparams, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_SCHEDULER_CPU_SHARES,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_SCHEDULER_VCPU_PERIOD,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_SCHEDULER_VCPU_QUOTA,
                               VIR_TYPED_PARAM_LLONG, VIR_DOMAIN_SCHEDULER_GLOBAL_PERIOD,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_SCHEDULER_GLOBAL_QUOTA,
                               VIR_TYPED_PARAM_LLONG, VIR_DOMAIN_SCHEDULER_EMULATOR_PERIOD,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_SCHEDULER_EMULATOR_QUOTA,
                               VIR_TYPED_PARAM_LLONG, VIR_DOMAIN_SCHEDULER_IOTHREAD_PERIOD,
                               VIR_TYPED_PARAM_ULLONG, VIR_DOMAIN_SCHEDULER_IOTHREAD_QUOTA,
                               VIR_TYPED_PARAM_LLONG, NULL) < 0)
        return -1;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetSchedulerParametersFlagsEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_CONFIG_UNSUPPORTED,
                                  _("CPU tuning is not available in session mode")) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetScheduler(&update, params, nparams);
}

int kumoDomainSetSchedulerParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams)
{
    return kumoDomainSetSchedulerParametersFlags(dom, params, nparams, VIR_DOMAIN_AFFECT_CURRENT);
}

int kumoDomainGetSchedulerParametersFlags(virDomainPtr dom, virTypedParameterPtr params,
                                          int *nparams, unsigned int flags)
{
    virDomainCputune tune = { 0 };
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);
    flags &= ~(unsigned int)VIR_TYPED_PARAM_STRING_OKAY;

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetSchedulerParametersFlagsEnsureACL(dom->conn, vm->def) < 0 ||
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_CONFIG_UNSUPPORTED,
                                  _("CPU tuning is not available in session mode")) < 0)
        return -1;
    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (persistent)
        tune = persistent->cputune;
    else if (kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_CPU) < 0 ||
             kumoSchedLook(vm, &tune) < 0)
        return -1;

    *nparams = MIN(*nparams, (int)G_N_ELEMENTS(kumoSchedFields));
    for (int i = 0; i < *nparams; i++) {
        unsigned long long value = kumoSchedGet(&tune, (size_t)i);
        bool quota = kumoSchedFields[i].kind == KUMO_SCHED_QUOTA;

        if ((quota ? virTypedParameterAssign(&params[i], kumoSchedFields[i].name,
                                             VIR_TYPED_PARAM_LLONG, (long long)value)
                   : virTypedParameterAssign(&params[i], kumoSchedFields[i].name,
                                             VIR_TYPED_PARAM_ULLONG, value)) < 0)
            return -1;
    }
    return 0;
}

int kumoDomainGetSchedulerParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams)
{
    return kumoDomainGetSchedulerParametersFlags(dom, params, nparams, VIR_DOMAIN_AFFECT_CURRENT);
}

char *kumoDomainGetSchedulerType(virDomainPtr dom, int *nparams)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    char *ret = NULL;

    if (!vm)
        return NULL;
    if (virDomainGetSchedulerTypeEnsureACL(dom->conn, vm->def) >= 0 &&
        kumoCgroupCheckPrivileged(dom->conn->privateData, VIR_ERR_CONFIG_UNSUPPORTED,
                                  _("CPU tuning is not available in session mode")) >= 0 &&
        (!virDomainObjIsActive(vm) ||
         kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_CPU) >= 0)) {
        if (nparams)
            *nparams = G_N_ELEMENTS(kumoSchedFields);
        ret = g_strdup("posix");
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetCPUStats(virDomainPtr dom, virTypedParameterPtr params, unsigned int nparams,
                          int start, unsigned int ncpus, unsigned int flags)
{
    g_autoptr(virBitmap) vcpus = NULL;
    kumoDomainObjPrivate *priv;
    g_auto(kumoLockedDomain) vm = NULL;

    virCheckFlags(VIR_TYPED_PARAM_STRING_OKAY, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainGetCPUStatsEnsureACL(dom->conn, vm->def) < 0)
        return -1;
    if (virDomainObjCheckActive(vm) < 0 ||
        kumoCgroupCheckController(vm, VIR_CGROUP_CONTROLLER_CPUACCT) < 0)
        return -1;

    if (start == -1)
        return virCgroupGetDomainTotalCpuStats(priv->cgroup, params, (int)nparams);
    if (!(vcpus = virDomainDefGetOnlineVcpumap(vm->def)))
        return -1;
    return virCgroupGetPercpuStats(priv->cgroup, params, nparams, start, ncpus, vcpus);
}
