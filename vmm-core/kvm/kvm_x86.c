/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between the neutral processor state of x86-64 and KVM's structures. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm-core/base/error.h"
#include "vmm-core/kvm/kvm_internal.h"

enum { CPUID_ENTRIES_FIRST = 128, CPUID_ENTRIES_MAX = 4096, LAPIC_STRIDE = 0x10 };

#define COPY_REGS(to, from)                                                                        \
    do {                                                                                           \
        (to).rax = (from).rax;                                                                     \
        (to).rbx = (from).rbx;                                                                     \
        (to).rcx = (from).rcx;                                                                     \
        (to).rdx = (from).rdx;                                                                     \
        (to).rsi = (from).rsi;                                                                     \
        (to).rdi = (from).rdi;                                                                     \
        (to).rsp = (from).rsp;                                                                     \
        (to).rbp = (from).rbp;                                                                     \
        (to).r8 = (from).r8;                                                                       \
        (to).r9 = (from).r9;                                                                       \
        (to).r10 = (from).r10;                                                                     \
        (to).r11 = (from).r11;                                                                     \
        (to).r12 = (from).r12;                                                                     \
        (to).r13 = (from).r13;                                                                     \
        (to).r14 = (from).r14;                                                                     \
        (to).r15 = (from).r15;                                                                     \
        (to).rip = (from).rip;                                                                     \
        (to).rflags = (from).rflags;                                                               \
    } while (0)

/* The fields of a segment that have the same names on both sides: all. */
#define COPY_SEGMENT(to, from)                                                                     \
    do {                                                                                           \
        (to).base = (from).base;                                                                   \
        (to).limit = (from).limit;                                                                 \
        (to).selector = (from).selector;                                                           \
        (to).type = (from).type;                                                                   \
        (to).present = (from).present;                                                             \
        (to).dpl = (from).dpl;                                                                     \
        (to).db = (from).db;                                                                       \
        (to).s = (from).s;                                                                         \
        (to).l = (from).l;                                                                         \
        (to).g = (from).g;                                                                         \
        (to).avl = (from).avl;                                                                     \
        (to).unusable = (from).unusable;                                                           \
    } while (0)

#define COPY_SEGMENTS(to, from)                                                                    \
    do {                                                                                           \
        COPY_SEGMENT((to).cs, (from).cs);                                                          \
        COPY_SEGMENT((to).ds, (from).ds);                                                          \
        COPY_SEGMENT((to).es, (from).es);                                                          \
        COPY_SEGMENT((to).fs, (from).fs);                                                          \
        COPY_SEGMENT((to).gs, (from).gs);                                                          \
        COPY_SEGMENT((to).ss, (from).ss);                                                          \
        COPY_SEGMENT((to).tr, (from).tr);                                                          \
        COPY_SEGMENT((to).ldt, (from).ldt);                                                        \
        (to).gdt.base = (from).gdt.base;                                                           \
        (to).gdt.limit = (from).gdt.limit;                                                         \
        (to).idt.base = (from).idt.base;                                                           \
        (to).idt.limit = (from).idt.limit;                                                         \
        (to).cr0 = (from).cr0;                                                                     \
        (to).cr2 = (from).cr2;                                                                     \
        (to).cr3 = (from).cr3;                                                                     \
        (to).cr4 = (from).cr4;                                                                     \
        (to).cr8 = (from).cr8;                                                                     \
        (to).efer = (from).efer;                                                                   \
        (to).apic_base = (from).apic_base;                                                         \
    } while (0)

static int vcpu_fd(KumoHvVcpu *vcpu)
{
    return ((KumoKvmVcpu *)vcpu)->fd;
}

