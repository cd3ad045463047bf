/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that ACPI adds to a running machine: up to eight pieces, one behind the other in the guest
 * addresses that are kept free for them. None ever leaves: less memory is had after a reboot.
 */
#include <inttypes.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/vm-internal.h"

/* A block of memory as a guest's kernel adds it. */
#define PIECE_ALIGN (128ULL << 20)

static unsigned count_slots(const KumoMachine *machine)
{
    unsigned n = 0;

    while (n < KUMO_MEMORY_SLOTS && atomic_load(&machine->memory_slots[n].flags) != 0)
        n++;
    return n;
}

static uint64_t added_bytes(const KumoMachine *machine)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < count_slots(machine); i++)
        total += machine->memory_slots[i].size_bytes;
    return total;
}

uint64_t kumo_vm_ram_bytes(KumoVm *vm)
{
    return vm->boot_ram_bytes + added_bytes(&vm->machine);
}

bool kumo_vm_check_more_memory(KumoVm *vm, uint64_t more_bytes, GError **error)
{
    const KumoMachine *machine = &vm->machine;
    uint64_t room = machine->config->memory.hotplug_size_bytes - added_bytes(machine);

    if (!machine->has_memory_hotplug)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "this machine was not made to get more memory, memory.hotplug_size says how "
                    "much");
    else if (more_bytes % PIECE_ALIGN)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%" PRIu64 " bytes more than now is not allowed, must be a multiple of 128 MiB",
                    more_bytes);
    else if (more_bytes > room)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%" PRIu64 " bytes more than now is not allowed, memory.hotplug_size, %" PRIu64
                    ", has room for %" PRIu64,
                    more_bytes, machine->config->memory.hotplug_size_bytes, room);
    else if (count_slots(machine) == KUMO_MEMORY_SLOTS)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE,
                    "memory was added %u times, more is possible after a reboot",
                    KUMO_MEMORY_SLOTS);
    else
        return true;
    return false;
}

/* Takes the next slot. */
static bool add_piece(KumoVm *vm, uint64_t size_bytes, uint32_t flags, GError **error)
{
    KumoMachine *machine = &vm->machine;
    KumoMemorySlot *slot = &machine->memory_slots[count_slots(machine)];

    slot->gpa = kumo_align_up(machine->layout.hotplug_gpa, PIECE_ALIGN) + added_bytes(machine);
    slot->size_bytes = size_bytes;
    if (!kumo_memory_add(machine->memory, &machine->config->memory, slot->gpa, size_bytes, error))
        return false;
    atomic_store(&slot->flags, flags);
    return true;
}

bool kumo_vm_add_memory(KumoVm *vm, uint64_t more_bytes, GError **error)
{
    KumoMachine *machine = &vm->machine;

    if (!kumo_vm_check_more_memory(vm, more_bytes, error) ||
        !add_piece(vm, more_bytes, KUMO_MEMORY_PRESENT | KUMO_MEMORY_INSERTING, error))
        return false;
    if (machine->acpi_notify)
        machine->acpi_notify(machine->acpi_notify_opaque, KUMO_ACPI_NOTIFY_MEMORY);
    return true;
}

bool kumo_vm_restore_memory(KumoVm *vm, const KumoMemRange *saved, size_t n_saved, GError **error)
{
    const KumoMemoryConfig *config = &vm->machine.config->memory;
    uint64_t room = config->hotplug_size_bytes;
    size_t n_made = vm->machine.memory->n_regions;

    /* That the rest is the same is checked with the rest of the state. */
    for (size_t i = n_made; i < n_saved; i++) {
        bool possible = config->hotplug_method == KUMO_HOTPLUG_METHOD_ACPI &&
                        i - n_made < KUMO_MEMORY_SLOTS && saved[i].size_bytes > 0 &&
                        saved[i].size_bytes % PIECE_ALIGN == 0 && saved[i].size_bytes <= room;

        if (!possible) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "state: machine.memory[%zu]: %" PRIu64
                        " bytes cannot have been added to this machine",
                        i, saved[i].size_bytes);
            return false;
        }
        room -= saved[i].size_bytes;
        if (!add_piece(vm, saved[i].size_bytes, KUMO_MEMORY_PRESENT, error))
            return false;
    }
    return true;
}
