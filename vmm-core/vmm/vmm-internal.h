/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the VMM's state machine share among themselves. Main thread. */
#pragma once

#include <stdatomic.h>

#include "vmm-core/core/vm.h"
#include "vmm-core/vmm/vmm.h"

typedef struct KumoVmmMigration KumoVmmMigration;

enum { KUMO_VMM_NO_REQUEST = -1 };

struct KumoVmm {
    KumoVmmParams params;
    KumoHv *hv;           /* opened at the first boot, kept */
    KumoVmConfig *config; /* NULL: no VM */
    KumoConsoleSet *consoles;
    KumoVm *vm; /* NULL: no VM, or it is not running */
    bool paused;
    bool quit_asked;
    KumoVmmMigration *migration; /* NULL: none is under way */
    bool memory_followed;        /* the machine came with post-copy */
    char *stranded;    /* why the machine can never run on, as it is at two places; NULL: it can */
    json_t *last_sent; /* how the last migration that was sent has ended; NULL: there was none */

    GSource *source;
    _Atomic int request;  /* a KumoMachineRequest or none: the first one wins */
    _Atomic bool ejected; /* a device or a vCPU of the machine was let go by the guest */
};

/* May nothing of the VM be changed, because it is on its way or stranded? */
static inline bool kumo_vmm_is_busy(const KumoVmm *vmm)
{
    return vmm->migration || vmm->stranded;
}

/* vmm_state.c */

/* As vm.info has it. */
const char *kumo_vmm_state_name(const KumoVmm *vmm);

/* Sets @error: "cannot @what: the VM is in the state ...". Returns: FALSE. */
bool kumo_vmm_refuse(const KumoVmm *vmm, const char *what, GError **error);

/* Asks for the end of the process, once. */
void kumo_vmm_ask_quit(KumoVmm *vmm, bool failed);

/* Pages of the guest cannot be had, because of @error: says so and ends the process, in order if
 * that is possible. Any thread. */
void kumo_vmm_memory_lost(KumoVmm *vmm, const GError *error);

/* Has that happened, to the machine that is there? */
bool kumo_vmm_memory_is_lost(void);

/*
 * The rest of the machine's memory, at the source, cannot follow any more, because of @error: stops
 * the vCPUs for good, and says so. Any thread.
 */
void kumo_vmm_strand(KumoVmm *vmm, const GError *error);

/* Main thread: was that asked for? And does it. */
bool kumo_vmm_is_to_strand(void);
void kumo_vmm_finish_strand(KumoVmm *vmm);

/* A stranded machine is taken down, which may hang: then the process ends. */
void kumo_vmm_expect_hang(void);

/* The machine is gone: there is nothing left that could hang. */
void kumo_vmm_memory_gone(void);

/* @properties: (transfer full) (nullable) */
void kumo_vmm_event(KumoVmm *vmm, const char *event, json_t *properties);

/* Has the machine asked for something that waits for the end of a pause? */
bool kumo_vmm_request_is_pending(const KumoVmm *vmm);

/* Is a VM arriving that is not there yet? */
bool kumo_vmm_is_receiving(const KumoVmm *vmm);

/* "a migration to unix:/path is under way", for messages. Returns: (transfer full). */
char *kumo_vmm_describe_migration(const KumoVmm *vmm);

/* vmm.c */

/* Builds a machine that ran before, paused. FALSE with @error: there is none. */
bool kumo_vmm_build_restored(KumoVmm *vmm, const KumoVmRestore *restore, GError **error);

/* How a VM comes that ran before. */
typedef struct {
    bool memory_on_demand;
    const char *socket; /* of ours, that it came through; NULL: none */
} KumoVmmArrival;

/* Makes @config the VM's: (transfer full); @arrival: (nullable). FALSE with @error: there is none,
 * as before. */
bool kumo_vmm_adopt(KumoVmm *vmm, KumoVmConfig *config, const KumoVmmArrival *arrival,
                    GError **error);

/* Pause and resume, with their events, of a VM that runs or is paused. */
bool kumo_vmm_pause_machine(KumoVmm *vmm, GError **error);
bool kumo_vmm_resume_machine(KumoVmm *vmm, GError **error);

/* The machine goes; its configuration and the consoles stay. */
void kumo_vmm_drop_machine(KumoVmm *vmm);

/* vmm_snapshot.c */

/* May the machine's state be written down, as far as guest and devices go? @what: "take a
 * snapshot". */
bool kumo_vmm_check_settled(KumoVmm *vmm, const char *what, GError **error);

/* Returns: (transfer full): the configuration with which the machine can be made again as it is
 * now. */
json_t *kumo_vmm_saved_config(KumoVmm *vmm);

/* vmm_migration.c */

/* Calls a migration off and waits for its end. Fine if there is none. */
void kumo_vmm_end_migration(KumoVmm *vmm);

/* The machine cannot go on: the migration ends, but not yet when this returns. */
void kumo_vmm_disturb_migration(KumoVmm *vmm);

/* Back to where there is no VM, after a machine could not be built. */
void kumo_vmm_forget(KumoVmm *vmm);

/* vmm_hotplug.c */

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
