/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TCP addresses as the VMM's options have them, and what all of its connections are set to. */
#pragma once

#include <glib.h>
#include <netdb.h>
#include <stdbool.h>

/**
 * kumo_tcp_address_split:
 * @address: "host:port", "[1::2]:port"; the last colon is what separates
 * @ret_host: (out) (transfer full): without brackets
 * @ret_port: (out) (transfer none): inside @address
 *
 * Returns: FALSE if it has not that form; the port is a number from 1 to 65535.
 */
bool kumo_tcp_address_split(const char *address, char **ret_host, const char **ret_port);

/**
 * kumo_tcp_resolve:
 * @field: whose value it is, for the error
 * @url: the value as it was given, likewise
 * @address: as of kumo_tcp_address_split()
 * @passive: to listen there
 *
 * May take as long as asking a name server does.
 *
 * Returns: (transfer full): at least one address, freed with freeaddrinfo(), or NULL with @error
 *     (INVALID) set.
 */
struct addrinfo *kumo_tcp_resolve(const char *field, const char *url, const char *address,
                                  bool passive, GError **error);

/* No waiting for more to send; a peer whose host is gone is noticed after about two minutes. */
void kumo_tcp_set_options(int fd);
