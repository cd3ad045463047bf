/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The AML writer: bytes against the specification, and whole tables against ACPICA's compiler. */
#include "vmm-core/acpi/aml.h"

#include <glib/gstdio.h>
#include <string.h>

#include "vmm-core/acpi/tables.h"

static void expect(KumoAml *aml, const void *bytes, size_t len)
{
    g_assert_cmpmem(aml->bytes->data, aml->bytes->len, bytes, len);
    g_byte_array_set_size(aml->bytes, 0);
}

#define EXPECT(aml, ...)                                                                           \
    do {                                                                                           \
        static const uint8_t want_[] = { __VA_ARGS__ };                                            \
        expect((aml), want_, sizeof(want_));                                                       \
    } while (0)

static void test_integers(void)
{
    g_autoptr(KumoAml) aml = kumo_aml_new();

    kumo_aml_integer(aml, 0);
    EXPECT(aml, 0x00);
    kumo_aml_integer(aml, 1);
    EXPECT(aml, 0x01);
    kumo_aml_integer(aml, 2);
    EXPECT(aml, 0x0a, 2);
    kumo_aml_integer(aml, 0xff);
    EXPECT(aml, 0x0a, 0xff);
    kumo_aml_integer(aml, 0x100);
    EXPECT(aml, 0x0b, 0x00, 0x01);
    kumo_aml_integer(aml, 0x10000);
    EXPECT(aml, 0x0c, 0, 0, 1, 0);
    kumo_aml_integer(aml, 0x123456789abcdef0);
    EXPECT(aml, 0x0e, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12);
}

static void test_names(void)
{
    g_autoptr(KumoAml) aml = kumo_aml_new();

    kumo_aml_path(aml, "AB");
    EXPECT(aml, 'A', 'B', '_', '_');
    kumo_aml_path(aml, "\\_SB_.PC00");
    EXPECT(aml, '\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', '0', '0');
    kumo_aml_path(aml, "^^A.B.C");
    EXPECT(aml, '^', '^', 0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_');
    kumo_aml_path(aml, "\\");
    EXPECT(aml, '\\', 0);
    kumo_aml_eisaid(aml, "PNP0A03");
    EXPECT(aml, 0x0c, 0x41, 0xd0, 0x0a, 0x03);
    kumo_aml_string(aml, "hi");
    EXPECT(aml, 0x0d, 'h', 'i', 0);
    kumo_aml_op(aml, 0x5b31);
    EXPECT(aml, 0x5b, 0x31);
}

/* The length counts its own bytes: check on both sides of each change of its size. */
static void test_package_lengths(void)
{
    static const struct {
        unsigned body, n;
    } cases[] = { { 0, 1 },    { 62, 1 },      { 63, 2 },      { 4093, 2 },
                  { 4094, 3 }, { 1048572, 3 }, { 1048573, 4 }, { 2000000, 4 } };
    g_autofree uint8_t *zeros = g_malloc0(2000000);

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(KumoAml) aml = kumo_aml_new();
        KumoAmlMark mark = kumo_aml_open_else(aml);
        const uint8_t *at;
        uint32_t len;

        kumo_aml_raw(aml, zeros, cases[i].body);
        kumo_aml_close(aml, mark);
        g_assert_cmpuint(aml->bytes->len, ==, 1 + cases[i].n + cases[i].body);
        at = aml->bytes->data + 1;
        g_assert_cmpuint(at[0] >> 6, ==, cases[i].n - 1);
        len = cases[i].n == 1 ? at[0] & 0x3f : at[0] & 0xf;
        for (unsigned k = 1; k < cases[i].n; k++)
            len |= (uint32_t)at[k] << (8 * k - 4);
        g_assert_cmpuint(len, ==, cases[i].body + cases[i].n);
    }
}

