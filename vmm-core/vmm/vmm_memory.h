/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What virtio-mem and the balloon do of vm.resize, with a machine or, without one, in the
 * configuration. Nothing is changed by a check; what is set has been checked.
 */
#pragma once

#include "vmm-core/vmm/vmm_state.h"

bool kumo_vmm_check_virtio_mem(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error);
bool kumo_vmm_set_virtio_mem(KumoVmm *vmm, uint64_t wanted_bytes, GError **error);
bool kumo_vmm_check_balloon(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error);
bool kumo_vmm_set_balloon(KumoVmm *vmm, uint64_t wanted_bytes, GError **error);

/* Returns: the memory that the guest has at present, in bytes, without what is in the balloon. */
uint64_t kumo_vmm_actual_memory(const KumoVmm *vmm);
