/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/core/bus.h"

enum { READERS = 3, STRESS_ROUNDS = 3000, STRESS_MIN_ROUNDS = 50 };

/* On a busy host a reader may lose its processor inside an access, and every round waits for it. */
#define STRESS_US (5 * G_USEC_PER_SEC)

typedef struct {
    KumoBus *bus;
    uint64_t base;
    uint64_t last_offset, last_value;
    unsigned last_size;
    int alive; /* atomic */
    int hits;  /* atomic */
    bool remove_inside;
    uint64_t nested_addr;
} Device;

static void device_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    Device *device = opaque;

    g_assert_true(g_atomic_int_get(&device->alive));
    g_atomic_int_inc(&device->hits);
    memset(data, 0x11, size);
    if (device->nested_addr)
        kumo_bus_read(device->bus, 0, device->nested_addr, data, size);
    if (device->remove_inside) {
        kumo_bus_remove(device->bus, device->base, device);
        g_assert_true(kumo_bus_add(device->bus, 0x9000, 0x10, &(KumoBusOps){ .read = device_read },
                                   device, "moved", NULL));
        device->remove_inside = false;
        kumo_bus_remove(device->bus, 0x9000, device);
    }
}

static void device_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    Device *device = opaque;

    device->last_offset = offset;
    device->last_size = size;
    device->last_value = 0;
    memcpy(&device->last_value, data, size);
}

static const KumoBusOps device_ops = { .read = device_read, .write = device_write };

static uint64_t bus_read(KumoBus *bus, uint64_t addr, unsigned size)
{
    uint64_t value = 0;

    kumo_bus_read(bus, 0, addr, (uint8_t *)&value, size);
    return value;
}

