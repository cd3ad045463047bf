/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/log_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm-core/base/error.h"

typedef enum {
    TOKEN_TEXT, /* not a token */
    TOKEN_BOOTTIME,
    TOKEN_WALLCLOCK,
    TOKEN_GLOG,
    TOKEN_THREAD,
    TOKEN_LEVEL,
    TOKEN_LEVELCHAR,
    TOKEN_LOCATION,
    TOKEN_MSG,
    TOKEN_PID,
    TOKEN_TID,
    TOKEN_YEAR,
    TOKEN_MONTH,
    TOKEN_DAY,
    TOKEN_HOUR,
    TOKEN_MINUTE,
    TOKEN_SECOND,
    TOKEN_MICROS,
    TOKEN_OFFSET,
} Token;

static const struct {
    const char *name;
    Token token;
    bool has_local;
} tokens[] = {
    { "boottime", TOKEN_BOOTTIME, false },
    { "wallclock", TOKEN_WALLCLOCK, false },
    { "glog", TOKEN_GLOG, true },
    { "thread", TOKEN_THREAD, false },
    { "level", TOKEN_LEVEL, false },
    { "levelchar", TOKEN_LEVELCHAR, false },
    { "location", TOKEN_LOCATION, false },
    { "msg", TOKEN_MSG, false },
    { "pid", TOKEN_PID, false },
    { "tid", TOKEN_TID, false },
    { "year", TOKEN_YEAR, true },
    { "month", TOKEN_MONTH, true },
    { "day", TOKEN_DAY, true },
    { "hour", TOKEN_HOUR, true },
    { "minute", TOKEN_MINUTE, true },
    { "second", TOKEN_SECOND, true },
    { "micros", TOKEN_MICROS, true },
    { "offset", TOKEN_OFFSET, true },
};

static const char *const level_names[] = { "ERROR", "WARN", "INFO", "DEBUG", "TRACE" };

typedef struct {
    Token token;
    bool local;
    char *text; /* of TOKEN_TEXT; owned */
} Part;

struct KumoLogFormat {
    GArray *parts; /* of Part */
};

static void part_clear(void *opaque)
{
    g_free(((Part *)opaque)->text);
}

static bool find_token(const char *name, Part *ret)
{
    bool local = g_str_has_prefix(name, "local");
    const char *rest = local ? name + strlen("local") : name;

    for (unsigned i = 0; i < G_N_ELEMENTS(tokens); i++) {
        if (g_str_equal(tokens[i].name, rest) && (!local || tokens[i].has_local)) {
            *ret = (Part){ .token = tokens[i].token, .local = local };
            return true;
        }
    }
    return false;
}

static void end_text(KumoLogFormat *format, GString *text)
{
    Part part = { .token = TOKEN_TEXT };

    if (text->len == 0)
        return;
    part.text = g_strdup(text->str);
    g_array_append_val(format->parts, part);
    g_string_truncate(text, 0);
}

KumoLogFormat *kumo_log_format_new(const char *text, GError **error)
{
    g_autoptr(KumoLogFormat) format = g_new0(KumoLogFormat, 1);
    g_autoptr(GString) literal = g_string_new(NULL);

    format->parts = g_array_new(FALSE, FALSE, sizeof(Part));
    g_array_set_clear_func(format->parts, part_clear);
    for (const char *at = text; *at; at++) {
        const char *end;
        g_autofree char *name = NULL;
        Part part;

        if ((*at == '{' || *at == '}') && at[1] == *at) {
            g_string_append_c(literal, *at++);
            continue;
        }
        if (*at != '{' && *at != '}') {
            g_string_append_c(literal, *at);
            continue;
        }
        end = *at == '{' ? strchr(at, '}') : NULL;
        if (!end) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "log format: \"%s\": a brace without its other half; a brace itself is "
                        "written twice",
                        at);
            return NULL;
        }
        name = g_strndup(at + 1, (size_t)(end - at - 1));
        if (!find_token(name, &part)) {
            g_set_error(
                error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "log format: {%s} is not a token: they are boottime, wallclock, glog, thread, "
                "level, levelchar, location, msg, pid, tid, year, month, day, hour, minute, "
                "second, micros, offset, and local before glog and the parts of the date",
                name);
            return NULL;
        }
        /* Now, not when a line is written by a thread that may not open the file. */
        if (part.token >= TOKEN_YEAR || part.token == TOKEN_GLOG || part.token == TOKEN_WALLCLOCK)
            tzset();
        end_text(format, literal);
        g_array_append_val(format->parts, part);
        at = end;
    }
    end_text(format, literal);
    return g_steal_pointer(&format);
}