static void test_buffers(void)
{
    g_autoptr(KumoAml) aml = kumo_aml_new();
    KumoAmlMark outer = kumo_aml_open_package(aml, 1);
    KumoAmlMark mark = kumo_aml_open_buffer(aml);

    kumo_aml_raw(aml, "abc", 3);
    kumo_aml_close(aml, mark);
    kumo_aml_close(aml, outer);
    EXPECT(aml, 0x12, 9, 1, 0x11, 6, 0x0a, 3, 'a', 'b', 'c');
    kumo_aml_uuid(aml, "33db4d5b-1ff7-401c-9657-7441c03dd766");
    EXPECT(aml, 0x11, 0x13, 0x0a, 16, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57,
           0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66);
}

/* Something of everything that the writer can write. */
static GByteArray *everything(void)
{
    static const KumoAmlField fields[] = { { "PCIU", 32 }, { NULL, 200 }, { "B0EJ", 8 } };
    g_autoptr(KumoAml) aml = kumo_aml_new();
    GByteArray *table = kumo_acpi_table_new("DSDT", 6);
    KumoAmlMark scope, device, method, block, block2, list;

    kumo_aml_name(aml, "\\_S5_");
    list = kumo_aml_open_package(aml, 4);
    for (unsigned i = 0; i < 4; i++)
        kumo_aml_integer(aml, i < 2 ? 5 : 0);
    kumo_aml_close(aml, list);

    scope = kumo_aml_open_scope(aml, "\\_SB_");
    device = kumo_aml_open_device(aml, "PC00");
    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0A08");
    kumo_aml_name(aml, "DESC");
    kumo_aml_string(aml, "a host bridge");
    kumo_aml_name(aml, "_CRS");
    list = kumo_aml_open_resources(aml);
    kumo_aml_res_bus_numbers(aml, 0, 0);
    kumo_aml_res_io(aml, 0xcf8, 0xcf8, 1, 8);
    kumo_aml_res_word_io(aml, 0, 0xcf7);
    kumo_aml_res_word_io(aml, 0xd00, 0xffff);
    kumo_aml_res_dword_memory(aml, false, 0xc0000000, 0xe7ffffff);
    kumo_aml_res_qword_memory(aml, true, 0x100000000, 0x3ffffffeffff);
    kumo_aml_res_memory32_fixed(aml, true, 0xe8000000, 0x10000000);
    kumo_aml_res_irq(aml, 13, false, false, true);
    kumo_aml_close_resources(aml, list);
    kumo_aml_operation_region(aml, "PCST", 0, 0x3ffffffef000, 32);
    kumo_aml_field(aml, "PCST", 3, true, 2, fields, G_N_ELEMENTS(fields));
    kumo_aml_mutex(aml, "BLCK");

    method = kumo_aml_open_method(aml, "PCEJ", 2, true);
    kumo_aml_acquire(aml, "BLCK", 0xffff);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_integer(aml, 0);
    kumo_aml_local(aml, 0);
    block = kumo_aml_open_while(aml);
    kumo_aml_op(aml, KUMO_AML_LLESS);
    kumo_aml_local(aml, 0);
    kumo_aml_integer(aml, 32);
    block2 = kumo_aml_open_if(aml);
    kumo_aml_op(aml, KUMO_AML_LEQUAL);
    kumo_aml_arg(aml, 0);
    kumo_aml_local(aml, 0);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_arg(aml, 1);
    kumo_aml_path(aml, "B0EJ");
    kumo_aml_op(aml, KUMO_AML_BREAK);
    kumo_aml_close(aml, block2);
    block2 = kumo_aml_open_else(aml);
    kumo_aml_op(aml, KUMO_AML_INCREMENT);
    kumo_aml_local(aml, 0);
    kumo_aml_close(aml, block2);
    kumo_aml_close(aml, block);
    kumo_aml_op(aml, KUMO_AML_NOTIFY);
    kumo_aml_path(aml, "\\_SB_.PC00");
    kumo_aml_integer(aml, 1);
    kumo_aml_release(aml, "BLCK");
    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_integer(aml, 0);
    kumo_aml_close(aml, method);

    method = kumo_aml_open_method(aml, "_DSM", 4, false);
    block = kumo_aml_open_if(aml);
    kumo_aml_op(aml, KUMO_AML_LEQUAL);
    kumo_aml_arg(aml, 0);
    kumo_aml_uuid(aml, "e5c937d0-3553-4d7a-9117-ea4d19c3434d");
    kumo_aml_op(aml, KUMO_AML_RETURN);
    list = kumo_aml_open_buffer(aml);
    kumo_aml_raw(aml, "\x21", 1);
    kumo_aml_close(aml, list);
    kumo_aml_close(aml, block);
    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_integer(aml, 0);
    kumo_aml_close(aml, method);

    kumo_aml_name(aml, "LIST");
    list = kumo_aml_open_package(aml, 300);
    for (unsigned i = 0; i < 300; i++)
        kumo_aml_integer(aml, i);
    kumo_aml_close(aml, list);
    kumo_aml_close(aml, device);
    kumo_aml_close(aml, scope);

    kumo_acpi_put_bytes(table, aml->bytes->data, aml->bytes->len);
    kumo_acpi_table_finish(table);
    return table;
}