GArray *kumo_kvm_cpuid_from(const struct kvm_cpuid2 *cpuid)
{
    GArray *ret = g_array_sized_new(FALSE, TRUE, sizeof(KumoHvCpuid), cpuid->nent);

    for (unsigned i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        const KumoHvCpuid neutral = {
            .leaf = entry->function,
            .subleaf = entry->index,
            .subleaf_matters = (entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
            .eax = entry->eax,
            .ebx = entry->ebx,
            .ecx = entry->ecx,
            .edx = entry->edx,
        };

        g_array_append_val(ret, neutral);
    }
    return ret;
}

GArray *kumo_kvm_cpuid_base(KumoHv *hv, GError **error)
{
    KumoKvm *kvm = (KumoKvm *)hv;

    if (kvm->cpuid)
        return g_array_copy(kvm->cpuid);
    for (unsigned n = CPUID_ENTRIES_FIRST; n <= CPUID_ENTRIES_MAX; n *= 2) {
        g_autofree struct kvm_cpuid2 *cpuid =
            g_malloc0(sizeof(*cpuid) + n * sizeof(struct kvm_cpuid_entry2));

        cpuid->nent = n;
        if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
            if (errno == E2BIG)
                continue;
            kumo_kvm_failed("GET_SUPPORTED_CPUID", error);
            return NULL;
        }
        /* The kernel executes CPUID for each leaf, which takes long where that is emulated. */
        kvm->cpuid = kumo_kvm_cpuid_from(cpuid);
        return g_array_copy(kvm->cpuid);
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR,
                "KVM: GET_SUPPORTED_CPUID: more than %d leaves", CPUID_ENTRIES_MAX);
    return NULL;
}

bool kumo_kvm_set_cpuid(KumoHvVcpu *vcpu, const KumoHvCpuid *entries, size_t n_entries,
                        GError **error)
{
    g_autofree struct kvm_cpuid2 *cpuid =
        g_malloc0(sizeof(*cpuid) + n_entries * sizeof(struct kvm_cpuid_entry2));

    cpuid->nent = (uint32_t)n_entries;
    for (size_t i = 0; i < n_entries; i++) {
        cpuid->entries[i] = (struct kvm_cpuid_entry2){
            .function = entries[i].leaf,
            .index = entries[i].subleaf,
            .flags = entries[i].subleaf_matters ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = entries[i].eax,
            .ebx = entries[i].ebx,
            .ecx = entries[i].ecx,
            .edx = entries[i].edx,
        };
    }
    return ioctl(vcpu_fd(vcpu), KVM_SET_CPUID2, cpuid) == 0 || kumo_kvm_failed("SET_CPUID2", error);
}

bool kumo_kvm_get_regs(KumoHvVcpu *vcpu, KumoHvRegs *ret, GError **error)
{
    struct kvm_regs regs;

    if (ioctl(vcpu_fd(vcpu), KVM_GET_REGS, &regs) < 0)
        return kumo_kvm_failed("GET_REGS", error);
    COPY_REGS(*ret, regs);
    return true;
}

bool kumo_kvm_set_regs(KumoHvVcpu *vcpu, const KumoHvRegs *neutral, GError **error)
{
    struct kvm_regs regs;

    COPY_REGS(regs, *neutral);
    return ioctl(vcpu_fd(vcpu), KVM_SET_REGS, &regs) == 0 || kumo_kvm_failed("SET_REGS", error);
}

bool kumo_kvm_get_sregs(KumoHvVcpu *vcpu, KumoHvSregs *ret, GError **error)
{
    struct kvm_sregs sregs;

    if (ioctl(vcpu_fd(vcpu), KVM_GET_SREGS, &sregs) < 0)
        return kumo_kvm_failed("GET_SREGS", error);
    COPY_SEGMENTS(*ret, sregs);
    return true;
}

bool kumo_kvm_set_sregs(KumoHvVcpu *vcpu, const KumoHvSregs *neutral, GError **error)
{
    /* No interrupt is waiting for injection: with the local APIC in the kernel that is other state.
     */
    struct kvm_sregs sregs = { 0 };

    COPY_SEGMENTS(sregs, *neutral);
    return ioctl(vcpu_fd(vcpu), KVM_SET_SREGS, &sregs) == 0 || kumo_kvm_failed("SET_SREGS", error);
}

static struct kvm_msrs *msrs_to_kvm(const KumoHvMsr *msrs, size_t n_msrs)
{
    struct kvm_msrs *ret = g_malloc0(sizeof(*ret) + n_msrs * sizeof(struct kvm_msr_entry));

