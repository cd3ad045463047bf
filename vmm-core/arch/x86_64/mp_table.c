/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Section numbers are those of Intel's MultiProcessor Specification 1.4. */
#include "vmm-core/arch/x86_64/mp_table.h"

#include "vmm-core/acpi/tables.h"
#include "vmm-core/arch/x86_64/cpuid.h"
#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

enum {
    POINTER_BYTES = 16,
    POINTER_CHECKSUM = 10,
    TABLE_LENGTH = POINTER_BYTES + 4,
    TABLE_CHECKSUM = POINTER_BYTES + 7,
    TABLE_ENTRY_COUNT = POINTER_BYTES + 34,
    ALIGN = 16,

    SPECIFICATION = 4, /* 1.4 */
    APIC_VERSION = 0x14,

    /* Entries (4.3). */
    ENTRY_PROCESSOR = 0,
    ENTRY_BUS = 1,
    ENTRY_IO_APIC = 2,
    ENTRY_IO_INTERRUPT = 3,
    ENTRY_LOCAL_INTERRUPT = 4,

    CPU_ENABLED = 1 << 0,
    CPU_BOOT_PROCESSOR = 1 << 1,
    CPU_SIGNATURE = 0x600, /* family 6: CPUID says which */
    CPU_HAS_FPU = 1 << 0,
    CPU_HAS_APIC = 1 << 9,
    IO_APIC_USABLE = 1 << 0,

    INTERRUPT_VECTORED = 0,
    INTERRUPT_NMI = 1,
    INTERRUPT_EXTERNAL = 3,
    AS_THE_BUS_HAS_IT = 0, /* polarity and trigger mode */

    ISA_BUS = 0,
    N_ISA_INTERRUPTS = 16,
    ALL_LOCAL_APICS = 255,
    MAX_APIC_ID = 254, /* 255 means all of them */
};

static void put(GByteArray *table, uint64_t value, unsigned n_bytes)
{
    kumo_acpi_put(table, value, n_bytes);
}

static void put_pointer(GByteArray *table, uint64_t gpa)
{
    kumo_acpi_put_bytes(table, "_MP_", 4);
    put(table, gpa + POINTER_BYTES, 4);
    put(table, POINTER_BYTES / 16, 1);
    put(table, SPECIFICATION, 1);
    put(table, 0, 1); /* checksum */
    put(table, 0, 5); /* there is a table; no IMCR (3.6.2.1) */
    table->data[POINTER_CHECKSUM] = kumo_acpi_checksum(table->data, POINTER_BYTES);
}

static void put_header(GByteArray *table)
{
    kumo_acpi_put_bytes(table, "PCMP", 4);
    put(table, 0, 2); /* length */
    put(table, SPECIFICATION, 1);
    put(table, 0, 1); /* checksum */
    kumo_acpi_put_bytes(table, "KUMO    ", 8);
    kumo_acpi_put_bytes(table, "kumo        ", 12);
    put(table, 0, 4); /* no table of the manufacturer's */
    put(table, 0, 2);
    put(table, 0, 2); /* number of entries */
    put(table, KUMO_X86_LAPIC_GPA, 4);
    put(table, 0, 4); /* no extended entries */
}

static void put_processors(GByteArray *table, const KumoCpusConfig *cpus)
{
    for (uint32_t i = 0; i < cpus->boot_vcpus; i++) {
        put(table, ENTRY_PROCESSOR, 1);
        put(table, kumo_x86_apic_id(cpus, i), 1);
        put(table, APIC_VERSION, 1);
        put(table, CPU_ENABLED | (i == 0 ? CPU_BOOT_PROCESSOR : 0), 1);
        put(table, CPU_SIGNATURE, 4);
        put(table, CPU_HAS_FPU | CPU_HAS_APIC, 4);
        put(table, 0, 8);
    }
}

static void put_interrupt(GByteArray *table, uint8_t entry, uint8_t type, uint8_t source_irq,
                          uint8_t destination, uint8_t pin)
{
    put(table, entry, 1);
    put(table, type, 1);
    put(table, AS_THE_BUS_HAS_IT, 2);
    put(table, ISA_BUS, 1);
    put(table, source_irq, 1);
    put(table, destination, 1);
    put(table, pin, 1);
}

GByteArray *kumo_x86_mp_table_new(const KumoCpusConfig *cpus, uint64_t gpa)
{
    uint32_t last_id = kumo_x86_apic_id(cpus, cpus->boot_vcpus - 1);
    uint32_t io_apic_id = last_id + 1;
    GByteArray *table;

    if (io_apic_id > MAX_APIC_ID)
        return NULL;
    table = g_byte_array_new();
    put_pointer(table, gpa);
    put_header(table);
    put_processors(table, cpus);

    put(table, ENTRY_BUS, 1);
    put(table, ISA_BUS, 1);
    kumo_acpi_put_bytes(table, "ISA   ", 6);

    put(table, ENTRY_IO_APIC, 1);
    put(table, io_apic_id, 1);
    put(table, APIC_VERSION, 1);
    put(table, IO_APIC_USABLE, 1);
    put(table, KUMO_X86_IOAPIC_GPA, 4);

    for (uint8_t irq = 0; irq < N_ISA_INTERRUPTS; irq++)
        put_interrupt(table, ENTRY_IO_INTERRUPT, INTERRUPT_VECTORED, irq, (uint8_t)io_apic_id, irq);
    put_interrupt(table, ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTERNAL, 0, 0, 0);
    put_interrupt(table, ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, 0, ALL_LOCAL_APICS, 1);

    *(uint16_t *)(void *)&table->data[TABLE_LENGTH] =
        GUINT16_TO_LE((uint16_t)(table->len - POINTER_BYTES));
    *(uint16_t *)(void *)&table->data[TABLE_ENTRY_COUNT] =
        GUINT16_TO_LE((uint16_t)(cpus->boot_vcpus + 1 + 1 + N_ISA_INTERRUPTS + 2));
    table->data[TABLE_CHECKSUM] =
        kumo_acpi_checksum(table->data + POINTER_BYTES, table->len - POINTER_BYTES);
    return table;
}

bool kumo_x86_mp_table_write(KumoMemory *memory, const KumoCpusConfig *cpus, uint64_t after_gpa,
                             GError **error)
{
    uint64_t gpa = kumo_align_up(after_gpa, ALIGN);
    g_autoptr(GByteArray) table = kumo_x86_mp_table_new(cpus, gpa);

    if (!table) {
        kumo_info("no MP table: APIC ids of more than eight bits; guests need ACPI");
        return true;
    }
    if (gpa + table->len > KUMO_X86_HIGH_RAM_GPA) {
        kumo_warn("no MP table: the SMBIOS strings leave no room; guests need ACPI");
        return true;
    }
    if (!kumo_memory_write(memory, gpa, table->data, table->len)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INTERNAL, "no memory for the MP table");
        return false;
    }
    return true;
}
