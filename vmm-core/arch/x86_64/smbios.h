/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

#include "vmm-core/config/config.h"
#include "vmm-core/core/memory.h"

/* Where the structures start behind the entry point. */
enum { KUMO_X86_SMBIOS_TABLE_OFFSET = 0x20 };

/**
 * kumo_x86_smbios_new:
 *
 * The entry point (64-bit, SMBIOS 3.2) for KUMO_X86_SMBIOS_GPA and the structures of types 0, 1, 3,
 * 11 and 127.
 *
 * Returns: (transfer full): or NULL with @error if the UUID is none or it is all too long for 64
 * KiB.
 */
GByteArray *kumo_x86_smbios_new(const KumoPlatformConfig *platform, GError **error);

/**
 * kumo_x86_smbios_write:
 *
 * Returns: TRUE and the end of the structures in @ret_end_gpa; FALSE with @error as
 * kumo_x86_smbios_new(), or if there is no RAM.
 */
bool kumo_x86_smbios_write(KumoMemory *memory, const KumoPlatformConfig *platform,
                           uint64_t *ret_end_gpa, GError **error);
