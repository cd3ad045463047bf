/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdatomic.h>
#include <string.h>

#include "tests/fakes/fake_pci.h"
#include "tests/fakes/iasl.h"
#include "vmm-core/acpi/tables.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/platform/platform.h"

enum { UP = 0x0, DOWN = 0x4, EJECT = 0x8, SEGMENT = 0xc, OST = 0x10 };
/* What _OST says of an event (ACPI 6.4, 6.3.5). */
enum { DEVICE_CHECK = 1, EJECT_REQUEST = 3, EJECTION = 0x103 };
enum { SUCCESS = 0, FAILURE = 1, BUSY = 0x82, PENDING = 0x84 };

#define PLATFORM_BASE  0x3ffffef0000ULL
#define PLATFORM_BYTES 0x100000ULL
#define HOTPLUG_GPA    (PLATFORM_BASE + PLATFORM_BYTES - 0x1000)
#define GED_GPA        (PLATFORM_BASE + PLATFORM_BYTES - 0x3000)

typedef FakePciFunction Dev;

typedef struct {
    FakePci *fake;
    Dev *a, *b; /* in slots 1 and 2 */
} Fixture;

static int n_told; /* atomic: how often the VM was told of an eject */
static int stop_vcpu;
static GString *said; /* events, as "NAME ID STATUS;" */

static Dev *dev_add(FakePci *fake, const char *id)
{
    static const KumoPciIds ids = { .vendor = 0x1234, .device = 0x5678, .class_code = 0xff };
    g_autoptr(GError) error = NULL;
    Dev *dev = g_new0(Dev, 1);

    kumo_device_init(&dev->device, &fake_pci_function_ops, &fake->machine, id);
    kumo_pci_function_init(&dev->function, &dev->device, &ids, -1);
    kumo_device_add(&dev->device, &error);
    g_assert_no_error(error);
    return dev;
}

static void device_ejected(void *opaque)
{
    g_atomic_int_inc(&n_told);
}

static void machine_event(const char *source, const char *event, json_t *properties)
{
    g_string_append_printf(said, "%s %s %s %d;", event,
                           json_string_value(json_object_get(properties, "id")),
                           json_string_value(json_object_get(properties, "bdf")),
                           (int)json_integer_value(json_object_get(properties, "status")));
    json_decref(properties);
}

static void create(FakePci *fake, const KumoDeviceType *type)
{
    g_autoptr(GError) error = NULL;

    type->create(&fake->machine, fake->config, &error);
    g_assert_no_error(error);
}

static void set_up(Fixture *f, gconstpointer with_controller)
{
    f->fake = fake_pci_new();
    f->fake->machine.layout.platform_mmio_base = PLATFORM_BASE;
    f->fake->machine.layout.platform_mmio_size = PLATFORM_BYTES;
    f->fake->machine.layout.ged_gsi = 13;
    f->fake->machine.device_ejected = device_ejected;
    f->fake->machine.event = machine_event;
    said = g_string_new(NULL);
    if (with_controller)
        create(f->fake, &kumo_device_type_pci_hotplug);
    create(f->fake, &kumo_device_type_ged);
    f->a = dev_add(f->fake, "a");
    f->b = dev_add(f->fake, "b");
    g_atomic_int_set(&n_told, 0);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    fake_pci_free(f->fake);
    g_string_free(said, TRUE);
}

static uint32_t rd(Fixture *f, unsigned reg)
{
    return (uint32_t)fake_mmio_read(f->fake, HOTPLUG_GPA + reg, 4);
}

static void wr(Fixture *f, unsigned reg, uint32_t value)
{
    fake_mmio_write(f->fake, HOTPLUG_GPA + reg, value, 4);
}

static unsigned events(Fixture *f)
{
    return (unsigned)fake_mmio_read(f->fake, GED_GPA, 1);
}

static void ask(Dev *dev)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(kumo_pci_ask_removal(&dev->function, &error));
    g_assert_no_error(error);
}

#define assert_here(f, slot)  g_assert_cmphex(fake_ecam_read((f)->fake, slot, 0, 4), ==, 0x56781234)
#define assert_empty(f, slot) g_assert_cmphex(fake_ecam_read((f)->fake, slot, 0, 4), ==, 0xffffffff)

