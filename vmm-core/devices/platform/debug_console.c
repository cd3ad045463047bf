/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A port to which boot code writes characters before it has a driver for anything better; reading
 * it tells that it is there.
 */
#include <string.h>

#include "vmm-core/devices/console/backend.h"
#include "vmm-core/devices/platform/platform.h"

enum { CONSOLE_PRESENT = 0xe9 };

typedef struct {
    KumoDevice device;
    uint16_t port;
    KumoConsole *console;
} KumoDebugConsole;

static void debug_console_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    memset(data, CONSOLE_PRESENT, size);
}

static void debug_console_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoDebugConsole *self = opaque;

    kumo_console_write(self->console, data, size);
}

static const KumoBusOps debug_console_bus_ops = {
    .read = debug_console_read,
    .write = debug_console_write,
};

static bool debug_console_realize(KumoDevice *device, GError **error)
{
    KumoDebugConsole *self = (KumoDebugConsole *)device;

    self->console = kumo_console_set_debug(device->machine->consoles);
    return kumo_bus_add(device->machine->pio, self->port, 1, &debug_console_bus_ops, self,
                        "debug console", error);
}

static void debug_console_unrealize(KumoDevice *device)
{
    KumoDebugConsole *self = (KumoDebugConsole *)device;

    kumo_bus_remove(device->machine->pio, self->port, self);
    kumo_bus_synchronize(device->machine->pio);
}

static void debug_console_free(KumoDevice *device)
{
    g_free(device);
}

static json_t *debug_console_counters(KumoDevice *device)
{
    return kumo_console_counters(((KumoDebugConsole *)device)->console);
}

static const KumoDeviceOps debug_console_ops = {
    .type = "debug-console",
    .realize = debug_console_realize,
    .unrealize = debug_console_unrealize,
    .free = debug_console_free,
    .counters = debug_console_counters,
};

static bool debug_console_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoDebugConsole *self;

    if (!machine->pio || config->debug_console.console.mode == KUMO_CONSOLE_OFF)
        return true;
    self = g_new0(KumoDebugConsole, 1);
    kumo_device_init(&self->device, &debug_console_ops, machine, "__debug_console");
    self->port = (uint16_t)config->debug_console.iobase;
    return kumo_device_add(&self->device, error);
}

const KumoDeviceType kumo_device_type_debug_console = {
    .name = "debug-console",
    .create = debug_console_create,
};
