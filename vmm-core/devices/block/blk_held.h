/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests of one direction that wait for a rate limiter, in the order in which they came, while
 * those of the other direction go on. Everything on the loop's thread.
 */
#pragma once

#include "vmm-core/base/throttle.h"

/* A request's place in the list; embedded in the request. */
typedef struct KumoBlkHeldItem {
    struct KumoBlkHeldItem *next;
    uint64_t bytes;
} KumoBlkHeldItem;

typedef struct {
    KumoThrottle throttle;
    KumoRateKind kind;
    KumoBlkHeldItem *first, **last;
    bool paid; /* the first one's tokens are taken */
    void (*start)(void *opaque, KumoBlkHeldItem *item);
    KumoLoopFunc started;
    void *opaque;
} KumoBlkHeld;

/**
 * kumo_blk_held_init:
 * @limiter: (transfer none) (nullable):
 * @start: begins a request that need not wait any longer
 * @started: called after @start when a wait has ended, once for all that it has ended for
 *
 * Any thread, before the loop's thread uses it.
 */
bool kumo_blk_held_init(KumoBlkHeld *held, KumoRateKind kind, KumoLoop *loop,
                        KumoRateLimiter *limiter,
                        void (*start)(void *opaque, KumoBlkHeldItem *item), KumoLoopFunc started,
                        void *opaque, GError **error);

/* Fine for a zeroed one. Any thread, when the loop's thread does not use it; it holds nothing. */
void kumo_blk_held_clear(KumoBlkHeld *held);

/**
 * kumo_blk_held_admit:
 *
 * Returns: TRUE if the request may begin at once; else it is held.
 */
bool kumo_blk_held_admit(KumoBlkHeld *held, KumoBlkHeldItem *item, uint64_t bytes);

/* Begins all that are held, at once; those that come next wait for them as well. */
void kumo_blk_held_release(KumoBlkHeld *held);

/* Begins none of them: a guest that resets its driver must not get them past the limit. @dropped:
 * takes each. */
void kumo_blk_held_drop(KumoBlkHeld *held, void (*dropped)(void *opaque, KumoBlkHeldItem *item));
