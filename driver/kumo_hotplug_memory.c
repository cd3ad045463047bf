/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_hotplug_memory.h"

#include "domain-xml/xml.h"
#include "domain_audit.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_memory.h"
#include "driver/kumo_monitor.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_hotplug_memory");

static int kumoHotplugCheckModule(const virDomainObj *vm, const virDomainMemoryDef *mem)
{
    const virDomainDef *def = vm->def;
    size_t modules = 0;

    if (mem->model != VIR_DOMAIN_MEMORY_MODEL_DIMM) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("a memory device of model '%s' cannot be added to a running domain, only "
                         "to its definition"),
                       virDomainMemoryModelTypeToString(mem->model));
        return -1;
    }
    if (kumo_xml_has_zones(def)) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("a memory module cannot be added to a running domain with NUMA nodes, "
                         "with memory on a node of the host or in a file, or with virtio-mem"));
        return -1;
    }
    if (mem->size % KUMO_MEMORY_PIECE_KIB) {
        virReportError(
            VIR_ERR_CONFIG_UNSUPPORTED,
            _("a memory module of %llu KiB cannot be added to a running domain, its size "
              "has to be a multiple of 128 MiB"),
            mem->size);
        return -1;
    }
    for (size_t i = 0; i < def->nmems; i++)
        modules += def->mems[i]->model == VIR_DOMAIN_MEMORY_MODEL_DIMM;
    if (modules >= def->mem.memory_slots) {
        virReportError(VIR_ERR_OPERATION_INVALID, _("all %u memory slots of the domain are in use"),
                       def->mem.memory_slots);
        return -1;
    }
    return 0;
}

int kumoHotplugAttachMemory(virDomainObj *vm, virDomainDeviceDef *dev)
{
    virDomainMemoryDef *mem = dev->data.memory;
    unsigned long long before = virDomainDefGetMemoryTotal(vm->def);
    kumoMonitor *mon;
    int rc;

    if (kumoHotplugCheckModule(vm, mem) < 0 || kumoAssignDevice(vm->def, dev) < 0)
        return -1;

    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorResizeRam(mon, (before + mem->size) * 1024);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        rc = -1;
    virDomainAuditMemory(vm, before, before + mem->size, "update", rc == 0);
    if (rc < 0 || virDomainMemoryInsert(vm->def, mem) < 0)
        return -1;
    dev->data.memory = NULL;
    /* It is not the balloon that has it. */
    vm->def->mem.cur_balloon += mem->size;
    return 0;
}

static int kumoHotplugCheckChange(const virDomainMemoryDef *old, const virDomainMemoryDef *new)
{
    const struct {
        bool differs;
        const char *what;
    } items[] = {
        { old->model != new->model, "the model" },
        { old->size != new->size, "the size" },
        { new->targetNode >= 0 && old->targetNode != new->targetNode, "the node" },
        { kumoMemoryBlock(old) != kumoMemoryBlock(new), "the size of the blocks" },
        { new->access && old->access != new->access, "the access" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(items); i++) {
        if (!items[i].differs)
            continue;
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("cannot modify %s of device '%s' while the domain runs"), items[i].what,
                       old->info.alias);
        return -1;
    }
    return 0;
}

int kumoHotplugUpdateMemory(virDomainObj *vm, const virDomainMemoryDef *new)
{
    virDomainDeviceInfo *info = (virDomainDeviceInfo *)&new->info;
    virDomainMemoryDef *old = virDomainMemoryFindByDeviceInfo(vm->def, info, NULL);
    unsigned long long bytes;
    g_autofree char *zone = NULL;
    int cell;
    kumoMonitor *mon;
    int rc;

    if (!old) {
        virReportError(VIR_ERR_DEVICE_MISSING, "%s", _("memory device not found"));
        return -1;
    }
    if (old->model != VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, _("cannot modify memory of model '%s'"),
                       virDomainMemoryModelTypeToString(old->model));
        return -1;
    }
    if (kumoHotplugCheckChange(old, new) < 0)
        return -1;

    cell = kumoMemoryCell(vm->def, old);
    zone = kumo_xml_zone_id(vm->def, cell);
    bytes = (kumo_xml_zone_kib(vm->def, cell) + kumoMemoryRequested(new)) * 1024;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorResizeZone(mon, zone, bytes);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    /* The domain may have lost and got devices while it was not locked, but not this kind. */
    kumoMemorySetRequested(old, kumoMemoryRequested(new));
    return 0;
}

void kumoHotplugRefreshMemory(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    json_t *counters = NULL;
    bool changed = false;
    kumoMonitor *mon;
    int rc;

    if (kumoMemoryVirtioMemTotal(vm->def) == 0)
        return;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorGetCounters(mon, &counters);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0) {
        g_clear_pointer(&counters, json_decref);
        return;
    }

    for (size_t i = 0; i < vm->def->nmems; i++) {
        virDomainMemoryDef *mem = vm->def->mems[i];
        json_t *device;
        unsigned long long kib;

        if (mem->model != VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM ||
            !(device = json_object_get(counters, mem->info.alias)))
            continue;
        kib =
            (unsigned long long)json_integer_value(json_object_get(device, "plugged_bytes")) / 1024;
        if (kib == kumoMemoryCurrent(mem))
            continue;
        kumoMemorySetCurrent(mem, kib);
        changed = true;
        virObjectEventStateQueue(
            priv->driver->events,
            virDomainEventMemoryDeviceSizeChangeNewFromObj(vm, mem->info.alias, kib));
    }
    json_decref(counters);
    if (changed)
        kumoDomainSaveStatus(vm);
}
