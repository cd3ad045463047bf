/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Programs for seccomp(2), run by a machine of our own: each says what the rows say. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <string.h>

#include "vmm-core/base/sandbox_filter.h"

enum { OTHERWISE = SECCOMP_RET_TRAP, N_NUMBERS = 48, N_ROWS_MAX = 300, N_PROGRAMS = 400 };

#if defined(__x86_64__)
enum { NATIVE = AUDIT_ARCH_X86_64, FOREIGN = AUDIT_ARCH_I386, X32_BIT = 0x40000000 };
#else
enum { NATIVE = AUDIT_ARCH_AARCH64, FOREIGN = AUDIT_ARCH_ARM, X32_BIT = 0x40000000 };
#endif

/* What the kernel does with it: of the instructions only those that its own cache of constant
 * answers understands, too (kernel/seccomp.c), and loads within the data. */
static uint32_t run(const struct sock_filter *program, unsigned len,
                    const struct seccomp_data *data)
{
    uint32_t a = 0;

    for (unsigned pc = 0; pc < len; pc++) {
        const struct sock_filter *in = &program[pc];

        switch (in->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            g_assert_cmpuint(in->k % sizeof(a), ==, 0);
            g_assert_cmpuint(in->k, <=, sizeof(*data) - sizeof(a));
            memcpy(&a, (const uint8_t *)data + in->k, sizeof(a));
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            a &= in->k;
            break;
        case BPF_JMP | BPF_JA:
            pc += in->k;
            break;
        case BPF_JMP | BPF_JEQ | BPF_K:
            pc += a == in->k ? in->jt : in->jf;
            break;
        case BPF_JMP | BPF_JGE | BPF_K:
            pc += a >= in->k ? in->jt : in->jf;
            break;
        case BPF_RET | BPF_K:
            return in->k;
        default:
            g_error("instruction %u: code 0x%x", pc, in->code);
        }
    }
    g_error("a program without an end");
}

static uint32_t expected(const GPtrArray *rows, const struct seccomp_data *data)
{
    uint32_t ret = OTHERWISE;

    for (guint i = 0; data->arch == NATIVE && i < rows->len; i++) {
        const KumoSyscall *row = rows->pdata[i];

        if (row->number != data->nr ||
            (row->looks && ((uint32_t)data->args[row->argument] & row->mask) != row->value))
            continue;
        if (!row->errno_value)
            return SECCOMP_RET_ALLOW;
        ret = SECCOMP_RET_ERRNO | (uint32_t)row->errno_value;
    }
    return ret;
}

static void check(const GPtrArray *rows, const struct sock_filter *program, unsigned len,
                  const struct seccomp_data *data)
{
    g_assert_cmphex(run(program, len, data), ==, expected(rows, data));
}

static void check_all(GRand *rand, const GPtrArray *rows)
{
    unsigned short len = 0;
    g_autofree struct sock_filter *program = kumo_sandbox_filter_new(rows, OTHERWISE, &len);

    g_assert_nonnull(program);
    for (int nr = -1; nr <= N_NUMBERS; nr++) {
        for (unsigned i = 0; i < 8; i++) {
            struct seccomp_data data = { .nr = nr, .arch = NATIVE };

            for (unsigned arg = 0; arg < 6; arg++)
                data.args[arg] =
                    (uint64_t)g_rand_int(rand) << 32 | (uint32_t)g_rand_int_range(rand, 0, 8);
            check(rows, program, len, &data);
            data.nr |= X32_BIT;
            g_assert_cmphex(run(program, len, &data), ==, OTHERWISE);
            data = (struct seccomp_data){ .nr = nr, .arch = FOREIGN };
            g_assert_cmphex(run(program, len, &data), ==, OTHERWISE);
        }
    }
}

/* Some calls have many rows, so that jumps are both short and long. */
static void test_random(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (unsigned n = 0; n < N_PROGRAMS; n++) {
        g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
        unsigned n_rows = (unsigned)g_rand_int_range(rand, 0, n % 2 ? 12 : N_ROWS_MAX);

        for (unsigned i = 0; i < n_rows; i++) {
            KumoSyscall *row = g_new0(KumoSyscall, 1);
            bool crowded = g_rand_boolean(rand);

            row->number = crowded ? 7 : g_rand_int_range(rand, 0, N_NUMBERS);
            row->looks = crowded || g_rand_boolean(rand);
            row->argument = (unsigned)g_rand_int_range(rand, 0, 6);
            row->mask = g_rand_boolean(rand) ? UINT32_MAX : (uint32_t)g_rand_int_range(rand, 0, 8);
            row->value = (uint32_t)g_rand_int_range(rand, 0, 8) & row->mask;
            row->errno_value = g_rand_int_range(rand, 0, 4) == 0 ? ENOSYS : 0;
            g_ptr_array_add(rows, row);
        }
        check_all(rand, rows);
    }
}

/* Longer than the kernel takes: refused, not cut. */
static void test_too_long(void)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
    unsigned short len = 0;

    for (int i = 0; i < BPF_MAXINSNS; i++) {
        KumoSyscall *row = g_new0(KumoSyscall, 1);

        row->number = i;
        g_ptr_array_add(rows, row);
    }
    g_assert_null(kumo_sandbox_filter_new(rows, OTHERWISE, &len));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sandbox-filter/random", test_random);
    g_test_add_func("/sandbox-filter/too-long", test_too_long);
    return g_test_run();
}
