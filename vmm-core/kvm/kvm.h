/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The KVM backend (Linux, Documentation/virt/kvm/api.rst). */
#pragma once

#include "vmm-core/hypervisor/hypervisor.h"

extern const KumoHvOps kumo_kvm_ops;
