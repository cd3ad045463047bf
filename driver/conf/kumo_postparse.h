/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt's hooks after parsing: they write into the definition what kumo does where the XML is
 * silent, so that dumpxml tells the truth.
 */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"

int kumoPostParseBasic(virDomainDef *def, void *opaque);
int kumoPostParseDomain(virDomainDef *def, unsigned int parseFlags, void *opaque,
                        void *parseOpaque);
int kumoPostParseDevice(virDomainDeviceDef *dev, const virDomainDef *def, unsigned int parseFlags,
                        void *opaque, void *parseOpaque);
