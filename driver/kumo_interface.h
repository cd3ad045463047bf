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
 * kumoInterfaceClaim:
 * @def: the running domain's definition, which @net belongs to or will belong to
 *
 * Claims a port of the network, and chooses the name of a device that outlives its descriptors.
 * Both belong into the status file before kumoInterfaceConnect: a daemon that is killed meanwhile
 * is followed by one that gives them back.
 *
 * Returns: 0, or -1 with the error reported and nothing claimed.
 */
int kumoInterfaceClaim(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net);

/**
 * kumoInterfaceConnect:
 * @net: after kumoInterfaceClaim
 *
 * Makes the tap and connects it.
 *
 * Returns: (transfer full): the tap's descriptors, or NULL with the error reported; @net is
 * for the caller to release.
 */
kumoTaps *kumoInterfaceConnect(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net);

/* kumoInterfaceRelease: gives back what kumoInterfaceClaim and kumoInterfaceConnect took. */
void kumoInterfaceRelease(kumoDriver *driver, virDomainDef *def, virDomainNetDef *net);

/*
 * kumoInterfaceOnline: to be called before the guest runs. A macvtap has the guest's own address,
 * which the host must not use while the guest still runs elsewhere.
 */
int kumoInterfaceOnline(const virDomainNetDef *net);
int kumoInterfacesOnline(const virDomainDef *def);

/* kumoInterfacesOffline: to be called when the guest is about to run elsewhere, maybe on this host.
 */
void kumoInterfacesOffline(const virDomainDef *def);

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
int kumoInterfacesClaim(kumoDriver *driver, virDomainDef *def);
GPtrArray *kumoInterfacesConnect(kumoDriver *driver, virDomainDef *def);
void kumoInterfacesRelease(kumoDriver *driver, virDomainDef *def);

/**
 * kumoInterfacesReconnect:
 * @def: of a domain that runs since before the daemon
 *
 * Taps are in their bridges, ports of networks claimed, filters and bandwidth limits at work again,
 * whoever removed them meanwhile. Where one cannot be, the guest runs on, and the daemon's log
 * tells of it.
 */
void kumoInterfacesReconnect(kumoDriver *driver, virDomainDef *def);
