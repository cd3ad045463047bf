/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>
#include <time.h>

#include "tests/fakes/fake_machine.h"
#include "vmm-core/devices/platform/platform.h"

static unsigned cmos(FakeMachine *fake, uint8_t reg)
{
    fake_machine_outb(fake, 0x70, reg);
    return fake_machine_inb(fake, 0x71);
}

static unsigned from_bcd(unsigned value)
{
    g_assert_cmpuint(value & 0xf, <, 10);
    return (value >> 4) * 10 + (value & 0xf);
}

static void test_cmos_time(gconstpointer data)
{
    int offset = GPOINTER_TO_INT(data);
    FakeMachine *fake = fake_machine_new();
    struct tm tm = { 0 };
    time_t before, after, shown;

    fake->config->platform.rtc_offset_s = offset;
    fake_machine_create(fake, &kumo_device_type_cmos);
    before = time(NULL) + offset;
    do {
        tm.tm_sec = (int)from_bcd(cmos(fake, 0x00));
        tm.tm_min = (int)from_bcd(cmos(fake, 0x02));
        tm.tm_hour = (int)from_bcd(cmos(fake, 0x04));
        tm.tm_wday = (int)from_bcd(cmos(fake, 0x06)) - 1;
        tm.tm_mday = (int)from_bcd(cmos(fake, 0x07));
        tm.tm_mon = (int)from_bcd(cmos(fake, 0x08)) - 1;
        tm.tm_year = (int)(from_bcd(cmos(fake, 0x32)) * 100 + from_bcd(cmos(fake, 0x09))) - 1900;
    } while ((int)from_bcd(cmos(fake, 0x00)) != tm.tm_sec);
    after = time(NULL) + offset;
    int weekday = tm.tm_wday;
    shown = timegm(&tm);
    g_assert_cmpint(shown, >=, before);
    g_assert_cmpint(shown, <=, after);
    g_assert_cmpint(tm.tm_wday, ==, weekday);
    g_assert_cmphex(cmos(fake, 0x0b), ==, 0x02);
    g_assert_cmphex(cmos(fake, 0x0d), ==, 0x80);
    g_assert_cmphex(cmos(fake, 0x0a) & 0x7f, ==, 0x26);
    fake_machine_free(fake);
}

static void test_cmos_ram(void)
{
    FakeMachine *fake = fake_machine_new();
    KumoMemRegion regions[] = {
        { .gpa = 0, .size_bytes = 3ULL << 30 },
        { .gpa = 4ULL << 30, .size_bytes = 5ULL << 30 },
    };
    KumoMemory memory = { .regions = regions, .n_regions = 2 };

    fake->machine.memory = &memory;
    fake_machine_create(fake, &kumo_device_type_cmos);
    g_assert_cmphex(cmos(fake, 0x34) | cmos(fake, 0x35) << 8, ==, (0xc0000000 - 0x1000000) >> 16);
    g_assert_cmphex(cmos(fake, 0x5b) | cmos(fake, 0x5c) << 8 | cmos(fake, 0x5d) << 16, ==,
                    (5ULL << 30) >> 16);
    fake_machine_outb(fake, 0x70, 0x40);
    fake_machine_outb(fake, 0x71, 0x99);
    g_assert_cmphex(cmos(fake, 0x40), ==, 0x99);
    /* The NMI bit does not address anything. */
    g_assert_cmphex(cmos(fake, 0xc0), ==, 0x99);
    g_assert_cmphex(fake_machine_inb(fake, 0x70), ==, 0xc0);

    fake_machine_outb(fake, 0x70, 0x0f);
    fake_machine_outb(fake, 0x71, 0);
    g_assert_cmpint(fake->n_resets, ==, 0);
    fake_machine_outb(fake, 0x70, 0x8f);
    fake_machine_outb(fake, 0x71, 0x05);
    g_assert_cmpint(fake->n_resets, ==, 0);
    fake_machine_outb(fake, 0x71, 0);
    g_assert_cmpint(fake->n_resets, ==, 1);
    fake_machine_free(fake);
}

