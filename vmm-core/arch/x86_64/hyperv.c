/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest that knows Hyper-V is told (Hypervisor Top Level Functional Specification, 2.4). */
#include <string.h>

#include "vmm-core/arch/x86_64/cpuid_leaves.h"

#define LEAF_HYPERV_VERSION  0x40000002u
#define LEAF_HYPERV_FEATURES 0x40000003u
#define LEAF_HYPERV_ADVICE   0x40000004u
#define LEAF_HYPERV_LIMITS   0x40000005u
#define LEAF_HYPERV_NESTED   0x4000000au
#define LEAF_KVM_OFFSET      0x100u /* where KVM's leaves move to: guests look at each multiple */

#define INTERFACE_SIGNATURE 0x31237648u /* "Hv#1" */

enum {
    /* Leaf 3, EAX: model-specific registers that the guest may use. */
    ACCESS_VP_RUNTIME = BIT(0),
    ACCESS_REFERENCE_COUNTER = BIT(1),
    ACCESS_SYNIC = BIT(2),
    ACCESS_SYNTHETIC_TIMERS = BIT(3),
    ACCESS_APIC = BIT(4),
    ACCESS_HYPERCALLS = BIT(5),
    ACCESS_VP_INDEX = BIT(6),
    ACCESS_REFERENCE_TSC = BIT(9),
    ACCESS_FREQUENCIES = BIT(11),

    /* Leaf 3, EDX. */
    CPU_DYNAMIC_PARTITIONING = BIT(3),
    HYPERCALL_XMM_INPUT = BIT(4),
    FREQUENCIES_AVAILABLE = BIT(8),
    EXTENDED_GVA_FLUSH = BIT(14),

    /* Leaf 4, EAX: what the guest had better do. */
    ADVISE_LOCAL_TLB_FLUSH = BIT(1),
    ADVISE_REMOTE_TLB_FLUSH = BIT(2),
    ADVISE_APIC_MSRS = BIT(3),
    ADVISE_RELAXED_TIMING = BIT(5),
    ADVISE_NO_AUTO_EOI = BIT(9),
    ADVISE_CLUSTER_IPI = BIT(10),
    ADVISE_EX_PROCESSOR_MASKS = BIT(11),

    SPINLOCK_RETRIES = 0xfff, /* before the guest tells that it waits */
    VERSION_BUILD = 14393,    /* of Windows Server 2016, which all guests know */
    VERSION = 10 << 16,
};

void kumo_x86_cpuid_add_hyperv(GArray *leaves, const KumoCpusConfig *cpus)
{
    KumoHvCpuid vendor = { .leaf = LEAF_HV_BASE, .eax = LEAF_HYPERV_NESTED };

    for (guint i = 0; i < leaves->len; i++) {
        KumoHvCpuid *entry = &g_array_index(leaves, KumoHvCpuid, i);

        if (entry->leaf < LEAF_HV_BASE || entry->leaf >= LEAF_HV_BASE + LEAF_KVM_OFFSET)
            continue;
        if (entry->leaf == LEAF_HV_BASE)
            entry->eax += LEAF_KVM_OFFSET; /* the highest leaf moves along */
        entry->leaf += LEAF_KVM_OFFSET;
    }
    memcpy(&vendor.ebx, "Linu", 4);
    memcpy(&vendor.ecx, "x KV", 4);
    memcpy(&vendor.edx, "M Hv", 4);
    kumo_x86_cpuid_add(leaves, vendor);
    kumo_x86_cpuid_add(leaves,
                       (KumoHvCpuid){ .leaf = LEAF_HV_FEATURES, .eax = INTERFACE_SIGNATURE });
    kumo_x86_cpuid_add(
        leaves, (KumoHvCpuid){ .leaf = LEAF_HYPERV_VERSION, .eax = VERSION_BUILD, .ebx = VERSION });
    kumo_x86_cpuid_add(
        leaves, (KumoHvCpuid){ .leaf = LEAF_HYPERV_FEATURES,
                               .eax = ACCESS_VP_RUNTIME | ACCESS_REFERENCE_COUNTER | ACCESS_SYNIC |
                                      ACCESS_SYNTHETIC_TIMERS | ACCESS_APIC | ACCESS_HYPERCALLS |
                                      ACCESS_VP_INDEX | ACCESS_REFERENCE_TSC | ACCESS_FREQUENCIES,
                               .edx = CPU_DYNAMIC_PARTITIONING | HYPERCALL_XMM_INPUT |
                                      FREQUENCIES_AVAILABLE | EXTENDED_GVA_FLUSH });
    kumo_x86_cpuid_add(leaves, (KumoHvCpuid){ .leaf = LEAF_HYPERV_ADVICE,
                                              .eax = ADVISE_LOCAL_TLB_FLUSH |
                                                     ADVISE_REMOTE_TLB_FLUSH | ADVISE_APIC_MSRS |
                                                     ADVISE_RELAXED_TIMING | ADVISE_NO_AUTO_EOI |
                                                     ADVISE_CLUSTER_IPI | ADVISE_EX_PROCESSOR_MASKS,
                                              .ebx = SPINLOCK_RETRIES });
    kumo_x86_cpuid_add(leaves, (KumoHvCpuid){ .leaf = LEAF_HYPERV_LIMITS,
                                              .eax = cpus->max_vcpus,
                                              .ebx = cpus->max_vcpus });
    for (uint32_t leaf = LEAF_HYPERV_LIMITS + 1; leaf <= LEAF_HYPERV_NESTED; leaf++)
        kumo_x86_cpuid_add(leaves, (KumoHvCpuid){ .leaf = leaf });
}
