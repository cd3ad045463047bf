/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Snapshots in the VMM's state machine: a paused VM is written down, one that is not there comes
 * back. */
#include "vmm-core/vmm/vmm_snapshot.h"

#include <stdio.h>

#include "vmm-core/base/error.h"
#include "vmm-core/migration/snapshot.h"
#include "vmm-core/vmm/vmm_hotplug.h"
#include "vmm-core/vmm/vmm_machine.h"

/* Every device comes back in the slot that it is in now, in whatever order they came. */
static void keep_slots(KumoVmm *vmm, KumoVmConfig *config)
{
    const GPtrArray *devices = kumo_vm_machine(vmm->vm)->devices;

    for (guint i = 0; i < devices->len; i++) {
        KumoDevice *device = devices->pdata[i];
        g_autofree char *bdf = device->ops->pci_bdf ? device->ops->pci_bdf(device) : NULL;
        KumoPciCommon *pci = bdf ? kumo_vm_config_find_pci(config, device->id) : NULL;
        unsigned slot;

        if (pci && sscanf(bdf, "%*x:%*x:%x", &slot) == 1)
            pci->pci_device_id = (int)slot;
        if (device->ops->report && pci)
            device->ops->report(device, config);
    }
}

bool kumo_vmm_check_settled(KumoVmm *vmm, const char *what, GError **error)
{
    const GPtrArray *devices;

    if (kumo_vmm_request_is_pending(vmm)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_BUSY,
                    "cannot %s: the guest is about to reset or power off, resume it first", what);
        return false;
    }
    devices = kumo_vm_machine(vmm->vm)->devices;
    for (guint i = 0; i < devices->len; i++) {
        const KumoDevice *device = devices->pdata[i];

        if (!device->removal_asked)
            continue;
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_BUSY,
                    "cannot %s: the guest was asked to let %s go and has not yet", what,
                    device->id);
        return false;
    }
    return true;
}

json_t *kumo_vmm_saved_config(KumoVmm *vmm)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_copy(vmm->config);

    keep_slots(vmm, config);
    return kumo_vm_config_to_json(config);
}

bool kumo_vmm_snapshot(KumoVmm *vmm, const char *destination_url, GError **error)
{
    g_autofree char *directory = NULL;
    json_t *state, *config_json;
    bool ok;

    if (kumo_vmm_is_busy(vmm) || !vmm->vm || !vmm->paused)
        return kumo_vmm_refuse(vmm, "take a snapshot", error);
    kumo_vmm_finish_ejects(vmm);
    if (!kumo_vmm_check_settled(vmm, "take a snapshot", error))
        return false;
    directory = kumo_snapshot_directory("destination_url", destination_url, error);
    if (!directory)
        return false;
    kumo_vmm_event(vmm, "snapshotting", NULL);
    state = kumo_vm_save_state(vmm->vm, error);
    if (!state)
        return false;
    config_json = kumo_vmm_saved_config(vmm);
    ok =
        kumo_snapshot_write(directory, config_json, state, kumo_vm_machine(vmm->vm)->memory, error);
    json_decref(config_json);
    json_decref(state);
    if (ok)
        kumo_vmm_event(vmm, "snapshotted", NULL);
    return ok;
}

typedef struct {
    KumoVmm *vmm;
    const KumoSnapshot *snapshot;
    KumoRestoreMode mode;
} MemorySource;

/* On the thread that brings the pages. */
static void memory_is_whole(void *opaque)
{
    kumo_vmm_event(opaque, "memory-restored", NULL);
}

static void memory_failed(void *opaque, const GError *error)
{
    kumo_vmm_memory_lost(opaque, error);
}

static bool load_memory(void *opaque, KumoMemory *memory, GError **error)
{
    const MemorySource *source = opaque;
    const KumoMemoryDemandWatch watch = { memory_is_whole, memory_failed, source->vmm };

    return source->mode == KUMO_RESTORE_ON_DEMAND
               ? kumo_snapshot_serve_memory(source->snapshot, memory, &watch, error)
               : kumo_snapshot_load_memory(source->snapshot, memory, error);
}

static KumoVmConfig *read_config(const KumoSnapshot *snapshot, KumoRestoreConfig *restore,
                                 GError **error)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_from_json(snapshot->config, error);

    if (!config || !kumo_vm_config_validate(config, error)) {
        kumo_prefix_error(error, "snapshot %s/config.json", snapshot->directory);
        return NULL;
    }
    if (!kumo_restore_config_apply(restore, config, error))
        return NULL;
    return g_steal_pointer(&config);
}

/* Whether all pages are touched when the machine is built: as wanted for this time, or as @saved
 * says. */
static void set_prefault(KumoMemoryConfig *memory, const KumoRestoreConfig *restore,
                         const KumoMemoryConfig *saved)
{
    /* Pages that are there cannot be missing. */
    bool on_demand = restore->mode == KUMO_RESTORE_ON_DEMAND;

    if (saved)
        memory->prefault = saved->prefault;
    else
        memory->prefault = !on_demand && (memory->prefault || restore->prefault);
    for (guint i = 0; i < memory->zones->len; i++) {
        KumoMemoryZoneConfig *zone = memory->zones->pdata[i];

        if (saved)
            zone->prefault = ((const KumoMemoryZoneConfig *)saved->zones->pdata[i])->prefault;
        else
            zone->prefault = !on_demand && (zone->prefault || restore->prefault);
    }
}

bool kumo_vmm_restore(KumoVmm *vmm, KumoRestoreConfig *restore_config, GError **error)
{
    g_autoptr(KumoRestoreConfig) restore = restore_config;
    g_autofree char *directory = NULL;
    g_autoptr(KumoSnapshot) snapshot = NULL;
    g_autoptr(KumoVmConfig) saved = NULL;
    MemorySource source;
    KumoVmRestore from = { .load_memory = load_memory, .opaque = &source };
    KumoVmmArrival arrival = { 0 };
    KumoVmConfig *config;

    if (kumo_vmm_is_busy(vmm) || vmm->config)
        return kumo_vmm_refuse(vmm, "restore a VM", error);
    directory = kumo_snapshot_directory("source_url", restore->source_url, error);
    if (!directory)
        return false;
    kumo_vmm_event(vmm, "restoring", NULL);
    snapshot = kumo_snapshot_open(directory, error);
    config = snapshot ? read_config(snapshot, restore, error) : NULL;
    if (!config)
        return false;
    source = (MemorySource){ vmm, snapshot, restore->mode };
    from.state = snapshot->state;
    saved = kumo_vm_config_copy(config);
    set_prefault(&config->memory, restore, NULL);
    arrival.memory_on_demand = restore->mode == KUMO_RESTORE_ON_DEMAND;
    if (!kumo_vmm_adopt(vmm, config, &arrival, error))
        return false;
    if (!kumo_vmm_build_machine(vmm, &from, error)) {
        kumo_vmm_forget(vmm);
        return false;
    }
    set_prefault(&vmm->config->memory, restore, &saved->memory);
    kumo_vmm_event(vmm, "restored", NULL);
    return !restore->resume || kumo_vmm_resume(vmm, error);
}
