/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/x86_64.h"

#include <elf.h>

#include "vmm-core/arch/x86_64/acpi.h"
#include "vmm-core/arch/x86_64/boot.h"
#include "vmm-core/arch/x86_64/core_notes.h"
#include "vmm-core/arch/x86_64/cpuid.h"
#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/arch/x86_64/mp_table.h"
#include "vmm-core/arch/x86_64/smbios.h"
#include "vmm-core/arch/x86_64/vcpu.h"
#include "vmm-core/base/error.h"

static bool x86_layout(KumoHv *hv, const KumoVmConfig *config, KumoMachineLayout *ret_layout,
                       KumoMemRange *ret_ranges, unsigned *ret_n_ranges, GError **error)
{
    uint32_t max_apic_id = hv->ops->caps(hv) & KUMO_HV_CAP_MSI_EXT_DEST_ID ? KUMO_X86_MAX_X2APIC_ID
                                                                           : KUMO_X86_MAX_XAPIC_ID;
    g_autoptr(GArray) leaves = NULL;

    for (uint32_t i = 0; i < config->cpus.max_vcpus; i++) {
        uint32_t apic_id = kumo_x86_apic_id(&config->cpus, i);

        if (apic_id > max_apic_id) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "cpus: the topology gives vCPU %u the APIC id %u, the highest possible on "
                        "this host "
                        "is %u",
                        i, apic_id, max_apic_id);
            return false;
        }
    }
    leaves = hv->ops->cpuid_base(hv, error);
    if (leaves && config->cpus.features.amx && !kumo_x86_cpuid_has(leaves, "amx-tile")) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "cpus.features.amx: this host's processor or %s has no AMX", hv->ops->name);
        return false;
    }
    return leaves && kumo_x86_layout_fill(config, kumo_x86_cpuid_phys_bits(leaves), ret_layout,
                                          ret_ranges, ret_n_ranges, error);
}

static uint32_t x86_apic_id(const KumoVmConfig *config, uint32_t index)
{
    return kumo_x86_apic_id(&config->cpus, index);
}

static bool x86_load(KumoMachine *machine, KumoArchEntry *ret_entry, GError **error)
{
    const KumoVmConfig *config = machine->config;
    uint64_t smbios_end;

    return kumo_x86_load_payload(machine->memory, &config->payload, KUMO_X86_EBDA_GPA, ret_entry,
                                 error) &&
           kumo_x86_acpi_write(machine->memory, config, machine->devices, error) &&
           kumo_x86_smbios_write(machine->memory, &config->platform, &smbios_end, error) &&
           kumo_x86_mp_table_write(machine->memory, &config->cpus, smbios_end, error);
}

static bool apply_msr_masks(KumoHvVcpu *vcpu, const KumoCpusConfig *cpus, GError **error)
{
    KumoX86MsrMask masks[KUMO_X86_MSR_MASKS_MAX];
    unsigned n = kumo_x86_msr_masks(cpus, masks);

    for (unsigned i = 0; i < n; i++) {
        KumoHvMsr msr = { .index = masks[i].index };
        g_autoptr(GError) absent = NULL;

        if (!vcpu->ops->get_msrs(vcpu, &msr, 1, &absent)) {
            /* A register that is not there has nothing to hide. */
            if (!masks[i].shown)
                continue;
            g_propagate_error(error, g_steal_pointer(&absent));
            kumo_prefix_error(error, "cpus.cpu_mask");
            return false;
        }
        msr.value = (msr.value & ~masks[i].hidden) | masks[i].shown;
        if (!vcpu->ops->set_msrs(vcpu, &msr, 1, error)) {
            kumo_prefix_error(error, "cpus.cpu_mask");
            return false;
        }
    }
    return true;
}

static bool x86_setup_vcpu(KumoMachine *machine, KumoHvVcpu *vcpu, const KumoArchEntry *entry,
                           GError **error)
{
    KumoHv *hv = machine->hv->hv;
    const KumoCpusConfig *cpus = &machine->config->cpus;
    KumoX86CpuidParams params = {
        .cpus = cpus,
        .phys_bits = machine->layout.phys_bits,
        .tsc_khz = hv->ops->tsc_khz(hv),
        .hv_caps = hv->ops->caps(hv),
    };
    g_autoptr(GArray) leaves =
        machine->guest_cpuid ? g_array_copy(machine->guest_cpuid) : hv->ops->cpuid_base(hv, error);
    bool x2apic;

    if (!leaves)
        return false;
    if (!machine->guest_cpuid)
        kumo_x86_cpuid_complete(leaves, &params);
    kumo_x86_cpuid_set_vcpu(leaves, cpus, kumo_x86_apic_id(cpus, vcpu->index));
    /* Ids that the xAPIC has no bits for: the guest finds every local APIC in x2APIC mode. */
    x2apic = kumo_x86_apic_id(cpus, cpus->max_vcpus - 1) > KUMO_X86_MAX_XAPIC_ID;
    return vcpu->ops->set_cpuid(vcpu, (const KumoHvCpuid *)(const void *)leaves->data, leaves->len,
                                error) &&
           kumo_x86_vcpu_power_on(vcpu, entry, x2apic, error) && apply_msr_masks(vcpu, cpus, error);
}

const KumoArchOps kumo_arch_x86_64 = {
    .name = "x86_64",
    .layout = x86_layout,
    .apic_id = x86_apic_id,
    .load = x86_load,
    .setup_vcpu = x86_setup_vcpu,
    .elf_machine = EM_X86_64,
    .core_notes = kumo_x86_core_notes,
};
