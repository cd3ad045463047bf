/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <unistd.h>

#include "tests/fakes/fake_hv.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/ioapic.h"

enum { SELECT = 0x00, WINDOW = 0x10 };

#define MASKED     (1u << 16)
#define LEVEL      (1u << 15)
#define REMOTE_IRR (1u << 14)

typedef struct {
    FakeHvVm *vm;
    KumoIrq *irq;
} Fixture;

static void set_up(Fixture *fixture, gconstpointer unused)
{
    fixture->vm = fake_hv_vm_new();
    fixture->irq = kumo_irq_new(&fixture->vm->base);
}

static void tear_down(Fixture *fixture, gconstpointer unused)
{
    kumo_irq_free(fixture->irq);
    fixture->vm->base.ops->destroy(&fixture->vm->base);
}

static void poke(KumoIrq *irq, unsigned index, uint32_t value)
{
    uint8_t select = (uint8_t)index;

    kumo_irq_ioapic_write(irq, SELECT, &select, 1);
    kumo_irq_ioapic_write(irq, WINDOW, (const uint8_t *)&value, 4);
}

static uint32_t peek(KumoIrq *irq, unsigned index)
{
    uint32_t value = index;

    kumo_irq_ioapic_write(irq, SELECT, (const uint8_t *)&value, 4);
    kumo_irq_ioapic_read(irq, WINDOW, (uint8_t *)&value, 4);
    return value;
}

static void set_pin(KumoIrq *irq, unsigned pin, uint32_t high, uint32_t low)
{
    poke(irq, 0x10 + 2 * pin + 1, high);
    poke(irq, 0x10 + 2 * pin, low);
}

static void test_registers(Fixture *fixture, gconstpointer unused)
{
    KumoIrq *irq = fixture->irq;
    uint8_t byte;

    g_assert_cmphex(peek(irq, 1), ==, 0x00170011);
    g_assert_cmphex(peek(irq, 0x10), ==, MASKED);
    g_assert_cmphex(peek(irq, 0x10 + 47), ==, 0);
    g_assert_cmphex(peek(irq, 0x10 + 48), ==, 0);
    poke(irq, 0, 0xffffffff);
    g_assert_cmphex(peek(irq, 0), ==, 0x0f000000);
    g_assert_cmphex(peek(irq, 2), ==, 0x0f000000);
    poke(irq, 1, 0);
    g_assert_cmphex(peek(irq, 1), ==, 0x00170011);
    poke(irq, 0x10 + 48, 0x12345678); /* no such register */
    poke(irq, 0xff, 0x12345678);
    poke(irq, 0x12, 0xffffffff);
    g_assert_cmphex(peek(irq, 0x12), ==, 0xffffafff); /* the read-only bits stay */
    kumo_irq_ioapic_read(irq, WINDOW, &byte, 1);
    g_assert_cmphex(byte, ==, 0xff);
    kumo_irq_ioapic_read(irq, 0x20, &byte, 1);
    g_assert_cmphex(byte, ==, 0);
    kumo_irq_reset(irq);
    g_assert_cmphex(peek(irq, 0x12), ==, MASKED);
}

static void test_edge(Fixture *fixture, gconstpointer unused)
{
    KumoIrq *irq = fixture->irq;
    GArray *msis = fixture->vm->msis;

    kumo_irq_pulse(irq, 4);              /* masked: lost */
    set_pin(irq, 4, 0x03000000, 0x0930); /* logical, lowest priority, to 3 */
    g_assert_cmpuint(msis->len, ==, 0);
    kumo_irq_set_level(irq, 4, true);
    kumo_irq_set_level(irq, 4, true);
    g_assert_cmpuint(msis->len, ==, 1);
    g_assert_cmphex(g_array_index(msis, FakeMsi, 0).address, ==, 0xfee03004);
    g_assert_cmphex(g_array_index(msis, FakeMsi, 0).data, ==, 0x0130);
    kumo_irq_set_level(irq, 4, false);
    kumo_irq_pulse(irq, 4);
    g_assert_cmpuint(msis->len, ==, 2);
    g_assert_cmphex(peek(irq, 0x18) & REMOTE_IRR, ==, 0);
    kumo_irq_eoi(irq, 0x30);
    g_assert_cmpuint(msis->len, ==, 2);
}