void kumo_log_format_free(KumoLogFormat *format)
{
    if (!format)
        return;
    g_array_unref(format->parts);
    g_free(format);
}

/* The time zone was read when the format was made: these two read no file. */
static struct tm broken_down(const KumoLogRecord *record, bool local)
{
    time_t seconds = (time_t)(record->wallclock_us / G_USEC_PER_SEC);
    struct tm tm = { 0 };

    if (local)
        localtime_r(&seconds, &tm);
    else
        gmtime_r(&seconds, &tm);
    return tm;
}

static int render_time(const Part *part, const KumoLogRecord *record, char *buf, size_t room)
{
    struct tm tm = broken_down(record, part->local);
    int micros = (int)(record->wallclock_us % G_USEC_PER_SEC);
    long offset_minutes = tm.tm_gmtoff / 60;

    switch (part->token) {
    case TOKEN_WALLCLOCK:
        return snprintf(buf, room, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year + 1900,
                        tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, micros);
    case TOKEN_GLOG:
        return snprintf(buf, room, "%02d%02d %02d:%02d:%02d.%06d", tm.tm_mon + 1, tm.tm_mday,
                        tm.tm_hour, tm.tm_min, tm.tm_sec, micros);
    case TOKEN_YEAR:
        return snprintf(buf, room, "%04d", tm.tm_year + 1900);
    case TOKEN_MONTH:
        return snprintf(buf, room, "%02d", tm.tm_mon + 1);
    case TOKEN_DAY:
        return snprintf(buf, room, "%02d", tm.tm_mday);
    case TOKEN_HOUR:
        return snprintf(buf, room, "%02d", tm.tm_hour);
    case TOKEN_MINUTE:
        return snprintf(buf, room, "%02d", tm.tm_min);
    case TOKEN_SECOND:
        return snprintf(buf, room, "%02d", tm.tm_sec);
    case TOKEN_MICROS:
        return snprintf(buf, room, "%06d", micros);
    default:
        return snprintf(buf, room, "%c%02ld:%02ld", offset_minutes < 0 ? '-' : '+',
                        labs(offset_minutes) / 60, labs(offset_minutes) % 60);
    }
}

static int render_part(const Part *part, const KumoLogRecord *record, char *buf, size_t room)
{
    const char *base;

    switch (part->token) {
    case TOKEN_TEXT:
        return snprintf(buf, room, "%s", part->text);
    case TOKEN_BOOTTIME:
        return snprintf(buf, room, "%3lld.%06d",
                        (long long)(record->since_start_us / G_USEC_PER_SEC),
                        (int)(record->since_start_us % G_USEC_PER_SEC));
    case TOKEN_THREAD:
        return snprintf(buf, room, "%s", record->thread);
    case TOKEN_LEVEL:
        return snprintf(buf, room, "%s", level_names[record->level]);
    case TOKEN_LEVELCHAR:
        return snprintf(buf, room, "%c", level_names[record->level][0]);
    case TOKEN_LOCATION:
        base = strrchr(record->file, '/');
        return snprintf(buf, room, "%s:%d", base ? base + 1 : record->file, record->line);
    case TOKEN_MSG:
        return snprintf(buf, room, "%s", record->message);
    case TOKEN_PID:
        return snprintf(buf, room, "%d", (int)getpid());
    case TOKEN_TID:
        return snprintf(buf, room, "%d", (int)gettid());
    default:
        return render_time(part, record, buf, room);
    }
}

size_t kumo_log_format_render(const KumoLogFormat *format, const KumoLogRecord *record, char *buf,
                              size_t room)
{
    size_t used = 0;

    if (room == 0)
        return 0;
    for (guint i = 0; i < format->parts->len && used + 1 < room; i++) {
        int n =
            render_part(&g_array_index(format->parts, Part, i), record, buf + used, room - used);

        used += MIN((size_t)MAX(n, 0), room - used - 1);
    }
    return used;
}
