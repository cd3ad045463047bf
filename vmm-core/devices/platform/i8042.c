/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is left of the keyboard controller: no keyboard, no mouse, an always ready status, and the
 * pulse on the reset line (command 0xfe). Port 0x61 next to it shows timer 2's output high, which
 * ends the wait of kernels that calibrate with a timer that is not there.
 */
#include "vmm-core/devices/platform/platform.h"

enum {
    I8042_PORT = 0x61,
    I8042_PORTS = 4,
    OFFSET_SYSTEM_CONTROL = 0,
    OFFSET_COMMAND = 3, /* port 0x64, the status when read */
    SYSTEM_CONTROL_TIMER2_OUT = 0x20,
    COMMAND_RESET = 0xfe,
};

static void i8042_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        data[i] = offset + i == OFFSET_SYSTEM_CONTROL ? SYSTEM_CONTROL_TIMER2_OUT : 0;
}

static void i8042_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoDevice *device = opaque;

    for (unsigned i = 0; i < size; i++) {
        if (offset + i == OFFSET_COMMAND && data[i] == COMMAND_RESET)
            kumo_machine_request(device->machine, KUMO_MACHINE_REQUEST_RESET);
    }
}

static const KumoBusOps i8042_bus_ops = {
    .read = i8042_read,
    .write = i8042_write,
};

static bool i8042_realize(KumoDevice *device, GError **error)
{
    return kumo_bus_add(device->machine->pio, I8042_PORT, I8042_PORTS, &i8042_bus_ops, device,
                        "i8042", error);
}

static void i8042_unrealize(KumoDevice *device)
{
    kumo_bus_remove(device->machine->pio, I8042_PORT, device);
    kumo_bus_synchronize(device->machine->pio);
}

static void i8042_free(KumoDevice *device)
{
    g_free(device);
}

static const KumoDeviceOps i8042_ops = {
    .type = "i8042",
    .realize = i8042_realize,
    .unrealize = i8042_unrealize,
    .free = i8042_free,
};

static bool i8042_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoDevice *device;

    if (!machine->pio)
        return true;
    device = g_new0(KumoDevice, 1);
    kumo_device_init(device, &i8042_ops, machine, "__i8042");
    return kumo_device_add(device, error);
}

const KumoDeviceType kumo_device_type_i8042 = {
    .name = "i8042",
    .create = i8042_create,
};
