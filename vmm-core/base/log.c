/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "vmm-core/base/error.h"

enum { LOG_LINE_MAX = 2048, LOG_LIMIT_COUNT = 10 };
#define LOG_LIMIT_WINDOW_US (5 * G_USEC_PER_SEC)

KumoLogLevel kumo_log_level = KUMO_LOG_WARN;

static int log_fd = STDERR_FILENO;

static const char *const level_names[] = { "ERROR", "WARN", "INFO", "DEBUG", "TRACE" };

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

void kumo_log_write(KumoLogLevel level, const char *file, int line, const char *format, ...)
{
    char text[LOG_LINE_MAX];
    char thread[16] = "";
    const char *base = strrchr(file, '/');
    struct timespec now;
    va_list args;
    size_t used;
    int n;

    clock_gettime(CLOCK_BOOTTIME, &now);
    prctl(PR_GET_NAME, thread);
    n = snprintf(text, sizeof(text), "kumo: %lld.%06lds: <%s> %s:%s:%d -- ", (long long)now.tv_sec,
                 now.tv_nsec / 1000, thread, level_names[level], base ? base + 1 : file, line);
    used = (size_t)CLAMP(n, 0, LOG_LINE_MAX - 2);
    va_start(args, format);
    n = vsnprintf(text + used, sizeof(text) - 1 - used, format, args);
    va_end(args);
    used = MIN(used + (size_t)MAX(n, 0), sizeof(text) - 2);
    text[used++] = '\n';

    while (write(log_fd, text, used) < 0 && errno == EINTR)
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
