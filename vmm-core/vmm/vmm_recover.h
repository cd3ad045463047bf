/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VM that is here, and the rest of whose memory follows, or cannot. Main thread. */
#pragma once

#include "vmm-core/vmm/vmm_state.h"

/* Waits for the source of the machine that is here; as kumo_vmm_receive_migration(). */
bool kumo_vmm_recover_received(KumoVmm *vmm, KumoReceiveMigrationConfig *receive,
                               KumoVmmReceived received, void *opaque, GError **error);

/* Returns: (transfer full) (nullable): how it is with memory that follows, for vm.info. */
json_t *kumo_vmm_describe_following(const KumoVmm *vmm);
