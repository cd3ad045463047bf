/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hypervisors that kumo was built for. */
#pragma once

#include "vmm-core/hypervisor/hypervisor.h"

/* NULL-terminated; the first that the host has is taken. */
extern const KumoHvOps *const kumo_backends[];
