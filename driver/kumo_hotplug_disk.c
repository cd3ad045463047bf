/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_hotplug_disk.h"

#include "domain-xml/xml.h"
#include "domain_audit.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_refuse.h"
#include "driver/kumo_cgroup.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_prepare.h"
#include "driver/kumo_unplug.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_hotplug_disk");

/* Of an image's label: remember what was there before, as at the start of a domain. */
#define KUMO_IMAGE_LABEL_FLAGS                                                                     \
    (VIR_SECURITY_DOMAIN_IMAGE_LABEL_BACKING_CHAIN | VIR_SECURITY_DOMAIN_IMAGE_PARENT_CHAIN_TOP)

static kumoDriver *kumoDriverOf(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    return priv->driver;
}

static int kumoHotplugCheckDisk(virDomainObj *vm, const virDomainDiskDef *disk)
{
    if (disk->bus != VIR_DOMAIN_DISK_BUS_VIRTIO) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("disk device type '%s' on bus '%s' cannot be hotplugged"),
                       virDomainDiskDeviceTypeToString(disk->device),
                       virDomainDiskBusTypeToString(disk->bus));
        return -1;
    }
    for (size_t i = 0; i < vm->def->ndisks; i++) {
        if (virDomainDiskDefCheckDuplicateInfo(vm->def->disks[i], disk) < 0)
            return -1;
    }
    return 0;
}

static void kumoHotplugRestoreImage(virDomainObj *vm, virStorageSource *src)
{
    if (kumoCompatRestoreImageLabel(kumoDriverOf(vm)->security, vm->def, src,
                                    KUMO_IMAGE_LABEL_FLAGS) < 0)
        VIR_WARN("domain %s: the label of %s could not be restored", vm->def->name,
                 NULLSTR(src->path));
}

/* Takes @disk, which stays the caller's, out of the live definition. */
static void kumoHotplugTakeDisk(virDomainObj *vm, const virDomainDiskDef *disk)
{
    for (size_t i = 0; i < vm->def->ndisks; i++) {
        if (vm->def->disks[i] == disk) {
            virDomainDiskRemove(vm->def, i);
            return;
        }
    }
}

/* Returns: 0 with the VMM's group of @tune having its limits, or none being named; or -1 with the
 * error reported. */
static int kumoHotplugSetGroup(virDomainObj *vm, const virDomainBlockIoTuneInfo *tune)
{
    kumoMonitor *mon;
    int rc;

    if (!tune->group_name)
        return 0;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorSetRateLimitGroup(mon, json_pack("{s:s, s:o}", "id", tune->group_name,
                                                     "rate_limiter_config",
                                                     kumo_xml_rate_limit_json(tune)));
    return kumoDomainObjExitMonitor(vm, mon) < 0 ? -1 : rc;
}

/* The guest has the disk already: it does not lose it for that. */
static void kumoHotplugPlaceDisk(virDomainObj *vm)
{
    if (kumoCgroupPlaceIOThreads(vm) == 0)
        return;
    VIR_WARN("domain %s: %s", vm->def->name, virGetLastErrorMessage());
    virResetLastError();
}

int kumoHotplugAttachDisk(virDomainObj *vm, virDomainDeviceDef *dev)
{
    virDomainDiskDef *disk = dev->data.disk;
    g_autoptr(KumoDiskConfig) config = NULL;
    virErrorPtr saved = NULL;
    kumoMonitor *mon;
    int rc;

    if (kumoHotplugCheckDisk(vm, disk) < 0 || kumoPrepareDisk(kumoDriverOf(vm), disk) < 0 ||
        kumoAssignDevice(vm->def, dev) < 0)
        return -1;
    if (virStorageSourceIsEmpty(disk->src)) {
        virDomainDiskInsert(vm->def, g_steal_pointer(&dev->data.disk));
        kumoDomainSaveStatus(vm);
        return 0;
    }
    if (!(config = kumo_xml_disk(vm->def, disk)) ||
        kumoHotplugSetGroup(vm, &disk->blkdeviotune) < 0 ||
        kumoCompatSetImageLabel(kumoDriverOf(vm)->security, vm->def, disk->src,
                                KUMO_IMAGE_LABEL_FLAGS) < 0)
        return -1;

    /* Noted first: if the daemon is killed meanwhile, the next one finds out what became of it. */
    virDomainDiskInsert(vm->def, g_steal_pointer(&dev->data.disk));
    kumoDomainSaveStatus(vm);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorAddDisk(mon, config);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        rc = -1;
    virDomainAuditDisk(vm, NULL, disk->src, "attach", rc == 0);
    if (rc < 0) {
        virErrorPreserveLast(&saved);
        kumoHotplugTakeDisk(vm, disk);
        kumoHotplugRestoreImage(vm, disk->src);
        kumoDomainSaveStatus(vm);
        virErrorRestore(&saved);
        dev->data.disk = disk;
        return -1;
    }
    kumoHotplugPlaceDisk(vm);
    return 0;
}

