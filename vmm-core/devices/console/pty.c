/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A console behind a pseudo-terminal of its own. The slave is kept open here too, so the master
 * never reports a hang-up and nothing has to be polled: while nobody reads, output stays in the
 * kernel's buffers and then in the ring. When both are full, the kernel's are emptied, for they
 * hold the oldest bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/console/console_private.h"

typedef struct {
    int slave_fd;
} PtyState;

static bool pty_open(KumoConsole *console, const KumoConsoleConfig *config, GError **error)
{
    kumo_auto_fd master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    kumo_auto_fd slave = -1;
    struct termios termios;
    PtyState *state;
    char path[64];

    if (master < 0 || unlockpt(master) < 0) {
        kumo_set_error_errno(error, errno, "pty");
        return false;
    }
    slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || tcgetattr(slave, &termios) < 0 || ptsname_r(master, path, sizeof(path))) {
        kumo_set_error_errno(error, errno, "pty: slave");
        return false;
    }
    /* The guest does the line discipline; an echo here would come back to it as input. */
    cfmakeraw(&termios);
    if (tcsetattr(slave, TCSANOW, &termios) < 0) {
        kumo_set_error_errno(error, errno, "pty %s: raw mode", path);
        return false;
    }
    state = g_new0(PtyState, 1);
    state->slave_fd = kumo_fd_steal(&slave);
    console->state = state;
    console->pty_path = g_strdup(path);
    console->in_fd = console->out_fd = kumo_fd_steal(&master);
    return true;
}

static void pty_close(KumoConsole *console)
{
    PtyState *state = console->state;
    int master = console->out_fd;

    console->in_fd = console->out_fd = -1;
    kumo_fd_clear(&state->slave_fd);
    kumo_fd_clear(&master);
    g_free(state);
}

static void pty_make_room(KumoConsole *console)
{
    PtyState *state = console->state;

    tcflush(console->out_fd, TCOFLUSH); /* on its way to the slave */
    tcflush(state->slave_fd, TCIFLUSH); /* not yet read there */
}

/* Cannot happen while the slave is open, short of the terminal being hung up by root. */
static void pty_lost(KumoConsole *console, bool input, int err)
{
    kumo_warn_guest("%s: pty %s: %s", console->name, console->pty_path, g_strerror(err));
    if (input)
        console->in_held = true;
    else
        console->out_dead = true;
}

static bool pty_size(KumoConsole *console, uint16_t *ret_columns, uint16_t *ret_rows)
{
    struct winsize size;

    if (ioctl(console->out_fd, TIOCGWINSZ, &size) < 0 || !size.ws_col || !size.ws_row)
        return false;
    *ret_columns = size.ws_col;
    *ret_rows = size.ws_row;
    return true;
}

const KumoConsoleBackend kumo_console_backend_pty = {
    .open = pty_open,
    .close = pty_close,
    .lost = pty_lost,
    .make_room = pty_make_room,
    .size = pty_size,
};
