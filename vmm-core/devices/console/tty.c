/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A console on standard input and output. A terminal there is made raw while a console takes its
 * input, and given back as it was on every way out of the process. Standard input may also be a
 * pipe, a file or /dev/null; its end ends the input, not the VM. In a background process group the
 * console writes, but neither reads nor changes the terminal; it looks every second whether it has
 * come to the foreground.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/console/console_private.h"

typedef enum {
    TTY_OUT_NONBLOCK, /* a description of our own, or one that never blocks for long */
    TTY_OUT_PIPE,     /* shared: write no more than what surely fits */
    TTY_OUT_TERMINAL, /* shared */
    TTY_OUT_SOCKET,
} TtyOut;

typedef struct {
    TtyOut out;
    bool in_terminal; /* in_fd is one */
    int timer_fd;     /* runs while a terminal is another process group's, else -1 */
    KumoLoopSource *timer_source;
} TtyState;

/* What restoring needs; read in signal handlers. Only one console of the process takes a terminal's
 * input. */
static struct {
    volatile sig_atomic_t raw;
    int fd; /* a descriptor of our own, open while raw */
    struct termios original;
} terminal;

static bool terminal_is_foreground(int fd)
{
    pid_t pgrp = tcgetpgrp(fd);

    /* A terminal that does not control us (-1) has no foreground for us either. */
    return pgrp < 0 || pgrp == getpgrp();
}

/* tcsetattr() without being stopped should the terminal be taken away meanwhile. Async-signal-safe.
 */
static int terminal_set(int fd, const struct termios *termios)
{
    sigset_t ttou, old;
    int ret;

    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &old);
    ret = tcsetattr(fd, TCSANOW, termios);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret;
}

void kumo_console_restore_terminal(void)
{
    int saved_errno = errno;

    if (terminal.raw && terminal_is_foreground(terminal.fd))
        terminal_set(terminal.fd, &terminal.original);
    terminal.raw = 0;
    errno = saved_errno;
}

/* Installed with SA_RESETHAND: the second delivery ends the process as if we had not been here. */
static void terminal_fatal_signal(int sig)
{
    kumo_console_restore_terminal();
    raise(sig);
}

static void terminal_catch_signals(void)
{
    static const int fatal[] = { SIGHUP,  SIGINT, SIGQUIT, SIGTERM, SIGABRT,
                                 SIGSEGV, SIGBUS, SIGILL,  SIGFPE,  SIGSYS };
    struct sigaction old,
        ours = { .sa_handler = terminal_fatal_signal, .sa_flags = SA_RESETHAND | SA_NODEFER };

    for (unsigned i = 0; i < G_N_ELEMENTS(fatal); i++) {
        if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(fatal[i], &ours, NULL);
    }
}

static bool terminal_make_raw(int fd, GError **error)
{
    static bool prepared;
    struct termios raw;

    if (!terminal.raw) {
        if (tcgetattr(fd, &terminal.original) < 0) {
            kumo_set_error_errno(error, errno, "terminal");
            return false;
        }
        terminal.fd = fd;
        terminal.raw = 1;
    }
    if (!prepared) {
        prepared = true;
        atexit(kumo_console_restore_terminal);
        terminal_catch_signals();
    }
    raw = terminal.original;
    cfmakeraw(&raw);
    if (terminal_set(fd, &raw) < 0) {
        kumo_set_error_errno(error, errno, "terminal: raw mode");
        terminal.raw = 0;
        return false;
    }
    return true;
}

/*
 * A standard descriptor's open file description is shared with the shell and with whoever else:
 * O_NONBLOCK would be set for them too. Where it can be, it is opened anew. Returns: -1 with errno
 * set.
 */
