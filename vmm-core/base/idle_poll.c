/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/idle_poll.h"

#include "vmm-core/base/clock.h"

/* Tells the processor that this is a spinning loop. */
static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" : : : "memory");
#endif
}

void kumo_idle_poll_adapt(KumoIdlePoll *poll, uint64_t pause_ns)
{
    if (pause_ns > KUMO_IDLE_POLL_MAX_NS) {
        poll->window_ns /= 2;
        if (poll->window_ns < KUMO_IDLE_POLL_MIN_NS)
            poll->window_ns = 0;
    } else if (pause_ns > poll->window_ns) {
        poll->window_ns = CLAMP(poll->window_ns * 2, (uint32_t)KUMO_IDLE_POLL_MIN_NS,
                                (uint32_t)KUMO_IDLE_POLL_MAX_NS);
    }
}

void kumo_idle_poll_worked(KumoIdlePoll *poll)
{
    if (!poll->idle_since_ns)
        return;
    kumo_idle_poll_adapt(poll, kumo_monotonic_ns() - poll->idle_since_ns);
    poll->idle_since_ns = 0;
}

void kumo_idle_poll_begin(KumoIdlePoll *poll)
{
    poll->idle_since_ns = kumo_monotonic_ns();
}

bool kumo_idle_poll_goes_on(const KumoIdlePoll *poll)
{
    if (kumo_monotonic_ns() - poll->idle_since_ns >= poll->window_ns)
        return false;
    relax();
    return true;
}

bool kumo_idle_poll_wait(KumoIdlePoll *poll, bool (*ready)(const void *opaque), const void *opaque)
{
    kumo_idle_poll_begin(poll);
    if (!poll->window_ns)
        return false;
    do {
        if (ready(opaque))
            return true;
    } while (kumo_idle_poll_goes_on(poll));
    return false;
}
