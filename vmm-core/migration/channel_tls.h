/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TLS over a migration's channels, by the module that has it. */
#pragma once

#include "vmm-core/migration/channel.h"

/* What one end of a migration needs for TLS. */
typedef struct KumoChannelTls KumoChannelTls;

/* Loads the module that TLS needs, if it is installed: later that may not be possible any more. */
void kumo_channel_tls_prepare(void);

/**
 * kumo_channel_tls_new:
 * @directory: of the certificates, see KumoTlsModule.identity_load
 *
 * Returns: (transfer full): NULL with @error (INVALID, or NOT_SUPPORTED without the module).
 */
KumoChannelTls *kumo_channel_tls_new(const char *directory, bool server, GError **error);

/* Channels that have started TLS with it go on. NULL is fine. */
void kumo_channel_tls_free(KumoChannelTls *tls);

/**
 * kumo_channel_start_tls:
 * @url: that a client has connected to
 * @name: (nullable): that the server's certificate has to be for, if not that of @url
 *
 * Waits until both sides know who the other is; nothing else is read of @channel before.
 */
bool kumo_channel_start_tls(KumoChannel *channel, KumoChannelTls *tls, const char *url,
                            const char *name, GError **error);
