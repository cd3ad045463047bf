/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CPU models. libvirt knows them; a guest of kumo gets the host's CPU. */
#include "driver/kumo_driver.h"

#include "cpu/cpu.h"
#include "driver/conf/kumo_capabilities.h"
#include "viraccessapicheck.h"

#define VIR_FROM_THIS VIR_FROM_CPU

int kumoConnectGetCPUModelNames(virConnectPtr conn, const char *archName, char ***models,
                                unsigned int flags)
{
    virArch arch;

    virCheckFlags(0, -1);

    if (virConnectGetCPUModelNamesEnsureACL(conn) < 0)
        return -1;
    if (!(arch = virArchFromString(archName))) {
        virReportError(VIR_ERR_INVALID_ARG, _("cannot find architecture %s"), archName);
        return -1;
    }
    return virCPUGetModels(arch, models);
}

static int kumoCompareWithHost(virConnectPtr conn, const char *xml, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(virCaps) caps = kumoDriverGetCapabilities(driver, false);

    if (!caps)
        return VIR_CPU_COMPARE_ERROR;
    if (!caps->host.cpu || !caps->host.cpu->model) {
        virReportError(VIR_ERR_OPERATION_FAILED, "%s", _("the host's CPU model is not known"));
        return VIR_CPU_COMPARE_ERROR;
    }
    return virCPUCompareXML(caps->host.arch, caps->host.cpu, xml,
                            !!(flags & VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE),
                            !!(flags & VIR_CONNECT_COMPARE_CPU_VALIDATE_XML));
}

int kumoConnectCompareCPU(virConnectPtr conn, const char *xml, unsigned int flags)
{
    virCheckFlags(VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE | VIR_CONNECT_COMPARE_CPU_VALIDATE_XML,
                  VIR_CPU_COMPARE_ERROR);

    if (virConnectCompareCPUEnsureACL(conn) < 0)
        return VIR_CPU_COMPARE_ERROR;
    return kumoCompareWithHost(conn, xml, flags);
}

/* Is there such a hypervisor? Its CPU is the host's. Reports if there is none. */
static bool kumoKnowsHypervisor(virConnectPtr conn, const char *emulator, const char *arch,
                                const char *machine, const char *virttype)
{
    g_autoptr(virDomainCaps) caps =
        kumoDomainCapsNew(conn->privateData, emulator, arch, machine, virttype);

    return caps != NULL;
}

int kumoConnectCompareHypervisorCPU(virConnectPtr conn, const char *emulator, const char *arch,
                                    const char *machine, const char *virttype, const char *xml,
                                    unsigned int flags)
{
    virCheckFlags(VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE | VIR_CONNECT_COMPARE_CPU_VALIDATE_XML,
                  VIR_CPU_COMPARE_ERROR);

    if (virConnectCompareHypervisorCPUEnsureACL(conn) < 0 ||
        !kumoKnowsHypervisor(conn, emulator, arch, machine, virttype))
        return VIR_CPU_COMPARE_ERROR;
    return kumoCompareWithHost(conn, xml, flags);
}

/* @arch: VIR_ARCH_NONE: that of the CPUs */
static char *kumoBaseline(virArch arch, virCPUDef **cpus, unsigned int n, unsigned int flags)
{
    g_autoptr(virCPUDef) cpu =
        virCPUBaseline(arch, cpus, n, NULL, NULL, !!(flags & VIR_CONNECT_BASELINE_CPU_MIGRATABLE));

    if (!cpu || ((flags & VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES) &&
                 virCPUExpandFeatures(cpus[0]->arch ? cpus[0]->arch : arch, cpu) < 0))
        return NULL;
    return virCPUDefFormat(cpu, NULL);
}

char *kumoConnectBaselineCPU(virConnectPtr conn, const char **xmls, unsigned int n,
                             unsigned int flags)
{
    virCPUDef **cpus;
    char *ret;

    virCheckFlags(VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES | VIR_CONNECT_BASELINE_CPU_MIGRATABLE,
                  NULL);

    if (virConnectBaselineCPUEnsureACL(conn) < 0)
        return NULL;
    if (!(cpus = virCPUDefListParse(xmls, n, VIR_CPU_TYPE_HOST)))
        return NULL;
    ret = kumoBaseline(VIR_ARCH_NONE, cpus, n, flags);
    virCPUDefListFree(cpus);
    return ret;
}

char *kumoConnectBaselineHypervisorCPU(virConnectPtr conn, const char *emulator, const char *arch,
                                       const char *machine, const char *virttype, const char **xmls,
                                       unsigned int n, unsigned int flags)
{
    virCPUDef **cpus;
    char *ret;

    virCheckFlags(VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES | VIR_CONNECT_BASELINE_CPU_MIGRATABLE,
                  NULL);

    if (virConnectBaselineHypervisorCPUEnsureACL(conn) < 0 ||
        !kumoKnowsHypervisor(conn, emulator, arch, machine, virttype))
        return NULL;
    if (!(cpus = virCPUDefListParse(xmls, n, VIR_CPU_TYPE_AUTO)))
        return NULL;
    ret = kumoBaseline(virArchFromHost(), cpus, n, flags);
    virCPUDefListFree(cpus);
    return ret;
}
