/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The controller by which ACPI memory comes: 24 bytes of registers, an ACPI memory device for each
 * of eight slots, and the methods that read the registers for them. The guest selects a slot and
 * then sees what is in it. Memory never leaves a running machine, so there is nothing to eject.
 */
#include <string.h>

#include "vmm-core/base/log.h"
#include "vmm-core/devices/platform/hotplug_aml.h"
#include "vmm-core/devices/platform/platform.h"

enum {
    /* Dwords, written: */
    REG_SELECT = 0x0, /* MSEL: the slot that the others are of */
    REG_OST = 0x4,    /* MOST: what _OST of the slot says, see hotplug_aml.h */
    /* Dwords, read: */
    REG_BASE_LOW = 0x0,
    REG_BASE_HIGH = 0x4,
    REG_LENGTH_LOW = 0x8,
    REG_LENGTH_HIGH = 0xc,
    REG_NODE =
        0x10, /* always 0: memory that has a NUMA node is in zones, and they do not grow so */
    REG_STATUS = 0x14, /* a byte, see below */
    REGS_LEN = 0x18,

    /* MEN_, MINS, MRMV, MEJ0. Writing MINS acknowledges it; the first two are read. */
    STATUS_ENABLED = 1 << 0,
    STATUS_INSERTING = 1 << 1,

    /* Where a QWord address space descriptor has its numbers (ACPI 6.4, table 6.44). */
    QWORD_MIN = 14,
    QWORD_MAX = 22,
    QWORD_LENGTH = 38,
};

typedef struct {
    KumoDevice device;
    uint64_t gpa;
    _Atomic uint32_t selected;
    KumoLogLimit ost_limit;
} MemoryHotplug;

static KumoMemorySlot *selected_slot(MemoryHotplug *hotplug)
{
    uint32_t index = atomic_load(&hotplug->selected);

    return index < KUMO_MEMORY_SLOTS ? &hotplug->device.machine->memory_slots[index] : NULL;
}

static uint32_t read_dword(const KumoMemorySlot *slot, uint64_t offset)
{
    switch (offset) {
    case REG_BASE_LOW:
        return (uint32_t)slot->gpa;
    case REG_BASE_HIGH:
        return (uint32_t)(slot->gpa >> 32);
    case REG_LENGTH_LOW:
        return (uint32_t)slot->size_bytes;
    case REG_LENGTH_HIGH:
        return (uint32_t)(slot->size_bytes >> 32);
    default:
        return 0;
    }
}

static void memory_hotplug_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    MemoryHotplug *hotplug = opaque;
    const KumoMemorySlot *slot = selected_slot(hotplug);
    /* Once this says that the slot has something, the rest of it is there. */
    uint32_t flags = slot ? atomic_load(&slot->flags) : 0;
    uint32_t value;

    memset(data, 0, size);
    if (offset == REG_STATUS && size == 1) {
        data[0] = (uint8_t)((flags & KUMO_MEMORY_PRESENT ? STATUS_ENABLED : 0) |
                            (flags & KUMO_MEMORY_INSERTING ? STATUS_INSERTING : 0));
    } else if (offset < REG_STATUS && offset % 4 == 0 && size == 4) {
        value = GUINT32_TO_LE(flags ? read_dword(slot, offset) : 0);
        memcpy(data, &value, sizeof(value));
    } else {
        kumo_warn_guest("%s: read of %u bytes at 0x%x", hotplug->device.id, size, (unsigned)offset);
    }
}

/* Of memory the guest can only say that it does not take it. */
static void write_ost(MemoryHotplug *hotplug, const KumoMemorySlot *slot, uint32_t value)
{
    uint32_t status = value >> KUMO_HOTPLUG_OST_STATUS_SHIFT;
    g_autofree char *id = NULL;

    if (kumo_acpi_ost(value & KUMO_HOTPLUG_OST_MASK, status) != KUMO_ACPI_OST_NOT_TAKEN || !slot ||
        !(atomic_load(&slot->flags) & KUMO_MEMORY_PRESENT) ||
        !kumo_log_limit_pass(&hotplug->ost_limit))
        return;
    id = g_strdup_printf("memory%u", (unsigned)(slot - hotplug->device.machine->memory_slots));
    kumo_machine_guest_refused(hotplug->device.machine, KUMO_ACPI_OST_NOT_TAKEN, id, NULL, status);
}

