/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A library that compiles filters takes a millisecond for the process's, a tenth of the time in
 * which a machine comes back on demand, and what is needed of it is this: a binary search for the
 * call, and comparisons of one argument. The kernel's Documentation/userspace-api/seccomp_filter
 * tells what a program sees.
 */
#include "vmm-core/base/sandbox_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the architecture's number for seccomp(2)"
#endif

/* Where the lower half of an argument is. */
G_STATIC_ASSERT(G_BYTE_ORDER == G_LITTLE_ENDIAN);

enum { SHORT_JUMP_MAX = UINT8_MAX };

typedef struct {
    GArray *code; /* of struct sock_filter */
    uint32_t otherwise;
} Assembler;

static guint emit(Assembler *as, uint16_t code, uint32_t k, uint8_t if_true, uint8_t if_false)
{
    const struct sock_filter instruction = { code, if_true, if_false, k };

    g_array_append_val(as->code, instruction);
    return as->code->len - 1;
}

static struct sock_filter *at(Assembler *as, guint index)
{
    return &g_array_index(as->code, struct sock_filter, index);
}

static void emit_load(Assembler *as, size_t offset)
{
    emit(as, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void emit_return(Assembler *as, uint32_t action)
{
    emit(as, BPF_RET | BPF_K, action, 0, 0);
}

static uint32_t action_of(const KumoSyscall *row)
{
    return row->errno_value ? SECCOMP_RET_ERRNO | ((uint32_t)row->errno_value & SECCOMP_RET_DATA)
                            : SECCOMP_RET_ALLOW;
}

/* Those of the rows that look at an argument, and let pass or not. */
static void emit_comparisons(Assembler *as, const KumoSyscall *const *rows, guint n, bool pass)
{
    const KumoSyscall *loaded = NULL;

    for (guint i = n; i-- > 0;) {
        const KumoSyscall *row = rows[i];

        if (!row->looks || (row->errno_value == 0) != pass)
            continue;
        if (!loaded || loaded->argument != row->argument || loaded->mask != row->mask) {
            emit_load(as, offsetof(struct seccomp_data, args) + row->argument * sizeof(uint64_t));
            if (row->mask != UINT32_MAX)
                emit(as, BPF_ALU | BPF_AND | BPF_K, row->mask, 0, 0);
        }
        loaded = row;
        emit(as, BPF_JMP | BPF_JEQ | BPF_K, row->value, 0, 1);
        emit_return(as, action_of(row));
    }
}

/* The rows of one call; the call's number need not be looked at any more. */
static void emit_call(Assembler *as, const KumoSyscall *const *rows, guint n)
{
    const KumoSyscall *always = NULL;

    for (guint i = 0; i < n; i++) {
        if (!rows[i]->looks && (!always || always->errno_value))
            always = rows[i];
    }
    if (!always || always->errno_value) {
        emit_comparisons(as, rows, n, true);
        emit_comparisons(as, rows, n, false);
    }
    emit_return(as, always ? action_of(always) : as->otherwise);
}

/* The number is loaded. @rows: sorted by it, at least one. */
static void emit_search(Assembler *as, const KumoSyscall *const *rows, guint n)
{
    guint middle = n / 2, test, lower;

    /* To where a call's rows begin. */
    while (middle > 0 && rows[middle - 1]->number == rows[middle]->number)
        middle--;
    if (middle == 0) {
        for (middle = n / 2; middle < n && rows[middle]->number == rows[0]->number; middle++)
            ;
    }
    if (middle == n) {
        emit(as, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)rows[0]->number, 1, 0);
        emit_return(as, as->otherwise);
        emit_call(as, rows, n);
        return;
    }
    /* Past the lower half by the comparison itself, if that can jump so far. */
    test = emit(as, BPF_JMP | BPF_JGE | BPF_K, (uint32_t)rows[middle]->number, 0, 1);
    emit(as, BPF_JMP | BPF_JA, 0, 0, 0);
    emit_search(as, rows, middle);
    lower = as->code->len - test - 2;
    at(as, test + 1)->k = lower;
    if (lower < SHORT_JUMP_MAX)
        at(as, test)->jt = (uint8_t)(lower + 1);
    emit_search(as, rows + middle, n - middle);
}

struct sock_filter *kumo_sandbox_filter_new(const GPtrArray *rows, uint32_t otherwise,
                                            unsigned short *ret_len)
{
    g_autofree const KumoSyscall **sorted = g_new(const KumoSyscall *, rows->len + 1);
    Assembler as = { g_array_new(FALSE, FALSE, sizeof(struct sock_filter)), otherwise };
    guint len;

    /* By insertion, which keeps the order of the rows of one call. */
    for (guint i = 0; i < rows->len; i++) {
        const KumoSyscall *row = rows->pdata[i];
        guint place = i;

        for (; place > 0 && sorted[place - 1]->number > row->number; place--)
            sorted[place] = sorted[place - 1];
        sorted[place] = row;
    }
    emit_load(&as, offsetof(struct seccomp_data, arch));
    emit(&as, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    emit_return(&as, otherwise);
    emit_load(&as, offsetof(struct seccomp_data, nr));
    if (rows->len > 0)
        emit_search(&as, sorted, rows->len);
    else
        emit_return(&as, otherwise);
    len = as.code->len;
    if (len > BPF_MAXINSNS) {
        g_array_unref(as.code);
        return NULL;
    }
    *ret_len = (unsigned short)len;
    return (struct sock_filter *)(void *)g_array_free(as.code, FALSE);
}
