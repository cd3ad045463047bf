/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of a vCPU's state that only snapshots and migration look at. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/kvm/kvm_internal.h"

enum {
    CPUID_ENTRIES_MAX = 4096,
    MSRS_FIRST = 256,
    MSRS_MAX = 8192,
    MSRS_AT_ONCE = 128,      /* KVM takes fewer than 256 */
    TSC_TOLERANCE_PPM = 250, /* what guests take for the drift of a clock */
    PPM = 1000000,

    MSR_TSC_DEADLINE = 0x6e0,
};

static int vcpu_fd(KumoHvVcpu *vcpu)
{
    return ((KumoKvmVcpu *)vcpu)->fd;
}

static KumoKvm *vcpu_kvm(KumoHvVcpu *vcpu)
{
    return (KumoKvm *)vcpu->vm->hv;
}

static bool done(int result, const char *name, GError **error)
{
    return result >= 0 || kumo_kvm_failed(name, error);
}

static bool is_unwritten(const struct kvm_cpuid_entry2 *entry)
{
    return !(entry->function | entry->index | entry->flags | entry->eax | entry->ebx | entry->ecx |
             entry->edx);
}

GArray *kumo_kvm_get_cpuid(KumoHvVcpu *vcpu, GError **error)
{
    g_autofree struct kvm_cpuid2 *cpuid =
        g_malloc0(sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));

    cpuid->nent = CPUID_ENTRIES_MAX;
    if (!done(ioctl(vcpu_fd(vcpu), KVM_GET_CPUID2, cpuid), "GET_CPUID2", error))
        return NULL;
    /* Linux 6.1 and others leave nent as it was. What they did not write is all zeros, which no
     * leaf is: leaf 0 names the highest leaf. */
    while (cpuid->nent > 0 && is_unwritten(&cpuid->entries[cpuid->nent - 1]))
        cpuid->nent--;
    return kumo_kvm_cpuid_from(cpuid);
}

/* Returns: (transfer full): the indices that this host's KVM names; NULL with @error set. */
static struct kvm_msr_list *msr_indices(KumoKvm *kvm, GError **error)
{
    for (unsigned n = MSRS_FIRST; n <= MSRS_MAX; n *= 2) {
        g_autofree struct kvm_msr_list *list = g_malloc0(sizeof(*list) + n * sizeof(uint32_t));

        list->nmsrs = n;
        if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list) == 0)
            return g_steal_pointer(&list);
        if (errno != E2BIG)
            break;
    }
    kumo_kvm_failed("GET_MSR_INDEX_LIST", error);
    return NULL;
}

/* The TSC is set before the timer that runs against it. */
static int msr_rank(uint32_t index)
{
    return index == KUMO_KVM_MSR_TSC ? 0 : index == MSR_TSC_DEADLINE ? 2 : 1;
}

static int compare_msrs(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    int rank = msr_rank(left) - msr_rank(right);

    return rank ? rank : (left > right) - (left < right);
}

GArray *kumo_kvm_get_all_msrs(KumoHvVcpu *vcpu, GError **error)
{
    g_autofree struct kvm_msr_list *list = msr_indices(vcpu_kvm(vcpu), error);
    g_autofree struct kvm_msrs *msrs = NULL;
    g_autoptr(GArray) ret = g_array_new(FALSE, FALSE, sizeof(KumoHvMsr));
    unsigned first = 0;

    if (!list)
        return NULL;
    qsort(list->indices, list->nmsrs, sizeof(uint32_t), compare_msrs);
    msrs = g_malloc0(sizeof(*msrs) + MSRS_AT_ONCE * sizeof(struct kvm_msr_entry));
    /* KVM names MSRs that this guest's CPUID does not have: it stops there, and we go on behind. */
    while (first < list->nmsrs) {
        int got;

        msrs->nmsrs = MIN(list->nmsrs - first, MSRS_AT_ONCE);
        for (unsigned i = 0; i < msrs->nmsrs; i++)
            msrs->entries[i] = (struct kvm_msr_entry){ .index = list->indices[first + i] };
        got = ioctl(vcpu_fd(vcpu), KVM_GET_MSRS, msrs);
        if (!done(got, "GET_MSRS", error))
            return NULL;
        for (int i = 0; i < got; i++) {
            const KumoHvMsr msr = { msrs->entries[i].index, msrs->entries[i].data };

            g_array_append_val(ret, msr);
        }
        first += (unsigned)got;
        if ((unsigned)got < msrs->nmsrs) {
            kumo_debug("vCPU %u: MSR 0x%x is not this guest's", vcpu->index, list->indices[first]);
            first++;
        }
    }
    return g_steal_pointer(&ret);
}

