/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices that come to a running domain, leave it or change in it. All but kumoHotplugRemovalFailed
 * are called with the domain active, locked and with a job; they let go of the lock while the VMM
 * is asked. Nothing is half done after a failure.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoHotplugAttach:
 * @dev: parsed; its device is the domain's afterwards, and NULL in @dev
 *
 * Queues the event "device added".
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoHotplugAttach(virDomainObj *vm, virDomainDeviceDef *dev);

/**
 * kumoHotplugDetach:
 * @match: tells which device is meant, by target, address, MAC address or alias
 *
 * Asks the guest to let the device go and waits a while. Its going queues the event "device
 * removed", now or later.
 *
 * Returns: 0 if the guest was asked, or -1 with the error reported (VIR_ERR_DEVICE_MISSING: there
 *     is none).
 */
int kumoHotplugDetach(virDomainObj *vm, const virDomainDeviceDef *match);

/**
 * kumoHotplugUpdate:
 *
 * Changes what can be changed of a device in use: the state and the bandwidth of a link, the
 * limits of a disk, what the guest is to have of a virtio-mem device.
 *
 * Returns: 0, or -1 with the error reported: VIR_ERR_OPERATION_UNSUPPORTED names what else differs.
 */
int kumoHotplugUpdate(virDomainObj *vm, virDomainDeviceDef *dev);

/**
 * kumoHotplugSync:
 * @vm: with a job
 * @ids: of all disks and interfaces that the VMM has, NULL-terminated
 *
 * Takes what the VMM has not out of the live definition: it was let go, or never came, while no
 * daemon could note it.
 */
void kumoHotplugSync(virDomainObj *vm, const char *const *ids);

/**
 * kumoHotplugRemovalFailed:
 * @alias: of what the VMM says that the guest will not let it go
 *
 * Tells clients, and whoever waits for it. Needs no job.
 */
void kumoHotplugRemovalFailed(virDomainObj *vm, const char *alias);

/* Takes a device that the VMM no longer has out of the live definition and gives back what it held.
 */
void kumoHotplugRemove(virDomainObj *vm, const char *alias);
