/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/http.h"

#include <string.h>

enum {
    METHOD_MAX = 16,
    TARGET_MAX = 1024,
    LENGTH_DIGITS_MAX = 10,
    BODY_KEPT_MAX = 64 << 10, /* a larger buffer is given back after the message */
};

/* Which header fields were seen: each may come once. */
typedef struct {
    bool content_length;
    bool host;
    bool expect;
    bool connection;
    bool error_code;
} SeenFields;

KumoHttpParser *kumo_http_parser_new(KumoHttpKind kind)
{
    KumoHttpParser *parser = g_new0(KumoHttpParser, 1);

    parser->kind = kind;
    parser->head = g_string_new(NULL);
    parser->body = g_string_new(NULL);
    return parser;
}

void kumo_http_parser_free(KumoHttpParser *parser)
{
    if (!parser)
        return;
    g_free(parser->method);
    g_free(parser->target);
    g_free(parser->error_code);
    g_string_free(parser->head, TRUE);
    g_string_free(parser->body, TRUE);
    g_free(parser);
}

void kumo_http_parser_reset(KumoHttpParser *parser)
{
    g_clear_pointer(&parser->method, g_free);
    g_clear_pointer(&parser->target, g_free);
    g_clear_pointer(&parser->error_code, g_free);
    parser->state = KUMO_HTTP_HEAD;
    parser->status = 0;
    parser->keep_alive = false;
    parser->expect_continue = false;
    parser->content_length = 0;
    parser->fail_status = 0;
    parser->fail_text = NULL;
    g_string_truncate(parser->head, 0);
    /* A large body should not stay allocated while its client keeps the connection open. */
    if (parser->body->allocated_len > BODY_KEPT_MAX) {
        g_string_free(parser->body, TRUE);
        parser->body = g_string_new(NULL);
    }
    g_string_truncate(parser->body, 0);
}

static bool fail(KumoHttpParser *parser, unsigned status, const char *text)
{
    parser->state = KUMO_HTTP_FAILED;
    parser->fail_status = status;
    parser->fail_text = text;
    return false;
}

