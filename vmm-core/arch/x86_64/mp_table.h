/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The MP table, by which guests without ACPI find processors and interrupts. */
#pragma once

#include <glib.h>

#include "vmm-core/config/config.h"
#include "vmm-core/core/memory.h"

/**
 * kumo_x86_mp_table_new:
 * @gpa: where the table will be; a multiple of 16
 *
 * The floating pointer and behind it the configuration table (Intel MultiProcessor
 * Specification 1.4, chapter 4): the vCPUs that are there at the start, the ISA bus, the I/O APIC
 * with the sixteen ISA interrupts at the pins of their numbers, and the wiring of the local APICs.
 *
 * Returns: (transfer full) (nullable): NULL if a vCPU's APIC id leaves no 8-bit id for the I/O
 * APIC: such a machine cannot be described.
 */
GByteArray *kumo_x86_mp_table_new(const KumoCpusConfig *cpus, uint64_t gpa);

/**
 * kumo_x86_mp_table_write:
 * @after_gpa: the end of what is in the area of the firmware's tables already
 *
 * Puts the table at the next multiple of 16, where guests search for it. A machine that has no such
 * table or no room for it starts all the same; guests with ACPI need none.
 *
 * Returns: TRUE, or FALSE with @error if that is not RAM.
 */
bool kumo_x86_mp_table_write(KumoMemory *memory, const KumoCpusConfig *cpus, uint64_t after_gpa,
                             GError **error);
