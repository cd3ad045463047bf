/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A virtio device on the fake PCI bus that has two queues and does nothing by itself. */
#pragma once

#include "vmm-core/core/device.h"

enum { FAKE_VIRTIO_SLOT = 1, FAKE_VIRTIO_QUEUES = 2, FAKE_VIRTIO_QUEUE_SIZE = 16 };

/* Of a device that was made with g_new() and begins with a KumoVirtio, whose ops are the maker's.
 */
extern const KumoDeviceOps fake_virtio_device_ops;
