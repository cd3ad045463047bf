/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's endpoints, bound to the VMM. */
#pragma once

#include "vmm-core/api/server.h"
#include "vmm-core/core/vmm.h"

/* A KumoApiHandler: @opaque is the KumoVmm. */
void kumo_api_handle(void *opaque, const KumoApiRequest *request, KumoApiReply *reply);
