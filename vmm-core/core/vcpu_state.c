/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/vcpu_state.h"

#include <inttypes.h>
#include <string.h>

#include "vmm-core/base/error.h"

enum {
    CPUID_MAX = 4096,
    MSRS_MAX = 4096,
    MSRS_AT_ONCE = 64,
    XSAVE_MAX = 64 * 1024,
    FORMAT_MAX = 16,
};

#define REG(member)                                                                                \
    {                                                                                              \
        KUMO_STATE_ROW(U64, KumoHvRegs, member)                                                    \
    }

static const KumoStateField regs_fields[] = {
    REG(rax), REG(rbx), REG(rcx), REG(rdx), REG(rsi), REG(rdi), REG(rsp), REG(rbp), REG(r8),
    REG(r9),  REG(r10), REG(r11), REG(r12), REG(r13), REG(r14), REG(r15), REG(rip), REG(rflags),
};

static const KumoStateTable regs_table = { "registers", 1, regs_fields, G_N_ELEMENTS(regs_fields),
                                           sizeof(KumoHvRegs) };

static const KumoStateField segment_fields[] = {
    { KUMO_STATE_ROW(U64, KumoHvSegment, base) },
    { KUMO_STATE_ROW(U32, KumoHvSegment, limit) },
    { KUMO_STATE_ROW(U16, KumoHvSegment, selector) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, type) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, s) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, dpl) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, present) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, avl) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, l) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, db) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, g) },
    { KUMO_STATE_ROW(U8, KumoHvSegment, unusable) },
};

static const KumoStateTable segment_table = { "segment", 1, segment_fields,
                                              G_N_ELEMENTS(segment_fields), sizeof(KumoHvSegment) };

static const KumoStateField dtable_fields[] = {
    { KUMO_STATE_ROW(U64, KumoHvTable, base) },
    { KUMO_STATE_ROW(U16, KumoHvTable, limit) },
};

static const KumoStateTable dtable_table = { "descriptor table", 1, dtable_fields,
                                             G_N_ELEMENTS(dtable_fields), sizeof(KumoHvTable) };

#define SEGMENT(member)                                                                            \
    {                                                                                              \
        KUMO_STATE_ROW(TABLE, KumoHvSregs, member), .table = &segment_table                        \
    }

static const KumoStateField sregs_fields[] = {
    SEGMENT(cs),
    SEGMENT(ds),
    SEGMENT(es),
    SEGMENT(fs),
    SEGMENT(gs),
    SEGMENT(ss),
    SEGMENT(tr),
    SEGMENT(ldt),
    { KUMO_STATE_ROW(TABLE, KumoHvSregs, gdt), .table = &dtable_table },
    { KUMO_STATE_ROW(TABLE, KumoHvSregs, idt), .table = &dtable_table },
    { KUMO_STATE_ROW(U64, KumoHvSregs, cr0) },
    { KUMO_STATE_ROW(U64, KumoHvSregs, cr2) },
    { KUMO_STATE_ROW(U64, KumoHvSregs, cr3) },
    { KUMO_STATE_ROW(U64, KumoHvSregs, cr4) },
    { KUMO_STATE_ROW(U64, KumoHvSregs, cr8) },
    { KUMO_STATE_ROW(U64, KumoHvSregs, efer) },
    { KUMO_STATE_ROW(U64, KumoHvSregs, apic_base) },
};

static const KumoStateTable sregs_table = { "system registers", 1, sregs_fields,
                                            G_N_ELEMENTS(sregs_fields), sizeof(KumoHvSregs) };

static const KumoStateField cpuid_fields[] = {
    { KUMO_STATE_ROW(U32, KumoHvCpuid, leaf) },
    { KUMO_STATE_ROW(U32, KumoHvCpuid, subleaf) },
    { KUMO_STATE_ROW(BOOL, KumoHvCpuid, subleaf_matters) },
    { KUMO_STATE_ROW(U32, KumoHvCpuid, eax) },
    { KUMO_STATE_ROW(U32, KumoHvCpuid, ebx) },
    { KUMO_STATE_ROW(U32, KumoHvCpuid, ecx) },
    { KUMO_STATE_ROW(U32, KumoHvCpuid, edx) },
};

