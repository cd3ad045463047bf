/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* More than one PCI segment: windows, slots, ECAM, interrupt lines, what ACPI says. */
#include <string.h>

#include "tests/fakes/fake_pci.h"
#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"
#include "vmm-core/devices/pci/pci-internal.h"

enum { BAR_SIZE = 0x1000, MIB = 1 << 20 };

typedef struct {
    KumoDevice device;
    KumoPciFunction function;
} Dev;

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
    kumo_pci_function_clear(&((Dev *)device)->function);
    g_free(device);
}

static const KumoDeviceOps dev_ops = {
    .type = "test", .realize = dev_realize, .unrealize = dev_unrealize, .free = dev_free
};

static FakePci *machine_of(const char *const options[][2])
{
    KumoVmConfig *config = kumo_vm_config_new();

    for (unsigned i = 0; options[i][0]; i++) {
        g_autoptr(GError) error = NULL;

        kumo_option_apply(config, options[i][0], options[i][1], &error);
        g_assert_no_error(error);
    }
    return fake_pci_new_for(config);
}

static Dev *dev_new(FakePci *fake, const char *id, unsigned segment, int slot, uint64_t bar_size)
{
    static const KumoPciIds ids = { .vendor = 0x1234, .device = 1 };
    static const KumoBusOps bar_ops = { NULL };
    Dev *dev = g_new0(Dev, 1);
    const KumoPciBar wide = { .kind = KUMO_PCI_BAR_MEM64, .size = bar_size, .ops = &bar_ops };
    const KumoPciBar narrow = { .kind = KUMO_PCI_BAR_MEM32, .size = BAR_SIZE, .ops = &bar_ops };

    kumo_device_init(&dev->device, &dev_ops, &fake->machine, id);
    kumo_pci_function_init(&dev->function, &dev->device, &ids, slot);
    dev->function.segment = segment;
    kumo_pci_function_set_bar(&dev->function, 0, &wide);
    kumo_pci_function_set_bar(&dev->function, 2, &narrow);
    return dev;
}

/* The windows are in order, touch, and are all that the machine has. */
static void check_windows(const FakePci *fake, KumoPciBarKind kind, uint64_t base, uint64_t size)
{
    const KumoPciRoot *root = fake->machine.pci;
    uint64_t at = base;

    for (unsigned i = 0; i < root->n_segments; i++) {
        KumoPciWindow window = kumo_pci_segment_window(&root->segments[i], kind);

        g_assert_cmphex(window.base, ==, at);
        g_assert_cmphex(window.base % BAR_SIZE, ==, 0);
        at += window.size;
    }
    g_assert_cmphex(at, ==, base + size);
}

static void test_windows(void)
{
    static const char *const many[][2] = { { "platform", "num_pci_segments=96" }, { NULL } };
    static const char *const weighed[][2] = {
        { "platform", "num_pci_segments=4" },
        { "pci-segment", "pci_segment=1,mmio32_aperture_weight=4,mmio64_aperture_weight=13" },
        { "pci-segment", "pci_segment=3,mmio32_aperture_weight=2" },
        { NULL },
    };
    static const char *const extreme[][2] = {
        { "platform", "num_pci_segments=2" },
        { "pci-segment", "pci_segment=1,mmio64_aperture_weight=4294967295" },
        { NULL },
    };
    static const char *const(*const rows[])[2] = { many, weighed, extreme };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        FakePci *fake = machine_of(rows[i]);
        KumoMachineLayout *layout = &fake->machine.layout;

        layout->mmio64_base = 1ull << 32;
        layout->mmio64_size = (1ull << 46) - (1ull << 32) - 17 * MIB;
        check_windows(fake, KUMO_PCI_BAR_MEM32, layout->mmio32_base, layout->mmio32_size);
        check_windows(fake, KUMO_PCI_BAR_MEM64, layout->mmio64_base, layout->mmio64_size);
        /* Too small for the wide alignment. */
        layout->mmio64_size = 1 << 30;
        check_windows(fake, KUMO_PCI_BAR_MEM64, layout->mmio64_base, layout->mmio64_size);
        if (rows[i] == weighed) {
            const KumoPciSegment *segments = fake->machine.pci->segments;

            layout->mmio64_size = 1ull << 40;
            g_assert_cmphex(kumo_pci_segment_window(&segments[1], KUMO_PCI_BAR_MEM64).size, ==,
                            (1ull << 40) / 16 * 13);
            g_assert_cmphex(kumo_pci_segment_window(&segments[1], KUMO_PCI_BAR_MEM32).size, ==,
                            layout->mmio32_size / 2);
        }
        fake_pci_free(fake);
    }
}

