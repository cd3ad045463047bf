/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The processor features of x86 by the names that libvirt gives them, each with the one bit in
 * CPUID or in a model-specific register that tells a guest of it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    KUMO_CPUID_EAX,
    KUMO_CPUID_EBX,
    KUMO_CPUID_ECX,
    KUMO_CPUID_EDX,
    KUMO_CPUID_MSR, /* not CPUID: a bit of MSR leaf */
} KumoCpuidRegister;

/* Registers whose bits have names. */
typedef struct {
    uint32_t leaf; /* or the MSR's index */
    uint32_t subleaf;
    bool subleaf_matters;
    KumoCpuidRegister reg;
    const char *names[32]; /* by bit; NULL: no name */
} KumoCpuFeatureWord;

extern const KumoCpuFeatureWord kumo_cpu_feature_words[];
extern const unsigned kumo_n_cpu_feature_words;

/**
 * kumo_cpu_feature_find:
 * @name: as libvirt spells it, "avx512f"
 * @ret_bit: (out): the bit's number
 *
 * Returns: (nullable): the register that holds the feature's bit, NULL for a name that is not
 *     known.
 */
const KumoCpuFeatureWord *kumo_cpu_feature_find(const char *name, unsigned *ret_bit);
