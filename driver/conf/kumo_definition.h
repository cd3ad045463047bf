/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of a persistent definition, one device at a time. The caller works on a copy
 * (virDomainObjCopyPersistentDef), which it drops if a change is refused.
 */
#pragma once

#include "driver/conf/kumo_conf.h"

#include "domain_conf.h"

/**
 * kumoDefinitionAttach:
 * @dev: its device is @def's own afterwards, and NULL in @dev
 *
 * Returns: 0, or -1 with the error reported: there is such a device already, or the domain would
 *     not be valid with it.
 */
int kumoDefinitionAttach(kumoDriver *driver, virDomainDef *def, virDomainDeviceDef *dev,
                         unsigned int parseFlags);

/**
 * kumoDefinitionDetach:
 * @dev: tells which device is meant
 *
 * Returns: 0, or -1 with the error reported: VIR_ERR_DEVICE_MISSING if there is none.
 */
int kumoDefinitionDetach(kumoDriver *driver, virDomainDef *def, const virDomainDeviceDef *dev,
                         unsigned int parseFlags);

/**
 * kumoDefinitionSettle:
 *
 * To be called after any other change: what holds of a parsed definition holds again, addresses,
 * limits, numbers of devices. The functions here do so themselves.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoDefinitionSettle(kumoDriver *driver, virDomainDef *def, unsigned int parseFlags);

/**
 * kumoDefinitionSetVcpus:
 *
 * Puts the first @vcpus on line and the others off.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoDefinitionSetVcpus(virDomainDef *def, unsigned int vcpus);

/* kumoDefinitionUpdate: puts @dev's device into the place of the one that it names. */
int kumoDefinitionUpdate(kumoDriver *driver, virDomainDef *def, virDomainDeviceDef *dev,
                         unsigned int parseFlags);
