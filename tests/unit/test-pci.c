/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "tests/fakes/fake_pci.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

enum {
    COMMAND = 0x04,
    STATUS = 0x06,
    BAR0 = 0x10,
    BAR_SIZE = 0x1000,
    NO_MEMORY = 0x0000,
    MEMORY = 0x0002,
    INTX_OFF = 0x0400,
};

/* A function with a 64-bit BAR 0, a 32-bit BAR 2 and an I/O BAR 3, that remembers what reached it.
 */
typedef struct {
    KumoDevice device; /* as in a FakePciFunction */
    KumoPciFunction function;
    unsigned reads, writes, moves;
    uint64_t last_offset;
    uint64_t mapped_gpa; /* of BAR 0, 0: not mapped */
} Dev;

typedef struct {
    FakePci *fake;
    Dev *a, *b;
} Fixture;

static void bar_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    Dev *dev = opaque;

    dev->reads++;
    dev->last_offset = offset;
    memset(data, 0x5a, size);
}

static void bar_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    Dev *dev = opaque;

    dev->writes++;
    dev->last_offset = offset;
}

static void bar_moved(void *opaque, bool mapped, uint64_t gpa)
{
    Dev *dev = opaque;

    dev->moves++;
    dev->mapped_gpa = mapped ? gpa : 0;
}

static const KumoBusOps bar_ops = { .read = bar_read, .write = bar_write };

static Dev *dev_new(FakePci *fake, const char *id, int slot)
{
    static const KumoPciIds ids = { .vendor = 0x1234, .device = 0x5678, .class_code = 0xff };
    Dev *dev = g_new0(Dev, 1);
    KumoPciBar bar = {
        .kind = KUMO_PCI_BAR_MEM64, .size = BAR_SIZE, .align = 0x10000, .ops = &bar_ops
    };

    kumo_device_init(&dev->device, &fake_pci_function_ops, &fake->machine, id);
    kumo_pci_function_init(&dev->function, &dev->device, &ids, slot);
    bar.opaque = dev;
    bar.moved = bar_moved;
    kumo_pci_function_set_bar(&dev->function, 0, &bar);
    bar.moved = NULL;
    bar.kind = KUMO_PCI_BAR_MEM32;
    bar.align = 0;
    kumo_pci_function_set_bar(&dev->function, 2, &bar);
    bar.kind = KUMO_PCI_BAR_IO;
    bar.size = 8;
    kumo_pci_function_set_bar(&dev->function, 3, &bar);
    return dev;
}

static Dev *dev_add(FakePci *fake, const char *id, int slot)
{
    Dev *dev = dev_new(fake, id, slot);
    GError *error = NULL;

    g_assert_true(kumo_device_add(&dev->device, &error));
    g_assert_no_error(error);
    return dev;
}

static void set_up(Fixture *f, gconstpointer unused)
{
    f->fake = fake_pci_new();
    f->a = dev_add(f->fake, "a", -1);
    f->b = dev_add(f->fake, "b", -1);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    fake_pci_free(f->fake);
}

static uint32_t rd(Fixture *f, unsigned reg, unsigned size)
{
    return fake_ecam_read(f->fake, 1, reg, size);
}

static void wr(Fixture *f, unsigned reg, uint32_t value, unsigned size)
{
    fake_ecam_write(f->fake, 1, reg, value, size);
}

static void move_bar0(Fixture *f, uint64_t gpa)
{
    wr(f, COMMAND, NO_MEMORY, 2);
    wr(f, BAR0, (uint32_t)gpa, 4);
    wr(f, BAR0 + 4, (uint32_t)(gpa >> 32), 4);
    wr(f, COMMAND, MEMORY, 2);
}

