/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the VMM's state machine share among themselves. Main thread. */
#pragma once

#include <stdatomic.h>

#include "vmm-core/core/vm.h"
#include "vmm-core/core/vmm.h"

struct KumoVmm {
    KumoVmmParams params;
    KumoHv *hv;           /* opened at the first boot, kept */
    KumoVmConfig *config; /* NULL: no VM */
    KumoConsoleSet *consoles;
    KumoVm *vm; /* NULL: no VM, or it is not running */
    bool paused;
    bool quit_asked;

    GSource *source;
    _Atomic int request;  /* a KumoMachineRequest or none: the first one wins */
    _Atomic bool ejected; /* a device or a vCPU of the machine was let go by the guest */
};

/* Sets @error: "cannot @what: the VM is in the state ...". Returns: FALSE. */
bool kumo_vmm_refuse(const KumoVmm *vmm, const char *what, GError **error);

/* @properties: (transfer full) (nullable) */
void kumo_vmm_event(KumoVmm *vmm, const char *event, json_t *properties);

/* Has the machine asked for something that waits for the end of a pause? */
bool kumo_vmm_request_is_pending(const KumoVmm *vmm);

/* Builds a machine that ran before, paused. FALSE with @error: there is none. */
bool kumo_vmm_build_restored(KumoVmm *vmm, const KumoVmRestore *restore, GError **error);

/* Back to where there is no VM, after a machine could not be built. */
void kumo_vmm_forget(KumoVmm *vmm);

/* vmm_hotplug.c */

/* Removes the devices and the vCPUs that the guest has let go. */
void kumo_vmm_finish_ejects(KumoVmm *vmm);

/*
 * A device that the guest was asked to let go does not come back with the next machine. Before a
 * machine is dropped, take lists these devices; afterwards, drop takes them out of the configuration.
 */
json_t *kumo_vmm_take_leaving(KumoVmm *vmm);
void kumo_vmm_drop_leaving(KumoVmm *vmm, json_t *leaving);

/* Writes into the configuration what devices of its lists decided themselves, as a NIC its address:
 * the next machine has them alike. */
void kumo_vmm_keep_reports(KumoVmm *vmm);

/*
 * vmm_memory.c: what virtio-mem and the balloon do of vm.resize, with a machine or, without one, in
 * the configuration. Nothing is changed by a check; what is set has been checked.
 */
bool kumo_vmm_check_virtio_mem(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error);
bool kumo_vmm_set_virtio_mem(KumoVmm *vmm, uint64_t wanted_bytes, GError **error);
bool kumo_vmm_check_balloon(const KumoVmm *vmm, uint64_t wanted_bytes, GError **error);
bool kumo_vmm_set_balloon(KumoVmm *vmm, uint64_t wanted_bytes, GError **error);

/* Returns: the memory that the guest has at present, in bytes, without what is in the balloon. */
uint64_t kumo_vmm_actual_memory(const KumoVmm *vmm);
