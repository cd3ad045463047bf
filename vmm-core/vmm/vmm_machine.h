/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine and what it stands on, the hypervisor and the consoles: how they come and go. When
 * that may be is the state machine's affair. Main thread.
 */
#pragma once

#include "vmm-core/vmm/vmm_landlock.h"

/* Builds the machine and starts it or, with @restore (nullable), one that ran before and is paused.
 * FALSE with @error: there is none. */
bool kumo_vmm_build_machine(KumoVmm *vmm, const KumoVmRestore *restore, GError **error);

/* Makes @config the VM's: (transfer full); @arrival: (nullable). FALSE with @error: there is none,
 * as before. */
bool kumo_vmm_adopt(KumoVmm *vmm, KumoVmConfig *config, const KumoVmmArrival *arrival,
                    GError **error);

/* Pause and resume, with their events, of a VM that runs or is paused. */
bool kumo_vmm_pause_machine(KumoVmm *vmm, GError **error);
bool kumo_vmm_resume_machine(KumoVmm *vmm, GError **error);

/* The machine goes; its configuration and the consoles stay. */
void kumo_vmm_drop_machine(KumoVmm *vmm);

/* Back to where there is no VM, after a machine could not be built. */
void kumo_vmm_forget(KumoVmm *vmm);

/* Whoever boots next opens them again. */
void kumo_vmm_close_consoles(KumoVmm *vmm);
