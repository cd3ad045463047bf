/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log_format.h"

enum { LOG_LINE_MAX = 2048, LOG_LIMIT_COUNT = 10 };
#define LOG_LIMIT_WINDOW_US (5 * G_USEC_PER_SEC)

KumoLogLevel kumo_log_level = KUMO_LOG_WARN;

static int log_fd = STDERR_FILENO;

static KumoLogFormat *log_format; /* NULL: not set, the default */
static int64_t start_us;

bool kumo_log_open_file(const char *path, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);

    if (fd < 0) {
        kumo_set_error_errno(error, errno, "log file %s", path);
        return false;
    }
    if (log_fd > STDERR_FILENO)
        close(log_fd);
    log_fd = fd;
    return true;
}

void kumo_log_start(void)
{
    start_us = g_get_monotonic_time();
}

bool kumo_log_set_format(const char *text, GError **error)
{
    KumoLogFormat *format = kumo_log_format_new(text, error);

    if (!format)
        return false;
    kumo_log_format_free(log_format);
    log_format = format;
    return true;
}

static const KumoLogFormat *current_format(void)
{
    static gsize made;
    static KumoLogFormat *standard;

    if (log_format)
        return log_format;
    if (g_once_init_enter(&made)) {
        standard = kumo_log_format_new(KUMO_LOG_FORMAT_DEFAULT, NULL);
        g_once_init_leave(&made, 1);
    }
    return standard;
}

void kumo_log_write(KumoLogLevel level, const char *file, int line, const char *format, ...)
{
    char message[LOG_LINE_MAX];
    char text[LOG_LINE_MAX];
    char thread[16] = "";
    KumoLogRecord record = {
        .level = level,
        .file = file,
        .line = line,
        .thread = thread,
        .message = message,
        .since_start_us = g_get_monotonic_time() - start_us,
        .wallclock_us = g_get_real_time(),
    };
    va_list args;
    size_t used;

    prctl(PR_GET_NAME, thread);
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    used = kumo_log_format_render(current_format(), &record, text, sizeof(text) - 1);
    text[used++] = '\n';

    kumo_log_write_raw(text, used);
}

void kumo_log_write_raw(const char *text, size_t len)
{
    while (write(log_fd, text, len) < 0 && errno == EINTR)
        ;
}

bool kumo_log_limit_pass(KumoLogLimit *limit)
{
    int64_t now = g_get_monotonic_time();

    if (limit->window_start_us == 0 || now - limit->window_start_us > LOG_LIMIT_WINDOW_US) {
        limit->window_start_us = now;
        limit->count = 0;
        limit->dropped = 0;
    }
    if (limit->count >= LOG_LIMIT_COUNT) {
        limit->dropped++;
        return false;
    }
    limit->count++;
    return true;
}
