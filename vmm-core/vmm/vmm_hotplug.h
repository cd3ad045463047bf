/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/vmm/vmm_state.h"

/* Removes the devices and the vCPUs that the guest has let go. */
void kumo_vmm_finish_ejects(KumoVmm *vmm);

/*
 * A device or a vCPU that the guest was asked to let go does not come back with the next machine.
 * Before a machine is dropped, take lists them; afterwards, drop takes the devices out of the
 * configuration, and tells that all are gone.
 */
json_t *kumo_vmm_take_leaving(KumoVmm *vmm);
void kumo_vmm_drop_leaving(KumoVmm *vmm, json_t *leaving);

/* Writes into the configuration what devices of its lists decided or did themselves, as a NIC its
 * address, or a disk that it has told of its threshold: the next machine has them alike. */
void kumo_vmm_keep_reports(KumoVmm *vmm);
