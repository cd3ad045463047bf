/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/channel.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

/* A peer whose host is gone is noticed after about two minutes. */
enum {
    KEEPALIVE_IDLE_S = 60,
    KEEPALIVE_INTERVAL_S = 15,
    KEEPALIVE_PROBES = 4,
    UNACKNOWLEDGED_MS = 120000,
};

/* --- calling it off --- */

bool kumo_migration_cancel_init(KumoMigrationCancel *cancel, GError **error)
{
    atomic_store(&cancel->set, false);
    cancel->fd = kumo_eventfd_new(error);
    return cancel->fd >= 0;
}

void kumo_migration_cancel_clear(KumoMigrationCancel *cancel)
{
    kumo_fd_clear(&cancel->fd);
}

void kumo_migration_cancel_set(KumoMigrationCancel *cancel)
{
    atomic_store(&cancel->set, true);
    kumo_eventfd_signal(cancel->fd);
}

bool kumo_migration_cancel_check(KumoMigrationCancel *cancel, GError **error)
{
    if (!atomic_load(&cancel->set))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "the migration was called off");
    return false;
}

bool kumo_migration_cancel_sleep(KumoMigrationCancel *cancel, int ms, GError **error)
{
    struct pollfd fd = { .fd = cancel->fd, .events = POLLIN };

    poll(&fd, 1, ms);
    return kumo_migration_cancel_check(cancel, error);
}

/* Waits until @fd is ready for @events, for @patience_ms at most, 0: for ever. */
static bool wait_for(int fd, short events, int patience_ms, KumoMigrationCancel *cancel,
                     GError **error)
{
    struct pollfd fds[] = { { .fd = fd, .events = events },
                            { .fd = cancel->fd, .events = POLLIN } };

    for (;;) {
        int n = poll(fds, G_N_ELEMENTS(fds), patience_ms ? patience_ms : -1);

        if (!kumo_migration_cancel_check(cancel, error))
            return false;
        if (n > 0 && fds[0].revents)
            return true;
        if (n == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "the other side says nothing");
            return false;
        }
        if (n < 0 && errno != EINTR) {
            kumo_set_error_errno(error, errno, "poll");
            return false;
        }
    }
}

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

/* @address: "host:port", "[1::2]:port". */
static struct addrinfo *tcp_addresses(const char *field, const char *url, const char *address,
                                      bool passive, GError **error)
{
    const char *colon = strrchr(address, ':');
    g_autofree char *host = colon ? g_strndup(address, (gsize)(colon - address)) : NULL;
    const struct addrinfo hints = { .ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_flags = (passive ? AI_PASSIVE : 0) | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    size_t len = host ? strlen(host) : 0;
    int status;

    if (!len || !colon[1]) {
        wrong_url(field, url, error);
        return NULL;
    }
    if (host[0] == '[' && host[len - 1] == ']') {
        memmove(host, host + 1, len - 2);
        host[len - 2] = '\0';
    }
    status = getaddrinfo(host, colon + 1, &hints, &found);
    if (status == 0)
        return found;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %.256s: %s", field, url,
                gai_strerror(status));
    return NULL;
}

static void set_tcp_options(int fd)
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

static int new_socket(int family, GError **error)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        kumo_set_error_errno(error, errno, "socket");
    return fd;
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
            if (!wait_for(fd, POLLOUT, 0, channel->cancel, error))
                return false;
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size);
        }
    }
    if (err) {
        kumo_set_error_errno(error, err, "%.256s", url);
        return false;
    }
    channel->fd = kumo_fd_steal(&fd);
    return true;
}

static bool connect_tcp(KumoChannel *channel, const char *field, const char *url, GError **error)
{
    struct addrinfo *found = tcp_addresses(field, url, url + 4, false, error);
    bool ok = false;

    for (const struct addrinfo *at = found; at && !ok; at = at->ai_next) {
        if (error)
            g_clear_error(error);
        ok = connect_to(channel, url, at->ai_addr, at->ai_addrlen, error);
    }
    if (found)
        freeaddrinfo(found);
    if (ok)
        set_tcp_options(channel->fd);
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

/* --- listening --- */

static bool listen_at(KumoChannelListener *listener, const char *url,
                      const struct sockaddr *address, socklen_t len, GError **error)
{
    kumo_auto_fd fd = new_socket(address->sa_family, error);
    const int on = 1;

    if (fd < 0)
        return false;
    if (address->sa_family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, address, len) < 0 || listen(fd, 1) < 0) {
        kumo_set_error_errno(error, errno, "%.256s", url);
        return false;
    }
    listener->fd = kumo_fd_steal(&fd);
    return true;
}

