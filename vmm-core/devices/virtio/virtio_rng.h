/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/core/device.h"

/* The random number generator that every machine has. */
extern const KumoDeviceType kumo_device_type_virtio_rng;
