/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The controller by which vCPUs come and go: twelve bytes of registers, an ACPI processor device
 * for each vCPU that there may be, and the methods that read the registers for them. The guest
 * selects a vCPU by its number and then sees or acknowledges what there is of it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm-core/base/log.h"
#include "vmm-core/devices/platform/hotplug_aml.h"
#include "vmm-core/devices/platform/platform.h"

enum {
    REG_SELECT = 0x0,  /* CSEL, a dword: the vCPU that the others are of */
    REG_STATUS = 0x4,  /* a byte, see below */
    REG_COMMAND = 0x5, /* CCMD: there are no commands */
    REG_OST = 0x8,     /* CDAT, a dword, written: what _OST of the vCPU says, see hotplug_aml.h */
    REGS_LEN = 0xc,

    /* CPEN, CINS, CRMV, CEJ0. Writing CINS or CRMV acknowledges it; the first three are read. */
    STATUS_ENABLED = 1 << 0,
    STATUS_INSERTING = 1 << 1,
    STATUS_REMOVING = 1 << 2,
    STATUS_EJECT = 1 << 3,

    MAT_LOCAL_X2APIC = 9, /* ACPI 6.4, 5.2.12.12 */
    MAT_LOCAL_X2APIC_LEN = 16,
    MAT_ENABLED = 1 << 0,
};

typedef struct {
    KumoDevice device;
    uint64_t gpa;
    _Atomic uint32_t selected;
    KumoLogLimit ost_limit;
} CpuHotplug;

static uint32_t count_cpus(const CpuHotplug *hotplug)
{
    return hotplug->device.machine->config->cpus.max_vcpus;
}

static KumoCpuSlot *selected_slot(CpuHotplug *hotplug, uint32_t *ret_index)
{
    uint32_t index = atomic_load(&hotplug->selected);

    *ret_index = index;
    return index < count_cpus(hotplug) ? &hotplug->device.machine->cpus[index] : NULL;
}

static uint8_t status_of(const KumoCpuSlot *slot)
{
    uint32_t flags = slot ? atomic_load(&slot->flags) : 0;

    return (uint8_t)((flags & KUMO_CPU_PRESENT ? STATUS_ENABLED : 0) |
                     (flags & KUMO_CPU_INSERTING ? STATUS_INSERTING : 0) |
                     (flags & KUMO_CPU_REMOVING ? STATUS_REMOVING : 0));
}

static void cpu_hotplug_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    CpuHotplug *hotplug = opaque;
    uint32_t index;
    const KumoCpuSlot *slot = selected_slot(hotplug, &index);

    memset(data, 0, size);
    if (offset == REG_SELECT && size == 4) {
        index = GUINT32_TO_LE(index);
        memcpy(data, &index, sizeof(index));
    } else if (offset == REG_STATUS && size == 1) {
        data[0] = status_of(slot);
    } else if (offset < REG_STATUS || offset == REG_STATUS) {
        kumo_warn_guest("%s: read of %u bytes at 0x%x", hotplug->device.id, size, (unsigned)offset);
    }
}

/* Only a vCPU that the guest was asked for leaves. Never the first: the machine boots from it. */
static bool eject(KumoCpuSlot *slot)
{
    uint32_t old = atomic_load(&slot->flags);
    uint32_t new;

    do {
        if (!(old & KUMO_CPU_PRESENT) || !(old & KUMO_CPU_ASKED))
            return false;
        new = (old & (KUMO_CPU_ASKED | KUMO_CPU_REFUSED)) | KUMO_CPU_EJECTED;
    } while (!atomic_compare_exchange_weak(&slot->flags, &old, new));
    return true;
}

static void write_status(CpuHotplug *hotplug, uint8_t value)
{
    KumoMachine *machine = hotplug->device.machine;
    uint32_t index;
    KumoCpuSlot *slot = selected_slot(hotplug, &index);

    if (!slot) {
        kumo_warn_guest("%s: there is no vCPU %u", hotplug->device.id, index);
        return;
    }
    if (value & STATUS_INSERTING)
        atomic_fetch_and(&slot->flags, ~(uint32_t)KUMO_CPU_INSERTING);
    if (value & STATUS_REMOVING)
        atomic_fetch_and(&slot->flags, ~(uint32_t)KUMO_CPU_REMOVING);
    if (!(value & STATUS_EJECT))
        return;
    if (!eject(slot)) {
        kumo_warn_guest("%s: vCPU %u ejected without having been asked for: it stays",
                        hotplug->device.id, index);
        return;
    }
    if (machine->device_ejected)
        machine->device_ejected(machine->request_opaque);
}

