/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The requests to /dev/kvm and what comes from it, by the thread that makes them. */
#include <linux/kvm.h>
#include <sys/syscall.h>

#include "vmm-core/kvm/kvm_internal.h"

static const KumoSyscall vcpu_calls[] = {
    { KUMO_IOCTL(KVM_GET_REGS) }, /* for the report of a failure */
    { KUMO_IOCTL(KVM_KVMCLOCK_CTRL) },
    /* Memory and interrupts that the guest moves by writing to a device's registers. */
    { KUMO_IOCTL(KVM_SET_USER_MEMORY_REGION) },
    { KUMO_IOCTL(KVM_SET_GSI_ROUTING) },
    { KUMO_IOCTL(KVM_IRQFD) },
    { KUMO_IOCTL(KVM_IOEVENTFD) },
    { KUMO_IOCTL(KVM_RUN) },
};

static const KumoSyscall device_calls[] = {
    { KUMO_IOCTL(KVM_SIGNAL_MSI) },
};

static const KumoSyscall dirty_calls[] = {
    { KUMO_IOCTL(KVM_SET_USER_MEMORY_REGION) }, /* on and off */
    { KUMO_IOCTL(KVM_GET_DIRTY_LOG) },
};

static const KumoSyscall machine_calls[] = {
    { KUMO_IOCTL(KVM_CHECK_EXTENSION) },
    { KUMO_IOCTL(KVM_CREATE_VCPU) },
    { KUMO_IOCTL(KVM_CREATE_VM) },
    { KUMO_IOCTL(KVM_ENABLE_CAP) },
    { KUMO_IOCTL(KVM_GET_API_VERSION) },
    { KUMO_IOCTL(KVM_GET_CLOCK) },
    { KUMO_IOCTL(KVM_GET_CPUID2) },
    { KUMO_IOCTL(KVM_GET_DEBUGREGS) },
    { KUMO_IOCTL(KVM_GET_LAPIC) },
    { KUMO_IOCTL(KVM_GET_MP_STATE) },
    { KUMO_IOCTL(KVM_GET_MSR_INDEX_LIST) },
    { KUMO_IOCTL(KVM_GET_MSRS) },
    { KUMO_IOCTL(KVM_GET_NESTED_STATE) },
    { KUMO_IOCTL(KVM_GET_SREGS) },
    { KUMO_IOCTL(KVM_GET_SUPPORTED_CPUID) },
    { KUMO_IOCTL(KVM_GET_TSC_KHZ) },
    { KUMO_IOCTL(KVM_GET_VCPU_EVENTS) },
    { KUMO_IOCTL(KVM_GET_VCPU_MMAP_SIZE) },
    { KUMO_IOCTL(KVM_GET_XCRS) },
    { KUMO_IOCTL(KVM_GET_XSAVE) },
    { KUMO_IOCTL(KVM_GET_XSAVE2) },
    { KUMO_IOCTL(KVM_NMI) },
    { KUMO_IOCTL(KVM_SET_CLOCK) },
    { KUMO_IOCTL(KVM_SET_CPUID2) },
    { KUMO_IOCTL(KVM_SET_DEBUGREGS) },
    { KUMO_IOCTL(KVM_SET_IDENTITY_MAP_ADDR) },
    { KUMO_IOCTL(KVM_SET_LAPIC) },
    { KUMO_IOCTL(KVM_SET_MP_STATE) },
    { KUMO_IOCTL(KVM_SET_MSRS) },
    { KUMO_IOCTL(KVM_SET_REGS) },
    { KUMO_IOCTL(KVM_SET_SREGS) },
    { KUMO_IOCTL(KVM_SET_TSC_KHZ) },
    { KUMO_IOCTL(KVM_SET_TSS_ADDR) },
    { KUMO_IOCTL(KVM_SET_VCPU_EVENTS) },
    { KUMO_IOCTL(KVM_SET_XCRS) },
    { KUMO_IOCTL(KVM_SET_XSAVE) },
    { KUMO_SYSCALL(arch_prctl) }, /* leave to let guests use AMX */
};

static const KumoSyscallTable vcpu_table = KUMO_SYSCALL_TABLE(vcpu_calls);
static const KumoSyscallTable device_table = KUMO_SYSCALL_TABLE(device_calls);
static const KumoSyscallTable dirty_table = KUMO_SYSCALL_TABLE(dirty_calls);
static const KumoSyscallTable machine_table = KUMO_SYSCALL_TABLE(machine_calls);

const KumoHypervisorSyscalls kumo_kvm_syscalls = {
    .vcpu = &vcpu_table,
    .device = &device_table,
    .dirty_log = &dirty_table,
    .machine = &machine_table,
};
