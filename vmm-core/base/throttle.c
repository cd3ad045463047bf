/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/throttle.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm-core/base/clock.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

enum {
    NS_PER_S = 1000000000,
    /* Waiting a little longer than needed lets a few operations through together instead of waking
     * for each. No bucket fills up meanwhile: refill times are whole milliseconds. */
    MIN_WAIT_NS = 1000000,
};

static void set_timer(const KumoThrottle *throttle, uint64_t at_ns)
{
    struct itimerspec spec = { .it_value = { .tv_sec = (time_t)(at_ns / NS_PER_S),
                                             .tv_nsec = (long)(at_ns % NS_PER_S) } };

    timerfd_settime(throttle->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void on_timer(void *opaque, uint32_t events)
{
    KumoThrottle *throttle = opaque;
    uint64_t n;

    /* Nothing to read: it was cancelled or set anew after epoll had seen it. */
    if (read(throttle->timer_fd, &n, sizeof(n)) != sizeof(n) || !throttle->waiting)
        return;
    throttle->waiting = false;
    throttle->resume(throttle->opaque);
}

bool kumo_throttle_prepare(KumoThrottle *throttle, KumoLoop *loop, GError **error)
{
    kumo_auto_fd fd = -1;

    if (throttle->source)
        return true;
    fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "timer of a rate limiter");
        return false;
    }
    throttle->source = kumo_loop_add_fd(loop, fd, EPOLLIN, on_timer, throttle, error);
    if (!throttle->source)
        return false;
    throttle->timer_fd = kumo_fd_steal(&fd);
    return true;
}

bool kumo_throttle_init(KumoThrottle *throttle, KumoLoop *loop, KumoRateLimiter *limiter,
                        KumoLoopFunc resume, void *opaque, GError **error)
{
    *throttle = (KumoThrottle){ .timer_fd = -1, .resume = resume, .opaque = opaque };
    if (!limiter)
        return true;
    if (!kumo_throttle_prepare(throttle, loop, error))
        return false;
    throttle->limiter = kumo_rate_limiter_ref(limiter);
    return true;
}

void kumo_throttle_set_limiter(KumoThrottle *throttle, KumoRateLimiter *limiter)
{
    kumo_throttle_cancel(throttle);
    kumo_rate_limiter_ref(limiter);
    kumo_rate_limiter_unref(throttle->limiter);
    throttle->limiter = limiter;
}

void kumo_throttle_clear(KumoThrottle *throttle)
{
    if (!throttle->source)
        return;
    kumo_throttle_cancel(throttle);
    g_clear_pointer(&throttle->source, kumo_loop_remove);
    kumo_fd_clear(&throttle->timer_fd);
    g_clear_pointer(&throttle->limiter, kumo_rate_limiter_unref);
}

/* Takes, and sets the timer if there is something to wait for. */
static bool take(KumoThrottle *throttle, KumoRateKind kind, uint64_t bytes, uint64_t ops)
{
    uint64_t now_ns = kumo_monotonic_ns();
    uint64_t wait_ns = kumo_rate_limiter_take(throttle->limiter, kind, bytes, ops, now_ns);

    if (!wait_ns)
        return true;
    throttle->waiting = true;
    set_timer(throttle, now_ns + MAX(wait_ns, MIN_WAIT_NS));
    return false;
}

bool kumo_throttle_admit(KumoThrottle *throttle, KumoRateKind kind, uint64_t bytes)
{
    if (G_LIKELY(!throttle->limiter))
        return true;
    if (throttle->prepaid) {
        throttle->prepaid = false;
        /* The guest made it larger meanwhile: it pays as for another one, which with op_size may be
         * many operations, and what comes next waits. */
        if (bytes > throttle->prepaid_bytes)
            kumo_rate_limiter_take(throttle->limiter, kind, bytes - throttle->prepaid_bytes, 1,
                                   kumo_monotonic_ns());
        return true;
    }
    if (take(throttle, kind, bytes, 1))
        return true;
    kumo_throttle_postpone(throttle, kind, bytes);
    return false;
}

void kumo_throttle_postpone(KumoThrottle *throttle, KumoRateKind kind, uint64_t bytes)
{
    throttle->prepaid = throttle->limiter != NULL;
    throttle->prepaid_bytes = bytes;
    throttle->prepaid_kind = kind;
}

bool kumo_throttle_charge(KumoThrottle *throttle, KumoRateKind kind, uint64_t bytes, uint64_t ops)
{
    return G_LIKELY(!throttle->limiter) || take(throttle, kind, bytes, ops);
}

void kumo_throttle_cancel(KumoThrottle *throttle)
{
    if (throttle->prepaid)
        kumo_rate_limiter_give_back(throttle->limiter, throttle->prepaid_kind,
                                    throttle->prepaid_bytes, 1);
    throttle->prepaid = false;
    if (throttle->waiting)
        set_timer(throttle, 0);
    throttle->waiting = false;
}
