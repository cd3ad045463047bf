/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-console (Virtio 1.2, 5.3): one port, without the multiport feature. */
#pragma once

#include "vmm-core/core/device.h"

extern const KumoDeviceType kumo_device_type_virtio_console;
