/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the KVM backend share. */
#pragma once

#include <linux/kvm.h>

#include "vmm-core/hypervisor/hypervisor.h"

enum { KUMO_KVM_MSR_TSC = 0x10 };

typedef struct {
    KumoHv base;
    int fd;
    size_t run_size;  /* bytes of each vCPU's shared page */
    uint32_t tsc_khz; /* of the first vCPU made; 0 before */
    GArray *cpuid;    /* of KumoHvCpuid: what is supported; NULL: not asked for yet */
    bool x2apic_api;
} KumoKvm;

typedef struct {
    KumoHvVm base;
    KumoKvm *kvm;
    int fd;
    bool x2apic_ids;
    bool hyperv;
    size_t xsave_bytes; /* of a vCPU's extended state */
    bool xsave2;        /* it may be larger than a page, and there is the call for that */
    bool clock_saved;
    struct kvm_clock_data clock; /* while paused */
} KumoKvmVm;

typedef struct {
    KumoHvVcpu base;
    int fd;
    struct kvm_run *run; /* shared with the kernel */
    size_t run_size;
    const KumoHvBusOps *bus;
    void *opaque;
} KumoKvmVcpu;

extern const KumoHypervisorSyscalls kumo_kvm_syscalls;

/* kvm_vm.c. Returns: (transfer full) */
KumoHvVm *kumo_kvm_vm_create(KumoHv *hv, const KumoHvVmParams *params, GError **error);

/* kvm_vcpu.c. Returns: (transfer full) */
KumoHvVcpu *kumo_kvm_vcpu_create(KumoHvVm *vm, uint32_t index, uint32_t apic_id,
                                 const KumoHvBusOps *bus, void *opaque, GError **error);

/* kvm_x86.c: the converters and the operations of a vCPU that use them. */
/* Returns: (transfer full): of KumoHvCpuid. */
GArray *kumo_kvm_cpuid_from(const struct kvm_cpuid2 *cpuid);
GArray *kumo_kvm_cpuid_base(KumoHv *hv, GError **error);
bool kumo_kvm_get_regs(KumoHvVcpu *vcpu, KumoHvRegs *ret, GError **error);
bool kumo_kvm_set_regs(KumoHvVcpu *vcpu, const KumoHvRegs *regs, GError **error);
bool kumo_kvm_get_sregs(KumoHvVcpu *vcpu, KumoHvSregs *ret, GError **error);
bool kumo_kvm_set_sregs(KumoHvVcpu *vcpu, const KumoHvSregs *sregs, GError **error);
bool kumo_kvm_set_cpuid(KumoHvVcpu *vcpu, const KumoHvCpuid *entries, size_t n_entries,
                        GError **error);
bool kumo_kvm_get_msrs(KumoHvVcpu *vcpu, KumoHvMsr *msrs, size_t n_msrs, GError **error);
bool kumo_kvm_set_msrs(KumoHvVcpu *vcpu, const KumoHvMsr *msrs, size_t n_msrs, GError **error);
bool kumo_kvm_get_lapic(KumoHvVcpu *vcpu, KumoHvLapic *ret, GError **error);
bool kumo_kvm_set_lapic(KumoHvVcpu *vcpu, const KumoHvLapic *lapic, GError **error);

/* kvm_state.c: what snapshots need besides. */
void kumo_kvm_vm_find_xsave(KumoKvmVm *vm);
GArray *kumo_kvm_get_cpuid(KumoHvVcpu *vcpu, GError **error);
GArray *kumo_kvm_get_all_msrs(KumoHvVcpu *vcpu, GError **error);
GByteArray *kumo_kvm_get_xsave(KumoHvVcpu *vcpu, GError **error);
bool kumo_kvm_set_xsave(KumoHvVcpu *vcpu, const uint8_t *data, size_t len, GError **error);
bool kumo_kvm_get_xcr0(KumoHvVcpu *vcpu, uint64_t *ret, GError **error);
bool kumo_kvm_set_xcr0(KumoHvVcpu *vcpu, uint64_t xcr0, GError **error);
bool kumo_kvm_get_debug_regs(KumoHvVcpu *vcpu, KumoHvDebugRegs *ret, GError **error);
bool kumo_kvm_set_debug_regs(KumoHvVcpu *vcpu, const KumoHvDebugRegs *regs, GError **error);
bool kumo_kvm_get_events(KumoHvVcpu *vcpu, KumoHvEvents *ret, GError **error);
bool kumo_kvm_set_events(KumoHvVcpu *vcpu, const KumoHvEvents *events, GError **error);
bool kumo_kvm_get_mp_state(KumoHvVcpu *vcpu, KumoHvMpState *ret, GError **error);
bool kumo_kvm_set_mp_state(KumoHvVcpu *vcpu, KumoHvMpState state, GError **error);
bool kumo_kvm_check_nested(KumoHvVcpu *vcpu, GError **error);
bool kumo_kvm_set_tsc_khz(KumoHvVcpu *vcpu, uint32_t khz, GError **error);

/* Sets @error (HYPERVISOR) from errno of the failed ioctl @name. Returns: FALSE. */
bool kumo_kvm_failed(const char *name, GError **error);
