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

/* Of one kind; those of "other" hold for every kind. */
typedef struct {
    Bucket bandwidth, ops;
} Buckets;

struct KumoRateLimiter {
    atomic_uint refs;
    Buckets of[KUMO_RATE_KINDS];
    uint64_t op_size_bytes;
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
    return bucket_equal(&a->bandwidth, &b->bandwidth) && bucket_equal(&a->ops, &b->ops) &&
           bucket_equal(&a->read_bandwidth, &b->read_bandwidth) &&
           bucket_equal(&a->read_ops, &b->read_ops) &&
           bucket_equal(&a->write_bandwidth, &b->write_bandwidth) &&
           bucket_equal(&a->write_ops, &b->write_ops) && a->op_size_bytes == b->op_size_bytes;
}

static bool buckets_limit(const Buckets *buckets)
{
    return buckets->bandwidth.size || buckets->ops.size;
}

bool kumo_rate_limiter_is_split(const KumoRateLimiter *limiter)
{
    return limiter && (buckets_limit(&limiter->of[KUMO_RATE_READ]) ||
                       buckets_limit(&limiter->of[KUMO_RATE_WRITE]));
}

KumoRateLimiter *kumo_rate_limiter_new(const KumoRateLimit *limit)
{
    KumoRateLimiter *limiter = g_new0(KumoRateLimiter, 1);

    atomic_init(&limiter->refs, 1);
    bucket_init(&limiter->of[KUMO_RATE_OTHER].bandwidth, &limit->bandwidth);
    bucket_init(&limiter->of[KUMO_RATE_OTHER].ops, &limit->ops);
    bucket_init(&limiter->of[KUMO_RATE_READ].bandwidth, &limit->read_bandwidth);
    bucket_init(&limiter->of[KUMO_RATE_READ].ops, &limit->read_ops);
    bucket_init(&limiter->of[KUMO_RATE_WRITE].bandwidth, &limit->write_bandwidth);
    bucket_init(&limiter->of[KUMO_RATE_WRITE].ops, &limit->write_ops);
    limiter->op_size_bytes = limit->op_size_bytes;
    if (!buckets_limit(&limiter->of[KUMO_RATE_OTHER]) && !kumo_rate_limiter_is_split(limiter))
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

static uint64_t count_ops(const KumoRateLimiter *limiter, uint64_t bytes, uint64_t ops)
{
    uint64_t size = limiter->op_size_bytes;

    return size && bytes > size ? ops * (bytes / size + (bytes % size != 0)) : ops;
}

static uint64_t buckets_take(Buckets *buckets, uint64_t bytes, uint64_t ops, uint64_t now_ns)
{
    uint64_t bandwidth_ns = bucket_take(&buckets->bandwidth, bytes, now_ns);
    uint64_t ops_ns = bucket_take(&buckets->ops, ops, now_ns);

    return MAX(bandwidth_ns, ops_ns);
}

static void buckets_give_back(Buckets *buckets, uint64_t bytes, uint64_t ops)
{
    bucket_give_back(&buckets->bandwidth, bytes);
    bucket_give_back(&buckets->ops, ops);
}

uint64_t kumo_rate_limiter_take(KumoRateLimiter *limiter, KumoRateKind kind, uint64_t bytes,
                                uint64_t ops, uint64_t now_ns)
{
    uint64_t wait_ns, own_ns;

    if (!limiter)
        return 0;
    ops = count_ops(limiter, bytes, ops);
    wait_ns = buckets_take(&limiter->of[KUMO_RATE_OTHER], bytes, ops, now_ns);
    if (kind == KUMO_RATE_OTHER)
        return wait_ns;
    own_ns = buckets_take(&limiter->of[kind], bytes, ops, now_ns);
    return MAX(wait_ns, own_ns);
}

void kumo_rate_limiter_give_back(KumoRateLimiter *limiter, KumoRateKind kind, uint64_t bytes,
                                 uint64_t ops)
{
    if (!limiter)
        return;
    ops = count_ops(limiter, bytes, ops);
    buckets_give_back(&limiter->of[KUMO_RATE_OTHER], bytes, ops);
    if (kind != KUMO_RATE_OTHER)
        buckets_give_back(&limiter->of[kind], bytes, ops);
}
