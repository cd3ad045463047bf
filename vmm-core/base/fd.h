/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ownership of file descriptors and whole reads and writes on them. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A local that owns a descriptor: closed at the end of its scope unless stolen. Initialise with -1.
 */
#define kumo_auto_fd __attribute__((cleanup(kumo_fd_clear))) int

/* Closes *@fd if it is open and sets it to -1; errno is kept. */
void kumo_fd_clear(int *fd);

/* Returns: *@fd, which is -1 afterwards. */
int kumo_fd_steal(int *fd);

/**
 * kumo_fd_set_nonblock:
 *
 * Returns: TRUE, or FALSE with errno set.
 */
bool kumo_fd_set_nonblock(int fd, bool nonblock);

/**
 * kumo_pread_full:
 * @len: bytes to read at @offset
 *
 * Retries after EINTR and short reads.
 *
 * Returns: bytes read, less than @len only at the end of the file; -1 with errno set.
 */
ssize_t kumo_pread_full(int fd, void *buf, size_t len, off_t offset);

/**
 * kumo_write_full:
 *
 * Writes all of @buf to a blocking descriptor.
 *
 * Returns: TRUE, or FALSE with errno set.
 */
bool kumo_write_full(int fd, const void *buf, size_t len);

/**
 * kumo_eventfd_new:
 *
 * Returns: a non-blocking close-on-exec eventfd, or -1 with @error set. (transfer full)
 */
int kumo_eventfd_new(GError **error);

/* Adds 1 to the counter of eventfd @fd. */
void kumo_eventfd_signal(int fd);

/* Resets the counter. Returns: what it was, 0 if nothing was pending. */
uint64_t kumo_eventfd_drain(int fd);
