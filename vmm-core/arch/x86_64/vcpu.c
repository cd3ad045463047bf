/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/vcpu.h"

enum {
    MSR_MISC_ENABLE = 0x1a0,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,

    APIC_BASE_X2APIC = 1 << 10,
    MISC_ENABLE_FAST_STRINGS = 1 << 0,
    MTRR_ENABLED = 1 << 11,
    MTRR_WRITE_BACK = 6,

    /* Indices of KumoHvLapic: register offset / 0x10; and delivery modes (Intel SDM 3A, 10.5.1). */
    LAPIC_LVT_LINT0 = 0x35,
    LAPIC_LVT_LINT1 = 0x36,
    LVT_MODE_MASK = 7 << 8,
    LVT_MODE_NMI = 4 << 8,
    LVT_MODE_EXTINT = 7 << 8,
    LVT_MASKED = 1 << 16,
};

#define PAT_POWER_ON 0x0007040600070406ull

static bool set_up_msrs(KumoHvVcpu *vcpu, GError **error)
{
    /* All memory is write-back: without it guests with MTRRs take RAM for uncacheable. */
    static const KumoHvMsr msrs[] = {
        { MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS },
        { MSR_PAT, PAT_POWER_ON },
        { MSR_MTRR_DEF_TYPE, MTRR_ENABLED | MTRR_WRITE_BACK },
    };

    return vcpu->ops->set_msrs(vcpu, msrs, G_N_ELEMENTS(msrs), error);
}

/* The wiring that firmware would leave: LINT0 takes the external interrupt, LINT1 is the NMI. */
static bool set_up_lapic(KumoHvVcpu *vcpu, GError **error)
{
    KumoHvLapic lapic;
    uint32_t *lint0 = &lapic.regs[LAPIC_LVT_LINT0];
    uint32_t *lint1 = &lapic.regs[LAPIC_LVT_LINT1];

    if (!vcpu->ops->get_lapic(vcpu, &lapic, error))
        return false;
    *lint0 = (*lint0 & ~(uint32_t)(LVT_MODE_MASK | LVT_MASKED)) | LVT_MODE_EXTINT;
    *lint1 = (*lint1 & ~(uint32_t)(LVT_MODE_MASK | LVT_MASKED)) | LVT_MODE_NMI;
    return vcpu->ops->set_lapic(vcpu, &lapic, error);
}

static bool set_up_entry(KumoHvVcpu *vcpu, const KumoArchEntry *entry, GError **error)
{
    KumoHvSregs sregs = entry->sregs;
    KumoHvSregs power_on;

    /* The APIC base says which processor is the boot processor: the hypervisor knows. */
    if (!vcpu->ops->get_sregs(vcpu, &power_on, error))
        return false;
    sregs.apic_base = power_on.apic_base;
    return vcpu->ops->set_sregs(vcpu, &sregs, error) &&
           vcpu->ops->set_regs(vcpu, &entry->regs, error);
}

static bool set_up_apic_mode(KumoHvVcpu *vcpu, bool x2apic, GError **error)
{
    KumoHvSregs sregs;

    if (!x2apic)
        return true;
    if (!vcpu->ops->get_sregs(vcpu, &sregs, error))
        return false;
    sregs.apic_base |= APIC_BASE_X2APIC;
    return vcpu->ops->set_sregs(vcpu, &sregs, error);
}

bool kumo_x86_vcpu_power_on(KumoHvVcpu *vcpu, const KumoArchEntry *entry, bool x2apic,
                            GError **error)
{
    return set_up_msrs(vcpu, error) && set_up_apic_mode(vcpu, x2apic, error) &&
           set_up_lapic(vcpu, error) && (!entry || set_up_entry(vcpu, entry, error));
}
