/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Leaf layouts: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid. */
#include "vmm-core/arch/x86_64/cpuid_leaves.h"

#include <string.h>

enum {
    LEVEL_SMT = 1,
    LEVEL_CORE = 2,
    LEVEL_DIE = 5,
};

#define KVM_FEATURE_MSI_EXT_DEST_ID 15
#define APIC_BUS_KHZ                1000000u /* the local APIC timer's clock under KVM */

static uint32_t bits_for(uint32_t count)
{
    uint32_t bits = 0;

    while (bits < 16 && (1u << bits) < count)
        bits++;
    return bits;
}

void kumo_x86_topology(const KumoCpusConfig *cpus, KumoX86Topology *ret)
{
    if (cpus->has_topology)
        *ret = (KumoX86Topology){ .threads = MAX(cpus->topology.threads_per_core, 1),
                                  .cores = MAX(cpus->topology.cores_per_die, 1),
                                  .dies = MAX(cpus->topology.dies_per_package, 1),
                                  .packages = MAX(cpus->topology.packages, 1) };
    else
        *ret = (KumoX86Topology){
            .threads = 1, .cores = MAX(cpus->max_vcpus, 1), .dies = 1, .packages = 1
        };
    ret->thread_bits = bits_for(ret->threads);
    ret->core_bits = bits_for(ret->cores);
    ret->die_bits = bits_for(ret->dies);
}

uint32_t kumo_x86_apic_id(const KumoCpusConfig *cpus, uint32_t index)
{
    KumoX86Topology t;
    uint32_t thread, core, die, package;

    kumo_x86_topology(cpus, &t);
    thread = index % t.threads;
    core = index / t.threads % t.cores;
    die = index / t.threads / t.cores % t.dies;
    package = index / t.threads / t.cores / t.dies;
    return ((package << t.die_bits | die) << t.core_bits | core) << t.thread_bits | thread;
}

uint32_t kumo_x86_cpuid_phys_bits(const GArray *leaves)
{
    const KumoHvCpuid *sizes = kumo_x86_cpuid_find(leaves, LEAF_AMD_SIZES, 0);

    return sizes && (sizes->eax & 0xff) ? sizes->eax & 0xff : 36;
}

static void set_bit(uint32_t *reg, unsigned bit, bool on)
{
    *reg = on ? *reg | BIT(bit) : *reg & ~BIT(bit);
}

static void complete_features(GArray *leaves, const KumoX86CpuidParams *params,
                              const KumoX86Topology *t)
{
    KumoHvCpuid *entry = kumo_x86_cpuid_find(leaves, LEAF_FEATURES, 0);
    uint32_t per_package = BIT(t->thread_bits + t->core_bits + t->die_bits);

    if (entry) {
        entry->ecx |= BIT(31) | BIT(24) | BIT(21); /* hypervisor, TSC deadline timer, x2APIC */
        entry->edx |= BIT(12);                     /* MTRR */
        if (!params->cpus->nested)
            entry->ecx &= ~BIT(5); /* VMX */
        entry->ebx = (entry->ebx & 0xff00ffffu) | MIN(per_package, 255u) << 16;
        set_bit(&entry->edx, 28, per_package > 1); /* HTT: more than one logical processor */
    }
    entry = kumo_x86_cpuid_find(leaves, LEAF_AMD_FEATURES, 0);
    if (entry) {
        if (!params->cpus->nested)
            entry->ecx &= ~BIT(2); /* SVM */
        if (kumo_x86_cpuid_is_amd(leaves))
            set_bit(&entry->ecx, 1, per_package > 1); /* CmpLegacy */
    }
    if (!params->cpus->nested)
        kumo_x86_cpuid_drop(leaves, LEAF_AMD_SVM);
}

/* Intel's leaf 4 and AMD's 0x8000001d have one layout: level in bits 5-7 of EAX, sharers - 1 in
 * 14-25. */