static void kumoHotplugTellTray(virDomainObj *vm, const virDomainDiskDef *disk, int change)
{
    virObjectEventStateQueue(kumoDriverOf(vm)->events,
                             virDomainEventTrayChangeNewFromObj(vm, disk->info.alias, change));
}

/* The device is gone, the drive is not. */
static void kumoHotplugEmptyDrive(virDomainObj *vm, virDomainDiskDef *disk)
{
    g_autoptr(virStorageSource) old = disk->src;

    disk->src = virStorageSourceNew();
    disk->src->type = old->type == VIR_STORAGE_TYPE_BLOCK ? old->type : VIR_STORAGE_TYPE_FILE;
    disk->src->format = VIR_STORAGE_FILE_RAW;
    disk->src->readonly = true;
    disk->tray_status = VIR_DOMAIN_DISK_TRAY_CLOSED;
    kumoHotplugRestoreImage(vm, old);
    virDomainAuditDisk(vm, old, disk->src, "update", true);
}

bool kumoHotplugRemoveDisk(virDomainObj *vm, virDomainDiskDef *disk)
{
    if (disk->tray_status == VIR_DOMAIN_DISK_TRAY_OPEN) {
        kumoHotplugEmptyDrive(vm, disk);
        kumoHotplugTellTray(vm, disk, VIR_DOMAIN_EVENT_TRAY_CHANGE_OPEN);
        return false;
    }
    kumoHotplugTakeDisk(vm, disk);
    kumoHotplugRestoreImage(vm, disk->src);
    virDomainAuditDisk(vm, disk->src, NULL, "detach", true);
    virDomainDiskDefFree(disk);
    return true;
}

/* The disks of a group have its limits in the definition, too. */
static void kumoHotplugNoteGroup(virDomainDef *def, const virDomainBlockIoTuneInfo *tune)
{
    for (size_t i = 0; tune->group_name && i < def->ndisks; i++) {
        virDomainBlockIoTuneInfo *other = &def->disks[i]->blkdeviotune;

        if (STRNEQ_NULLABLE(other->group_name, tune->group_name))
            continue;
        g_clear_pointer(&other->group_name, g_free);
        virDomainBlockIoTuneInfoCopy(tune, other);
    }
}

int kumoHotplugSetIoTune(virDomainObj *vm, virDomainDiskDef *disk,
                         const virDomainBlockIoTuneInfo *tune)
{
    bool moves = STRNEQ_NULLABLE(disk->blkdeviotune.group_name, tune->group_name);
    g_autofree char *alias = g_strdup(disk->info.alias);
    json_t *changes;
    kumoMonitor *mon;
    int rc;

    if (kumoHotplugSetGroup(vm, tune) < 0)
        return -1;
    kumoHotplugNoteGroup(vm->def, tune);
    if (tune->group_name && !moves)
        return 0;
    if (virStorageSourceIsEmpty(disk->src)) {
        /* What is put into the drive will have them. */
        g_clear_pointer(&disk->blkdeviotune.group_name, g_free);
        virDomainBlockIoTuneInfoCopy(tune, &disk->blkdeviotune);
        return 0;
    }

    changes = json_pack("{s:s, s:o}", "id", alias, "rate_limiter_config",
                        tune->group_name ? json_null() : kumo_xml_rate_limit_json(tune));
    if (moves)
        json_object_set_new(changes, "rate_limit_group",
                            tune->group_name ? json_string(tune->group_name) : json_null());
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorUpdateDisk(mon, changes);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    g_clear_pointer(&disk->blkdeviotune.group_name, g_free);
    virDomainBlockIoTuneInfoCopy(tune, &disk->blkdeviotune);
    return 0;
}

/*
 * A medium is a device of its own, in the slot of its drive. Puts that of @new, which is taken from
 * there, into the drive @disk, which is empty.
 */
static int kumoHotplugInsertMedium(virDomainObj *vm, virDomainDiskDef *disk, virDomainDiskDef *new)
{
    g_autoptr(KumoDiskConfig) config = NULL;
    virStorageSource *empty = disk->src;
    virErrorPtr saved = NULL;
    kumoMonitor *mon;
    int rc;

    if (kumoPrepareDisk(kumoDriverOf(vm), new) < 0)
        return -1;
    disk->src = new->src;
    if (kumoHotplugSetGroup(vm, &disk->blkdeviotune) < 0 ||
        !(config = kumo_xml_disk(vm->def, disk)) ||
        kumoCompatSetImageLabel(kumoDriverOf(vm)->security, vm->def, disk->src,
                                KUMO_IMAGE_LABEL_FLAGS) < 0) {
        disk->src = empty;
        return -1;
    }
    /* Noted first, as with a disk that is added: whoever finds no device empties the drive. */
    new->src = empty;
    disk->tray_status = VIR_DOMAIN_DISK_TRAY_OPEN;
    kumoDomainSaveStatus(vm);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorAddDisk(mon, config);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    virDomainAuditDisk(vm, empty, disk->src, "update", rc == 0);
    if (rc == 0) {
        disk->tray_status = VIR_DOMAIN_DISK_TRAY_CLOSED;
        kumoHotplugPlaceDisk(vm);
        kumoHotplugTellTray(vm, disk, VIR_DOMAIN_EVENT_TRAY_CHANGE_CLOSE);
        return 0;
    }
    virErrorPreserveLast(&saved);
    kumoHotplugEmptyDrive(vm, disk);
    kumoDomainSaveStatus(vm);
    virErrorRestore(&saved);
    return -1;
}

