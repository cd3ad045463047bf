/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vm.resize: other numbers of vCPUs, more or less memory. All wishes are checked before the first
 * is fulfilled. The configuration says what is wanted, whatever the guest does with it: the next
 * machine is built from it.
 */
#include <inttypes.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/vmm/vmm_hotplug.h"
#include "vmm-core/vmm/vmm_memory.h"

/* --- what of each is possible: nothing is changed --- */

/* More or fewer than there are: is there somebody to tell the guest? */
static bool check_vcpus_of_machine(KumoVmm *vmm, uint32_t wanted, GError **error)
{
    unsigned n_leaving = kumo_vm_count_leaving_vcpus(vmm->vm);

    if (n_leaving > 0) {
        bool again = wanted == vmm->config->cpus.boot_vcpus;

        /* A guest that did not react may have been busy. */
        if (again)
            kumo_vm_ask_vcpus_to_leave(vmm->vm, wanted);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_BUSY,
                    "desired_vcpus: %" PRIu32
                    ": the guest was asked %sto let go of %u vCPUs and has not yet",
                    wanted, again ? "again " : "", n_leaving);
        return false;
    }
    if (wanted != kumo_vm_count_vcpus(vmm->vm) && !kumo_vm_machine(vmm->vm)->has_cpu_hotplug) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "desired_vcpus: %" PRIu32 ": this machine has no CPU hotplug controller",
                    wanted);
        return false;
    }
    return true;
}

static bool check_vcpus(KumoVmm *vmm, uint32_t wanted, GError **error)
{
    uint32_t max = vmm->config->cpus.max_vcpus;

    if (wanted < 1 || wanted > max) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "desired_vcpus: %" PRIu32
                    " is not allowed, must be from 1 to max_vcpus, %" PRIu32,
                    wanted, max);
        return false;
    }
    return !vmm->vm || check_vcpus_of_machine(vmm, wanted, error);
}

static bool has_virtio_mem(const KumoVmm *vmm)
{
    return vmm->config->memory.hotplug_method == KUMO_HOTPLUG_METHOD_VIRTIO_MEM;
}

/* Could a machine begin with this? */
static bool check_boot_ram(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error)
{
    /* Only read. */
    KumoVmConfig config = *vmm->config;
    KumoMachineLayout layout;
    KumoMemRange ranges[KUMO_ARCH_MAX_RANGES];
    unsigned n_ranges = 0;
    uint64_t page = config.memory.hugepages ? config.memory.hugepage_size_bytes : 0;

    config.memory.size_bytes = wanted_bytes;
    page = page ? page : 4096;
    if (wanted_bytes == 0 || wanted_bytes % page) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "desired_ram: %" PRIu64
                    " is not allowed, must be a multiple of the page size, %" PRIu64,
                    wanted_bytes, page);
        return false;
    }
    if (!kumo_vm_config_check_memory(&config, error)) {
        kumo_prefix_error(error, "desired_ram: %" PRIu64, wanted_bytes);
        return false;
    }
    if (!vmm->hv || vmm->params.arch->layout(vmm->hv, &config, &layout, ranges, &n_ranges, error))
        return true;
    kumo_prefix_error(error, "desired_ram: %" PRIu64, wanted_bytes);
    return false;
}

static bool check_ram(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error)
{
    uint64_t present = vmm->vm ? kumo_vm_ram_bytes(vmm->vm) : UINT64_MAX;

    if (vmm->config->memory.zones->len) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "desired_ram: %" PRIu64 " is not allowed, memory zones are resized one by one",
                    wanted_bytes);
        return false;
    }
    if (has_virtio_mem(vmm) && vmm->vm)
        return kumo_vmm_check_virtio_mem(vmm, wanted_bytes, error);
    if (!check_boot_ram(vmm, wanted_bytes, error))
        return false;
    if (wanted_bytes <= present ||
        kumo_vm_check_more_memory(vmm->vm, wanted_bytes - present, error))
        return true;
    kumo_prefix_error(error, "desired_ram: %" PRIu64, wanted_bytes);
    return false;
}

/* --- doing it: a machine runs or is paused --- */

static bool resize_vcpus(KumoVmm *vmm, uint32_t wanted, GError **error)
{
    unsigned present = kumo_vm_count_vcpus(vmm->vm);

    if (wanted > present && !kumo_vm_add_vcpus(vmm->vm, wanted, error)) {
        kumo_prefix_error(error, "desired_vcpus: %" PRIu32, wanted);
        return false;
    }
    if (wanted < present)
        kumo_vm_ask_vcpus_to_leave(vmm->vm, wanted);
    vmm->config->cpus.boot_vcpus = wanted;
    return true;
}

/* What ACPI added stays until the next machine. */
static bool resize_ram(KumoVmm *vmm, uint64_t wanted_bytes, GError **error)
{
    uint64_t present;

    if (has_virtio_mem(vmm))
        return kumo_vmm_set_virtio_mem(vmm, wanted_bytes, error);
    present = vmm->vm ? kumo_vm_ram_bytes(vmm->vm) : UINT64_MAX;
    if (wanted_bytes > present && !kumo_vm_add_memory(vmm->vm, wanted_bytes - present, error)) {
        kumo_prefix_error(error, "desired_ram: %" PRIu64, wanted_bytes);
        return false;
    }
    vmm->config->memory.size_bytes = wanted_bytes;
    return true;
}

/* --- the configuration of a VM that does not run --- */

static bool resize_config(KumoVmm *vmm, const KumoVmResize *wanted, GError **error)
{
    if (wanted->has_vcpus)
        vmm->config->cpus.boot_vcpus = wanted->vcpus;
    return (!wanted->has_ram || resize_ram(vmm, wanted->ram_bytes, error)) &&
           (!wanted->has_balloon || kumo_vmm_set_balloon(vmm, wanted->balloon_bytes, error));
}

bool kumo_vmm_resize(KumoVmm *vmm, const KumoVmResize *wanted, GError **error)
{
    if (kumo_vmm_is_busy(vmm) || !vmm->config)
        return kumo_vmm_refuse(vmm, "resize", error);
    kumo_vmm_finish_ejects(vmm);
    if ((wanted->has_vcpus && !check_vcpus(vmm, wanted->vcpus, error)) ||
        (wanted->has_ram && !check_ram(vmm, wanted->ram_bytes, error)) ||
        (wanted->has_balloon && !kumo_vmm_check_balloon(vmm, wanted->balloon_bytes, error)))
        return false;
    if (!vmm->vm)
        return resize_config(vmm, wanted, error);
    kumo_vmm_event(vmm, "resizing", NULL);
    if ((wanted->has_vcpus && !resize_vcpus(vmm, wanted->vcpus, error)) ||
        (wanted->has_ram && !resize_ram(vmm, wanted->ram_bytes, error)) ||
        (wanted->has_balloon && !kumo_vmm_set_balloon(vmm, wanted->balloon_bytes, error)))
        return false;
    kumo_vmm_event(vmm, "resized", NULL);
    return true;
}
