/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU's state between the hypervisor and a state table. The vCPU is parked or has no thread. */
#pragma once

#include "vmm-core/core/state.h"
#include "vmm-core/hypervisor/hypervisor.h"

typedef struct {
    KumoHvRegs regs;
    KumoHvSregs sregs;
    KumoHvCpuid *cpuid;
    size_t n_cpuid;
    KumoHvMsr *msrs;
    size_t n_msrs;
    KumoHvLapic lapic;
    KumoHvDebugRegs debug;
    KumoHvEvents events;
    uint8_t mp_state; /* of KumoHvMpState */
    uint64_t xcr0;
    char *xsave_format; /* whose layout xsave has: the backend's name */
    uint8_t *xsave;
    size_t xsave_len;
} KumoVcpuState;

extern const KumoStateTable kumo_vcpu_state_table;

/**
 * kumo_vcpu_state_save:
 * @ret: (out caller-allocates): kumo_state_clear() it in any case
 *
 * Returns: TRUE, or FALSE with @error (NOT_SUPPORTED if the backend cannot tell it).
 */
bool kumo_vcpu_state_save(KumoHvVcpu *vcpu, KumoVcpuState *ret, GError **error);

/**
 * kumo_vcpu_state_load:
 * @vcpu: set up as at power-on, never run
 * @tsc_khz: the rate of the TSC that the guest knows, 0: unknown
 *
 * Refuses a processor that shows the guest less than it saw before, naming the CPUID leaf.
 */
bool kumo_vcpu_state_load(KumoHvVcpu *vcpu, const KumoVcpuState *state, uint32_t tsc_khz,
                          GError **error);