static void test_lookup(void)
{
    g_autoptr(KumoBus) bus = kumo_bus_new("mmio", 1);
    Device low = { .alive = 1 }, high = { .alive = 1 };
    g_autoptr(GError) error = NULL;

    g_assert_cmphex(bus_read(bus, 0x1000, 4), ==, 0xffffffff);
    g_assert_true(kumo_bus_add(bus, 0x2000, 0x100, &device_ops, &high, "high", NULL));
    g_assert_true(kumo_bus_add(bus, 0x1000, 0x10, &device_ops, &low, "low", NULL));
    g_assert_cmphex(bus_read(bus, 0x1000, 4), ==, 0x11111111);
    g_assert_cmphex(bus_read(bus, 0x100c, 4), ==, 0x11111111);
    g_assert_cmphex(bus_read(bus, 0x100d, 4), ==, 0xffffffff); /* crosses the end */
    g_assert_cmphex(bus_read(bus, 0x0fff, 2), ==, 0xffff);
    g_assert_cmphex(bus_read(bus, 0x1010, 1), ==, 0xff);
    g_assert_cmphex(bus_read(bus, 0x20ff, 1), ==, 0x11);
    g_assert_cmphex(bus_read(bus, G_MAXUINT64, 1), ==, 0xff);
    g_assert_cmpint(low.hits, ==, 2);

    kumo_bus_write(bus, 0, 0x2042, (const uint8_t *)"\x01\x02\x03", 3);
    g_assert_cmphex(high.last_offset, ==, 0x42);
    g_assert_cmphex(high.last_value, ==, 0x030201);
    g_assert_cmpuint(high.last_size, ==, 3);

    g_assert_false(kumo_bus_add(bus, 0x1008, 0x10, &device_ops, &low, "clash", &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    g_assert_false(kumo_bus_add(bus, 0x0, 0x10000, &device_ops, &low, "clash", &error));
    g_clear_error(&error);
    g_assert_false(kumo_bus_add(bus, G_MAXUINT64 - 7, 9, &device_ops, &low, "wraps", &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_assert_true(kumo_bus_add(bus, G_MAXUINT64 - 7, 8, &device_ops, &low, "top", NULL));
    g_assert_cmphex(bus_read(bus, G_MAXUINT64, 1), ==, 0x11);

    kumo_bus_remove(bus, 0x1000, &high); /* not its owner */
    g_assert_cmphex(bus_read(bus, 0x1000, 1), ==, 0x11);
    kumo_bus_remove(bus, 0x1000, &low);
    g_assert_cmphex(bus_read(bus, 0x1000, 1), ==, 0xff);
    kumo_bus_synchronize(bus);
}

/* A guest moves a BAR by an access that the bus delivers; and an access may lead to another. */
static void test_change_inside(void)
{
    g_autoptr(KumoBus) bus = kumo_bus_new("mmio", 1);
    Device outer = { .bus = bus, .base = 0x1000, .alive = 1, .nested_addr = 0x2000 };
    Device inner = { .bus = bus, .base = 0x2000, .alive = 1, .remove_inside = true };

    g_assert_true(kumo_bus_add(bus, 0x1000, 0x10, &device_ops, &outer, "outer", NULL));
    g_assert_true(kumo_bus_add(bus, 0x2000, 0x10, &device_ops, &inner, "inner", NULL));
    g_assert_cmphex(bus_read(bus, 0x1000, 4), ==, 0x11111111);
    g_assert_cmpint(inner.hits, ==, 1);
    g_assert_cmphex(bus_read(bus, 0x2000, 4), ==, 0xffffffff);
    kumo_bus_synchronize(bus);
}

typedef struct {
    KumoBus *bus;
    Device *devices[2];
    int stop; /* atomic */
    int next_reader;
} Stress;

static gpointer stress_reader(gpointer opaque)
{
    Stress *stress = opaque;
    unsigned reader = (unsigned)g_atomic_int_add(&stress->next_reader, 1);
    uint8_t data[4];

    while (!g_atomic_int_get(&stress->stop)) {
        kumo_bus_read(stress->bus, reader, 0x1000, data, 4);
        g_assert_true(data[0] == 0x11 || data[0] == 0xff);
        kumo_bus_read(stress->bus, reader, 0x5000, data, 4);
        g_assert_true(data[0] == 0x11);
    }
    return NULL;
}

/* After remove and synchronize the device may be freed: ASan sees who still touches it. */
static void test_stress(void)
{
    g_autoptr(KumoBus) bus = kumo_bus_new("mmio", READERS);
    Device fixed = { .alive = 1 };
    Stress stress = { .bus = bus };
    GThread *threads[READERS];
    int64_t start = g_get_monotonic_time();

    g_assert_true(kumo_bus_add(bus, 0x5000, 4, &device_ops, &fixed, "fixed", NULL));
    for (unsigned i = 0; i < READERS; i++)
        threads[i] = g_thread_new("reader", stress_reader, &stress);
    for (unsigned round = 0; round < STRESS_ROUNDS && (round < STRESS_MIN_ROUNDS ||
                                                       g_get_monotonic_time() - start < STRESS_US);
         round++) {
        Device *device = g_new0(Device, 1);

        g_atomic_int_set(&device->alive, 1);
        g_assert_true(kumo_bus_add(bus, 0x1000, 4, &device_ops, device, "device", NULL));
        g_assert_true(kumo_bus_add(bus, 0x800, 4, &device_ops, device, "other", NULL));
        if (round % 64 == 0)
            g_usleep(100);
        kumo_bus_remove(bus, 0x1000, device);
        kumo_bus_remove(bus, 0x800, device);
        kumo_bus_synchronize(bus);
        g_atomic_int_set(&device->alive, 0);
        g_free(device);
    }
    g_atomic_int_set(&stress.stop, 1);
    for (unsigned i = 0; i < READERS; i++)
        g_thread_join(threads[i]);
    g_assert_cmpint(fixed.hits, >, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bus/lookup", test_lookup);
    g_test_add_func("/bus/change-inside", test_change_inside);
    g_test_add_func("/bus/stress", test_stress);
    return g_test_run();
}
