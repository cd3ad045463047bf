/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the connections of a migration come from: addresses, and descriptors that were given. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/tcp_lookup.h"
#include "vmm-core/migration/channel.h"

enum {
    CONNECT_PATIENCE_MS = 30000,
    LOOKUP_PATIENCE_MS = 30000,
    BACKLOG = 128, /* as many connections as a migration may have */
};

/* --- addresses --- */

static bool wrong_url(const char *field, const char *url, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s: %.256s is not allowed, must be like unix:/path or tcp:host:port", field,
                url ? url : "nothing");
    return false;
}

static bool unix_address(const char *field, const char *path, struct sockaddr_un *ret,
                         GError **error)
{
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (path[0] && strlen(path) < sizeof(ret->sun_path)) {
        g_strlcpy(ret->sun_path, path, sizeof(ret->sun_path));
        return true;
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: a path of 1 to %zu bytes is allowed",
                field, sizeof(ret->sun_path) - 1);
    return false;
}

static int new_socket(int family, GError **error)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        kumo_set_error_errno(error, errno, "socket");
    return fd;
}

/* As kumo_tcp_resolve() of "tcp:host:port", but for a name no longer than a while, or until it is
 * called off. */
static struct addrinfo *resolve(const char *field, const char *url, bool passive,
                                KumoMigrationCancel *cancel, GError **error)
{
    const char *address = url + 4;
    g_autoptr(KumoTcpLookup) lookup = NULL;

    if (!kumo_tcp_address_has_name(address))
        return kumo_tcp_resolve(field, url, address, passive, error);
    lookup = kumo_tcp_lookup_new(field, url, address, passive, 0, error);
    if (!lookup)
        return NULL;
    if (kumo_migration_cancel_wait(cancel, kumo_tcp_lookup_fd(lookup), POLLIN, LOOKUP_PATIENCE_MS,
                                   error))
        return kumo_tcp_lookup_take(lookup, error);
    kumo_prefix_error(error, "%s: %.256s", field, url);
    return NULL;
}

/* --- connecting --- */

static bool connect_to(KumoChannel *channel, const char *url, const struct sockaddr *address,
                       socklen_t len, GError **error)
{
    kumo_auto_fd fd = new_socket(address->sa_family, error);
    socklen_t size = sizeof(int);
    int err = 0;

    if (fd < 0)
        return false;
    if (connect(fd, address, len) < 0) {
        if (errno != EINPROGRESS) {
            err = errno;
        } else {
            if (!kumo_migration_cancel_wait(channel->cancel, fd, POLLOUT, CONNECT_PATIENCE_MS,
                                            error)) {
                kumo_prefix_error(error, "%.256s", url);
                return false;
            }
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size);
        }
    }
    if (err) {
        kumo_set_error_errno(error, err, "%.256s", url);
        return false;
    }
    channel->fd = kumo_fd_steal(&fd);
    channel->is_socket = true;
    return true;
}

static bool connect_tcp(KumoChannel *channel, const char *field, const char *url, GError **error)
{
    struct addrinfo *found = resolve(field, url, false, channel->cancel, error);
    bool ok = false;

    for (const struct addrinfo *at = found; at && !ok; at = at->ai_next) {
        if (error)
            g_clear_error(error);
        ok = connect_to(channel, url, at->ai_addr, at->ai_addrlen, error);
    }
    if (found)
        freeaddrinfo(found);
    if (ok)
        kumo_tcp_set_options(channel->fd);
    return ok;
}

bool kumo_channel_connect(KumoChannel *channel, const char *field, const char *url,
                          KumoMigrationCancel *cancel, GError **error)
{
    struct sockaddr_un address;

    *channel = (KumoChannel){ .fd = -1, .cancel = cancel };
    if (g_str_has_prefix(url, "tcp:"))
        return connect_tcp(channel, field, url, error);
    if (!g_str_has_prefix(url, "unix:"))
        return wrong_url(field, url, error);
    return unix_address(field, url + 5, &address, error) &&
           connect_to(channel, url, (const struct sockaddr *)&address, sizeof(address), error);
}

