/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of libvirt's domain format kumo cannot do is refused, with its path, when a domain is
 * defined. libvirt's parser knows every element, so a definition is checked member by member; the
 * tables of refusals (kumo_refuse.h) are the list.
 */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"

/* Is the guest shown Hyper-V's interfaces? */
bool kumoHasHyperv(const virDomainDef *def);

/* Returns: the name of a member of <iotune> that kumo cannot do and that is set, or NULL. */
const char *kumoIoTuneUnsupported(const virDomainBlockIoTuneInfo *tune);

/* libvirt's hooks. */
int kumoValidateDomain(const virDomainDef *def, void *opaque, void *parseOpaque);
int kumoValidateDevice(const virDomainDeviceDef *dev, const virDomainDef *def, void *opaque,
                       void *parseOpaque);
