/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_unplug.h"

#include "driver/kumo_monitor.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* A guest that lets a device go does so at once; the caller of a detach waits this long for it. */
#define KUMO_REMOVAL_WAIT_MS 5000

bool kumoUnplugSeen(virDomainObj *vm, const char *alias)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (STRNEQ_NULLABLE(priv->unplugAlias, alias))
        return false;
    priv->unplugged = true;
    virDomainObjBroadcast(vm);
    return true;
}

void kumoUnplugRefused(virDomainObj *vm, const char *alias)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (STRNEQ_NULLABLE(priv->unplugAlias, alias))
        return;
    priv->unplugRefused = true;
    virDomainObjBroadcast(vm);
}

/* Waits until the guest has let the device go, or long enough. */
static void kumoUnplugWait(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    unsigned long long until;

    if (virTimeMillisNow(&until) < 0)
        return;
    until += KUMO_REMOVAL_WAIT_MS;
    while (!priv->unplugged && !priv->unplugRefused && virDomainObjIsActive(vm) &&
           virDomainObjWaitUntil(vm, until) == 0)
        ;
}

int kumoUnplug(virDomainObj *vm, const char *alias, bool *gone)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoMonitor *mon;
    int rc;

    *gone = false;
    g_free(priv->unplugAlias);
    priv->unplugAlias = g_strdup(alias);
    priv->unplugged = false;
    priv->unplugRefused = false;

    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorRemoveDevice(mon, alias);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        rc = -1;
    if (rc == 0)
        kumoUnplugWait(vm);

    g_clear_pointer(&priv->unplugAlias, g_free);
    if (!virDomainObjIsActive(vm)) {
        if (rc == 0)
            virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%s' ended meanwhile"),
                           vm->def->name);
        return -1;
    }
    *gone = priv->unplugged;
    if (!*gone && priv->unplugRefused) {
        virReportError(VIR_ERR_OPERATION_FAILED, _("the guest has refused to let device '%s' go"),
                       alias);
        return -1;
    }
    return rc;
}
