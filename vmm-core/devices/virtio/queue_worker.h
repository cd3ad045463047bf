/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the threads that serve virtqueues run. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "vmm-core/base/loop.h"

/**
 * kumo_queue_worker_bind:
 * @loop: the worker's
 * @affinity: (element-type KumoQueueAffinity): of the device
 * @index: the worker's queue, as @affinity counts
 * @reset: it may be bound already: without an entry it is to run wherever the calling thread may
 *
 * Returns: TRUE, or FALSE with @error naming the queue and the CPUs.
 */
bool kumo_queue_worker_bind(KumoLoop *loop, const GPtrArray *affinity, unsigned index, bool reset,
                            GError **error);
