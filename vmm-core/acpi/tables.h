/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ACPI tables (ACPI 6.4, chapter 5.2) as growing byte arrays: kumo_acpi_table_new() writes the
 * header, kumo_acpi_put_*() append little-endian fields, kumo_acpi_table_finish() fills in length
 * and checksum.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KUMO_ACPI_HEADER_BYTES = 36,
    KUMO_ACPI_RSDP_BYTES = 36,
    KUMO_ACPI_FADT_BYTES = 276,

    KUMO_ACPI_SPACE_MEMORY = 0,
    KUMO_ACPI_SPACE_IO = 1,

    KUMO_ACPI_ACCESS_BYTE = 1,
    KUMO_ACPI_ACCESS_WORD = 2,
    KUMO_ACPI_ACCESS_DWORD = 3,

    KUMO_FADT_TMR_VAL_EXT = 1 << 8,
    KUMO_FADT_RESET_REG_SUP = 1 << 10,
    KUMO_FADT_HW_REDUCED = 1 << 20,
};

/* Generic Address Structure (5.2.3.2). */
typedef struct {
    uint8_t space;
    uint8_t bit_width;
    uint8_t bit_offset;
    uint8_t access;
    uint64_t address;
} KumoAcpiGas;

/* Returns: the byte that makes the sum over @bytes and itself 0. */
uint8_t kumo_acpi_checksum(const void *bytes, size_t len);

/**
 * kumo_acpi_table_new:
 * @signature: four characters
 *
 * Returns: (transfer full): a table with its header, length and checksum still 0.
 */
GByteArray *kumo_acpi_table_new(const char *signature, uint8_t revision);
void kumo_acpi_table_finish(GByteArray *table);

void kumo_acpi_put(GByteArray *table, uint64_t value, unsigned n_bytes);
void kumo_acpi_put_bytes(GByteArray *table, const void *bytes, size_t len);
void kumo_acpi_put_gas(GByteArray *table, const KumoAcpiGas *gas);

/* What differs between machines in the fixed description (5.2.9); the hardware is reduced (4.1). */
typedef struct {
    uint64_t dsdt_gpa;
    uint32_t flags;
    uint16_t iapc_boot_arch;
    uint16_t arm_boot_arch;
    KumoAcpiGas reset;
    uint8_t reset_value;
    KumoAcpiGas pm1a_event; /* with those of address 0 there are none */
    KumoAcpiGas pm1a_control;
    KumoAcpiGas pm_timer;
    KumoAcpiGas sleep_control;
    KumoAcpiGas sleep_status;
} KumoAcpiFadt;

/* Returns: (transfer full): a finished FADT of revision 6.3. */
GByteArray *kumo_acpi_fadt_new(const KumoAcpiFadt *fadt);

/* Returns: (transfer full): a finished MCFG with one segment group and one bus per entry of
 * @ecam_bases. */
GByteArray *kumo_acpi_mcfg_new(const uint64_t *ecam_bases, unsigned n_segments);

/* Returns: (transfer full): a finished XSDT. */
GByteArray *kumo_acpi_xsdt_new(const uint64_t *table_gpas, unsigned n_tables);

/* Fills @ret with a root pointer of revision 2 (5.2.5.3) without an RSDT. */
void kumo_acpi_rsdp_fill(uint8_t ret[KUMO_ACPI_RSDP_BYTES], uint64_t xsdt_gpa);
