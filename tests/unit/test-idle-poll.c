/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How long a worker looks for work before it sleeps. */
#include "vmm-core/base/idle_poll.h"

typedef struct {
    unsigned asked;
    bool answer;
} Ring;

static bool ring_ready(const void *opaque)
{
    Ring *ring = (Ring *)opaque;

    ring->asked++;
    return ring->answer;
}

static void test_grows_with_short_pauses(void)
{
    KumoIdlePoll poll = { 0 };

    kumo_idle_poll_adapt(&poll, 2000);
    g_assert_cmpuint(poll.window_ns, ==, KUMO_IDLE_POLL_MIN_NS);
    kumo_idle_poll_adapt(&poll, 2000); /* would have been seen */
    g_assert_cmpuint(poll.window_ns, ==, KUMO_IDLE_POLL_MIN_NS);
    for (unsigned i = 0; i < 8; i++)
        kumo_idle_poll_adapt(&poll, KUMO_IDLE_POLL_MAX_NS);
    g_assert_cmpuint(poll.window_ns, ==, KUMO_IDLE_POLL_MAX_NS);
}

static void test_shrinks_to_nothing_with_long_pauses(void)
{
    KumoIdlePoll poll = { .window_ns = KUMO_IDLE_POLL_MAX_NS };

    kumo_idle_poll_adapt(&poll, KUMO_IDLE_POLL_MAX_NS + 1);
    g_assert_cmpuint(poll.window_ns, ==, KUMO_IDLE_POLL_MAX_NS / 2);
    for (unsigned i = 0; i < 8; i++)
        kumo_idle_poll_adapt(&poll, G_MAXUINT64);
    g_assert_cmpuint(poll.window_ns, ==, 0);
}

static void test_learns_from_its_own_pauses(void)
{
    KumoIdlePoll poll = { .window_ns = KUMO_IDLE_POLL_MAX_NS };

    kumo_idle_poll_worked(&poll); /* no pause before it */
    g_assert_cmpuint(poll.window_ns, ==, KUMO_IDLE_POLL_MAX_NS);
    poll.idle_since_ns = 1; /* since the host's start */
    kumo_idle_poll_worked(&poll);
    g_assert_cmpuint(poll.window_ns, ==, KUMO_IDLE_POLL_MAX_NS / 2);
    g_assert_cmpuint(poll.idle_since_ns, ==, 0);
}

static void test_waits_only_within_its_window(void)
{
    KumoIdlePoll poll = { 0 };
    Ring ring = { .answer = true };

    g_assert_false(kumo_idle_poll_wait(&poll, ring_ready, &ring));
    g_assert_cmpuint(ring.asked, ==, 0);
    g_assert_cmpuint(poll.idle_since_ns, !=, 0);

    poll.window_ns = KUMO_IDLE_POLL_MIN_NS;
    g_assert_true(kumo_idle_poll_wait(&poll, ring_ready, &ring));
    g_assert_cmpuint(ring.asked, ==, 1);

    ring.answer = false;
    g_assert_false(kumo_idle_poll_wait(&poll, ring_ready, &ring));
    g_assert_cmpuint(ring.asked, >=, 2); /* the earlier one, too */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/idle-poll/grows", test_grows_with_short_pauses);
    g_test_add_func("/idle-poll/shrinks", test_shrinks_to_nothing_with_long_pauses);
    g_test_add_func("/idle-poll/learns", test_learns_from_its_own_pauses);
    g_test_add_func("/idle-poll/waits", test_waits_only_within_its_window);
    return g_test_run();
}
