/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vCPUs of a machine: those it begins with, and those that come and go while the guest runs.
 * What the guest is told of each is a few bits in machine->cpus, which the controller of CPU
 * hotplug shows it. A guest lets a vCPU go by a write on another one's thread: that only sets a bit
 * and wakes the main loop, which ends the thread.
 */
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/core/vm-internal.h"

static bool has_flags(const KumoVm *vm, unsigned index, uint32_t flags)
{
    return (atomic_load(&vm->machine.cpus[index].flags) & flags) != 0;
}

bool kumo_vm_vcpu_is_leaving(KumoVm *vm, unsigned index)
{
    uint32_t flags = atomic_load(&vm->machine.cpus[index].flags);

    return flags & KUMO_CPU_EJECTED || (flags & KUMO_CPU_ASKED && !(flags & KUMO_CPU_REFUSED));
}

/* @is_there: is vCPU number @index to be made? */
static bool is_configured(const KumoVm *vm, const json_t *saved, unsigned index)
{
    if (saved)
        return !json_is_null(json_array_get(saved, index)) && index < json_array_size(saved);
    return index < vm->machine.config->cpus.boot_vcpus;
}

static bool check_saved(const KumoVm *vm, const json_t *saved, GError **error)
{
    size_t n = json_array_size(saved);

    if (n > 0 && n <= vm->machine.config->cpus.max_vcpus && !json_is_null(json_array_get(saved, 0)))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "state: vcpus: %zu of them, must be from 1 to max_vcpus, %u, the first among them",
                n, vm->machine.config->cpus.max_vcpus);
    return false;
}

static bool add_vcpu(KumoVm *vm, unsigned index, const KumoArchEntry *entry, GError **error)
{
    KumoMachine *machine = &vm->machine;
    KumoHvVcpu *vcpu = kumo_vcpus_add(vm->vcpus, index, machine->cpus[index].apic_id, NULL, error);

    if (!vcpu)
        return false;
    if (vm->arch->setup_vcpu(machine, vcpu, index == 0 ? entry : NULL, error))
        return true;
    kumo_prefix_error(error, "vCPU %u", index);
    return false;
}

bool kumo_vm_make_vcpus(KumoVm *vm, const KumoArchEntry *entry, const json_t *state, GError **error)
{
    KumoMachine *machine = &vm->machine;
    const json_t *saved = json_object_get(state, "vcpus");

    if (state && !check_saved(vm, saved, error))
        return false;
    if (!vm->vcpus) {
        if (machine->hv->ops->init && !machine->hv->ops->init(machine->hv, error))
            return false;
        vm->vcpus = kumo_vcpus_new(machine);
    }
    for (uint32_t i = 0; i < machine->config->cpus.max_vcpus; i++) {
        bool is_there = kumo_vcpus_get(vm->vcpus, i) != NULL;
        bool wanted = is_configured(vm, saved, i);

        if (wanted && !is_there && !add_vcpu(vm, i, entry, error))
            return false;
        if (!wanted && is_there && !kumo_vcpus_retire(vm->vcpus, i, error))
            return false;
        atomic_store(&machine->cpus[i].flags, wanted ? KUMO_CPU_PRESENT : 0);
    }
    return true;
}

bool kumo_vm_create_vcpus(KumoVm *vm, const KumoArchEntry *entry, const json_t *state,
                          GError **error)
{
    return kumo_vm_make_vcpus(vm, entry, state, error) && kumo_vcpus_start(vm->vcpus, error);
}

/* --- coming and going --- */

unsigned kumo_vm_count_vcpus(KumoVm *vm)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < vm->machine.config->cpus.max_vcpus; i++)
        n += has_flags(vm, i, KUMO_CPU_PRESENT);
    return n;
}

unsigned kumo_vm_count_leaving_vcpus(KumoVm *vm)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < vm->machine.config->cpus.max_vcpus; i++)
        n += kumo_vm_vcpu_is_leaving(vm, i);
    return n;
}

bool kumo_vm_vcpus_were_refused(KumoVm *vm)
{
    for (uint32_t i = 0; i < vm->machine.config->cpus.max_vcpus; i++) {
        if (has_flags(vm, i, KUMO_CPU_REFUSED))
            return true;
    }
    return false;
}

