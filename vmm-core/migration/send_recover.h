/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source, when a connection has broken while memory follows: keeps what the destination may not
 * have, until it is told where to connect again. */
#pragma once

#include "vmm-core/migration/send_postcopy.h"

/* What is to be made anew. */
typedef struct {
    KumoSender *sender; /* with a recovery */
    KumoSendPostcopy *postcopy;
    KumoChannel *main, *faults;
    const char *token; /* by which the destination knows us */
} KumoSendLines;

/**
 * kumo_send_recover:
 * @error: (inout): why the connection broke; afterwards why there is no other one
 *
 * Waits until memory follows again, for as many attempts as it takes.
 *
 * Returns: TRUE, with @error cleared, or FALSE: the migration is ended by force.
 */
bool kumo_send_recover(const KumoSendLines *lines, GError **error);
