/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A console that writes to a file and has no input. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/console/console_private.h"

static bool file_open(KumoConsole *console, const KumoConsoleConfig *config, GError **error)
{
    int flags = O_CREAT | (config->append ? O_APPEND : O_TRUNC) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    if (!config->file) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "mode File needs a file");
        return false;
    }
    console->out_fd = open(config->file, O_WRONLY | flags, 0666);
    /* A FIFO that nobody reads yet. */
    if (console->out_fd < 0 && errno == ENXIO)
        console->out_fd = open(config->file, O_RDWR | flags, 0666);
    if (console->out_fd < 0) {
        kumo_set_error_errno(error, errno, "file '%s'", config->file);
        return false;
    }
    return true;
}

static void file_close(KumoConsole *console)
{
    kumo_fd_clear(&console->out_fd);
}

/* A full disk today may have room tomorrow: only what was to be written now is lost. */
static void file_lost(KumoConsole *console, bool input, int err)
{
    size_t len = console->pending_to - console->pending_from;

    kumo_warn_guest("%s: %zu bytes of output lost: %s", console->name, len, g_strerror(err));
    g_mutex_lock(&console->lock);
    console->tx_dropped_bytes += len;
    g_mutex_unlock(&console->lock);
    console->pending_from = console->pending_to;
}

const KumoConsoleBackend kumo_console_backend_file = {
    .open = file_open,
    .close = file_close,
    .lost = file_lost,
    .drain_ms = 500,
};
