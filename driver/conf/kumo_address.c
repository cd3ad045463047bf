/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_address.h"

#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

#define KUMO_PCI_SLOTS 32

bool kumoDeviceHasSlot(const virDomainDeviceInfo *info)
{
    return info->type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI;
}

virDomainControllerDef *kumoVirtioSerialController(const virDomainDef *def)
{
    for (size_t i = 0; i < def->ncontrollers; i++) {
        if (def->controllers[i]->type == VIR_DOMAIN_CONTROLLER_TYPE_VIRTIO_SERIAL)
            return def->controllers[i];
    }
    return NULL;
}

typedef struct {
    uint32_t used; /* bitmap of slots */
    bool assign;   /* second round: fill in what is missing */
} kumoSlots;

/* Is this a device of the VMM's PCI bus, by its kind? */
static bool kumoDeviceWantsSlot(virDomainDeviceDef *dev)
{
    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        return dev->data.disk->bus == VIR_DOMAIN_DISK_BUS_VIRTIO;
    case VIR_DOMAIN_DEVICE_NET:
    case VIR_DOMAIN_DEVICE_RNG:
        return true;
    case VIR_DOMAIN_DEVICE_MEMBALLOON:
        return dev->data.memballoon->model != VIR_DOMAIN_MEMBALLOON_MODEL_NONE;
    case VIR_DOMAIN_DEVICE_CONTROLLER:
        return dev->data.controller->type == VIR_DOMAIN_CONTROLLER_TYPE_VIRTIO_SERIAL;
    case VIR_DOMAIN_DEVICE_MEMORY:
        return dev->data.memory->model == VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM;
    default:
        return false;
    }
}

static int kumoReserveSlot(kumoSlots *slots, virDomainDeviceInfo *info)
{
    const virPCIDeviceAddress *pci = &info->addr.pci;

    if (pci->domain != 0 || pci->bus != 0 || pci->function != 0 || pci->slot == 0 ||
        pci->slot >= KUMO_PCI_SLOTS) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("PCI address %04x:%02x:%02x.%u is not supported: the only bus is "
                         "0000:00, with slots 01 to 1f and function 0"),
                       pci->domain, pci->bus, pci->slot, pci->function);
        return -1;
    }
    if (slots->used & (1u << pci->slot)) {
        virReportError(VIR_ERR_XML_ERROR, _("PCI address 0000:00:%02x.0 is used twice"), pci->slot);
        return -1;
    }
    slots->used |= 1u << pci->slot;
    return 0;
}

static int kumoVisitDevice(virDomainDef *def G_GNUC_UNUSED, virDomainDeviceDef *dev,
                           virDomainDeviceInfo *info, void *opaque)
{
    kumoSlots *slots = opaque;

    if (!kumoDeviceWantsSlot(dev))
        return 0;

    if (info->type != VIR_DOMAIN_DEVICE_ADDRESS_TYPE_NONE &&
        info->type != VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/devices/%s/address/@type: '%s' is not supported by kumo, only "
                         "'pci' is"),
                       virDomainDeviceTypeToString(dev->type),
                       virDomainDeviceAddressTypeToString(info->type));
        return -1;
    }
    if (info->addr.pci.multi == VIR_TRISTATE_SWITCH_ON || info->addr.pci.zpci.uid.isSet ||
        info->addr.pci.zpci.fid.isSet) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/devices/%s/address/%s is not supported by kumo"),
                       virDomainDeviceTypeToString(dev->type),
                       info->addr.pci.multi == VIR_TRISTATE_SWITCH_ON ? "@multifunction" : "zpci");
        return -1;
    }

    if (!slots->assign) {
        if (info->type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI &&
            (!virPCIDeviceAddressIsEmpty(&info->addr.pci) || info->addr.pci.function != 0))
            return kumoReserveSlot(slots, info);
        return 0;
    }

    /* <address type='pci'/> without numbers asks for a PCI address too. */
    if (info->type != VIR_DOMAIN_DEVICE_ADDRESS_TYPE_NONE &&
        !(info->type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI &&
          virPCIDeviceAddressIsEmpty(&info->addr.pci)))
        return 0;

    for (unsigned int slot = 1; slot < KUMO_PCI_SLOTS; slot++) {
        if (slots->used & (1u << slot))
            continue;
        slots->used |= 1u << slot;
        info->type = VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI;
        info->addr.pci = (virPCIDeviceAddress){ .slot = slot };
        return 0;
    }
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("more than %d devices: the PCI bus has no free slot"), KUMO_PCI_SLOTS - 1);
    return -1;
}

