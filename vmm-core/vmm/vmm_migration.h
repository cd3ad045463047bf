/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What sending and receiving a VM have in common: one migration that is under way. Main thread. */
#pragma once

#include "vmm-core/base/main_call.h"
#include "vmm-core/base/sandbox.h"
#include "vmm-core/migration/channel.h"
#include "vmm-core/vmm/vmm_state.h"

extern const KumoThreadKind kumo_migration_thread;

struct KumoVmmMigration {
    KumoVmm *vmm;
    bool sending;
    bool recovers; /* of a machine that is here: another connection to its source is waited for */
    char *url;
    KumoMainCalls *calls;
    GThread *thread;
    GThreadFunc func; /* what it does */
    KumoMigrationCancel cancel;
    bool disturbed; /* called off by what the guest did */
    /* Returns: (transfer none): why it cannot be called off any more. */
    const char *(*committed)(const KumoVmmMigration *migration);
    /* NULL or: does it wait for another connection, or make one? Then the machine may be given up.
     */
    bool (*broken)(const KumoVmmMigration *migration);
};

/* Fills @migration, makes it the VMM's and starts its thread. FALSE with @error: cleared again. */
bool kumo_vmm_migration_start(KumoVmmMigration *migration, KumoVmm *vmm, bool sending,
                              const char *url, GThreadFunc func, GError **error);

/* In the last of its calls: joins the thread, frees what @migration has, and lets the VMM forget
 * it. */
void kumo_vmm_migration_finish(KumoVmmMigration *migration);

/* Tells @event with {"error": ...}. */
void kumo_vmm_migration_failed(KumoVmm *vmm, const char *event, const GError *error);

/* Calls a migration off and waits for its end. Fine if there is none. */
void kumo_vmm_end_migration(KumoVmm *vmm);

/* Ends a migration that waits for another connection, so that the machine can be taken down. Fine
 * if there is none. */
void kumo_vmm_give_up_recovery(KumoVmm *vmm);

/* The machine cannot go on: the migration ends, but not yet when this returns. */
void kumo_vmm_disturb_migration(KumoVmm *vmm);
