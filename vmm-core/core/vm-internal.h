/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a machine with its vCPUs share among themselves. Main thread. */
#pragma once

#include "vmm-core/core/vcpu.h"
#include "vmm-core/core/vm.h"

struct KumoVm {
    KumoMachine machine;
    const KumoArchOps *arch;
    KumoVcpus *vcpus;
    uint64_t boot_ram_bytes; /* without what was added since */
};

/* vm_state.c: @vm is paused and was never run; @state is as kumo_vm_save_state() made it, and
 * hostile. */
bool kumo_vm_load_state(KumoVm *vm, const json_t *state, GError **error);

/*
 * vm_cpus.c: makes the vCPUs that the machine starts with, without threads: those that are
 * configured, the first of which begins at @entry, or those that @state has. Those of before that
 * are not among these go.
 */
bool kumo_vm_make_vcpus(KumoVm *vm, const KumoArchEntry *entry, const json_t *state,
                        GError **error);

/* The same, with threads, parked. */
bool kumo_vm_create_vcpus(KumoVm *vm, const KumoArchEntry *entry, const json_t *state,
                          GError **error);

/* vm_state.c: the memory of a saved machine: what it began with, 0: as configured; and (transfer
 * full) all there was. */
bool kumo_vm_saved_memory(const json_t *state, uint64_t *ret_boot_ram_bytes,
                          KumoMemRange **ret_ranges, size_t *ret_n_ranges, GError **error);

/* vm_memory.c: adds again what the saved machine had got, behind the ranges that this one is made
 * with. */
bool kumo_vm_restore_memory(KumoVm *vm, const KumoMemRange *saved, size_t n_saved, GError **error);
