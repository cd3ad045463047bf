/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/main/backends.h"

#include <stddef.h>

#include "kumo-build.h"
#if KUMO_WITH_KVM
#include "vmm-core/kvm/kvm.h"
#endif

const KumoHvOps *const kumo_backends[] = {
#if KUMO_WITH_KVM
    &kumo_kvm_ops,
#endif
    NULL,
};
