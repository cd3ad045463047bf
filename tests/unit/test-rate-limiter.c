/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/clock.h"
#include "vmm-core/base/rate_limiter.h"
#include "vmm-core/base/throttle.h"

#define MS 1000000ULL

enum { START_MS = 5000 };

static uint64_t now_ns; /* the fake clock */

static KumoRateLimiter *limiter(uint64_t bw_size, uint64_t bw_burst, uint64_t bw_ms, uint64_t ops,
                                uint64_t ops_burst, uint64_t ops_ms)
{
    KumoRateLimit limit = { .bandwidth = { bw_size, bw_burst, bw_ms },
                            .ops = { ops, ops_burst, ops_ms } };

    now_ns = START_MS * MS;
    return kumo_rate_limiter_new(&limit);
}

static uint64_t take(KumoRateLimiter *l, uint64_t bytes, uint64_t ops)
{
    return kumo_rate_limiter_take(l, KUMO_RATE_OTHER, bytes, ops, now_ns);
}

static void test_none(void)
{
    g_assert_null(limiter(0, 0, 0, 0, 0, 0));
    g_assert_null(limiter(0, 10, 100, 10, 10, 0));
    g_assert_cmpuint(kumo_rate_limiter_take(NULL, KUMO_RATE_READ, ~0ULL, ~0ULL, 1), ==, 0);
    kumo_rate_limiter_give_back(NULL, KUMO_RATE_READ, 1, 1);
    g_assert_null(kumo_rate_limiter_ref(NULL));
    kumo_rate_limiter_unref(NULL);
}

/* What limits one direction is no limit to the other; what limits both is one for each. */
static void test_directions(void)
{
    KumoRateLimit limit = { .ops = { 100, 0, 1000 },
                            .read_bandwidth = { 1000, 0, 1000 },
                            .write_ops = { 10, 0, 1000 } };
    g_autoptr(KumoRateLimiter) l = kumo_rate_limiter_new(&limit);
    g_autoptr(KumoRateLimiter) whole = limiter(1000, 0, 1000, 0, 0, 0);

    g_assert_true(kumo_rate_limiter_is_split(l));
    g_assert_false(kumo_rate_limiter_is_split(whole));
    g_assert_false(kumo_rate_limiter_is_split(NULL));
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 1000, 1, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 500, 1, now_ns), ==, 500 * MS);
    for (unsigned i = 0; i < 10; i++)
        g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_WRITE, 1 << 20, 1, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_WRITE, 0, 1, now_ns), ==, 100 * MS);
    kumo_rate_limiter_give_back(l, KUMO_RATE_READ, 1500, 2);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 1000, 1, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_OTHER, 1 << 20, 88, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_OTHER, 0, 1, now_ns), ==, 10 * MS);
}

/* A large request counts for several. */
static void test_op_size(void)
{
    KumoRateLimit limit = { .read_ops = { 10, 0, 1000 }, .op_size_bytes = 4096 };
    g_autoptr(KumoRateLimiter) l = kumo_rate_limiter_new(&limit);

    now_ns = START_MS * MS;
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 0, 1, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 4096, 1, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 4097, 1, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 7 * 4096, 1, now_ns), ==, 100 * MS);
    kumo_rate_limiter_give_back(l, KUMO_RATE_READ, 7 * 4096, 1);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, ~0ULL, 0, now_ns), ==, 0);
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 6 * 4096, 1, now_ns), ==, 0);
}

static const KumoSyscallTable *const test_tables[] = { &kumo_loop_syscalls, NULL };
static const KumoThreadKind test_thread = { .name = "test", .tables = test_tables };

static void nothing(void *opaque)
{
}