static void test_announce(Fixture *f, gconstpointer unused)
{
    /* What was there from the start is no news. */
    g_assert_cmphex(rd(f, UP), ==, 0);
    g_assert_cmphex(events(f), ==, 0);
    kumo_pci_announce(&f->a->function);
    kumo_pci_announce(&f->b->function);
    g_assert_cmphex(events(f), ==, KUMO_ACPI_NOTIFY_PCI);
    g_assert_cmphex(rd(f, DOWN), ==, 0);
    g_assert_cmphex(rd(f, UP), ==, 0x6);
    g_assert_cmphex(rd(f, UP), ==, 0);
    g_assert_cmphex(events(f), ==, 0);
}

static void test_eject(Fixture *f, gconstpointer unused)
{
    Dev *again;

    ask(f->a);
    g_assert_cmphex(events(f), ==, KUMO_ACPI_NOTIFY_PCI);
    g_assert_cmphex(rd(f, UP), ==, 0);
    g_assert_cmphex(rd(f, DOWN), ==, 0x2);
    g_assert_cmphex(rd(f, DOWN), ==, 0);
    assert_here(f, 1);
    /* A guest that did nothing is asked again. */
    ask(f->a);
    g_assert_cmphex(events(f), ==, KUMO_ACPI_NOTIFY_PCI);
    g_assert_cmphex(rd(f, DOWN), ==, 0x2);
    g_assert_false(atomic_load(&f->a->device.ejected));

    wr(f, EJECT, 0x2);
    g_assert_true(atomic_load(&f->a->device.ejected));
    g_assert_cmpint(g_atomic_int_get(&n_told), ==, 1);
    g_assert_cmphex(rd(f, EJECT), ==, 0);
    assert_empty(f, 1);
    fake_pio_write(f->fake, 0xcf8, 0x80000800, 4);
    g_assert_cmphex(fake_pio_read(f->fake, 0xcfc, 4), ==, 0xffffffff);
    assert_here(f, 2);
    /* Until the main loop has removed it, nothing more can be had of it, nor its slot be given. */
    wr(f, EJECT, 0x2);
    ask(f->a);
    g_assert_cmphex(rd(f, DOWN), ==, 0);
    wr(f, EJECT, 0x2);
    g_assert_cmpint(g_atomic_int_get(&n_told), ==, 1);
    again = dev_add(f->fake, "c");
    g_assert_cmpint(again->function.slot, ==, 3);

    kumo_device_remove(&f->a->device);
    again = dev_add(f->fake, "d");
    g_assert_cmpint(again->function.slot, ==, 1);
    assert_here(f, 1);
    wr(f, EJECT, 0x2);
    g_assert_cmpint(g_atomic_int_get(&n_told), ==, 1);
    assert_here(f, 1);
}

static void ost(Fixture *f, unsigned slot, uint32_t event, uint32_t status)
{
    wr(f, OST, slot | event << 8 | status << 24);
}

/* A guest that says no is heard once for each time that it is asked, and may still let go. */
static void test_refuse(Fixture *f, gconstpointer unused)
{
    ost(f, 1, EJECT_REQUEST, BUSY);
    g_assert_cmpstr(said->str, ==, "");
    ask(f->a);
    ost(f, 1, EJECT_REQUEST, PENDING);
    ost(f, 1, EJECT_REQUEST, SUCCESS);
    ost(f, 2, EJECT_REQUEST, BUSY);
    ost(f, 9, EJECT_REQUEST, BUSY);
    wr(f, SEGMENT, 1);
    ost(f, 1, EJECT_REQUEST, BUSY);
    wr(f, SEGMENT, 0);
    wr(f, OST, 0xffffffff);
    g_assert_cmpstr(said->str, ==, "");
    g_assert_false(atomic_load(&f->a->device.refused));
    ost(f, 1, EJECT_REQUEST, BUSY);
    ost(f, 1, EJECT_REQUEST, BUSY);
    g_assert_true(atomic_load(&f->a->device.refused));
    g_assert_cmpint(g_atomic_int_get(&n_told), ==, 1);
    g_assert_cmpstr(said->str, ==, "device-removal-failed a 0000:00:01.0 130;");
    ask(f->a);
    g_assert_false(atomic_load(&f->a->device.refused));
    ost(f, 1, EJECTION, FAILURE);
    g_assert_cmpstr(said->str, ==,
                    "device-removal-failed a 0000:00:01.0 130;"
                    "device-removal-failed a 0000:00:01.0 1;");
    wr(f, EJECT, 0x2);
    g_assert_true(atomic_load(&f->a->device.ejected));

    /* What has come and cannot be used may be told in a loop. */
    g_string_truncate(said, 0);
    for (unsigned i = 0; i < 1000; i++)
        ost(f, 2, DEVICE_CHECK, FAILURE);
    g_assert_true(g_str_has_prefix(said->str, "device-insertion-failed b 0000:00:02.0 1;"));
    g_assert_cmpuint(said->len, <=, 10 * strlen("device-insertion-failed b 0000:00:02.0 1;"));
}