static void memory_hotplug_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    MemoryHotplug *hotplug = opaque;
    KumoMemorySlot *slot = selected_slot(hotplug);
    uint32_t value = 0;

    if (offset == REG_SELECT && size == 4) {
        memcpy(&value, data, sizeof(value));
        atomic_store(&hotplug->selected, GUINT32_FROM_LE(value));
    } else if (offset == REG_OST && size == 4) {
        memcpy(&value, data, sizeof(value));
        write_ost(hotplug, slot, GUINT32_FROM_LE(value));
    } else if (offset == REG_STATUS && size == 1) {
        if (slot && data[0] & STATUS_INSERTING)
            atomic_fetch_and(&slot->flags, ~(uint32_t)KUMO_MEMORY_INSERTING);
        if (!slot || data[0] & ~STATUS_INSERTING)
            kumo_warn_guest("%s: write of 0x%x to slot %u", hotplug->device.id, data[0],
                            atomic_load(&hotplug->selected));
    } else {
        kumo_warn_guest("%s: write of %u bytes at 0x%x", hotplug->device.id, size,
                        (unsigned)offset);
    }
}

static const KumoBusOps memory_hotplug_bus_ops = { .read = memory_hotplug_read,
                                                   .write = memory_hotplug_write };

static bool memory_hotplug_realize(KumoDevice *device, GError **error)
{
    MemoryHotplug *hotplug = (MemoryHotplug *)device;
    KumoMachine *machine = device->machine;

    if (!kumo_machine_alloc_platform_mmio(machine, REGS_LEN, &hotplug->gpa, error) ||
        !kumo_bus_add(machine->mmio, hotplug->gpa, REGS_LEN, &memory_hotplug_bus_ops, hotplug,
                      device->id, error))
        return false;
    machine->has_memory_hotplug = true;
    return true;
}

static void memory_hotplug_unrealize(KumoDevice *device)
{
    MemoryHotplug *hotplug = (MemoryHotplug *)device;

    device->machine->has_memory_hotplug = false;
    kumo_bus_remove(device->machine->mmio, hotplug->gpa, hotplug);
    kumo_bus_synchronize(device->machine->mmio);
}

static void memory_hotplug_free(KumoDevice *device)
{
    g_free(device);
}

/* --- ACPI: \_SB_.MHPC --- */

static void add_registers(const MemoryHotplug *hotplug, KumoAml *aml)
{
    static const KumoAmlField dwords[] = {
        { "MHBL", 32 }, { "MHBH", 32 }, { "MHLL", 32 }, { "MHLH", 32 }, { "MHPX", 32 }
    };
    /* A byte that is written has nothing in it but what is meant. */
    static const KumoAmlField status[] = {
        { NULL, 8 * REG_STATUS }, { "MEN_", 1 }, { "MINS", 1 }, { "MRMV", 1 }, { "MEJ0", 1 }
    };
    static const KumoAmlField written[] = { { "MSEL", 32 }, { "MOST", 32 } };
    KumoAmlMark resources;

    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0A06");
    kumo_aml_name(aml, "_UID");
    kumo_aml_string(aml, "Memory Hotplug Controller");
    kumo_aml_mutex(aml, "MLCK");
    kumo_aml_name(aml, "_CRS");
    resources = kumo_aml_open_resources(aml);
    kumo_aml_res_qword_memory(aml, false, hotplug->gpa, hotplug->gpa + REGS_LEN - 1);
    kumo_aml_close_resources(aml, resources);
    kumo_aml_operation_region(aml, "MHPR", 0, hotplug->gpa, REGS_LEN);
    kumo_aml_field(aml, "MHPR", 3, false, 0, dwords, G_N_ELEMENTS(dwords));
    kumo_aml_field(aml, "MHPR", 1, false, 2, status, G_N_ELEMENTS(status));
    kumo_aml_field(aml, "MHPR", 3, false, 0, written, G_N_ELEMENTS(written));
}

