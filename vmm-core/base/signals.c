/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/signals.h"

void kumo_signals_block(sigset_t *ret_old)
{
    sigset_t set;

    sigfillset(&set);
    sigdelset(&set, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &set, ret_old);
}
