/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From rows of system calls to a program for seccomp(2). */
#pragma once

#include <linux/filter.h>

#include "vmm-core/base/sandbox.h"

/**
 * kumo_sandbox_filter_new:
 * @rows: (element-type KumoSyscall): in any order, some of them more than once
 * @otherwise: a SECCOMP_RET_* for what no row has, and for other architectures than this one
 * @ret_len: (out): instructions
 *
 * A call that some row lets pass may be made; one that no row does, but some row has an errno for,
 * fails with that. Of the rows of one call the last are compared first. A row sees the lower 32
 * bits of its argument.
 *
 * Returns: (transfer full): a program, or NULL if it is longer than the kernel takes.
 */
struct sock_filter *kumo_sandbox_filter_new(const GPtrArray *rows, uint32_t otherwise,
                                            unsigned short *ret_len);
