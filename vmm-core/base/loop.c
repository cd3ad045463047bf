/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/signals.h"

enum { LOOP_BATCH = 16 };

struct KumoLoopSource {
    KumoLoop *loop;
    int fd;
    KumoLoopFdFunc func;
    void *opaque;
    bool removed; /* loop thread only: skip what epoll_wait already returned for it */
};

typedef struct {
    KumoLoopFunc func;
    void *opaque;
    bool done;
} LoopCall;

struct KumoLoop {
    pthread_t thread;
    int epoll_fd;
    int wake_fd;
    int tid;
    char name[16];
    const KumoThreadKind *kind;

    GMutex lock; /* guards calls, quit and each LoopCall's done */
    GCond changed;
    GQueue calls; /* of LoopCall, owned by the waiting callers */
    bool quit;

    /* Loop thread only. */
    struct epoll_event ready[LOOP_BATCH];
    int n_ready;
    GPtrArray *graveyard; /* sources removed during the present batch */
    KumoLoopPollFunc poll;
    void *poll_opaque;
};

static const KumoSyscall loop_calls[] = {
    { KUMO_SYSCALL(epoll_wait) }, { KUMO_SYSCALL(epoll_pwait) },     { KUMO_SYSCALL(epoll_ctl) },
    { KUMO_SYSCALL(eventfd2) },   { KUMO_SYSCALL(timerfd_settime) },
};

const KumoSyscallTable kumo_loop_syscalls = KUMO_SYSCALL_TABLE(loop_calls);

static void loop_run_calls(KumoLoop *loop)
{
    g_mutex_lock(&loop->lock);
    for (;;) {
        LoopCall *call = g_queue_pop_head(&loop->calls);

        if (!call)
            break;
        g_mutex_unlock(&loop->lock);
        call->func(call->opaque);
        g_mutex_lock(&loop->lock);
        call->done = true;
        g_cond_broadcast(&loop->changed);
    }
    g_mutex_unlock(&loop->lock);
}

static bool loop_quitting(KumoLoop *loop)
{
    bool quit;

    g_mutex_lock(&loop->lock);
    quit = loop->quit && g_queue_is_empty(&loop->calls);
    g_mutex_unlock(&loop->lock);
    return quit;
}

static void *loop_thread(void *opaque)
{
    KumoLoop *loop = opaque;

    pthread_setname_np(pthread_self(), loop->name);
    g_mutex_lock(&loop->lock);
    loop->tid = gettid();
    g_cond_broadcast(&loop->changed);
    g_mutex_unlock(&loop->lock);
    kumo_sandbox_enter(loop->kind);

    while (!loop_quitting(loop)) {
        loop->n_ready = epoll_wait(loop->epoll_fd, loop->ready, LOOP_BATCH, loop->poll ? 0 : -1);
        if (loop->n_ready < 0) {
            if (errno == EINTR)
                continue;
            kumo_error("%s: epoll_wait: %s", loop->name, g_strerror(errno));
            break;
        }
        for (int i = 0; i < loop->n_ready; i++) {
            KumoLoopSource *source = loop->ready[i].data.ptr;

            if (!source) {
                kumo_eventfd_drain(loop->wake_fd);
                loop_run_calls(loop);
            } else if (!source->removed) {
                source->func(source->opaque, loop->ready[i].events);
            }
        }
        loop->n_ready = 0;
        g_ptr_array_set_size(loop->graveyard, 0);
        if (loop->poll && !loop->poll(loop->poll_opaque))
            loop->poll = NULL;
    }
    return NULL;
}

