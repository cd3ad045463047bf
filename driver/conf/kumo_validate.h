/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of libvirt's domain format kumo cannot do is refused, with its path, when a domain is
 * defined. libvirt's parser knows every element, so a definition is checked member by member; the
 * tables of refusals here are the list.
 */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"

typedef struct {
    bool present;     /* the definition uses it */
    const char *path; /* the element or attribute, from the domain or the device on */
} kumoRefusal;

/**
 * kumoRefuse:
 * @where: path that comes before those in @items, may be empty
 *
 * Returns: 0, or -1 with VIR_ERR_CONFIG_UNSUPPORTED naming the first item that is present.
 */
int kumoRefuse(const char *where, const kumoRefusal *items, size_t nitems);

/* Is the guest shown Hyper-V's interfaces? */
bool kumoHasHyperv(const virDomainDef *def);

/* Has the domain a memory balloon? */
bool kumoHasBalloon(const virDomainDef *def);

/* Returns: the name of a member of <iotune> that kumo cannot do and that is set, or NULL. */
const char *kumoIoTuneUnsupported(const virDomainBlockIoTuneInfo *tune);

/* libvirt's hooks. */
int kumoValidateDomain(const virDomainDef *def, void *opaque, void *parseOpaque);
int kumoValidateDevice(const virDomainDeviceDef *dev, const virDomainDef *def, void *opaque,
                       void *parseOpaque);
