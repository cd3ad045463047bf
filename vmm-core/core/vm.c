/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/vm.h"

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/core/vm-internal.h"

enum { XAPIC_MAX_ID = 254, IOAPIC_SIZE = 0x20 };

/* Where PCs have their first IOAPIC (82093AA datasheet, 3.0). */
#define IOAPIC_GPA 0xfec00000ULL

static void ioapic_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    kumo_irq_ioapic_read(opaque, offset, data, size);
}

static void ioapic_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    kumo_irq_ioapic_write(opaque, offset, data, size);
}

static const KumoBusOps ioapic_ops = { .read = ioapic_read, .write = ioapic_write };

static bool create_hv_vm(KumoVm *vm, const KumoVmParams *params, GError **error)
{
    const KumoCpusConfig *cpus = &params->config->cpus;
    KumoHvVmParams hv_params = { .max_vcpus = cpus->max_vcpus,
                                 .hyperv = cpus->kvm_hyperv,
                                 .amx = cpus->features.amx };
    uint32_t host_max = params->hv->ops->max_vcpus(params->hv);

    if (cpus->max_vcpus > host_max) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "cpus: max %u: %s on this host has at most %u", cpus->max_vcpus,
                    params->hv->ops->name, host_max);
        return false;
    }
    vm->machine.cpus = g_new0(KumoCpuSlot, cpus->max_vcpus);
    for (uint32_t i = 0; i < cpus->max_vcpus; i++) {
        vm->machine.cpus[i].apic_id = params->arch->apic_id(params->config, i);
        hv_params.max_apic_id = MAX(hv_params.max_apic_id, vm->machine.cpus[i].apic_id);
    }
    hv_params.x2apic_ids = hv_params.max_apic_id > XAPIC_MAX_ID;
    vm->machine.hv = params->hv->ops->vm_create(params->hv, &hv_params, error);
    return vm->machine.hv != NULL;
}

static bool create_memory(KumoVm *vm, const KumoVmParams *params, GError **error)
{
    /* Only read, and only for what the machine begins with. */
    KumoVmConfig config = *params->config;
    KumoMemRange ranges[KUMO_ARCH_MAX_RANGES];
    g_autofree KumoMemRange *saved = NULL;
    size_t n_saved = 0;
    unsigned n_ranges = 0;
    uint64_t saved_boot_ram = 0;

    if (params->restore &&
        !kumo_vm_saved_memory(params->restore->state, &saved_boot_ram, &saved, &n_saved, error))
        return false;
    if (saved_boot_ram && !config.memory.zones->len) {
        /* Where memory can be added, the configuration has what is wanted: more than at the start,
         * or less from the next one on. */
        if (!config.memory.hotplug_size_bytes &&
            !kumo_state_check_u64("machine: memory size", saved_boot_ram, config.memory.size_bytes,
                                  error))
            return false;
        config.memory.size_bytes = saved_boot_ram;
    }
    vm->boot_ram_bytes = kumo_memory_config_total(&config.memory);
    if (!params->arch->layout(params->hv, &config, &vm->machine.layout, ranges, &n_ranges, error))
        return false;
    vm->machine.memory = kumo_memory_new(&config.memory, ranges, n_ranges,
                                         vm->machine.layout.hotplug_gpa, vm->machine.hv, error);
    return vm->machine.memory && kumo_vm_restore_memory(vm, saved, n_saved, error);
}

static bool create_buses(KumoVm *vm, const KumoVmParams *params, GError **error)
{
    KumoMachine *machine = &vm->machine;

    machine->pio = kumo_bus_new("pio", params->config->cpus.max_vcpus);
    machine->mmio = kumo_bus_new("mmio", params->config->cpus.max_vcpus);
    machine->irq = kumo_irq_new(machine->hv);
    return kumo_bus_add(machine->mmio, IOAPIC_GPA, IOAPIC_SIZE, &ioapic_ops, machine->irq, "ioapic",
                        error);
}

static bool create_devices(KumoVm *vm, const KumoVmParams *params, GError **error)
{
    for (const KumoDeviceType *const *type = params->device_types; *type; type++) {
        if (!(*type)->create(&vm->machine, params->config, error))
            return false;
    }
    return true;
}

static void resume_devices(KumoMachine *machine, unsigned n)
{
    while (n-- > 0) {
        KumoDevice *device = g_ptr_array_index(machine->devices, n);

        if (device->ops->resume)
            device->ops->resume(device);
    }
}

/* Devices, then the hypervisor. On failure all run on. */
static bool pause_machine(KumoMachine *machine, GError **error)
{
    unsigned n;

    for (n = 0; n < machine->devices->len; n++) {
        KumoDevice *device = g_ptr_array_index(machine->devices, n);

        if (device->ops->pause && !device->ops->pause(device, error)) {
            kumo_prefix_error(error, "device %s", device->id);
            resume_devices(machine, n);
            return false;
        }
    }
    if (machine->hv->ops->pause && !machine->hv->ops->pause(machine->hv, error)) {
        resume_devices(machine, n);
        return false;
    }
    return true;
}

bool kumo_vm_load(KumoVm *vm, const json_t *state, GError **error)
{
    return kumo_vm_create_vcpus(vm, NULL, state, error) && pause_machine(&vm->machine, error) &&
           kumo_vm_load_state(vm, state, error);
}

