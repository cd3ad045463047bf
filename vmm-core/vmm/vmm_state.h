/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What state the VMM is in, and how it tells: what all its steps begin or end with. Main thread. */
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
    bool unlocked;     /* a migration gave the disks' locks up and could not have them again */
    char *stranded;    /* why the machine cannot run on, as it is at two places; NULL: it can */
    bool broken;       /* but for another connection to its source */
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
 * the vCPUs for good, and says so. With @recoverable, there is only no connection: they wait for
 * what they need of it. Any thread.
 */
void kumo_vmm_strand(KumoVmm *vmm, const GError *error, bool recoverable);

/* Main thread: was that asked for? And does it. */
bool kumo_vmm_is_to_strand(void);
void kumo_vmm_finish_strand(KumoVmm *vmm);

/* Main thread: the memory follows again, or does not need to. */
void kumo_vmm_unstrand(KumoVmm *vmm);

/* Main thread: has all memory of a machine without connection come nevertheless? */
bool kumo_vmm_is_to_unstrand(const KumoVmm *vmm);

/* A stranded machine is taken down, which may hang: then the process ends. */
void kumo_vmm_expect_hang(void);

/* The machine is gone: there is nothing left that could hang. */
void kumo_vmm_memory_gone(void);

/* @properties: (transfer full) (nullable) */
void kumo_vmm_event(KumoVmm *vmm, const char *event, json_t *properties);

/* Has the machine asked for something that waits for the end of a pause? */
bool kumo_vmm_request_is_pending(const KumoVmm *vmm);

/* Is a VM arriving that is not there yet? Not one whose memory is recovered. */
bool kumo_vmm_is_receiving(const KumoVmm *vmm);

/* "a migration to unix:/path is under way", for messages. Returns: (transfer full). */
char *kumo_vmm_describe_migration(const KumoVmm *vmm);
