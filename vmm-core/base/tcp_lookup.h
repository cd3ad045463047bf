/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of hosts, looked up on a thread that nobody has to wait for: a name server may say nothing.
 */
#pragma once

#include <netdb.h>
#include <stdbool.h>

#include "vmm-core/base/tcp.h"

typedef struct KumoTcpLookup KumoTcpLookup;

/* Is the host of "host:port" a name, for which somebody may have to be asked? */
bool kumo_tcp_address_has_name(const char *address);

/**
 * kumo_tcp_lookup_new:
 * @field, @url, @address, @passive: as of kumo_tcp_resolve()
 * @retry_s: after so many seconds a name that there is not is looked up again; 0: not at all
 *
 * Begins. The thread has the rights of the caller's.
 *
 * Returns: (transfer full): freed with kumo_tcp_lookup_free(), or NULL with @error set.
 */
KumoTcpLookup *kumo_tcp_lookup_new(const char *field, const char *url, const char *address,
                                   bool passive, unsigned retry_s, GError **error);

/* Returns: a descriptor that is readable when there is an answer. (transfer none) */
int kumo_tcp_lookup_fd(const KumoTcpLookup *lookup);

/* The answer, when there is one. Returns: as kumo_tcp_resolve(). */
struct addrinfo *kumo_tcp_lookup_take(KumoTcpLookup *lookup, GError **error);

/* Waits for nothing: the thread ends when it has its answer. NULL is fine. */
void kumo_tcp_lookup_free(KumoTcpLookup *lookup);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoTcpLookup, kumo_tcp_lookup_free)

/**
 * kumo_tcp_resolve_within:
 * @patience_ms: for the name server
 *
 * As kumo_tcp_resolve(), but no longer than that.
 */
struct addrinfo *kumo_tcp_resolve_within(const char *field, const char *url, const char *address,
                                         bool passive, unsigned patience_ms, GError **error);
