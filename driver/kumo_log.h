/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The log of a domain's VMM: a file that all runs of the domain append to. */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoLogOpen:
 *
 * Begins a run's part of the log, with a headline.
 *
 * Returns: (transfer full): a descriptor for the VMM, or -1 with the error reported.
 */
int kumoLogOpen(virDomainObj *vm);

/* kumoLogClose: writes the last line of a run. */
void kumoLogClose(virDomainObj *vm, virDomainShutoffReason reason);

/* kumoLogFind: the log of a run that another daemon started. */
void kumoLogFind(virDomainObj *vm);

/* kumoLogRemove: of a domain that has ended: its log, and what rotations left of it. */
void kumoLogRemove(virDomainObj *vm);

/* kumoLogTail: (transfer full): the last lines that this run wrote to its log, or NULL. */
char *kumoLogTail(virDomainObj *vm);
