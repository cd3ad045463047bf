/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>
#include <unistd.h>

#include "tests/fakes/fake_pci.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum {
    SLOT = 1,
    VECTORS = 10,
    TABLE = 0x8000,
    PBA = 0x48000,
    BAR_SIZE = 0x80000,
    ENABLE = 0x8000,
    FUNCTION_MASK = 0x4000,
    ENTRY_CONTROL = 12,
};

typedef struct {
    KumoDevice device;
    KumoPciFunction function;
    KumoMsix *msix;
} Dev;

typedef struct {
    FakePci *fake;
    Dev *dev;
    unsigned cap;
} Fixture;

static void bar_access(Dev *dev, uint64_t offset, uint8_t *data, unsigned size, bool write)
{
    if (offset >= PBA)
        kumo_msix_access(dev->msix, true, offset - PBA, data, size, write);
    else if (offset >= TABLE)
        kumo_msix_access(dev->msix, false, offset - TABLE, data, size, write);
}

static void bar_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    bar_access(opaque, offset, data, size, false);
}

static void bar_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    bar_access(opaque, offset, (uint8_t *)data, size, true);
}

static const KumoBusOps bar_ops = { .read = bar_read, .write = bar_write };

static bool dev_realize(KumoDevice *device, GError **error)
{
    return kumo_pci_plug(device->machine, &((Dev *)device)->function, error);
}

static void dev_unrealize(KumoDevice *device)
{
    kumo_pci_unplug(device->machine, &((Dev *)device)->function);
}

static void dev_free(KumoDevice *device)
{
    Dev *dev = (Dev *)device;

    kumo_msix_free(dev->msix);
    g_assert_null(dev->function.msix);
    kumo_pci_function_clear(&dev->function);
    g_free(dev);
}

static const KumoDeviceOps dev_ops = {
    .type = "test",
    .realize = dev_realize,
    .unrealize = dev_unrealize,
    .free = dev_free,
};

static Dev *dev_add(FakePci *fake, unsigned n_vectors)
{
    static const KumoPciIds ids = { .vendor = 0x1234, .device = 1 };
    Dev *dev = g_new0(Dev, 1);
    KumoPciBar bar = {
        .kind = KUMO_PCI_BAR_MEM64, .size = BAR_SIZE, .ops = &bar_ops, .opaque = dev
    };

    kumo_device_init(&dev->device, &dev_ops, &fake->machine, "dev");
    kumo_pci_function_init(&dev->function, &dev->device, &ids, -1);
    kumo_pci_function_set_bar(&dev->function, 0, &bar);
    dev->msix = kumo_msix_new(&dev->function, n_vectors, 0, TABLE, PBA);
    g_assert_true(kumo_device_add(&dev->device, NULL));
    return dev;
}

static void set_up(Fixture *f, gconstpointer unused)
{
    f->fake = fake_pci_new();
    f->dev = dev_add(f->fake, VECTORS);
    f->cap = fake_find_cap(f->fake, SLOT, 0x11, 0);
    g_assert_cmpuint(f->cap, !=, 0);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    g_assert_cmpuint(f->fake->vm->irqfds->len, <=, VECTORS);
    kumo_device_remove(&f->dev->device);
    g_assert_cmpuint(f->fake->vm->irqfds->len, ==, 0);
    fake_pci_free(f->fake);
}

static void control(Fixture *f, uint16_t value)
{
    fake_ecam_write(f->fake, SLOT, f->cap + 2, value, 2);
}

static uint64_t table_at(unsigned vector)
{
    return FAKE_MMIO64_BASE + TABLE + 16 * vector;
}

static void set_entry(Fixture *f, unsigned vector, uint64_t address, uint32_t data, bool masked)
{
    fake_mmio_write(f->fake, table_at(vector) + 12, 1, 4);
    fake_mmio_write(f->fake, table_at(vector), address, 8);
    fake_mmio_write(f->fake, table_at(vector) + 8, data, 4);
    fake_mmio_write(f->fake, table_at(vector) + 12, masked, 4);
}

static uint64_t pba(Fixture *f)
{
    return fake_mmio_read(f->fake, FAKE_MMIO64_BASE + PBA, 8);
}

/* Returns: how often the interrupt with @data was fired since the last look. */
static uint64_t fired(Fixture *f, uint32_t data)
{
    FakeHvVm *vm = f->fake->vm;
    uint64_t n = 0;

    for (unsigned i = 0; i < vm->routes->len; i++) {
        const KumoHvMsiRoute *route = &g_array_index(vm->routes, KumoHvMsiRoute, i);

        for (unsigned j = 0; j < vm->irqfds->len && route->data == data; j++) {
            const FakeIrqfd *irqfd = &g_array_index(vm->irqfds, FakeIrqfd, j);

            if (irqfd->gsi == route->gsi)
                n += kumo_eventfd_drain(irqfd->fd);
        }
    }
    return n;
}

