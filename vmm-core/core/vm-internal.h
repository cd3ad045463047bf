/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a machine with its vCPUs share among themselves. Main thread. */
#pragma once

#include "vmm-core/core/vcpu.h"
#include "vmm-core/core/vm.h"

struct KumoVm {
    KumoMachine machine;
    const KumoArchOps *arch;
    KumoVcpus *vcpus;
};

/* vm_state.c: @vm is paused and was never run; @state is as kumo_vm_save_state() made it, and hostile. */
bool kumo_vm_load_state(KumoVm *vm, const json_t *state, GError **error);