/* Did the guest refuse to let go of a vCPU, for the first time since it was asked? */
static bool refuse(KumoCpuSlot *slot)
{
    uint32_t old = atomic_load(&slot->flags);

    do {
        if (!(old & KUMO_CPU_PRESENT) || !(old & KUMO_CPU_ASKED) || old & KUMO_CPU_REFUSED)
            return false;
    } while (!atomic_compare_exchange_weak(&slot->flags, &old, old | KUMO_CPU_REFUSED));
    return true;
}

static void write_ost(CpuHotplug *hotplug, uint32_t value)
{
    KumoMachine *machine = hotplug->device.machine;
    uint32_t index, status = value >> KUMO_HOTPLUG_OST_STATUS_SHIFT;
    KumoCpuSlot *slot = selected_slot(hotplug, &index);
    KumoAcpiOst what = kumo_acpi_ost(value & KUMO_HOTPLUG_OST_MASK, status);
    g_autofree char *id = g_strdup_printf("vcpu%" PRIu32, index);

    if (!slot || what == KUMO_ACPI_OST_OTHER)
        return;
    if (what == KUMO_ACPI_OST_NOT_LET_GO) {
        if (!refuse(slot))
            return;
        if (machine->device_ejected)
            machine->device_ejected(machine->request_opaque);
    } else if (!(atomic_load(&slot->flags) & KUMO_CPU_PRESENT) ||
               !kumo_log_limit_pass(&hotplug->ost_limit)) {
        return;
    }
    kumo_machine_guest_refused(machine, what, id, NULL, status);
}

static void cpu_hotplug_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    CpuHotplug *hotplug = opaque;
    uint32_t value = 0;

    if (offset == REG_SELECT && size == 4) {
        memcpy(&value, data, sizeof(value));
        atomic_store(&hotplug->selected, GUINT32_FROM_LE(value));
    } else if (offset == REG_STATUS && size == 1) {
        write_status(hotplug, data[0]);
    } else if (offset == REG_OST && size == 4) {
        memcpy(&value, data, sizeof(value));
        write_ost(hotplug, GUINT32_FROM_LE(value));
    } else if (offset != REG_COMMAND && offset != REG_OST) {
        kumo_warn_guest("%s: write of %u bytes at 0x%x", hotplug->device.id, size,
                        (unsigned)offset);
    }
}

static const KumoBusOps cpu_hotplug_bus_ops = { .read = cpu_hotplug_read,
                                                .write = cpu_hotplug_write };

static bool cpu_hotplug_realize(KumoDevice *device, GError **error)
{
    CpuHotplug *hotplug = (CpuHotplug *)device;
    KumoMachine *machine = device->machine;

    if (!kumo_machine_alloc_platform_mmio(machine, REGS_LEN, &hotplug->gpa, error) ||
        !kumo_bus_add(machine->mmio, hotplug->gpa, REGS_LEN, &cpu_hotplug_bus_ops, hotplug,
                      device->id, error))
        return false;
    machine->has_cpu_hotplug = true;
    return true;
}

static void cpu_hotplug_unrealize(KumoDevice *device)
{
    CpuHotplug *hotplug = (CpuHotplug *)device;

    device->machine->has_cpu_hotplug = false;
    kumo_bus_remove(device->machine->mmio, hotplug->gpa, hotplug);
    kumo_bus_synchronize(device->machine->mmio);
}

static void cpu_hotplug_free(KumoDevice *device)
{
    g_free(device);
}

/* --- ACPI: \_SB_.PRES with the registers, \_SB_.CPUS with the processors --- */

static void cpu_name(char name[5], uint32_t index)
{
    snprintf(name, 5, "C%03X", index & 0xfff);
}

static void add_registers(const CpuHotplug *hotplug, KumoAml *aml)
{
    /* A byte that is written has nothing in it but what is meant. */
    static const KumoAmlField status[] = { { NULL, 8 * REG_STATUS },
                                           { "CPEN", 1 },
                                           { "CINS", 1 },
                                           { "CRMV", 1 },
                                           { "CEJ0", 1 },
                                           { NULL, 4 },
                                           { "CCMD", 8 } };
    static const KumoAmlField dwords[] = { { "CSEL", 32 }, { NULL, 32 }, { "CDAT", 32 } };
    KumoAmlMark device = kumo_aml_open_device(aml, "PRES");
    KumoAmlMark resources;

    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0A06");
    kumo_aml_name(aml, "_UID");
    kumo_aml_string(aml, "CPU Hotplug Controller");
    kumo_aml_mutex(aml, "CPLK");
    kumo_aml_name(aml, "_CRS");
    resources = kumo_aml_open_resources(aml);
    kumo_aml_res_qword_memory(aml, false, hotplug->gpa, hotplug->gpa + REGS_LEN - 1);
    kumo_aml_close_resources(aml, resources);
    kumo_aml_operation_region(aml, "PRST", 0, hotplug->gpa, REGS_LEN);
    kumo_aml_field(aml, "PRST", 1, false, 2, status, G_N_ELEMENTS(status));
    kumo_aml_field(aml, "PRST", 3, false, 0, dwords, G_N_ELEMENTS(dwords));
    kumo_aml_close(aml, device);
}

