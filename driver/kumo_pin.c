/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_pin.h"

#include "domain-xml/xml.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_threads.h"
#include "virprocess.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoPinVcpus(virDomainObj *vm)
{
    json_t *changes = kumo_xml_affinity_json(vm->def);
    kumoMonitor *mon;
    int rc;

    if (!changes)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorUpdateCpus(mon, changes);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

int kumoPinIOThreads(virDomainObj *vm, unsigned int id)
{
    g_autoptr(GPtrArray) changes = g_ptr_array_new();
    kumoMonitor *mon = NULL;
    int rc = 0;

    /* All of them first: the domain is not locked while the VMM is told. */
    for (size_t i = 0; i < vm->def->ndisks && rc == 0; i++) {
        const virDomainDiskDef *disk = vm->def->disks[i];
        json_t *change;

        if (disk->iothread == 0 || (id != 0 && disk->iothread != id) ||
            virStorageSourceIsEmpty(disk->src))
            continue;
        if ((change = kumo_xml_queue_affinity_json(vm->def, disk)))
            g_ptr_array_add(changes, change);
        else
            rc = -1;
    }
    if (rc == 0 && changes->len > 0)
        mon = kumoDomainObjEnterMonitor(vm);
    for (guint i = 0; i < changes->len; i++) {
        if (rc == 0)
            rc = kumoMonitorUpdateDisk(mon, changes->pdata[i]);
        else
            json_decref(changes->pdata[i]);
    }
    if (mon && kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

virBitmap *kumoPinReadCpus(unsigned char *cpumap, int maplen)
{
    g_autoptr(virBitmap) cpus = virBitmapNewData(cpumap, maplen);

    if (!cpus || !virBitmapIsAllClear(cpus))
        return g_steal_pointer(&cpus);
    virReportError(VIR_ERR_INVALID_ARG, "%s", _("Empty cpu list for pinning"));
    return NULL;
}

void kumoPinTell(virDomainObj *vm, const char *what, virBitmap *cpus)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *text = virBitmapFormat(cpus);
    virTypedParameterPtr params = NULL;
    int nparams = 0;
    int max = 0;

    if (text && virTypedParamsAddString(&params, &nparams, &max, what, text) == 0)
        virObjectEventStateQueue(priv->driver->events,
                                 virDomainEventTunableNewFromObj(vm, &params, nparams));
    virTypedParamsFree(params, nparams);
}

static int kumoPinUnlessVcpu(pid_t tid, const char *name, void *opaque)
{
    /* A thread that has ended meanwhile needs no place. */
    return STRPREFIX(name, "vcpu") ? 0 : virProcessSetAffinity(tid, opaque, true);
}

int kumoPinEmulator(pid_t pid, virBitmap *cpus)
{
    /* The main thread first: new threads are its children. */
    if (virProcessSetAffinity(pid, cpus, false) < 0)
        return -1;
    return kumoThreadsForEach(pid, kumoPinUnlessVcpu, cpus);
}
