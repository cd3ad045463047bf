/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The CPUID leaves that a guest sees: what the hypervisor offers, with the guest's own topology. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/config/config.h"
#include "vmm-core/hypervisor/hypervisor.h"

/* Widths and sizes of the topology levels; without a configured one all vCPUs are cores of one
 * package. */
typedef struct {
    uint32_t threads, cores, dies, packages;
    uint32_t thread_bits, core_bits, die_bits;
} KumoX86Topology;

void kumo_x86_topology(const KumoCpusConfig *cpus, KumoX86Topology *ret);

/* The APIC id of vCPU @index: package, die, core and thread number, each in the bits its level
 * needs. */
uint32_t kumo_x86_apic_id(const KumoCpusConfig *cpus, uint32_t index);

typedef struct {
    const KumoCpusConfig *cpus;
    uint32_t phys_bits; /* what the guest may see */
    uint32_t tsc_khz;   /* 0: unknown */
    uint32_t hv_caps;   /* of KumoHvCaps */
} KumoX86CpuidParams;

/**
 * kumo_x86_cpuid_complete:
 * @leaves: array of KumoHvCpuid that the hypervisor offers, changed in place
 *
 * Does everything that is the same for all vCPUs.
 */
void kumo_x86_cpuid_complete(GArray *leaves, const KumoX86CpuidParams *params);

/* Sets the leaves of one vCPU that hold its APIC id, and so its place in the topology. */
void kumo_x86_cpuid_set_vcpu(GArray *leaves, const KumoCpusConfig *cpus, uint32_t apic_id);

/**
 * kumo_x86_cpuid_has:
 * @name: of cpu_features.h; a feature that CPUID tells of
 *
 * Returns: whether @leaves show it.
 */
bool kumo_x86_cpuid_has(const GArray *leaves, const char *name);

/* One model-specific register of which a configured mask changes bits. */
typedef struct {
    uint32_t index;
    uint64_t hidden;
    uint64_t shown;
} KumoX86MsrMask;

enum { KUMO_X86_MSR_MASKS_MAX = 4 };

/* Returns: how many registers' masks of @cpus were written to @ret. */
unsigned kumo_x86_msr_masks(const KumoCpusConfig *cpus, KumoX86MsrMask ret[KUMO_X86_MSR_MASKS_MAX]);

/* Returns: the host's physical address width that leaf 0x80000008 of @leaves tells, 36 without it.
 */
uint32_t kumo_x86_cpuid_phys_bits(const GArray *leaves);
