/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What kumo_validate.h's hooks do for all memory of a domain, and for one memory device. */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"

/* Each returns 0, or -1 with the error reported. */
int kumoValidateMemory(const virDomainDef *def);
int kumoValidateMemoryDevice(const virDomainMemoryDef *mem, const virDomainDef *def);