static void test_devices(void)
{
    static const char *const options[][2] = { { "platform", "num_pci_segments=3" }, { NULL } };
    FakePci *fake = machine_of(options);
    KumoPciSegment *segments = fake->machine.pci->segments;
    KumoPciWindow window = kumo_pci_segment_window(&segments[2], KUMO_PCI_BAR_MEM64);
    Dev *first = dev_new(fake, "a", 0, 3, BAR_SIZE);
    Dev *second = dev_new(fake, "b", 2, 3, BAR_SIZE);
    Dev *any = dev_new(fake, "c", 2, -1, BAR_SIZE);
    Dev *nowhere = dev_new(fake, "d", 3, -1, BAR_SIZE);
    uint8_t config[4] = { 0 };
    g_autofree char *bdf = NULL;
    g_autoptr(GError) error = NULL;
    unsigned pin;

    g_assert_true(kumo_device_add(&first->device, &error));
    g_assert_true(kumo_device_add(&second->device, &error));
    g_assert_true(kumo_device_add(&any->device, &error));
    g_assert_no_error(error);
    g_assert_false(kumo_device_add(&nowhere->device, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);

    /* Slot 0 is a slot like others where no host bridge is. */
    g_assert_cmpint(any->function.slot, ==, 0);
    bdf = kumo_pci_function_bdf(&second->function);
    g_assert_cmpstr(bdf, ==, "0002:00:03.0");
    g_assert_cmphex(kumo_pci_bar_address(&second->function, 0), >=, window.base);
    g_assert_cmphex(kumo_pci_bar_address(&second->function, 0), <, window.base + window.size);
    g_assert_cmphex(kumo_pci_bar_address(&first->function, 0), <, window.base);

    kumo_bus_read(fake->machine.mmio, 0, FAKE_ECAM_BASE + 2 * MIB + (3 << 15), config, 4);
    g_assert_cmphex(pci_get32(config), ==, 0x00011234);
    kumo_bus_read(fake->machine.mmio, 0, FAKE_ECAM_BASE + 1 * MIB + (3 << 15), config, 4);
    g_assert_cmphex(pci_get32(config), ==, 0xffffffff);

    /* The line that slot 3 of both segments has in common falls with the last of them. */
    g_assert_cmpuint(first->function.intx_gsi, ==, second->function.intx_gsi);
    pin = first->function.intx_gsi - FAKE_INTX_BASE;
    kumo_pci_set_intx(&first->function, true);
    kumo_pci_set_intx(&second->function, true);
    kumo_pci_set_intx(&first->function, false);
    g_assert_cmpuint(fake->machine.pci->intx_asserted[pin], ==, 1);
    kumo_pci_set_intx(&second->function, false);
    g_assert_cmpuint(fake->machine.pci->intx_asserted[pin], ==, 0);
    fake_pci_free(fake);
}

static void test_aml(void)
{
    static const char *const options[][2] = {
        { "platform", "num_pci_segments=96" },
        { "numa", "guest_numa_id=5,pci_segments=[95]" },
        { NULL },
    };
    static const uint8_t proximity[] = { 0x08, '_', 'P', 'X', 'M', 0x0a, 5 };
    FakePci *fake = machine_of(options);
    g_autoptr(KumoAml) aml = kumo_aml_new();
    const uint8_t *found;

    fake->machine.pci->device.ops->aml(&fake->machine.pci->device, aml);
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "PC5F", 4));
    g_assert_null(memmem(aml->bytes->data, aml->bytes->len, "PC60", 4));
    found = memmem(aml->bytes->data, aml->bytes->len, proximity, sizeof(proximity));
    g_assert_nonnull(found);
    g_assert_true(found > (uint8_t *)memmem(aml->bytes->data, aml->bytes->len, "PC5F", 4));
    /* All tables have 320 KiB, and hotplug's methods are yet to come. */
    g_assert_cmpuint(aml->bytes->len, <, 0x38000);
    fake_pci_free(fake);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pci-segments/windows", test_windows);
    g_test_add_func("/pci-segments/devices", test_devices);
    g_test_add_func("/pci-segments/aml", test_aml);
    return g_test_run();
}