static void complete_caches(GArray *leaves, uint32_t leaf, const KumoX86Topology *t)
{
    uint32_t per_core = BIT(t->thread_bits);
    uint32_t per_die = BIT(t->thread_bits + t->core_bits);
    uint32_t cores = BIT(t->core_bits + t->die_bits);

    for (guint i = 0; i < leaves->len; i++) {
        KumoHvCpuid *entry = &g_array_index(leaves, KumoHvCpuid, i);
        uint32_t sharers;

        if (entry->leaf != leaf || (entry->eax & 0x1f) == 0)
            continue;
        sharers = (entry->eax >> 5 & 7) <= 2 ? per_core : per_die;
        entry->eax = (entry->eax & 0x3fff) | (MIN(sharers, 4096u) - 1) << 14;
        if (leaf == LEAF_CACHES)
            entry->eax |= (MIN(cores, 64u) - 1) << 26;
    }
}

static void add_level(GArray *leaves, uint32_t leaf, uint32_t subleaf, uint32_t type,
                      uint32_t shift, uint32_t count)
{
    kumo_x86_cpuid_add(leaves, (KumoHvCpuid){ .leaf = leaf,
                                              .subleaf = subleaf,
                                              .subleaf_matters = true,
                                              .eax = shift,
                                              .ebx = count,
                                              .ecx = type << 8 | subleaf });
}

static void complete_topology(GArray *leaves, const KumoX86Topology *t)
{
    KumoHvCpuid *vendor = kumo_x86_cpuid_find(leaves, LEAF_VENDOR, 0);
    KumoHvCpuid *ext_max = kumo_x86_cpuid_find(leaves, LEAF_AMD_MAX, 0);
    KumoHvCpuid *entry;
    uint32_t core_shift = t->thread_bits + t->core_bits;
    uint32_t package_shift = core_shift + t->die_bits;
    uint32_t per_package = t->threads * t->cores * t->dies;

    kumo_x86_cpuid_drop(leaves, LEAF_TOPOLOGY);
    kumo_x86_cpuid_drop(leaves, LEAF_TOPOLOGY_V2);
    kumo_x86_cpuid_drop(leaves, LEAF_AMD_EXT_TOPO); /* guests then take leaf 0xb */
    if (vendor && vendor->eax >= LEAF_TOPOLOGY) {
        add_level(leaves, LEAF_TOPOLOGY, 0, LEVEL_SMT, t->thread_bits, t->threads);
        add_level(leaves, LEAF_TOPOLOGY, 1, LEVEL_CORE, package_shift, per_package);
        add_level(leaves, LEAF_TOPOLOGY, 2, 0, 0, 0);
    }
    /* adding moved the array */
    vendor = kumo_x86_cpuid_find(leaves, LEAF_VENDOR, 0);
    if (vendor && !kumo_x86_cpuid_is_amd(leaves) &&
        (vendor->eax >= LEAF_TOPOLOGY_V2 || t->dies > 1)) {
        vendor->eax = MAX(vendor->eax, (uint32_t)LEAF_TOPOLOGY_V2);
        add_level(leaves, LEAF_TOPOLOGY_V2, 0, LEVEL_SMT, t->thread_bits, t->threads);
        add_level(leaves, LEAF_TOPOLOGY_V2, 1, LEVEL_CORE, core_shift, t->threads * t->cores);
        add_level(leaves, LEAF_TOPOLOGY_V2, 2, LEVEL_DIE, package_shift, per_package);
        add_level(leaves, LEAF_TOPOLOGY_V2, 3, 0, 0, 0);
    }

    entry = kumo_x86_cpuid_find(leaves, LEAF_AMD_SIZES, 0);
    if (entry && kumo_x86_cpuid_is_amd(leaves))
        entry->ecx =
            (entry->ecx & ~0xf0ffu) | MIN(package_shift, 15u) << 12 | (MIN(per_package, 256u) - 1);

    complete_caches(leaves, LEAF_CACHES, t);
    complete_caches(leaves, LEAF_AMD_CACHES, t);
    kumo_x86_cpuid_drop(leaves, LEAF_AMD_TOPOLOGY);
    ext_max = kumo_x86_cpuid_find(leaves, LEAF_AMD_MAX, 0);
    if (kumo_x86_cpuid_is_amd(leaves) && ext_max && ext_max->eax >= LEAF_AMD_TOPOLOGY)
        kumo_x86_cpuid_add(leaves, (KumoHvCpuid){ .leaf = LEAF_AMD_TOPOLOGY,
                                                  .ebx = (t->threads - 1) << 8,
                                                  .ecx = (MIN(t->dies, 8u) - 1) << 8 });
}