static bool run_iasl(const char *dir, const char *const *argv, char **ret_output)
{
    g_autofree char *out = NULL;
    g_autofree char *err = NULL;
    int status = -1;

    if (!g_spawn_sync(dir, (char **)(uintptr_t)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                      &err, &status, NULL))
        return false;
    *ret_output = g_strconcat(out, err, NULL);
    return g_spawn_check_wait_status(status, NULL);
}

static void test_iasl(void)
{
    static const char *const disassemble[] = { "iasl", "-d", "dsdt.aml", NULL };
    static const char *const compile[] = { "iasl", "-oa", "-p", "again", "dsdt.dsl", NULL };
    static const char *const wanted[] = {
        "Device (PC00)",
        "EisaId (\"PNP0A08\")",
        "Offset (0x1D)",
        "Field (PCST, DWordAcc, Lock, WriteAsZeros)",
        "Mutex (BLCK, 0x00)",
        "Method (PCEJ, 2, Serialized)",
        "ToUUID (\"e5c937d0-3553-4d7a-9117-ea4d19c3434d\")",
        "0x00003FFFFFFEFFFF, // Range Maximum",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Shared",
        "Package (0x012C)",
    };
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *dir = NULL;
    g_autofree char *aml_path = NULL;
    g_autofree char *dsl_path = NULL;
    g_autofree char *again_path = NULL;
    g_autofree char *output = NULL;
    g_autofree char *output2 = NULL;
    g_autofree char *dsl = NULL;
    g_autofree char *again = NULL;
    gsize again_len;
    g_autoptr(GByteArray) table = NULL;

    if (!iasl) {
        g_test_skip("iasl (package acpica-tools) is not installed");
        return;
    }
    dir = g_dir_make_tmp("kumo-aml-XXXXXX", NULL);
    aml_path = g_build_filename(dir, "dsdt.aml", NULL);
    dsl_path = g_build_filename(dir, "dsdt.dsl", NULL);
    again_path = g_build_filename(dir, "again.aml", NULL);
    table = everything();
    g_assert_true(g_file_set_contents(aml_path, (const char *)table->data, table->len, NULL));

    g_assert_true(run_iasl(dir, disassemble, &output));
    g_assert_null(strstr(output, "rror"));
    g_assert_true(g_file_get_contents(dsl_path, &dsl, NULL, NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(wanted); i++)
        if (!strstr(dsl, wanted[i]))
            g_error("'%s' is not in\n%s", wanted[i], dsl);

    if (!run_iasl(dir, compile, &output2))
        g_error("%s", output2);
    g_assert_nonnull(strstr(output2, "0 Errors"));
    /* The compiler's result is the same code; the headers differ in the compiler's name. */
    g_assert_true(g_file_get_contents(again_path, &again, &again_len, NULL));
    g_assert_cmpmem(again + 36, again_len - 36, table->data + 36, table->len - 36);

    g_unlink(aml_path);
    g_unlink(dsl_path);
    g_unlink(again_path);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/aml/integers", test_integers);
    g_test_add_func("/aml/names", test_names);
    g_test_add_func("/aml/package-lengths", test_package_lengths);
    g_test_add_func("/aml/buffers", test_buffers);
    g_test_add_func("/aml/iasl", test_iasl);
    return g_test_run();
}
