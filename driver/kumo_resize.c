/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_resize.h"

#include "domain_audit.h"
#include "driver/conf/kumo_definition.h"
#include "driver/conf/kumo_memory.h"
#include "driver/kumo_cgroup.h"
#include "driver/kumo_hotplug_memory.h"
#include "driver/kumo_monitor.h"
#include "virstring.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_resize");

/* How long the caller waits for the guest to let vCPUs go. */
#define KUMO_VCPU_WAIT_MS 5000

/* --- vCPUs --- */

static int kumoResizeAwaitVcpus(virDomainObj *vm, unsigned int vcpus)
{
    unsigned long long until;

    if (virTimeMillisNow(&until) < 0)
        return -1;
    until += KUMO_VCPU_WAIT_MS;
    while (virDomainObjIsActive(vm) && virDomainDefGetVcpus(vm->def) > vcpus) {
        int rc = virDomainObjWaitUntil(vm, until);

        if (rc == 1)
            virReportError(VIR_ERR_OPERATION_TIMEOUT, "%s",
                           _("the guest was asked to let vCPUs go and has not done so in time; "
                             "they go when it does"));
        if (rc != 0)
            return -1;
    }
    if (virDomainObjIsActive(vm))
        return 0;
    virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%s' ended meanwhile"), vm->def->name);
    return -1;
}

int kumoResizeVcpus(virDomainObj *vm, unsigned int vcpus)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    unsigned int before = virDomainDefGetVcpus(vm->def);
    unsigned int wantedBefore = priv->wantedVcpus;
    kumoMonitor *mon;
    int rc;

    if (vcpus == before && !priv->wantedVcpus)
        return 0;

    /* Set first: the guest may be faster than the VMM's answer. */
    priv->wantedVcpus = vcpus < before ? vcpus : 0;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorResizeVcpus(mon, vcpus);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc < 0) {
        priv->wantedVcpus = wantedBefore;
    } else if (vcpus > before) {
        rc = kumoDefinitionSetVcpus(vm->def, vcpus);
        if (rc == 0)
            rc = kumoCgroupPlaceVcpus(vm);
    } else {
        rc = kumoResizeAwaitVcpus(vm, vcpus);
        if (rc == 0)
            priv->wantedVcpus = 0;
    }
    virDomainAuditVcpu(vm, before, vcpus, "update", rc == 0);
    kumoDomainSaveStatus(vm);
    return rc;
}

void kumoResizeVcpuRemoved(virDomainObj *vm, const char *id)
{
    virDomainVcpuDef *vcpu = NULL;
    unsigned int number;

    if (STRPREFIX(id, "vcpu") && virStrToLong_uip(id + strlen("vcpu"), NULL, 10, &number) == 0 &&
        number > 0 && number < virDomainDefGetVcpusMax(vm->def))
        vcpu = virDomainDefGetVcpu(vm->def, number);
    if (!vcpu) {
        VIR_WARN("domain %s: the VMM says that '%s' is gone", vm->def->name, id);
        return;
    }
    vcpu->online = false;
    vcpu->hotpluggable = VIR_TRISTATE_BOOL_YES;
    virDomainObjBroadcast(vm);
    kumoDomainSaveStatus(vm);
}

void kumoResizeSync(virDomainObj *vm, unsigned int vcpus)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (priv->wantedVcpus || vcpus <= virDomainDefGetVcpus(vm->def) ||
        vcpus > virDomainDefGetVcpusMax(vm->def))
        return;
    if (kumoDefinitionSetVcpus(vm->def, vcpus) < 0 || kumoCgroupPlaceVcpus(vm) < 0)
        VIR_WARN("domain %s: %s", vm->def->name, virGetLastErrorMessage());
}

void kumoResizeRebooted(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (!priv->wantedVcpus)
        return;
    if (kumoDefinitionSetVcpus(vm->def, priv->wantedVcpus) < 0)
        VIR_WARN("domain %s: %s", vm->def->name, virGetLastErrorMessage());
    priv->wantedVcpus = 0;
    virDomainObjBroadcast(vm);
}

/* --- memory --- */

int kumoResizeBalloon(virDomainObj *vm, unsigned long long kib)
{
    unsigned long long total =
        virDomainDefGetMemoryTotal(vm->def) - kumoMemoryVirtioMemTotal(vm->def);
    unsigned long long before = vm->def->mem.cur_balloon;
    kumoMonitor *mon;
    int rc;

    if (!kumoHasBalloon(vm->def)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("the memory of a running domain cannot be changed without a memory "
                         "balloon"));
        return -1;
    }
    /* The balloon is for what is there. */
    for (size_t i = 0; i < vm->def->nmems; i++) {
        if (vm->def->mems[i]->model == VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM)
            total += kumoMemoryCurrent(vm->def->mems[i]);
    }
    if (kib == 0 || kib > total) {
        virReportError(VIR_ERR_INVALID_ARG, _("%llu KiB is not from 1 to the domain's %llu KiB"),
                       kib, total);
        return -1;
    }

    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorResizeBalloon(mon, (total - kib) * 1024);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    virDomainAuditMemory(vm, before, kib, "update", rc == 0);
    return rc;
}

void kumoResizeNoteMemory(virDomainObj *vm, unsigned long long bytes)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    unsigned long long kib = bytes / 1024;

    if ((!kumoHasBalloon(vm->def) && !kumoMemoryVirtioMemTotal(vm->def)) ||
        kib == vm->def->mem.cur_balloon)
        return;
    vm->def->mem.cur_balloon = kib;
    virObjectEventStateQueue(priv->driver->events, virDomainEventBalloonChangeNewFromObj(vm, kib));
    kumoDomainSaveStatus(vm);
}

void kumoResizeRefreshMemory(virDomainObj *vm)
{
    g_auto(kumoMonitorInfo) info = { 0 };
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorGetInfo(mon, &info);

    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return;
    kumoResizeNoteMemory(vm, info.memoryBytes);
    kumoHotplugRefreshMemory(vm);
}