/* The BARs as vm.info shows them. */
static void test_resources(Fixture *f, gconstpointer unused)
{
    const uint64_t to = f->a->mapped_gpa + 0x100000;
    json_t *found, *wanted;

    move_bar0(f, to);
    g_assert_cmphex(f->a->mapped_gpa, ==, to);
    found = kumo_pci_function_resources(&f->a->function);
    wanted = json_pack(
        "[{s:{s:i, s:I, s:i, s:s, s:b}}, {s:{s:i, s:I, s:i, s:s, s:b}},"
        " {s:{s:i, s:I, s:i, s:s, s:b}}]",
        "PciBar", "index", 0, "base", (json_int_t)to, "size", BAR_SIZE, "type_", "Mmio64",
        "prefetchable", 0, "PciBar", "index", 2, "base", (json_int_t)(rd(f, BAR0 + 8, 4) & ~15U),
        "size", BAR_SIZE, "type_", "Mmio32", "prefetchable", 0, "PciBar", "index", 3, "base",
        (json_int_t)(rd(f, BAR0 + 12, 4) & ~3U), "size", 8, "type_", "Io", "prefetchable", 0);
    g_assert_true(json_equal(found, wanted));
    json_decref(found);
    /* One that decodes nothing is shown where the guest left it. */
    wr(f, COMMAND, NO_MEMORY, 2);
    found = kumo_pci_function_resources(&f->a->function);
    g_assert_true(json_equal(found, wanted));
    json_decref(found);
    json_decref(wanted);
}

static void test_config_space(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(fake_ecam_read(f->fake, 0, 0, 4), ==, 0x0d578086);
    g_assert_cmphex(fake_ecam_read(f->fake, 0, 0x0a, 2), ==, 0x0600);
    g_assert_cmphex(rd(f, 0, 4), ==, 0x56781234);
    g_assert_cmphex(fake_ecam_read(f->fake, 7, 0, 4), ==, 0xffffffff);
    /* Functions 1 to 7 are not there. */
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_ECAM_BASE + (1 << 15) + (1 << 12), 4), ==,
                    0xffffffff);
    /* Read-only and partly writable registers, odd sizes, and accesses that leave the function. */
    wr(f, 0, 0, 4);
    g_assert_cmphex(rd(f, 0, 4), ==, 0x56781234);
    wr(f, COMMAND, 0xffff, 2);
    g_assert_cmphex(rd(f, COMMAND, 2), ==, 0x0547);
    wr(f, 0x3b, 0xaabb, 2);
    g_assert_cmphex(rd(f, 0x3c, 1), ==, 0xaa);
    g_assert_cmphex(rd(f, 1, 3), ==, 0x567812);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_ECAM_BASE + (1 << 15), 8), ==, 0x0000054756781234);
    g_assert_cmphex(rd(f, 0xffe, 4), ==, 0xffffffff);
    wr(f, 0xffe, 0, 4);
    g_assert_cmphex(rd(f, 0xffc, 4), ==, 0);
}

static void test_ports(Fixture *f, gconstpointer unused)
{
    FakePci *fake = f->fake;

    fake_pio_write(fake, 0xcf8, 0x80000800, 4);
    g_assert_cmphex(fake_pio_read(fake, 0xcf8, 4), ==, 0x80000800);
    g_assert_cmphex(fake_pio_read(fake, 0xcfc, 4), ==, 0x56781234);
    g_assert_cmphex(fake_pio_read(fake, 0xcfe, 2), ==, 0x5678);
    g_assert_cmphex(fake_pio_read(fake, 0xcfd, 1), ==, 0x12);
    g_assert_cmphex(fake_pio_read(fake, 0xcff, 2), ==, 0xffff);
    /* Only a dword reaches the address latch. */
    fake_pio_write(fake, 0xcfb, 0x01, 1);
    fake_pio_write(fake, 0xcf8, 0x0000, 2);
    g_assert_cmphex(fake_pio_read(fake, 0xcf8, 4), ==, 0x80000800);
    g_assert_cmphex(fake_pio_read(fake, 0xcf9, 1), ==, 0xff);
    fake_pio_write(fake, 0xcf8, 0x8000083c, 4);
    fake_pio_write(fake, 0xcfc, 0x7b, 1);
    g_assert_cmphex(rd(f, 0x3c, 1), ==, 0x7b);
    /* Not enabled, another bus, another function. */
    fake_pio_write(fake, 0xcf8, 0x00000800, 4);
    g_assert_cmphex(fake_pio_read(fake, 0xcfc, 4), ==, 0xffffffff);
    fake_pio_write(fake, 0xcf8, 0x80010800, 4);
    g_assert_cmphex(fake_pio_read(fake, 0xcfc, 4), ==, 0xffffffff);
    fake_pio_write(fake, 0xcf8, 0x80000900, 4);
    g_assert_cmphex(fake_pio_read(fake, 0xcfc, 4), ==, 0xffffffff);
}

