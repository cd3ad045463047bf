/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The destination's memory with post-copy: what the source has yet when the machine runs here comes
 * over two connections, one with what somebody waits for and one with all the rest.
 */
#pragma once

#include <jansson.h>

#include "vmm-core/core/memory.h"
#include "vmm-core/migration/channel.h"
#include "vmm-core/migration/compress.h"

/* Who wants to know how it ends, once the machine is ours; any thread. */
typedef struct {
    void (*finished)(void *opaque); /* all memory is here */
    /* The host has failed: who waits for a page waits for ever. */
    void (*failed)(void *opaque, const GError *error);
    /* A connection is lost: who waits for a page waits for the next one. */
    void (*broken)(void *opaque, const GError *error);
    void *opaque;
    void (*started)(void *opaque); /* NULL or: the machine is about to run, and memory follows */
    uint32_t timeout_s; /* for which a page that was asked for may be waited for; 0: for ever */
} KumoPostcopyWatch;

typedef struct KumoReceivePostcopy KumoReceivePostcopy;

/**
 * kumo_receive_postcopy_new:
 * @memory: fresh; outlives it
 * @token: by which the source is known
 * @secured: it came by TLS
 *
 * Nothing is missing yet. Main thread.
 *
 * Returns: (transfer full): NULL with @error (DENIED, or NOT_SUPPORTED for memory whose pages
 * cannot come one by one).
 */
KumoReceivePostcopy *kumo_receive_postcopy_new(KumoMemory *memory, const KumoPostcopyWatch *watch,
                                               const char *token, bool secured, GError **error);

/* Returns: (transfer full): {"units": [[gpa, bytes, bytes of a page], ...]}: what the source has to
 * send in one piece. */
json_t *kumo_receive_postcopy_describe(const KumoReceivePostcopy *postcopy);

/* What is at [@gpa, @gpa + @len), RAM, comes later; before the start. */
bool kumo_receive_postcopy_set_missing(KumoReceivePostcopy *postcopy, uint64_t gpa, uint64_t len,
                                       GError **error);

/**
 * kumo_receive_postcopy_start:
 * @faults: (transfer full): over which the source is asked for pages
 *
 * From now on whoever touches what is missing waits for it. It belongs to the memory then. Main
 * thread.
 *
 * Returns: TRUE, or FALSE with @error; then it is gone, or goes with the memory.
 */
bool kumo_receive_postcopy_start(KumoReceivePostcopy *postcopy, KumoChannel *faults,
                                 GError **error);

/* The machine is ours from now on, or with @ours FALSE not after all: then a failure wakes whoever
 * waits. Returns: FALSE with @error if pages are lost already. */
bool kumo_receive_postcopy_commit(KumoReceivePostcopy *postcopy, bool ours, GError **error);

/* All the rest comes over @channel, (transfer full), packed if there is a @decompressor, (transfer
 * full) (nullable). Main thread. Failures go to the watch. */
void kumo_receive_postcopy_follow(KumoReceivePostcopy *postcopy, KumoChannel *channel,
                                  KumoDecompressor *decompressor);

/* Of one that was not started. NULL is fine. */
void kumo_receive_postcopy_free(KumoReceivePostcopy *postcopy);

/* --- when a connection has broken; the machine is ours --- */

/* Returns: (nullable) (transfer none): by which @memory's pages follow, or have. */
KumoReceivePostcopy *kumo_receive_postcopy_of(const KumoMemory *memory);

/* Has the source to come again? Not if the host has failed. Any thread. */
bool kumo_receive_postcopy_is_broken(KumoReceivePostcopy *postcopy);

bool kumo_receive_postcopy_is_secured(const KumoReceivePostcopy *postcopy);
const char *kumo_receive_postcopy_token(const KumoReceivePostcopy *postcopy);
uint64_t kumo_receive_postcopy_missing_bytes(KumoReceivePostcopy *postcopy);

/* Tells the source over @channel what is not here: PAGES, then POSTCOPY. */
bool kumo_receive_postcopy_tell_missing(KumoReceivePostcopy *postcopy, KumoChannel *channel,
                                        GError **error);

/**
 * kumo_receive_postcopy_reconnect:
 * @main, @faults: (transfer full): to a source that knows what is missing
 * @decompressor: (transfer full) (nullable)
 *
 * What follows comes over these, and what was asked for is asked for again. Main thread.
 *
 * Returns: TRUE, or FALSE with @error: it is broken as before.
 */
bool kumo_receive_postcopy_reconnect(KumoReceivePostcopy *postcopy, KumoChannel *main,
                                     KumoChannel *faults, KumoDecompressor *decompressor,
                                     GError **error);
