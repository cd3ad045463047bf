/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/core/device.h"

/* The balloon, if the configuration has one. */
extern const KumoDeviceType kumo_device_type_virtio_balloon;