static void test_placement(Fixture *f, gconstpointer unused)
{
    g_assert_cmpint(f->a->function.slot, ==, 1);
    g_assert_cmpint(f->b->function.slot, ==, 2);
    g_assert_cmphex(f->a->mapped_gpa, ==, FAKE_MMIO64_BASE);
    g_assert_cmphex(f->b->mapped_gpa, ==, FAKE_MMIO64_BASE + 0x10000);
    g_assert_cmphex(rd(f, BAR0, 4), ==, 0x00000004);
    g_assert_cmphex(rd(f, BAR0 + 4, 4), ==, 2);
    g_assert_cmphex(rd(f, BAR0 + 8, 4), ==, FAKE_MMIO32_BASE);
    g_assert_cmphex(fake_ecam_read(f->fake, 2, BAR0 + 8, 4), ==, FAKE_MMIO32_BASE + BAR_SIZE);
    g_assert_cmphex(rd(f, BAR0 + 12, 4), ==, 0x1001);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_MMIO64_BASE + 8, 4), ==, 0x5a5a5a5a);
    g_assert_cmpuint(f->a->last_offset, ==, 8);
    g_assert_cmphex(fake_pio_read(f->fake, 0x1004, 2), ==, 0x5a5a);
    g_assert_cmpuint(f->a->last_offset, ==, 4);
    fake_mmio_write(f->fake, FAKE_MMIO64_BASE + 0x10000, 1, 4);
    g_assert_cmpuint(f->b->writes, ==, 1);
}

static void test_sizing(Fixture *f, gconstpointer unused)
{
    wr(f, BAR0, 0xffffffff, 4);
    wr(f, BAR0 + 4, 0xffffffff, 4);
    wr(f, BAR0 + 8, 0xffffffff, 4);
    wr(f, BAR0 + 12, 0xffffffff, 4);
    wr(f, BAR0 + 16, 0xffffffff, 4);
    g_assert_cmphex(rd(f, BAR0, 4), ==, 0xfffff004);
    g_assert_cmphex(rd(f, BAR0 + 4, 4), ==, 0xffffffff);
    g_assert_cmphex(rd(f, BAR0 + 8, 4), ==, 0xfffff000);
    g_assert_cmphex(rd(f, BAR0 + 12, 4), ==, 0xfffffff9);
    g_assert_cmphex(rd(f, BAR0 + 16, 4), ==, 0);
    g_assert_cmphex(f->a->mapped_gpa, ==, 0);
    move_bar0(f, FAKE_MMIO64_BASE);
    g_assert_cmphex(f->a->mapped_gpa, ==, FAKE_MMIO64_BASE);
}

