/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a log line looks: a template with {tokens}; "{{" and "}}" stand for braces. The tokens are
 * those of Cloud Hypervisor:
 *
 *   boottime                    seconds since the process started, with microseconds
 *   wallclock                   UTC as in RFC 3339
 *   glog localglog              month, day and time as glog writes them
 *   year month day hour minute second micros offset, and each with "local" in front
 *   thread pid tid              who wrote it
 *   level levelchar location    WARN, W, file:line
 *   msg                         the message
 */
#pragma once

#include "vmm-core/base/log.h"

#define KUMO_LOG_FORMAT_DEFAULT "kumo: {boottime}s: <{thread}> {level}:{location} -- {msg}"

typedef struct KumoLogFormat KumoLogFormat;

/* Returns: (transfer full): NULL with @error naming what is no token. */
KumoLogFormat *kumo_log_format_new(const char *text, GError **error);
void kumo_log_format_free(KumoLogFormat *format);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoLogFormat, kumo_log_format_free)

/* What one line is made of. */
typedef struct {
    KumoLogLevel level;
    const char *file;
    int line;
    const char *thread;
    const char *message;
    int64_t since_start_us;
    int64_t wallclock_us; /* since 1970-01-01 UTC */
} KumoLogRecord;

/**
 * kumo_log_format_render:
 * @buf: of @room bytes; what does not fit is cut off
 *
 * Reads no file: the time zone is the one that kumo_log_format_new() found.
 *
 * Returns: the bytes written, without a terminator.
 */
size_t kumo_log_format_render(const KumoLogFormat *format, const KumoLogRecord *record, char *buf,
                              size_t room);
