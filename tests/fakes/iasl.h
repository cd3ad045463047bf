/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ACPICA's compiler as a judge of ACPI tables. */
#pragma once

#include <glib.h>

/* Takes @table apart and puts it together again: it is an error of the test if there is anything to
   complain about. Returns: the source; NULL, with the test skipped, where iasl is not installed.
   Free with g_free(). */
char *iasl_disassemble(const GByteArray *table);
