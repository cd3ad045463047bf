/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that the guest is asked to take or to give: by virtio-mem, for each zone, and by the
 * balloon. The configuration says what is asked for, the devices what the guest did.
 */
#include "vmm-core/vmm/vmm_memory.h"

#include <inttypes.h>

#include "vmm-core/base/error.h"

/* A number of the configuration that a resize changes; @zone NULL: there are none. */
typedef uint64_t *(*Member)(KumoVmConfig *config, const char *zone);

static uint64_t *plugged_member(KumoVmConfig *config, const char *zone)
{
    return zone ? &kumo_memory_config_find_zone(&config->memory, zone)->virtio_mem.plugged_bytes
                : &config->memory.virtio_mem.plugged_bytes;
}

static uint64_t *size_member(KumoVmConfig *config, const char *zone)
{
    return zone ? &kumo_memory_config_find_zone(&config->memory, zone)->size_bytes
                : &config->memory.size_bytes;
}

static uint64_t *balloon_member(KumoVmConfig *config, const char *zone)
{
    return &config->balloon.size_bytes;
}

/* Would the configuration still be one? */
static bool check_change(const KumoVmm *vmm, const char *field, Member member, const char *zone,
                         uint64_t value, uint64_t wanted, GError **error)
{
    uint64_t *at = member(vmm->config, zone);
    uint64_t old = *at;
    bool ok;

    *at = value;
    ok = kumo_vm_config_check_memory(vmm->config, error);
    *at = old;
    if (!ok)
        kumo_prefix_error(error, "%s: %" PRIu64, field, wanted);
    return ok;
}

/* Tells the device @id of the machine, if there is one; then the configuration. */
static bool carry_out(KumoVmm *vmm, const char *field, const char *id, Member member,
                      const char *zone, uint64_t value, GError **error)
{
    if (vmm->vm) {
        KumoDevice *device = kumo_device_find(kumo_vm_machine(vmm->vm), id);

        if (!device || !device->ops->resize) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "%s: the machine has no device %s", field, id);
            return false;
        }
        if (!device->ops->resize(device, value, error)) {
            kumo_prefix_error(error, "%s: %s", field, id);
            return false;
        }
    }
    *member(vmm->config, zone) = value;
    return true;
}

/* --- virtio-mem --- */

/* A zone, or all memory, that is to have @wanted bytes. */
typedef struct {
    const char *zone; /* NULL: there are none */
    uint64_t boot_bytes, hotplug_bytes;
} Target;

static bool check_target(const KumoVmm *vmm, const Target *target, uint64_t wanted, GError **error)
{
    if (!vmm->vm)
        return check_change(vmm, "desired_ram", size_member, target->zone, wanted, wanted, error);
    if (!target->hotplug_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "desired_ram: %" PRIu64 ": %s has no hotplug_size", wanted,
                    target->zone ? target->zone : "memory");
        return false;
    }
    if (wanted < target->boot_bytes || wanted - target->boot_bytes > target->hotplug_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "desired_ram: %" PRIu64 " is not allowed, must be from the size at boot, "
                    "%" PRIu64 ", to %" PRIu64 ", that and hotplug_size",
                    wanted, target->boot_bytes, target->boot_bytes + target->hotplug_bytes);
        return false;
    }
    return check_change(vmm, "desired_ram", plugged_member, target->zone,
                        wanted - target->boot_bytes, wanted, error);
}

static bool set_target(KumoVmm *vmm, const Target *target, uint64_t wanted, GError **error)
{
    const char *id = target->zone ? target->zone : KUMO_MEMORY_ID;

    if (!vmm->vm)
        return carry_out(vmm, "desired_ram", id, size_member, target->zone, wanted, error);
    return carry_out(vmm, "desired_ram", id, plugged_member, target->zone,
                     wanted - target->boot_bytes, error);
}

static Target all_memory(const KumoVmm *vmm)
{
    const KumoMemoryConfig *memory = &vmm->config->memory;

    return (Target){ NULL, memory->size_bytes, memory->hotplug_size_bytes };
}

bool kumo_vmm_check_virtio_mem(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error)
{
    Target target = all_memory(vmm);

    return check_target(vmm, &target, wanted_bytes, error);
}

bool kumo_vmm_set_virtio_mem(KumoVmm *vmm, uint64_t wanted_bytes, GError **error)
{
    Target target = all_memory(vmm);

    return set_target(vmm, &target, wanted_bytes, error);
}

bool kumo_vmm_resize_zone(KumoVmm *vmm, const char *id, uint64_t wanted_bytes, GError **error)
{
    const KumoMemoryZoneConfig *zone;
    Target target;

    if (kumo_vmm_is_busy(vmm) || !vmm->config)
        return kumo_vmm_refuse(vmm, "resize a memory zone", error);
    zone = kumo_memory_config_find_zone(&vmm->config->memory, id);
    if (!zone) {
        g_autofree char *shown = g_utf8_make_valid(id, -1);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "%.*s: the VM has no such memory zone",
                    KUMO_ID_MAX, shown);
        return false;
    }
    target = (Target){ zone->id, zone->size_bytes, zone->hotplug_size_bytes };
    if (!check_target(vmm, &target, wanted_bytes, error))
        return false;
    if (!vmm->vm)
        return set_target(vmm, &target, wanted_bytes, error);
    kumo_vmm_event(vmm, "resizing", NULL);
    if (!set_target(vmm, &target, wanted_bytes, error))
        return false;
    kumo_vmm_event(vmm, "resized", NULL);
    return true;
}

/* --- the balloon --- */

bool kumo_vmm_check_balloon(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error)
{
    if (!vmm->config->has_balloon) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "desired_balloon: %" PRIu64 ": the VM has no balloon", wanted_bytes);
        return false;
    }
    return check_change(vmm, "desired_balloon", balloon_member, NULL, wanted_bytes, wanted_bytes,
                        error);
}

bool kumo_vmm_set_balloon(KumoVmm *vmm, uint64_t wanted_bytes, GError **error)
{
    return carry_out(vmm, "desired_balloon", vmm->config->balloon.pci.id, balloon_member, NULL,
                     wanted_bytes, error);
}

/* --- what there is --- */

uint64_t kumo_vmm_actual_memory(const KumoVmm *vmm)
{
    int64_t bytes;
    const GPtrArray *devices;

    if (!vmm->vm)
        return kumo_memory_config_wanted(&vmm->config->memory);
    bytes = (int64_t)kumo_vm_ram_bytes(vmm->vm);
    devices = kumo_vm_machine(vmm->vm)->devices;
    for (guint i = 0; i < devices->len; i++) {
        KumoDevice *device = devices->pdata[i];

        if (device->ops->memory_bytes)
            bytes += device->ops->memory_bytes(device);
    }
    /* The guest's word about the balloon counts for no more than there is. */
    return bytes > 0 ? (uint64_t)bytes : 0;
}
