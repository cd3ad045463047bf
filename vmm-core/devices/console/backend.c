/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/console/backend.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/console/console_private.h"

enum {
    RING_NEARLY_FULL = KUMO_CONSOLE_RING_BYTES / 4 * 3,
    CHUNKS_A_ROUND = 32, /* then the other console has its turn */
    INPUT_BYTES = 1024,
};

struct KumoConsoleSet {
    KumoLoop *loop; /* NULL if no console needs it */
    int wake_fd;
    KumoLoopSource *wake_source;
    KumoConsole *serial, *console, *debug;
};

/* The ring. */

static void ring_push(KumoConsole *console, const uint8_t *data, size_t len)
{
    size_t end, part;

    console->tx_bytes += len;
    if (len > KUMO_CONSOLE_RING_BYTES) {
        console->tx_dropped_bytes += len - KUMO_CONSOLE_RING_BYTES;
        data += len - KUMO_CONSOLE_RING_BYTES;
        len = KUMO_CONSOLE_RING_BYTES;
    }
    if (console->ring_used + len > KUMO_CONSOLE_RING_BYTES) {
        size_t excess = console->ring_used + len - KUMO_CONSOLE_RING_BYTES;

        console->tx_dropped_bytes += excess;
        console->ring_start = (console->ring_start + excess) % KUMO_CONSOLE_RING_BYTES;
        console->ring_used -= excess;
    }
    end = (console->ring_start + console->ring_used) % KUMO_CONSOLE_RING_BYTES;
    part = MIN(len, KUMO_CONSOLE_RING_BYTES - end);
    memcpy(console->ring + end, data, part);
    memcpy(console->ring, data + part, len - part);
    console->ring_used += len;
}

static size_t ring_take(KumoConsole *console, uint8_t *buf, size_t max)
{
    size_t len = MIN(max, console->ring_used);
    size_t part = MIN(len, KUMO_CONSOLE_RING_BYTES - console->ring_start);

    memcpy(buf, console->ring + console->ring_start, part);
    memcpy(buf + part, console->ring, len - part);
    console->ring_start = (console->ring_start + len) % KUMO_CONSOLE_RING_BYTES;
    console->ring_used -= len;
    return len;
}

/* Waiting for descriptors. */

static void console_event(KumoConsole *console, uint32_t events);

static void in_event(void *opaque, uint32_t events)
{
    console_event(opaque, events);
}

static void out_event(void *opaque, uint32_t events)
{
    console_event(opaque, events & ~(uint32_t)EPOLLIN ? EPOLLOUT : 0);
}

/* Returns: FALSE if @fd is of a kind that is always ready. */
static bool watch_set(KumoConsole *console, ConsoleWatch *watch, int fd, uint32_t events,
                      KumoLoopFdFunc func)
{
    g_autoptr(GError) error = NULL;

    if (watch->source && (watch->fd != fd || !events)) {
        kumo_loop_remove(watch->source);
        watch->source = NULL;
    }
    if (!events)
        return true;
    if (watch->source) {
        if (watch->events != events)
            kumo_loop_modify(watch->source, events);
    } else {
        watch->source = kumo_loop_add_fd(console->set->loop, fd, events, func, console, &error);
        watch->fd = fd;
    }
    watch->events = events;
    return watch->source != NULL;
}

void kumo_console_update_watches(KumoConsole *console)
{
    bool one = console->in_fd == console->out_fd;
    uint32_t in = 0, out = 0;

    if (console->in_fd >= 0 && console->sink && console->in_armed && !console->in_held &&
        !console->in_unpollable)
        in = EPOLLIN;
    if (console->out_fd >= 0 && console->out_blocked)
        out = EPOLLOUT;
    if (one) {
        in |= out;
        out = 0;
    }
    /* What is no longer wanted goes first: a descriptor may be in the loop only once. */
    if (!out)
        watch_set(console, &console->out_watch, -1, 0, out_event);
    if (!watch_set(console, &console->in_watch, console->in_fd, in, in_event))
        console->in_unpollable = true;
    if (out && !watch_set(console, &console->out_watch, console->out_fd, out, out_event))
        console->out_blocked = false;
}

void kumo_console_wake(KumoConsole *console)
{
    if (!atomic_exchange(&console->woken, true))
        kumo_eventfd_signal(console->set->wake_fd);
}

/* Moving bytes, on the console thread. */

static ssize_t console_write_fd(KumoConsole *console, const void *buf, size_t len)
{
    if (console->backend->write)
        return console->backend->write(console, buf, len);
    return write(console->out_fd, buf, len);
}

