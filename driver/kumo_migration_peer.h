/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Peer-to-peer migration: the source's daemon is the destination's client, and goes all steps. */
#pragma once

#include "driver/kumo_migration.h"

/**
 * kumoMigrationPeer:
 * @conn: of the client
 * @vm: locked
 * @dconnuri: of the destination's daemon
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoMigrationPeer(virConnectPtr conn, virDomainObj *vm, const char *dconnuri,
                      const kumoMigrationParams *params, unsigned int flags);
