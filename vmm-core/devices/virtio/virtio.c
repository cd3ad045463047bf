/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/virtio/virtio.h"

#include <string.h>

#include "vmm-core/base/log.h"

void kumo_virtio_config_copy(const void *config, size_t config_len, uint64_t offset, uint8_t *data,
                             unsigned size)
{
    size_t n = 0;

    if (offset < config_len) {
        n = MIN(config_len - (size_t)offset, size);
        memcpy(data, (const uint8_t *)config + offset, n);
    }
    memset(data + n, 0, size - n);
}

void kumo_virtio_broken(KumoVirtio *virtio, const char *why)
{
    kumo_warn_guest("%s: %s: the guest has to reset the device", virtio->device.id, why);
    if (virtio->needs_reset)
        virtio->needs_reset(virtio);
}
