/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Run when kumo is built: has libseccomp make a filter of the tables of each kind of thread, and
 * writes them down as C. It runs on the architecture that kumo is built for, whose system calls
 * the tables have.
 */
#include <errno.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "vmm-core/base/fd.h"
#include "vmm-core/base/sandbox.h"
#include "vmm-core/main/backends.h"
#include "vmm-core/main/threads.h"

/* A filter that is being made, and the rows that are in it: tables share many. */
typedef struct {
    scmp_filter_ctx context;
    GPtrArray *rows; /* of const KumoSyscall */
} Builder;

static const struct {
    KumoSandboxMode mode;
    const char *word;
    uint32_t action;
} modes[] = {
    { KUMO_SANDBOX_TRAP, "KUMO_SANDBOX_TRAP", SCMP_ACT_TRAP },
    { KUMO_SANDBOX_LOG, "KUMO_SANDBOX_LOG", SCMP_ACT_LOG },
    { KUMO_SANDBOX_ERRNO, "KUMO_SANDBOX_ERRNO", SCMP_ACT_ERRNO(EPERM) },
};

static bool is_added(const Builder *builder, const KumoSyscall *call)
{
    for (guint i = 0; i < builder->rows->len; i++) {
        const KumoSyscall *row = builder->rows->pdata[i];

        if (row->number == call->number && row->errno_value == call->errno_value &&
            (!row->looks || (call->looks && row->argument == call->argument &&
                             row->mask == call->mask && row->value == call->value)))
            return true;
    }
    return false;
}

/* All return 0 or a negative errno. */
static int add_table(Builder *builder, const KumoSyscallTable *table)
{
    int result = 0;

    for (size_t i = 0; table && i < table->n_calls && result == 0; i++) {
        const KumoSyscall *call = &table->calls[i];
        uint32_t action =
            call->errno_value ? SCMP_ACT_ERRNO((uint32_t)call->errno_value) : SCMP_ACT_ALLOW;
        const struct scmp_arg_cmp compare = {
            .arg = call->argument,
            .op = SCMP_CMP_MASKED_EQ,
            .datum_a = call->mask,
            .datum_b = call->value,
        };

        if (is_added(builder, call))
            continue;
        g_ptr_array_add(builder->rows, (gpointer)call);
        result = seccomp_rule_add_array(builder->context, action, call->number, call->looks ? 1 : 0,
                                        &compare);
    }
    return result;
}

static int add_kind(Builder *builder, const KumoThreadKind *kind)
{
    int result = 0;

    for (const KumoSyscallTable *const *table = kind->tables; *table && result == 0; table++)
        result = add_table(builder, *table);
    for (const KumoHvOps *const *backend = kumo_backends; *backend && result == 0; backend++) {
        const KumoHypervisorSyscalls *calls = (*backend)->syscalls;

        if (kind->roles & KUMO_THREAD_HAS_DEVICES)
            result = add_table(builder, calls->device);
        if (result == 0 && kind->roles & KUMO_THREAD_READS_DIRTY_LOG)
            result = add_table(builder, calls->dirty_log);
        /* Last: of the requests of ioctl(2), the filter compares that of the last row first. */
        if (result == 0 && kind->roles & KUMO_THREAD_RUNS_VCPU)
            result = add_table(builder, calls->vcpu);
    }
    return result;
}

/* The main thread's has what all others have, for they have it as well. */
static int add_main(Builder *builder)
{
    int result = add_table(builder, &kumo_thread_start_syscalls);

    if (result == 0)
        result = add_kind(builder, &kumo_main_thread);
    for (const KumoHvOps *const *backend = kumo_backends; *backend && result == 0; backend++)
        result = add_table(builder, (*backend)->syscalls->machine);
    for (const KumoThreadKind *const *kind = kumo_thread_kinds; *kind && result == 0; kind++)
        result = add_kind(builder, *kind);
    return result;
}

static int print_program(scmp_filter_ctx context, FILE *out)
{
    kumo_auto_fd fd = memfd_create("kumo-filter", MFD_CLOEXEC);
    struct sock_filter code;
    off_t offset = 0;
    int result;

    if (fd < 0)
        return -errno;
    result = seccomp_export_bpf(context, fd);
    for (; result == 0 && kumo_pread_full(fd, &code, sizeof(code), offset) == sizeof(code);
         offset += (off_t)sizeof(code))
        fprintf(out, "    { 0x%02x, %u, %u, 0x%08x },\n", code.code, code.jt, code.jf, code.k);
    return offset > BPF_MAXINSNS * (off_t)sizeof(code) ? -E2BIG : result;
}

static int compile(const KumoThreadKind *kind, uint32_t action, FILE *out)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new();
    Builder builder = { .context = seccomp_init(action), .rows = rows };
    int result;

    if (!builder.context)
        return -ENOMEM;
    /* A binary tree over the numbers. */
    result = seccomp_attr_set(builder.context, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (result == 0)
        result = add_table(&builder, &kumo_common_syscalls);
    if (result == 0)
        result = kind == &kumo_main_thread ? add_main(&builder) : add_kind(&builder, kind);
    if (result == 0)
        result = print_program(builder.context, out);
    seccomp_release(builder.context);
    return result;
}

static int print_kind(const KumoThreadKind *kind, FILE *out, GString *table)
{
    int result = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(modes) && result == 0; i++) {
        g_autofree char *name = g_strdup_printf("%s_%d", kind->name, modes[i].mode);

        g_strdelimit(name, "-", '_');
        fprintf(out, "static const struct sock_filter %s[] = {\n", name);
        result = compile(kind, modes[i].action, out);
        fprintf(out, "};\n\n");
        g_string_append_printf(table, "    { \"%s\", %s, G_N_ELEMENTS(%s), %s },\n", kind->name,
                               modes[i].word, name, name);
    }
    return result;
}

int main(int argc, char **argv)
{
    g_autoptr(GString) table = g_string_new(NULL);
    FILE *out = argc == 2 ? fopen(argv[1], "we") : NULL;
    int result;

    if (!out) {
        fprintf(stderr, "usage: %s FILE, which can be written\n", argv[0]);
        return EXIT_FAILURE;
    }
    fprintf(out, "/* Made of the tables of system calls by sandbox_compile.c. */\n"
                 "#include \"vmm-core/main/threads.h\"\n\n");
    result = print_kind(&kumo_main_thread, out, table);
    for (const KumoThreadKind *const *kind = kumo_thread_kinds; *kind && result == 0; kind++)
        result = print_kind(*kind, out, table);
    fprintf(out,
            "const KumoSandboxProgram kumo_sandbox_programs[] = {\n%s    { .kind = NULL },\n};\n",
            table->str);
    if (fclose(out) != 0 && result == 0)
        result = -errno;
    if (result == 0)
        return EXIT_SUCCESS;
    fprintf(stderr, "%s: %s\n", argv[0], g_strerror(-result));
    return EXIT_FAILURE;
}
