/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a domain needs on the host before its VMM starts, and what is taken back when it has ended.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoPrepareDomain:
 * @vm: with the definition of the run, and its id
 *
 * Assigns aliases, makes the run directory, looks up volumes, makes the files of character
 * devices.
 *
 * Returns: 0, or -1 with the error reported; kumoPrepareUndo takes back what was done.
 */
int kumoPrepareDomain(virDomainObj *vm, const kumoDriverConfig *cfg);

/* kumoPrepareDisk: looks a volume up, and whether its format will do. Part of kumoPrepareDomain. */
int kumoPrepareDisk(kumoDriver *driver, virDomainDiskDef *disk);

/* kumoPrepareIdentity: decides what the VMM's process runs as; it may be started then. */
int kumoPrepareIdentity(virDomainObj *vm);

/* kumoPrepareLabels: gives the VMM's process identity access to what is the domain's. */
int kumoPrepareLabels(virDomainObj *vm);

void kumoPrepareUndo(virDomainObj *vm);

/**
 * kumoPrepareSocket:
 * @path: of a UNIX socket to listen at, for the driver's own user alone
 *
 * The driver makes the socket, so that a client never comes too early for it.
 *
 * Returns: (transfer full): the listening descriptor, or -1 with the error reported.
 */
int kumoPrepareSocket(const char *path);
