/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging: one line per message to one descriptor (standard error until told otherwise), written
 * with a single write() so that lines of several threads do not mix. Safe to call from any thread.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    KUMO_LOG_ERROR,
    KUMO_LOG_WARN,
    KUMO_LOG_INFO,
    KUMO_LOG_DEBUG,
    KUMO_LOG_TRACE,
} KumoLogLevel;

/* The most verbose level that is written; read without a lock on every call. */
extern KumoLogLevel kumo_log_level;

/**
 * kumo_log_open_file:
 * @path: a log file, created with mode 0600 if missing and appended to
 *
 * Returns: TRUE, or FALSE with @error set; the old destination stays in place then.
 */
bool kumo_log_open_file(const char *path, GError **error);

/* Writes @text as it is to where log lines go. Safe in signal handlers. */
void kumo_log_write_raw(const char *text, size_t len);

/* The moment that log lines count their seconds from: the start of the process. */
void kumo_log_start(void);

/**
 * kumo_log_set_format:
 * @text: how lines look, see log_format.h
 *
 * Before the first thread is started.
 *
 * Returns: TRUE, or FALSE with @error naming what is no token.
 */
bool kumo_log_set_format(const char *text, GError **error);

void kumo_log_write(KumoLogLevel level, const char *file, int line, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

#define kumo_log(level, ...)                                                                       \
    do {                                                                                           \
        if ((level) <= kumo_log_level)                                                             \
            kumo_log_write((level), __FILE__, __LINE__, __VA_ARGS__);                              \
    } while (0)

#define kumo_error(...) kumo_log(KUMO_LOG_ERROR, __VA_ARGS__)
#define kumo_warn(...)  kumo_log(KUMO_LOG_WARN, __VA_ARGS__)
#define kumo_info(...)  kumo_log(KUMO_LOG_INFO, __VA_ARGS__)
#define kumo_debug(...) kumo_log(KUMO_LOG_DEBUG, __VA_ARGS__)
#define kumo_trace(...) kumo_log(KUMO_LOG_TRACE, __VA_ARGS__)

/* State of one place that a guest can make noisy: at most 10 messages in 5 seconds get through. */
typedef struct {
    int64_t window_start_us;
    unsigned count;
    unsigned dropped;
} KumoLogLimit;

/**
 * kumo_log_limit_pass:
 * @limit: state of the place, zero at first; races between threads only blur the count
 *
 * Returns: TRUE if a message may be written now.
 */
bool kumo_log_limit_pass(KumoLogLimit *limit);

/* A warning about something the guest did: written at a limited rate per place. */
#define kumo_warn_guest(...)                                                                       \
    do {                                                                                           \
        static KumoLogLimit kumo_limit_;                                                           \
        if (KUMO_LOG_WARN <= kumo_log_level && kumo_log_limit_pass(&kumo_limit_))                  \
            kumo_log_write(KUMO_LOG_WARN, __FILE__, __LINE__, __VA_ARGS__);                        \
    } while (0)