/* Fills console->pending. Returns: FALSE if the guest has written nothing more. */
static bool console_refill(KumoConsole *console)
{
    if (console->pending_from < console->pending_to)
        return true;
    g_mutex_lock(&console->lock);
    console->pending_from = 0;
    console->pending_to = ring_take(console, console->pending, sizeof(console->pending));
    console->wake_on_write = console->pending_to == 0;
    g_mutex_unlock(&console->lock);
    return console->pending_to > 0;
}

static bool console_ring_nearly_full(KumoConsole *console)
{
    bool full;

    g_mutex_lock(&console->lock);
    full = console->ring_used >= RING_NEARLY_FULL;
    console->wake_on_full = !full;
    g_mutex_unlock(&console->lock);
    return full;
}

static void console_flush(KumoConsole *console)
{
    bool made_room = false;

    for (unsigned i = 0; i < CHUNKS_A_ROUND; i++) {
        ssize_t n;

        if (console->out_fd < 0 && !console->out_dead)
            return;
        if (!console_refill(console)) {
            console->out_blocked = false;
            return;
        }
        if (console->out_dead) {
            g_mutex_lock(&console->lock);
            console->tx_dropped_bytes += console->pending_to - console->pending_from;
            g_mutex_unlock(&console->lock);
            console->pending_from = console->pending_to;
            continue;
        }
        n = console_write_fd(console, console->pending + console->pending_from,
                             console->pending_to - console->pending_from);
        if (n >= 0) {
            console->pending_from += (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) {
            console->backend->lost(console, false, errno);
            continue;
        }
        if (console->backend->make_room && !made_room && console_ring_nearly_full(console)) {
            console->backend->make_room(console);
            made_room = true;
            continue;
        }
        console->out_blocked = true;
        return;
    }
    kumo_console_wake(console);
}

static void console_input(KumoConsole *console)
{
    uint8_t buf[INPUT_BYTES];
    size_t room;
    ssize_t n;

    if (!console->sink || console->in_fd < 0 || console->in_held)
        return;
    room = console->sink->can_receive(console->sink_opaque);
    console->in_armed = room > 0;
    if (!room)
        return;
    room = MIN(room, sizeof(buf));
    if (console->backend->read)
        n = console->backend->read(console, buf, room);
    else
        n = read(console->in_fd, buf, room);
    if (n > 0) {
        g_mutex_lock(&console->lock);
        console->rx_bytes += (uint64_t)n;
        g_mutex_unlock(&console->lock);
        console->sink->receive(console->sink_opaque, buf, (size_t)n);
        if (console->in_unpollable)
            kumo_console_wake(console);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        console->backend->lost(console, true, n == 0 ? 0 : errno);
    }
}

static void console_event(KumoConsole *console, uint32_t events)
{
    bool input = (events & EPOLLIN) ||
                 ((events & (EPOLLHUP | EPOLLERR)) && (console->in_watch.events & EPOLLIN));

    if (input)
        console_input(console);
    console_flush(console);
    kumo_console_update_watches(console);
}

static void console_service(KumoConsole *console)
{
    if (!console || !atomic_exchange(&console->woken, false))
        return;
    if (atomic_exchange(&console->input_ready, false))
        console->in_armed = true;
    if (console->in_armed && console->in_unpollable)
        console_input(console);
    console_flush(console);
    kumo_console_update_watches(console);
}

static void set_woken(void *opaque, uint32_t events)
{
    KumoConsoleSet *set = opaque;
    KumoConsole *const consoles[] = { set->serial, set->console, set->debug };

    kumo_eventfd_drain(set->wake_fd);
    for (unsigned i = 0; i < G_N_ELEMENTS(consoles); i++) {
        console_service(consoles[i]);
        if (consoles[i])
            console_service(consoles[i]->log);
    }
}

/* Opening and closing. */

static const KumoConsoleBackend *console_backend(const KumoConsoleConfig *config)
{
    switch (config->mode) {
    case KUMO_CONSOLE_OFF:
    case KUMO_CONSOLE_NULL:
        return NULL;
    case KUMO_CONSOLE_TTY:
        return &kumo_console_backend_tty;
    case KUMO_CONSOLE_PTY:
        return &kumo_console_backend_pty;
    case KUMO_CONSOLE_FILE:
        return &kumo_console_backend_file;
    case KUMO_CONSOLE_SOCKET:
    case KUMO_CONSOLE_TCP:
        return config->connect ? &kumo_console_backend_connect : &kumo_console_backend_socket;
    }
    return NULL;
}

typedef struct {
    KumoConsole *console;
    GError **error;
    bool ok;
} StartCall;

static void console_start(void *opaque)
{
    StartCall *call = opaque;
    KumoConsole *console = call->console;

    call->ok = !console->backend->start || console->backend->start(console, call->error);
    kumo_console_update_watches(console);
}

static void console_drain(KumoConsole *console)
{
    int64_t until_us = g_get_monotonic_time() + (int64_t)console->backend->drain_ms * 1000;

    do {
        console_flush(console);
        if (console->out_fd < 0 || !console_refill(console))
            return;
        if (console->out_blocked) {
            struct pollfd wait = { .fd = console->out_fd, .events = POLLOUT };

            poll(&wait, 1, 20);
        }
    } while (g_get_monotonic_time() < until_us);
}

static void console_stop(void *opaque)
{
    KumoConsole *console = opaque;

    console->sink = NULL;
    console_drain(console);
    console->out_blocked = false;
    kumo_console_update_watches(console);
    console->backend->close(console);
}

static void console_free(KumoConsole *console)
{
    g_mutex_clear(&console->lock);
    g_free(console->pty_path);
    g_free(console->ring);
    g_free(console);
}

static void console_close(KumoConsole *console)
{
    if (!console)
        return;
    kumo_loop_call(console->set->loop, console_stop, console);
    console_free(console);
}

/* Without its log. */
static bool console_open_one(KumoConsoleSet *set, const char *name, KumoConsoleConfig *config,
                             bool wants_input, KumoConsole **ret_console, GError **error)
{
    const KumoConsoleBackend *backend = console_backend(config);
    KumoConsole *console;
    StartCall call;

    if (!backend)
        return true;
    console = g_new0(KumoConsole, 1);
    console->backend = backend;
    console->set = set;
    console->name = name;
    console->wants_input = wants_input;
    console->in_fd = console->out_fd = -1;
    console->in_watch.fd = console->out_watch.fd = -1;
    console->wake_on_write = true;
    g_mutex_init(&console->lock);
    if (!backend->open(console, config, error)) {
        kumo_prefix_error(error, "%s", name);
        console_free(console);
        return false;
    }
    console->ring = g_malloc(KUMO_CONSOLE_RING_BYTES);
    if (console->pty_path) {
        g_free(config->file);
        config->file = g_strdup(console->pty_path);
    }
    call = (StartCall){ .console = console, .error = error };
    kumo_loop_call(set->loop, console_start, &call);
    if (!call.ok) {
        kumo_prefix_error(error, "%s", name);
        console_close(console);
        return false;
    }
    *ret_console = console;
    return true;
}

static bool console_open(KumoConsoleSet *set, const char *name, KumoConsoleConfig *config,
                         bool wants_input, KumoConsole **ret_console, GError **error)
{
    KumoConsoleConfig log = { .mode = KUMO_CONSOLE_FILE,
                              .file = config->log_file,
                              .append = config->log_append };

    if (!console_open_one(set, name, config, wants_input, ret_console, error))
        return false;
    if (!*ret_console || !config->log_file ||
        console_open_one(set, name, &log, false, &(*ret_console)->log, error))
        return true;
    console_close(*ret_console);
    *ret_console = NULL;
    return false;
}

static const KumoSyscall console_calls[] = {
    { KUMO_SYSCALL(accept4) },
    { KUMO_SYSCALL(sendto) },
    { KUMO_SYSCALL(recvfrom) },
    { KUMO_SYSCALL(poll) },
    /* Connections, and what they are set to. */
    { KUMO_SYSCALL_IF(socket, 0, AF_UNIX) },
    { KUMO_SYSCALL_IF(socket, 0, AF_INET) },
    { KUMO_SYSCALL_IF(socket, 0, AF_INET6) },
    { KUMO_SYSCALL(connect) },
    { KUMO_SYSCALL(getsockopt) },
    { KUMO_SYSCALL(setsockopt) },
    /* Is the terminal in the foreground, what is its mode, its size. */
    { KUMO_SYSCALL(getpgrp) },
    { KUMO_IOCTL(TIOCGPGRP) },
    { KUMO_IOCTL(TIOCGWINSZ) },
    { KUMO_IOCTL(TCGETS) },
    { KUMO_IOCTL(TCSETS) },
    /* A socket of ours is taken away if it is the one that we made. */
    { KUMO_SYSCALL(newfstatat) },
    { KUMO_SYSCALL(lstat) },
    { KUMO_SYSCALL(unlink) },
};

static const KumoSyscallTable console_table = KUMO_SYSCALL_TABLE(console_calls);
static const KumoSyscallTable *const console_tables[] = { &kumo_loop_syscalls, &console_table,
                                                          NULL };

/* Input makes a serial port's interrupt. */
const KumoThreadKind kumo_console_thread = {
    .name = "console",
    .roles = KUMO_THREAD_HAS_DEVICES,
    .tables = console_tables,
};

KumoConsoleSet *kumo_console_set_open(KumoVmConfig *config, GError **error)
{
    g_autoptr(KumoConsoleSet) set = g_new0(KumoConsoleSet, 1);
    KumoConsole *console;

    set->wake_fd = -1;
    if (!console_backend(&config->serial) && !console_backend(&config->console) &&
        !console_backend(&config->debug_console.console))
        return g_steal_pointer(&set);

    set->wake_fd = kumo_eventfd_new(error);
    if (set->wake_fd < 0)
        return NULL;
    set->loop = kumo_loop_new("console", &kumo_console_thread, error);
    if (!set->loop)
        return NULL;
    if (!console_open(set, "serial", &config->serial, true, &set->serial, error))
        return NULL;
    console = NULL;
    if (!console_open(set, "console", &config->console, config->serial.mode != KUMO_CONSOLE_TTY,
                      &console, error))
        return NULL;
    set->console = console;
    console = NULL;
    if (!console_open(set, "debug_console", &config->debug_console.console, false, &console, error))
        return NULL;
    set->debug = console;
    set->wake_source = kumo_loop_add_fd(set->loop, set->wake_fd, EPOLLIN, set_woken, set, error);
    if (!set->wake_source)
        return NULL;
    return g_steal_pointer(&set);
}

void kumo_console_set_close(KumoConsoleSet *set)
{
    KumoConsole *all[3];

    if (!set)
        return;
    kumo_loop_remove(set->wake_source);
    all[0] = set->debug;
    all[1] = set->console;
    all[2] = set->serial;
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        KumoConsole *log = all[i] ? all[i]->log : NULL;

        console_close(all[i]);
        console_close(log);
    }
    kumo_loop_free(set->loop);
    kumo_fd_clear(&set->wake_fd);
    g_free(set);
}