static bool kumoIsSlotOfMemory(const virDomainDef *def, unsigned int slot)
{
    for (size_t i = 0; i < def->nmems; i++) {
        const virDomainDeviceInfo *info = &def->mems[i]->info;

        if (info->type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_DIMM && info->addr.dimm.slot == slot)
            return true;
    }
    return false;
}

/* Memory modules are numbered. */
static void kumoAssignMemorySlot(const virDomainDef *def, virDomainMemoryDef *mem)
{
    unsigned int slot = 0;

    if (mem->model != VIR_DOMAIN_MEMORY_MODEL_DIMM ||
        mem->info.type != VIR_DOMAIN_DEVICE_ADDRESS_TYPE_NONE)
        return;
    while (kumoIsSlotOfMemory(def, slot))
        slot++;
    mem->info.type = VIR_DOMAIN_DEVICE_ADDRESS_TYPE_DIMM;
    mem->info.addr.dimm.slot = slot;
}

unsigned int kumoBootRank(const virDomainDef *def, const virDomainDiskDef *disk)
{
    int kind =
        disk->device == VIR_DOMAIN_DISK_DEVICE_CDROM ? VIR_DOMAIN_BOOT_CDROM : VIR_DOMAIN_BOOT_DISK;

    if (disk->info.bootIndex > 0)
        return disk->info.bootIndex;
    for (size_t i = 0; i < def->os.nBootDevs; i++) {
        if ((int)def->os.bootDevs[i] == kind)
            return (unsigned int)i + 1;
    }
    return 0;
}

/* Firmware tries disks in the order of their slots. */
static int kumoAssignBootDisks(virDomainDef *def, kumoSlots *slots)
{
    unsigned int last = 0;

    for (;;) {
        unsigned int next = UINT_MAX;

        for (size_t i = 0; i < def->ndisks; i++) {
            unsigned int rank = kumoBootRank(def, def->disks[i]);

            if (rank > last && rank < next)
                next = rank;
        }
        if (next == UINT_MAX)
            return 0;
        for (size_t i = 0; i < def->ndisks; i++) {
            virDomainDeviceDef dev = { .type = VIR_DOMAIN_DEVICE_DISK, .data.disk = def->disks[i] };

            if (kumoBootRank(def, def->disks[i]) == next &&
                kumoVisitDevice(def, &dev, &def->disks[i]->info, slots) < 0)
                return -1;
        }
        last = next;
    }
}

/* libvirt keeps the disks of a bus in the order of their targets, which it had to do before those
 * of other buses were put on this one. */
static void kumoSortDisks(virDomainDef *def)
{
    g_autofree virDomainDiskDef **disks = g_steal_pointer(&def->disks);
    size_t ndisks = def->ndisks;

    def->ndisks = 0;
    for (size_t i = 0; i < ndisks; i++)
        virDomainDiskInsert(def, disks[i]);
}

int kumoAssignAddresses(virDomainDef *def, unsigned int parseFlags G_GNUC_UNUSED,
                        void *opaque G_GNUC_UNUSED, void *parseOpaque G_GNUC_UNUSED)
{
    kumoSlots slots = { .used = 1 };

    kumoSortDisks(def);
    if (virDomainDeviceInfoIterate(def, kumoVisitDevice, &slots) < 0)
        return -1;
    slots.assign = true;
    if (!def->os.kernel && kumoAssignBootDisks(def, &slots) < 0)
        return -1;
    for (size_t i = 0; i < def->nmems; i++)
        kumoAssignMemorySlot(def, def->mems[i]);
    return virDomainDeviceInfoIterate(def, kumoVisitDevice, &slots);
}

/* Is there a device with @alias? */
static bool kumoAliasIsTaken(virDomainDef *def, const char *alias)
{
    virDomainDeviceDef found;

    return virDomainDefFindDevice(def, alias, &found, false) == 0;
}

static int kumoAssignDiskAlias(virDomainDiskDef *disk)
{
    int idx;

    if (disk->info.alias)
        return 0;
    if ((idx = virDiskNameToIndex(disk->dst)) < 0) {
        virReportError(VIR_ERR_INVALID_ARG, _("disk target '%s' has no index"), disk->dst);
        return -1;
    }
    /* hda and sda are on the same bus as vda here, and both may be there beside it. */
    disk->info.alias = STRPREFIX(disk->dst, "vd") ? g_strdup_printf("virtio-disk%d", idx)
                                                  : g_strdup_printf("virtio-disk-%s", disk->dst);
    return 0;
}

