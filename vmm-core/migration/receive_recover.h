/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The destination, when a connection has broken while memory follows: waits for the source's next
 * ones, on a thread of its own. */
#pragma once

#include "vmm-core/migration/channel_tls.h"
#include "vmm-core/migration/receive_postcopy.h"

typedef struct {
    KumoReceivePostcopy *postcopy; /* broken */
    KumoChannelListener *listener; /* closed when the source is there */
    KumoChannelTls *tls;           /* NULL: in plain text */
    KumoMigrationCancel *cancel;
    /* Runs @func on the main thread. */
    void (*on_main)(void *opaque, void (*func)(void *arg), void *arg);
    /* Memory follows again. Main thread. */
    void (*recovered)(void *opaque);
    void *opaque;
} KumoReceiveRecovery;

/* Who is not the source that the machine came from is turned away, and the wait goes on. Returns:
 * TRUE: memory follows again; FALSE with @error: it is broken as before. */
bool kumo_receive_recover(KumoReceiveRecovery *recovery, GError **error);