static void notify(KumoMachine *machine)
{
    if (machine->acpi_notify)
        machine->acpi_notify(machine->acpi_notify_opaque, KUMO_ACPI_NOTIFY_CPU);
}

/* One that was here before waits for INIT and the start-up IPI like a new one; INIT does the rest
 * (Intel SDM 3A, 10.1). */
static bool make_vcpu(KumoVm *vm, unsigned index, GError **error)
{
    KumoMachine *machine = &vm->machine;
    bool again = false;
    KumoHvVcpu *vcpu =
        kumo_vcpus_add(vm->vcpus, index, machine->cpus[index].apic_id, &again, error);

    if (!vcpu)
        return false;
    if (again)
        return !vcpu->ops->set_mp_state ||
               vcpu->ops->set_mp_state(vcpu, KUMO_HV_MP_UNINITIALIZED, error);
    return vm->arch->setup_vcpu(machine, vcpu, NULL, error) &&
           (!machine->guest_cpuid || !vcpu->ops->set_tsc_khz ||
            vcpu->ops->set_tsc_khz(vcpu, machine->guest_tsc_khz, error));
}

/* Nobody has seen them yet, so they are not inside anything. */
static void unmake_vcpus(KumoVm *vm, unsigned first)
{
    for (unsigned i = first; i < kumo_vcpus_end(vm->vcpus); i++) {
        g_autoptr(GError) error = NULL;

        if (kumo_vcpus_get(vm->vcpus, i) && !has_flags(vm, i, KUMO_CPU_PRESENT) &&
            !kumo_vcpus_retire(vm->vcpus, i, &error))
            kumo_warn("%s", error->message);
    }
}

bool kumo_vm_add_vcpus(KumoVm *vm, unsigned wanted, GError **error)
{
    for (unsigned i = 0; i < wanted; i++) {
        if (kumo_vcpus_get(vm->vcpus, i))
            continue;
        if (!make_vcpu(vm, i, error)) {
            kumo_prefix_error(error, "vCPU %u", i);
            unmake_vcpus(vm, 0);
            return false;
        }
    }
    if (!kumo_vcpus_start(vm->vcpus, error)) {
        unmake_vcpus(vm, 0);
        return false;
    }
    for (unsigned i = 0; i < wanted; i++) {
        _Atomic uint32_t *flags = &vm->machine.cpus[i].flags;

        /* One that the guest did not let go is wanted again. */
        atomic_fetch_and(flags, ~(uint32_t)(KUMO_CPU_ASKED | KUMO_CPU_REFUSED));
        if (!has_flags(vm, i, KUMO_CPU_PRESENT))
            atomic_store(&vm->machine.cpus[i].flags, KUMO_CPU_PRESENT | KUMO_CPU_INSERTING);
    }
    notify(&vm->machine);
    return true;
}

void kumo_vm_ask_vcpus_to_leave(KumoVm *vm, unsigned wanted)
{
    for (uint32_t i = MAX(wanted, 1); i < vm->machine.config->cpus.max_vcpus; i++) {
        _Atomic uint32_t *flags = &vm->machine.cpus[i].flags;
        uint32_t old = atomic_load(flags);

        /* The guest may eject one that it was asked for before just now. */
        while ((old & KUMO_CPU_PRESENT) &&
               !atomic_compare_exchange_weak(flags, &old,
                                             (old & ~(uint32_t)KUMO_CPU_REFUSED) | KUMO_CPU_ASKED |
                                                 KUMO_CPU_REMOVING))
            ;
    }
    notify(&vm->machine);
}

void kumo_vm_finish_vcpu_ejects(KumoVm *vm)
{
    for (unsigned i = kumo_vcpus_end(vm->vcpus); i-- > 1;) {
        g_autoptr(GError) error = NULL;
        g_autofree char *id = NULL;

        if (!has_flags(vm, i, KUMO_CPU_EJECTED))
            continue;
        /* Its thread tells when it is at its end after all. */
        if (!kumo_vcpus_retire(vm->vcpus, i, &error)) {
            kumo_warn("%s", error->message);
            continue;
        }
        atomic_store(&vm->machine.cpus[i].flags, 0);
        kumo_info("vCPU %u was let go by the guest", i);
        id = g_strdup_printf("vcpu%u", i);
        kumo_machine_event(&vm->machine, "vm", "vcpu-removed", id);
    }
}