/* What the guest makes larger while it waits counts for as many operations more. */
static void test_grows(void)
{
    KumoRateLimit limit = { .ops = { 1, 0, 1000 }, .op_size_bytes = 4096 };
    g_autoptr(KumoRateLimiter) l = kumo_rate_limiter_new(&limit);
    g_autoptr(KumoLoop) loop = kumo_loop_new("test-loop", &test_thread, NULL);
    KumoThrottle throttle;

    g_assert_true(kumo_throttle_init(&throttle, loop, l, nothing, NULL, NULL));
    g_assert_true(kumo_throttle_admit(&throttle, KUMO_RATE_WRITE, 4096));
    g_assert_false(kumo_throttle_admit(&throttle, KUMO_RATE_WRITE, 4096));
    g_assert_true(kumo_throttle_admit(&throttle, KUMO_RATE_WRITE, 31 * 4096));
    /* 32 operations, one at once: whoever comes next waits for all of them. */
    g_assert_cmpuint(kumo_rate_limiter_take(l, KUMO_RATE_READ, 1, 1, kumo_monotonic_ns()), >,
                     25000 * MS);
    kumo_throttle_clear(&throttle);
}

static void test_ops(void)
{
    g_autoptr(KumoRateLimiter) l = limiter(0, 0, 0, 10, 0, 100);

    for (unsigned i = 0; i < 10; i++)
        g_assert_cmpuint(take(l, 1 << 20, 1), ==, 0);
    g_assert_cmpuint(take(l, 0, 1), ==, 10 * MS);
    g_assert_cmpuint(take(l, 0, 1), ==, 20 * MS); /* behind the other */
    now_ns += 20 * MS;
    g_assert_cmpuint(take(l, 0, 1), ==, 10 * MS);
    now_ns += 20 * MS;
    g_assert_cmpuint(take(l, 0, 1), ==, 0);
    /* However long nothing is asked for, it holds no more than its size. */
    now_ns += 3600 * 1000 * MS;
    g_assert_cmpuint(take(l, 0, 10), ==, 0);
    g_assert_cmpuint(take(l, 0, 1), ==, 10 * MS);
}

static void test_bandwidth_and_ops(void)
{
    g_autoptr(KumoRateLimiter) l = limiter(1000, 0, 1000, 100, 0, 100);

    g_assert_cmpuint(take(l, 900, 1), ==, 0);
    g_assert_cmpuint(take(l, 200, 1), ==, 100 * MS); /* bytes */
    g_assert_cmpuint(take(l, 0, 99), ==, 1 * MS);    /* operations */
}

/* More than the bucket holds: waits until it is full, and all who follow for what it owes. */
static void test_oversized(void)
{
    g_autoptr(KumoRateLimiter) l = limiter(1000, 0, 1000, 0, 0, 0);

    g_assert_cmpuint(take(l, 5000, 1), ==, 0);
    g_assert_cmpuint(take(l, 1, 1), ==, 4001 * MS);
    now_ns += 4001 * MS;
    g_assert_cmpuint(take(l, 5000, 1), ==, 1000 * MS);
}

static void test_burst(void)
{
    g_autoptr(KumoRateLimiter) l = limiter(1000, 500, 1000, 0, 0, 0);

    g_assert_cmpuint(take(l, 400, 1), ==, 0);
    g_assert_cmpuint(take(l, 1100, 1), ==, 0); /* 100 of the burst, 1000 of the bucket */
    g_assert_cmpuint(take(l, 1, 1), ==, 1 * MS);
    now_ns += 10000 * MS;
    g_assert_cmpuint(take(l, 1000, 1), ==, 0);
    g_assert_cmpuint(take(l, 1, 1), ==, 1 * MS); /* it comes once */
}

static void test_give_back(void)
{
    g_autoptr(KumoRateLimiter) l = limiter(1000, 0, 1000, 10, 0, 1000);

    g_assert_cmpuint(take(l, 1000, 1), ==, 0);
    g_assert_cmpuint(take(l, 300, 1), ==, 300 * MS);
    kumo_rate_limiter_give_back(l, KUMO_RATE_OTHER, 300, 1);
    g_assert_cmpuint(take(l, 100, 1), ==, 100 * MS);
    /* Never more than full. */
    for (unsigned i = 0; i < 100; i++)
        kumo_rate_limiter_give_back(l, KUMO_RATE_OTHER, 1000, 10);
    g_assert_cmpuint(take(l, 1000, 1), ==, 0);
    g_assert_cmpuint(take(l, 1, 1), ==, 1 * MS);
}