/* --- extended state --- */

void kumo_kvm_vm_find_xsave(KumoKvmVm *vm)
{
    int bytes = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

    vm->xsave2 = bytes > (int)sizeof(struct kvm_xsave);
    vm->xsave_bytes = vm->xsave2 ? (size_t)bytes : sizeof(struct kvm_xsave);
}

GByteArray *kumo_kvm_get_xsave(KumoHvVcpu *vcpu, GError **error)
{
    const KumoKvmVm *vm = (const KumoKvmVm *)vcpu->vm;
    uint8_t *data = g_malloc0(vm->xsave_bytes);
    int result = vm->xsave2 ? ioctl(vcpu_fd(vcpu), KVM_GET_XSAVE2, data)
                            : ioctl(vcpu_fd(vcpu), KVM_GET_XSAVE, data);

    if (!done(result, "GET_XSAVE", error)) {
        g_free(data);
        return NULL;
    }
    return g_byte_array_new_take(data, vm->xsave_bytes);
}

bool kumo_kvm_set_xsave(KumoHvVcpu *vcpu, const uint8_t *data, size_t len, GError **error)
{
    const KumoKvmVm *vm = (const KumoKvmVm *)vcpu->vm;
    g_autofree uint8_t *copy = g_malloc0(vm->xsave_bytes);

    /* A host with fewer components takes it if they were not in use. */
    for (size_t i = vm->xsave_bytes; i < len; i++) {
        if (data[i]) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "extended processor state of %zu bytes, this host has room for %zu", len,
                        vm->xsave_bytes);
            return false;
        }
    }
    memcpy(copy, data, MIN(len, vm->xsave_bytes));
    return done(ioctl(vcpu_fd(vcpu), KVM_SET_XSAVE, copy), "SET_XSAVE", error);
}

bool kumo_kvm_get_xcr0(KumoHvVcpu *vcpu, uint64_t *ret, GError **error)
{
    struct kvm_xcrs xcrs = { 0 };

    *ret = 0;
    if (ioctl(vcpu_kvm(vcpu)->fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) <= 0)
        return true;
    if (!done(ioctl(vcpu_fd(vcpu), KVM_GET_XCRS, &xcrs), "GET_XCRS", error))
        return false;
    for (unsigned i = 0; i < MIN(xcrs.nr_xcrs, KVM_MAX_XCRS); i++) {
        if (xcrs.xcrs[i].xcr == 0)
            *ret = xcrs.xcrs[i].value;
    }
    return true;
}

bool kumo_kvm_set_xcr0(KumoHvVcpu *vcpu, uint64_t xcr0, GError **error)
{
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = xcr0 } } };

    return xcr0 == 0 || done(ioctl(vcpu_fd(vcpu), KVM_SET_XCRS, &xcrs), "SET_XCRS", error);
}

/* --- debug registers, events, MP state, TSC rate --- */

bool kumo_kvm_get_debug_regs(KumoHvVcpu *vcpu, KumoHvDebugRegs *ret, GError **error)
{
    struct kvm_debugregs regs;

    if (!done(ioctl(vcpu_fd(vcpu), KVM_GET_DEBUGREGS, &regs), "GET_DEBUGREGS", error))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(ret->dr); i++)
        ret->dr[i] = regs.db[i];
    ret->dr6 = regs.dr6;
    ret->dr7 = regs.dr7;
    return true;
}