static bool is_token_char(char c)
{
    return g_ascii_isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool parse_version(KumoHttpParser *parser, const char *text)
{
    if (strcmp(text, "HTTP/1.1") == 0)
        parser->keep_alive = true;
    else if (strcmp(text, "HTTP/1.0") == 0)
        parser->keep_alive = false;
    else
        return fail(parser, 505, "the protocol must be HTTP/1.1 or HTTP/1.0");
    return true;
}

/* "PUT /api/v1/vm.create HTTP/1.1" with single spaces. */
static bool parse_request_line(KumoHttpParser *parser, char *line)
{
    char *target = strchr(line, ' ');
    char *version = target ? strchr(target + 1, ' ') : NULL;

    if (!version)
        return fail(parser, 400, "the request line must be: method, target, HTTP/1.1");
    *target++ = '\0';
    *version++ = '\0';
    if (!*line || strlen(line) > METHOD_MAX)
        return fail(parser, 400, "the request's method is empty or too long");
    for (const char *c = line; *c; c++) {
        if (!g_ascii_isupper(*c))
            return fail(parser, 400, "the request's method must be capital letters");
    }
    if (*target != '/' || strlen(target) > TARGET_MAX)
        return fail(parser, 400, "the request's target must start with '/' and not be too long");
    for (const char *c = target; *c; c++) {
        if (!g_ascii_isgraph(*c))
            return fail(parser, 400, "the request's target has an illegal character");
    }
    parser->method = g_strdup(line);
    parser->target = g_strdup(target);
    return parse_version(parser, version);
}

/* "HTTP/1.1 200 OK"; the words may be missing. */
static bool parse_status_line(KumoHttpParser *parser, char *line)
{
    char *status = strchr(line, ' ');

    if (!status)
        return fail(parser, 400, "the answer has no status");
    *status++ = '\0';
    for (unsigned i = 0; i < 3; i++) {
        if (!g_ascii_isdigit(status[i]))
            return fail(parser, 400, "the answer's status is not a number of three digits");
    }
    if (status[3] && status[3] != ' ')
        return fail(parser, 400, "the answer's status is not a number of three digits");
    parser->status = (unsigned)g_ascii_digit_value(status[0]) * 100 +
                     (unsigned)g_ascii_digit_value(status[1]) * 10 +
                     (unsigned)g_ascii_digit_value(status[2]);
    if (parser->status < 100)
        return fail(parser, 400, "the answer's status is below 100");
    return parse_version(parser, line);
}

static bool parse_length(KumoHttpParser *parser, const char *value)
{
    size_t max = parser->kind == KUMO_HTTP_REQUEST ? KUMO_HTTP_REQUEST_BODY_MAX
                                                   : KUMO_HTTP_RESPONSE_BODY_MAX;
    size_t length = 0;

    if (!*value)
        return fail(parser, 400, "Content-Length must be a number");
    for (const char *c = value; *c; c++) {
        if (!g_ascii_isdigit(*c))
            return fail(parser, 400, "Content-Length must be a number");
    }
    if (strlen(value) > LENGTH_DIGITS_MAX)
        return fail(parser, 413, "the body is too large");
    for (const char *c = value; *c; c++)
        length = length * 10 + (size_t)g_ascii_digit_value(*c);
    if (length > max)
        return fail(parser, 413, "the body is too large");
    parser->content_length = length;
    return true;
}

static bool parse_connection(KumoHttpParser *parser, const char *value)
{
    g_auto(GStrv) options = g_strsplit(value, ",", -1);

    for (char **option = options; *option; option++) {
        g_strstrip(*option);
        if (g_ascii_strcasecmp(*option, "close") == 0) {
            parser->keep_alive = false;
            break;
        }
        if (g_ascii_strcasecmp(*option, "keep-alive") == 0)
            parser->keep_alive = true;
    }
    return true;
}

static bool once(KumoHttpParser *parser, bool *seen)
{
    if (*seen)
        return fail(parser, 400, "a header field is given twice");
    *seen = true;
    return true;
}

static bool parse_field(KumoHttpParser *parser, const char *name, const char *value,
                        SeenFields *seen)
{
    if (g_ascii_strcasecmp(name, "Content-Length") == 0)
        return once(parser, &seen->content_length) && parse_length(parser, value);
    if (g_ascii_strcasecmp(name, "Transfer-Encoding") == 0)
        return fail(parser, 400, "Transfer-Encoding is not allowed, only Content-Length");
    if (g_ascii_strcasecmp(name, "Host") == 0)
        return once(parser, &seen->host);
    if (g_ascii_strcasecmp(name, "Connection") == 0)
        return once(parser, &seen->connection) && parse_connection(parser, value);
    if (g_ascii_strcasecmp(name, "Expect") == 0) {
        if (!once(parser, &seen->expect))
            return false;
        if (g_ascii_strcasecmp(value, "100-continue") != 0)
            return fail(parser, 417, "Expect must be 100-continue");
        parser->expect_continue = true;
    }
    if (g_ascii_strcasecmp(name, "Kumo-Error") == 0) {
        if (!once(parser, &seen->error_code))
            return false;
        parser->error_code = g_strdup(value);
    }
    return true;
}

static bool parse_field_line(KumoHttpParser *parser, char *line, SeenFields *seen)
{
    char *colon = strchr(line, ':');
    char *value;

    if (*line == ' ' || *line == '\t')
        return fail(parser, 400, "a header field is folded over lines");
    if (!colon || colon == line)
        return fail(parser, 400, "a header field has no name");
    *colon = '\0';
    for (const char *c = line; *c; c++) {
        if (!is_token_char(*c))
            return fail(parser, 400, "a header field's name has an illegal character");
    }
    value = colon + 1;
    value += strspn(value, " \t");
    for (size_t len = strlen(value); len && strchr(" \t", value[len - 1]); len--)
        value[len - 1] = '\0';
    return parse_field(parser, line, value, seen);
}

/* The complete head stands in parser->head, without the empty line; all its line ends are CR LF. */
static bool parse_head(KumoHttpParser *parser)
{
    g_auto(GStrv) lines = g_strsplit(parser->head->str, "\r\n", -1);
    SeenFields seen = { false };

    if (!lines[0])
        return fail(parser, 400, "the head is empty");
    if (!(parser->kind == KUMO_HTTP_REQUEST ? parse_request_line(parser, lines[0])
                                            : parse_status_line(parser, lines[0])))
        return false;
    for (char **line = lines + 1; *line; line++) {
        if (!parse_field_line(parser, *line, &seen))
            return false;
    }
    /* These never have a body, whatever their fields say. */
    if (parser->kind == KUMO_HTTP_RESPONSE && (parser->status < 200 || parser->status == 204))
        parser->content_length = 0;
    return true;
}

/* Takes one byte of the head. Returns: whether the head is complete. */
static bool feed_head_byte(KumoHttpParser *parser, char c)
{
    GString *head = parser->head;
    bool after_cr = head->len && head->str[head->len - 1] == '\r';

    if (after_cr != (c == '\n'))
        return fail(parser, 400, "lines of the head must end with carriage return and line feed");
    /* Tab and bytes above 127 are legal in a field's value; the rest of the head looks closer. */
    if (g_ascii_iscntrl(c) && c != '\r' && c != '\n' && c != '\t')
        return fail(parser, 400, "the head has a control character");
    if (head->len >= KUMO_HTTP_HEAD_MAX)
        return fail(parser, 431, "the head is too large");
    g_string_append_c(head, c);
    if (head->len < 4 || memcmp(head->str + head->len - 4, "\r\n\r\n", 4) != 0)
        return false;
    g_string_truncate(head, head->len - 4);
    return true;
}

KumoHttpState kumo_http_parser_feed(KumoHttpParser *parser, const char *data, size_t len,
                                    size_t *ret_used)
{
    size_t used = 0;

    while (parser->state == KUMO_HTTP_HEAD && used < len) {
        if (!feed_head_byte(parser, data[used++]))
            continue;
        if (parse_head(parser))
            parser->state = parser->content_length ? KUMO_HTTP_BODY : KUMO_HTTP_DONE;
    }
    if (parser->state == KUMO_HTTP_BODY) {
        size_t missing = parser->content_length - parser->body->len;
        size_t take = MIN(missing, len - used);

        g_string_append_len(parser->body, data + used, (gssize)take);
        used += take;
        if (take == missing)
            parser->state = KUMO_HTTP_DONE;
    }
    *ret_used = used;
    return parser->state;
}

const char *kumo_http_reason(unsigned status)
{
    switch (status) {
    case 100:
        return "Continue";
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 409:
        return "Conflict";
    case 413:
        return "Content Too Large";
    case 417:
        return "Expectation Failed";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Unknown";
    }
}
