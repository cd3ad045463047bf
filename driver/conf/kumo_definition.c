/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_definition.h"

#include "domain_postparse.h"
#include "domain_validate.h"
#include "viralloc.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static int kumoDefinitionRefuse(const char *what, virDomainDeviceType type)
{
    virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                   _("persistent %s of device '%s' is not supported"), what,
                   virDomainDeviceTypeToString(type));
    return -1;
}

int kumoDefinitionSettle(kumoDriver *driver, virDomainDef *def, unsigned int parseFlags)
{
    if (virDomainDefPostParse(def, parseFlags, driver->xmlopt, NULL) < 0)
        return -1;
    return virDomainDefValidate(def, parseFlags, driver->xmlopt, NULL);
}

static int kumoDefinitionAttachController(virDomainDef *def, virDomainDeviceDef *dev)
{
    virDomainControllerDef *controller = dev->data.controller;

    if (controller->idx != -1 &&
        virDomainControllerFind(def, controller->type, controller->idx) >= 0) {
        virReportError(VIR_ERR_OPERATION_INVALID, _("controller index='%d' already exists"),
                       controller->idx);
        return -1;
    }
    virDomainControllerInsert(def, g_steal_pointer(&dev->data.controller));
    return 0;
}

int kumoDefinitionAttach(kumoDriver *driver, virDomainDef *def, virDomainDeviceDef *dev,
                         unsigned int parseFlags)
{
    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        if (virDomainDiskIndexByName(def, dev->data.disk->dst, true) >= 0) {
            virReportError(VIR_ERR_OPERATION_INVALID, _("target %s already exists"),
                           dev->data.disk->dst);
            return -1;
        }
        virDomainDiskInsert(def, g_steal_pointer(&dev->data.disk));
        break;
    case VIR_DOMAIN_DEVICE_NET:
        if (kumoCompatNetInsert(def, dev->data.net) < 0)
            return -1;
        dev->data.net = NULL;
        break;
    case VIR_DOMAIN_DEVICE_CONTROLLER:
        if (kumoDefinitionAttachController(def, dev) < 0)
            return -1;
        break;
    case VIR_DOMAIN_DEVICE_MEMORY:
        if (virDomainMemoryInsert(def, dev->data.memory) < 0)
            return -1;
        def->mem.cur_balloon += dev->data.memory->size;
        dev->data.memory = NULL;
        break;
    case VIR_DOMAIN_DEVICE_RNG:
        VIR_APPEND_ELEMENT(def->rngs, def->nrngs, dev->data.rng);
        break;
    default:
        return kumoDefinitionRefuse("attach", dev->type);
    }
    return kumoDefinitionSettle(driver, def, parseFlags);
}

/* Returns -1 with the error reported if there is no such device. */
static int kumoDefinitionTake(virDomainDef *def, const virDomainDeviceDef *dev)
{
    virDomainMemoryDef *memory;
    virDomainDiskDef *disk;
    int idx;

    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        if (!(disk = virDomainDiskRemoveByName(def, dev->data.disk->dst))) {
            virReportError(VIR_ERR_DEVICE_MISSING, _("no target device %s"), dev->data.disk->dst);
            return -1;
        }
        virDomainDiskDefFree(disk);
        return 0;
    case VIR_DOMAIN_DEVICE_NET:
        if ((idx = virDomainNetFindIdx(def, dev->data.net)) < 0)
            return -1;
        virDomainNetDefFree(virDomainNetRemove(def, (size_t)idx));
        return 0;
    case VIR_DOMAIN_DEVICE_CONTROLLER:
        if ((idx = virDomainControllerFind(def, dev->data.controller->type,
                                           dev->data.controller->idx)) < 0)
            break;
        virDomainControllerDefFree(virDomainControllerRemove(def, (size_t)idx));
        return 0;
    case VIR_DOMAIN_DEVICE_MEMORY:
        if ((idx = virDomainMemoryFindInactiveByDef(def, dev->data.memory)) < 0)
            break;
        memory = virDomainMemoryRemove(def, idx);
        def->mem.cur_balloon -= MIN(memory->size, def->mem.cur_balloon);
        virDomainMemoryDefFree(memory);
        return 0;
    case VIR_DOMAIN_DEVICE_RNG:
        if ((idx = virDomainRNGFind(def, dev->data.rng)) < 0)
            break;
        virDomainRNGDefFree(virDomainRNGRemove(def, (size_t)idx));
        return 0;
    default:
        return kumoDefinitionRefuse("detach", dev->type);
    }
    virReportError(VIR_ERR_DEVICE_MISSING, "%s", _("device not present in domain configuration"));
    return -1;
}

