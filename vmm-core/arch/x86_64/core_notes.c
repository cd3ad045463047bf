/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/core_notes.h"

#include <elf.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include "vmm-core/base/checked.h"

enum {
    MSR_KERNEL_GS_BASE = 0xc0000102,
    NOTE_ALIGN = 4,
    SYSTEM_VERSION = 1,
};

/* The content of the note QEMU, a format that crash(8) and libvirt's tools know. */
typedef struct {
    uint32_t selector, limit, flags, reserved;
    uint64_t base;
} SystemSegment;

typedef struct {
    uint32_t version, size;
    KumoHvRegs regs; /* rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags */
    SystemSegment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt;
    uint64_t cr[5];
    uint64_t kernel_gs_base;
} SystemState;

G_STATIC_ASSERT(sizeof(KumoHvRegs) == 18 * 8);
G_STATIC_ASSERT(sizeof(SystemState) == 8 + 18 * 8 + 10 * 24 + 6 * 8);

static void append_padded(GByteArray *notes, const void *data, size_t len)
{
    static const uint8_t zeros[NOTE_ALIGN];

    g_byte_array_append(notes, data, (guint)len);
    g_byte_array_append(notes, zeros, (guint)(kumo_align_up(len, NOTE_ALIGN) - len));
}

static void append_note(GByteArray *notes, const char *name, uint32_t type, const void *content,
                        size_t len)
{
    const Elf64_Nhdr header = {
        .n_namesz = (Elf64_Word)strlen(name) + 1,
        .n_descsz = (Elf64_Word)len,
        .n_type = type,
    };

    append_padded(notes, &header, sizeof(header));
    append_padded(notes, name, header.n_namesz);
    append_padded(notes, content, len);
}

static void append_status(GByteArray *notes, uint32_t index, const KumoHvRegs *regs,
                          const KumoHvSregs *sregs)
{
    const struct user_regs_struct values = {
        .r15 = regs->r15,
        .r14 = regs->r14,
        .r13 = regs->r13,
        .r12 = regs->r12,
        .rbp = regs->rbp,
        .rbx = regs->rbx,
        .r11 = regs->r11,
        .r10 = regs->r10,
        .r9 = regs->r9,
        .r8 = regs->r8,
        .rax = regs->rax,
        .rcx = regs->rcx,
        .rdx = regs->rdx,
        .rsi = regs->rsi,
        .rdi = regs->rdi,
        .orig_rax = ~0UL, /* not in a system call */
        .rip = regs->rip,
        .cs = sregs->cs.selector,
        .eflags = regs->rflags,
        .rsp = regs->rsp,
        .ss = sregs->ss.selector,
        .fs_base = sregs->fs.base,
        .gs_base = sregs->gs.base,
        .ds = sregs->ds.selector,
        .es = sregs->es.selector,
        .fs = sregs->fs.selector,
        .gs = sregs->gs.selector,
    };
    struct elf_prstatus status;

    G_STATIC_ASSERT(sizeof(values) == sizeof(status.pr_reg));
    memset(&status, 0, sizeof(status));
    status.pr_pid = (pid_t)index + 1; /* 0 would be no thread to a debugger */
    memcpy(status.pr_reg, &values, sizeof(values));
    append_note(notes, "CORE", NT_PRSTATUS, &status, sizeof(status));
}

/* @flags: as in the second word of a descriptor (Intel SDM 3A, 3.4.5). */
static SystemSegment system_segment(const KumoHvSegment *segment)
{
    return (SystemSegment){
        .selector = segment->selector,
        .limit = segment->limit,
        .flags = (uint32_t)segment->type << 8 | (uint32_t)segment->s << 12 |
                 (uint32_t)segment->dpl << 13 | (uint32_t)segment->present << 15 |
                 (uint32_t)segment->avl << 20 | (uint32_t)segment->l << 21 |
                 (uint32_t)segment->db << 22 | (uint32_t)segment->g << 23,
        .base = segment->base,
    };
}

static void append_system(GByteArray *notes, const KumoHvRegs *regs, const KumoHvSregs *sregs,
                          uint64_t kernel_gs_base)
{
    const SystemState state = {
        .version = SYSTEM_VERSION,
        .size = sizeof(SystemState),
        .regs = *regs,
        .cs = system_segment(&sregs->cs),
        .ds = system_segment(&sregs->ds),
        .es = system_segment(&sregs->es),
        .fs = system_segment(&sregs->fs),
        .gs = system_segment(&sregs->gs),
        .ss = system_segment(&sregs->ss),
        .ldt = system_segment(&sregs->ldt),
        .tr = system_segment(&sregs->tr),
        .gdt = { .limit = sregs->gdt.limit, .base = sregs->gdt.base },
        .idt = { .limit = sregs->idt.limit, .base = sregs->idt.base },
        .cr = { sregs->cr0, 0, sregs->cr2, sregs->cr3, sregs->cr4 },
        .kernel_gs_base = kernel_gs_base,
    };

    append_note(notes, "QEMU", 0, &state, sizeof(state));
}

bool kumo_x86_core_notes(KumoHvVcpu *vcpu, GByteArray *notes, GError **error)
{
    KumoHvMsr kernel_gs_base = { .index = MSR_KERNEL_GS_BASE };
    KumoHvRegs regs;
    KumoHvSregs sregs;

    if (!vcpu->ops->get_regs(vcpu, &regs, error) || !vcpu->ops->get_sregs(vcpu, &sregs, error) ||
        !vcpu->ops->get_msrs(vcpu, &kernel_gs_base, 1, error))
        return false;
    append_status(notes, vcpu->index, &regs, &sregs);
    append_system(notes, &regs, &sregs, kernel_gs_base.value);
    return true;
}
