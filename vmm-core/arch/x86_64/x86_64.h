/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/core/arch.h"

extern const KumoArchOps kumo_arch_x86_64;