/* News of a device that is gone before the guest reads them is no news. */
static void test_forget(Fixture *f, gconstpointer unused)
{
    kumo_pci_announce(&f->a->function);
    kumo_pci_announce(&f->b->function);
    ask(f->a);
    kumo_device_remove(&f->a->device);
    g_assert_cmphex(rd(f, UP), ==, 0x4);
    g_assert_cmphex(rd(f, DOWN), ==, 0);
    f->a = dev_add(f->fake, "a");
    g_assert_cmpint(f->a->function.slot, ==, 1);
    wr(f, EJECT, 0x2);
    assert_here(f, 1);
    g_assert_cmpint(g_atomic_int_get(&n_told), ==, 0);
}

static void test_hostile(Fixture *f, gconstpointer unused)
{
    static const unsigned sizes[] = { 1, 2, 3, 5, 8 };

    kumo_log_level = KUMO_LOG_ERROR;
    /* Nobody asked for anything. */
    wr(f, EJECT, 0xffffffff);
    g_assert_cmphex(fake_ecam_read(f->fake, 0, 0, 4), ==, 0x0d578086);
    assert_here(f, 1);
    assert_here(f, 2);

    ask(f->b);
    kumo_pci_announce(&f->a->function);
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (unsigned at = 0; at + sizes[i] <= 20; at++) {
            g_assert_cmphex(fake_mmio_read(f->fake, HOTPLUG_GPA + at, sizes[i]), ==, 0);
            fake_mmio_write(f->fake, HOTPLUG_GPA + at, UINT64_MAX, sizes[i]);
        }
    }
    for (unsigned at = 1; at < 12; at++) {
        if (at % 4) {
            g_assert_cmphex(rd(f, at), ==, 0);
            wr(f, at, 0xffffffff);
        }
    }
    wr(f, UP, 0xffffffff);
    wr(f, DOWN, 0xffffffff);
    assert_here(f, 1);
    assert_here(f, 2);
    /* Segments that do not exist. */
    for (unsigned i = 0; i < 32; i++) {
        wr(f, SEGMENT, 1U << i);
        g_assert_cmphex(rd(f, SEGMENT), ==, 1U << i);
        g_assert_cmphex(rd(f, UP), ==, 0);
        g_assert_cmphex(rd(f, DOWN), ==, 0);
        wr(f, EJECT, 0xffffffff);
    }
    assert_here(f, 2);
    /* Nothing of all that touched what there is to know. */
    wr(f, SEGMENT, 0);
    g_assert_cmphex(rd(f, UP), ==, 0x2);
    g_assert_cmphex(rd(f, DOWN), ==, 0x4);
    wr(f, EJECT, 0xffffffff);
    assert_here(f, 1);
    assert_empty(f, 2);
    g_assert_cmpint(g_atomic_int_get(&n_told), ==, 1);
}

/* A vCPU that looks at everything, changes everything and ejects at once what it is asked to, while
 * the main thread adds and removes. */
static void *vcpu_thread(void *opaque)
{
    Fixture *f = opaque;
    GRand *rand = g_rand_new_with_seed(1);

    while (!g_atomic_int_get(&stop_vcpu)) {
        unsigned slot = (unsigned)g_rand_int_range(rand, 0, 5);
        uint32_t down = rd(f, DOWN);

        fake_ecam_read(f->fake, slot, 0, 4);
        fake_ecam_write(f->fake, slot, 4, g_rand_int(rand), 2);
        if (down) {
            wr(f, EJECT, down);
        } else {
            wr(f, EJECT, g_rand_int(rand));
        }
        rd(f, UP);
    }
    g_rand_free(rand);
    return NULL;
}

