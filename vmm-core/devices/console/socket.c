/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A console behind a listening stream socket, UNIX or TCP: one client at a time, the newest one.
 * Output of the time without a client stays in the ring for the next.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/tcp_lookup.h"
#include "vmm-core/devices/console/console_private.h"

typedef struct {
    int listen_fd;
    KumoLoopSource *listen_source;
    bool is_tcp;
    struct sockaddr_un addr; /* unless TCP */
    struct stat file;        /* which file is ours to remove, likewise */
} SocketState;

/*
 * TRUE if the socket file at @addr is left over from a process that is gone. A live one refuses the
 * wrong socket type, so its owner does not notice the question.
 */
static bool socket_is_stale(const struct sockaddr_un *addr)
{
    kumo_auto_fd fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct stat file;

    if (fd < 0 || lstat(addr->sun_path, &file) < 0 || !S_ISSOCK(file.st_mode))
        return false;
    return connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED;
}

static bool listen_unix(KumoConsole *console, const KumoConsoleConfig *config, GError **error)
{
    g_autofree SocketState *state = g_new0(SocketState, 1);
    kumo_auto_fd fd = -1;
    const struct sockaddr *addr = (const struct sockaddr *)&state->addr;
    int ret;

    if (!config->socket) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "mode Socket needs a socket");
        return false;
    }
    state->addr.sun_family = AF_UNIX;
    if (!config->socket[0] || strlen(config->socket) >= sizeof(state->addr.sun_path)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "socket '%s': a path of 1 to %zu bytes is allowed", config->socket,
                    sizeof(state->addr.sun_path) - 1);
        return false;
    }
    g_strlcpy(state->addr.sun_path, config->socket, sizeof(state->addr.sun_path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "socket '%s'", config->socket);
        return false;
    }
    ret = bind(fd, addr, sizeof(state->addr));
    if (ret < 0 && errno == EADDRINUSE) {
        if (!socket_is_stale(&state->addr)) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT, "socket '%s' is in use",
                        config->socket);
            return false;
        }
        unlink(state->addr.sun_path);
        ret = bind(fd, addr, sizeof(state->addr));
    }
    if (ret < 0 || listen(fd, 4) < 0 || lstat(state->addr.sun_path, &state->file) < 0) {
        kumo_set_error_errno(error, errno, "socket '%s'", config->socket);
        return false;
    }
    state->listen_fd = kumo_fd_steal(&fd);
    console->state = g_steal_pointer(&state);
    return true;
}

static bool listen_tcp(KumoConsole *console, const KumoConsoleConfig *config, GError **error)
{
    struct addrinfo *found = kumo_tcp_resolve_within("tcp", config->tcp, config->tcp, true,
                                                     KUMO_CONSOLE_LOOKUP_MS, error);
    g_autofree SocketState *state = g_new0(SocketState, 1);
    const int on = 1;
    int err = 0;

    if (!found)
        return false;
    state->is_tcp = true;
    state->listen_fd = -1;
    for (const struct addrinfo *at = found; at && state->listen_fd < 0; at = at->ai_next) {
        kumo_auto_fd fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
            bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, 4) == 0)
            state->listen_fd = kumo_fd_steal(&fd);
        else
            err = errno;
    }
    freeaddrinfo(found);
    if (state->listen_fd < 0) {
        kumo_set_error_errno(error, err, "tcp %s", config->tcp);
        return false;
    }
    console->state = g_steal_pointer(&state);
    return true;
}

static bool socket_open(KumoConsole *console, const KumoConsoleConfig *config, GError **error)
{
    return config->mode == KUMO_CONSOLE_TCP ? listen_tcp(console, config, error)
                                            : listen_unix(console, config, error);
}

static void socket_drop_client(KumoConsole *console)
{
    int fd = console->out_fd;

    console->in_fd = console->out_fd = -1;
    console->out_blocked = false;
    kumo_console_update_watches(console);
    kumo_fd_clear(&fd);
}

static void socket_accept(void *opaque, uint32_t events)
{
    KumoConsole *console = opaque;
    SocketState *state = console->state;
    int fd = accept4(state->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (state->is_tcp)
        kumo_tcp_set_options(fd);
    socket_drop_client(console);
    console->in_fd = console->out_fd = fd;
    kumo_console_update_watches(console);
    kumo_console_wake(console);
}

static bool socket_start(KumoConsole *console, GError **error)
{
    SocketState *state = console->state;

    state->listen_source = kumo_loop_add_fd(kumo_console_loop(console), state->listen_fd, EPOLLIN,
                                            socket_accept, console, error);
    return state->listen_source != NULL;
}

static void socket_close(KumoConsole *console)
{
    SocketState *state = console->state;
    struct stat file;

    kumo_loop_remove(state->listen_source);
    socket_drop_client(console);
    if (!state->is_tcp && lstat(state->addr.sun_path, &file) == 0 &&
        file.st_ino == state->file.st_ino && file.st_dev == state->file.st_dev)
        unlink(state->addr.sun_path);
    kumo_fd_clear(&state->listen_fd);
    g_free(state);
}

static ssize_t socket_write(KumoConsole *console, const void *buf, size_t len)
{
    return send(console->out_fd, buf, len, MSG_NOSIGNAL);
}

static void socket_lost(KumoConsole *console, bool input, int err)
{
    kumo_debug("%s: the client of the socket has gone", console->name);
    socket_drop_client(console);
}

const KumoConsoleBackend kumo_console_backend_socket = {
    .open = socket_open,
    .start = socket_start,
    .close = socket_close,
    .write = socket_write,
    .lost = socket_lost,
};