static void test_moves(Fixture *f, gconstpointer unused)
{
    uint64_t there = FAKE_MMIO64_BASE + FAKE_MMIO64_SIZE - BAR_SIZE;

    move_bar0(f, there);
    g_assert_cmphex(f->a->mapped_gpa, ==, there);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_MMIO64_BASE, 4), ==, 0xffffffff);
    g_assert_cmphex(fake_mmio_read(f->fake, there + BAR_SIZE - 4, 4), ==, 0x5a5a5a5a);
    g_assert_cmphex(fake_mmio_read(f->fake, there + BAR_SIZE - 2, 4), ==, 0xffffffff);
    move_bar0(f, FAKE_MMIO32_BASE + 0x100000); /* a 64-bit BAR may be put low */
    g_assert_cmphex(f->a->mapped_gpa, ==, FAKE_MMIO32_BASE + 0x100000);
    wr(f, COMMAND, NO_MEMORY, 2);
    g_assert_cmphex(f->a->mapped_gpa, ==, 0);
    g_assert_cmphex(fake_mmio_read(f->fake, FAKE_MMIO32_BASE + 0x100000, 4), ==, 0xffffffff);
    wr(f, COMMAND, MEMORY, 2);
    g_assert_cmphex(f->a->mapped_gpa, ==, FAKE_MMIO32_BASE + 0x100000);
}

/* Wherever the guest puts a BAR, what was there stays there. */
static void test_hostile_moves(Fixture *f, gconstpointer unused)
{
    static const uint64_t bad[] = {
        0,                                   /* RAM */
        FAKE_RAM_SIZE - BAR_SIZE,            /* the last of it */
        FAKE_RAM_SIZE,                       /* a hole */
        FAKE_MMIO32_BASE - BAR_SIZE,         /* just below a window */
        FAKE_MMIO32_BASE + FAKE_MMIO32_SIZE, /* just above */
        FAKE_MMIO64_BASE - BAR_SIZE,
        FAKE_MMIO64_BASE + FAKE_MMIO64_SIZE,
        FAKE_MMIO64_BASE + 0x10000,  /* b's BAR 0 */
        FAKE_MMIO32_BASE + BAR_SIZE, /* b's BAR 2 */
        FAKE_ECAM_BASE,
        0xfec00000,
        0xfee00000,
        UINT64_MAX & ~(uint64_t)(BAR_SIZE - 1), /* the end of the world */
        (UINT64_MAX >> 1) & ~(uint64_t)(BAR_SIZE - 1),
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        move_bar0(f, bad[i]);
        g_assert_cmphex(f->a->mapped_gpa, ==, 0);
        g_assert_false(f->a->function.bars[0].mapped);
        g_assert_cmphex(f->b->mapped_gpa, ==, FAKE_MMIO64_BASE + 0x10000);
    }
    f->a->reads = f->b->reads = 0;
    fake_mmio_read(f->fake, FAKE_MMIO64_BASE + 0x10000, 4);
    g_assert_cmpuint(f->b->reads, ==, 1);
    g_assert_cmpuint(f->a->reads, ==, 0);
    g_assert_cmphex(fake_ecam_read(f->fake, 0, 0, 4), ==, 0x0d578086);
    move_bar0(f, FAKE_MMIO64_BASE);
    g_assert_cmphex(f->a->mapped_gpa, ==, FAKE_MMIO64_BASE);
    /* I/O BARs keep away from the platform's ports. */
    wr(f, COMMAND, 0, 2);
    wr(f, BAR0 + 12, 0x3f8, 4);
    wr(f, COMMAND, 1, 2);
    g_assert_false(f->a->function.bars[3].mapped);
    wr(f, BAR0 + 12, 0xfffffff8, 4);
    g_assert_false(f->a->function.bars[3].mapped);
}

/* Even if the address map were wrong, no BAR covers RAM. */
static void test_window_over_ram(Fixture *f, gconstpointer unused)
{
    f->fake->machine.layout.mmio32_base = 0;
    f->fake->machine.layout.mmio32_size = 0xf0000000;
    move_bar0(f, FAKE_RAM_SIZE - BAR_SIZE);
    g_assert_cmphex(f->a->mapped_gpa, ==, 0);
    move_bar0(f, FAKE_RAM_SIZE);
    g_assert_cmphex(f->a->mapped_gpa, ==, FAKE_RAM_SIZE);
}

