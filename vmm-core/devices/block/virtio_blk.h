/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-blk (Virtio 1.2, 5.2) on raw files and block devices. */
#pragma once

#include "vmm-core/core/device.h"

/* Adds a device for each of config->disks. */
extern const KumoDeviceType kumo_device_type_virtio_blk;

/**
 * kumo_virtio_blk_new:
 * @config: (transfer none): stays valid as long as the device
 *
 * Returns: (transfer full): a device for kumo_device_add().
 */
KumoDevice *kumo_virtio_blk_new(KumoMachine *machine, const KumoDiskConfig *config);