static const KumoHotplugAml methods = {
    .mutex = "\\_SB_.PRES.CPLK",
    .select = "\\_SB_.PRES.CSEL",
    .enabled = "\\_SB_.PRES.CPEN",
    .inserting = "\\_SB_.PRES.CINS",
    .removing = "\\_SB_.PRES.CRMV",
    .status_method = "CSTA",
    .notify_method = "CTFY",
    .scan_method = "CSCN",
    .ost = "\\_SB_.PRES.CDAT",
    .ost_method = "COST",
    .name = cpu_name,
};

/* CEJ0(cpu): what its _EJ0 does. */
static void add_eject_method(KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "CEJ0", 1, true);

    kumo_hotplug_aml_select(&methods, aml);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_integer(aml, 1);
    kumo_aml_path(aml, "\\_SB_.PRES.CEJ0");
    kumo_aml_release(aml, methods.mutex);
    kumo_aml_close(aml, method);
}

/* _MAT is the entry of the interrupt controller table that a processor has once it is there. */
static void add_mat(KumoAml *aml, uint32_t index, uint32_t apic_id)
{
    uint32_t numbers[4] = { GUINT32_TO_LE(MAT_LOCAL_X2APIC | MAT_LOCAL_X2APIC_LEN << 8),
                            GUINT32_TO_LE(apic_id), GUINT32_TO_LE(MAT_ENABLED),
                            GUINT32_TO_LE(index) };
    KumoAmlMark buffer;

    kumo_aml_name(aml, "_MAT");
    buffer = kumo_aml_open_buffer(aml);
    kumo_aml_raw(aml, numbers, sizeof(numbers));
    kumo_aml_close(aml, buffer);
}

static void add_processor(const KumoMachine *machine, KumoAml *aml, uint32_t index)
{
    uint32_t node = kumo_numa_node_of_cpu(machine->config, index);
    KumoAmlMark device;
    char name[5];

    cpu_name(name, index);
    device = kumo_aml_open_device(aml, name);
    kumo_aml_name(aml, "_HID");
    kumo_aml_string(aml, "ACPI0007");
    kumo_aml_name(aml, "_UID");
    kumo_aml_integer(aml, index);
    kumo_hotplug_aml_status(&methods, aml, index);
    add_mat(aml, index, machine->cpus[index].apic_id);
    if (node != KUMO_NUMA_NONE) {
        kumo_aml_name(aml, "_PXM");
        kumo_aml_integer(aml, node);
    }
    kumo_hotplug_aml_ost(&methods, aml, index);
    if (index > 0) {
        KumoAmlMark method = kumo_aml_open_method(aml, "_EJ0", 1, true);

        kumo_aml_path(aml, "CEJ0");
        kumo_aml_integer(aml, index);
        kumo_aml_close(aml, method);
    }
    kumo_aml_close(aml, device);
}

static void cpu_hotplug_aml(KumoDevice *device, KumoAml *aml)
{
    const CpuHotplug *hotplug = (const CpuHotplug *)device;
    KumoAmlMark container;

    add_registers(hotplug, aml);
    container = kumo_aml_open_device(aml, "CPUS");
    kumo_aml_name(aml, "_HID");
    kumo_aml_string(aml, "ACPI0010");
    kumo_aml_name(aml, "_CID");
    kumo_aml_eisaid(aml, "PNP0A05");
    kumo_hotplug_aml_status_method(&methods, aml);
    add_eject_method(aml);
    kumo_hotplug_aml_ost_method(&methods, aml);
    kumo_hotplug_aml_notify_method(&methods, aml, count_cpus(hotplug));
    kumo_hotplug_aml_scan_method(&methods, aml, count_cpus(hotplug));
    for (uint32_t i = 0; i < count_cpus(hotplug); i++)
        add_processor(device->machine, aml, i);
    kumo_aml_close(aml, container);
}

/* --- state --- */

