/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The source's half of post-copy: the guest is stopped, and what of its memory the destination does
 * not have yet goes there while it runs, first what somebody waits for.
 */
#pragma once

#include "vmm-core/migration/send_pages.h"

typedef struct KumoSendPostcopy KumoSendPostcopy;

/**
 * kumo_send_postcopy_new:
 * @pages: those that are marked follow
 * @main: for all that nobody waits for
 * @faults: over which the destination asks
 * @units: (nullable): of the destination's memory, as it says: hostile
 *
 * Returns: (transfer full): NULL with @error: @units are wrong.
 */
KumoSendPostcopy *kumo_send_postcopy_new(KumoSender *sender, KumoSendPages *pages,
                                         KumoChannel *main, KumoChannel *faults,
                                         const json_t *units, GError **error);

/* Begins to answer the destination, on a thread of its own. Nothing else sends pages any more. */
void kumo_send_postcopy_serve(KumoSendPostcopy *postcopy);

/* Sends the rest, and waits until the destination has all. Returns: FALSE with @error: it has not,
 * and a connection is of no use any more. */
bool kumo_send_postcopy_finish(KumoSendPostcopy *postcopy, GError **error);

/* The connections are new ones, and the destination knows who we are: hears what is missing there,
 * and begins to answer. kumo_send_postcopy_finish() goes on then. Returns: FALSE with @error. */
bool kumo_send_postcopy_resume(KumoSendPostcopy *postcopy, GError **error);

/* Hangs up. NULL is fine. */
void kumo_send_postcopy_free(KumoSendPostcopy *postcopy);
