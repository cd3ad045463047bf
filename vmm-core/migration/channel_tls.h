/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Transfer over a channel that speaks TLS, as kumo_channel_write() and kumo_channel_read(). */
#pragma once

#include "vmm-core/migration/channel.h"

bool kumo_channel_tls_write(KumoChannel *channel, const struct iovec *iov, unsigned n_iov,
                            GError **error);
bool kumo_channel_tls_read(KumoChannel *channel, void *buf, size_t len, GError **error);