static void test_i8042(void)
{
    FakeMachine *fake = fake_machine_new();
    uint8_t data[4];

    fake_machine_create(fake, &kumo_device_type_i8042);
    g_assert_cmphex(fake_machine_inb(fake, 0x61), ==, 0x20);
    g_assert_cmphex(fake_machine_inb(fake, 0x64), ==, 0x00);
    fake_machine_outb(fake, 0x64, 0xff);
    fake_machine_outb(fake, 0x60, 0xfe);
    fake_machine_outb(fake, 0x61, 0xfe);
    g_assert_cmpint(fake->n_resets, ==, 0);
    fake_machine_outb(fake, 0x64, 0xfe);
    g_assert_cmpint(fake->n_resets, ==, 1);
    kumo_bus_read(fake->machine.pio, 0, 0x61, data, 3);
    g_assert_cmphex(data[0], ==, 0x20);
    g_assert_cmphex(data[2], ==, 0x00);
    fake_machine_free(fake);
}

static void test_power(void)
{
    FakeMachine *fake = fake_machine_new();
    static const uint8_t s5[4] = { 0x34 };

    fake_machine_create(fake, &kumo_device_type_acpi_power);
    g_assert_cmphex(fake_machine_inb(fake, 0x600), ==, 0);
    fake_machine_outb(fake, 0x600, 0);
    fake_machine_outb(fake, 0x600, 0x14); /* type 5 without the enable bit */
    fake_machine_outb(fake, 0x600, 0x30); /* type 4 */
    fake_machine_outb(fake, 0x601, 0x34);
    fake_machine_outb(fake, 0x603, 1);
    g_assert_cmpint(fake->n_shutdowns + fake->n_resets, ==, 0);
    fake_machine_outb(fake, 0x600, 0x34);
    g_assert_cmpint(fake->n_shutdowns, ==, 1);
    for (unsigned size = 1; size <= 4; size++)
        kumo_bus_write(fake->machine.pio, 0, 0x600, s5, size);
    g_assert_cmpint(fake->n_shutdowns, ==, 5);
    fake_machine_outb(fake, 0x600, 1);
    g_assert_cmpint(fake->n_resets, ==, 1);
    g_assert_cmpint(fake->n_shutdowns, ==, 5);
    fake_machine_free(fake);
}

static uint32_t ticks(FakeMachine *fake)
{
    uint32_t value = 0;

    kumo_bus_read(fake->machine.pio, 0, 0x608, (uint8_t *)&value, 4);
    return value;
}

static void test_timer(void)
{
    FakeMachine *fake = fake_machine_new();
    int64_t t0, t1, t2, t3;
    uint32_t first, second, least, most;

    fake_machine_create(fake, &kumo_device_type_acpi_power);
    t0 = g_get_monotonic_time();
    first = ticks(fake);
    t1 = g_get_monotonic_time();
    g_usleep(20000);
    t2 = g_get_monotonic_time();
    second = ticks(fake);
    t3 = g_get_monotonic_time();
    least = (uint32_t)((t2 - t1) * 3.579545) - 8;
    most = (uint32_t)((t3 - t0) * 3.579545) + 8;
    g_assert_cmpuint(second - first, >=, least);
    g_assert_cmpuint(second - first, <=, most);
    /* A byte of it is that byte: the highest one has not moved in a fraction of a second. */
    g_assert_cmphex(fake_machine_inb(fake, 0x60b), ==, 0);
    fake_machine_free(fake);
}