static const KumoStateTable cpuid_table = { "CPUID leaf", 1, cpuid_fields,
                                            G_N_ELEMENTS(cpuid_fields), sizeof(KumoHvCpuid) };

static const KumoStateField msr_fields[] = {
    { KUMO_STATE_ROW(U32, KumoHvMsr, index) },
    { KUMO_STATE_ROW(U64, KumoHvMsr, value) },
};

static const KumoStateTable msr_table = { "MSR", 1, msr_fields, G_N_ELEMENTS(msr_fields),
                                          sizeof(KumoHvMsr) };

static const KumoStateField lapic_fields[] = {
    { KUMO_STATE_ROW(U32, KumoHvLapic, regs), .count = 64 },
};

static const KumoStateTable lapic_table = { "local APIC", 1, lapic_fields,
                                            G_N_ELEMENTS(lapic_fields), sizeof(KumoHvLapic) };

static const KumoStateField debug_fields[] = {
    { KUMO_STATE_ROW(U64, KumoHvDebugRegs, dr), .count = 4 },
    { KUMO_STATE_ROW(U64, KumoHvDebugRegs, dr6) },
    { KUMO_STATE_ROW(U64, KumoHvDebugRegs, dr7) },
};

static const KumoStateTable debug_table = { "debug registers", 1, debug_fields,
                                            G_N_ELEMENTS(debug_fields), sizeof(KumoHvDebugRegs) };

#define EVENT(kind, member)                                                                        \
    {                                                                                              \
        KUMO_STATE_ROW(kind, KumoHvEvents, member)                                                 \
    }

static const KumoStateField events_fields[] = {
    EVENT(BOOL, exception_injected),
    EVENT(BOOL, exception_pending),
    EVENT(U8, exception_vector),
    EVENT(BOOL, exception_has_error),
    EVENT(U32, exception_error),
    EVENT(BOOL, exception_has_payload),
    EVENT(U64, exception_payload),
    EVENT(BOOL, interrupt_injected),
    EVENT(BOOL, interrupt_soft),
    EVENT(U8, interrupt_vector),
    EVENT(U8, shadow),
    EVENT(BOOL, nmi_injected),
    EVENT(BOOL, nmi_pending),
    EVENT(BOOL, nmi_masked),
    EVENT(U32, sipi_vector),
    EVENT(BOOL, has_smm),
    EVENT(BOOL, smm),
    EVENT(BOOL, smm_pending),
    EVENT(BOOL, smm_inside_nmi),
    EVENT(BOOL, smm_latched_init),
    EVENT(BOOL, triple_fault_pending),
};

static const KumoStateTable events_table = { "events", 1, events_fields,
                                             G_N_ELEMENTS(events_fields), sizeof(KumoHvEvents) };

static const KumoStateField vcpu_fields[] = {
    { KUMO_STATE_ROW(TABLE, KumoVcpuState, regs), .table = &regs_table },
    { KUMO_STATE_ROW(TABLE, KumoVcpuState, sregs), .table = &sregs_table },
    { KUMO_STATE_ROW(TABLE, KumoVcpuState, cpuid), .table = &cpuid_table, .list = true,
      .count_offset = offsetof(KumoVcpuState, n_cpuid), .max = CPUID_MAX },
    { KUMO_STATE_ROW(TABLE, KumoVcpuState, msrs), .table = &msr_table, .list = true,
      .count_offset = offsetof(KumoVcpuState, n_msrs), .max = MSRS_MAX },
    { KUMO_STATE_ROW(TABLE, KumoVcpuState, lapic), .table = &lapic_table },
    { KUMO_STATE_ROW(TABLE, KumoVcpuState, debug), .table = &debug_table },
    { KUMO_STATE_ROW(TABLE, KumoVcpuState, events), .table = &events_table },
    { KUMO_STATE_ROW(U8, KumoVcpuState, mp_state) },
    { KUMO_STATE_ROW(U64, KumoVcpuState, xcr0) },
    { KUMO_STATE_ROW(STRING, KumoVcpuState, xsave_format), .max = FORMAT_MAX },
    { KUMO_STATE_ROW(BLOB, KumoVcpuState, xsave),
      .count_offset = offsetof(KumoVcpuState, xsave_len), .max = XSAVE_MAX },
};