static void test_capability(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, f->cap + 2, 2), ==, VECTORS - 1);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, f->cap + 4, 4), ==, TABLE);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, f->cap + 8, 4), ==, PBA);
    control(f, 0xffff);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, f->cap + 2, 2), ==,
                    ENABLE | FUNCTION_MASK | (VECTORS - 1));
    g_assert_true(kumo_msix_enabled(f->dev->msix));
    /* Nothing was unmasked, so no interrupt was set up. */
    g_assert_cmpuint(f->fake->vm->irqfds->len, ==, 0);
}

static void test_delivery(Fixture *f, gconstpointer unused)
{
    set_entry(f, 3, 0xfee01000, 0x43, false);
    kumo_msix_trigger(f->dev->msix, 3); /* disabled: lost */
    control(f, ENABLE);
    g_assert_cmpuint(fired(f, 0x43), ==, 0);
    g_assert_cmphex(pba(f), ==, 0);
    kumo_msix_trigger(f->dev->msix, 3);
    kumo_msix_trigger(f->dev->msix, 3);
    g_assert_cmpuint(fired(f, 0x43), ==, 2);
    /* Out of range. */
    kumo_msix_trigger(f->dev->msix, VECTORS);
    kumo_msix_trigger(f->dev->msix, 0xffff);
    /* Moved to another vector while masked, as an affinity change does. */
    set_entry(f, 3, 0xfee02000, 0x53, false);
    kumo_msix_trigger(f->dev->msix, 3);
    g_assert_cmpuint(fired(f, 0x43), ==, 0);
    g_assert_cmpuint(fired(f, 0x53), ==, 1);
    control(f, 0);
    g_assert_cmpuint(f->fake->vm->irqfds->len, ==, 0);
    control(f, ENABLE);
    kumo_msix_trigger(f->dev->msix, 3);
    g_assert_cmpuint(fired(f, 0x53), ==, 1);
}

static void test_vector_mask(Fixture *f, gconstpointer unused)
{
    control(f, ENABLE);
    set_entry(f, 9, 0xfee00000, 0x49, true);
    kumo_msix_trigger(f->dev->msix, 9);
    kumo_msix_trigger(f->dev->msix, 9);
    g_assert_cmphex(pba(f), ==, 1 << 9);
    g_assert_cmpuint(fired(f, 0x49), ==, 0);
    fake_mmio_write(f->fake, table_at(9) + 12, 0, 4);
    g_assert_cmpuint(fired(f, 0x49), ==, 1); /* pending ones melt into one */
    g_assert_cmphex(pba(f), ==, 0);
    fake_mmio_write(f->fake, table_at(9) + 12, 1, 1);
    kumo_msix_trigger(f->dev->msix, 9);
    g_assert_cmpuint(fired(f, 0x49), ==, 0);
    control(f, 0); /* disabling forgets */
    control(f, ENABLE);
    fake_mmio_write(f->fake, table_at(9) + 12, 0, 4);
    g_assert_cmpuint(fired(f, 0x49), ==, 0);
}

static void test_function_mask(Fixture *f, gconstpointer unused)
{
    set_entry(f, 0, 0xfee00000, 0x40, false);
    set_entry(f, 1, 0xfee00000, 0x41, true);
    control(f, ENABLE | FUNCTION_MASK);
    kumo_msix_trigger(f->dev->msix, 0);
    kumo_msix_trigger(f->dev->msix, 1);
    g_assert_cmphex(pba(f), ==, 3);
    control(f, ENABLE);
    g_assert_cmpuint(fired(f, 0x40), ==, 1);
    g_assert_cmphex(pba(f), ==, 2);
    fake_mmio_write(f->fake, table_at(1) + 12, 0, 4);
    g_assert_cmpuint(fired(f, 0x41), ==, 1);
}

