/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Binding threads to the host's CPUs. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/**
 * kumo_thread_set_affinity:
 * @tid: kernel thread id; 0: the calling thread
 * @cpus: (element-type uint32_t): numbers of the host's CPUs; threads that @tid starts from now on
 *     inherit them
 *
 * Returns: TRUE, or FALSE with @error naming the CPUs, of which the thread may use none.
 */
bool kumo_thread_set_affinity(int tid, const GArray *cpus, GError **error);

/* Lets @tid run wherever the calling thread may. */
bool kumo_thread_share_affinity(int tid, GError **error);
