/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/fake_machine.h"

enum { PLATFORM_BYTES = 1 << 20 };

static void fake_request(void *opaque, KumoMachineRequest request)
{
    FakeMachine *fake = opaque;

    if (request == KUMO_MACHINE_REQUEST_RESET)
        g_atomic_int_inc(&fake->n_resets);
    else if (request == KUMO_MACHINE_REQUEST_SHUTDOWN)
        g_atomic_int_inc(&fake->n_shutdowns);
}

FakeMachine *fake_machine_new(void)
{
    FakeMachine *fake = g_new0(FakeMachine, 1);
    KumoMachine *machine = &fake->machine;

    fake->config = kumo_vm_config_new();
    fake->hv = fake_hv_vm_new();
    machine->config = fake->config;
    machine->hv = &fake->hv->base;
    machine->pio = kumo_bus_new("pio", 1);
    machine->mmio = kumo_bus_new("mmio", 1);
    machine->irq = kumo_irq_new(&fake->hv->base);
    machine->layout.platform_mmio_base = (1ULL << 46) - 0x10000 - PLATFORM_BYTES;
    machine->layout.platform_mmio_size = PLATFORM_BYTES;
    machine->layout.ged_gsi = 13;
    machine->layout.serial_gsi = 4;
    machine->devices = g_ptr_array_new();
    machine->request = fake_request;
    machine->request_opaque = fake;
    return fake;
}

void fake_machine_free(FakeMachine *fake)
{
    KumoMachine *machine = &fake->machine;

    while (machine->devices->len)
        kumo_device_remove(g_ptr_array_index(machine->devices, machine->devices->len - 1));
    g_ptr_array_unref(machine->devices);
    kumo_loop_free(machine->slow_loop);
    kumo_irq_free(machine->irq);
    kumo_bus_free(machine->mmio);
    kumo_bus_free(machine->pio);
    fake->hv->base.ops->destroy(&fake->hv->base);
    kumo_vm_config_free(fake->config);
    g_free(fake);
}

void fake_machine_create(FakeMachine *fake, const KumoDeviceType *type)
{
    g_autoptr(GError) error = NULL;
    bool ok = type->create(&fake->machine, fake->config, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
}

uint8_t fake_machine_inb(FakeMachine *fake, uint16_t port)
{
    uint8_t value = 0;

    kumo_bus_read(fake->machine.pio, 0, port, &value, 1);
    return value;
}

void fake_machine_outb(FakeMachine *fake, uint16_t port, uint8_t value)
{
    kumo_bus_write(fake->machine.pio, 0, port, &value, 1);
}

static void ioapic_write(KumoIrq *irq, uint32_t index, uint32_t value)
{
    kumo_irq_ioapic_write(irq, 0x00, (const uint8_t *)&index, 4);
    kumo_irq_ioapic_write(irq, 0x10, (const uint8_t *)&value, 4);
}

void fake_machine_route(FakeMachine *fake, unsigned gsi, uint8_t vector)
{
    ioapic_write(fake->machine.irq, 0x10 + 2 * gsi + 1, 0);
    ioapic_write(fake->machine.irq, 0x10 + 2 * gsi, vector);
}

unsigned fake_machine_interrupts(FakeMachine *fake, uint8_t vector)
{
    unsigned n = 0;

    g_mutex_lock(&fake->hv->lock);
    for (unsigned i = 0; i < fake->hv->msis->len; i++) {
        if ((g_array_index(fake->hv->msis, FakeMsi, i).data & 0xff) == vector)
            n++;
    }
    g_mutex_unlock(&fake->hv->lock);
    return n;
}
