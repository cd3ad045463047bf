/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_hotplug.h"

#include "driver/kumo_cgroup.h"
#include "domain-xml/xml.h"
#include "domain_audit.h"
#include "driver/conf/kumo_address.h"
#include "driver/kumo_hotplug_memory.h"
#include "driver/kumo_interface.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_prepare.h"
#include "viralloc.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_hotplug");

/* A guest that lets a device go does so at once; the caller of a detach waits this long for it. */
#define KUMO_REMOVAL_WAIT_MS 5000

/* Of an image's label: remember what was there before, as at the start of a domain. */
#define KUMO_IMAGE_LABEL_FLAGS                                                                     \
    (VIR_SECURITY_DOMAIN_IMAGE_LABEL_BACKING_CHAIN | VIR_SECURITY_DOMAIN_IMAGE_PARENT_CHAIN_TOP)

static int kumoHotplugRefuse(const char *what, virDomainDeviceType type)
{
    virReportError(VIR_ERR_OPERATION_UNSUPPORTED, _("live %s of device '%s' is not supported"),
                   what, virDomainDeviceTypeToString(type));
    return -1;
}

static kumoDriver *kumoDriverOf(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    return priv->driver;
}

/* --- attaching --- */

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

static int kumoHotplugAttachDisk(virDomainObj *vm, virDomainDeviceDef *dev)
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

static void kumoHotplugUndoNet(virDomainObj *vm, virDomainDeviceDef *dev, virDomainNetDef *net)
{
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    virDomainNetRemoveByObj(vm->def, net);
    kumoInterfaceRelease(kumoDriverOf(vm), vm->def, net);
    kumoDomainSaveStatus(vm);
    virErrorRestore(&saved);
    dev->data.net = net;
}

static int kumoHotplugAttachNet(virDomainObj *vm, virDomainDeviceDef *dev)
{
    virDomainNetDef *net = dev->data.net;
    g_autoptr(KumoNetConfig) config = NULL;
    g_autoptr(kumoTaps) taps = NULL;
    kumoMonitor *mon;
    int rc;

    if (kumoAssignDevice(vm->def, dev) < 0 || !(config = kumo_xml_net(net)) ||
        kumoInterfaceClaim(kumoDriverOf(vm), vm->def, net) < 0)
        return -1;

    /* Noted first, as with disks. */
    if (kumoCompatNetInsert(vm->def, net) < 0) {
        kumoInterfaceRelease(kumoDriverOf(vm), vm->def, net);
        return -1;
    }
    dev->data.net = NULL;
    kumoDomainSaveStatus(vm);
    taps = kumoInterfaceConnect(kumoDriverOf(vm), vm->def, net);
    if (!taps || kumoInterfaceOnline(net) < 0) {
        kumoHotplugUndoNet(vm, dev, net);
        return -1;
    }
    kumoDomainSaveStatus(vm);
    kumoTapsAnnounce(taps, config);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorAddNet(mon, config, taps->fds, taps->nfds);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        rc = -1;
    virDomainAuditNet(vm, NULL, net, "attach", rc == 0);
    if (rc < 0)
        kumoHotplugUndoNet(vm, dev, net);
    return rc < 0 ? -1 : 0;
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

/* --- detaching --- */

bool kumoHotplugRemovalSeen(virDomainObj *vm, const char *alias)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (STRNEQ_NULLABLE(priv->unplugAlias, alias))
        return false;
    priv->unplugged = true;
    virDomainObjBroadcast(vm);
    return true;
}

void kumoHotplugRemovalFailed(virDomainObj *vm, const char *alias)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virDomainDeviceDef dev;

    /* vCPUs have names of their own, and no event. */
    if (virDomainDefFindDevice(vm->def, alias, &dev, false) < 0)
        return;
    if (STREQ_NULLABLE(priv->unplugAlias, alias)) {
        priv->unplugRefused = true;
        virDomainObjBroadcast(vm);
    }
    virObjectEventStateQueue(kumoDriverOf(vm)->events,
                             virDomainEventDeviceRemovalFailedNewFromObj(vm, alias));
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

