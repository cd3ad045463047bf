/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/fake_vmm.h"

bool fake_arch_layout(KumoHv *hv, const KumoVmConfig *config, KumoMachineLayout *ret_layout,
                      KumoMemRange *ret_ranges, unsigned *ret_n_ranges, GError **error)
{
    ret_ranges[0] = (KumoMemRange){ 0, config->memory.size_bytes };
    *ret_n_ranges = 1;
    return true;
}

uint32_t fake_arch_apic_id(const KumoVmConfig *config, uint32_t index)
{
    return index * 2;
}

bool fake_arch_load(KumoMachine *machine, KumoArchEntry *ret_entry, GError **error)
{
    return true;
}

bool fake_arch_setup_vcpu(KumoMachine *machine, KumoHvVcpu *vcpu, const KumoArchEntry *entry,
                          GError **error)
{
    g_assert_true(!entry || vcpu->index == 0);
    return true;
}

const KumoArchOps fake_arch_ops = {
    .name = "fake",
    .layout = fake_arch_layout,
    .apic_id = fake_arch_apic_id,
    .load = fake_arch_load,
    .setup_vcpu = fake_arch_setup_vcpu,
};

KumoVmm *fake_vmm_new(const KumoArchOps *arch, const KumoDeviceType *const *device_types,
                      void (*event)(const char *source, const char *event, json_t *properties))
{
    static const KumoHvOps *const backends[] = { &fake_hv_ops, NULL };
    const KumoVmmParams params = {
        .backends = backends,
        .arch = arch,
        .device_types = device_types,
        .no_shutdown = true,
        .event = event,
    };

    return kumo_vmm_new(&params);
}

KumoVmConfig *fake_vmm_config_new(uint64_t ram_bytes, unsigned boot_vcpus, unsigned max_vcpus)
{
    KumoVmConfig *config = kumo_vm_config_new();

    config->payload.kernel = g_strdup("/kernel");
    config->memory.size_bytes = ram_bytes;
    config->cpus.boot_vcpus = boot_vcpus;
    config->cpus.max_vcpus = max_vcpus;
    config->console.mode = KUMO_CONSOLE_NULL;
    return config;
}
