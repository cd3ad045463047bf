/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks of a running domain, and the media in its drives. All are called with the domain active,
 * locked and with a job; they let go of the lock while the VMM is asked. Nothing is half done after
 * a failure. */
#pragma once

#include "driver/conf/kumo_domain.h"

/* As kumoHotplugAttach, for a disk. */
int kumoHotplugAttachDisk(virDomainObj *vm, virDomainDeviceDef *dev);

/**
 * kumoHotplugRemoveDisk:
 * @disk: the live definition's, of which the VMM has no device any more
 *
 * Takes it out of the definition or, if only its medium was to go, empties the drive.
 *
 * Returns: whether the disk is gone.
 */
bool kumoHotplugRemoveDisk(virDomainObj *vm, virDomainDiskDef *disk);

/* As kumoHotplugUpdate, for a disk: its limits, the medium of a drive. */
int kumoHotplugUpdateDisk(virDomainObj *vm, virDomainDiskDef *new);

/**
 * kumoHotplugSetIoTune:
 * @disk: the live definition's
 *
 * Gives it other limits. A group that they name has them, too.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoHotplugSetIoTune(virDomainObj *vm, virDomainDiskDef *disk,
                         const virDomainBlockIoTuneInfo *tune);