    ret->nmsrs = (uint32_t)n_msrs;
    for (size_t i = 0; i < n_msrs; i++) {
        ret->entries[i].index = msrs[i].index;
        ret->entries[i].data = msrs[i].value;
    }
    return ret;
}

/* KVM says how many MSRs it took; the next one is the one that it refused. */
static bool msrs_done(int done, const KumoHvMsr *msrs, size_t n_msrs, const char *name,
                      GError **error)
{
    if (done < 0)
        return kumo_kvm_failed(name, error);
    if ((size_t)done < n_msrs) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR,
                    "KVM: %s: MSR 0x%x (value 0x%" G_GINT64_MODIFIER "x) is refused", name,
                    msrs[done].index, msrs[done].value);
        return false;
    }
    return true;
}

bool kumo_kvm_get_msrs(KumoHvVcpu *vcpu, KumoHvMsr *msrs, size_t n_msrs, GError **error)
{
    g_autofree struct kvm_msrs *kvm_msrs = msrs_to_kvm(msrs, n_msrs);

    if (!msrs_done(ioctl(vcpu_fd(vcpu), KVM_GET_MSRS, kvm_msrs), msrs, n_msrs, "GET_MSRS", error))
        return false;
    for (size_t i = 0; i < n_msrs; i++)
        msrs[i].value = kvm_msrs->entries[i].data;
    return true;
}

/* More cycles than a second has. */
static const uint64_t tsc_away = UINT64_C(1) << 40;

/* Before Linux 6.7 KVM takes a TSC that is less than a second off for an attempt to bring vCPUs in
 * step, and sets another value than it was given. Of a young guest that comes to a new VM the TSC
 * would go back. So the first vCPU's leaves that second first; the others are to be in step with
 * it. */
static bool leave_tsc_step(KumoHvVcpu *vcpu, const KumoHvMsr *msrs, size_t n_msrs, GError **error)
{
    for (size_t i = 0; vcpu->index == 0 && i < n_msrs; i++) {
        const KumoHvMsr away = { KUMO_KVM_MSR_TSC, msrs[i].value + tsc_away };
        g_autofree struct kvm_msrs *kvm_msrs = msrs_to_kvm(&away, 1);

        if (msrs[i].index == KUMO_KVM_MSR_TSC)
            return msrs_done(ioctl(vcpu_fd(vcpu), KVM_SET_MSRS, kvm_msrs), &away, 1, "SET_MSRS",
                             error);
    }
    return true;
}

bool kumo_kvm_set_msrs(KumoHvVcpu *vcpu, const KumoHvMsr *msrs, size_t n_msrs, GError **error)
{
    g_autofree struct kvm_msrs *kvm_msrs = msrs_to_kvm(msrs, n_msrs);

    if (!leave_tsc_step(vcpu, msrs, n_msrs, error))
        return false;
    return msrs_done(ioctl(vcpu_fd(vcpu), KVM_SET_MSRS, kvm_msrs), msrs, n_msrs, "SET_MSRS", error);
}

bool kumo_kvm_get_lapic(KumoHvVcpu *vcpu, KumoHvLapic *ret, GError **error)
{
    struct kvm_lapic_state state;

    if (ioctl(vcpu_fd(vcpu), KVM_GET_LAPIC, &state) < 0)
        return kumo_kvm_failed("GET_LAPIC", error);
    for (unsigned i = 0; i < G_N_ELEMENTS(ret->regs); i++)
        memcpy(&ret->regs[i], state.regs + i * LAPIC_STRIDE, sizeof(ret->regs[i]));
    return true;
}

bool kumo_kvm_set_lapic(KumoHvVcpu *vcpu, const KumoHvLapic *lapic, GError **error)
{
    struct kvm_lapic_state state = { 0 };

    for (unsigned i = 0; i < G_N_ELEMENTS(lapic->regs); i++)
        memcpy(state.regs + i * LAPIC_STRIDE, &lapic->regs[i], sizeof(lapic->regs[i]));
    return ioctl(vcpu_fd(vcpu), KVM_SET_LAPIC, &state) == 0 || kumo_kvm_failed("SET_LAPIC", error);
}
