/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a domain is like at the moment. */
#include "driver/kumo_driver.h"

#include "domain_driver.h"
#include "driver/kumo_stats.h"
#include "viraccessapicheck.h"
#include "virprocess.h"
#include "virstring.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoDomainGetInfo(virDomainPtr dom, virDomainInfoPtr info)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainGetInfoEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;

    memset(info, 0, sizeof(*info));
    info->state = (unsigned char)virDomainObjGetState(vm, NULL);
    info->maxMem = (unsigned long)virDomainDefGetMemoryTotal(vm->def);
    info->memory = (unsigned long)vm->def->mem.cur_balloon;
    info->nrVirtCpu = (unsigned short)virDomainDefGetVcpus(vm->def);
    if (virDomainObjIsActive(vm) &&
        virProcessGetStatInfo(&info->cpuTime, NULL, NULL, NULL, NULL, vm->pid, 0) < 0) {
        virReportError(VIR_ERR_OPERATION_FAILED, _("no CPU time of process %lld"),
                       (long long)vm->pid);
        goto cleanup;
    }
    ret = 0;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetState(virDomainPtr dom, int *state, int *reason, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetStateEnsureACL(dom->conn, vm->def) >= 0) {
        *state = virDomainObjGetState(vm, reason);
        ret = 0;
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetControlInfo(virDomainPtr dom, virDomainControlInfoPtr info, unsigned int flags)
{
    virDomainObj *vm;
    unsigned long long now;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetControlInfoEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto cleanup;

    memset(info, 0, sizeof(*info));
    if (vm->job->active != VIR_JOB_NONE) {
        info->state = VIR_DOMAIN_CONTROL_JOB;
        if (virTimeMillisNow(&now) < 0)
            goto cleanup;
        info->stateTime = now - vm->job->started;
    } else {
        info->state = VIR_DOMAIN_CONTROL_OK;
    }
    ret = 0;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

char *kumoDomainGetOSType(virDomainPtr dom)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    char *ret = NULL;

    if (!vm)
        return NULL;
    if (virDomainGetOSTypeEnsureACL(dom->conn, vm->def) >= 0)
        ret = g_strdup(virDomainOSTypeToString(vm->def->os.type));
    virDomainObjEndAPI(&vm);
    return ret;
}

unsigned long long kumoDomainGetMaxMemory(virDomainPtr dom)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    unsigned long long ret = 0;

    if (!vm)
        return 0;
    if (virDomainGetMaxMemoryEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainDefGetMemoryTotal(vm->def);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetVcpusFlags(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    virDomainDef *def;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_VCPU_MAXIMUM |
                      VIR_DOMAIN_VCPU_GUEST,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetVcpusFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (flags & VIR_DOMAIN_VCPU_GUEST) {
        ignore_value(kumoReportNoAgent(vm));
        goto cleanup;
    }
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        goto cleanup;
    ret = (int)(flags & VIR_DOMAIN_VCPU_MAXIMUM ? virDomainDefGetVcpusMax(def)
                                                : virDomainDefGetVcpus(def));

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetMaxVcpus(virDomainPtr dom)
{
    return kumoDomainGetVcpusFlags(dom, VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_VCPU_MAXIMUM);
}

int kumoDomainGetVcpus(virDomainPtr dom, virVcpuInfoPtr info, int maxinfo, unsigned char *cpumaps,
                       int maplen)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int count = 0;
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainGetVcpusEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto cleanup;

    if (cpumaps)
        memset(cpumaps, 0, (size_t)maplen * (size_t)maxinfo);
    for (unsigned int i = 0; i < virDomainDefGetVcpusMax(vm->def) && count < maxinfo; i++) {
        pid_t tid = kumoStatsVcpuThread(vm->pid, i);

        if (!virDomainDefGetVcpu(vm->def, i)->online)
            continue;
        if (info) {
            memset(&info[count], 0, sizeof(*info));
            info[count].number = i;
            info[count].state = VIR_VCPU_RUNNING;
            if (tid > 0 && virProcessGetStatInfo(&info[count].cpuTime, NULL, NULL, &info[count].cpu,
                                                 NULL, vm->pid, tid) < 0)
                goto cleanup;
        }
        if (cpumaps) {
            g_autoptr(virBitmap) map = virProcessGetAffinity(tid > 0 ? tid : vm->pid);

            if (!map)
                goto cleanup;
            virBitmapToDataBuf(map, VIR_GET_CPUMAP(cpumaps, maplen, count), (size_t)maplen);
        }
        count++;
    }
    ret = count;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetMessages(virDomainPtr dom, char ***msgs, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(
        VIR_DOMAIN_MESSAGE_DEPRECATION | VIR_DOMAIN_MESSAGE_TAINTING | KUMO_MESSAGE_IOERRORS, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetMessagesEnsureACL(dom->conn, vm->def) >= 0)
        ret = kumoCompatGetMessages(vm, msgs, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetSecurityLabel(virDomainPtr dom, virSecurityLabelPtr label)
{
    kumoDriver *driver = dom->conn->privateData;
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    memset(label, 0, sizeof(*label));
    if (virDomainGetSecurityLabelEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    /* A domain that does not run has no process, hence no label. */
    if (virDomainObjIsActive(vm) &&
        virSecurityManagerGetProcessLabel(driver->security, vm->def, vm->pid, label) < 0) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("no security label of the process"));
        goto cleanup;
    }
    ret = 0;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetSecurityLabelList(virDomainPtr dom, virSecurityLabelPtr *labels)
{
    kumoDriver *driver = dom->conn->privateData;
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    g_autofree virSecurityManager **nested = NULL;
    g_autofree virSecurityLabelPtr list = NULL;
    size_t n = 0;
    int ret = -1;

    if (!vm)
        return -1;
    *labels = NULL;
    if (virDomainGetSecurityLabelListEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (!virDomainObjIsActive(vm)) {
        ret = 0;
        goto cleanup;
    }
    if (!(nested = virSecurityManagerGetNested(driver->security)))
        goto cleanup;
    while (nested[n])
        n++;
    list = g_new0(virSecurityLabel, n);
    for (size_t i = 0; i < n; i++) {
        if (virSecurityManagerGetProcessLabel(nested[i], vm->def, vm->pid, &list[i]) < 0) {
            virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("no security label of the process"));
            goto cleanup;
        }
    }
    *labels = g_steal_pointer(&list);
    ret = (int)n;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetLaunchSecurityInfo(virDomainPtr dom, virTypedParameterPtr *params, int *nparams,
                                    unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_TYPED_PARAM_STRING_OKAY, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    /* No domain has such security. */
    if (virDomainGetLaunchSecurityInfoEnsureACL(dom->conn, vm->def) >= 0) {
        *params = NULL;
        *nparams = 0;
        ret = 0;
    }
    virDomainObjEndAPI(&vm);
    return ret;
}
