/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Token buckets for bandwidth and operations, of everything and of each direction. A bucket holds
 * @size tokens and fills up again within
 * @refill_time_ms; a one-time burst on top is spent first and never comes back.
 *
 * Whoever takes always gets, and is told how long to wait before it goes on: what is short is owed,
 * and who comes next waits longer. So sharers of one limiter get their turn in the order in which
 * they asked, whatever the sizes, and nobody has to try again.
 *
 * Any number of threads may use one limiter; there is no lock. The caller brings the time, a
 * monotonic clock in nanoseconds.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Bounds of what kumo_rate_limiter_new() takes; the configuration is checked against them. */
enum { KUMO_RATE_REFILL_MAX_MS = 86400000 };

typedef struct {
    uint64_t size;           /* tokens; 0: no limit */
    uint64_t one_time_burst; /* tokens */
    uint64_t refill_time_ms; /* 0: no limit */
} KumoRateBucket;

typedef struct {
    KumoRateBucket bandwidth;    /* a token is a byte */
    KumoRateBucket ops;          /* a token is a request or a frame */
    bool has_bandwidth, has_ops; /* were given in the configuration */

    /* Of one direction, besides those of both. */
    KumoRateBucket read_bandwidth, read_ops, write_bandwidth, write_ops;
    bool has_read_bandwidth, has_read_ops, has_write_bandwidth, has_write_ops;

    uint64_t op_size_bytes; /* a request counts for one operation for each so many; 0: for one */
} KumoRateLimit;

/* What tokens are taken for. */
typedef enum {
    KUMO_RATE_OTHER, /* limited by the buckets of both directions only */
    KUMO_RATE_READ,
    KUMO_RATE_WRITE,

    KUMO_RATE_KINDS
} KumoRateKind;

bool kumo_rate_limit_equal(const KumoRateLimit *a, const KumoRateLimit *b);

typedef struct KumoRateLimiter KumoRateLimiter;

/**
 * kumo_rate_limiter_new:
 *
 * Returns: (transfer full): a limiter with full buckets, or NULL if @limit limits nothing.
 */
KumoRateLimiter *kumo_rate_limiter_new(const KumoRateLimit *limit);

/* Does it treat the directions differently, so that one may go on while the other waits? */
bool kumo_rate_limiter_is_split(const KumoRateLimiter *limiter);

/* Counted references; any thread. NULL is fine. */
KumoRateLimiter *kumo_rate_limiter_ref(KumoRateLimiter *limiter);
void kumo_rate_limiter_unref(KumoRateLimiter *limiter);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoRateLimiter, kumo_rate_limiter_unref)

/**
 * kumo_rate_limiter_take:
 * @limiter: (nullable): NULL never makes anybody wait
 *
 * Takes the tokens at once. What is larger than a whole bucket has to wait for a full one.
 *
 * Returns: nanoseconds to wait before doing what they were taken for; 0: go on.
 */
uint64_t kumo_rate_limiter_take(KumoRateLimiter *limiter, KumoRateKind kind, uint64_t bytes,
                                uint64_t ops, uint64_t now_ns);

/* Gives back tokens that were taken for something that does not happen. */
void kumo_rate_limiter_give_back(KumoRateLimiter *limiter, KumoRateKind kind, uint64_t bytes,
                                 uint64_t ops);
