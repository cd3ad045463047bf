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

/*
 * vm_cpus.c: makes the vCPUs that the machine starts with, parked: those that are configured, the first of which begins
 * at @entry, or those that @state has.
 */
bool kumo_vm_create_vcpus(KumoVm *vm, const KumoArchEntry *entry, const json_t *state, GError **error);
