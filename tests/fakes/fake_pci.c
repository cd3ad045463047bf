/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/fake_pci.h"

#include <string.h>

FakePci *fake_pci_new(void)
{
    return fake_pci_new_for(kumo_vm_config_new());
}

FakePci *fake_pci_new_for(KumoVmConfig *config)
{
    FakePci *fake = g_new0(FakePci, 1);
    KumoMachine *machine = &fake->machine;
    GError *error = NULL;

    fake->vm = fake_hv_vm_new();
    fake->config = config;
    machine->config = fake->config;
    machine->hv = &fake->vm->base;
    machine->memory = kumo_memory_new_for_test(0, FAKE_RAM_SIZE);
    machine->pio = kumo_bus_new("pio", 1);
    machine->mmio = kumo_bus_new("mmio", 1);
    machine->irq = kumo_irq_new(machine->hv);
    machine->devices = g_ptr_array_new();
    machine->layout = (KumoMachineLayout){
        .mmio32_base = FAKE_MMIO32_BASE,
        .mmio32_size = FAKE_MMIO32_SIZE,
        .mmio64_base = FAKE_MMIO64_BASE,
        .mmio64_size = FAKE_MMIO64_SIZE,
        .ecam_base = FAKE_ECAM_BASE,
        .pci_intx_gsi_base = FAKE_INTX_BASE,
        .phys_bits = 40,
    };
    g_assert_true(kumo_device_type_pci_root.create(machine, fake->config, &error));
    g_assert_no_error(error);
    return fake;
}

void fake_pci_free(FakePci *fake)
{
    KumoMachine *machine = &fake->machine;

    while (machine->devices->len > 0)
        kumo_device_remove(g_ptr_array_index(machine->devices, machine->devices->len - 1));
    g_ptr_array_unref(machine->devices);
    kumo_loop_free(machine->slow_loop);
    kumo_irq_free(machine->irq);
    kumo_bus_free(machine->mmio);
    kumo_bus_free(machine->pio);
    kumo_memory_free(machine->memory);
    machine->hv->ops->destroy(machine->hv);
    kumo_vm_config_free(fake->config);
    g_free(fake);
}

uint64_t fake_mmio_read(FakePci *fake, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;

    kumo_bus_read(fake->machine.mmio, 0, gpa, (uint8_t *)&value, size);
    return GUINT64_FROM_LE(value);
}

void fake_mmio_write(FakePci *fake, uint64_t gpa, uint64_t value, unsigned size)
{
    value = GUINT64_TO_LE(value);
    kumo_bus_write(fake->machine.mmio, 0, gpa, (const uint8_t *)&value, size);
}

uint32_t fake_pio_read(FakePci *fake, unsigned port, unsigned size)
{
    uint32_t value = 0;

    kumo_bus_read(fake->machine.pio, 0, port, (uint8_t *)&value, size);
    return GUINT32_FROM_LE(value);
}

void fake_pio_write(FakePci *fake, unsigned port, uint32_t value, unsigned size)
{
    value = GUINT32_TO_LE(value);
    kumo_bus_write(fake->machine.pio, 0, port, (const uint8_t *)&value, size);
}

uint32_t fake_ecam_read(FakePci *fake, unsigned slot, unsigned reg, unsigned size)
{
    return (uint32_t)fake_mmio_read(fake, FAKE_ECAM_BASE + (slot << 15) + reg, size);
}

void fake_ecam_write(FakePci *fake, unsigned slot, unsigned reg, uint32_t value, unsigned size)
{
    fake_mmio_write(fake, FAKE_ECAM_BASE + (slot << 15) + reg, value, size);
}

unsigned fake_find_cap(FakePci *fake, unsigned slot, uint8_t id, unsigned n)
{
    unsigned at = fake_ecam_read(fake, slot, 0x34, 1);

    for (unsigned i = 0; at && i < 48; i++) {
        if (fake_ecam_read(fake, slot, at, 1) == id && n-- == 0)
            return at;
        at = fake_ecam_read(fake, slot, at + 1, 1);
    }
    return 0;
}

static bool function_realize(KumoDevice *device, GError **error)
{
    return kumo_pci_plug(device->machine, &((FakePciFunction *)device)->function, error);
}

static void function_unrealize(KumoDevice *device)
{
    kumo_pci_unplug(device->machine, &((FakePciFunction *)device)->function);
}

static void function_free(KumoDevice *device)
{
    kumo_pci_function_clear(&((FakePciFunction *)device)->function);
    g_free(device);
}

const KumoDeviceOps fake_pci_function_ops = {
    .type = "fake",
    .realize = function_realize,
    .unrealize = function_unrealize,
    .free = function_free,
};