static void slot_name(char name[5], uint32_t slot)
{
    memcpy(name, "M000", 5);
    name[3] = (char)('0' + slot);
}

static const KumoHotplugAml methods = {
    .mutex = "MLCK",
    .select = "MSEL",
    .enabled = "MEN_",
    .inserting = "MINS",
    .removing = "MRMV",
    .status_method = "MSTA",
    .notify_method = "MTFY",
    .scan_method = "MSCN",
    .ost = "MOST",
    .ost_method = "MOSC",
    .name = slot_name,
};

/* @target = @low | @high << 32 */
static void join_dwords(KumoAml *aml, const char *low, const char *high, const char *target)
{
    kumo_aml_op(aml, KUMO_AML_OR);
    kumo_aml_path(aml, low);
    kumo_aml_op(aml, KUMO_AML_SHIFT_LEFT);
    kumo_aml_path(aml, high);
    kumo_aml_integer(aml, 32);
    kumo_aml_integer(aml, 0); /* ShiftLeft's target: none */
    kumo_aml_path(aml, target);
}

static void create_field(KumoAml *aml, const char *buffer, unsigned at, const char *name)
{
    kumo_aml_op(aml, KUMO_AML_CREATE_QWORD_FIELD);
    kumo_aml_path(aml, buffer);
    kumo_aml_integer(aml, at);
    kumo_aml_path(aml, name);
}

/* MCRS(slot): its _CRS, a descriptor whose numbers are filled in from the registers. */
static void add_resources_method(KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "MCRS", 1, true);
    KumoAmlMark resources;

    kumo_hotplug_aml_select(&methods, aml);
    kumo_aml_name(aml, "MR64");
    resources = kumo_aml_open_resources(aml);
    kumo_aml_res_qword_memory(aml, true, 0, UINT64_MAX - 1);
    kumo_aml_close_resources(aml, resources);
    create_field(aml, "MR64", QWORD_MIN, "MINQ");
    create_field(aml, "MR64", QWORD_MAX, "MAXQ");
    create_field(aml, "MR64", QWORD_LENGTH, "LENQ");
    join_dwords(aml, "MHBL", "MHBH", "MINQ");
    join_dwords(aml, "MHLL", "MHLH", "LENQ");
    kumo_aml_op(aml, KUMO_AML_ADD);
    kumo_aml_path(aml, "MINQ");
    kumo_aml_op(aml, KUMO_AML_SUBTRACT);
    kumo_aml_path(aml, "LENQ");
    kumo_aml_integer(aml, 1);
    kumo_aml_integer(aml, 0); /* Subtract's target: none */
    kumo_aml_path(aml, "MAXQ");
    kumo_aml_release(aml, methods.mutex);
    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_path(aml, "MR64");
    kumo_aml_close(aml, method);
}

static void add_resources(KumoAml *aml, unsigned slot)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "_CRS", 0, true);

    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_path(aml, "MCRS");
    kumo_aml_integer(aml, slot);
    kumo_aml_close(aml, method);
}

static void memory_hotplug_aml(KumoDevice *device, KumoAml *aml)
{
    KumoAmlMark controller = kumo_aml_open_device(aml, "MHPC");

    add_registers((const MemoryHotplug *)device, aml);
    kumo_hotplug_aml_status_method(&methods, aml);
    add_resources_method(aml);
    kumo_hotplug_aml_ost_method(&methods, aml);
    kumo_hotplug_aml_notify_method(&methods, aml, KUMO_MEMORY_SLOTS);
    kumo_hotplug_aml_scan_method(&methods, aml, KUMO_MEMORY_SLOTS);
    for (unsigned slot = 0; slot < KUMO_MEMORY_SLOTS; slot++) {
        KumoAmlMark memory;
        char name[5];

        slot_name(name, slot);
        memory = kumo_aml_open_device(aml, name);
        kumo_aml_name(aml, "_HID");
        kumo_aml_eisaid(aml, "PNP0C80");
        kumo_aml_name(aml, "_UID");
        kumo_aml_integer(aml, slot);
        kumo_hotplug_aml_status(&methods, aml, slot);
        add_resources(aml, slot);
        kumo_hotplug_aml_ost(&methods, aml, slot);
        kumo_aml_close(aml, memory);
    }
    kumo_aml_close(aml, controller);
}

