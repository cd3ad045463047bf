/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How long a worker looks for more work before it sleeps. Sleeping costs the driver a kick and the
 * worker a wake-up, looking costs CPU time: so it looks only while the pauses of late were short.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    KUMO_IDLE_POLL_MIN_NS = 4000,
    KUMO_IDLE_POLL_MAX_NS = 32000, /* longer pauses are slept through */
};

/* All zeroes at first: it sleeps at once. Belongs to the worker's thread. */
typedef struct {
    uint32_t window_ns;     /* how long to look */
    uint64_t idle_since_ns; /* CLOCK_MONOTONIC; 0: there is work */
} KumoIdlePoll;

/* Called for each work that is found: learns from the pause before it, if there was one. */
void kumo_idle_poll_worked(KumoIdlePoll *poll);

/* There is no more work: the pause begins. */
void kumo_idle_poll_begin(KumoIdlePoll *poll);

/* Whether to look once more, a moment after the last time, instead of sleeping. */
bool kumo_idle_poll_goes_on(const KumoIdlePoll *poll);

/**
 * kumo_idle_poll_wait:
 * @ready: looks for work; called again and again
 *
 * To be called when there is no more work, before the worker sleeps, by one that waits for nothing
 * else; others use the two above.
 *
 * Returns: whether there is work.
 */
bool kumo_idle_poll_wait(KumoIdlePoll *poll, bool (*ready)(const void *opaque), const void *opaque);

/* What kumo_idle_poll_worked() learns from a pause of @pause_ns. */
void kumo_idle_poll_adapt(KumoIdlePoll *poll, uint64_t pause_ns);
