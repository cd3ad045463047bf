/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/acpi/aml.h"
#include "vmm-core/core/machine.h"

/**
 * kumo_x86_acpi_madt_new:
 *
 * Returns: (transfer full): the finished interrupt controller table for @cpus.
 */
GByteArray *kumo_x86_acpi_madt_new(const KumoCpusConfig *cpus);

/**
 * kumo_x86_acpi_dsdt_new:
 * @devices: of KumoDevice; each with an aml operation adds its objects
 *
 * Returns: (transfer full): the finished DSDT.
 */
GByteArray *kumo_x86_acpi_dsdt_new(const GPtrArray *devices);

/**
 * kumo_x86_acpi_write:
 *
 * Puts the root pointer at KUMO_X86_EBDA_GPA and all tables behind it.
 *
 * Returns: TRUE, or FALSE with @error if they do not fit below the SMBIOS area.
 */
bool kumo_x86_acpi_write(KumoMemory *memory, const KumoVmConfig *config, const GPtrArray *devices,
                         GError **error);

/**
 * kumo_x86_acpi_srat_new, kumo_x86_acpi_slit_new:
 *
 * Which vCPU and which memory is in which of the configured nodes (ACPI 6.4, 5.2.16), and how far
 * the nodes are from each other (5.2.17).
 *
 * Returns: (transfer full): the finished table.
 */
GByteArray *kumo_x86_acpi_srat_new(const KumoVmConfig *config, const KumoMemory *memory);
GByteArray *kumo_x86_acpi_slit_new(const KumoVmConfig *config);