bool kumo_kvm_set_debug_regs(KumoHvVcpu *vcpu, const KumoHvDebugRegs *neutral, GError **error)
{
    struct kvm_debugregs regs = { .dr6 = neutral->dr6, .dr7 = neutral->dr7 };

    for (unsigned i = 0; i < G_N_ELEMENTS(neutral->dr); i++)
        regs.db[i] = neutral->dr[i];
    return done(ioctl(vcpu_fd(vcpu), KVM_SET_DEBUGREGS, &regs), "SET_DEBUGREGS", error);
}

bool kumo_kvm_get_events(KumoHvVcpu *vcpu, KumoHvEvents *ret, GError **error)
{
    struct kvm_vcpu_events events = { 0 };

    if (!done(ioctl(vcpu_fd(vcpu), KVM_GET_VCPU_EVENTS, &events), "GET_VCPU_EVENTS", error))
        return false;
    *ret = (KumoHvEvents){
        .exception_injected = events.exception.injected,
        .exception_pending =
            (events.flags & KVM_VCPUEVENT_VALID_PAYLOAD) && events.exception.pending,
        .exception_vector = events.exception.nr,
        .exception_has_error = events.exception.has_error_code,
        .exception_error = events.exception.error_code,
        .exception_has_payload =
            (events.flags & KVM_VCPUEVENT_VALID_PAYLOAD) && events.exception_has_payload,
        .exception_payload = events.exception_payload,
        .interrupt_injected = events.interrupt.injected,
        .interrupt_soft = events.interrupt.soft,
        .interrupt_vector = events.interrupt.nr,
        .shadow = (events.flags & KVM_VCPUEVENT_VALID_SHADOW) ? events.interrupt.shadow : 0,
        .nmi_injected = events.nmi.injected,
        .nmi_pending = events.nmi.pending,
        .nmi_masked = events.nmi.masked,
        .sipi_vector = events.sipi_vector,
        .has_smm = (events.flags & KVM_VCPUEVENT_VALID_SMM) != 0,
        .smm = events.smi.smm,
        .smm_pending = events.smi.pending,
        .smm_inside_nmi = events.smi.smm_inside_nmi,
        .smm_latched_init = events.smi.latched_init,
        .triple_fault_pending =
            (events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && events.triple_fault.pending,
    };
    return true;
}

bool kumo_kvm_set_events(KumoHvVcpu *vcpu, const KumoHvEvents *neutral, GError **error)
{
    struct kvm_vcpu_events events = {
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                 KVM_VCPUEVENT_VALID_SHADOW,
        .exception = {
            .injected = neutral->exception_injected,
            .nr = neutral->exception_vector,
            .has_error_code = neutral->exception_has_error,
            .error_code = neutral->exception_error,
        },
        .interrupt = {
            .injected = neutral->interrupt_injected,
            .nr = neutral->interrupt_vector,
            .soft = neutral->interrupt_soft,
            .shadow = neutral->shadow,
        },
        .nmi = {
            .injected = neutral->nmi_injected,
            .pending = neutral->nmi_pending,
            .masked = neutral->nmi_masked,
        },
        .sipi_vector = neutral->sipi_vector,
    };

    if (neutral->exception_pending || neutral->exception_has_payload) {
        events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
        events.exception.pending = neutral->exception_pending;
        events.exception_has_payload = neutral->exception_has_payload;
        events.exception_payload = neutral->exception_payload;
    }
    /* Hosts without SMM say nothing of it and take nothing of it. */
    if (neutral->has_smm && (neutral->smm || neutral->smm_pending || neutral->smm_inside_nmi ||
                             neutral->smm_latched_init)) {
        events.flags |= KVM_VCPUEVENT_VALID_SMM;
        events.smi.smm = neutral->smm;
        events.smi.pending = neutral->smm_pending;
        events.smi.smm_inside_nmi = neutral->smm_inside_nmi;
        events.smi.latched_init = neutral->smm_latched_init;
    }
    if (neutral->triple_fault_pending) {
        events.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        events.triple_fault.pending = 1;
    }
    return done(ioctl(vcpu_fd(vcpu), KVM_SET_VCPU_EVENTS, &events), "SET_VCPU_EVENTS", error);
}

static const struct {
    KumoHvMpState neutral;
    uint32_t kvm;
} mp_states[] = {
    { KUMO_HV_MP_RUNNABLE, KVM_MP_STATE_RUNNABLE },
    { KUMO_HV_MP_UNINITIALIZED, KVM_MP_STATE_UNINITIALIZED },
    { KUMO_HV_MP_INIT_RECEIVED, KVM_MP_STATE_INIT_RECEIVED },
    { KUMO_HV_MP_HALTED, KVM_MP_STATE_HALTED },
    { KUMO_HV_MP_SIPI_RECEIVED, KVM_MP_STATE_SIPI_RECEIVED },
};

bool kumo_kvm_get_mp_state(KumoHvVcpu *vcpu, KumoHvMpState *ret, GError **error)
{
    struct kvm_mp_state state;

    if (!done(ioctl(vcpu_fd(vcpu), KVM_GET_MP_STATE, &state), "GET_MP_STATE", error))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(mp_states); i++) {
        if (mp_states[i].kvm == state.mp_state) {
            *ret = mp_states[i].neutral;
            return true;
        }
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "KVM: MP state %u is not known",
                state.mp_state);
    return false;
}