static void test_race(Fixture *f, gconstpointer unused)
{
    GThread *thread;

    kumo_log_level = KUMO_LOG_ERROR;
    g_atomic_int_set(&stop_vcpu, 0);
    thread = g_thread_new("vcpu", vcpu_thread, f);
    for (unsigned i = 0; i < 500; i++) {
        Dev *dev = dev_add(f->fake, "come-and-go");
        int64_t end = g_get_monotonic_time() + 20 * G_TIME_SPAN_SECOND;

        g_assert_cmpint(dev->function.slot, ==, 3);
        kumo_pci_announce(&dev->function);
        /* The guest's random ejects do nothing before it is asked. */
        g_assert_false(atomic_load(&dev->device.ejected));
        ask(dev);
        while (!atomic_load(&dev->device.ejected)) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
            g_thread_yield();
        }
        kumo_device_remove(&dev->device);
    }
    g_atomic_int_set(&stop_vcpu, 1);
    g_thread_join(thread);
    g_assert_cmpint(g_atomic_int_get(&n_told), ==, 500);
    g_assert_false(atomic_load(&f->a->device.ejected));
    g_assert_false(atomic_load(&f->b->device.ejected));
}

static void test_no_controller(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;

    kumo_pci_announce(&f->a->function);
    g_assert_false(kumo_pci_ask_removal(&f->a->function, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED);
    g_assert_cmphex(events(f), ==, 0);
    g_assert_cmphex(rd(f, DOWN), ==, 0xffffffff);
}

static void test_aml(Fixture *f, gconstpointer with_controller)
{
    static const char *const words[] = {
        "Device (PHPR)",
        "Method (PCEJ, 2, Serialized)",
        "\\_SB.PC00.PCNT ()",
        "Method (_EJ0, 1, Serialized)",
        "DEJ0 (0x1F)",
        "\\_SB.PHPR.PCEJ (Arg0, Zero)",
        "Method (_OST, 3, Serialized)",
        "DOST (0x1F, Arg0, Arg1)",
        "\\_SB.PHPR.POST = ((Arg0 | ((Arg1 & 0x0FFF) << 0x08)) | ",
        "((Arg2 & 0xFF) << 0x18))",
        "If ((Arg0 & 0x80000000))",
        "Notify (S031, Arg1)",
        "DVNT (Local0, One)",
        "DVNT (Local1, 0x03)",
        "\\_SB.PHPR.PSCN ()",
    };
    g_autoptr(KumoAml) aml = kumo_aml_new();
    g_autoptr(GByteArray) table = kumo_acpi_table_new("DSDT", 6);
    g_autofree char *text = NULL;
    KumoAmlMark scope = kumo_aml_open_scope(aml, "_SB_");

    for (unsigned i = 0; i < f->fake->machine.devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(f->fake->machine.devices, i);

        if (device->ops->aml)
            device->ops->aml(device, aml);
    }
    kumo_aml_close(aml, scope);
    kumo_acpi_put_bytes(table, aml->bytes->data, aml->bytes->len);
    kumo_acpi_table_finish(table);
    text = iasl_disassemble(table);
    for (unsigned i = 0; text && i < G_N_ELEMENTS(words); i++) {
        if ((strstr(text, words[i]) != NULL) != (with_controller != NULL))
            g_error("%s in %s", words[i], text);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, data, func)                                                                      \
    g_test_add("/pci-hotplug/" name, Fixture, data, set_up, func, tear_down)
    ADD("announce", "", test_announce);
    ADD("eject", "", test_eject);
    ADD("refuse", "", test_refuse);
    ADD("forget", "", test_forget);
    ADD("hostile", "", test_hostile);
    ADD("race", "", test_race);
    ADD("no-controller", NULL, test_no_controller);
    ADD("aml", "", test_aml);
    ADD("aml-without", NULL, test_aml);
    return g_test_run();
}
