/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A console that connects to somebody who listens, on a UNIX socket or by TCP. Without a time after
 * which it tries again the connection has to be had when the VM starts, and when it is lost, output
 * is dropped from then on. With one it is tried on the console's thread as often as needed, and
 * output of the time between stays in the ring; a name is looked up meanwhile, too.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/tcp_lookup.h"
#include "vmm-core/devices/console/console_private.h"

enum {
    ADDRESSES_MAX = 8, /* of one host */
    ATTEMPT_S = 5,     /* for one of them to answer */
    FULL_WAIT_MS = 20, /* until a UNIX socket whose queue is full is tried again */
};

typedef struct {
    struct sockaddr_storage storage;
    socklen_t len;
} Address;

typedef struct {
    char *target; /* for messages */
    Address addresses[ADDRESSES_MAX];
    unsigned n_addresses;
    unsigned reconnect_s;
    KumoTcpLookup *lookup; /* NULL: the addresses are known */

    /* With reconnect_s, console thread. */
    int timer_fd; /* -1 without */
    KumoLoopSource *timer;
    int fd; /* being connected, or -1 */
    KumoLoopSource *connecting;
    unsigned next; /* which address */
    KumoLoopSource *looked_up;
} ConnectState;

static void take_addresses(ConnectState *state, struct addrinfo *found)
{
    for (const struct addrinfo *at = found; at && state->n_addresses < ADDRESSES_MAX;
         at = at->ai_next) {
        Address *address = &state->addresses[state->n_addresses++];

        memcpy(&address->storage, at->ai_addr, at->ai_addrlen);
        address->len = at->ai_addrlen;
    }
    freeaddrinfo(found);
}

static bool find_addresses(ConnectState *state, const KumoConsoleConfig *config, GError **error)
{
    struct addrinfo *found;

    if (config->mode == KUMO_CONSOLE_SOCKET) {
        struct sockaddr_un *addr = (struct sockaddr_un *)&state->addresses[0].storage;

        if (!config->socket || !config->socket[0] ||
            strlen(config->socket) >= sizeof(addr->sun_path)) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "socket '%s': a path of 1 to %zu bytes is allowed",
                        config->socket ? config->socket : "", sizeof(addr->sun_path) - 1);
            return false;
        }
        addr->sun_family = AF_UNIX;
        g_strlcpy(addr->sun_path, config->socket, sizeof(addr->sun_path));
        state->addresses[0].len = sizeof(*addr);
        state->n_addresses = 1;
        state->target = g_strdup_printf("socket '%s'", config->socket);
        return true;
    }
    state->target = g_strdup_printf("tcp %s", config->tcp);
    if (state->reconnect_s && kumo_tcp_address_has_name(config->tcp)) {
        state->lookup =
            kumo_tcp_lookup_new("tcp", config->tcp, config->tcp, false, state->reconnect_s, error);
        return state->lookup != NULL;
    }
    found = kumo_tcp_resolve_within("tcp", config->tcp, config->tcp, false, KUMO_CONSOLE_LOOKUP_MS,
                                    error);
    if (found)
        take_addresses(state, found);
    return found != NULL;
}

/* Returns: 0 if *@ret_fd is connected, EINPROGRESS if it will be, or why it cannot. */
static int begin_connection(const Address *address, int *ret_fd)
{
    kumo_auto_fd fd =
        socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int err = 0;

    if (fd < 0)
        return errno;
    if (connect(fd, (const struct sockaddr *)&address->storage, address->len) < 0)
        err = errno;
    if (err == 0 || err == EINPROGRESS)
        *ret_fd = kumo_fd_steal(&fd);
    return err;
}

static int connection_error(int fd)
{
    socklen_t size = sizeof(int);
    int err = 0;

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0 ? errno : err;
}

static void use_connection(KumoConsole *console, int fd)
{
    const ConnectState *state = console->state;

    if (state->addresses[0].storage.ss_family != AF_UNIX)
        kumo_tcp_set_options(fd);
    console->in_fd = console->out_fd = fd;
}

/* Waits for one address, at the start. Returns: 0 or why not. */
static int connect_now(const Address *address, int *ret_fd)
{
    int64_t until_us = g_get_monotonic_time() + ATTEMPT_S * G_USEC_PER_SEC;
    int err;

    while ((err = begin_connection(address, ret_fd)) == EAGAIN) {
        if (g_get_monotonic_time() >= until_us)
            return ETIMEDOUT;
        poll(NULL, 0, FULL_WAIT_MS);
    }
    if (err == EINPROGRESS) {
        struct pollfd ready = { .fd = *ret_fd, .events = POLLOUT };

        err = poll(&ready, 1, ATTEMPT_S * 1000) > 0 ? connection_error(*ret_fd) : ETIMEDOUT;
        if (err)
            kumo_fd_clear(ret_fd);
    }
    return err;
}

static void state_free(ConnectState *state)
{
    kumo_fd_clear(&state->timer_fd);
    kumo_tcp_lookup_free(state->lookup);
    g_free(state->target);
    g_free(state);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ConnectState, state_free)

static bool connect_open(KumoConsole *console, const KumoConsoleConfig *config, GError **error)
{
    g_autoptr(ConnectState) state = g_new0(ConnectState, 1);
    int err = 0, fd = -1;

    state->timer_fd = state->fd = -1;
    state->reconnect_s = config->reconnect_s;
    if (!find_addresses(state, config, error))
        return false;
    if (state->reconnect_s) {
        state->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (state->timer_fd < 0) {
            kumo_set_error_errno(error, errno, "%s: timer", state->target);
            return false;
        }
    } else {
        for (unsigned i = 0; i < state->n_addresses && fd < 0; i++)
            err = connect_now(&state->addresses[i], &fd);
        if (fd < 0) {
            kumo_set_error_errno(error, err, "%s", state->target);
            return false;
        }
    }
    console->state = g_steal_pointer(&state);
    if (fd >= 0)
        use_connection(console, fd);
    return true;
}