static void complete_hypervisor(GArray *leaves, const KumoX86CpuidParams *params)
{
    KumoHvCpuid *base = kumo_x86_cpuid_find(leaves, LEAF_HV_BASE, 0);
    KumoHvCpuid *features;

    if (!base || memcmp(&base->ebx, "KVMK", 4) != 0)
        return;
    features = kumo_x86_cpuid_find(leaves, LEAF_HV_FEATURES, 0);
    if (features && params->hv_caps & KUMO_HV_CAP_MSI_EXT_DEST_ID)
        features->eax |= BIT(KVM_FEATURE_MSI_EXT_DEST_ID);
    if (!params->tsc_khz)
        return;
    base->eax = MAX(base->eax, LEAF_HV_TIMING);
    kumo_x86_cpuid_drop(leaves, LEAF_HV_TIMING);
    kumo_x86_cpuid_add(
        leaves,
        (KumoHvCpuid){ .leaf = LEAF_HV_TIMING, .eax = params->tsc_khz, .ebx = APIC_BUS_KHZ });
}

void kumo_x86_cpuid_complete(GArray *leaves, const KumoX86CpuidParams *params)
{
    KumoX86Topology t;
    KumoHvCpuid *sizes;

    kumo_x86_topology(params->cpus, &t);
    complete_features(leaves, params, &t);
    complete_topology(leaves, &t);
    complete_hypervisor(leaves, params);
    if (params->cpus->kvm_hyperv)
        kumo_x86_cpuid_add_hyperv(leaves, params->cpus);
    if (!params->cpus->features.amx)
        kumo_x86_cpuid_hide_amx(leaves);
    kumo_x86_cpuid_apply_mask(leaves, params->cpus);
    kumo_x86_cpuid_trim_xstates(leaves);
    sizes = kumo_x86_cpuid_find(leaves, LEAF_AMD_SIZES, 0);
    if (sizes) /* bits 16-23, a guest's own width, would win over bits 0-7 */
        sizes->eax = (sizes->eax & ~0xff00ffu) | params->phys_bits;
}

void kumo_x86_cpuid_set_vcpu(GArray *leaves, const KumoCpusConfig *cpus, uint32_t apic_id)
{
    KumoX86Topology t;

    kumo_x86_topology(cpus, &t);
    for (guint i = 0; i < leaves->len; i++) {
        KumoHvCpuid *entry = &g_array_index(leaves, KumoHvCpuid, i);

        switch (entry->leaf) {
        case LEAF_FEATURES:
            entry->ebx = (entry->ebx & 0x00ffffffu) | apic_id << 24;
            break;
        case LEAF_TOPOLOGY:
        case LEAF_TOPOLOGY_V2:
            entry->edx = apic_id;
            break;
        case LEAF_AMD_TOPOLOGY:
            entry->eax = apic_id;
            entry->ebx = (entry->ebx & ~0xffu) |
                         (apic_id >> t.thread_bits & (BIT(t.core_bits + t.die_bits) - 1) & 0xff);
            entry->ecx = (entry->ecx & ~0xffu) | (apic_id >> (t.thread_bits + t.core_bits) & 0xff);
            break;
        default:
            break;
        }
    }
}
