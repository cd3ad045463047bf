/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A worker: one thread with an epoll loop. Device queues, consoles and whatever else waits on
 * descriptors outside the main loop live on one. Sources belong to the worker's thread: callbacks
 * run there, one after another.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/base/sandbox.h"

typedef struct KumoLoop KumoLoop;
typedef struct KumoLoopSource KumoLoopSource;

/* Called on the loop's thread; @events are EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP. */
typedef void (*KumoLoopFdFunc)(void *opaque, uint32_t events);
typedef void (*KumoLoopFunc)(void *opaque);

/**
 * kumo_loop_new:
 * @thread_name: at most 15 characters, as ps -L shows it
 * @kind: static: what it may do
 *
 * Starts the thread. Free with kumo_loop_free().
 *
 * Returns: (transfer full): the worker, or NULL with @error set.
 */
KumoLoop *kumo_loop_new(const char *thread_name, const KumoThreadKind *kind, GError **error);

/* What any worker does itself, for the tables of its kind. */
extern const KumoSyscallTable kumo_loop_syscalls;

/* Stops and joins the thread. All sources must have been removed. NULL is fine. */
void kumo_loop_free(KumoLoop *loop);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoLoop, kumo_loop_free)

/**
 * kumo_loop_add_fd:
 * @fd: stays the caller's
 * @events: EPOLLIN and EPOLLOUT as wanted; EPOLLET is allowed
 *
 * May be called from any thread; the callback may run before this returns.
 *
 * Returns: the source, or NULL with @error set. It lives until kumo_loop_remove().
 */
KumoLoopSource *kumo_loop_add_fd(KumoLoop *loop, int fd, uint32_t events, KumoLoopFdFunc func,
                                 void *opaque, GError **error);

/* Changes the events waited for. Any thread. */
void kumo_loop_modify(KumoLoopSource *source, uint32_t events);

/**
 * kumo_loop_remove:
 *
 * Removes and frees @source. From another thread this waits until the callback is not running and
 * never will again; from the loop's own thread (also from inside the callback) it takes effect at
 * once.
 */
void kumo_loop_remove(KumoLoopSource *source);

/**
 * kumo_loop_call:
 *
 * Runs @func on the loop's thread and waits for it: the way to change what a running queue owns.
 * Called from the loop's own thread it simply runs it.
 */
void kumo_loop_call(KumoLoop *loop, KumoLoopFunc func, void *opaque);

/**
 * kumo_loop_poll:
 * @func: returns whether it is to be called again; may call this function itself
 *
 * Until @func says no the loop does not sleep: it calls @func again and again, each time after it
 * has served the sources that are ready. There is one such function at a time, the last one given;
 * NULL: none. Only from the loop's own thread.
 */
typedef bool (*KumoLoopPollFunc)(void *opaque);
void kumo_loop_poll(KumoLoop *loop, KumoLoopPollFunc func, void *opaque);

bool kumo_loop_is_current(const KumoLoop *loop);

/* The kernel thread id of the worker, for affinity. */
int kumo_loop_tid(const KumoLoop *loop);
