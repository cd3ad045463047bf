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

/**
 * kumo_virtio_net_announce:
 * @device: any device
 *
 * After the VM has come to this host: tells the network where its address is now, by a RARP frame
 * of our own and by asking the guest to announce itself (Virtio 1.2, 5.1.6.5.4). Frames can get
 * lost while switches wake up: it is worth calling a few times. Main thread.
 *
 * Returns: TRUE if the guest was asked; FALSE if it cannot, or @device is no network device.
 */
bool kumo_virtio_net_announce(KumoDevice *device);
