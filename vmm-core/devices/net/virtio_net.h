/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-net (Virtio 1.2, 5.1) on tap and macvtap interfaces. */
#pragma once

#include "vmm-core/core/device.h"

/* Adds a device for each of config->nets. */
extern const KumoDeviceType kumo_device_type_virtio_net;

/**
 * kumo_virtio_net_new:
 * @config: (transfer none): stays valid as long as the device
 *
 * Returns: (transfer full): a device for kumo_device_add().
 */
KumoDevice *kumo_virtio_net_new(KumoMachine *machine, const KumoNetConfig *config);