/* Blocks of a loader that wants them: nothing is ever told in them, and nothing done by them. */
static void test_pm1a(void)
{
    static const uint16_t ports[] = { 0x60c, 0x60d, 0x60e, 0x60f, 0x610, 0x611 };

    for (unsigned i = 0; i < 4; i++) {
        FakeMachine *fake = fake_machine_new();

        fake->config->cpus.nested = i & 1;
        fake->config->cpus.kvm_hyperv = i & 2;
        fake_machine_create(fake, &kumo_device_type_acpi_power);
        for (unsigned n = 0; n < G_N_ELEMENTS(ports); n++) {
            fake_machine_outb(fake, ports[n], 0x34);
            g_assert_cmphex(fake_machine_inb(fake, ports[n]), ==, i == 3 ? 0 : 0xff);
        }
        g_assert_cmphex(fake_machine_inb(fake, 0x612), ==, 0xff);
        g_assert_cmpint(fake->n_resets + fake->n_shutdowns, ==, 0);
        kumo_device_remove(g_ptr_array_index(fake->machine.devices, 0));
        g_assert_cmphex(fake_machine_inb(fake, 0x60c), ==, 0xff);
        g_assert_cmphex(fake_machine_inb(fake, 0x610), ==, 0xff);
        fake_machine_free(fake);
    }
}

static void test_debug_ports(void)
{
    FakeMachine *fake = fake_machine_new();

    fake_machine_create(fake, &kumo_device_type_debug_port);
    fake_machine_outb(fake, 0x80, 0x41);
    g_assert_cmphex(fake_machine_inb(fake, 0x80), ==, 0);
    g_assert_cmphex(fake_machine_inb(fake, 0x402), ==, 0xe9);
    fake_machine_outb(fake, 0x402, 'x');
    fake_machine_free(fake);
    /* All is given back: the ports can be taken again. */
    fake = fake_machine_new();
    fake_machine_create(fake, &kumo_device_type_debug_port);
    kumo_device_remove(g_ptr_array_index(fake->machine.devices, 0));
    g_assert_cmphex(fake_machine_inb(fake, 0x402), ==, 0xff);
    fake_machine_create(fake, &kumo_device_type_debug_port);
    fake_machine_free(fake);
}

/* Every width at every port, and nothing breaks or is left unfilled. */
static void test_odd_sizes(void)
{
    static const uint16_t ports[] = { 0x61,  0x62,  0x63,  0x64,  0x70,  0x71,  0x80,  0x402,
                                      0x600, 0x601, 0x602, 0x603, 0x608, 0x609, 0x60a, 0x60b };
    FakeMachine *fake = fake_machine_new();

    fake_machine_create(fake, &kumo_device_type_cmos);
    fake_machine_create(fake, &kumo_device_type_i8042);
    fake_machine_create(fake, &kumo_device_type_debug_port);
    fake_machine_create(fake, &kumo_device_type_acpi_power);
    for (unsigned i = 0; i < G_N_ELEMENTS(ports); i++) {
        for (unsigned size = 1; size <= 8; size++) {
            uint8_t data[8 + 1];

            memset(data, 0x77, sizeof(data));
            kumo_bus_write(fake->machine.pio, 0, ports[i], data, size);
            kumo_bus_read(fake->machine.pio, 0, ports[i], data, size);
            g_assert_cmphex(data[size], ==, 0x77);
        }
    }
    g_assert_cmpint(fake->n_resets + fake->n_shutdowns, ==, 0);
    fake_machine_free(fake);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/platform/cmos/time", NULL, test_cmos_time);
    g_test_add_data_func("/platform/cmos/time/behind", GINT_TO_POINTER(-400 * 86400),
                         test_cmos_time);
    g_test_add_data_func("/platform/cmos/time/ahead", GINT_TO_POINTER(32400), test_cmos_time);
    g_test_add_func("/platform/cmos/ram", test_cmos_ram);
    g_test_add_func("/platform/i8042", test_i8042);
    g_test_add_func("/platform/power", test_power);
    g_test_add_func("/platform/timer", test_timer);
    g_test_add_func("/platform/pm1a", test_pm1a);
    g_test_add_func("/platform/debug-ports", test_debug_ports);
    g_test_add_func("/platform/odd-sizes", test_odd_sizes);
    return g_test_run();
}
