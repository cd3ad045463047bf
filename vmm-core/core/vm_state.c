/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state of a whole machine as one JSON object: what it is, then each part by its table. The
 * parts are put back in an order in which none disturbs another: devices first, for they drive
 * lines and routes; the IOAPIC, which knows its lines itself; then the vCPUs, with all interrupts
 * that had reached them; the clock last.
 */
#include <string.h>

#include "kumo-build.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/vcpu_state.h"
#include "vmm-core/core/vm-internal.h"

#define STATE_FORMAT "kumo-state"

enum { STATE_VERSION = 1, MAX_RANGES = 4096 };

typedef struct {
    KumoMachineLayout layout;
    KumoMemRange *memory;
    size_t n_memory;
    uint64_t boot_ram_bytes; /* 0: as configured */
    bool has_clock;
    uint64_t clock_ns;
    uint32_t tsc_khz;
} MachineState;

#define LAYOUT(kind, member)                                                                       \
    {                                                                                              \
        KUMO_STATE_ROW(kind, KumoMachineLayout, member)                                            \
    }

static const KumoStateField layout_fields[] = {
    LAYOUT(U32, phys_bits),          LAYOUT(U64, mmio32_base),
    LAYOUT(U64, mmio32_size),        LAYOUT(U64, mmio64_base),
    LAYOUT(U64, mmio64_size),        LAYOUT(U64, ecam_base),
    LAYOUT(U64, platform_mmio_base), LAYOUT(U64, platform_mmio_size),
    LAYOUT(U32, pci_intx_gsi_base),  LAYOUT(U32, ged_gsi),
    LAYOUT(U32, serial_gsi),
};

static const KumoStateTable layout_table = {
    .name = "address map",
    .version = 1,
    .fields = layout_fields,
    .n_fields = G_N_ELEMENTS(layout_fields),
    .size = sizeof(KumoMachineLayout),
};

static const KumoStateField range_fields[] = {
    { KUMO_STATE_ROW(U64, KumoMemRange, gpa) },
    { KUMO_STATE_ROW(U64, KumoMemRange, size_bytes) },
};

static const KumoStateTable range_table = {
    .name = "memory range",
    .version = 1,
    .fields = range_fields,
    .n_fields = G_N_ELEMENTS(range_fields),
    .size = sizeof(KumoMemRange),
};

static const KumoStateField machine_fields[] = {
    { KUMO_STATE_ROW(TABLE, MachineState, layout), .table = &layout_table },
    { KUMO_STATE_ROW(TABLE, MachineState, memory), .table = &range_table, .list = true,
      .count_offset = offsetof(MachineState, n_memory), .max = MAX_RANGES },
    { KUMO_STATE_ROW(BOOL, MachineState, has_clock) },
    { KUMO_STATE_ROW(U64, MachineState, clock_ns) },
    { KUMO_STATE_ROW(U32, MachineState, tsc_khz) },
    { KUMO_STATE_ROW(U64, MachineState, boot_ram_bytes), .since = 2 },
};

static const KumoStateTable machine_table = {
    .name = "machine",
    .version = 2,
    .fields = machine_fields,
    .n_fields = G_N_ELEMENTS(machine_fields),
    .size = sizeof(MachineState),
};

/* --- saving --- */

static json_t *save_machine(KumoVm *vm, GError **error)
{
    KumoMachine *machine = &vm->machine;
    KumoHv *hv = machine->hv->hv;
    MachineState state = {
        .layout = machine->layout,
        .n_memory = machine->memory->n_regions,
        .has_clock = machine->hv->ops->clock_get != NULL,
        /* The guest's, which this host may have to scale. */
        .tsc_khz = machine->guest_cpuid ? machine->guest_tsc_khz : hv->ops->tsc_khz(hv),
        .boot_ram_bytes = machine->config->memory.zones->len ? 0 : vm->boot_ram_bytes,
    };
    json_t *json;

    if (state.has_clock && !machine->hv->ops->clock_get(machine->hv, &state.clock_ns, error))
        return NULL;
    state.memory = g_new0(KumoMemRange, state.n_memory);
    for (unsigned i = 0; i < machine->memory->n_regions; i++) {
        state.memory[i].gpa = machine->memory->regions[i].gpa;
        state.memory[i].size_bytes = machine->memory->regions[i].size_bytes;
    }
    json = kumo_state_encode(&machine_table, &state);
    kumo_state_clear(&machine_table, &state);
    return json;
}

json_t *kumo_vm_save_machine(KumoVm *vm, GError **error)
{
    json_t *machine = save_machine(vm, error);

    return machine ? json_pack("{s:o}", "machine", machine) : NULL;
}

static json_t *save_irq(KumoVm *vm)
{
    KumoIrqState state;

    kumo_irq_save(vm->machine.irq, &state);
    return kumo_state_encode(&kumo_irq_state_table, &state);
}

