/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/iasl.h"

#include <glib/gstdio.h>
#include <string.h>

static char *disassemble(char *iasl, const GByteArray *table)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-iasl-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "dsdt.aml", NULL);
    g_autofree char *source = g_build_filename(dir, "dsdt.dsl", NULL);
    g_autofree char *again = g_build_filename(dir, "again.aml", NULL);
    g_autofree char *output = NULL;
    char *take_apart[] = { iasl, (char *)"-d", path, NULL };
    char *compile[] = { iasl, (char *)"-we", (char *)"-p", again, source, NULL };
    char *text = NULL;
    int status = -1;

    g_assert_true(g_file_set_contents(path, (const char *)table->data, table->len, NULL));
    g_assert_true(g_spawn_sync(NULL, take_apart, NULL,
                               G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL,
                               NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
    g_assert_true(g_file_get_contents(source, &text, NULL, NULL));
    g_test_message("%s", text);
    g_assert_true(g_spawn_sync(NULL, compile, NULL, 0, NULL, NULL, &output, NULL, &status, NULL));
    g_test_message("%s", output);
    g_assert_nonnull(strstr(output, " 0 Errors, 0 Warnings"));
    g_unlink(path);
    g_unlink(source);
    g_unlink(again);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    return text;
}

char *iasl_disassemble(const GByteArray *table)
{
    g_autofree char *iasl = g_find_program_in_path("iasl");

    if (iasl)
        return disassemble(iasl, table);
    g_test_skip("iasl is not installed");
    return NULL;
}
