/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/core/device.h"

/* Every kind of device, NULL-terminated, in the order in which a machine is built. */
extern const KumoDeviceType *const kumo_device_types[];
