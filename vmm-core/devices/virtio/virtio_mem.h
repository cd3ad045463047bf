/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/core/device.h"

/* One for each memory zone that may grow by virtio-mem. */
extern const KumoDeviceType kumo_device_type_virtio_mem;