KumoConsole *kumo_console_set_serial(KumoConsoleSet *set)
{
    return set ? set->serial : NULL;
}

KumoConsole *kumo_console_set_console(KumoConsoleSet *set)
{
    return set ? set->console : NULL;
}

KumoConsole *kumo_console_set_debug(KumoConsoleSet *set)
{
    return set ? set->debug : NULL;
}

/* For devices. */

typedef struct {
    KumoConsole *console;
    const KumoConsoleSink *sink;
    void *opaque;
} AttachCall;

static void console_set_sink(void *opaque)
{
    AttachCall *call = opaque;

    call->console->sink = call->sink;
    call->console->sink_opaque = call->opaque;
    call->console->in_armed = call->sink != NULL;
    kumo_console_update_watches(call->console);
    if (call->sink && call->console->in_unpollable)
        kumo_console_wake(call->console);
}

void kumo_console_attach(KumoConsole *console, const KumoConsoleSink *sink, void *opaque)
{
    AttachCall call = { .console = console, .sink = sink, .opaque = opaque };

    if (console)
        kumo_loop_call(console->set->loop, console_set_sink, &call);
}

void kumo_console_detach(KumoConsole *console)
{
    kumo_console_attach(console, NULL, NULL);
}

void kumo_console_write(KumoConsole *console, const uint8_t *data, size_t len)
{
    bool wake;

    if (!console || !len)
        return;
    kumo_console_write(console->log, data, len);
    g_mutex_lock(&console->lock);
    ring_push(console, data, len);
    wake =
        console->wake_on_write || (console->wake_on_full && console->ring_used >= RING_NEARLY_FULL);
    if (wake)
        console->wake_on_write = console->wake_on_full = false;
    g_mutex_unlock(&console->lock);
    if (wake)
        kumo_console_wake(console);
}

void kumo_console_input_ready(KumoConsole *console)
{
    if (!console)
        return;
    atomic_store(&console->input_ready, true);
    kumo_console_wake(console);
}

bool kumo_console_size(KumoConsole *console, uint16_t *ret_columns, uint16_t *ret_rows)
{
    return console && console->backend->size &&
           console->backend->size(console, ret_columns, ret_rows);
}

KumoLoop *kumo_console_loop(KumoConsole *console)
{
    return console ? console->set->loop : NULL;
}

const char *kumo_console_pty_path(KumoConsole *console)
{
    return console ? console->pty_path : NULL;
}

json_t *kumo_console_counters(KumoConsole *console)
{
    json_t *counters;

    if (!console)
        return NULL;
    g_mutex_lock(&console->lock);
    counters =
        json_pack("{s:I,s:I,s:I}", "tx_bytes", (json_int_t)console->tx_bytes, "tx_dropped_bytes",
                  (json_int_t)console->tx_dropped_bytes, "rx_bytes", (json_int_t)console->rx_bytes);
    g_mutex_unlock(&console->lock);
    return counters;
}
