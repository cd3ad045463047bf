/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The source's pages: which are to be sent, and lanes that send them, one thread and one connection
 * each. A page goes once in a round, over whatever lane, and a round has arrived as a whole before
 * the next begins: so an older content never comes behind a newer one.
 */
#pragma once

#include "vmm-core/migration/send.h"
#include "vmm-core/migration/stream.h"

typedef struct KumoSendPages KumoSendPages;

/**
 * kumo_send_pages_new:
 * @channels: the first is used on the caller's thread alone, each other by a thread of its own;
 * they stay the caller's
 *
 * No page is marked yet.
 *
 * Returns: (transfer full): NULL with @error: there is no memory for compression.
 */
KumoSendPages *kumo_send_pages_new(KumoSender *sender, KumoChannel *channels, unsigned n_channels,
                                   GError **error);

/* Ends the threads. NULL is fine. */
void kumo_send_pages_free(KumoSendPages *pages);

/* Marks all that may be something else than the zeros that the destination begins with. */
bool kumo_send_pages_mark_all(KumoSendPages *pages, GError **error);

/* Marks what has been written since the last time. */
bool kumo_send_pages_mark_dirty(KumoSendPages *pages, GError **error);

/* Returns: how many pages are marked. */
uint64_t kumo_send_pages_count(const KumoSendPages *pages);

typedef struct {
    unsigned id;
    bool paced; /* no faster than max_bandwidth allows */
    bool last;  /* the other lanes are not needed any more */
    bool empty; /* what is marked stays marked */
} KumoSendRound;

/**
 * kumo_send_pages_send:
 *
 * Sends the pages that are marked, which unmarks them; not all of them if the sender is to go on
 * with post-copy. What went over the other lanes has arrived;
 * the first has still to be asked.
 *
 * Returns: TRUE, or FALSE with @error: then no connection is of any use any more.
 */
bool kumo_send_pages_send(KumoSendPages *pages, const KumoSendRound *round, GError **error);

/* Returns: bytes that all lanes have sent. */
uint64_t kumo_send_pages_sent_bytes(const KumoSendPages *pages);

/* Returns: what they would have sent without compression. */
uint64_t kumo_send_pages_memory_bytes(const KumoSendPages *pages);

/* Of post-copy. Returns: (transfer none): a bit for each page of region @region that is marked. */
uint64_t *kumo_send_pages_bitmap(KumoSendPages *pages, unsigned region);

/* Returns: (transfer none): what the first lane writes with. */
KumoPagesWriter *kumo_send_pages_writer(KumoSendPages *pages);

/* Tells of the pages that are marked, over the first lane, that they come later. */
bool kumo_send_pages_tell_missing(KumoSendPages *pages, GError **error);

/* What has been sent until now goes into the progress. */
void kumo_send_pages_note_progress(KumoSendPages *pages);
