/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/kvm/kvm_internal.h"

/* Hypervisor Top Level Functional Specification, appendix B. */
enum { HV_STATUS_INVALID_HYPERCALL_CODE = 2 };

static const char *const exit_names[] = {
    [KVM_EXIT_UNKNOWN] = "UNKNOWN",
    [KVM_EXIT_EXCEPTION] = "EXCEPTION",
    [KVM_EXIT_HYPERCALL] = "HYPERCALL",
    [KVM_EXIT_DEBUG] = "DEBUG",
    [KVM_EXIT_HLT] = "HLT",
    [KVM_EXIT_IRQ_WINDOW_OPEN] = "IRQ_WINDOW_OPEN",
    [KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY",
    [KVM_EXIT_SET_TPR] = "SET_TPR",
    [KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS",
    [KVM_EXIT_NMI] = "NMI",
    [KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR",
    [KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT",
    [KVM_EXIT_HYPERV] = "HYPERV",
    [KVM_EXIT_X86_RDMSR] = "X86_RDMSR",
    [KVM_EXIT_X86_WRMSR] = "X86_WRMSR",
    [KVM_EXIT_DIRTY_RING_FULL] = "DIRTY_RING_FULL",
    [KVM_EXIT_X86_BUS_LOCK] = "X86_BUS_LOCK",
};

static void vcpu_destroy(KumoHvVcpu *base)
{
    KumoKvmVcpu *vcpu = (KumoKvmVcpu *)base;

    munmap(vcpu->run, vcpu->run_size);
    close(vcpu->fd);
    g_free(vcpu);
}

static void complete_io(KumoKvmVcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    uint16_t port = run->io.port;
    unsigned size = run->io.size;

    /* A string instruction brings several at once. */
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        if (run->io.direction == KVM_EXIT_IO_IN)
            vcpu->bus->pio_read(vcpu->opaque, port, data, size);
        else
            vcpu->bus->pio_write(vcpu->opaque, port, data, size);
    }
}

static void complete_mmio(KumoKvmVcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    unsigned size = MIN(run->mmio.len, sizeof(run->mmio.data));

    if (run->mmio.is_write)
        vcpu->bus->mmio_write(vcpu->opaque, run->mmio.phys_addr, run->mmio.data, size);
    else
        vcpu->bus->mmio_read(vcpu->opaque, run->mmio.phys_addr, run->mmio.data, size);
}

/* What KVM does not do of Hyper-V by itself: there are no message or event ports behind us. */
static void complete_hyperv(KumoKvmVcpu *vcpu)
{
    if (vcpu->run->hyperv.type == KVM_EXIT_HYPERV_HCALL)
        vcpu->run->hyperv.u.hcall.result = HV_STATUS_INVALID_HYPERCALL_CODE;
}

/* " at rip 0x…", or nothing if the registers cannot be read any more. */
static char *where(KumoKvmVcpu *vcpu)
{
    struct kvm_regs regs;

    if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
        return g_strdup("");
    return g_strdup_printf(" at rip 0x%llx", regs.rip);
}

static void describe_internal_error(const struct kvm_run *run, GString *text)
{
    uint32_t ndata = MIN(run->internal.ndata, G_N_ELEMENTS(run->internal.data));

    g_string_append_printf(text, " (suberror %u", run->internal.suberror);
    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && ndata >= 1 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        unsigned n =
            MIN(run->emulation_failure.insn_size, sizeof(run->emulation_failure.insn_bytes));

        g_string_append(text, ", cannot emulate the instruction");
        for (unsigned i = 0; i < n; i++)
            g_string_append_printf(text, " %02x", run->emulation_failure.insn_bytes[i]);
    } else {
        for (uint32_t i = 0; i < ndata; i++)
            g_string_append_printf(text, "%s0x%llx", i ? " " : ", data ", run->internal.data[i]);
    }
    g_string_append_c(text, ')');
}

/* An exit that the vCPU cannot go on after. Returns: FALSE with @error set. */
static bool fatal_exit(KumoKvmVcpu *vcpu, KumoHvExit *ret_exit, GError **error)
{
    const struct kvm_run *run = vcpu->run;
    uint32_t reason = run->exit_reason;
    const char *name = reason < G_N_ELEMENTS(exit_names) ? exit_names[reason] : NULL;
    g_autofree char *at = where(vcpu);
    g_autoptr(GString) text = g_string_new(NULL);

    g_string_append_printf(text, "KVM exit %u (%s)%s", reason, name ? name : "unexpected", at);
    switch (reason) {
    case KVM_EXIT_INTERNAL_ERROR:
        describe_internal_error(run, text);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        g_string_append_printf(text, " (hardware reason 0x%llx)",
                               run->fail_entry.hardware_entry_failure_reason);
        break;
    case KVM_EXIT_UNKNOWN:
        g_string_append_printf(text, " (hardware reason 0x%llx)", run->hw.hardware_exit_reason);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        g_string_append_printf(text, " (event %u)", run->system_event.type);
        break;
    default:
        break;
    }
    ret_exit->kind = KUMO_HV_EXIT_ERROR;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR, "vCPU %u: %s", vcpu->base.index,
                text->str);
    return false;
}

static bool vcpu_run(KumoHvVcpu *base, KumoHvExit *ret_exit, GError **error)
{
    KumoKvmVcpu *vcpu = (KumoKvmVcpu *)base;
    struct kvm_run *run = vcpu->run;

    for (;;) {
        if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
            int err = errno;
            g_autofree char *at = NULL;

            /* The kernel has completed the access before it looks at signals and immediate_exit. */
            if (err == EINTR || err == EAGAIN) {
                ret_exit->kind = KUMO_HV_EXIT_AGAIN;
                return true;
            }
            at = where(vcpu);
            ret_exit->kind = KUMO_HV_EXIT_ERROR;
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR, "vCPU %u: KVM_RUN%s: %s",
                        base->index, at, g_strerror(err));
            return false;
        }
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            complete_io(vcpu);
            break;
        case KVM_EXIT_MMIO:
            complete_mmio(vcpu);
            break;
        case KVM_EXIT_HYPERV:
            complete_hyperv(vcpu);
            break;
        case KVM_EXIT_INTR:
            ret_exit->kind = KUMO_HV_EXIT_AGAIN;
            return true;
        case KVM_EXIT_IOAPIC_EOI:
            ret_exit->kind = KUMO_HV_EXIT_IOAPIC_EOI;
            ret_exit->vector = run->eoi.vector;
            return true;
        case KVM_EXIT_SHUTDOWN:
            ret_exit->kind = KUMO_HV_EXIT_RESET;
            return true;
        case KVM_EXIT_SYSTEM_EVENT:
            if (run->system_event.type == KVM_SYSTEM_EVENT_RESET) {
                ret_exit->kind = KUMO_HV_EXIT_RESET;
                return true;
            }
            if (run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) {
                ret_exit->kind = KUMO_HV_EXIT_SHUTDOWN;
                return true;
            }
            return fatal_exit(vcpu, ret_exit, error);
        default:
            return fatal_exit(vcpu, ret_exit, error);
        }
    }
}

