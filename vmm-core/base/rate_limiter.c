/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/rate_limiter.h"

#include <stdatomic.h>

enum { NS_PER_MS = 1000000 };

/*
 * A bucket's level is kept as the time at which it will be full: tokens are worth the time that it
 * takes to fill them in. That is one number, so one compare-and-swap takes from it, and it needs no
 * refilling. A time in the past is a full bucket, one further away than the refill time is debt.
 */
typedef struct {
    uint64_t size;      /* 0: no limit */
    uint64_t refill_ns; /* from empty to full */
    _Atomic uint64_t full_at_ns;
    _Atomic uint64_t burst; /* tokens left of it */
} Bucket;

struct KumoRateLimiter {
    atomic_uint refs;
    Bucket bandwidth, ops;
};

static void bucket_init(Bucket *bucket, const KumoRateBucket *limit)
{
    if (!limit->size || !limit->refill_time_ms)
        return;
    bucket->size = limit->size;
    bucket->refill_ns = MIN(limit->refill_time_ms, KUMO_RATE_REFILL_MAX_MS) * NS_PER_MS;
    atomic_init(&bucket->burst, limit->one_time_burst);
}

/* The time that @tokens take to fill in, rounded up so that small ones are not free. */
static uint64_t bucket_worth(const Bucket *bucket, uint64_t tokens)
{
    unsigned __int128 ns = (unsigned __int128)tokens * bucket->refill_ns;

    ns = (ns + bucket->size - 1) / bucket->size;
    return ns > G_MAXINT64 ? G_MAXINT64 : (uint64_t)ns;
}

/* Returns: what the burst did not cover. */
static uint64_t bucket_take_burst(Bucket *bucket, uint64_t tokens)
{
    uint64_t left = atomic_load_explicit(&bucket->burst, memory_order_relaxed);

    while (left) {
        uint64_t part = MIN(left, tokens);

        if (atomic_compare_exchange_weak_explicit(&bucket->burst, &left, left - part,
                                                  memory_order_relaxed, memory_order_relaxed))
            return tokens - part;
    }
    return tokens;
}

static uint64_t bucket_take(Bucket *bucket, uint64_t tokens, uint64_t now_ns)
{
    uint64_t worth, full_at, from, to, ready_at;

    if (!bucket->size || !tokens)
        return 0;
    tokens = bucket_take_burst(bucket, tokens);
    if (!tokens)
        return 0;
    worth = bucket_worth(bucket, tokens);
    full_at = atomic_load_explicit(&bucket->full_at_ns, memory_order_relaxed);
    do {
        from = MAX(full_at, now_ns);
        to = from > G_MAXINT64 - worth ? G_MAXINT64 : from + worth;
    } while (!atomic_compare_exchange_weak_explicit(&bucket->full_at_ns, &full_at, to,
                                                    memory_order_relaxed, memory_order_relaxed));
    /* Ready when the bucket holds the tokens, or is full. */
    ready_at = from + MIN(worth, bucket->refill_ns);
    return ready_at > now_ns + bucket->refill_ns ? ready_at - now_ns - bucket->refill_ns : 0;
}

static void bucket_give_back(Bucket *bucket, uint64_t tokens)
{
    uint64_t worth, full_at;

    if (!bucket->size || !tokens)
        return;
    worth = bucket_worth(bucket, tokens);
    full_at = atomic_load_explicit(&bucket->full_at_ns, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&bucket->full_at_ns, &full_at,
                                                  full_at - MIN(full_at, worth),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

static bool bucket_equal(const KumoRateBucket *a, const KumoRateBucket *b)
{
    return a->size == b->size && a->one_time_burst == b->one_time_burst &&
           a->refill_time_ms == b->refill_time_ms;
}

bool kumo_rate_limit_equal(const KumoRateLimit *a, const KumoRateLimit *b)
{
    return bucket_equal(&a->bandwidth, &b->bandwidth) && bucket_equal(&a->ops, &b->ops);
}

KumoRateLimiter *kumo_rate_limiter_new(const KumoRateLimit *limit)
{
    KumoRateLimiter *limiter = g_new0(KumoRateLimiter, 1);

    atomic_init(&limiter->refs, 1);
    bucket_init(&limiter->bandwidth, &limit->bandwidth);
    bucket_init(&limiter->ops, &limit->ops);
    if (!limiter->bandwidth.size && !limiter->ops.size)
        g_clear_pointer(&limiter, g_free);
    return limiter;
}

KumoRateLimiter *kumo_rate_limiter_ref(KumoRateLimiter *limiter)
{
    if (limiter)
        atomic_fetch_add_explicit(&limiter->refs, 1, memory_order_relaxed);
    return limiter;
}

void kumo_rate_limiter_unref(KumoRateLimiter *limiter)
{
    if (limiter && atomic_fetch_sub_explicit(&limiter->refs, 1, memory_order_acq_rel) == 1)
        g_free(limiter);
}

uint64_t kumo_rate_limiter_take(KumoRateLimiter *limiter, uint64_t bytes, uint64_t ops,
                                uint64_t now_ns)
{
    uint64_t bandwidth_ns, ops_ns;

    if (!limiter)
        return 0;
    bandwidth_ns = bucket_take(&limiter->bandwidth, bytes, now_ns);
    ops_ns = bucket_take(&limiter->ops, ops, now_ns);
    return MAX(bandwidth_ns, ops_ns);
}

void kumo_rate_limiter_give_back(KumoRateLimiter *limiter, uint64_t bytes, uint64_t ops)
{
    if (!limiter)
        return;
    bucket_give_back(&limiter->bandwidth, bytes);
    bucket_give_back(&limiter->ops, ops);
}