bool kumo_channel_open_fd(KumoChannel *channel, int fd, KumoMigrationCancel *cancel, GError **error)
{
    kumo_auto_fd owned = fd;
    struct stat st;

    *channel = (KumoChannel){ .fd = -1, .cancel = cancel };
    /* A file never blocks for long; with O_NONBLOCK the other can be called off. */
    if (fstat(fd, &st) < 0 ||
        ((S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) && !kumo_fd_set_nonblock(fd, true))) {
        kumo_set_error_errno(error, errno, "the descriptor of the stream");
        return false;
    }
    channel->is_socket = S_ISSOCK(st.st_mode);
    channel->fd = kumo_fd_steal(&owned);
    return true;
}

/* --- listening --- */

/* Of a kumo that was killed: somebody else's socket is left alone. */
static void remove_stale(const struct sockaddr_un *address)
{
    kumo_auto_fd probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct stat st;

    if (probe >= 0 && lstat(address->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
        connect(probe, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
        errno == ECONNREFUSED)
        unlink(address->sun_path);
}

static bool listen_at(KumoChannelListener *listener, const char *url,
                      const struct sockaddr *address, socklen_t len, GError **error)
{
    kumo_auto_fd fd = new_socket(address->sa_family, error);
    const int on = 1;

    if (fd < 0)
        return false;
    if (address->sa_family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, address, len) < 0 || listen(fd, BACKLOG) < 0) {
        kumo_set_error_errno(error, errno, "%.256s", url);
        return false;
    }
    listener->fd = kumo_fd_steal(&fd);
    return true;
}

static bool listen_tcp(KumoChannelListener *listener, const char *field, const char *url,
                       GError **error)
{
    KumoMigrationCancel never = { .fd = -1 };
    struct addrinfo *found = resolve(field, url, true, &never, error);
    bool ok = found && listen_at(listener, url, found->ai_addr, found->ai_addrlen, error);

    if (found)
        freeaddrinfo(found);
    return ok;
}

bool kumo_channel_listen(KumoChannelListener *listener, const char *field, const char *url,
                         GError **error)
{
    struct sockaddr_un address;

    *listener = (KumoChannelListener){ .fd = -1 };
    if (g_str_has_prefix(url, "tcp:"))
        return listen_tcp(listener, field, url, error);
    if (!g_str_has_prefix(url, "unix:"))
        return wrong_url(field, url, error);
    if (!unix_address(field, url + 5, &address, error))
        return false;
    remove_stale(&address);
    if (!listen_at(listener, url, (const struct sockaddr *)&address, sizeof(address), error))
        return false;
    listener->path = g_strdup(url + 5);
    return true;
}

void kumo_channel_listen_fd(KumoChannelListener *listener, int fd)
{
    *listener = (KumoChannelListener){ .fd = fd, .is_stream = true };
}

void kumo_channel_listener_close(KumoChannelListener *listener)
{
    if (listener->path)
        unlink(listener->path);
    g_clear_pointer(&listener->path, g_free);
    kumo_fd_clear(&listener->fd);
}

bool kumo_channel_accept(KumoChannel *channel, KumoChannelListener *listener,
                         KumoMigrationCancel *cancel, GError **error)
{
    *channel = (KumoChannel){ .fd = -1, .cancel = cancel };
    if (listener->is_stream)
        return kumo_channel_open_fd(channel, kumo_fd_steal(&listener->fd), cancel, error);
    channel->is_socket = true;
    while (channel->fd < 0) {
        if (!kumo_migration_cancel_wait(cancel, listener->fd, POLLIN, listener->patience_ms, error))
            return false;
        channel->fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (channel->fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            kumo_set_error_errno(error, errno, "accept");
            return false;
        }
    }
    if (!listener->path)
        kumo_tcp_set_options(channel->fd);
    return true;
}
