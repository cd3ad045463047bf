/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/event.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/config/option_string.h"

enum {
    BACKLOG_MAX = 64 << 10, /* bytes that wait for a slow reader */
    NANOS_PER_SEC = 1000000000,
};

static GMutex monitor_lock; /* guards all of these */
static int monitor_fd = -1;
static GString *monitor_backlog;
static guint monitor_watch; /* of the main loop, while the backlog waits */
static unsigned monitor_dropped;
static void (*listener_func)(void *opaque, const char *text);
static void *listener_opaque;

/* Of the process's start, as good as it can be told: the first use of the monitor. */
static struct timespec start_time;

static void close_locked(void)
{
    if (monitor_watch)
        g_source_remove(monitor_watch);
    monitor_watch = 0;
    kumo_fd_clear(&monitor_fd);
    if (monitor_backlog)
        g_string_free(monitor_backlog, TRUE);
    monitor_backlog = NULL;
}

/* Writes what the reader takes. Returns: FALSE if the reader is gone. */
static bool flush_locked(void)
{
    while (monitor_backlog->len) {
        ssize_t n = write(monitor_fd, monitor_backlog->str, monitor_backlog->len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0) {
            kumo_warn("event monitor: %s; it is closed", g_strerror(errno));
            return false;
        }
        g_string_erase(monitor_backlog, 0, n);
    }
    return true;
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer opaque)
{
    bool keep;

    g_mutex_lock(&monitor_lock);
    keep = monitor_fd == fd && flush_locked();
    if (!keep || !monitor_backlog->len) {
        bool gone = monitor_fd == fd && !keep;

        monitor_watch = 0;
        if (gone)
            close_locked();
        keep = false;
    }
    g_mutex_unlock(&monitor_lock);
    return keep ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static int open_target(const char *spec, GError **error)
{
    uint64_t number = 0;
    const char *path;
    int fd;

    if (g_str_has_prefix(spec, "fd=")) {
        if (!kumo_option_parse_u64(spec + 3, &number) || number > G_MAXINT ||
            fcntl((int)number, F_SETFD, FD_CLOEXEC) < 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "--event-monitor %s: must be an open descriptor", spec);
            return -1;
        }
        if (!kumo_fd_set_nonblock((int)number, true)) {
            kumo_set_error_errno(error, errno, "--event-monitor %s", spec);
            return -1;
        }
        return (int)number;
    }
    path = g_str_has_prefix(spec, "path=") ? spec + 5 : "";
    if (!*path) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--event-monitor %s: must be path=FILE or fd=NUMBER", spec);
        return -1;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_APPEND, 0600);
    if (fd < 0 && errno == ENXIO)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND,
                    "--event-monitor %s: nobody has the FIFO open for reading", spec);
    else if (fd < 0)
        kumo_set_error_errno(error, errno, "--event-monitor %s", spec);
    return fd;
}

static void start_clock_locked(void)
{
    if (!start_time.tv_sec)
        clock_gettime(CLOCK_MONOTONIC, &start_time);
}

bool kumo_event_open(const char *spec, GError **error)
{
    int fd = open_target(spec, error);

    if (fd < 0)
        return false;
    signal(SIGPIPE, SIG_IGN);
    g_mutex_lock(&monitor_lock);
    close_locked();
    monitor_fd = fd;
    monitor_backlog = g_string_new(NULL);
    monitor_dropped = 0;
    start_clock_locked();
    g_mutex_unlock(&monitor_lock);
    return true;
}

void kumo_event_close(void)
{
    g_mutex_lock(&monitor_lock);
    if (monitor_fd >= 0)
        flush_locked();
    close_locked();
    g_mutex_unlock(&monitor_lock);
}

void kumo_event_set_listener(void (*listener)(void *opaque, const char *text), void *opaque)
{
    g_mutex_lock(&monitor_lock);
    listener_func = listener;
    listener_opaque = opaque;
    start_clock_locked();
    g_mutex_unlock(&monitor_lock);
}

/* One object, indented by two. Returns: (transfer full) (nullable): free with free(). */
static char *format_event(const char *source, const char *event, json_t *properties)
{
    struct timespec now;
    json_t *object;
    json_int_t nanos;
    char *text;

    clock_gettime(CLOCK_MONOTONIC, &now);
    nanos = (json_int_t)(now.tv_sec - start_time.tv_sec) * NANOS_PER_SEC +
            (now.tv_nsec - start_time.tv_nsec);
    object = json_pack("{s:{s:I, s:I}, s:s, s:s, s:O?}", "timestamp", "secs", nanos / NANOS_PER_SEC,
                       "nanos", nanos % NANOS_PER_SEC, "source", source, "event", event,
                       "properties", properties);
    text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    return text;
}

/* With a blank line after it. */
static void send_locked(const char *text)
{
    static const char separator[] = "\n\n";
    size_t len = strlen(text) + strlen(separator);

    if (monitor_backlog->len + len > BACKLOG_MAX) {
        if (!monitor_dropped++)
            kumo_warn("event monitor: the reader is too slow, events are dropped");
        return;
    }
    g_string_append(monitor_backlog, text);
    g_string_append(monitor_backlog, separator);
    if (!flush_locked())
        close_locked();
    else if (monitor_backlog->len && !monitor_watch)
        monitor_watch = g_unix_fd_add(monitor_fd, G_IO_OUT, on_writable, NULL);
}

void kumo_event(const char *source, const char *event, json_t *properties)
{
    kumo_info("event: %s %s", source, event);
    g_mutex_lock(&monitor_lock);
    if (monitor_fd >= 0 || listener_func) {
        char *text = format_event(source, event, properties);

        if (text && monitor_fd >= 0)
            send_locked(text);
        if (text && listener_func)
            listener_func(listener_opaque, text);
        free(text);
    }
    g_mutex_unlock(&monitor_lock);
    json_decref(properties);
}
