/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The payload of a machine: firmware or kernel, initramfs, command line and boot parameters. */
#pragma once

#include "vmm-core/core/arch.h"

/**
 * kumo_x86_load_payload:
 * @rsdp_gpa: for the boot parameters
 *
 * Loads firmware or kernel, initramfs and command line of @config, and writes the boot parameters.
 *
 * Returns: TRUE and the registers of the boot processor in @ret_entry; FALSE with @error naming the
 * file.
 */
bool kumo_x86_load_payload(KumoMemory *memory, const KumoPayloadConfig *config, uint64_t rsdp_gpa,
                           KumoArchEntry *ret_entry, GError **error);
