/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PCI slots and aliases. The guest has one PCI bus with 32 slots; slot 0 is the host bridge's. A
 * device's alias is its id in the VMM.
 */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"

/* libvirt's hook: gives every device that needs one a PCI address, stable from the definition on.
 */
int kumoAssignAddresses(virDomainDef *def, unsigned int parseFlags, void *opaque,
                        void *parseOpaque);

/**
 * kumoAssignAliases:
 *
 * Gives every device of a starting domain without an alias of the user's its own.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoAssignAliases(virDomainDef *def);

/**
 * kumoAssignDevice:
 * @def: a running domain, without the device
 *
 * Gives a device that is added to @def a free slot, unless it asks for one, and an alias.
 *
 * Returns: 0, or -1 with the error reported: the slot or the alias is taken, or there is none left.
 */
int kumoAssignDevice(virDomainDef *def, virDomainDeviceDef *dev);

/* Does @info's owner sit on the PCI bus, with the address in @info? */
/* Returns: the place of a disk among those that firmware is to try, from 1 on; 0: none. */
unsigned int kumoBootRank(const virDomainDef *def, const virDomainDiskDef *disk);

bool kumoDeviceHasSlot(const virDomainDeviceInfo *info);

/* The controller whose address is that of the virtio console, or NULL. */
virDomainControllerDef *kumoVirtioSerialController(const virDomainDef *def);
