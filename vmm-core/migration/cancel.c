/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/cancel.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

enum { OPEN, CALLED_OFF, COMMITTED };

bool kumo_migration_cancel_init(KumoMigrationCancel *cancel, GError **error)
{
    atomic_store(&cancel->set, false);
    atomic_store(&cancel->decision, OPEN);
    cancel->fd = kumo_eventfd_new(error);
    return cancel->fd >= 0;
}

void kumo_migration_cancel_clear(KumoMigrationCancel *cancel)
{
    kumo_fd_clear(&cancel->fd);
}

void kumo_migration_cancel_force(KumoMigrationCancel *cancel)
{
    atomic_store(&cancel->set, true);
    kumo_eventfd_signal(cancel->fd);
}

bool kumo_migration_cancel_set(KumoMigrationCancel *cancel)
{
    int was = OPEN;

    if (!atomic_compare_exchange_strong(&cancel->decision, &was, CALLED_OFF) && was == COMMITTED)
        return false;
    kumo_migration_cancel_force(cancel);
    return true;
}

bool kumo_migration_cancel_commit(KumoMigrationCancel *cancel, GError **error)
{
    int was = OPEN;

    if (!kumo_migration_cancel_check(cancel, error))
        return false;
    if (atomic_compare_exchange_strong(&cancel->decision, &was, COMMITTED))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "the migration was called off");
    return false;
}

bool kumo_migration_cancel_check(KumoMigrationCancel *cancel, GError **error)
{
    if (!atomic_load(&cancel->set))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "the migration was called off");
    return false;
}

bool kumo_migration_cancel_sleep(KumoMigrationCancel *cancel, int ms, GError **error)
{
    struct pollfd fd = { .fd = cancel->fd, .events = POLLIN };

    poll(&fd, 1, ms);
    return kumo_migration_cancel_check(cancel, error);
}

bool kumo_migration_cancel_wait(KumoMigrationCancel *cancel, int fd, short events, int patience_ms,
                                GError **error)
{
    struct pollfd fds[] = { { .fd = fd, .events = events },
                            { .fd = cancel->fd, .events = POLLIN } };

    for (;;) {
        int n = poll(fds, G_N_ELEMENTS(fds), patience_ms ? patience_ms : -1);

        if (!kumo_migration_cancel_check(cancel, error))
            return false;
        if (n > 0 && fds[0].revents)
            return true;
        if (n == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO,
                        "the other side has said nothing for %.1f s", patience_ms / 1000.0);
            return false;
        }
        if (n < 0 && errno != EINTR) {
            kumo_set_error_errno(error, errno, "poll");
            return false;
        }
    }
}