static void set_timer(ConnectState *state, unsigned seconds)
{
    const struct itimerspec spec = { .it_value.tv_sec = seconds };

    timerfd_settime(state->timer_fd, 0, &spec, NULL);
}

static void stop_attempt(ConnectState *state)
{
    g_clear_pointer(&state->connecting, kumo_loop_remove);
    kumo_fd_clear(&state->fd);
}

static void established(KumoConsole *console)
{
    ConnectState *state = console->state;
    int fd = kumo_fd_steal(&state->fd);

    g_clear_pointer(&state->connecting, kumo_loop_remove);
    set_timer(state, 0);
    state->next = 0;
    use_connection(console, fd);
    kumo_debug("%s: connected to %s", console->name, state->target);
    kumo_console_update_watches(console);
    kumo_console_wake(console);
}

static void on_connected(void *opaque, uint32_t events);

/* Tries addresses from the next one on, until one of them may become a connection. */
static void attempt(KumoConsole *console)
{
    ConnectState *state = console->state;
    g_autoptr(GError) error = NULL;

    for (; state->next < state->n_addresses; state->next++) {
        int err = begin_connection(&state->addresses[state->next], &state->fd);

        if (err == 0) {
            established(console);
            return;
        }
        if (err == EINPROGRESS) {
            state->connecting = kumo_loop_add_fd(kumo_console_loop(console), state->fd, EPOLLOUT,
                                                 on_connected, console, &error);
            if (state->connecting) {
                set_timer(state, ATTEMPT_S);
                return;
            }
            kumo_fd_clear(&state->fd);
        }
        kumo_debug("%s: %s: %s", console->name, state->target,
                   error ? error->message : g_strerror(err));
        g_clear_error(&error);
    }
    state->next = 0;
    set_timer(state, state->reconnect_s);
}

static void on_connected(void *opaque, uint32_t events)
{
    KumoConsole *console = opaque;
    ConnectState *state = console->state;
    int err = connection_error(state->fd);

    if (err == 0) {
        established(console);
        return;
    }
    kumo_debug("%s: %s: %s", console->name, state->target, g_strerror(err));
    stop_attempt(state);
    state->next++;
    attempt(console);
}

/* Time to try again, or one who does not answer has had his. */
static void on_timer(void *opaque, uint32_t events)
{
    KumoConsole *console = opaque;
    ConnectState *state = console->state;
    uint64_t expirations;

    if (read(state->timer_fd, &expirations, sizeof(expirations)) != sizeof(expirations))
        return;
    if (console->out_fd >= 0)
        return;
    if (state->connecting) {
        stop_attempt(state);
        state->next++;
    }
    attempt(console);
}

static void on_looked_up(void *opaque, uint32_t events)
{
    KumoConsole *console = opaque;
    ConnectState *state = console->state;
    struct addrinfo *found = kumo_tcp_lookup_take(state->lookup, NULL);

    g_clear_pointer(&state->looked_up, kumo_loop_remove);
    g_clear_pointer(&state->lookup, kumo_tcp_lookup_free);
    if (!found)
        return; /* it goes on until there is one */
    take_addresses(state, found);
    attempt(console);
}

static bool connect_start(KumoConsole *console, GError **error)
{
    ConnectState *state = console->state;

    if (!state->reconnect_s)
        return true;
    state->timer = kumo_loop_add_fd(kumo_console_loop(console), state->timer_fd, EPOLLIN, on_timer,
                                    console, error);
    if (!state->timer)
        return false;
    if (!state->lookup) {
        attempt(console);
        return true;
    }
    state->looked_up =
        kumo_loop_add_fd(kumo_console_loop(console), kumo_tcp_lookup_fd(state->lookup), EPOLLIN,
                         on_looked_up, console, error);
    return state->looked_up != NULL;
}

static void drop_connection(KumoConsole *console)
{
    int fd = console->out_fd;

    console->in_fd = console->out_fd = -1;
    console->out_blocked = false;
    kumo_console_update_watches(console);
    kumo_fd_clear(&fd);
}

static void connect_close(KumoConsole *console)
{
    ConnectState *state = console->state;

    g_clear_pointer(&state->timer, kumo_loop_remove);
    g_clear_pointer(&state->looked_up, kumo_loop_remove);
    stop_attempt(state);
    drop_connection(console);
    state_free(state);
}

static ssize_t connect_write(KumoConsole *console, const void *buf, size_t len)
{
    return send(console->out_fd, buf, len, MSG_NOSIGNAL);
}

static void connect_lost(KumoConsole *console, bool input, int err)
{
    ConnectState *state = console->state;

    drop_connection(console);
    if (state->reconnect_s) {
        kumo_debug("%s: %s: the connection is lost", console->name, state->target);
        set_timer(state, state->reconnect_s);
        return;
    }
    kumo_info("%s: %s: the connection is lost; output is dropped from now on", console->name,
              state->target);
    console->out_dead = true;
    kumo_console_wake(console);
}

const KumoConsoleBackend kumo_console_backend_connect = {
    .open = connect_open,
    .start = connect_start,
    .close = connect_close,
    .write = connect_write,
    .lost = connect_lost,
    .drain_ms = 500,
};
