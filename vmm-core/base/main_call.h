/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls from one thread to the main thread: what only that may do. The thread waits for each; the
 * main thread takes them in its main loop, or, where it waits for the thread's end, there.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct KumoMainCalls KumoMainCalls;

/* Main thread. Returns: (transfer full). */
KumoMainCalls *kumo_main_calls_new(void);

/* Main thread, when the other has ended. NULL is fine. */
void kumo_main_calls_free(KumoMainCalls *calls);

/* The other thread: runs @func on the main thread and waits for it. */
void kumo_main_calls_run(KumoMainCalls *calls, void (*func)(void *opaque), void *opaque);

/**
 * kumo_main_calls_finish:
 *
 * The other thread's last step: @func runs on the main thread, which may join the thread and free
 * @calls in it. Does not wait.
 */
void kumo_main_calls_finish(KumoMainCalls *calls, void (*func)(void *opaque), void *opaque);

/* Main thread, outside of a call: takes calls until the last has come, and runs that. */
void kumo_main_calls_wait(KumoMainCalls *calls);
