/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_perf.h"

#include "virperf.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_perf");

int kumoPerfStart(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (!priv->perf && !(priv->perf = virPerfNew()))
        return -1;
    for (size_t i = 0; i < VIR_PERF_EVENT_LAST; i++) {
        if (vm->def->perf.events[i] == VIR_TRISTATE_BOOL_YES &&
            virPerfEventEnable(priv->perf, (virPerfEventType)i, vm->pid) < 0)
            return -1;
    }
    return 0;
}

void kumoPerfReconnect(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (!priv->perf && !(priv->perf = virPerfNew()))
        return;
    for (size_t i = 0; i < VIR_PERF_EVENT_LAST; i++) {
        if (vm->def->perf.events[i] != VIR_TRISTATE_BOOL_YES ||
            virPerfEventEnable(priv->perf, (virPerfEventType)i, vm->pid) == 0)
            continue;
        VIR_WARN("domain %s: %s is not counted any more: %s", vm->def->name,
                 virPerfEventTypeToString((int)i), virGetLastErrorMessage());
        vm->def->perf.events[i] = VIR_TRISTATE_BOOL_NO;
        virResetLastError();
    }
}

void kumoPerfStop(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    g_clear_pointer(&priv->perf, virPerfFree);
}

int kumoPerfSet(virDomainObj *vm, virPerfEventType type, bool enabled)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (!priv->perf && !(priv->perf = virPerfNew()))
        return -1;
    if (enabled
            ? virPerfEventEnable(priv->perf, type, vm->pid) < 0
            : virPerfEventIsEnabled(priv->perf, type) && virPerfEventDisable(priv->perf, type) < 0)
        return -1;
    vm->def->perf.events[type] = enabled ? VIR_TRISTATE_BOOL_YES : VIR_TRISTATE_BOOL_NO;
    return 0;
}
