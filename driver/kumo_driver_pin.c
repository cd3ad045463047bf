/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's CPUs for a domain's threads. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_definition.h"
#include "driver/kumo_pin.h"
#include "viraccessapicheck.h"
#include "virhostcpu.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- vCPUs --- */

static int kumoSetVcpuMask(virDomainDef *def, unsigned int number, virBitmap *cpus)
{
    virDomainVcpuDef *vcpu = virDomainDefGetVcpu(def, number);

    if (!vcpu) {
        virReportError(VIR_ERR_INVALID_ARG, _("vcpu %u is out of range of cpu count %u"), number,
                       virDomainDefGetVcpusMax(def));
        return -1;
    }
    virBitmapFree(vcpu->cpumask);
    vcpu->cpumask = virBitmapNewCopy(cpus);
    return 0;
}

static int kumoPinVcpuLive(virDomainObj *vm, unsigned int number, virBitmap *cpus)
{
    g_autofree char *what = g_strdup_printf(VIR_DOMAIN_TUNABLE_CPU_VCPUPIN, number);
    virDomainVcpuDef *vcpu = virDomainDefGetVcpu(vm->def, number);
    g_autoptr(virBitmap) before = vcpu && vcpu->cpumask ? virBitmapNewCopy(vcpu->cpumask) : NULL;

    if (kumoSetVcpuMask(vm->def, number, cpus) < 0)
        return -1;
    if (kumoPinVcpus(vm) < 0) {
        /* If it has ended, that is another definition. */
        if (virDomainObjIsActive(vm) && (vcpu = virDomainDefGetVcpu(vm->def, number))) {
            virBitmapFree(vcpu->cpumask);
            vcpu->cpumask = g_steal_pointer(&before);
        }
        return -1;
    }
    kumoDomainSaveStatus(vm);
    kumoPinTell(vm, what, cpus);
    return 0;
}

static int kumoPinVcpu(virDomainObj *vm, unsigned int number, unsigned char *cpumap, int maplen,
                       unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virBitmap) cpus = kumoPinReadCpus(cpumap, maplen);
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    if (!cpus || virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (persistent && (!(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)) ||
                       kumoSetVcpuMask(copy, number, cpus) < 0 ||
                       kumoDefinitionSettle(priv->driver, copy, VIR_DOMAIN_DEF_PARSE_INACTIVE) < 0))
        return -1;
    if (live && kumoPinVcpuLive(vm, number, cpus) < 0)
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainPinVcpuFlags(virDomainPtr dom, unsigned int vcpu, unsigned char *cpumap, int maplen,
                           unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainPinVcpuFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoPinVcpu(vm, vcpu, cpumap, maplen, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainPinVcpu(virDomainPtr dom, unsigned int vcpu, unsigned char *cpumap, int maplen)
{
    return kumoDomainPinVcpuFlags(dom, vcpu, cpumap, maplen, VIR_DOMAIN_AFFECT_LIVE);
}

int kumoDomainGetVcpuPinInfo(virDomainPtr dom, int ncpumaps, unsigned char *cpumaps, int maplen,
                             unsigned int flags)
{
    g_autoptr(virBitmap) all = NULL;
    virDomainObj *vm;
    virDomainDef *def;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetVcpuPinInfoEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        goto cleanup;
    if (!(all = virHostCPUGetAvailableCPUsBitmap()))
        goto cleanup;
    ret = virDomainDefGetVcpuPinInfoHelper(def, maplen, ncpumaps, cpumaps, all, NULL);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- the rest of the process --- */

static int kumoPinEmulatorLive(virDomainObj *vm, virBitmap *cpus)
{
    g_autoptr(virBitmap) before = g_steal_pointer(&vm->def->cputune.emulatorpin);

    vm->def->cputune.emulatorpin = virBitmapNewCopy(cpus);
    /*
     * First the vCPUs: those without a place of their own would follow the main thread. I/O threads
     * do so, and are put back.
     */
    if (kumoPinVcpus(vm) < 0 || kumoPinEmulator(vm->pid, cpus) < 0 || kumoPinIOThreads(vm, 0) < 0) {
        if (virDomainObjIsActive(vm)) {
            virBitmapFree(vm->def->cputune.emulatorpin);
            vm->def->cputune.emulatorpin = g_steal_pointer(&before);
        }
        return -1;
    }
    kumoDomainSaveStatus(vm);
    kumoPinTell(vm, VIR_DOMAIN_TUNABLE_CPU_EMULATORPIN, cpus);
    return 0;
}

static int kumoPinEmulatorOf(virDomainObj *vm, unsigned char *cpumap, int maplen,
                             unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virBitmap) cpus = kumoPinReadCpus(cpumap, maplen);
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDef *live;
    virDomainDef *persistent;

    if (!cpus || virDomainObjGetDefs(vm, flags, &live, &persistent) < 0)
        return -1;
    if (persistent) {
        if (!(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)))
            return -1;
        virBitmapFree(copy->cputune.emulatorpin);
        copy->cputune.emulatorpin = virBitmapNewCopy(cpus);
        if (kumoDefinitionSettle(priv->driver, copy, VIR_DOMAIN_DEF_PARSE_INACTIVE) < 0)
            return -1;
    }
    if (live && kumoPinEmulatorLive(vm, cpus) < 0)
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainPinEmulator(virDomainPtr dom, unsigned char *cpumap, int maplen, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainPinEmulatorEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoPinEmulatorOf(vm, cpumap, maplen, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetEmulatorPinInfo(virDomainPtr dom, unsigned char *cpumaps, int maplen,
                                 unsigned int flags)
{
    g_autoptr(virBitmap) all = NULL;
    virBitmap *cpus = NULL;
    virDomainObj *vm;
    virDomainDef *def;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetEmulatorPinInfoEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        goto cleanup;
    cpus = def->cputune.emulatorpin ? def->cputune.emulatorpin : def->cpumask;
    if (!cpus && !(cpus = all = virHostCPUGetAvailableCPUsBitmap()))
        goto cleanup;
    virBitmapToDataBuf(cpus, cpumaps, (size_t)maplen);
    ret = 1;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
