/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files that work on CPUID leaves share among themselves. */
#pragma once

#include "vmm-core/arch/x86_64/cpuid.h"

#define BIT(n) (1u << (n))

enum {
    LEAF_VENDOR = 0x0,
    LEAF_FEATURES = 0x1,
    LEAF_CACHES = 0x4,
    LEAF_EXT_FEATURES = 0x7,
    LEAF_TOPOLOGY = 0xb,
    LEAF_XSAVE = 0xd,
    LEAF_TILE = 0x1d,
    LEAF_TMUL = 0x1e,
    LEAF_TOPOLOGY_V2 = 0x1f,
};

#define LEAF_HV_BASE      0x40000000u
#define LEAF_HV_FEATURES  0x40000001u
#define LEAF_HV_TIMING    0x40000010u
#define LEAF_AMD_MAX      0x80000000u
#define LEAF_AMD_FEATURES 0x80000001u
#define LEAF_AMD_SIZES    0x80000008u
#define LEAF_AMD_SVM      0x8000000au
#define LEAF_AMD_CACHES   0x8000001du
#define LEAF_AMD_TOPOLOGY 0x8000001eu
#define LEAF_AMD_EXT_TOPO 0x80000026u

/* cpuid_leaves.c. Returns: (nullable): valid until a leaf is added or dropped. */
KumoHvCpuid *kumo_x86_cpuid_find(const GArray *leaves, uint32_t leaf, uint32_t subleaf);
/* Drops @leaf with all its subleaves. */
void kumo_x86_cpuid_drop(GArray *leaves, uint32_t leaf);
void kumo_x86_cpuid_add(GArray *leaves, KumoHvCpuid entry);
/* AMD and its licensee Hygon describe topology by extended leaves. */
bool kumo_x86_cpuid_is_amd(const GArray *leaves);

/* cpuid_mask.c */
void kumo_x86_cpuid_hide_amx(GArray *leaves);
/* Hides and shows what cpus->cpu_mask says; its bits of MSRs are not for here. */
void kumo_x86_cpuid_apply_mask(GArray *leaves, const KumoCpusConfig *cpus);
/* Takes the processor states away (leaf 0xd) whose instructions are not shown. */
void kumo_x86_cpuid_trim_xstates(GArray *leaves);

/* hyperv.c: puts Hyper-V's leaves where guests look first, those of KVM behind them. */
void kumo_x86_cpuid_add_hyperv(GArray *leaves, const KumoCpusConfig *cpus);
