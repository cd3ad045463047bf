/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/golden_machine.h"

#include <string.h>
#include <unistd.h>

#include "vmm-core/core/arch.h"
#include "vmm-core/core/vcpu_state.h"
#include "vmm-core/main/devices.h"

enum { DISK_BYTES = 1 << 20 };

/* The end of memory: the machines have little. */
#define HOTPLUG_GPA (1ULL << 32)

static char *disks[2];
static const json_t *present; /* the state that the machine is for */

static uint64_t number(const json_t *json)
{
    return json_is_string(json) ? g_ascii_strtoull(json_string_value(json), NULL, 16)
                                : (uint64_t)json_integer_value(json);
}

static uint64_t layout_number(const char *key)
{
    const json_t *layout = json_object_get(json_object_get(present, "machine"), "layout");

    g_assert_nonnull(json_object_get(layout, key));
    return number(json_object_get(layout, key));
}

static bool golden_layout(KumoHv *hv, const KumoVmConfig *config, KumoMachineLayout *ret,
                          KumoMemRange *ret_ranges, unsigned *ret_n_ranges, GError **error)
{
    const json_t *memory = json_object_get(json_object_get(present, "machine"), "memory");
    const json_t *range;
    size_t i;

    *ret = (KumoMachineLayout){
        .mmio32_base = layout_number("mmio32_base"),
        .mmio32_size = layout_number("mmio32_size"),
        .mmio64_base = layout_number("mmio64_base"),
        .mmio64_size = layout_number("mmio64_size"),
        .ecam_base = layout_number("ecam_base"),
        .hotplug_gpa = HOTPLUG_GPA,
        .platform_mmio_base = layout_number("platform_mmio_base"),
        .platform_mmio_size = layout_number("platform_mmio_size"),
        .pci_intx_gsi_base = (uint32_t)layout_number("pci_intx_gsi_base"),
        .ged_gsi = (uint32_t)layout_number("ged_gsi"),
        .serial_gsi = (uint32_t)layout_number("serial_gsi"),
        .phys_bits = (uint32_t)layout_number("phys_bits"),
    };
    *ret_n_ranges = 0;
    json_array_foreach(memory, i, range)
    {
        uint64_t gpa = number(json_object_get(range, "gpa"));

        if (gpa < ret->hotplug_gpa)
            ret_ranges[(*ret_n_ranges)++] =
                (KumoMemRange){ gpa, number(json_object_get(range, "size_bytes")) };
    }
    return true;
}

static uint32_t golden_apic_id(const KumoVmConfig *config, uint32_t index)
{
    return index;
}

static bool golden_load(KumoMachine *machine, KumoArchEntry *ret_entry, GError **error)
{
    return true;
}

/* The host's processor has what the guest's had. */
static bool golden_setup_vcpu(KumoMachine *machine, KumoHvVcpu *vcpu, const KumoArchEntry *entry,
                              GError **error)
{
    const json_t *saved = json_array_get(json_object_get(present, "vcpus"), vcpu->index);
    FakeHvVcpu *fake = (FakeHvVcpu *)vcpu;
    KumoVcpuState state;
    bool ok = kumo_state_decode(&kumo_vcpu_state_table, saved, "vcpu", &state, error) &&
              vcpu->ops->set_cpuid(vcpu, state.cpuid, state.n_cpuid, error);

    fake->xsave_len = MIN(state.xsave_len, sizeof(fake->xsave));
    kumo_state_clear(&kumo_vcpu_state_table, &state);
    return ok;
}

static const KumoArchOps golden_arch = {
    .name = "x86_64",
    .layout = golden_layout,
    .apic_id = golden_apic_id,
    .load = golden_load,
    .setup_vcpu = golden_setup_vcpu,
};

static bool no_memory(void *opaque, KumoMemory *memory, GError **error)
{
    return true;
}

void golden_machine_set_up(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(disks); i++) {
        int fd = g_file_open_tmp("kumo-golden-XXXXXX", &disks[i], NULL);

        g_assert_cmpint(ftruncate(fd, DISK_BYTES), ==, 0);
        close(fd);
    }
}

void golden_machine_tear_down(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(disks); i++) {
        unlink(disks[i]);
        g_clear_pointer(&disks[i], g_free);
    }
}

json_t *golden_machine_read(const char *name, const char *file)
{
    g_autofree char *path = g_build_filename(GOLDEN_DIR, name, file, NULL);
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);

    if (!json)
        g_error("%s: %s", path, error.text);
    return json;
}

json_t *golden_machine_state(const char *name)
{
    json_t *whole = golden_machine_read(name, "state.json");
    json_t *state = json_incref(json_object_get(whole, "state"));
    json_t *vcpu;
    size_t i;

    json_object_set_new(state, "hypervisor", json_string("fake"));
    json_array_foreach(json_object_get(state, "vcpus"), i, vcpu)
        json_object_set_new(vcpu, "xsave_format", json_string("fake"));
    json_decref(whole);
    return state;
}

static KumoVmConfig *read_config(const char *name, const json_t *state)
{
    json_t *json = golden_machine_read(name, "config.json");
    g_autoptr(GError) error = NULL;
    KumoVmConfig *config;

    if (!json_object_get(json_object_get(state, "devices"), GOLDEN_NET))
        json_object_del(json, "net");
    config = kumo_vm_config_from_json(json, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < config->disks->len; i++) {
        KumoDiskConfig *disk = config->disks->pdata[i];

        g_free(disk->path);
        disk->path = g_strdup(disks[i]);
    }
    json_decref(json);
    return config;
}

bool golden_machine_start(GoldenMachine *machine, const char *name, const json_t *good,
                          const json_t *state, GError **error)
{
    const KumoVmRestore from = { .state = state, .load_memory = no_memory };
    KumoVmParams params = { .arch = &golden_arch,
                            .device_types = kumo_device_types,
                            .restore = &from };

    present = good;
    machine->config = read_config(name, good);
    machine->hv = fake_hv_ops.open(error);
    params.hv = machine->hv;
    params.config = machine->config;
    machine->vm = kumo_vm_new(&params, error);
    return machine->vm != NULL;
}

void golden_machine_end(GoldenMachine *machine)
{
    if (machine->vm)
        kumo_vm_free(machine->vm);
    machine->hv->ops->close(machine->hv);
    kumo_vm_config_free(machine->config);
}