static void kumoAssignControllerAlias(virDomainControllerDef *cont)
{
    if (cont->info.alias)
        return;
    if (cont->type == VIR_DOMAIN_CONTROLLER_TYPE_PCI)
        cont->info.alias = g_strdup_printf("pci.%d", cont->idx);
    else
        cont->info.alias =
            g_strdup_printf("%s%d", virDomainControllerTypeToString(cont->type), cont->idx);
}

static void kumoAssignIndexed(virDomainDeviceInfo *info, const char *prefix, size_t idx)
{
    if (!info->alias)
        info->alias = g_strdup_printf("%s%zu", prefix, idx);
}

int kumoAssignDevice(virDomainDef *def, virDomainDeviceDef *dev)
{
    virDomainDeviceInfo *info = virDomainDeviceGetInfo(dev);
    kumoSlots slots = { .used = 1 };

    if (virDomainDeviceInfoIterate(def, kumoVisitDevice, &slots) < 0 ||
        kumoVisitDevice(def, dev, info, &slots) < 0)
        return -1;
    slots.assign = true;
    if (kumoVisitDevice(def, dev, info, &slots) < 0)
        return -1;

    if (dev->type == VIR_DOMAIN_DEVICE_DISK && kumoAssignDiskAlias(dev->data.disk) < 0)
        return -1;
    if (dev->type == VIR_DOMAIN_DEVICE_MEMORY)
        kumoAssignMemorySlot(def, dev->data.memory);
    if (dev->type == VIR_DOMAIN_DEVICE_NET || dev->type == VIR_DOMAIN_DEVICE_MEMORY) {
        const char *prefix = dev->type == VIR_DOMAIN_DEVICE_NET ? "net" : "dimm";

        /* Those that were there at the start may have gone: their numbers are free again. */
        for (size_t i = 0; !info->alias; i++) {
            g_autofree char *alias = g_strdup_printf("%s%zu", prefix, i);

            if (!kumoAliasIsTaken(def, alias))
                info->alias = g_steal_pointer(&alias);
        }
    }
    if (kumoAliasIsTaken(def, info->alias)) {
        virReportError(VIR_ERR_OPERATION_INVALID, _("a device with the alias '%s' already exists"),
                       info->alias);
        return -1;
    }
    return 0;
}

int kumoAssignAliases(virDomainDef *def)
{
    for (size_t i = 0; i < def->ndisks; i++) {
        if (kumoAssignDiskAlias(def->disks[i]) < 0)
            return -1;
    }
    for (size_t i = 0; i < def->ncontrollers; i++)
        kumoAssignControllerAlias(def->controllers[i]);
    for (size_t i = 0; i < def->nnets; i++)
        kumoAssignIndexed(&def->nets[i]->info, "net", i);
    for (size_t i = 0; i < def->nrngs; i++)
        kumoAssignIndexed(&def->rngs[i]->info, "rng", i);
    for (size_t i = 0; i < def->nserials; i++)
        kumoAssignIndexed(&def->serials[i]->info, "serial", i);
    for (size_t i = 0; i < def->ninputs; i++)
        kumoAssignIndexed(&def->inputs[i]->info, "input", i);
    for (size_t i = 0; i < def->nconsoles; i++) {
        virDomainChrDef *console = def->consoles[i];

        /* The first console is often the first serial port under another name. */
        if (!console->info.alias && i == 0 && def->nserials > 0 &&
            console->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_SERIAL)
            console->info.alias = g_strdup(def->serials[0]->info.alias);
        else
            kumoAssignIndexed(&console->info, "console", i);
    }
    for (size_t i = 0, nvirtio = 0, ndimms = 0; i < def->nmems; i++) {
        if (def->mems[i]->model == VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM)
            kumoAssignIndexed(&def->mems[i]->info, "virtiomem", nvirtio++);
        else
            kumoAssignIndexed(&def->mems[i]->info, "dimm", ndimms++);
    }
    if (def->memballoon && !def->memballoon->info.alias)
        def->memballoon->info.alias = g_strdup("balloon0");
    return 0;
}