bool kumo_kvm_set_mp_state(KumoHvVcpu *vcpu, KumoHvMpState neutral, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(mp_states); i++) {
        struct kvm_mp_state state = { .mp_state = mp_states[i].kvm };

        if (mp_states[i].neutral == neutral)
            return done(ioctl(vcpu_fd(vcpu), KVM_SET_MP_STATE, &state), "SET_MP_STATE", error);
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "MP state %d is not known", (int)neutral);
    return false;
}

/* Of VMX, VMXON is kept nowhere else; of SVM, whatever belongs to a guest that runs, and that
 * global interrupts are off, as around one (AMD's manual, volume 2, section 15.17). */
static bool nests(const struct kvm_nested_state *state)
{
    if (state->flags & (KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING))
        return true;
    if (state->format == KVM_STATE_NESTED_FORMAT_VMX)
        return state->hdr.vmx.vmxon_pa != G_MAXUINT64;
    return state->format == KVM_STATE_NESTED_FORMAT_SVM &&
           !(state->flags & KVM_STATE_NESTED_GIF_SET);
}

bool kumo_kvm_check_nested(KumoHvVcpu *vcpu, GError **error)
{
    int size = ioctl(vcpu_kvm(vcpu)->fd, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE);
    g_autofree struct kvm_nested_state *state = NULL;

    if (size < (int)sizeof(*state))
        return true; /* such a KVM lets no guest nest */
    state = g_malloc0((size_t)size);
    state->size = (uint32_t)size;
    if (!done(ioctl(vcpu_fd(vcpu), KVM_GET_NESTED_STATE, state), "GET_NESTED_STATE", error))
        return false;
    if (!nests(state))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                "the guest runs machines of its own, whose state cannot be taken (cpus: nested)");
    return false;
}

bool kumo_kvm_set_tsc_khz(KumoHvVcpu *vcpu, uint32_t khz, GError **error)
{
    int present = ioctl(vcpu_fd(vcpu), KVM_GET_TSC_KHZ, 0);
    uint64_t off;

    if (present <= 0 || khz == 0)
        return true; /* neither side knows its rate: nothing to compare */
    off = (uint64_t)ABS((int64_t)present - (int64_t)khz) * PPM;
    if (off <= (uint64_t)present * TSC_TOLERANCE_PPM)
        return true;
    if (ioctl(vcpu_kvm(vcpu)->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0 &&
        ioctl(vcpu_fd(vcpu), KVM_SET_TSC_KHZ, (unsigned long)khz) == 0)
        return true;
    g_set_error(
        error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
        "the guest's TSC runs at %u kHz, this host's at %d kHz, and this host cannot scale it", khz,
        present);
    return false;
}
