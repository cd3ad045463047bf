/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/vmm/vmm.h"

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/vmm/vmm_hotplug.h"
#include "vmm-core/vmm/vmm_machine.h"
#include "vmm-core/vmm/vmm_memory.h"
#include "vmm-core/vmm/vmm_migration.h"
#include "vmm-core/vmm/vmm_recover.h"

/* Wakes the main loop for what the machine asked for. */
typedef struct {
    GSource base;
    KumoVmm *vmm;
} RequestSource;

static void vmm_event(KumoVmm *vmm, const char *event)
{
    kumo_vmm_event(vmm, event, NULL);
}

static void stop_vm(KumoVmm *vmm)
{
    kumo_vmm_drop_machine(vmm);
    kumo_vmm_close_consoles(vmm);
    vmm_event(vmm, "shutdown");
}

/* Whoever stays for the next boot (--no-shutdown) stays at the consoles, too: a reader that is at
 * one meanwhile reads on. */
static void guest_ended(KumoVmm *vmm)
{
    if (!vmm->params.no_shutdown) {
        stop_vm(vmm);
        return;
    }
    kumo_vmm_drop_machine(vmm);
    vmm_event(vmm, "shutdown");
}

static bool restart_vm(KumoVmm *vmm, GError **error)
{
    vmm_event(vmm, "rebooting");
    kumo_vmm_drop_machine(vmm);
    if (!kumo_vmm_build_machine(vmm, NULL, error)) {
        kumo_prefix_error(error, "reboot");
        stop_vm(vmm);
        return false;
    }
    vmm_event(vmm, "rebooted");
    return true;
}

/* --- what the machine asks for --- */

static void handle_request(KumoVmm *vmm, KumoMachineRequest request)
{
    g_autoptr(GError) error = NULL;
    bool failed = request == KUMO_MACHINE_REQUEST_FAILED;

    if (request == KUMO_MACHINE_REQUEST_RESET) {
        if (restart_vm(vmm, &error))
            return;
        kumo_error("%s", error->message);
        failed = true;
    } else {
        guest_ended(vmm);
    }
    if (!vmm->params.no_shutdown)
        kumo_vmm_ask_quit(vmm, failed);
}

/* What a paused guest asked for waits until it runs again: a pause freezes all of it. */
static bool may_handle_request(KumoVmm *vmm)
{
    return vmm->vm && !vmm->paused && atomic_load(&vmm->request) != KUMO_VMM_NO_REQUEST;
}

static gboolean source_check(GSource *base)
{
    KumoVmm *vmm = ((RequestSource *)base)->vmm;

    if (kumo_vmm_memory_is_lost() && !vmm->quit_asked)
        return TRUE;
    if (kumo_vmm_is_to_strand() || kumo_vmm_is_to_unstrand(vmm))
        return TRUE;
    if (vmm->stranded)
        return FALSE;
    /* What the guest asks for while it is sent away ends the migration, and is done then. */
    if (vmm->migration) {
        if (may_handle_request(vmm))
            kumo_vmm_disturb_migration(vmm);
        return FALSE;
    }
    return may_handle_request(vmm) || (vmm->vm && atomic_load(&vmm->ejected));
}

static gboolean source_prepare(GSource *base, int *timeout)
{
    *timeout = -1;
    return source_check(base);
}

static gboolean source_dispatch(GSource *base, GSourceFunc callback, gpointer user_data)
{
    KumoVmm *vmm = ((RequestSource *)base)->vmm;

    if (kumo_vmm_memory_is_lost()) {
        kumo_vmm_ask_quit(vmm, true);
        return G_SOURCE_CONTINUE;
    }
    if (kumo_vmm_is_to_strand()) {
        kumo_vmm_finish_strand(vmm);
        return G_SOURCE_CONTINUE;
    }
    if (kumo_vmm_is_to_unstrand(vmm)) {
        kumo_vmm_unstrand(vmm);
        return G_SOURCE_CONTINUE;
    }
    kumo_vmm_finish_ejects(vmm);
    if (may_handle_request(vmm))
        handle_request(vmm,
                       (KumoMachineRequest)atomic_exchange(&vmm->request, KUMO_VMM_NO_REQUEST));
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

/* --- life of the VMM --- */

KumoVmm *kumo_vmm_new(const KumoVmmParams *params)
{
    KumoVmm *vmm = g_new0(KumoVmm, 1);

    vmm->params = *params;
    atomic_store(&vmm->request, KUMO_VMM_NO_REQUEST);
    vmm->source = g_source_new(&source_funcs, sizeof(RequestSource));
    ((RequestSource *)vmm->source)->vmm = vmm;
    g_source_attach(vmm->source, NULL);
    return vmm;
}

void kumo_vmm_free(KumoVmm *vmm)
{
    if (!vmm)
        return;
    kumo_vmm_end_migration(vmm);
    if (vmm->vm)
        stop_vm(vmm);
    kumo_vmm_close_consoles(vmm);
    g_source_destroy(vmm->source);
    g_source_unref(vmm->source);
    g_clear_pointer(&vmm->config, kumo_vm_config_free);
    json_decref(vmm->last_sent);
    if (vmm->hv)
        vmm->hv->ops->close(vmm->hv);
    g_free(vmm);
}

/* --- state machine --- */

bool kumo_vmm_create(KumoVmm *vmm, KumoVmConfig *config, GError **error)
{
    g_autoptr(KumoVmConfig) owned = config;

    if (vmm->migration)
        return kumo_vmm_refuse(vmm, "create the VM", error);
    if (vmm->config) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE,
                    "cannot create the VM: there is one in the state %s", kumo_vmm_state_name(vmm));
        return false;
    }
    return kumo_vmm_adopt(vmm, g_steal_pointer(&owned), NULL, error);
}

