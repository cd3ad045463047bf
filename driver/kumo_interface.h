/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Network interfaces on the host. The driver makes each tap, with its own rights, and hands the
 * open descriptors to the VMM, which needs none.
 */
#pragma once

#include "driver/conf/kumo_conf.h"

#include "domain_conf.h"
#include "vmm-core/config/config.h"

typedef struct {
    int *fds; /* one for each pair of queues */
    size_t nfds;
} kumoTaps;

void kumoTapsFree(kumoTaps *taps);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoTaps, kumoTapsFree);

/**
 * kumoInterfaceConnect:
 * @def: the running domain's definition, which @net belongs to or will belong to
 *
 * Claims a port of the network, makes the tap and connects it.
 *
 * Returns: (transfer full): the tap's descriptors, or NULL with the error reported and @net as
 * before.
 */
kumoTaps *kumoInterfaceConnect(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net);

/* kumoInterfaceRelease: gives back what kumoInterfaceConnect took. */
void kumoInterfaceRelease(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net);

/* Notes in @config how many descriptors come beside it when it is sent to the VMM. */
void kumoTapsAnnounce(const kumoTaps *taps, KumoNetConfig *config);

/**
 * kumoInterfaceSetBandwidth:
 * @net: of a running domain
 * @bandwidth: (nullable): copied; NULL takes the limits away
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoInterfaceSetBandwidth(virDomainNetDef *net, const virNetDevBandwidth *bandwidth);

/* The same for all interfaces of @def; an array of kumoTaps in their order. */
GPtrArray *kumoInterfacesConnect(kumoDriver *driver, virDomainDef *def);
void kumoInterfacesRelease(kumoDriver *driver, virDomainDef *def);