int kumoDefinitionDetach(kumoDriver *driver, virDomainDef *def, const virDomainDeviceDef *dev,
                         unsigned int parseFlags)
{
    if (kumoDefinitionTake(def, dev) < 0)
        return -1;
    return kumoDefinitionSettle(driver, def, parseFlags);
}

int kumoDefinitionSetVcpus(virDomainDef *def, unsigned int vcpus)
{
    if (virDomainDefSetVcpus(def, vcpus) < 0)
        return -1;
    for (unsigned int i = 0; i < virDomainDefGetVcpusMax(def); i++) {
        /* libvirt takes no definition where one that cannot come is off. */
        if (!def->vcpus[i]->online)
            def->vcpus[i]->hotpluggable = VIR_TRISTATE_BOOL_YES;
    }
    return 0;
}

static int kumoDefinitionUpdateDisk(virDomainDef *def, virDomainDeviceDef *dev)
{
    virDomainDeviceDef old = { .type = dev->type };
    int idx = virDomainDiskIndexByName(def, dev->data.disk->dst, false);

    if (idx < 0) {
        virReportError(VIR_ERR_INVALID_ARG, _("target %s does not exist"), dev->data.disk->dst);
        return -1;
    }
    old.data.disk = def->disks[idx];
    if (virDomainDefCompatibleDevice(def, dev, &old, VIR_DOMAIN_DEVICE_ACTION_UPDATE, false) < 0)
        return -1;
    def->disks[idx] = g_steal_pointer(&dev->data.disk);
    virDomainDiskDefFree(old.data.disk);
    return 0;
}

static int kumoDefinitionUpdateNet(virDomainDef *def, virDomainDeviceDef *dev)
{
    virDomainDeviceDef old = { .type = dev->type };
    int idx = virDomainNetFindIdx(def, dev->data.net);

    if (idx < 0)
        return -1;
    old.data.net = def->nets[idx];
    if (virDomainDefCompatibleDevice(def, dev, &old, VIR_DOMAIN_DEVICE_ACTION_UPDATE, false) < 0 ||
        kumoCompatNetUpdate(def, (size_t)idx, dev->data.net) < 0)
        return -1;
    dev->data.net = NULL;
    virDomainNetDefFree(old.data.net);
    return 0;
}

static int kumoDefinitionUpdateMemory(virDomainDef *def, virDomainDeviceDef *dev)
{
    virDomainMemoryDef *new = dev->data.memory;
    virDomainMemoryDef *old;
    int idx = 0;

    if (!(old = virDomainMemoryFindByDeviceInfo(def, &new->info, &idx))) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("memory device not found"));
        return -1;
    }
    virDomainDefSetMemoryTotal(def, virDomainDefGetMemoryTotal(def) - old->size + new->size);
    def->mems[idx] = g_steal_pointer(&dev->data.memory);
    virDomainMemoryDefFree(old);
    return 0;
}

int kumoDefinitionUpdate(kumoDriver *driver, virDomainDef *def, virDomainDeviceDef *dev,
                         unsigned int parseFlags)
{
    int rc;

    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        rc = kumoDefinitionUpdateDisk(def, dev);
        break;
    case VIR_DOMAIN_DEVICE_NET:
        rc = kumoDefinitionUpdateNet(def, dev);
        break;
    case VIR_DOMAIN_DEVICE_MEMORY:
        rc = kumoDefinitionUpdateMemory(def, dev);
        break;
    default:
        return kumoDefinitionRefuse("update", dev->type);
    }
    return rc < 0 ? -1 : kumoDefinitionSettle(driver, def, parseFlags);
}
