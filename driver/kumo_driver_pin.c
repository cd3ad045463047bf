/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's CPUs for a domain's threads. */
#include "driver/kumo_driver.h"

#include "driver/kumo_pin.h"
#include "driver/kumo_update.h"
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
    kumoPinTell(vm, what, cpus);
    return 0;
}

static int kumoPinVcpu(kumoUpdate *update, unsigned int number, unsigned char *cpumap, int maplen)
{
    g_autoptr(virBitmap) cpus = kumoPinReadCpus(cpumap, maplen);

    if (!cpus)
        return -1;
    if (update->config && kumoSetVcpuMask(update->config, number, cpus) < 0)
        return -1;
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && kumoPinVcpuLive(update->vm, number, cpus) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainPinVcpuFlags(virDomainPtr dom, unsigned int vcpu, unsigned char *cpumap, int maplen,
                           unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainPinVcpuFlagsEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoPinVcpu(&update, vcpu, cpumap, maplen);
}

int kumoDomainPinVcpu(virDomainPtr dom, unsigned int vcpu, unsigned char *cpumap, int maplen)
{
    return kumoDomainPinVcpuFlags(dom, vcpu, cpumap, maplen, VIR_DOMAIN_AFFECT_LIVE);
}

int kumoDomainGetVcpuPinInfo(virDomainPtr dom, int ncpumaps, unsigned char *cpumaps, int maplen,
                             unsigned int flags)
{
    g_autoptr(virBitmap) all = NULL;
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *def;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetVcpuPinInfoEnsureACL(dom->conn, vm->def) < 0)
        return -1;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        return -1;
    if (!(all = virHostCPUGetAvailableCPUsBitmap()))
        return -1;
    return virDomainDefGetVcpuPinInfoHelper(def, maplen, ncpumaps, cpumaps, all, NULL);
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
    kumoPinTell(vm, VIR_DOMAIN_TUNABLE_CPU_EMULATORPIN, cpus);
    return 0;
}

static int kumoPinEmulatorOf(kumoUpdate *update, unsigned char *cpumap, int maplen)
{
    g_autoptr(virBitmap) cpus = kumoPinReadCpus(cpumap, maplen);

    if (!cpus)
        return -1;
    if (update->config) {
        virBitmapFree(update->config->cputune.emulatorpin);
        update->config->cputune.emulatorpin = virBitmapNewCopy(cpus);
    }
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && kumoPinEmulatorLive(update->vm, cpus) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainPinEmulator(virDomainPtr dom, unsigned char *cpumap, int maplen, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainPinEmulatorEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoPinEmulatorOf(&update, cpumap, maplen);
}

int kumoDomainGetEmulatorPinInfo(virDomainPtr dom, unsigned char *cpumaps, int maplen,
                                 unsigned int flags)
{
    g_autoptr(virBitmap) all = NULL;
    virBitmap *cpus = NULL;
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *def;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetEmulatorPinInfoEnsureACL(dom->conn, vm->def) < 0)
        return -1;
    if (!(def = virDomainObjGetOneDef(vm, flags)))
        return -1;
    cpus = def->cputune.emulatorpin ? def->cputune.emulatorpin : def->cpumask;
    if (!cpus && !(cpus = all = virHostCPUGetAvailableCPUsBitmap()))
        return -1;
    virBitmapToDataBuf(cpus, cpumaps, (size_t)maplen);
    return 1;
}