/* --- state; what is in the slots is the machine's --- */

typedef struct {
    uint64_t gpa; /* where the guest's tables say it is */
    uint32_t selected;
    uint32_t flags[KUMO_MEMORY_SLOTS]; /* of KumoMemoryFlags */
} MemoryHotplugState;

static const KumoStateField state_fields[] = {
    { KUMO_STATE_ROW(U64, MemoryHotplugState, gpa) },
    { KUMO_STATE_ROW(U32, MemoryHotplugState, selected) },
    { KUMO_STATE_ROW(U32, MemoryHotplugState, flags), .count = KUMO_MEMORY_SLOTS },
};

static const KumoStateTable state_table = {
    .name = "memory-hotplug",
    .version = 1,
    .fields = state_fields,
    .n_fields = G_N_ELEMENTS(state_fields),
    .size = sizeof(MemoryHotplugState),
};

static void memory_hotplug_save(KumoDevice *device, void *opaque)
{
    MemoryHotplug *hotplug = (MemoryHotplug *)device;
    MemoryHotplugState *state = opaque;

    state->gpa = hotplug->gpa;
    state->selected = atomic_load(&hotplug->selected);
    for (unsigned i = 0; i < KUMO_MEMORY_SLOTS; i++)
        state->flags[i] = atomic_load(&device->machine->memory_slots[i].flags);
}

/* The memory is there already; only whether the guest knows of it is told here. */
static bool memory_hotplug_load(KumoDevice *device, const void *opaque, GError **error)
{
    MemoryHotplug *hotplug = (MemoryHotplug *)device;
    const MemoryHotplugState *state = opaque;

    if (!kumo_state_check_u64("gpa", state->gpa, hotplug->gpa, error))
        return false;
    for (unsigned i = 0; i < KUMO_MEMORY_SLOTS; i++) {
        _Atomic uint32_t *flags = &device->machine->memory_slots[i].flags;
        g_autofree char *field = g_strdup_printf("flags[%u]", i);
        uint32_t allowed = atomic_load(flags) ? KUMO_MEMORY_INSERTING : 0;

        if (!kumo_state_check_u64(field, state->flags[i] & ~allowed, atomic_load(flags) & ~allowed,
                                  error))
            return false;
        atomic_store(flags, state->flags[i]);
    }
    atomic_store(&hotplug->selected, state->selected);
    return true;
}

static const KumoDeviceState memory_hotplug_state = {
    .table = &state_table,
    .save = memory_hotplug_save,
    .load = memory_hotplug_load,
};

static const KumoDeviceOps memory_hotplug_ops = {
    .type = "memory-hotplug",
    .realize = memory_hotplug_realize,
    .unrealize = memory_hotplug_unrealize,
    .free = memory_hotplug_free,
    .aml = memory_hotplug_aml,
    .state = &memory_hotplug_state,
};

static bool memory_hotplug_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    MemoryHotplug *hotplug;

    if (config->memory.hotplug_method != KUMO_HOTPLUG_METHOD_ACPI ||
        !config->memory.hotplug_size_bytes)
        return true;
    hotplug = g_new0(MemoryHotplug, 1);
    kumo_device_init(&hotplug->device, &memory_hotplug_ops, machine, "__memory_hotplug");
    return kumo_device_add(&hotplug->device, error);
}

const KumoDeviceType kumo_device_type_memory_hotplug = {
    .name = "memory-hotplug",
    .create = memory_hotplug_create,
};
