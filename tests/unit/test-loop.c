/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The worker loop: events, calls from other threads, removal. */
#include <sys/epoll.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/loop.h"

static const KumoSyscallTable *const test_tables[] = { &kumo_loop_syscalls, NULL };
static const KumoThreadKind test_thread = { .name = "test", .tables = test_tables };

typedef struct {
    KumoLoop *loop;
    KumoLoopSource *source;
    int fd;
    int hits; /* atomic */
    bool remove_self;
} Watcher;

static void on_event(void *opaque, uint32_t events)
{
    Watcher *watcher = opaque;

    g_assert_true(kumo_loop_is_current(watcher->loop));
    g_assert_true(events & EPOLLIN);
    kumo_eventfd_drain(watcher->fd);
    if (watcher->remove_self)
        kumo_loop_remove(watcher->source);
    g_atomic_int_inc(&watcher->hits);
}

static void wait_for(int *counter, int value)
{
    gint64 end = g_get_monotonic_time() + 10 * G_TIME_SPAN_SECOND;

    while (g_atomic_int_get(counter) < value) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(200);
    }
}

static void nothing(void *opaque)
{
}

static void test_events(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoLoop) loop = kumo_loop_new("test-loop", &test_thread, &error);
    kumo_auto_fd fd = kumo_eventfd_new(&error);
    Watcher watcher = { .loop = loop, .fd = fd };

    g_assert_no_error(error);
    g_assert_cmpint(kumo_loop_tid(loop), >, 0);
    g_assert_cmpint(kumo_loop_tid(loop), !=, gettid());
    watcher.source = kumo_loop_add_fd(loop, fd, EPOLLIN, on_event, &watcher, &error);
    g_assert_no_error(error);
    kumo_eventfd_signal(fd);
    wait_for(&watcher.hits, 1);
    kumo_eventfd_signal(fd);
    wait_for(&watcher.hits, 2);
    kumo_loop_modify(watcher.source, 0);
    kumo_loop_call(loop, nothing, NULL);
    kumo_eventfd_signal(fd);
    g_usleep(20000);
    g_assert_cmpint(g_atomic_int_get(&watcher.hits), ==, 2);
    kumo_loop_modify(watcher.source, EPOLLIN);
    wait_for(&watcher.hits, 3);
    kumo_loop_remove(watcher.source);
    kumo_eventfd_signal(fd);
    kumo_loop_call(loop, nothing, NULL);
    g_assert_cmpint(g_atomic_int_get(&watcher.hits), ==, 3);
}

static void test_remove_inside(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoLoop) loop = kumo_loop_new("test-loop", &test_thread, &error);
    kumo_auto_fd fd = kumo_eventfd_new(&error);
    Watcher watcher = { .loop = loop, .fd = fd, .remove_self = true };

    g_assert_no_error(error);
    watcher.source = kumo_loop_add_fd(loop, fd, EPOLLIN, on_event, &watcher, &error);
    kumo_loop_call(loop, nothing, NULL);
    kumo_eventfd_signal(fd);
    wait_for(&watcher.hits, 1);
    kumo_eventfd_signal(fd);
    kumo_loop_call(loop, nothing, NULL);
    g_usleep(20000);
    g_assert_cmpint(g_atomic_int_get(&watcher.hits), ==, 1);
}

static void count_up(void *opaque)
{
    int *count = opaque;

    /* No lock: all calls run on the one thread. */
    (*count)++;
}

typedef struct {
    KumoLoop *loop;
    int *count;
} Caller;

static void *call_often(void *opaque)
{
    const Caller *caller = opaque;

    for (unsigned i = 0; i < 500; i++)
        kumo_loop_call(caller->loop, count_up, caller->count);
    return NULL;
}

static void test_calls(void)
{
    g_autoptr(KumoLoop) loop = kumo_loop_new("test-loop", &test_thread, NULL);
    int count = 0;
    Caller caller = { .loop = loop, .count = &count };
    GThread *threads[4];

    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("caller", call_often, &caller);
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    g_assert_cmpint(count, ==, 2000);
    g_assert_false(kumo_loop_is_current(loop));
}

static void call_inside(void *opaque)
{
    Caller *caller = opaque;

    kumo_loop_call(caller->loop, count_up, caller->count);
}

static void test_call_from_inside(void)
{
    g_autoptr(KumoLoop) loop = kumo_loop_new("test-loop", &test_thread, NULL);
    int count = 0;
    Caller caller = { .loop = loop, .count = &count };

    kumo_loop_call(loop, call_inside, &caller);
    g_assert_cmpint(count, ==, 1);
}

typedef struct {
    KumoLoop *loop;
    Watcher watcher;
    unsigned rounds; /* still to come */
    int n;           /* atomic: rounds that were */
    int hits_seen;   /* of the watcher, by the last round */
} Poller;

static bool poll_once(void *opaque)
{
    Poller *poller = opaque;

    g_assert_true(kumo_loop_is_current(poller->loop));
    g_assert_cmpuint(poller->rounds, >, 0);
    /* A source that is ready has its turn before the next round. */
    if (poller->n > 0)
        g_assert_cmpint(poller->watcher.hits, ==, poller->hits_seen + 1);
    poller->hits_seen = poller->watcher.hits;
    kumo_eventfd_signal(poller->watcher.fd);
    g_atomic_int_inc(&poller->n);
    return --poller->rounds > 0;
}

static void start_poll(void *opaque)
{
    Poller *poller = opaque;

    kumo_loop_poll(poller->loop, poll_once, poller);
}

static void test_poll(void)
{
    enum { ROUNDS = 50 };
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoLoop) loop = kumo_loop_new("test-loop", &test_thread, &error);
    kumo_auto_fd fd = kumo_eventfd_new(&error);
    Poller poller = { .loop = loop, .watcher = { .loop = loop, .fd = fd }, .rounds = ROUNDS };

    poller.watcher.source = kumo_loop_add_fd(loop, fd, EPOLLIN, on_event, &poller.watcher, &error);
    g_assert_no_error(error);
    kumo_loop_call(loop, start_poll, &poller);
    wait_for(&poller.watcher.hits, ROUNDS);
    /* It has said that it does not want to be called again. */
    g_usleep(20000);
    g_assert_cmpint(g_atomic_int_get(&poller.n), ==, ROUNDS);
    kumo_loop_remove(poller.watcher.source);
}

static void test_bad_fd(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoLoop) loop =
        kumo_loop_new("a name longer than fifteen characters", &test_thread, NULL);

    g_assert_null(kumo_loop_add_fd(loop, -1, EPOLLIN, on_event, NULL, &error));
    g_assert_nonnull(error);
    kumo_loop_remove(NULL);
    kumo_loop_free(NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/loop/events", test_events);
    g_test_add_func("/base/loop/remove-inside", test_remove_inside);
    g_test_add_func("/base/loop/calls", test_calls);
    g_test_add_func("/base/loop/call-from-inside", test_call_from_inside);
    g_test_add_func("/base/loop/poll", test_poll);
    g_test_add_func("/base/loop/bad-fd", test_bad_fd);
    return g_test_run();
}
