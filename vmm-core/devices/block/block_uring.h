/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <liburing.h>

#include "vmm-core/devices/block/block_engine.h"

/**
 * kumo_block_uring_restrict:
 * @ring: made with IORING_SETUP_R_DISABLED
 * @fixed_file: a file was registered
 *
 * When it is enabled the ring does what a disk needs and nothing else, with @fixed_file to no other
 * file, since the filter of system calls does not see what a ring is asked for. If the kernel
 * cannot restrict it, it stays as it is.
 */
void kumo_block_uring_restrict(struct io_uring *ring, bool fixed_file);

/* On the thread that is going to use @ring; before, it belongs to none. Returns: 0 or a negative
 * errno. */
int kumo_block_uring_enable(struct io_uring *ring);
