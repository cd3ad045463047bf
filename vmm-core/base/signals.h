/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which signals threads other than the main thread take. */
#pragma once

#include <signal.h>

/**
 * kumo_signals_block:
 * @ret_old: what the calling thread blocked before
 *
 * Blocks all signals, for threads that are about to be made, but for SIGABRT: abort(3) of glibc
 * 2.41 and later does not unblock it before it ends the process, so what is to be done at the end,
 * as restoring a terminal, would not be done.
 */
void kumo_signals_block(sigset_t *ret_old);