static void test_slots(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    char id[16];

    dev_add(f->fake, "c", 9);
    g_assert_false(kumo_device_add(&dev_new(f->fake, "d", 9)->device, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    g_assert_false(kumo_device_add(&dev_new(f->fake, "e", 0)->device, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    g_assert_false(kumo_device_add(&dev_new(f->fake, "f", 32)->device, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_clear_error(&error);
    for (unsigned i = 3; i < 31; i++) {
        Dev *dev;
        g_autofree char *bdf = NULL;
        g_autofree char *expected = g_strdup_printf("0000:00:%02x.0", i < 9 ? i : i + 1);

        g_snprintf(id, sizeof(id), "n%u", i);
        dev = dev_add(f->fake, id, -1);
        bdf = kumo_pci_function_bdf(&dev->function);
        g_assert_cmpstr(bdf, ==, expected);
    }
    g_assert_false(kumo_device_add(&dev_new(f->fake, "over", -1)->device, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE);
    /* What is unplugged is gone, and its slot and addresses are free again. */
    kumo_device_remove(kumo_device_find(&f->fake->machine, "c"));
    g_assert_cmphex(fake_ecam_read(f->fake, 9, 0, 4), ==, 0xffffffff);
    g_assert_cmpint(dev_add(f->fake, "again", -1)->function.slot, ==, 9);
}

static void test_no_room(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;

    f->fake->machine.layout.mmio32_size = 2 * BAR_SIZE + 0x800;
    g_assert_false(kumo_device_add(&dev_new(f->fake, "c", -1)->device, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE);
    g_clear_error(&error);
    /* A guest's BAR somewhere strange does not disturb the search. */
    f->fake->machine.layout.mmio32_size = FAKE_MMIO32_SIZE;
    move_bar0(f, UINT64_MAX & ~(uint64_t)(BAR_SIZE - 1));
    g_assert_cmphex(dev_add(f->fake, "c", -1)->mapped_gpa, ==, FAKE_MMIO64_BASE);
}

static bool pin_level(Fixture *f)
{
    /* The pin's redirection entry was routed as level, vector 0x40; a raised line sends it once. */
    return f->fake->vm->msis->len > 0;
}

static void test_intx(Fixture *f, gconstpointer unused)
{
    Dev *c = dev_add(f->fake, "c", 9); /* shares its pin with slot 1 */
    unsigned reg = 0x10 + 2 * (FAKE_INTX_BASE + 1);
    uint8_t select = (uint8_t)reg;
    uint32_t low = 1 << 15 | 0x40;

    g_assert_cmpuint(c->function.intx_gsi, ==, f->a->function.intx_gsi);
    kumo_irq_ioapic_write(f->fake->machine.irq, 0, &select, 1);
    kumo_irq_ioapic_write(f->fake->machine.irq, 0x10, (const uint8_t *)&low, 4);

    wr(f, COMMAND, INTX_OFF, 2);
    kumo_pci_set_intx(&f->a->function, true);
    g_assert_cmphex(rd(f, STATUS, 2) & 8, ==, 8);
    g_assert_false(pin_level(f));
    wr(f, COMMAND, 0, 2);
    g_assert_true(pin_level(f));
    g_assert_cmpuint(f->fake->vm->msis->len, ==, 1);

    /* The other device on the pin adds no edge, and the line falls with the last one. */
    kumo_pci_set_intx(&c->function, true);
    kumo_pci_set_intx(&f->a->function, false);
    kumo_irq_eoi(f->fake->machine.irq, 0x40);
    g_assert_cmpuint(f->fake->vm->msis->len, ==, 2);
    kumo_device_remove(&c->device); /* takes its line along */
    kumo_irq_eoi(f->fake->machine.irq, 0x40);
    g_assert_cmpuint(f->fake->vm->msis->len, ==, 2);
    g_assert_cmphex(rd(f, STATUS, 2) & 8, ==, 0);
}

static void test_caps(Fixture *f, gconstpointer unused)
{
    Dev *dev = dev_new(f->fake, "c", 5);
    const uint8_t body[5] = { 1, 2, 3, 4, 5 };
    unsigned first = kumo_pci_add_cap(&dev->function, 9, body, 5);
    unsigned second = kumo_pci_add_cap(&dev->function, 9, body, 2);

    g_assert_true(kumo_device_add(&dev->device, NULL));
    g_assert_cmpuint(first, ==, 0x40);
    g_assert_cmpuint(second, ==, 0x48);
    g_assert_cmphex(fake_ecam_read(f->fake, 5, STATUS, 2) & 0x10, ==, 0x10);
    g_assert_cmpuint(fake_find_cap(f->fake, 5, 9, 0), ==, second);
    g_assert_cmpuint(fake_find_cap(f->fake, 5, 9, 1), ==, first);
    g_assert_cmpuint(fake_find_cap(f->fake, 5, 9, 2), ==, 0);
    fake_ecam_write(f->fake, 5, first + 2, 0, 4);
    g_assert_cmphex(fake_ecam_read(f->fake, 5, first + 2, 4), ==, 0x04030201);
}

static void test_reserved_slots(void)
{
    FakePci *fake = fake_pci_new();
    KumoDiskConfig *disk = kumo_disk_config_new();

    /* A device that comes later in the order has its slot by configuration. */
    disk->pci.pci_device_id = 1;
    g_ptr_array_add(fake->config->disks, disk);
    kumo_device_remove(g_ptr_array_index(fake->machine.devices, 0));
    g_assert_true(kumo_device_type_pci_root.create(&fake->machine, fake->config, NULL));
    g_assert_cmpint(dev_add(fake, "a", -1)->function.slot, ==, 2);
    g_assert_cmpint(dev_add(fake, "b", 1)->function.slot, ==, 1);
    fake_pci_free(fake);
}

/* A stream of random accesses: the sanitizers are what judges. */
static void test_noise(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 20000; i++) {
        unsigned size = (unsigned)g_test_rand_int_range(1, 9);
        unsigned reg = (unsigned)g_test_rand_int_range(0, g_test_rand_bit() ? 0x48 : 0x1000);
        uint64_t at = FAKE_ECAM_BASE + ((uint64_t)g_test_rand_int_range(0, 4) << 15) + reg;

        if (g_test_rand_bit())
            fake_mmio_write(f->fake, at, (uint64_t)g_test_rand_int() << 20, size);
        else
            fake_mmio_read(f->fake, at, size);
        if (f->a->mapped_gpa)
            g_assert_cmphex(f->a->mapped_gpa, >=, FAKE_MMIO32_BASE);
    }
}

static void test_aml(Fixture *f, gconstpointer unused)
{
    g_autoptr(KumoAml) aml = kumo_aml_new();
    KumoDevice *root = g_ptr_array_index(f->fake->machine.devices, 0);
    const uint8_t uuid_start[] = { 0xd0, 0x37, 0xc9, 0xe5, 0x53, 0x35, 0x7a, 0x4d };

    root->ops->aml(root, aml);
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "PC00", 4));
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "_PRT", 4));
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "S001", 4));
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "S031", 4));
    g_assert_null(memmem(aml->bytes->data, aml->bytes->len, "S000", 4));
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "MBRD", 4));
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, uuid_start, sizeof(uuid_start)));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    kumo_log_level = KUMO_LOG_ERROR;
#define ADD(name) g_test_add("/pci/" #name, Fixture, NULL, set_up, test_##name, tear_down)
    ADD(config_space);
    ADD(ports);
    ADD(placement);
    ADD(sizing);
    ADD(moves);
    ADD(resources);
    ADD(hostile_moves);
    ADD(window_over_ram);
    ADD(slots);
    ADD(no_room);
    ADD(intx);
    ADD(caps);
    ADD(noise);
    ADD(aml);
    g_test_add_func("/pci/reserved-slots", test_reserved_slots);
    return g_test_run();
}
