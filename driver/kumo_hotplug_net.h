/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Interfaces of a running domain. All are called with the domain active, locked and with a job;
 * they let go of the lock while the VMM is asked. Nothing is half done after a failure. */
#pragma once

#include "driver/conf/kumo_domain.h"

/* As kumoHotplugAttach, for an interface. */
int kumoHotplugAttachNet(virDomainObj *vm, virDomainDeviceDef *dev);

/* Takes @net, of which the VMM has no device any more, out of the live definition, and gives back
 * what it had of the host. */
void kumoHotplugRemoveNet(virDomainObj *vm, virDomainNetDef *net);

/* As kumoHotplugUpdate, for an interface: the state of its link, its bandwidth. */
int kumoHotplugUpdateNet(virDomainObj *vm, const virDomainNetDef *new);
