/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/tcp.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "vmm-core/base/error.h"

enum {
    KEEPALIVE_IDLE_S = 60,
    KEEPALIVE_INTERVAL_S = 15,
    KEEPALIVE_PROBES = 4,
    UNACKNOWLEDGED_MS = 120000,
};

bool kumo_tcp_address_split(const char *address, char **ret_host, const char **ret_port)
{
    const char *colon = strrchr(address, ':');
    size_t len = colon ? (size_t)(colon - address) : 0;
    bool bracketed = len > 2 && address[0] == '[' && colon[-1] == ']';
    guint64 port;

    if (!len || !g_ascii_string_to_unsigned(colon + 1, 10, 1, 65535, &port, NULL))
        return false;
    if (!bracketed && address[0] == '[')
        return false;
    *ret_host = bracketed ? g_strndup(address + 1, len - 2) : g_strndup(address, len);
    *ret_port = colon + 1;
    return true;
}

struct addrinfo *kumo_tcp_resolve(const char *field, const char *url, const char *address,
                                  bool passive, GError **error)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_flags = (passive ? AI_PASSIVE : 0) | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    g_autofree char *host = NULL;
    const char *port = NULL;
    int status;

    if (!kumo_tcp_address_split(address, &host, &port)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %.256s is not allowed, must have a host and a port from 1 to 65535", field,
                    url);
        return NULL;
    }
    status = getaddrinfo(host, port, &hints, &found);
    if (status == 0)
        return found;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %.256s: %s", field, url,
                gai_strerror(status));
    return NULL;
}

void kumo_tcp_set_options(int fd)
{
    const struct {
        int level, name, value;
    } options[] = {
        { IPPROTO_TCP, TCP_NODELAY, 1 },
        { SOL_SOCKET, SO_KEEPALIVE, 1 },
        { IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S },
        { IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S },
        { IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES },
        { IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS },
    };

    /* Without them it works all the same. */
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                   sizeof(options[i].value));
}