typedef struct {
    uint64_t gpa; /* where the guest's tables say it is */
    uint32_t selected;
    uint32_t *cpus; /* of KumoCpuFlags */
    size_t n_cpus;
} CpuHotplugState;

static const KumoStateField state_fields[] = {
    { KUMO_STATE_ROW(U64, CpuHotplugState, gpa) },
    { KUMO_STATE_ROW(U32, CpuHotplugState, selected) },
    { KUMO_STATE_ROW(U32, CpuHotplugState, cpus), .list = true,
      .count_offset = offsetof(CpuHotplugState, n_cpus), .max = KUMO_MAX_PLUGGABLE_VCPUS },
};

static const KumoStateTable state_table = {
    .name = "cpu-hotplug",
    .version = 1,
    .fields = state_fields,
    .n_fields = G_N_ELEMENTS(state_fields),
    .size = sizeof(CpuHotplugState),
};

static void cpu_hotplug_save(KumoDevice *device, void *opaque)
{
    CpuHotplug *hotplug = (CpuHotplug *)device;
    CpuHotplugState *state = opaque;

    state->gpa = hotplug->gpa;
    state->selected = atomic_load(&hotplug->selected);
    state->n_cpus = count_cpus(hotplug);
    state->cpus = g_new(uint32_t, state->n_cpus);
    for (size_t i = 0; i < state->n_cpus; i++)
        state->cpus[i] = atomic_load(&device->machine->cpus[i].flags);
}

/* The vCPUs are made: those that the guest sees and those that it ejected a moment ago. */
static bool check_flags(const KumoMachine *machine, uint32_t index, uint32_t flags, GError **error)
{
    g_autofree char *field = g_strdup_printf("cpus[%u]", index);
    uint32_t allowed = index > 0 ? KUMO_CPU_PRESENT | KUMO_CPU_INSERTING | KUMO_CPU_REMOVING |
                                       KUMO_CPU_ASKED | KUMO_CPU_EJECTED | KUMO_CPU_REFUSED
                                 : KUMO_CPU_PRESENT;
    bool is_there = (flags & (KUMO_CPU_PRESENT | KUMO_CPU_EJECTED)) != 0;
    bool is_made = atomic_load(&machine->cpus[index].flags) != 0;

    return kumo_state_check_u64(field, flags & ~allowed, 0, error) &&
           kumo_state_check_u64(field, is_there, is_made, error) &&
           (is_there || kumo_state_check_u64(field, flags, 0, error));
}

static bool cpu_hotplug_load(KumoDevice *device, const void *opaque, GError **error)
{
    CpuHotplug *hotplug = (CpuHotplug *)device;
    KumoMachine *machine = device->machine;
    const CpuHotplugState *state = opaque;
    bool ejected = false;

    if (!kumo_state_check_u64("gpa", state->gpa, hotplug->gpa, error) ||
        !kumo_state_check_u64("cpus", state->n_cpus, count_cpus(hotplug), error))
        return false;
    for (uint32_t i = 0; i < state->n_cpus; i++) {
        if (!check_flags(machine, i, state->cpus[i], error))
            return false;
    }
    for (uint32_t i = 0; i < state->n_cpus; i++) {
        atomic_store(&machine->cpus[i].flags, state->cpus[i]);
        ejected |= (state->cpus[i] & KUMO_CPU_EJECTED) != 0;
    }
    atomic_store(&hotplug->selected, state->selected);
    if (ejected && machine->device_ejected)
        machine->device_ejected(machine->request_opaque);
    return true;
}

static const KumoDeviceState cpu_hotplug_state = {
    .table = &state_table,
    .save = cpu_hotplug_save,
    .load = cpu_hotplug_load,
};

static const KumoDeviceOps cpu_hotplug_ops = {
    .type = "cpu-hotplug",
    .realize = cpu_hotplug_realize,
    .unrealize = cpu_hotplug_unrealize,
    .free = cpu_hotplug_free,
    .aml = cpu_hotplug_aml,
    .state = &cpu_hotplug_state,
};

static bool cpu_hotplug_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    CpuHotplug *hotplug;

    if (config->cpus.max_vcpus < 2 || config->cpus.max_vcpus > KUMO_MAX_PLUGGABLE_VCPUS)
        return true;
    hotplug = g_new0(CpuHotplug, 1);
    kumo_device_init(&hotplug->device, &cpu_hotplug_ops, machine, "__cpu_hotplug");
    return kumo_device_add(&hotplug->device, error);
}

const KumoDeviceType kumo_device_type_cpu_hotplug = {
    .name = "cpu-hotplug",
    .create = cpu_hotplug_create,
};
