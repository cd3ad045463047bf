/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's resources. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_capabilities.h"
#include "viraccessapicheck.h"
#include "virhostcpu.h"
#include "virhostmem.h"
#include "virnodesuspend.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoNodeGetInfo(virConnectPtr conn, virNodeInfoPtr info)
{
    if (virNodeGetInfoEnsureACL(conn) < 0)
        return -1;
    return virCapabilitiesGetNodeInfo(info);
}

int kumoNodeGetCPUMap(virConnectPtr conn, unsigned char **cpumap, unsigned int *online,
                      unsigned int flags)
{
    if (virNodeGetCPUMapEnsureACL(conn) < 0)
        return -1;
    return virHostCPUGetMap(cpumap, online, flags);
}

int kumoNodeGetCPUStats(virConnectPtr conn, int cpu, virNodeCPUStatsPtr params, int *nparams,
                        unsigned int flags)
{
    if (virNodeGetCPUStatsEnsureACL(conn) < 0)
        return -1;
    return virHostCPUGetStats(cpu, params, nparams, flags);
}

int kumoNodeGetMemoryStats(virConnectPtr conn, int cell, virNodeMemoryStatsPtr params, int *nparams,
                           unsigned int flags)
{
    if (virNodeGetMemoryStatsEnsureACL(conn) < 0)
        return -1;
    return virHostMemGetStats(cell, params, nparams, flags);
}

int kumoNodeGetCellsFreeMemory(virConnectPtr conn, unsigned long long *free, int startCell,
                               int maxCells)
{
    if (virNodeGetCellsFreeMemoryEnsureACL(conn) < 0)
        return -1;
    return virHostMemGetCellsFree(free, startCell, maxCells);
}

unsigned long long kumoNodeGetFreeMemory(virConnectPtr conn)
{
    unsigned long long free;

    if (virNodeGetFreeMemoryEnsureACL(conn) < 0)
        return 0;
    if (virHostMemGetInfo(NULL, &free) < 0)
        return 0;
    return free;
}

int kumoNodeGetFreePages(virConnectPtr conn, unsigned int npages, unsigned int *pages,
                         int startCell, unsigned int cellCount, unsigned long long *counts,
                         unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(virCaps) caps = NULL;

    virCheckFlags(0, -1);

    if (virNodeGetFreePagesEnsureACL(conn) < 0)
        return -1;
    if (!(caps = kumoDriverGetCapabilities(driver, false)))
        return -1;
    return virHostMemGetFreePages(npages, pages, startCell, cellCount,
                                  virCapabilitiesHostNUMAGetMaxNode(caps->host.numa), counts);
}

int kumoNodeAllocPages(virConnectPtr conn, unsigned int npages, unsigned int *sizes,
                       unsigned long long *counts, int startCell, unsigned int cellCount,
                       unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(virCaps) caps = NULL;

    virCheckFlags(VIR_NODE_ALLOC_PAGES_SET, -1);

    if (virNodeAllocPagesEnsureACL(conn) < 0)
        return -1;
    if (!(caps = kumoDriverGetCapabilities(driver, false)))
        return -1;
    return virHostMemAllocPages(npages, sizes, counts, startCell, cellCount,
                                virCapabilitiesHostNUMAGetMaxNode(caps->host.numa),
                                !(flags & VIR_NODE_ALLOC_PAGES_SET));
}

int kumoNodeGetMemoryParameters(virConnectPtr conn, virTypedParameterPtr params, int *nparams,
                                unsigned int flags)
{
    if (virNodeGetMemoryParametersEnsureACL(conn) < 0)
        return -1;
    return virHostMemGetParameters(params, nparams, flags);
}

int kumoNodeSetMemoryParameters(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                                unsigned int flags)
{
    if (virNodeSetMemoryParametersEnsureACL(conn) < 0)
        return -1;
    return virHostMemSetParameters(params, nparams, flags);
}

int kumoNodeGetSecurityModel(virConnectPtr conn, virSecurityModelPtr model)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(virCaps) caps = NULL;

    memset(model, 0, sizeof(*model));

    if (virNodeGetSecurityModelEnsureACL(conn) < 0)
        return -1;
    if (!(caps = kumoDriverGetCapabilities(driver, false)))
        return -1;
    if (caps->host.nsecModels == 0 || !caps->host.secModels[0].model)
        return 0;

    if (virStrcpyStatic(model->model, caps->host.secModels[0].model) < 0 ||
        virStrcpyStatic(model->doi, caps->host.secModels[0].doi) < 0) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s",
                       _("the name of the security model is too long"));
        return -1;
    }
    return 0;
}

int kumoNodeSuspendForDuration(virConnectPtr conn, unsigned int target, unsigned long long duration,
                               unsigned int flags)
{
    if (virNodeSuspendForDurationEnsureACL(conn) < 0)
        return -1;
    return virNodeSuspend(target, duration, flags);
}
