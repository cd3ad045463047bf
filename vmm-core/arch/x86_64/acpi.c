/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/acpi.h"

#include "vmm-core/acpi/tables.h"
#include "vmm-core/arch/x86_64/cpuid.h"
#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/device.h"

/* The registers that the ACPI device answers at: sleep control, sleep status and reset are one. */
enum {
    SLEEP_PORT = 0x600,
    PM_TIMER_PORT = 0x608,
    PM1A_EVENT_PORT = 0x60c,
    PM1A_CONTROL_PORT = 0x610,
    RESET_VALUE = 1,
    SLEEP_TYPE_S5 = 5,

    MADT_IOAPIC = 1,
    MADT_SOURCE_OVERRIDE = 2,
    MADT_LOCAL_X2APIC = 9,
    MADT_CPU_ENABLED = 1 << 0,
    MADT_CPU_ONLINE_CAPABLE = 1 << 1,

    FADT_BOOT_VGA_NOT_PRESENT = 1 << 2,

    TABLE_ALIGN = 16,
    MAX_TABLES = 8,
};

GByteArray *kumo_x86_acpi_madt_new(const KumoCpusConfig *cpus)
{
    GByteArray *table = kumo_acpi_table_new("APIC", 5);

    kumo_acpi_put(table, KUMO_X86_LAPIC_GPA, 4);
    kumo_acpi_put(table, 0, 4); /* no 8259 pair */
    for (uint32_t i = 0; i < cpus->max_vcpus; i++) {
        kumo_acpi_put(table, MADT_LOCAL_X2APIC, 1);
        kumo_acpi_put(table, 16, 1);
        kumo_acpi_put(table, 0, 2);
        kumo_acpi_put(table, kumo_x86_apic_id(cpus, i), 4);
        kumo_acpi_put(table,
                      MADT_CPU_ONLINE_CAPABLE | (i < cpus->boot_vcpus ? MADT_CPU_ENABLED : 0), 4);
        kumo_acpi_put(table, i, 4); /* processor UID */
    }
    kumo_acpi_put(table, MADT_IOAPIC, 1);
    kumo_acpi_put(table, 12, 1);
    kumo_acpi_put(table, 0, 1); /* IOAPIC id */
    kumo_acpi_put(table, 0, 1);
    kumo_acpi_put(table, KUMO_X86_IOAPIC_GPA, 4);
    kumo_acpi_put(table, 0, 4); /* first GSI */

    kumo_acpi_put(table, MADT_SOURCE_OVERRIDE, 1);
    kumo_acpi_put(table, 10, 1);
    kumo_acpi_put(table, 0, 1); /* ISA */
    kumo_acpi_put(table, KUMO_X86_SERIAL_GSI, 1);
    kumo_acpi_put(table, KUMO_X86_SERIAL_GSI, 4);
    kumo_acpi_put(table, 0, 2); /* polarity and trigger as ISA has them */
    kumo_acpi_table_finish(table);
    return table;
}

static void add_s5(KumoAml *aml)
{
    KumoAmlMark package;

    kumo_aml_name(aml, "\\_S5_");
    package = kumo_aml_open_package(aml, 4);
    kumo_aml_integer(aml, SLEEP_TYPE_S5);
    kumo_aml_integer(aml, SLEEP_TYPE_S5);
    kumo_aml_integer(aml, 0);
    kumo_aml_integer(aml, 0);
    kumo_aml_close(aml, package);
}

GByteArray *kumo_x86_acpi_dsdt_new(const GPtrArray *devices)
{
    g_autoptr(KumoAml) aml = kumo_aml_new();
    GByteArray *table = kumo_acpi_table_new("DSDT", 6);
    KumoAmlMark scope;

    add_s5(aml);
    scope = kumo_aml_open_scope(aml, "\\_SB_");
    for (guint i = 0; i < devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(devices, i);

        if (device->ops->aml)
            device->ops->aml(device, aml);
    }
    kumo_aml_close(aml, scope);
    kumo_acpi_put_bytes(table, aml->bytes->data, aml->bytes->len);
    kumo_acpi_table_finish(table);
    return table;
}

