/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calling a migration off, wherever its threads wait, and the moment from which that is too late.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Lets a migration's thread give up wherever it waits. */
typedef struct {
    int fd; /* an eventfd, readable once it is called off */
    _Atomic bool set;
    _Atomic int decision; /* whether it was called off or has become irrevocable: the first wins */
} KumoMigrationCancel;

/* Returns: TRUE, or FALSE with @error set. */
bool kumo_migration_cancel_init(KumoMigrationCancel *cancel, GError **error);
void kumo_migration_cancel_clear(KumoMigrationCancel *cancel);

/* Any thread, as often as wanted. Returns: FALSE: it cannot be called off any more. */
bool kumo_migration_cancel_set(KumoMigrationCancel *cancel);

/* As kumo_migration_cancel_set(), whatever becomes of the VM: the process ends. */
void kumo_migration_cancel_force(KumoMigrationCancel *cancel);

/* From now on it cannot be called off. Returns: as kumo_migration_cancel_check(). */
bool kumo_migration_cancel_commit(KumoMigrationCancel *cancel, GError **error);

/* Returns: TRUE, or FALSE with @error (STATE: called off). */
bool kumo_migration_cancel_check(KumoMigrationCancel *cancel, GError **error);

/* Waits. Returns: as kumo_migration_cancel_check(), at once when it is called off. */
bool kumo_migration_cancel_sleep(KumoMigrationCancel *cancel, int ms, GError **error);

/* Waits until @fd is ready for @events of poll(), @patience_ms at most, 0: for ever. Returns: as
 * kumo_migration_cancel_check(), or FALSE with @error (IO) when the patience ends. */
bool kumo_migration_cancel_wait(KumoMigrationCancel *cancel, int fd, short events, int patience_ms,
                                GError **error);
