/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two ports for those who debug a boot: a code written to 0x80 goes into the log with the time
 * since the machine was made, at a limited rate since kernels also write there just to wait; 0x402
 * is where firmware puts its debug text, and is dropped.
 */
#include "vmm-core/devices/platform/platform.h"

#include <string.h>

#include "vmm-core/base/log.h"

enum {
    CODE_PORT = 0x80,
    FIRMWARE_PORT = 0x402,
    FIRMWARE_PRESENT = 0xe9, /* what firmware expects to read where the port exists */
};

typedef struct {
    KumoDevice device;
    int64_t start_us;
    KumoLogLimit limit;
} KumoDebugPort;

static const char *code_origin(uint8_t code)
{
    switch (code >> 5) {
    case 0:
        return "Firmware";
    case 1:
        return "Bootloader";
    case 2:
        return "Kernel";
    case 3:
        return "Userspace";
    default:
        return "Custom";
    }
}

static void code_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    memset(data, 0, size);
}

static void code_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoDebugPort *port = opaque;
    int64_t since_us;

    if (KUMO_LOG_INFO > kumo_log_level || !kumo_log_limit_pass(&port->limit))
        return;
    since_us = g_get_monotonic_time() - port->start_us;
    kumo_info("[Debug I/O port: %s code 0x%x] %" G_GINT64_FORMAT ".%06" G_GINT64_FORMAT " seconds",
              code_origin(data[0]), data[0], since_us / G_USEC_PER_SEC, since_us % G_USEC_PER_SEC);
}

static const KumoBusOps code_bus_ops = {
    .read = code_read,
    .write = code_write,
};

static void firmware_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    memset(data, FIRMWARE_PRESENT, size);
}

static void firmware_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
}

static const KumoBusOps firmware_bus_ops = {
    .read = firmware_read,
    .write = firmware_write,
};

static bool debug_port_realize(KumoDevice *device, GError **error)
{
    KumoBus *pio = device->machine->pio;

    if (!kumo_bus_add(pio, CODE_PORT, 1, &code_bus_ops, device, "debug port", error))
        return false;
    if (!kumo_bus_add(pio, FIRMWARE_PORT, 1, &firmware_bus_ops, device, "firmware debug port",
                      error)) {
        kumo_bus_remove(pio, CODE_PORT, device);
        kumo_bus_synchronize(pio);
        return false;
    }
    return true;
}

static void debug_port_unrealize(KumoDevice *device)
{
    KumoBus *pio = device->machine->pio;

    kumo_bus_remove(pio, FIRMWARE_PORT, device);
    kumo_bus_remove(pio, CODE_PORT, device);
    kumo_bus_synchronize(pio);
}

static void debug_port_free(KumoDevice *device)
{
    g_free(device);
}

static const KumoDeviceOps debug_port_ops = {
    .type = "debug-port",
    .realize = debug_port_realize,
    .unrealize = debug_port_unrealize,
    .free = debug_port_free,
};

static bool debug_port_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoDebugPort *port;

    if (!machine->pio)
        return true;
    port = g_new0(KumoDebugPort, 1);
    kumo_device_init(&port->device, &debug_port_ops, machine, "__debug_port");
    port->start_us = g_get_monotonic_time();
    return kumo_device_add(&port->device, error);
}

const KumoDeviceType kumo_device_type_debug_port = {
    .name = "debug-port",
    .create = debug_port_create,
};
