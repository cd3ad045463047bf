/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A call that may never come back, such as one to another host's daemon, within a domain's job. A
 * thread of its own makes it. Who has the job waits, but no longer than it is told to, than a
 * client lets it or than the domain runs. A call that it no longer waits for is left alone: what it
 * works on is released when it comes back after all.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

typedef enum {
    KUMO_CALL_TO_ITS_END,
    KUMO_CALL_UNLESS_ABORTED,
    KUMO_CALL_UNLESS_ABORTED_AGAIN, /* that the job has been aborted does not count */
} kumoJobCallPatience;

/**
 * kumoJobCallRun:
 * @vm: locked
 * @work: what is to be done; it returns 0, or -1 with the error reported. It knows nothing of @vm
 *     or the driver, which may be gone before it comes back
 * @box: (inout): for @work: a reference from g_atomic_rc_box_alloc(); NULL afterwards if the call
 * is left alone
 * @clear: empties @box before it is freed, from whatever thread
 * @timeoutMs: 0: as long as it takes
 * @patience: whether a client may end the wait, by aborting the job
 *
 * Lets go of @vm's lock meanwhile.
 *
 * Returns: 0, or -1 with the error reported: that of @work, or if it is left alone
 *     VIR_ERR_OPERATION_TIMEOUT, VIR_ERR_OPERATION_ABORTED for an aborted job,
 *     VIR_ERR_OPERATION_FAILED for a domain that has ended meanwhile.
 */
int kumoJobCallRun(virDomainObj *vm, int (*work)(void *box), void **box, GDestroyNotify clear,
                   unsigned long long timeoutMs, kumoJobCallPatience patience);

/* kumoJobCallWake: @vm, locked, has a job that was aborted, or has ended: who waits for a call sees
 * to that. */
void kumoJobCallWake(virDomainObj *vm);