bool kumo_vmm_boot(KumoVmm *vmm, GError **error)
{
    if (kumo_vmm_is_busy(vmm) || !vmm->config || vmm->vm)
        return kumo_vmm_refuse(vmm, "boot", error);
    vmm_event(vmm, "booting");
    if (!kumo_vmm_build_machine(vmm, NULL, error))
        return false;
    vmm_event(vmm, "booted");
    return true;
}

bool kumo_vmm_pause(KumoVmm *vmm, GError **error)
{
    if (kumo_vmm_is_busy(vmm) || !vmm->vm || vmm->paused)
        return kumo_vmm_refuse(vmm, "pause", error);
    return kumo_vmm_pause_machine(vmm, error);
}

bool kumo_vmm_resume(KumoVmm *vmm, GError **error)
{
    if (kumo_vmm_is_busy(vmm) || !vmm->vm || !vmm->paused)
        return kumo_vmm_refuse(vmm, "resume", error);
    return kumo_vmm_resume_machine(vmm, error);
}

bool kumo_vmm_shutdown(KumoVmm *vmm, GError **error)
{
    kumo_vmm_give_up_recovery(vmm);
    if (vmm->migration || !vmm->vm)
        return kumo_vmm_refuse(vmm, "shut down", error);
    stop_vm(vmm);
    return true;
}

bool kumo_vmm_reboot(KumoVmm *vmm, GError **error)
{
    if (kumo_vmm_is_busy(vmm) || !vmm->vm)
        return kumo_vmm_refuse(vmm, "reboot", error);
    return restart_vm(vmm, error);
}

bool kumo_vmm_delete(KumoVmm *vmm, GError **error)
{
    kumo_vmm_give_up_recovery(vmm);
    if (vmm->migration || !vmm->config)
        return kumo_vmm_refuse(vmm, "delete", error);
    if (vmm->vm)
        stop_vm(vmm);
    kumo_vmm_close_consoles(vmm);
    g_clear_pointer(&vmm->config, kumo_vm_config_free);
    vmm_event(vmm, "deleted");
    return true;
}

bool kumo_vmm_power_button(KumoVmm *vmm, GError **error)
{
    KumoMachine *machine;

    if (kumo_vmm_is_busy(vmm) || !vmm->vm)
        return kumo_vmm_refuse(vmm, "press the power button", error);
    machine = kumo_vm_machine(vmm->vm);
    if (!machine->acpi_notify) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "the machine has no power button");
        return false;
    }
    machine->acpi_notify(machine->acpi_notify_opaque, KUMO_ACPI_NOTIFY_POWER_BUTTON);
    return true;
}

bool kumo_vmm_nmi(KumoVmm *vmm, GError **error)
{
    if (kumo_vmm_is_busy(vmm) || !vmm->vm)
        return kumo_vmm_refuse(vmm, "send an NMI", error);
    return kumo_vm_nmi(vmm->vm, vmm->paused, error);
}

void kumo_vmm_quit(KumoVmm *vmm)
{
    kumo_vmm_end_migration(vmm);
    if (vmm->vm)
        stop_vm(vmm);
    kumo_vmm_ask_quit(vmm, false);
}

void kumo_vmm_console_resized(KumoVmm *vmm)
{
    GPtrArray *devices;

    if (!vmm->vm || kumo_vmm_is_receiving(vmm))
        return;
    devices = kumo_vm_machine(vmm->vm)->devices;
    for (unsigned i = 0; i < devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(devices, i);

        if (device->ops->console_resized)
            device->ops->console_resized(device);
    }
}

/* --- what the API shows --- */

json_t *kumo_vmm_info(KumoVmm *vmm, GError **error)
{
    g_autoptr(KumoVmConfig) config = NULL;
    json_t *info, *following;

    if (!vmm->config || kumo_vmm_is_receiving(vmm)) {
        kumo_vmm_refuse(vmm, "describe the VM", error);
        return NULL;
    }
    config = kumo_vm_config_copy(vmm->config);
    if (vmm->vm) {
        GPtrArray *devices = kumo_vm_machine(vmm->vm)->devices;

        for (unsigned i = 0; i < devices->len; i++) {
            KumoDevice *device = g_ptr_array_index(devices, i);

            if (device->ops->report)
                device->ops->report(device, config);
        }
    }
    info = json_pack("{s:o, s:s, s:I}", "config", kumo_vm_config_to_json(config), "state",
                     kumo_vmm_state_name(vmm), "memory_actual_size",
                     (json_int_t)kumo_vmm_actual_memory(vmm));
    if (vmm->vm)
        json_object_set_new(info, "device_tree", kumo_vm_device_tree(vmm->vm));
    following = kumo_vmm_describe_following(vmm);
    if (following)
        json_object_set_new(info, "postcopy", following);
    return info;
}

json_t *kumo_vmm_counters(KumoVmm *vmm, GError **error)
{
    json_t *counters;
    GPtrArray *devices;

    if (!vmm->vm || kumo_vmm_is_receiving(vmm)) {
        kumo_vmm_refuse(vmm, "read counters", error);
        return NULL;
    }
    counters = json_object();
    devices = kumo_vm_machine(vmm->vm)->devices;
    for (unsigned i = 0; i < devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(devices, i);
        json_t *values = device->ops->counters ? device->ops->counters(device) : NULL;

        if (values)
            json_object_set_new(counters, device->id, values);
    }
    return counters;
}