static int kumoHotplugEjectMedium(virDomainObj *vm, virDomainDiskDef *disk)
{
    g_autofree char *alias = g_strdup(disk->info.alias);
    g_autofree char *target = g_strdup(disk->dst);
    bool gone;
    int rc;

    /* When the guest lets the device go, be it later, only the medium is gone. */
    disk->tray_status = VIR_DOMAIN_DISK_TRAY_OPEN;
    kumoDomainSaveStatus(vm);
    rc = kumoUnplug(vm, alias, &gone);
    if (gone && (disk = virDomainDiskByName(vm->def, target, true))) {
        kumoHotplugRemoveDisk(vm, disk);
        kumoDomainSaveStatus(vm);
    }
    if (rc == 0) {
        if (gone)
            return 0;
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the guest has not let the medium of '%s' go yet"), target);
        return -1;
    }
    if (virDomainObjIsActive(vm) && (disk = virDomainDiskByName(vm->def, target, true)))
        disk->tray_status = VIR_DOMAIN_DISK_TRAY_CLOSED;
    return -1;
}

static bool kumoHotplugIsSameMedium(const virStorageSource *old, const virStorageSource *new)
{
    if (virStorageSourceIsEmpty((virStorageSource *)old) ||
        virStorageSourceIsEmpty((virStorageSource *)new))
        return virStorageSourceIsEmpty((virStorageSource *)old) ==
               virStorageSourceIsEmpty((virStorageSource *)new);
    return new->type == VIR_STORAGE_TYPE_VOLUME
               ? virStorageSourceIsSameLocation((virStorageSource *)old, (virStorageSource *)new)
               : STREQ_NULLABLE(old->path, new->path);
}

static int kumoHotplugChangeMedium(virDomainObj *vm, virDomainDiskDef *new)
{
    g_autofree char *target = g_strdup(new->dst);
    virDomainDiskDef *disk = virDomainDiskByName(vm->def, target, true);

    if (!virStorageSourceIsEmpty(disk->src) && kumoHotplugEjectMedium(vm, disk) < 0)
        return -1;
    /* The domain was unlocked meanwhile, but the job is ours. */
    disk = virDomainDiskByName(vm->def, target, true);
    return virStorageSourceIsEmpty(new->src) ? 0 : kumoHotplugInsertMedium(vm, disk, new);
}

int kumoHotplugUpdateDisk(virDomainObj *vm, virDomainDiskDef *new)
{
    const virDomainBlockIoTuneInfo *tune = &new->blkdeviotune;
    int idx = virDomainDiskIndexByName(vm->def, new->dst, false);
    virDomainDiskDef *old;
    bool drive;

    if (idx < 0) {
        virReportError(VIR_ERR_DEVICE_MISSING, _("disk %s not found"), new->dst);
        return -1;
    }
    old = vm->def->disks[idx];

    drive = old->device == VIR_DOMAIN_DISK_DEVICE_CDROM;

    const kumoDifference items[] = {
        { old->device != new->device, "the kind" },
        { old->bus != new->bus, "the bus" },
        { !drive && new->src->type !=
                        VIR_STORAGE_TYPE_VOLUME &&STRNEQ_NULLABLE(old->src->path, new->src->path),
          "the source" },
        { old->src->readonly != new->src->readonly, "the access mode" },
        { old->cachemode != new->cachemode, "the cache mode" },
        { old->queues != new->queues, "the number of queues" },
        { old->queue_size != new->queue_size, "the size of the queues" },
        { new->serial &&STRNEQ_NULLABLE(old->serial, new->serial), "the serial number" },
        { new->info.type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI &&
              !virPCIDeviceAddressEqual(&old->info.addr.pci, &new->info.addr.pci),
          "the PCI address" },
    };

    if (kumoRefuseChanges(old->info.alias, items, G_N_ELEMENTS(items)) < 0)
        return -1;
    if (!virDomainBlockIoTuneInfoEqual(&old->blkdeviotune, tune) &&
        kumoHotplugSetIoTune(vm, old, tune) < 0)
        return -1;
    return !drive || kumoHotplugIsSameMedium(old->src, new->src) ? 0
                                                                 : kumoHotplugChangeMedium(vm, new);
}