static void test_extremes(void)
{
    g_autoptr(KumoRateLimiter) tiny = limiter(1, 0, 1, 1, 0, KUMO_RATE_REFILL_MAX_MS);
    g_autoptr(KumoRateLimiter) huge = limiter(G_MAXUINT64, G_MAXUINT64, 1, 0, 0, 0);

    for (unsigned i = 0; i < 10; i++) {
        take(tiny, G_MAXUINT64, G_MAXUINT64);
        g_assert_cmpuint(take(tiny, G_MAXUINT64, G_MAXUINT64), >, MS);
        g_assert_cmpuint(take(huge, 1 << 30, 1), ==, 0);
    }
    g_assert_cmpuint(take(huge, G_MAXUINT64, 1), ==, 0);
    g_assert_cmpuint(take(huge, G_MAXUINT64, 1), <=, 2 * MS);
}

/* One thread of those that share a limiter. Returns: its longest wait in milliseconds. */
static void *consumer(void *opaque)
{
    KumoRateLimiter *l = opaque;
    uint64_t longest_ns = 0;

    for (unsigned i = 0; i < 10000; i++) {
        uint64_t wait_ns = kumo_rate_limiter_take(l, KUMO_RATE_OTHER, 100, 1, START_MS * MS);

        longest_ns = MAX(longest_ns, wait_ns);
    }
    kumo_rate_limiter_unref(l);
    return GUINT_TO_POINTER(longest_ns / MS);
}

/* What several threads take at one moment adds up: the last of 40,000 waits for all before it. */
static void test_shared(void)
{
    g_autoptr(KumoRateLimiter) l = limiter(100000, 0, 1000, 0, 0, 0);
    GThread *threads[4];
    unsigned last_ms = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("consumer", consumer, kumo_rate_limiter_ref(l));
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++) {
        unsigned longest_ms = GPOINTER_TO_UINT(g_thread_join(threads[i]));

        last_ms = MAX(last_ms, longest_ms);
    }
    /* 4,000,000 bytes at 100,000 a second, the first second's worth at once. */
    g_assert_cmpuint(last_ms, ==, 39000);
}

/* Who honours the waits gets exactly the rate. */
static void test_long_run(void)
{
    g_autoptr(KumoRateLimiter) l = limiter(1 << 20, 0, 100, 0, 0, 0);
    uint64_t start = START_MS * MS;
    uint64_t bytes = 0;

    while (now_ns < start + 10000 * MS) {
        uint64_t len = 512 + bytes % 65536;

        now_ns += take(l, len, 1);
        bytes += len;
    }
    g_assert_cmpuint(bytes, >=, 100ULL << 20);
    g_assert_cmpuint(bytes, <=, 102ULL << 20);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rate-limiter/none", test_none);
    g_test_add_func("/rate-limiter/ops", test_ops);
    g_test_add_func("/rate-limiter/directions", test_directions);
    g_test_add_func("/rate-limiter/op-size", test_op_size);
    g_test_add_func("/rate-limiter/grows", test_grows);
    g_test_add_func("/rate-limiter/bandwidth-and-ops", test_bandwidth_and_ops);
    g_test_add_func("/rate-limiter/oversized", test_oversized);
    g_test_add_func("/rate-limiter/burst", test_burst);
    g_test_add_func("/rate-limiter/give-back", test_give_back);
    g_test_add_func("/rate-limiter/extremes", test_extremes);
    g_test_add_func("/rate-limiter/shared", test_shared);
    g_test_add_func("/rate-limiter/long-run", test_long_run);
    return g_test_run();
}