static void test_odd_accesses(Fixture *f, gconstpointer unused)
{
    uint64_t end = table_at(VECTORS);

    set_entry(f, 0, 0x1122334455667700, 0x8899aabb, true);
    g_assert_cmphex(fake_mmio_read(f->fake, table_at(0), 1), ==, 0x00);
    g_assert_cmphex(fake_mmio_read(f->fake, table_at(0) + 1, 2), ==, 0x6677);
    g_assert_cmphex(fake_mmio_read(f->fake, table_at(0) + 5, 7), ==, 0x8899aabb112233);
    g_assert_cmphex(fake_mmio_read(f->fake, table_at(0) + 9, 8), ==, 0x00000000018899aa);
    /* Across two entries; reserved bits stay clear. */
    fake_mmio_write(f->fake, table_at(0) + 13, 0xffffffffffffffff, 8);
    g_assert_cmphex(fake_mmio_read(f->fake, table_at(0) + 12, 4), ==, 1);
    g_assert_cmphex(fake_mmio_read(f->fake, table_at(1), 8), ==, 0xfffffffffc);
    /* At and beyond the end of table and pending bits. */
    g_assert_cmphex(fake_mmio_read(f->fake, end - 4, 8), ==, 1);
    fake_mmio_write(f->fake, end - 1, 0xffffffff, 4);
    fake_mmio_write(f->fake, end, 0xffffffff, 4);
    fake_mmio_write(f->fake, FAKE_MMIO64_BASE + PBA, 0xffffffff, 4);
    g_assert_cmphex(fake_mmio_read(f->fake, end, 4), ==, 0);
    g_assert_cmphex(pba(f), ==, 0);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_MMIO64_BASE + PBA + 1, 3), ==, 0);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_MMIO64_BASE + BAR_SIZE - 8, 8), ==, 0);
    control(f, ENABLE);
    kumo_msix_trigger(f->dev->msix, 9);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_MMIO64_BASE + PBA + 1, 1), ==, 2);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_MMIO64_BASE + PBA, 2), ==, 0x200);
}

/* The hypervisor refuses: the guest's interrupt is lost, nothing else. */
static void test_route_fails(Fixture *f, gconstpointer unused)
{
    f->fake->vm->fail = "irqfd";
    control(f, ENABLE);
    set_entry(f, 0, 0xfee00000, 0x40, false);
    kumo_msix_trigger(f->dev->msix, 0);
    f->fake->vm->fail = NULL;
    set_entry(f, 0, 0xfee00000, 0x40, false);
    kumo_msix_trigger(f->dev->msix, 0);
    g_assert_cmpuint(fired(f, 0x40), ==, 1);
}

static void test_limits(void)
{
    FakePci *fake = fake_pci_new();
    Dev *dev = dev_add(fake, KUMO_PCI_MAX_MSIX_VECTORS);
    unsigned cap = fake_find_cap(fake, SLOT, 0x11, 0);

    g_assert_cmphex(fake_ecam_read(fake, SLOT, cap + 2, 2), ==, 0x7ff);
    fake_ecam_write(fake, SLOT, cap + 2, ENABLE, 2);
    kumo_msix_trigger(dev->msix, 2047);
    g_assert_cmphex(fake_mmio_read(fake, FAKE_MMIO64_BASE + PBA + 248, 8), ==, 1ULL << 63);
    fake_pci_free(fake);
}

typedef struct {
    Dev *dev;
    int stop;
    int triggers;
} Race;

static gpointer trigger_thread(gpointer opaque)
{
    Race *race = opaque;

    while (!g_atomic_int_get(&race->stop)) {
        kumo_msix_trigger(race->dev->msix, 0);
        g_atomic_int_inc(&race->triggers);
    }
    return NULL;
}

/* Masking, disabling and rerouting while a worker fires; the last trigger is never lost. */
static void test_race(Fixture *f, gconstpointer unused)
{
    Race race = { .dev = f->dev };
    GThread *thread = g_thread_new("trigger", trigger_thread, &race);

    for (unsigned i = 0; i < 2000; i++) {
        control(f, i & 1 ? ENABLE : ENABLE | FUNCTION_MASK);
        set_entry(f, 0, 0xfee00000, 0x40 + (i & 1), i & 2);
        if (i % 16 == 0)
            control(f, 0);
    }
    while (g_atomic_int_get(&race.triggers) < 100)
        g_thread_yield();
    control(f, ENABLE);
    set_entry(f, 0, 0xfee00000, 0x40, true);
    g_atomic_int_set(&race.stop, 1);
    g_thread_join(thread);
    fired(f, 0x40); /* what is left over, under whichever route is the present one */
    fired(f, 0x41);
    kumo_msix_trigger(f->dev->msix, 0);
    fake_mmio_write(f->fake, table_at(0) + 12, 0, 4);
    g_assert_cmpuint(fired(f, 0x40), ==, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    kumo_log_level = KUMO_LOG_ERROR;
#define ADD(name) g_test_add("/msix/" #name, Fixture, NULL, set_up, test_##name, tear_down)
    ADD(capability);
    ADD(delivery);
    ADD(vector_mask);
    ADD(function_mask);
    ADD(odd_accesses);
    ADD(route_fails);
    ADD(race);
    g_test_add_func("/msix/limits", test_limits);
    return g_test_run();
}