const KumoStateTable kumo_vcpu_state_table = {
    .name = "vCPU",
    .version = 1,
    .fields = vcpu_fields,
    .n_fields = G_N_ELEMENTS(vcpu_fields),
    .size = sizeof(KumoVcpuState),
};

static bool save_arrays(KumoHvVcpu *vcpu, KumoVcpuState *ret, GError **error)
{
    GArray *cpuid, *msrs;
    GByteArray *xsave;
    gsize n = 0;

    cpuid = vcpu->ops->get_cpuid(vcpu, error);
    if (!cpuid)
        return false;
    ret->cpuid = g_array_steal(cpuid, &n);
    ret->n_cpuid = n;
    g_array_unref(cpuid);

    xsave = vcpu->ops->get_xsave(vcpu, error);
    if (!xsave)
        return false;
    ret->xsave = g_byte_array_steal(xsave, &n);
    ret->xsave_len = n;
    g_byte_array_unref(xsave);
    ret->xsave_format = g_strdup(vcpu->vm->hv->ops->name);

    msrs = vcpu->ops->get_all_msrs(vcpu, error);
    if (!msrs)
        return false;
    ret->msrs = g_array_steal(msrs, &n);
    ret->n_msrs = n;
    g_array_unref(msrs);
    return true;
}

bool kumo_vcpu_state_save(KumoHvVcpu *vcpu, KumoVcpuState *ret, GError **error)
{
    const KumoHvVcpuOps *ops = vcpu->ops;
    KumoHvMpState mp_state = KUMO_HV_MP_RUNNABLE;

    memset(ret, 0, sizeof(*ret));
    if (!ops->get_all_msrs) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "%s cannot tell the state of a vCPU", vcpu->vm->hv->ops->name);
        return false;
    }
    /* MP state first: reading it carries out an INIT or start-up IPI that waits, which changes the
     * rest. Events last: reading the others may turn what is being injected into what is pending.
     */
    if (!ops->get_mp_state(vcpu, &mp_state, error) ||
        (ops->check_nested && !ops->check_nested(vcpu, error)))
        return false;
    ret->mp_state = (uint8_t)mp_state;
    return ops->get_regs(vcpu, &ret->regs, error) && ops->get_sregs(vcpu, &ret->sregs, error) &&
           ops->get_lapic(vcpu, &ret->lapic, error) && ops->get_xcr0(vcpu, &ret->xcr0, error) &&
           ops->get_debug_regs(vcpu, &ret->debug, error) && save_arrays(vcpu, ret, error) &&
           ops->get_events(vcpu, &ret->events, error);
}

/* --- what the guest may find missing --- */

/* Leaves whose bits are features, and the bits of them that change while a guest runs: OSXSAVE,
 * OSPKE, the APIC's enable bit. The rest of these leaves may only gain bits. */
static const struct {
    uint32_t leaf, subleaf;
    uint32_t eax, ebx, ecx, edx; /* feature bits */
} feature_leaves[] = {
    { 0x1, 0, 0, 0, ~(1u << 27), ~(1u << 9) },
    { 0x7, 0, 0, ~0u, ~(1u << 4), ~0u },
    { 0x7, 1, ~0u, 0, 0, ~0u },
    { 0xd, 0, ~0u, 0, 0, ~0u },
    { 0xd, 1, ~0u, 0, 0, 0 },
    { 0x80000001, 0, 0, 0, ~0u, ~(1u << 9) },
    { 0x80000008, 0, 0, ~0u, 0, 0 },
};

