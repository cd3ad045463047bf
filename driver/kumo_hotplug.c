/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_hotplug.h"

#include "driver/conf/kumo_address.h"
#include "driver/kumo_hotplug_disk.h"
#include "driver/kumo_hotplug_memory.h"
#include "driver/kumo_hotplug_net.h"
#include "driver/kumo_unplug.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_hotplug");

static kumoDriver *kumoDriverOf(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    return priv->driver;
}

static int kumoHotplugRefuse(const char *what, virDomainDeviceType type)
{
    virReportError(VIR_ERR_OPERATION_UNSUPPORTED, _("live %s of device '%s' is not supported"),
                   what, virDomainDeviceTypeToString(type));
    return -1;
}

int kumoHotplugAttach(virDomainObj *vm, virDomainDeviceDef *dev)
{
    virDomainDeviceInfo *info = virDomainDeviceGetInfo(dev);
    int rc;

    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        rc = kumoHotplugAttachDisk(vm, dev);
        break;
    case VIR_DOMAIN_DEVICE_NET:
        rc = kumoHotplugAttachNet(vm, dev);
        break;
    case VIR_DOMAIN_DEVICE_MEMORY:
        rc = kumoHotplugAttachMemory(vm, dev);
        break;
    default:
        return kumoHotplugRefuse("attach", dev->type);
    }
    if (rc == 0)
        virObjectEventStateQueue(kumoDriverOf(vm)->events,
                                 virDomainEventDeviceAddedNewFromObj(vm, info->alias));
    return rc;
}

void kumoHotplugRemovalFailed(virDomainObj *vm, const char *alias)
{
    virDomainDeviceDef dev;

    /* vCPUs have names of their own, and no event. */
    if (virDomainDefFindDevice(vm->def, alias, &dev, false) < 0)
        return;
    kumoUnplugRefused(vm, alias);
    virObjectEventStateQueue(kumoDriverOf(vm)->events,
                             virDomainEventDeviceRemovalFailedNewFromObj(vm, alias));
}

void kumoHotplugRemove(virDomainObj *vm, const char *alias)
{
    g_autofree char *name = g_strdup(alias);
    virDomainDeviceDef dev;

    if (virDomainDefFindDevice(vm->def, name, &dev, false) < 0) {
        VIR_DEBUG("domain %s has no device %s any more", vm->def->name, name);
        return;
    }
    switch ((int)dev.type) {
    case VIR_DOMAIN_DEVICE_DISK:
        if (kumoHotplugRemoveDisk(vm, dev.data.disk))
            break;
        kumoDomainSaveStatus(vm);
        return;
    case VIR_DOMAIN_DEVICE_NET:
        kumoHotplugRemoveNet(vm, dev.data.net);
        break;
    default:
        VIR_WARN("domain %s: the VMM says that it removed %s", vm->def->name, name);
        return;
    }
    virObjectEventStateQueue(kumoDriverOf(vm)->events,
                             virDomainEventDeviceRemovedNewFromObj(vm, name));
    kumoDomainSaveStatus(vm);
}

void kumoHotplugSync(virDomainObj *vm, const char *const *ids)
{
    g_autoptr(GPtrArray) gone = g_ptr_array_new_with_free_func(g_free);

    for (size_t i = 0; i < vm->def->ndisks; i++) {
        const char *alias = vm->def->disks[i]->info.alias;

        if (virStorageSourceIsEmpty(vm->def->disks[i]->src))
            continue;
        if (alias && !g_strv_contains(ids, alias))
            g_ptr_array_add(gone, g_strdup(alias));
    }
    for (size_t i = 0; i < vm->def->nnets; i++) {
        const char *alias = vm->def->nets[i]->info.alias;

        if (alias && !g_strv_contains(ids, alias))
            g_ptr_array_add(gone, g_strdup(alias));
    }
    for (guint i = 0; i < gone->len; i++)
        kumoHotplugRemove(vm, g_ptr_array_index(gone, i));
}

/* Finds the device that @match means. Returns NULL with the error reported if there is none. */
static virDomainDeviceInfo *kumoHotplugFind(virDomainObj *vm, const virDomainDeviceDef *match)
{
    int idx;

    switch ((int)match->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        idx = virDomainDiskIndexByName(vm->def, match->data.disk->dst, true);
        if (idx >= 0)
            return &vm->def->disks[idx]->info;
        virReportError(VIR_ERR_DEVICE_MISSING, _("disk %s not found"), match->data.disk->dst);
        return NULL;
    case VIR_DOMAIN_DEVICE_NET:
        idx = virDomainNetFindIdx(vm->def, match->data.net);
        return idx < 0 ? NULL : &vm->def->nets[idx]->info;
    default:
        kumoHotplugRefuse("detach", match->type);
        return NULL;
    }
}

int kumoHotplugDetach(virDomainObj *vm, const virDomainDeviceDef *match)
{
    const virDomainDeviceInfo *info = kumoHotplugFind(vm, match);
    g_autofree char *alias = NULL;
    virDomainDiskDef *disk = NULL;
    bool gone;
    int rc;

    if (!info)
        return -1;
    if (match->type == VIR_DOMAIN_DEVICE_DISK && !kumoDeviceHasSlot(info)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("this type of disk cannot be hot unplugged"));
        return -1;
    }
    alias = g_strdup(info->alias);
    if (match->type == VIR_DOMAIN_DEVICE_DISK)
        disk = virDomainDiskByName(vm->def, match->data.disk->dst, true);
    if (disk)
        disk->tray_status = VIR_DOMAIN_DISK_TRAY_CLOSED; /* not the medium goes, but the drive */
    if (disk && virStorageSourceIsEmpty(disk->src)) {
        kumoHotplugRemove(vm, alias);
        return 0;
    }
    rc = kumoUnplug(vm, alias, &gone);
    if (gone)
        kumoHotplugRemove(vm, alias);
    return rc;
}

int kumoHotplugUpdate(virDomainObj *vm, virDomainDeviceDef *dev)
{
    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        return kumoHotplugUpdateDisk(vm, dev->data.disk);
    case VIR_DOMAIN_DEVICE_NET:
        return kumoHotplugUpdateNet(vm, dev->data.net);
    case VIR_DOMAIN_DEVICE_MEMORY:
        return kumoHotplugUpdateMemory(vm, dev->data.memory);
    default:
        return kumoHotplugRefuse("update", dev->type);
    }
}
