/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ACPI says of the controllers of CPU and memory hotplug, as iasl reads it, where installed.
 */
#include <string.h>

#include "tests/fakes/fake_machine.h"
#include "tests/fakes/iasl.h"
#include "vmm-core/acpi/tables.h"
#include "vmm-core/devices/platform/platform.h"

enum { VCPUS = 20 };

static KumoCpuSlot cpus[VCPUS];

static FakeMachine *machine_new(unsigned n_vcpus)
{
    FakeMachine *fake = fake_machine_new();

    fake->config->cpus.max_vcpus = n_vcpus;
    for (unsigned i = 0; i < VCPUS; i++)
        cpus[i].apic_id = 2 * i;
    fake->machine.cpus = cpus;
    return fake;
}

static GByteArray *dsdt_new(const FakeMachine *fake)
{
    g_autoptr(KumoAml) aml = kumo_aml_new();
    GByteArray *table = kumo_acpi_table_new("DSDT", 6);
    KumoAmlMark scope = kumo_aml_open_scope(aml, "_SB_");

    for (unsigned i = 0; i < fake->machine.devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(fake->machine.devices, i);

        device->ops->aml(device, aml);
    }
    kumo_aml_close(aml, scope);
    kumo_acpi_put_bytes(table, aml->bytes->data, aml->bytes->len);
    kumo_acpi_table_finish(table);
    return table;
}

static void assert_words(const FakeMachine *fake, const char *const *words, unsigned n_words)
{
    g_autoptr(GByteArray) table = dsdt_new(fake);
    g_autofree char *text = iasl_disassemble(table);

    for (unsigned i = 0; text && i < n_words; i++) {
        if (!strstr(text, words[i]))
            g_error("no %s in %s", words[i], text);
    }
}

static void test_cpus(void)
{
    static const char *const words[] = {
        "Device (PRES)",
        "OperationRegion (PRST, SystemMemory, 0x00003FFFFFFEF000, 0x0C)",
        "Device (CPUS)",
        "Name (_HID, \"ACPI0010\"",
        "Method (CSTA, 1, Serialized)",
        "Local0 = 0x0F",
        "Notify (C013, Arg1)",
        "While ((Local0 < 0x14))",
        "If ((\\_SB.PRES.CINS == One))",
        "CTFY (Local0, One)",
        "\\_SB.PRES.CINS = One",
        "CTFY (Local0, 0x03)",
        "Device (C00A)",
        "Name (_HID, \"ACPI0007\"",
        "Return (CSTA (0x13))",
        "Method (_OST, 3, Serialized)",
        "COST (0x13, Arg0, Arg1)",
        "Method (COST, 3, Serialized)",
        "\\_SB.PRES.CDAT = ((Arg1 & 0xFFFF) | ((Arg2 & 0xFFFF) << 0x10",
        "Method (_EJ0, 1, Serialized)",
        "CEJ0 (0x13)",
        "/* 0000 */  0x09, 0x10, 0x00, 0x00, 0x26, 0x00, 0x00, 0x00,",
        "/* 0008 */  0x01, 0x00, 0x00, 0x00, 0x13, 0x00, 0x00, 0x00",
        "Name (_PXM, 0x07)",
        "If ((Local0 & One))",
        "\\_SB.CPUS.CSCN ()",
    };
    FakeMachine *fake = machine_new(VCPUS);
    g_autoptr(GError) error = NULL;
    const uint32_t last = VCPUS - 1;
    KumoNumaConfig *node = g_new0(KumoNumaConfig, 1);

    node->guest_numa_id = 7;
    node->cpus = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    g_array_append_val(node->cpus, last);
    node->distances = g_ptr_array_new();
    node->memory_zones = g_ptr_array_new();
    node->pci_segments = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    g_ptr_array_add(fake->config->numa, node);
    fake_machine_create(fake, &kumo_device_type_cpu_hotplug);
    fake_machine_create(fake, &kumo_device_type_ged);
    assert_words(fake, words, G_N_ELEMENTS(words));
    fake_machine_free(fake);
}

/* The first vCPU cannot leave, and cannot even be asked to. */
static void test_first_cpu(void)
{
    FakeMachine *fake = machine_new(2);
    g_autoptr(GByteArray) table = NULL;
    const uint8_t *at, *end;
    unsigned n = 0;

    fake_machine_create(fake, &kumo_device_type_cpu_hotplug);
    table = dsdt_new(fake);
    at = table->data;
    end = at + table->len;
    while ((at = memmem(at, (size_t)(end - at), "_EJ0", 4))) {
        n++;
        at += 4;
    }
    g_assert_cmpuint(n, ==, 1);
    fake_machine_free(fake);
}

static void test_memory(void)
{
    static const char *const words[] = {
        "Device (MHPC)",
        "OperationRegion (MHPR, SystemMemory, 0x00003FFFFFFEF000, 0x18)",
        "Offset (0x14)",
        "Method (MSTA, 1, Serialized)",
        "CreateQWordField (MR64, \\_SB.MHPC.MCRS._Y00._MIN, MINQ)",
        "CreateQWordField (MR64, \\_SB.MHPC.MCRS._Y00._MAX, MAXQ)",
        "CreateQWordField (MR64, \\_SB.MHPC.MCRS._Y00._LEN, LENQ)",
        "MINQ = (MHBL | (MHBH << 0x20))",
        "LENQ = (MHLL | (MHLH << 0x20))",
        "MAXQ = (MINQ + (LENQ - One))",
        "While ((Local0 < 0x08))",
        "If ((MINS == One))",
        "MTFY (Local0, One)",
        "MINS = One",
        "MTFY (Local0, 0x03)",
        "Notify (M007, Arg1)",
        "Device (M007)",
        "EisaId (\"PNP0C80\")",
        "Return (MSTA (0x07))",
        "Return (MCRS (0x07))",
        "MOSC (0x07, Arg0, Arg1)",
        "MOST = ((Arg1 & 0xFFFF) | ((Arg2 & 0xFFFF) << 0x10",
        "If ((Local0 & 0x02))",
        "\\_SB.MHPC.MSCN ()",
    };
    FakeMachine *fake = machine_new(1);

    fake->config->memory.hotplug_size_bytes = 1 << 30;
    fake_machine_create(fake, &kumo_device_type_memory_hotplug);
    fake_machine_create(fake, &kumo_device_type_ged);
    assert_words(fake, words, G_N_ELEMENTS(words));
    fake_machine_free(fake);
}

/* A page further down: the memory controller has the first. */
static void test_addresses(void)
{
    FakeMachine *fake = machine_new(2);
    uint8_t value = 0xee;

    fake->config->memory.hotplug_size_bytes = 1 << 30;
    fake_machine_create(fake, &kumo_device_type_memory_hotplug);
    fake_machine_create(fake, &kumo_device_type_ged);
    kumo_bus_read(fake->machine.mmio, 0, 0x3fffffff0000 - 4 * 0x1000, &value, 1);
    g_assert_cmphex(value, ==, 0);
    fake_machine_free(fake);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hotplug-aml/cpus", test_cpus);
    g_test_add_func("/hotplug-aml/first-cpu", test_first_cpu);
    g_test_add_func("/hotplug-aml/memory", test_memory);
    g_test_add_func("/hotplug-aml/addresses", test_addresses);
    return g_test_run();
}