/* The machine of @params is built, and no guest has touched it. */
static bool restore(KumoVm *vm, const KumoVmRestore *from, GError **error)
{
    /* A guest that waits for its state stands still: all is made that can be made without it. */
    if (!from->load_memory)
        return kumo_vm_make_vcpus(vm, NULL, NULL, error);
    return from->load_memory(from->opaque, vm->machine.memory, error) &&
           kumo_vm_load(vm, from->state, error);
}

KumoVm *kumo_vm_new(const KumoVmParams *params, GError **error)
{
    g_autoptr(KumoVm) vm = g_new0(KumoVm, 1);
    KumoArchEntry entry = { 0 };

    vm->machine.config = params->config;
    vm->machine.consoles = params->consoles;
    vm->machine.request = params->request;
    vm->machine.request_opaque = params->request_opaque;
    vm->machine.device_ejected = params->device_ejected;
    vm->machine.event = params->event;
    vm->machine.locks_later = params->restore && !params->restore->load_memory;
    vm->machine.devices = g_ptr_array_new();
    vm->arch = params->arch;
    if (!create_hv_vm(vm, params, error) || !create_memory(vm, params, error) ||
        !create_buses(vm, params, error) || !create_devices(vm, params, error))
        return NULL;
    if (params->restore) {
        if (!restore(vm, params->restore, error))
            return NULL;
    } else if (!params->arch->load(&vm->machine, &entry, error) ||
               !kumo_vm_create_vcpus(vm, &entry, NULL, error)) {
        return NULL;
    }
    return g_steal_pointer(&vm);
}

void kumo_vm_free(KumoVm *vm)
{
    KumoMachine *machine;

    if (!vm)
        return;
    machine = &vm->machine;
    kumo_vcpus_free(vm->vcpus);
    while (machine->devices->len > 0)
        kumo_device_remove(g_ptr_array_index(machine->devices, machine->devices->len - 1));
    g_ptr_array_unref(machine->devices);
    kumo_loop_free(machine->slow_loop);
    kumo_irq_free(machine->irq);
    kumo_bus_free(machine->mmio);
    kumo_bus_free(machine->pio);
    kumo_memory_free(machine->memory);
    if (machine->hv)
        machine->hv->ops->destroy(machine->hv);
    g_free(machine->cpus);
    g_clear_pointer(&machine->guest_cpuid, g_array_unref);
    g_free(vm);
}

void kumo_vm_start(KumoVm *vm)
{
    kumo_vcpus_resume(vm->vcpus);
}

bool kumo_vm_pause(KumoVm *vm, GError **error)
{
    if (!kumo_vcpus_pause(vm->vcpus, error))
        return false;
    if (pause_machine(&vm->machine, error))
        return true;
    kumo_vcpus_resume(vm->vcpus);
    return false;
}

void kumo_vm_freeze(KumoVm *vm)
{
    kumo_vcpus_freeze(vm->vcpus);
}

bool kumo_vm_resume(KumoVm *vm, GError **error)
{
    KumoMachine *machine = &vm->machine;

    if (machine->hv->ops->resume && !machine->hv->ops->resume(machine->hv, error))
        return false;
    resume_devices(machine, machine->devices->len);
    kumo_vcpus_resume(vm->vcpus);
    return true;
}

void kumo_vm_throttle(KumoVm *vm, unsigned percent)
{
    kumo_vcpus_throttle(vm->vcpus, percent);
}

bool kumo_vm_flush(KumoVm *vm, GError **error)
{
    const GPtrArray *devices = vm->machine.devices;

    for (unsigned i = 0; i < devices->len; i++) {
        KumoDevice *device = devices->pdata[i];

        if (device->ops->flush && !device->ops->flush(device, error))
            return false;
    }
    return true;
}

bool kumo_vm_lock(KumoVm *vm, bool lock, bool *ret_exclusive, GError **error)
{
    const GPtrArray *devices = vm->machine.devices;
    bool exclusive = false;

    if (ret_exclusive)
        *ret_exclusive = false;
    for (unsigned i = 0; i < devices->len; i++) {
        KumoDevice *device = devices->pdata[i];

        if (device->ops->lock && !device->ops->lock(device, lock, &exclusive, error)) {
            kumo_vm_lock(vm, false, NULL, NULL);
            return false;
        }
        if (ret_exclusive)
            *ret_exclusive |= exclusive;
    }
    return true;
}

bool kumo_vm_nmi(KumoVm *vm, bool paused, GError **error)
{
    bool ok;

    if (!paused && !kumo_vcpus_pause(vm->vcpus, error))
        return false;
    ok = kumo_vcpus_nmi(vm->vcpus, error);
    if (!paused)
        kumo_vcpus_resume(vm->vcpus);
    return ok;
}

bool kumo_vm_bind_vcpus(KumoVm *vm, const KumoCpusConfig *cpus, GError **error)
{
    return kumo_vcpus_bind(vm->vcpus, cpus, error);
}

KumoMachine *kumo_vm_machine(KumoVm *vm)
{
    return &vm->machine;
}

json_t *kumo_vm_device_tree(KumoVm *vm)
{
    json_t *tree = json_object();

    for (unsigned i = 0; i < vm->machine.devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(vm->machine.devices, i);
        json_t *node = json_pack("{s:s, s:[], s:[]}", "id", device->id, "resources", "children");

        if (device->ops->pci_bdf) {
            g_autofree char *bdf = device->ops->pci_bdf(device);

            json_object_set_new(node, "pci_bdf", json_string(bdf));
        }
        json_object_set_new(tree, device->id, node);
        if (device->ops->describe)
            device->ops->describe(device, tree, node);
    }
    return tree;
}
