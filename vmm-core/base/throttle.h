/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One consumer of a rate limiter on a worker: a queue that stops when it has to wait, and a timer
 * that starts it again. Everything on the loop's thread.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/base/loop.h"
#include "vmm-core/base/rate_limiter.h"

/* Embedded in its owner; zeroed is one without a limiter, which admits everything. */
typedef struct {
    KumoRateLimiter *limiter; /* a reference; NULL: no limit */
    KumoLoopSource *source;
    int timer_fd;
    KumoLoopFunc resume;
    void *opaque;
    bool waiting;           /* resume is going to be called */
    bool prepaid;           /* what comes next was paid for but not done */
    uint64_t prepaid_bytes; /* so much of it */
    KumoRateKind prepaid_kind;
} KumoThrottle;

/**
 * kumo_throttle_init:
 * @limiter: (transfer none) (nullable):
 * @resume: called when the wait is over
 *
 * Any thread, before the loop's thread uses it.
 */
bool kumo_throttle_init(KumoThrottle *throttle, KumoLoop *loop, KumoRateLimiter *limiter,
                        KumoLoopFunc resume, void *opaque, GError **error);

/**
 * kumo_throttle_prepare:
 *
 * Makes what a limiter needs, for one that was made without.
 *
 * Returns: TRUE, or FALSE with @error set. Then kumo_throttle_set_limiter() must not be called.
 */
bool kumo_throttle_prepare(KumoThrottle *throttle, KumoLoop *loop, GError **error);

/**
 * kumo_throttle_set_limiter:
 * @limiter: (transfer none) (nullable):
 *
 * Forgets the wait, like kumo_throttle_cancel(), and goes on with another limiter. On the loop's
 * thread, prepared.
 */
void kumo_throttle_set_limiter(KumoThrottle *throttle, KumoRateLimiter *limiter);

/* Fine for a zeroed or cleared one. Any thread, when the loop's thread does not use it. */
void kumo_throttle_clear(KumoThrottle *throttle);

/**
 * kumo_throttle_admit:
 *
 * Asks for one operation of @bytes. What had to wait is to be put back where it came from, and
 * asked for again after resume; it is then admitted for sure.
 *
 * Returns: FALSE if it has to wait.
 */
bool kumo_throttle_admit(KumoThrottle *throttle, KumoRateKind kind, uint64_t bytes);

/* What was admitted could not be done and will be asked for again, as the next. */
void kumo_throttle_postpone(KumoThrottle *throttle, KumoRateKind kind, uint64_t bytes);

/**
 * kumo_throttle_charge:
 *
 * Pays for something that has happened already, its size unknown before.
 *
 * Returns: FALSE if the next has to wait for resume.
 */
bool kumo_throttle_charge(KumoThrottle *throttle, KumoRateKind kind, uint64_t bytes, uint64_t ops);

/* Forgets the wait; what was paid for and not done is given back. */
void kumo_throttle_cancel(KumoThrottle *throttle);
