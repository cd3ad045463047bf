/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory devices of a running domain. All are called with the domain active, locked and with a job;
 * they let go of the lock while the VMM is asked. */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoHotplugAttachMemory:
 *
 * Adds a memory module. The VMM makes it one more piece of the memory, which none leaves.
 *
 * Returns: 0 with the device in the live definition, or -1 with the error reported.
 */
int kumoHotplugAttachMemory(virDomainObj *vm, virDomainDeviceDef *dev);

/**
 * kumoHotplugUpdateMemory:
 *
 * Changes how much of a virtio-mem device the guest is asked to have. The event "memory device size
 * change" tells what it has.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoHotplugUpdateMemory(virDomainObj *vm, const virDomainMemoryDef *new);

/* Asks the VMM for what the guest has of each virtio-mem device, and tells of changes. */
void kumoHotplugRefreshMemory(virDomainObj *vm);
