/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/base/landlock.h"
#include "vmm-core/vmm/vmm_state.h"

/* How a VM comes that ran before. */
typedef struct {
    bool memory_on_demand;
    const char *socket; /* of ours, that it came through; NULL: none */
} KumoVmmArrival;

/**
 * kumo_vmm_landlock_rules:
 * @config: validated
 * @arrival: (nullable): what else is needed because the VM ran before
 * @backends: NULL-terminated: the hypervisors that may be opened
 * @removed_files: (nullable): NULL-terminated: what the process has made and removes as it ends
 *
 * Returns: (transfer full): list of KumoLandlockRule: what the VM opens until it is deleted, by
 * boots, reboots and migrations, and what its landlock_rules say.
 */
GPtrArray *kumo_vmm_landlock_rules(const KumoVmConfig *config, const KumoVmmArrival *arrival,
                                   const KumoHvOps *const *backends,
                                   const char *const *removed_files);

/* Lets the process open only that from now on, if the VM's configuration wants it so. Its consoles
 * are open already. */
bool kumo_vmm_confine(KumoVmm *vmm, const KumoVmmArrival *arrival, GError **error);