static bool listen_tcp(KumoChannelListener *listener, const char *field, const char *url,
                       GError **error)
{
    struct addrinfo *found = tcp_addresses(field, url, url + 4, true, error);
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
    if (!unix_address(field, url + 5, &address, error) ||
        !listen_at(listener, url, (const struct sockaddr *)&address, sizeof(address), error))
        return false;
    listener->path = g_strdup(url + 5);
    return true;
}

void kumo_channel_listener_close(KumoChannelListener *listener)
{
    if (listener->path)
        unlink(listener->path);
    g_clear_pointer(&listener->path, g_free);
    kumo_fd_clear(&listener->fd);
}

bool kumo_channel_accept(KumoChannel *channel, const KumoChannelListener *listener,
                         KumoMigrationCancel *cancel, GError **error)
{
    *channel = (KumoChannel){ .fd = -1, .cancel = cancel };
    while (channel->fd < 0) {
        if (!wait_for(listener->fd, POLLIN, 0, cancel, error))
            return false;
        channel->fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (channel->fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            kumo_set_error_errno(error, errno, "accept");
            return false;
        }
    }
    if (!listener->path)
        set_tcp_options(channel->fd);
    return true;
}

void kumo_channel_close(KumoChannel *channel)
{
    kumo_fd_clear(&channel->fd);
}

bool kumo_channel_is_unix(const KumoChannel *channel)
{
    int family = 0;
    socklen_t len = sizeof(family);

    return getsockopt(channel->fd, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0 && family == AF_UNIX;
}

/* --- transfer --- */

typedef union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
} FdMessage;

static bool peer_failed(const char *what, GError **error)
{
    kumo_set_error_errno(error, errno, "%s the other side", what);
    return false;
}

bool kumo_channel_write(KumoChannel *channel, struct iovec *iov, unsigned n_iov, int fd,
                        GError **error)
{
    FdMessage control = { 0 };

    while (n_iov > 0) {
        struct msghdr message = { .msg_iov = iov, .msg_iovlen = MIN(n_iov, IOV_MAX) };
        ssize_t n;

        if (!kumo_migration_cancel_check(channel->cancel, error))
            return false;
        if (fd >= 0) {
            message.msg_control = control.bytes;
            message.msg_controllen = sizeof(control.bytes);
            *CMSG_FIRSTHDR(&message) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
                                                         .cmsg_level = SOL_SOCKET,
                                                         .cmsg_type = SCM_RIGHTS };
            memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof(fd));
        }
        n = sendmsg(channel->fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!wait_for(channel->fd, POLLOUT, channel->patience_ms, channel->cancel, error))
                return false;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return peer_failed("sending to", error);
        fd = -1;
        channel->sent_bytes += (uint64_t)n;
        for (; n_iov > 0 && (size_t)n >= iov->iov_len; n_iov--)
            n -= (ssize_t)iov++->iov_len;
        if (n_iov > 0) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return true;
}

/* The first descriptor of @message goes to @ret_fd if that has none, the others are closed. */
static void take_fds(struct msghdr *message, int *ret_fd)
{
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (at->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(at) + i * sizeof(int), sizeof(fd));
            if (ret_fd && *ret_fd < 0)
                *ret_fd = fd;
            else
                close(fd);
        }
    }
}

bool kumo_channel_read(KumoChannel *channel, void *buf, size_t len, int *ret_fd, GError **error)
{
    if (ret_fd)
        *ret_fd = -1;
    while (len > 0) {
        FdMessage control;
        struct iovec iov = { .iov_base = buf, .iov_len = len };
        struct msghdr message = { .msg_iov = &iov,
                                  .msg_iovlen = 1,
                                  .msg_control = control.bytes,
                                  .msg_controllen = sizeof(control.bytes) };
        ssize_t n;

        if (!kumo_migration_cancel_check(channel->cancel, error))
            break;
        n = recvmsg(channel->fd, &message, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            if (!wait_for(channel->fd, POLLIN, channel->patience_ms, channel->cancel, error))
                break;
            continue;
        }
        if (n < 0) {
            peer_failed("receiving from", error);
            break;
        }
        take_fds(&message, ret_fd);
        if (n == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "the other side closed the connection");
            break;
        }
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    if (len > 0 && ret_fd)
        kumo_fd_clear(ret_fd);
    return len == 0;
}