static void test_level(Fixture *fixture, gconstpointer unused)
{
    KumoIrq *irq = fixture->irq;
    GArray *msis = fixture->vm->msis;

    set_pin(irq, 5, 0, LEVEL | 0x41);
    kumo_irq_set_level(irq, 5, true);
    g_assert_cmpuint(msis->len, ==, 1);
    g_assert_cmphex(g_array_index(msis, FakeMsi, 0).data, ==, 0xc041);
    g_assert_cmphex(peek(irq, 0x1a), ==, LEVEL | REMOTE_IRR | 0x41);
    kumo_irq_set_level(irq, 5, true);
    g_assert_cmpuint(msis->len, ==, 1); /* being served */

    kumo_irq_eoi(irq, 0x42); /* another vector */
    g_assert_cmpuint(msis->len, ==, 1);
    kumo_irq_eoi(irq, 0x41); /* still asserted: again */
    g_assert_cmpuint(msis->len, ==, 2);
    kumo_irq_set_level(irq, 5, false);
    kumo_irq_eoi(irq, 0x41);
    g_assert_cmpuint(msis->len, ==, 2);
    g_assert_cmphex(peek(irq, 0x1a), ==, LEVEL | 0x41);

    /* Asserted while masked: fires when unmasked, once. */
    set_pin(irq, 5, 0, MASKED | LEVEL | 0x41);
    kumo_irq_set_level(irq, 5, true);
    g_assert_cmpuint(msis->len, ==, 2);
    set_pin(irq, 5, 0, LEVEL | 0x41);
    g_assert_cmpuint(msis->len, ==, 3);

    /* The end of an interrupt on a pin that was masked meanwhile. */
    set_pin(irq, 5, 0, MASKED | LEVEL | 0x41);
    kumo_irq_eoi(irq, 0x41);
    g_assert_cmpuint(msis->len, ==, 3);
    g_assert_cmphex(peek(irq, 0x1a), ==, MASKED | LEVEL | 0x41);
    set_pin(irq, 5, 0, LEVEL | 0x41);
    g_assert_cmpuint(msis->len, ==, 4);

    /* Edge for a moment clears remote IRR. */
    set_pin(irq, 5, 0, MASKED | 0x41);
    set_pin(irq, 5, 0, LEVEL | 0x41);
    g_assert_cmpuint(msis->len, ==, 5);
}

/* Level pins are in the routing table, or the hypervisor would not report their EOI. */
static void test_pin_routes(Fixture *fixture, gconstpointer unused)
{
    KumoIrq *irq = fixture->irq;
    FakeHvVm *vm = fixture->vm;
    unsigned before;

    set_pin(irq, 4, 0, 0x30);
    g_assert_cmpuint(vm->n_routing, ==, 0);
    set_pin(irq, 9, 0x02000000, LEVEL | 0x50);
    g_assert_cmpuint(vm->routes->len, ==, 1);
    g_assert_cmpuint(g_array_index(vm->routes, KumoHvMsiRoute, 0).gsi, ==, 9);
    g_assert_cmphex(g_array_index(vm->routes, KumoHvMsiRoute, 0).address, ==, 0xfee02000);
    g_assert_cmphex(g_array_index(vm->routes, KumoHvMsiRoute, 0).data, ==, 0xc050);
    before = vm->n_routing;
    set_pin(irq, 9, 0x02000000, MASKED | LEVEL | 0x50);
    set_pin(irq, 9, 0x02000000, LEVEL | 0x50);
    g_assert_cmpuint(vm->n_routing, ==, before); /* masking costs no new table */
    set_pin(irq, 9, 0x02000000, 0x50);
    g_assert_cmpuint(vm->routes->len, ==, 0);
}

