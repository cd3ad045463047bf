/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The threads of a domain's process by the names that the VMM gives them. A VMM that its guest has
 * taken over may give any, so a name decides only which of the domain's own places and limits its
 * thread gets.
 */
#pragma once

#include <sys/types.h>

/* The most that the kernel keeps of a thread's name. */
#define KUMO_THREAD_NAME_LEN 15

/* Returns: 0 to go on, or what kumoThreadsForEach is to return. */
typedef int (*kumoThreadFunc)(pid_t tid, const char *name, void *opaque);

/**
 * kumoThreadsForEach:
 * @pid: of a process; when it has ended it has no threads
 *
 * Calls @func for each thread but those that end before their names are known.
 *
 * Returns: 0, or what @func returned when that was something else.
 */
int kumoThreadsForEach(pid_t pid, kumoThreadFunc func, void *opaque);
