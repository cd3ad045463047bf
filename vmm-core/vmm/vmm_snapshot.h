/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/vmm/vmm_state.h"

/* May the machine's state be written down, as far as guest and devices go? @what: "take a
 * snapshot". */
bool kumo_vmm_check_settled(KumoVmm *vmm, const char *what, GError **error);

/* Returns: (transfer full): the configuration with which the machine can be made again as it is
 * now. */
json_t *kumo_vmm_saved_config(KumoVmm *vmm);