static json_t *save_vcpus(KumoVm *vm, GError **error)
{
    json_t *array = json_array();

    /* A vCPU's place is its number: the guest may have let some go and not others. */
    for (unsigned i = 0; i < kumo_vcpus_end(vm->vcpus); i++) {
        KumoHvVcpu *vcpu = kumo_vcpus_get(vm->vcpus, i);
        KumoVcpuState state;
        bool ok;

        if (!vcpu) {
            json_array_append_new(array, json_null());
            continue;
        }
        ok = kumo_vcpu_state_save(vcpu, &state, error);
        if (ok)
            json_array_append_new(array, kumo_state_encode(&kumo_vcpu_state_table, &state));
        kumo_state_clear(&kumo_vcpu_state_table, &state);
        if (!ok) {
            kumo_prefix_error(error, "vCPU %u", i);
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *save_devices(KumoVm *vm)
{
    const GPtrArray *devices = vm->machine.devices;
    json_t *object = json_object();

    for (unsigned i = 0; i < devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(devices, i);
        const KumoDeviceState *ops = device->ops->state;
        g_autofree void *state = NULL;

        if (!ops)
            continue;
        state = g_malloc0(ops->table->size);
        ops->save(device, state);
        json_object_set_new(object, device->id,
                            json_pack("{s:s, s:o}", "type", device->ops->type, "state",
                                      kumo_state_encode(ops->table, state)));
        kumo_state_clear(ops->table, state);
    }
    return object;
}

json_t *kumo_vm_save_state(KumoVm *vm, GError **error)
{
    json_t *machine = save_machine(vm, error);
    json_t *vcpus = machine ? save_vcpus(vm, error) : NULL;

    if (!vcpus) {
        json_decref(machine);
        return NULL;
    }
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "format", STATE_FORMAT,
                     "version", STATE_VERSION, "made_by", KUMO_VERSION, "architecture",
                     vm->arch->name, "hypervisor", vm->machine.hv->hv->ops->name, "machine",
                     machine, "ioapic", save_irq(vm), "vcpus", vcpus, "devices", save_devices(vm));
}

/* --- loading --- */

#define wrong(error, ...) kumo_refuse(error, "state", __VA_ARGS__)

static bool check_head(const KumoVm *vm, const json_t *state, GError **error)
{
    const char *format = json_string_value(json_object_get(state, "format"));
    const char *arch = json_string_value(json_object_get(state, "architecture"));
    json_int_t version = json_integer_value(json_object_get(state, "version"));
    const char *key;
    json_t *value;

    if (g_strcmp0(format, STATE_FORMAT) != 0)
        return wrong(error, "format: this is not the state of a machine of kumo");
    if (version < 1)
        return wrong(error, "version: is missing");
    if (version > STATE_VERSION)
        return wrong(error,
                     "version: %" JSON_INTEGER_FORMAT
                     ", made by a newer kumo: this one reads up to version %d",
                     version, STATE_VERSION);
    if (g_strcmp0(arch, vm->arch->name) != 0)
        return wrong(error, "architecture: must be %s", vm->arch->name);
    json_object_foreach((json_t *)state, key, value)
    {
        static const char *const known[] = { "format",     "version", "made_by", "architecture",
                                             "hypervisor", "machine", "ioapic",  "vcpus",
                                             "devices",    NULL };

        if (!g_strv_contains(known, key) && !g_str_has_suffix(key, "?")) {
            g_autofree char *shown = g_strescape(key, NULL);

            return wrong(error, "there is no field \"%.64s\"", shown);
        }
    }
    return true;
}

bool kumo_vm_saved_memory(const json_t *state, uint64_t *ret_boot_ram_bytes,
                          KumoMemRange **ret_ranges, size_t *ret_n_ranges, GError **error)
{
    MachineState saved = { 0 };
    bool ok = kumo_state_decode(&machine_table, json_object_get(state, "machine"), "machine",
                                &saved, error);

    if (ok) {
        *ret_boot_ram_bytes = saved.boot_ram_bytes;
        *ret_ranges = g_steal_pointer(&saved.memory);
        *ret_n_ranges = saved.n_memory;
        saved.n_memory = 0;
    }
    kumo_state_clear(&machine_table, &saved);
    return ok;
}

static bool check_memory(const KumoMemory *memory, const MachineState *state, GError **error)
{
    if (state->n_memory != memory->n_regions)
        return wrong(error, "machine.memory: %zu ranges, this machine has %u", state->n_memory,
                     memory->n_regions);
    for (unsigned i = 0; i < memory->n_regions; i++) {
        if (!kumo_state_check_u64("machine.memory.gpa", state->memory[i].gpa,
                                  memory->regions[i].gpa, error) ||
            !kumo_state_check_u64("machine.memory.size_bytes", state->memory[i].size_bytes,
                                  memory->regions[i].size_bytes, error))
            return false;
    }
    return true;
}

static bool load_devices(KumoVm *vm, const json_t *devices, GError **error)
{
    size_t used = 0;
    const char *id;
    json_t *entry;

    if (!json_is_object(devices))
        return wrong(error, "devices: is missing");
    for (unsigned i = 0; i < vm->machine.devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(vm->machine.devices, i);
        const KumoDeviceState *ops = device->ops->state;
        g_autofree char *path = g_strdup_printf("devices.%s", device->id);
        g_autofree void *state = NULL;
        const json_t *saved = json_object_get(devices, device->id);
        const char *type = json_string_value(json_object_get(saved, "type"));
        bool ok;

        if (!ops)
            continue;
        if (!saved)
            return wrong(error, "%s: is missing, the configuration has this device", path);
        if (g_strcmp0(type, device->ops->type) != 0)
            return wrong(error, "%s.type: must be %s", path, device->ops->type);
        state = g_malloc(ops->table->size);
        ok = kumo_state_decode(ops->table, json_object_get(saved, "state"), path, state, error);
        if (ok && !ops->load(device, state, error)) {
            kumo_prefix_error(error, "device %s", device->id);
            ok = false;
        }
        kumo_state_clear(ops->table, state);
        if (!ok)
            return false;
        used++;
    }
    if (used == json_object_size(devices))
        return true;
    json_object_foreach((json_t *)devices, id, entry)
    {
        const KumoDevice *device = kumo_device_find(&vm->machine, id);

        if (!device || !device->ops->state) {
            g_autofree char *shown = g_strescape(id, NULL);

            return wrong(error, "devices: \"%.64s\" is not in the configuration", shown);
        }
    }
    return true;
}

static bool load_irq(KumoVm *vm, const json_t *json, GError **error)
{
    KumoIrqState state;

    return kumo_state_decode(&kumo_irq_state_table, json, "ioapic", &state, error) &&
           kumo_irq_load(vm->machine.irq, &state, error);
}

/* Each change of the hypervisor's routing table waits for all processors of the host: one will do.
 */
static bool load_devices_and_interrupts(KumoVm *vm, const json_t *json, GError **error)
{
    g_autoptr(GError) local = NULL;
    bool ok;

    kumo_irq_hold(vm->machine.irq);
    ok = load_devices(vm, json_object_get(json, "devices"), error) &&
         load_irq(vm, json_object_get(json, "ioapic"), error);
    return kumo_irq_release(vm->machine.irq, ok ? error : &local) && ok;
}

/* vCPUs that come later show what this one shows, not what the present host could. */
static void keep_processor(KumoMachine *machine, const KumoVcpuState *state, uint32_t tsc_khz)
{
    machine->guest_cpuid =
        g_array_sized_new(FALSE, FALSE, sizeof(KumoHvCpuid), (guint)state->n_cpuid);
    g_array_append_vals(machine->guest_cpuid, state->cpuid, (guint)state->n_cpuid);
    machine->guest_tsc_khz = tsc_khz;
}

static bool load_vcpus(KumoVm *vm, const json_t *array, uint32_t tsc_khz, GError **error)
{
    /* There are as many as this list has: see kumo_vm_create_vcpus(). */
    for (unsigned i = 0; i < kumo_vcpus_end(vm->vcpus); i++) {
        KumoHvVcpu *vcpu = kumo_vcpus_get(vm->vcpus, i);
        g_autofree char *path = g_strdup_printf("vcpus[%u]", i);
        KumoVcpuState state;
        bool ok;

        if (!vcpu)
            continue;
        ok = kumo_state_decode(&kumo_vcpu_state_table, json_array_get(array, i), path, &state,
                               error);
        if (ok && !kumo_vcpu_state_load(vcpu, &state, tsc_khz, error)) {
            kumo_prefix_error(error, "vCPU %u", i);
            ok = false;
        }
        if (ok && i == 0)
            keep_processor(&vm->machine, &state, tsc_khz);
        kumo_state_clear(&kumo_vcpu_state_table, &state);
        if (!ok)
            return false;
    }
    kumo_vcpus_have_run(vm->vcpus);
    return true;
}

static bool load_parts(KumoVm *vm, const json_t *json, const MachineState *state, GError **error)
{
    KumoMachine *machine = &vm->machine;

    return kumo_state_check_same(&layout_table, &state->layout, &machine->layout, error) &&
           check_memory(machine->memory, state, error) &&
           load_devices_and_interrupts(vm, json, error) &&
           load_vcpus(vm, json_object_get(json, "vcpus"), state->tsc_khz, error) &&
           (!state->has_clock || !machine->hv->ops->clock_set ||
            machine->hv->ops->clock_set(machine->hv, state->clock_ns, error));
}

bool kumo_vm_load_state(KumoVm *vm, const json_t *json, GError **error)
{
    MachineState state = { 0 };
    bool ok = check_head(vm, json, error) &&
              kumo_state_decode(&machine_table, json_object_get(json, "machine"), "machine", &state,
                                error) &&
              load_parts(vm, json, &state, error);

    kumo_state_clear(&machine_table, &state);
    return ok;
}