static const KumoHvCpuid *find_leaf(const KumoHvCpuid *cpuid, size_t n, uint32_t leaf,
                                    uint32_t subleaf)
{
    for (size_t i = 0; i < n; i++) {
        if (cpuid[i].leaf == leaf && (!cpuid[i].subleaf_matters || cpuid[i].subleaf == subleaf))
            return &cpuid[i];
    }
    return NULL;
}

static bool check_features(KumoHvVcpu *vcpu, const KumoVcpuState *state, GError **error)
{
    static const KumoHvCpuid none;
    static const char *const names[] = { "EAX", "EBX", "ECX", "EDX" };
    g_autoptr(GArray) host = vcpu->ops->get_cpuid(vcpu, error);

    if (!host)
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(feature_leaves); i++) {
        uint32_t leaf = feature_leaves[i].leaf, subleaf = feature_leaves[i].subleaf;
        const KumoHvCpuid *old = find_leaf(state->cpuid, state->n_cpuid, leaf, subleaf);
        const KumoHvCpuid *now =
            find_leaf((const KumoHvCpuid *)(const void *)host->data, host->len, leaf, subleaf);
        uint32_t lost[4];

        if (!old)
            continue;
        now = now ? now : &none;
        lost[0] = old->eax & ~now->eax & feature_leaves[i].eax;
        lost[1] = old->ebx & ~now->ebx & feature_leaves[i].ebx;
        lost[2] = old->ecx & ~now->ecx & feature_leaves[i].ecx;
        lost[3] = old->edx & ~now->edx & feature_leaves[i].edx;
        for (unsigned reg = 0; reg < G_N_ELEMENTS(lost); reg++) {
            if (!lost[reg])
                continue;
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "the guest uses a processor with features that this host lacks: CPUID "
                        "0x%x.%u %s bits 0x%08x",
                        leaf, subleaf, names[reg], lost[reg]);
            return false;
        }
    }
    return true;
}

static bool load_msrs(KumoHvVcpu *vcpu, const KumoVcpuState *state, GError **error)
{
    for (size_t i = 0; i < state->n_msrs; i += MSRS_AT_ONCE) {
        if (!vcpu->ops->set_msrs(vcpu, state->msrs + i, MIN(state->n_msrs - i, MSRS_AT_ONCE),
                                 error))
            return false;
    }
    return true;
}

bool kumo_vcpu_state_load(KumoHvVcpu *vcpu, const KumoVcpuState *state, uint32_t tsc_khz,
                          GError **error)
{
    const KumoHvVcpuOps *ops = vcpu->ops;
    const char *name = vcpu->vm->hv->ops->name;

    if (!ops->get_all_msrs || g_strcmp0(state->xsave_format, name) != 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "state.xsave_format: \"%s\" cannot be restored by %s",
                    state->xsave_format ? state->xsave_format : "", name);
        return false;
    }
    /* Each of these works on what the one before has set: see KumoHvVcpuOps. */
    return check_features(vcpu, state, error) &&
           ops->set_cpuid(vcpu, state->cpuid, state->n_cpuid, error) &&
           ops->set_tsc_khz(vcpu, tsc_khz, error) &&
           ops->set_mp_state(vcpu, (KumoHvMpState)state->mp_state, error) &&
           ops->set_regs(vcpu, &state->regs, error) && ops->set_sregs(vcpu, &state->sregs, error) &&
           ops->set_xsave(vcpu, state->xsave, state->xsave_len, error) &&
           ops->set_xcr0(vcpu, state->xcr0, error) && ops->set_lapic(vcpu, &state->lapic, error) &&
           load_msrs(vcpu, state, error) && ops->set_debug_regs(vcpu, &state->debug, error) &&
           ops->set_events(vcpu, &state->events, error);
}