static int tty_reopen(int fd, int access, struct stat *ret_file, bool *ret_own)
{
    char path[32];
    int own = -1;

    *ret_own = false;
    if (fstat(fd, ret_file) < 0)
        return -1;
    /* Opening a pty's master again would make another pty. */
    if (S_ISFIFO(ret_file->st_mode) || (isatty(fd) && ret_file->st_rdev != makedev(5, 2))) {
        g_snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        own = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    }
    *ret_own = own >= 0;
    return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static bool tty_open(KumoConsole *console, const KumoConsoleConfig *config, GError **error)
{
    g_autofree TtyState *state = g_new0(TtyState, 1);
    kumo_auto_fd in = -1;
    kumo_auto_fd out = -1;
    struct stat file;
    bool own;

    state->timer_fd = -1;
    /* A standard stream that is closed is a console without that direction. */
    out = tty_reopen(STDOUT_FILENO, O_WRONLY, &file, &own);
    if (out >= 0 && !own) {
        if (S_ISSOCK(file.st_mode))
            state->out = TTY_OUT_SOCKET;
        else if (S_ISFIFO(file.st_mode))
            state->out = TTY_OUT_PIPE;
        else if (isatty(out))
            state->out = TTY_OUT_TERMINAL;
    }
    if (console->wants_input)
        in = tty_reopen(STDIN_FILENO, O_RDONLY, &file, &own);
    if (in >= 0 && isatty(in)) {
        state->in_terminal = true;
        if (!terminal_is_foreground(in))
            console->in_held = true;
        else if (!terminal_make_raw(in, error))
            return false;
    }
    console->out_dead = out < 0;
    console->in_fd = kumo_fd_steal(&in);
    console->out_fd = kumo_fd_steal(&out);
    console->state = g_steal_pointer(&state);
    return true;
}

static void tty_stop_timer(TtyState *state)
{
    kumo_loop_remove(state->timer_source);
    state->timer_source = NULL;
    kumo_fd_clear(&state->timer_fd);
}

static void tty_check_foreground(void *opaque, uint32_t events)
{
    KumoConsole *console = opaque;
    TtyState *state = console->state;
    uint64_t ticks;

    if (read(state->timer_fd, &ticks, sizeof(ticks)) < 0 || !terminal_is_foreground(console->in_fd))
        return;
    tty_stop_timer(state);
    console->in_held = false;
    terminal_make_raw(console->in_fd, NULL);
    kumo_console_update_watches(console);
}

static bool tty_wait_for_foreground(KumoConsole *console, GError **error)
{
    TtyState *state = console->state;
    struct itimerspec second = { .it_interval.tv_sec = 1, .it_value.tv_sec = 1 };

    state->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (state->timer_fd < 0 || timerfd_settime(state->timer_fd, 0, &second, NULL) < 0) {
        kumo_set_error_errno(error, errno, "timer of the terminal");
        return false;
    }
    state->timer_source = kumo_loop_add_fd(kumo_console_loop(console), state->timer_fd, EPOLLIN,
                                           tty_check_foreground, console, error);
    return state->timer_source != NULL;
}

static bool tty_start(KumoConsole *console, GError **error)
{
    return !console->in_held || tty_wait_for_foreground(console, error);
}

static void tty_close(KumoConsole *console)
{
    TtyState *state = console->state;

    tty_stop_timer(state);
    if (state->in_terminal)
        kumo_console_restore_terminal();
    kumo_fd_clear(&console->in_fd);
    kumo_fd_clear(&console->out_fd);
    g_free(state);
}

static ssize_t tty_write(KumoConsole *console, const void *buf, size_t len)
{
    TtyState *state = console->state;
    struct pollfd ready = { .fd = console->out_fd, .events = POLLOUT };

    switch (state->out) {
    case TTY_OUT_NONBLOCK:
        break;
    case TTY_OUT_SOCKET:
        return send(console->out_fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    case TTY_OUT_PIPE:
    case TTY_OUT_TERMINAL:
        if (poll(&ready, 1, 0) <= 0) {
            errno = EAGAIN;
            return -1;
        }
        /* poll promises a page of a pipe, and of a terminal nothing but a character. */
        len = MIN(len, state->out == TTY_OUT_PIPE ? (size_t)PIPE_BUF : 1);
        break;
    }
    return write(console->out_fd, buf, len);
}

static void tty_lost(KumoConsole *console, bool input, int err)
{
    TtyState *state = console->state;

    if (!input) {
        kumo_info("%s: standard output: %s; output is dropped from now on", console->name,
                  g_strerror(err));
        console->out_dead = true;
        return;
    }
    console->in_held = true;
    if (err == EIO && state->in_terminal && !terminal_is_foreground(console->in_fd))
        tty_wait_for_foreground(console, NULL);
    else
        kumo_debug("%s: standard input has ended", console->name);
}

static bool tty_size(KumoConsole *console, uint16_t *ret_columns, uint16_t *ret_rows)
{
    struct winsize size;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_col || !size.ws_row)
        return false;
    *ret_columns = size.ws_col;
    *ret_rows = size.ws_row;
    return true;
}

const KumoConsoleBackend kumo_console_backend_tty = {
    .open = tty_open,
    .start = tty_start,
    .close = tty_close,
    .write = tty_write,
    .lost = tty_lost,
    .size = tty_size,
    .drain_ms = 500,
};