static void kumoHotplugRemoveDisk(virDomainObj *vm, virDomainDiskDef *disk)
{
    kumoHotplugTakeDisk(vm, disk);
    kumoHotplugRestoreImage(vm, disk->src);
    virDomainAuditDisk(vm, disk->src, NULL, "detach", true);
    virDomainDiskDefFree(disk);
}

static void kumoHotplugRemoveNet(virDomainObj *vm, virDomainNetDef *net)
{
    virDomainNetRemoveByObj(vm->def, net);
    kumoInterfaceRelease(kumoDriverOf(vm), vm->def, net);
    virDomainAuditNet(vm, net, NULL, "detach", true);
    virDomainNetDefFree(net);
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
        if (dev.data.disk->tray_status == VIR_DOMAIN_DISK_TRAY_OPEN) {
            kumoHotplugEmptyDrive(vm, dev.data.disk);
            kumoHotplugTellTray(vm, dev.data.disk, VIR_DOMAIN_EVENT_TRAY_CHANGE_OPEN);
            kumoDomainSaveStatus(vm);
            return;
        }
        kumoHotplugRemoveDisk(vm, dev.data.disk);
        break;
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

/* Waits until the guest has let the device go, or long enough. */
static void kumoHotplugAwaitRemoval(virDomainObj *vm)
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

/* Asks the guest to let @alias go, and waits for that a while. Returns: 0, and *@gone tells whether
 * it has and the definition shows it; or -1 with the error reported. */
static int kumoHotplugUnplug(virDomainObj *vm, const char *alias, bool *gone)
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
        kumoHotplugAwaitRemoval(vm);

    g_clear_pointer(&priv->unplugAlias, g_free);
    if (!virDomainObjIsActive(vm)) {
        if (rc == 0)
            virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%s' ended meanwhile"),
                           vm->def->name);
        return -1;
    }
    if (priv->unplugged) {
        kumoHotplugRemove(vm, alias);
        *gone = true;
    } else if (priv->unplugRefused) {
        virReportError(VIR_ERR_OPERATION_FAILED, _("the guest has refused to let device '%s' go"),
                       alias);
        return -1;
    }
    return rc;
}

int kumoHotplugDetach(virDomainObj *vm, const virDomainDeviceDef *match)
{
    const virDomainDeviceInfo *info = kumoHotplugFind(vm, match);
    g_autofree char *alias = NULL;
    virDomainDiskDef *disk = NULL;
    bool gone;

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
    return kumoHotplugUnplug(vm, alias, &gone);
}

/* --- changing --- */

typedef struct {
    bool differs;
    const char *what;
} kumoDifference;

static int kumoHotplugRefuseChanges(const char *alias, const kumoDifference *items, size_t nitems)
{
    for (size_t i = 0; i < nitems; i++) {
        if (!items[i].differs)
            continue;
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("cannot modify %s of device '%s' while the domain runs"), items[i].what,
                       alias);
        return -1;
    }
    return 0;
}

/* Returns: (nullable): what of the host the interface is connected to, by its definition. */
static const char *kumoHotplugNetSource(const virDomainNetDef *net)
{
    switch ((int)net->type) {
    case VIR_DOMAIN_NET_TYPE_NETWORK:
        return net->data.network.name;
    case VIR_DOMAIN_NET_TYPE_BRIDGE:
        return net->data.bridge.brname;
    case VIR_DOMAIN_NET_TYPE_DIRECT:
        return net->data.direct.linkdev;
    default:
        return NULL;
    }
}

