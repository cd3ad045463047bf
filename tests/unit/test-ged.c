/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "tests/fakes/fake_machine.h"
#include "tests/fakes/iasl.h"
#include "vmm-core/acpi/tables.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/devices/platform/platform.h"

enum { VECTOR = 0x41 };

#define GED_GPA 0x3ffffffed000ULL

static uint8_t ged_byte(FakeMachine *fake, uint64_t gpa)
{
    uint8_t value = 0xee;

    kumo_bus_read(fake->machine.mmio, 0, gpa, &value, 1);
    return value;
}

static void test_notify(void)
{
    FakeMachine *fake = fake_machine_new();
    KumoMachine *machine = &fake->machine;
    static const uint8_t ones[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

    fake_machine_create(fake, &kumo_device_type_ged);
    fake_machine_route(fake, 13, VECTOR);
    g_assert_nonnull(machine->acpi_notify);
    g_assert_cmphex(ged_byte(fake, GED_GPA), ==, 0);
    machine->acpi_notify(machine->acpi_notify_opaque, KUMO_ACPI_NOTIFY_POWER_BUTTON);
    machine->acpi_notify(machine->acpi_notify_opaque, KUMO_ACPI_NOTIFY_PCI);
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 2);
    kumo_bus_write(machine->mmio, 0, GED_GPA, ones, 1);
    g_assert_cmphex(ged_byte(fake, GED_GPA), ==, 0x0c);
    g_assert_cmphex(ged_byte(fake, GED_GPA), ==, 0);
    kumo_device_remove(g_ptr_array_index(machine->devices, 0));
    g_assert_null(machine->acpi_notify);
    g_assert_cmphex(ged_byte(fake, GED_GPA), ==, 0xff);
    fake_machine_free(fake);
}

/* The address is the same whether the controllers above it exist or not. */
static void test_address(void)
{
    for (unsigned n = 0; n <= 2; n++) {
        FakeMachine *fake = fake_machine_new();

        for (unsigned i = 0; i < n; i++) {
            uint64_t gpa = 0;

            g_assert_true(kumo_machine_alloc_platform_mmio(&fake->machine, 16, &gpa, NULL));
            g_assert_cmphex(gpa, ==, 0x3ffffffee000ULL + (1 - i) * 0x1000);
        }
        fake_machine_create(fake, &kumo_device_type_ged);
        g_assert_cmphex(ged_byte(fake, GED_GPA), ==, 0);
        fake_machine_free(fake);
    }
}

/* iasl, where it is installed, takes the objects apart without a complaint. */
static void test_aml(void)
{
    FakeMachine *fake = fake_machine_new();
    g_autoptr(KumoAml) aml = kumo_aml_new();
    g_autoptr(GByteArray) table = kumo_acpi_table_new("DSDT", 6);
    g_autofree char *text = NULL;
    KumoAmlMark scope = kumo_aml_open_scope(aml, "_SB_");

    fake->config->serial.mode = KUMO_CONSOLE_NULL;
    fake_machine_create(fake, &kumo_device_type_serial);
    fake_machine_create(fake, &kumo_device_type_ged);
    for (unsigned i = 0; i < fake->machine.devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(fake->machine.devices, i);

        device->ops->aml(device, aml);
    }
    kumo_aml_close(aml, scope);
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "ACPI0013", 9));
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "_EVT", 4));
    kumo_acpi_put_bytes(table, aml->bytes->data, aml->bytes->len);
    kumo_acpi_table_finish(table);
    text = iasl_disassemble(table);
    if (text) {
        g_assert_nonnull(strstr(text, "Notify (\\_SB.PWRB, 0x80)"));
        g_assert_nonnull(strstr(text, "If ((Local0 & 0x08))"));
    }
    fake_machine_free(fake);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ged/notify", test_notify);
    g_test_add_func("/ged/address", test_address);
    g_test_add_func("/ged/aml", test_aml);
    return g_test_run();
}
