/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/device.h"

#include "vmm-core/base/error.h"

#include <stdatomic.h>

#include "vmm-core/base/log.h"

void kumo_device_init(KumoDevice *device, const KumoDeviceOps *ops, KumoMachine *machine,
                      const char *id)
{
    device->ops = ops;
    device->machine = machine;
    device->id = g_strdup(id);
    device->realized = false;
    device->removal_asked = false;
    atomic_init(&device->ejected, false);
}

static void device_free(KumoDevice *device)
{
    g_clear_pointer(&device->id, g_free);
    device->ops->free(device);
}

bool kumo_device_add(KumoDevice *device, GError **error)
{
    kumo_debug("device %s (%s): realize", device->id, device->ops->type);
    if (!device->ops->realize(device, error)) {
        kumo_prefix_error(error, "device %s", device->id);
        device_free(device);
        return false;
    }
    device->realized = true;
    g_ptr_array_add(device->machine->devices, device);
    return true;
}

void kumo_device_remove(KumoDevice *device)
{
    kumo_debug("device %s (%s): unrealize", device->id, device->ops->type);
    g_ptr_array_remove(device->machine->devices, device);
    device->ops->unrealize(device);
    device->realized = false;
    device_free(device);
}

KumoDevice *kumo_device_find(KumoMachine *machine, const char *id)
{
    for (unsigned i = 0; i < machine->devices->len; i++) {
        KumoDevice *device = g_ptr_array_index(machine->devices, i);

        if (g_str_equal(device->id, id))
            return device;
    }
    return NULL;
}
