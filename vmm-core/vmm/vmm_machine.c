/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/vmm/vmm_machine.h"

#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/vmm/vmm_hotplug.h"

static bool open_consoles(KumoVmm *vmm, GError **error)
{
    if (vmm->consoles || !vmm->params.consoles_open)
        return true;
    vmm->consoles = vmm->params.consoles_open(vmm->config, error);
    return vmm->consoles != NULL;
}

void kumo_vmm_close_consoles(KumoVmm *vmm)
{
    if (vmm->consoles)
        vmm->params.consoles_close(g_steal_pointer(&vmm->consoles));
}

static bool open_hypervisor(KumoVmm *vmm, GError **error)
{
    g_autoptr(GString) tried = g_string_new(NULL);

    if (vmm->hv)
        return true;
    for (const KumoHvOps *const *ops = vmm->params.backends; *ops; ops++) {
        if (access((*ops)->device_path, F_OK) == 0) {
            vmm->hv = (*ops)->open(error);
            return vmm->hv != NULL;
        }
        g_string_append_printf(tried, "%s%s", tried->len ? ", " : "", (*ops)->device_path);
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "no hypervisor: this host has no %s",
                tried->str);
    return false;
}

static void machine_request(void *opaque, KumoMachineRequest request)
{
    KumoVmm *vmm = opaque;
    int none = KUMO_VMM_NO_REQUEST;

    atomic_compare_exchange_strong(&vmm->request, &none, (int)request);
    g_main_context_wakeup(NULL);
}

static void device_ejected(void *opaque)
{
    KumoVmm *vmm = opaque;

    atomic_store(&vmm->ejected, true);
    g_main_context_wakeup(NULL);
}

static bool build_vm(KumoVmm *vmm, const KumoVmRestore *restore, GError **error)
{
    const KumoVmParams params = {
        .arch = vmm->params.arch,
        .device_types = vmm->params.device_types,
        .config = vmm->config,
        .consoles = vmm->consoles,
        .restore = restore,
        .request = machine_request,
        .request_opaque = vmm,
        .device_ejected = device_ejected,
        .event = vmm->params.event,
        .hv = vmm->hv,
    };

    atomic_store(&vmm->request, KUMO_VMM_NO_REQUEST);
    atomic_store(&vmm->ejected, false);
    vmm->vm = kumo_vm_new(&params, error);
    vmm->paused = false;
    if (!vmm->vm)
        return false;
    kumo_vmm_keep_reports(vmm);
    vmm->paused = restore != NULL;
    if (!restore)
        kumo_vm_start(vmm->vm);
    return true;
}

void kumo_vmm_drop_machine(KumoVmm *vmm)
{
    json_t *leaving = kumo_vmm_take_leaving(vmm);

    if (vmm->vm)
        kumo_vmm_keep_reports(vmm);
    if (vmm->stranded && vmm->vm && kumo_memory_is_incomplete(kumo_vm_machine(vmm->vm)->memory))
        kumo_vmm_expect_hang();
    g_clear_pointer(&vmm->vm, kumo_vm_free);
    kumo_vmm_memory_gone();
    kumo_vmm_finish_strand(vmm);
    g_clear_pointer(&vmm->stranded, g_free);
    vmm->broken = false;
    vmm->memory_followed = false;
    vmm->unlocked = false;
    vmm->paused = false;
    /* Nobody is left who could ask. */
    atomic_store(&vmm->request, KUMO_VMM_NO_REQUEST);
    kumo_vmm_drop_leaving(vmm, leaving);
}

bool kumo_vmm_build_machine(KumoVmm *vmm, const KumoVmRestore *restore, GError **error)
{
    return open_hypervisor(vmm, error) && open_consoles(vmm, error) &&
           build_vm(vmm, restore, error);
}

bool kumo_vmm_adopt(KumoVmm *vmm, KumoVmConfig *config, const KumoVmmArrival *arrival,
                    GError **error)
{
    g_autoptr(KumoVmConfig) owned = config;

    if (!kumo_vm_config_validate(owned, error))
        return false;
    vmm->config = g_steal_pointer(&owned);
    if (open_consoles(vmm, error) && kumo_vmm_confine(vmm, arrival, error))
        return true;
    kumo_vmm_forget(vmm);
    return false;
}

void kumo_vmm_forget(KumoVmm *vmm)
{
    kumo_vmm_close_consoles(vmm);
    g_clear_pointer(&vmm->config, kumo_vm_config_free);
}

bool kumo_vmm_pause_machine(KumoVmm *vmm, GError **error)
{
    kumo_vmm_event(vmm, "pausing", NULL);
    if (!kumo_vm_pause(vmm->vm, error))
        return false;
    vmm->paused = true;
    /* What the guest did before it was stopped belongs to the state that it is paused in. */
    if (!vmm->migration)
        kumo_vmm_finish_ejects(vmm);
    kumo_vmm_event(vmm, "paused", NULL);
    return true;
}

bool kumo_vmm_resume_machine(KumoVmm *vmm, GError **error)
{
    if (vmm->unlocked && !kumo_vm_lock(vmm->vm, true, NULL, error))
        return false;
    vmm->unlocked = false;
    kumo_vmm_event(vmm, "resuming", NULL);
    if (!kumo_vm_resume(vmm->vm, error))
        return false;
    vmm->paused = false;
    kumo_vmm_event(vmm, "resumed", NULL);
    return true;
}