static int kumoHotplugCompareNets(const virDomainNetDef *old, const virDomainNetDef *new)
{
    bool bothDirect =
        old->type == VIR_DOMAIN_NET_TYPE_DIRECT && new->type == VIR_DOMAIN_NET_TYPE_DIRECT;
    const kumoDifference items[] = {
        { old->type != new->type, "the type" },
        { virMacAddrCmp(&old->mac, &new->mac) != 0, "the MAC address" },
        { old->model != new->model, "the model" },
        { STRNEQ_NULLABLE(kumoHotplugNetSource(old), kumoHotplugNetSource(new)), "the source" },
        { bothDirect && old->data.direct.mode != new->data.direct.mode, "the mode" },
        { new->ifname &&STRNEQ_NULLABLE(old->ifname, new->ifname), "the target" },
        { old->mtu != new->mtu, "the MTU" },
        { old->driver.virtio.queues != new->driver.virtio.queues, "the number of queues" },
        { old->driver.virtio.rx_queue_size != new->driver.virtio.rx_queue_size ||
              old->driver.virtio.tx_queue_size != new->driver.virtio.tx_queue_size,
          "the size of the queues" },
        { !virNetDevVlanEqual(&old->vlan, &new->vlan), "the VLAN" },
        { STRNEQ_NULLABLE(old->filter, new->filter) ||
              !virNWFilterHashTableEqual(old->filterparams, new->filterparams),
          "the filter" },
        { new->info.type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI &&
              !virPCIDeviceAddressEqual(&old->info.addr.pci, &new->info.addr.pci),
          "the PCI address" },
    };

    return kumoHotplugRefuseChanges(old->info.alias, items, G_N_ELEMENTS(items));
}

int kumoHotplugSetLink(virDomainObj *vm, virDomainNetDef *net, virDomainNetInterfaceLinkState state)
{
    bool up = state != VIR_DOMAIN_NET_INTERFACE_LINK_STATE_DOWN;
    g_autofree char *alias = g_strdup(net->info.alias);
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorUpdateNet(mon, json_pack("{s:s, s:b}", "id", alias, "link_up", up));

    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    net->linkstate = state;
    return 0;
}

static int kumoHotplugUpdateNet(virDomainObj *vm, const virDomainNetDef *new)
{
    int idx = virDomainNetFindIdx(vm->def, (virDomainNetDef *)new);
    virDomainNetDef *old;

    if (idx < 0)
        return -1;
    old = vm->def->nets[idx];
    if (kumoHotplugCompareNets(old, new) < 0)
        return -1;

    if (!virNetDevBandwidthEqual(virDomainNetGetActualBandwidth(old), new->bandwidth) &&
        kumoInterfaceSetBandwidth(old, new->bandwidth) < 0)
        return -1;
    /* Without a word about it the link is up. */
    if ((old->linkstate == VIR_DOMAIN_NET_INTERFACE_LINK_STATE_DOWN) !=
            (new->linkstate == VIR_DOMAIN_NET_INTERFACE_LINK_STATE_DOWN) &&
        kumoHotplugSetLink(vm, old, new->linkstate) < 0)
        return -1;
    old->linkstate = new->linkstate;
    return 0;
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

    /* When the guest lets the device go, be it later, only the medium is gone. */
    disk->tray_status = VIR_DOMAIN_DISK_TRAY_OPEN;
    kumoDomainSaveStatus(vm);
    if (kumoHotplugUnplug(vm, alias, &gone) == 0) {
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

static int kumoHotplugUpdateDisk(virDomainObj *vm, virDomainDiskDef *new)
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

    if (kumoHotplugRefuseChanges(old->info.alias, items, G_N_ELEMENTS(items)) < 0)
        return -1;
    if (!virDomainBlockIoTuneInfoEqual(&old->blkdeviotune, tune) &&
        kumoHotplugSetIoTune(vm, old, tune) < 0)
        return -1;
    return !drive || kumoHotplugIsSameMedium(old->src, new->src) ? 0
                                                                 : kumoHotplugChangeMedium(vm, new);
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
