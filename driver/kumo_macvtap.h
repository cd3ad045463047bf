/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interfaces of actual type "direct": a macvtap on a network device of the host. Unlike a tap it
 * stays when its descriptors are closed, so its name is chosen and noted before it is made.
 */
#pragma once

#include "driver/conf/kumo_conf.h"

#include "domain_conf.h"

/**
 * kumoMacvtapClaim:
 * @stateDir: where the addresses of devices that are passed through are kept meanwhile
 *
 * Refuses what cannot be had and chooses a name that no device has.
 *
 * Returns: 0 with net->ifname set, or -1 with the error reported and without a name.
 */
int kumoMacvtapClaim(virDomainNetDef *net, const char *stateDir);

/**
 * kumoMacvtapOpen:
 * @fds: filled in, one for each pair of queues
 *
 * Makes the device of the name that kumoMacvtapClaim chose. It is down until kumoMacvtapOnline.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoMacvtapOpen(const virDomainDef *def, virDomainNetDef *net, char *stateDir, int *fds,
                    size_t nfds);

/* kumoMacvtapOnline: brings the device, and the one below it, up. */
int kumoMacvtapOnline(const virDomainNetDef *net);

/* kumoMacvtapOffline: takes the device down: its address may be used elsewhere, on this host too.
 */
int kumoMacvtapOffline(const virDomainNetDef *net);

/**
 * kumoMacvtapDelete:
 *
 * Removes the device, and gives the one below it its own address back. Nothing happens without a
 * name, or if the device of that name is another one's. The name is forgotten.
 */
void kumoMacvtapDelete(virDomainNetDef *net, const char *stateDir);
