/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's endpoints, bound to the VMM. */
#pragma once

#include "vmm-core/api/router.h"
#include "vmm-core/vmm/vmm.h"

/* All there are, for those who serve them in another way than by HTTP. */
extern const KumoApiEndpoint kumo_api_endpoints[];
extern const size_t kumo_api_n_endpoints;

/* A KumoApiHandler: @opaque is the KumoVmm. */
void kumo_api_handle(void *opaque, const KumoApiRequest *request, KumoApiReply *reply);
