/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/acpi/tables.h"

#include <string.h>

static const char oem_id[6] = { 'K', 'U', 'M', 'O', ' ', ' ' };
static const char creator_id[4] = { 'K', 'U', 'M', 'O' };

enum { OEM_REVISION = 1, LENGTH_OFFSET = 4, CHECKSUM_OFFSET = 9 };

uint8_t kumo_acpi_checksum(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    uint8_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + at[i]);
    return (uint8_t)-sum;
}

void kumo_acpi_put(GByteArray *table, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));

        g_byte_array_append(table, &byte, 1);
    }
}

void kumo_acpi_put_bytes(GByteArray *table, const void *bytes, size_t len)
{
    g_byte_array_append(table, bytes, (guint)len);
}

void kumo_acpi_put_gas(GByteArray *table, const KumoAcpiGas *gas)
{
    kumo_acpi_put(table, gas->space, 1);
    kumo_acpi_put(table, gas->bit_width, 1);
    kumo_acpi_put(table, gas->bit_offset, 1);
    kumo_acpi_put(table, gas->access, 1);
    kumo_acpi_put(table, gas->address, 8);
}

GByteArray *kumo_acpi_table_new(const char *signature, uint8_t revision)
{
    GByteArray *table = g_byte_array_new();

    g_return_val_if_fail(strlen(signature) == 4, table);
    kumo_acpi_put_bytes(table, signature, 4);
    kumo_acpi_put(table, 0, 4); /* length */
    kumo_acpi_put(table, revision, 1);
    kumo_acpi_put(table, 0, 1); /* checksum */
    kumo_acpi_put_bytes(table, oem_id, sizeof(oem_id));
    kumo_acpi_put_bytes(table, "KUMO", 4); /* OEM table id: KUMO and the signature */
    kumo_acpi_put_bytes(table, signature, 4);
    kumo_acpi_put(table, OEM_REVISION, 4);
    kumo_acpi_put_bytes(table, creator_id, sizeof(creator_id));
    kumo_acpi_put(table, OEM_REVISION, 4);
    return table;
}

void kumo_acpi_table_finish(GByteArray *table)
{
    uint32_t len = GUINT32_TO_LE(table->len);

    memcpy(table->data + LENGTH_OFFSET, &len, sizeof(len));
    table->data[CHECKSUM_OFFSET] = 0;
    table->data[CHECKSUM_OFFSET] = kumo_acpi_checksum(table->data, table->len);
}

/* A field of the FADT at its place; the table was grown to its full size with zeros before. */
static void poke(GByteArray *table, unsigned offset, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        table->data[offset + i] = (uint8_t)(value >> (8 * i));
}

static void poke_gas(GByteArray *table, unsigned offset, const KumoAcpiGas *gas)
{
    poke(table, offset, gas->space, 1);
    poke(table, offset + 1, gas->bit_width, 1);
    poke(table, offset + 2, gas->bit_offset, 1);
    poke(table, offset + 3, gas->access, 1);
    poke(table, offset + 4, gas->address, 8);
}

GByteArray *kumo_acpi_fadt_new(const KumoAcpiFadt *fadt)
{
    GByteArray *table = kumo_acpi_table_new("FACP", 6);

    g_byte_array_set_size(table, KUMO_ACPI_FADT_BYTES);
    memset(table->data + KUMO_ACPI_HEADER_BYTES, 0, KUMO_ACPI_FADT_BYTES - KUMO_ACPI_HEADER_BYTES);
    poke(table, 109, fadt->iapc_boot_arch, 2);
    poke(table, 112, fadt->flags, 4);
    poke_gas(table, 116, &fadt->reset);
    poke(table, 128, fadt->reset_value, 1);
    poke(table, 129, fadt->arm_boot_arch, 2);
    poke(table, 131, 3, 1);              /* minor version */
    poke(table, 140, fadt->dsdt_gpa, 8); /* X_DSDT */
    poke_gas(table, 148, &fadt->pm1a_event);
    poke_gas(table, 172, &fadt->pm1a_control);
    poke_gas(table, 208, &fadt->pm_timer);
    poke_gas(table, 244, &fadt->sleep_control);
    poke_gas(table, 256, &fadt->sleep_status);
    memcpy(table->data + 268, "KUMO    ", 8); /* hypervisor vendor identity */
    kumo_acpi_table_finish(table);
    return table;
}

GByteArray *kumo_acpi_mcfg_new(const uint64_t *ecam_bases, unsigned n_segments)
{
    GByteArray *table = kumo_acpi_table_new("MCFG", 1);

    kumo_acpi_put(table, 0, 8);
    for (unsigned i = 0; i < n_segments; i++) {
        kumo_acpi_put(table, ecam_bases[i], 8);
        kumo_acpi_put(table, i, 2); /* segment group */
        kumo_acpi_put(table, 0, 1); /* first bus */
        kumo_acpi_put(table, 0, 1); /* last bus */
        kumo_acpi_put(table, 0, 4);
    }
    kumo_acpi_table_finish(table);
    return table;
}

GByteArray *kumo_acpi_xsdt_new(const uint64_t *table_gpas, unsigned n_tables)
{
    GByteArray *table = kumo_acpi_table_new("XSDT", 1);

    for (unsigned i = 0; i < n_tables; i++)
        kumo_acpi_put(table, table_gpas[i], 8);
    kumo_acpi_table_finish(table);
    return table;
}

void kumo_acpi_rsdp_fill(uint8_t ret[KUMO_ACPI_RSDP_BYTES], uint64_t xsdt_gpa)
{
    uint32_t len = GUINT32_TO_LE(KUMO_ACPI_RSDP_BYTES);
    uint64_t gpa = GUINT64_TO_LE(xsdt_gpa);

    memset(ret, 0, KUMO_ACPI_RSDP_BYTES);
    memcpy(ret, "RSD PTR ", 8);
    memcpy(ret + 9, oem_id, sizeof(oem_id));
    ret[15] = 2;
    memcpy(ret + 20, &len, sizeof(len));
    memcpy(ret + 24, &gpa, sizeof(gpa));
    ret[8] = kumo_acpi_checksum(ret, 20); /* the part that ACPI 1.0 knew */
    ret[32] = kumo_acpi_checksum(ret, KUMO_ACPI_RSDP_BYTES);
}
