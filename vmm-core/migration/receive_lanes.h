/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The destination's other connections, over which only pages come, on a thread each. */
#pragma once

#include <jansson.h>

#include "vmm-core/core/memory.h"
#include "vmm-core/migration/channel_tls.h"

typedef struct KumoReceiveLanes KumoReceiveLanes;

/**
 * kumo_receive_lanes_accept:
 * @token: with which the source's connections are known
 * @n_lanes: how many come
 * @tls: (nullable): for those, too
 * @main: the connection that has been there first; hung up for reading when one of the others fails
 *
 * Waits for the others; a stranger among them is turned away.
 *
 * Returns: (transfer full): or NULL with @error set.
 */
KumoReceiveLanes *kumo_receive_lanes_accept(KumoChannelListener *listener, const char *token,
                                            unsigned n_lanes, KumoChannelTls *tls,
                                            KumoChannel *main, GError **error);

/* Takes the last of the connections out of them, which is for something else than pages. */
void kumo_receive_lanes_take_last(KumoReceiveLanes *lanes, KumoChannel *ret_channel);

/* Reads pages into @memory from now on, which may be @compressed. Returns: TRUE, or FALSE with
 * @error: there is no memory for that. */
bool kumo_receive_lanes_start(KumoReceiveLanes *lanes, KumoMemory *memory, bool compressed,
                              GError **error);

/* Waits until each has brought its last round. NULL is fine. Returns: TRUE, or FALSE with @error:
 * not all have. */
bool kumo_receive_lanes_finish(KumoReceiveLanes *lanes, GError **error);

/* Returns: TRUE, or FALSE with @error if one of them has failed. NULL is fine. */
bool kumo_receive_lanes_check(KumoReceiveLanes *lanes, GError **error);

/* Hangs up. NULL is fine. */
void kumo_receive_lanes_free(KumoReceiveLanes *lanes);