static void test_msi(Fixture *fixture, gconstpointer unused)
{
    FakeHvVm *vm = fixture->vm;
    g_autoptr(GError) error = NULL;
    KumoMsi *first = kumo_msi_new(fixture->irq, &error);
    KumoMsi *second = kumo_msi_new(fixture->irq, &error);
    unsigned before;

    g_assert_no_error(error);
    g_assert_cmpuint(vm->irqfds->len, ==, 0);
    g_assert_true(kumo_msi_route(first, true, 0xfee01000, 0x31, &error));
    g_assert_true(kumo_msi_route(second, true, 0xfee02000, 0x32, &error));
    g_assert_cmpuint(vm->routes->len, ==, 2);
    g_assert_cmpuint(vm->irqfds->len, ==, 2);
    g_assert_cmpuint(g_array_index(vm->irqfds, FakeIrqfd, 0).gsi, ==, 24);
    g_assert_cmpint(g_array_index(vm->irqfds, FakeIrqfd, 1).fd, ==, kumo_msi_fd(second));
    kumo_msi_trigger(second);
    g_assert_cmpuint(kumo_eventfd_drain(kumo_msi_fd(second)), ==, 1);

    before = vm->n_routing;
    g_assert_true(kumo_msi_route(first, true, 0xfee01000, 0x31, &error));
    g_assert_true(kumo_msi_route(first, false, 0, 0, &error));
    g_assert_true(kumo_msi_route(first, false, 0, 0, &error));
    g_assert_cmpuint(vm->irqfds->len, ==, 1);
    g_assert_true(kumo_msi_route(first, true, 0xfee01000, 0x31, &error));
    g_assert_cmpuint(vm->irqfds->len, ==, 2);
    g_assert_cmpuint(vm->n_routing, ==, before);

    /* A table that the hypervisor refuses leaves the old route in place. */
    vm->fail = "set_gsi_routing";
    g_assert_false(kumo_msi_route(first, true, 0xfee01000, 0x99, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR);
    g_clear_error(&error);
    vm->fail = NULL;
    g_assert_true(kumo_msi_route(second, true, 0xfee02000, 0x33, &error));
    g_assert_cmphex(g_array_index(vm->routes, KumoHvMsiRoute, 0).data, ==, 0x31);
    g_assert_cmphex(g_array_index(vm->routes, KumoHvMsiRoute, 1).data, ==, 0x33);

    kumo_msi_free(first);
    first = kumo_msi_new(fixture->irq, &error); /* the same GSI again */
    g_assert_true(kumo_msi_route(first, true, 0xfee05000, 0x35, &error));
    g_assert_cmpuint(vm->routes->len, ==, 2);
    g_assert_cmpuint(g_array_index(vm->routes, KumoHvMsiRoute, 0).gsi, ==, 24);
    g_assert_cmphex(g_array_index(vm->routes, KumoHvMsiRoute, 0).data, ==, 0x35);
    kumo_msi_free(first);
    kumo_msi_free(second);
    g_assert_cmpuint(vm->irqfds->len, ==, 0);
}

/* A table that the hypervisor has already costs nothing. */
static void test_same_table(Fixture *fixture, gconstpointer unused)
{
    KumoIrq *irq = fixture->irq;
    FakeHvVm *vm = fixture->vm;
    KumoIrqState state;
    g_autoptr(GError) error = NULL;

    kumo_irq_reset(irq);
    kumo_irq_save(irq, &state);
    g_assert_true(kumo_irq_load(irq, &state, &error));
    g_assert_cmpuint(vm->n_routing, ==, 0);
    set_pin(irq, 9, 0, LEVEL | 0x50);
    g_assert_cmpuint(vm->n_routing, ==, 1);
    kumo_irq_save(irq, &state);
    g_assert_true(kumo_irq_load(irq, &state, &error));
    g_assert_cmpuint(vm->n_routing, ==, 1);
    kumo_irq_reset(irq);
    g_assert_cmpuint(vm->n_routing, ==, 2);
    g_assert_cmpuint(vm->routes->len, ==, 0);
}

/* A machine that is loaded gets all its routes at once, and no eventfd is connected before. */
static void test_hold(Fixture *fixture, gconstpointer unused)
{
    FakeHvVm *vm = fixture->vm;
    g_autoptr(GError) error = NULL;
    KumoMsi *msis[4];

    kumo_irq_hold(fixture->irq);
    for (unsigned i = 0; i < G_N_ELEMENTS(msis); i++) {
        msis[i] = kumo_msi_new(fixture->irq, &error);
        g_assert_true(kumo_msi_route(msis[i], true, 0xfee01000, 0x31 + i, &error));
    }
    set_pin(fixture->irq, 9, 0, LEVEL | 0x50);
    g_assert_true(kumo_msi_route(msis[2], false, 0, 0, &error));
    kumo_msi_trigger(msis[1]);
    g_assert_cmpuint(vm->n_routing, ==, 0);
    g_assert_cmpuint(vm->irqfds->len, ==, 0);

    /* One that is refused is told, and no eventfd of what has no route is connected. */
    vm->fail = "set_gsi_routing";
    g_assert_false(kumo_irq_release(fixture->irq, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR);
    g_clear_error(&error);
    g_assert_cmpuint(vm->irqfds->len, ==, 0);
    vm->fail = NULL;

    g_assert_true(kumo_irq_release(fixture->irq, &error));
    g_assert_cmpuint(vm->n_routing, ==, 1);
    g_assert_cmpuint(vm->routes->len, ==, 5);
    g_assert_cmpuint(vm->irqfds->len, ==, 3);
    g_assert_cmpint(g_array_index(vm->irqfds, FakeIrqfd, 2).fd, ==, kumo_msi_fd(msis[3]));
    g_assert_cmpuint(kumo_eventfd_drain(kumo_msi_fd(msis[1])), ==, 1); /* not lost */

    g_assert_true(kumo_msi_route(msis[2], true, 0xfee01000, 0x40, &error));
    g_assert_cmpuint(vm->n_routing, ==, 2);
    g_assert_cmpuint(vm->irqfds->len, ==, 4);
    for (unsigned i = 0; i < G_N_ELEMENTS(msis); i++)
        kumo_msi_free(msis[i]);
}

#define ADD(path, func) g_test_add(path, Fixture, NULL, set_up, func, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/irq/registers", test_registers);
    ADD("/irq/edge", test_edge);
    ADD("/irq/level", test_level);
    ADD("/irq/pin-routes", test_pin_routes);
    ADD("/irq/msi", test_msi);
    ADD("/irq/same-table", test_same_table);
    ADD("/irq/hold", test_hold);
    return g_test_run();
}
