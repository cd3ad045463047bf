/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's part in the removal of a device: it is asked, and lets the device go or does not. */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoUnplug:
 * @vm: active, locked and with a job; the lock is let go of meanwhile
 * @gone: (out): the VMM has no such device any more, which the definition does not show yet
 *
 * Asks the guest to let the device @alias go, and waits for that a while.
 *
 * Returns: 0, or -1 with the error reported: it could not be asked, or refuses.
 */
int kumoUnplug(virDomainObj *vm, const char *alias, bool *gone);

/* The VMM has removed the device @alias. Returns whether somebody waits for that. Needs no job. */
bool kumoUnplugSeen(virDomainObj *vm, const char *alias);

/* The guest will not let @alias go: whoever waits for it hears of it. Needs no job. */
void kumoUnplugRefused(virDomainObj *vm, const char *alias);