static void vcpu_set_immediate_exit(KumoHvVcpu *base, bool on)
{
    __atomic_store_n(&((KumoKvmVcpu *)base)->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

static bool vcpu_nmi(KumoHvVcpu *base, GError **error)
{
    return ioctl(((KumoKvmVcpu *)base)->fd, KVM_NMI, 0) == 0 || kumo_kvm_failed("NMI", error);
}

static void vcpu_clock_paused(KumoHvVcpu *base)
{
    /* EINVAL: the guest has no kvmclock, and nobody to tell. */
    if (ioctl(((KumoKvmVcpu *)base)->fd, KVM_KVMCLOCK_CTRL, 0) < 0 && errno != EINVAL)
        kumo_warn("vCPU %u: KVM: KVMCLOCK_CTRL: %s", base->index, g_strerror(errno));
}

static const KumoHvVcpuOps vcpu_ops = {
    .destroy = vcpu_destroy,
    .run = vcpu_run,
    .set_immediate_exit = vcpu_set_immediate_exit,
    .get_regs = kumo_kvm_get_regs,
    .set_regs = kumo_kvm_set_regs,
    .get_sregs = kumo_kvm_get_sregs,
    .set_sregs = kumo_kvm_set_sregs,
    .set_cpuid = kumo_kvm_set_cpuid,
    .get_msrs = kumo_kvm_get_msrs,
    .set_msrs = kumo_kvm_set_msrs,
    .get_lapic = kumo_kvm_get_lapic,
    .set_lapic = kumo_kvm_set_lapic,
    .nmi = vcpu_nmi,
    .get_cpuid = kumo_kvm_get_cpuid,
    .get_all_msrs = kumo_kvm_get_all_msrs,
    .get_xsave = kumo_kvm_get_xsave,
    .set_xsave = kumo_kvm_set_xsave,
    .get_xcr0 = kumo_kvm_get_xcr0,
    .set_xcr0 = kumo_kvm_set_xcr0,
    .get_debug_regs = kumo_kvm_get_debug_regs,
    .set_debug_regs = kumo_kvm_set_debug_regs,
    .get_events = kumo_kvm_get_events,
    .set_events = kumo_kvm_set_events,
    .get_mp_state = kumo_kvm_get_mp_state,
    .set_mp_state = kumo_kvm_set_mp_state,
    .check_nested = kumo_kvm_check_nested,
    .set_tsc_khz = kumo_kvm_set_tsc_khz,
    .clock_paused = vcpu_clock_paused,
};

static bool enable_synic(int fd, GError **error)
{
    const struct kvm_enable_cap enable = { .cap = KVM_CAP_HYPERV_SYNIC2 };

    return ioctl(fd, KVM_ENABLE_CAP, &enable) == 0 ||
           kumo_kvm_failed("ENABLE_CAP HYPERV_SYNIC2", error);
}

KumoHvVcpu *kumo_kvm_vcpu_create(KumoHvVm *base, uint32_t index, uint32_t apic_id,
                                 const KumoHvBusOps *bus, void *opaque, GError **error)
{
    KumoKvmVm *vm = (KumoKvmVm *)base;
    kumo_auto_fd fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)apic_id);
    KumoKvmVcpu *vcpu;
    void *run;

    if (fd < 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR,
                    "KVM: CREATE_VCPU %u (APIC id %u): %s", index, apic_id, g_strerror(errno));
        return NULL;
    }
    if (vm->hyperv && !enable_synic(fd, error))
        return NULL;
    run = mmap(NULL, vm->kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED) {
        kumo_set_error_errno(error, errno, "vCPU %u: mapping its run structure", index);
        return NULL;
    }
    if (vm->kvm->tsc_khz == 0) {
        int khz = ioctl(fd, KVM_GET_TSC_KHZ, 0);

        vm->kvm->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    }
    vcpu = g_new0(KumoKvmVcpu, 1);
    vcpu->base.ops = &vcpu_ops;
    vcpu->base.vm = base;
    vcpu->base.index = index;
    vcpu->fd = kumo_fd_steal(&fd);
    vcpu->run = run;
    vcpu->run_size = vm->kvm->run_size;
    vcpu->bus = bus;
    vcpu->opaque = opaque;
    return &vcpu->base;
}