static GByteArray *fadt_new(const KumoCpusConfig *cpus, uint64_t dsdt_gpa)
{
    static const KumoAcpiGas sleep = { .space = KUMO_ACPI_SPACE_IO,
                                       .bit_width = 8,
                                       .access = KUMO_ACPI_ACCESS_BYTE,
                                       .address = SLEEP_PORT };
    KumoAcpiFadt fadt = {
        .dsdt_gpa = dsdt_gpa,
        .flags = KUMO_FADT_HW_REDUCED | KUMO_FADT_RESET_REG_SUP | KUMO_FADT_TMR_VAL_EXT,
        .iapc_boot_arch = FADT_BOOT_VGA_NOT_PRESENT,
        .reset = sleep,
        .reset_value = RESET_VALUE,
        .pm_timer = { .space = KUMO_ACPI_SPACE_IO,
                      .bit_width = 32,
                      .access = KUMO_ACPI_ACCESS_DWORD,
                      .address = PM_TIMER_PORT },
        .sleep_control = sleep,
        .sleep_status = sleep,
    };

    if (kumo_cpus_can_run_hyperv(cpus)) {
        fadt.pm1a_event = (KumoAcpiGas){ .space = KUMO_ACPI_SPACE_IO,
                                         .bit_width = 32,
                                         .access = KUMO_ACPI_ACCESS_WORD,
                                         .address = PM1A_EVENT_PORT };
        fadt.pm1a_control = (KumoAcpiGas){ .space = KUMO_ACPI_SPACE_IO,
                                           .bit_width = 16,
                                           .access = KUMO_ACPI_ACCESS_WORD,
                                           .address = PM1A_CONTROL_PORT };
    }
    return kumo_acpi_fadt_new(&fadt);
}

G_STATIC_ASSERT(KUMO_X86_SMBIOS_GPA - KUMO_X86_EBDA_GPA == KUMO_ACPI_TABLES_BYTES);

/* Where the next table goes, and whether there was room for all before it. */
typedef struct {
    KumoMemory *memory;
    uint64_t next_gpa;
    bool ok;
} Placer;

/* Writes @table, frees it. Returns: its address. */
static uint64_t place(Placer *placer, GByteArray *table)
{
    uint64_t gpa = placer->next_gpa;

    if (gpa + table->len > KUMO_X86_SMBIOS_GPA ||
        !kumo_memory_write(placer->memory, gpa, table->data, table->len))
        placer->ok = false;
    placer->next_gpa = kumo_align_up(gpa + table->len, TABLE_ALIGN);
    g_byte_array_unref(table);
    return gpa;
}

bool kumo_x86_acpi_write(KumoMemory *memory, const KumoVmConfig *config, const GPtrArray *devices,
                         GError **error)
{
    uint64_t ecam_bases[KUMO_MAX_PCI_SEGMENTS];
    uint32_t n_segments = config->platform.num_pci_segments;
    uint16_t ebda_segment = GUINT16_TO_LE(KUMO_X86_EBDA_GPA >> 4);
    uint8_t rsdp[KUMO_ACPI_RSDP_BYTES];
    uint64_t tables[MAX_TABLES];
    unsigned n = 0;
    uint64_t dsdt_gpa;
    Placer placer = {
        .memory = memory,
        .next_gpa = kumo_align_up(KUMO_X86_EBDA_GPA + KUMO_ACPI_RSDP_BYTES, TABLE_ALIGN),
        .ok = true,
    };

    for (uint32_t i = 0; i < n_segments; i++)
        ecam_bases[i] = KUMO_X86_ECAM_GPA + i * KUMO_X86_ECAM_SEGMENT;
    dsdt_gpa = place(&placer, kumo_x86_acpi_dsdt_new(devices));
    tables[n++] = place(&placer, fadt_new(&config->cpus, dsdt_gpa));
    tables[n++] = place(&placer, kumo_x86_acpi_madt_new(&config->cpus));
    tables[n++] = place(&placer, kumo_acpi_mcfg_new(ecam_bases, n_segments));
    if (config->numa->len) {
        tables[n++] = place(&placer, kumo_x86_acpi_srat_new(config, memory));
        tables[n++] = place(&placer, kumo_x86_acpi_slit_new(config));
    }
    kumo_acpi_rsdp_fill(rsdp, place(&placer, kumo_acpi_xsdt_new(tables, n)));
    if (!placer.ok || !kumo_memory_write(memory, KUMO_X86_EBDA_GPA, rsdp, sizeof(rsdp)) ||
        !kumo_memory_write(memory, KUMO_X86_EBDA_POINTER, &ebda_segment, sizeof(ebda_segment))) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE,
                    "the ACPI tables of cpus.max_vcpus %u and platform.num_pci_segments %u end at "
                    "%#" G_GINT64_MODIFIER "x, room is up to %#llx",
                    config->cpus.max_vcpus, n_segments, placer.next_gpa, KUMO_X86_SMBIOS_GPA);
        return false;
    }
    return true;
}
