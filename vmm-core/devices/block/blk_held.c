/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/block/blk_held.h"

static KumoBlkHeldItem *take_first(KumoBlkHeld *held)
{
    KumoBlkHeldItem *item = held->first;

    held->first = item->next;
    if (!held->first)
        held->last = &held->first;
    held->paid = false;
    return item;
}

static void on_turn(void *opaque)
{
    KumoBlkHeld *held = opaque;

    while (held->first) {
        if (!held->paid &&
            !kumo_throttle_charge(&held->throttle, held->kind, held->first->bytes, 1)) {
            held->paid = true;
            break;
        }
        held->start(held->opaque, take_first(held));
    }
    held->started(held->opaque);
}

bool kumo_blk_held_init(KumoBlkHeld *held, KumoRateKind kind, KumoLoop *loop,
                        KumoRateLimiter *limiter,
                        void (*start)(void *opaque, KumoBlkHeldItem *item), KumoLoopFunc started,
                        void *opaque, GError **error)
{
    *held = (KumoBlkHeld){ .kind = kind, .start = start, .started = started, .opaque = opaque };
    held->last = &held->first;
    return kumo_throttle_init(&held->throttle, loop, limiter, on_turn, held, error);
}

void kumo_blk_held_clear(KumoBlkHeld *held)
{
    kumo_throttle_clear(&held->throttle);
}

bool kumo_blk_held_admit(KumoBlkHeld *held, KumoBlkHeldItem *item, uint64_t bytes)
{
    /* The wait may be for something that was paid for late. */
    if (!held->first && !held->throttle.waiting) {
        if (kumo_throttle_charge(&held->throttle, held->kind, bytes, 1))
            return true;
        held->paid = true;
    }
    *item = (KumoBlkHeldItem){ .bytes = bytes };
    *held->last = item;
    held->last = &item->next;
    return false;
}

void kumo_blk_held_release(KumoBlkHeld *held)
{
    while (held->first) {
        if (!held->paid)
            kumo_throttle_charge(&held->throttle, held->kind, held->first->bytes, 1);
        held->start(held->opaque, take_first(held));
    }
    kumo_throttle_cancel(&held->throttle);
}

void kumo_blk_held_drop(KumoBlkHeld *held, void (*dropped)(void *opaque, KumoBlkHeldItem *item))
{
    kumo_throttle_cancel(&held->throttle);
    if (held->paid)
        kumo_rate_limiter_give_back(held->throttle.limiter, held->kind, held->first->bytes, 1);
    while (held->first)
        dropped(held->opaque, take_first(held));
}