KumoLoop *kumo_loop_new(const char *thread_name, const KumoThreadKind *kind, GError **error)
{
    g_autofree KumoLoop *loop = g_new0(KumoLoop, 1);
    struct epoll_event wake = { .events = EPOLLIN, .data.ptr = NULL };
    kumo_auto_fd epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    kumo_auto_fd wake_fd = -1;
    sigset_t old;
    int err;

    if (epoll_fd < 0) {
        kumo_set_error_errno(error, errno, "epoll of thread %s", thread_name);
        return NULL;
    }
    wake_fd = kumo_eventfd_new(error);
    if (wake_fd < 0)
        return NULL;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &wake) < 0) {
        kumo_set_error_errno(error, errno, "epoll of thread %s", thread_name);
        return NULL;
    }
    g_strlcpy(loop->name, thread_name, sizeof(loop->name));
    loop->kind = kind;
    loop->epoll_fd = epoll_fd;
    loop->wake_fd = wake_fd;
    g_queue_init(&loop->calls);
    g_mutex_init(&loop->lock);
    g_cond_init(&loop->changed);
    loop->graveyard = g_ptr_array_new_with_free_func(g_free);

    /* Signals are the main thread's business. */
    kumo_signals_block(&old);
    err = pthread_create(&loop->thread, NULL, loop_thread, loop);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        kumo_set_error_errno(error, err, "thread %s", thread_name);
        g_ptr_array_unref(loop->graveyard);
        g_mutex_clear(&loop->lock);
        g_cond_clear(&loop->changed);
        return NULL;
    }
    kumo_fd_steal(&epoll_fd);
    kumo_fd_steal(&wake_fd);
    g_mutex_lock(&loop->lock);
    while (!loop->tid)
        g_cond_wait(&loop->changed, &loop->lock);
    g_mutex_unlock(&loop->lock);
    return g_steal_pointer(&loop);
}

void kumo_loop_free(KumoLoop *loop)
{
    if (!loop)
        return;
    g_mutex_lock(&loop->lock);
    loop->quit = true;
    g_mutex_unlock(&loop->lock);
    kumo_eventfd_signal(loop->wake_fd);
    pthread_join(loop->thread, NULL);
    g_ptr_array_unref(loop->graveyard);
    close(loop->epoll_fd);
    close(loop->wake_fd);
    g_mutex_clear(&loop->lock);
    g_cond_clear(&loop->changed);
    g_free(loop);
}

KumoLoopSource *kumo_loop_add_fd(KumoLoop *loop, int fd, uint32_t events, KumoLoopFdFunc func,
                                 void *opaque, GError **error)
{
    g_autofree KumoLoopSource *source = g_new0(KumoLoopSource, 1);
    struct epoll_event event = { .events = events, .data.ptr = source };

    source->loop = loop;
    source->fd = fd;
    source->func = func;
    source->opaque = opaque;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        kumo_set_error_errno(error, errno, "%s: descriptor %d", loop->name, fd);
        return NULL;
    }
    return g_steal_pointer(&source);
}

void kumo_loop_modify(KumoLoopSource *source, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = source };

    if (epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0)
        kumo_error("%s: descriptor %d: %s", source->loop->name, source->fd, g_strerror(errno));
}

static void loop_remove_on_thread(void *opaque)
{
    KumoLoopSource *source = opaque;

    /* The descriptor may be gone already if its owner closed it; nothing is left to do then. */
    epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    source->removed = true;
    g_ptr_array_add(source->loop->graveyard, source);
}

void kumo_loop_remove(KumoLoopSource *source)
{
    if (source)
        kumo_loop_call(source->loop, loop_remove_on_thread, source);
}

void kumo_loop_call(KumoLoop *loop, KumoLoopFunc func, void *opaque)
{
    LoopCall call = { .func = func, .opaque = opaque };

    if (kumo_loop_is_current(loop)) {
        func(opaque);
        return;
    }
    g_mutex_lock(&loop->lock);
    g_queue_push_tail(&loop->calls, &call);
    kumo_eventfd_signal(loop->wake_fd);
    while (!call.done)
        g_cond_wait(&loop->changed, &loop->lock);
    g_mutex_unlock(&loop->lock);
}

void kumo_loop_poll(KumoLoop *loop, KumoLoopPollFunc func, void *opaque)
{
    loop->poll = func;
    loop->poll_opaque = opaque;
}

bool kumo_loop_is_current(const KumoLoop *loop)
{
    return pthread_equal(pthread_self(), loop->thread);
}

int kumo_loop_tid(const KumoLoop *loop)
{
    return loop->tid;
}
