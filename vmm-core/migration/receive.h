/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The destination's half of a migration, on a thread of its own. */
#pragma once

#include <jansson.h>

#include "vmm-core/core/memory.h"
#include "vmm-core/migration/channel_tls.h"
#include "vmm-core/migration/receive_postcopy.h"

/* What the receiver needs of the VMM; called on the receiver's thread. @document and @state are
 * hostile. */
typedef struct {
    /* A source is there and begins. */
    void (*started)(void *opaque);
    /* Builds the machine of {"config", "machine"}; its memory, (transfer none), is to be filled. */
    bool (*build)(void *opaque, const json_t *document, KumoMemory **ret_memory, GError **error);
    /* Memory is complete: loads the state and takes the locks of disks. */
    bool (*load)(void *opaque, const json_t *state, GError **error);
    /* The machine is ours. */
    bool (*go)(void *opaque, bool paused, GError **error);
    /* Runs @func on the main thread. */
    void (*on_main)(void *opaque, void (*func)(void *arg), void *arg);
} KumoReceiveHost;

typedef struct {
    KumoChannelListener *listener; /* closed when the source is there */
    const KumoReceiveHost *host;
    void *opaque;
    KumoMigrationCancel *cancel;
    KumoChannelTls *tls; /* NULL: in plain text */
    bool postcopy;       /* the source may let memory follow; then watch tells how that ends */
    KumoPostcopyWatch watch;
} KumoReceiver;

/* Returns: TRUE: the machine is here; FALSE with @error: it is not, and what was built has to go.
 */
bool kumo_receive_run(KumoReceiver *receiver, GError **error);
