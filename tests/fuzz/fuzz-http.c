/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The HTTP parser. The first byte's lowest bit chooses requests or answers, the others the sizes of
 * the pieces that the rest is fed in. However a stream is cut, it is read alike.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm-core/api/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

static void check_message(const KumoHttpParser *parser)
{
    size_t body_max = parser->kind == KUMO_HTTP_REQUEST ? KUMO_HTTP_REQUEST_BODY_MAX
                                                        : KUMO_HTTP_RESPONSE_BODY_MAX;

    check(parser->head->len <= KUMO_HTTP_HEAD_MAX && parser->body->len <= body_max);
    switch (parser->state) {
    case KUMO_HTTP_HEAD:
        break;
    case KUMO_HTTP_BODY:
        check(parser->body->len < parser->content_length && parser->content_length <= body_max);
        break;
    case KUMO_HTTP_DONE:
        check(parser->body->len == parser->content_length);
        if (parser->kind == KUMO_HTTP_REQUEST)
            check(parser->method && parser->target && *parser->target == '/');
        else
            check(parser->status >= 100 && parser->status <= 999);
        break;
    case KUMO_HTTP_FAILED:
        check(parser->fail_text && parser->fail_status >= 400 && parser->fail_status < 600 &&
              strcmp(kumo_http_reason(parser->fail_status), "Unknown") != 0);
        break;
    }
}

/* Returns: what all messages of the stream were, to compare. */
static GString *parse(KumoHttpKind kind, const char *data, size_t size, size_t piece)
{
    g_autoptr(KumoHttpParser) parser = kumo_http_parser_new(kind);
    GString *seen = g_string_new(NULL);
    size_t at = 0;

    while (at < size) {
        size_t len = MIN(piece, size - at);
        size_t used = SIZE_MAX;
        KumoHttpState state = kumo_http_parser_feed(parser, data + at, len, &used);

        check(state == parser->state && used <= len);
        check(used == len || state == KUMO_HTTP_DONE || state == KUMO_HTTP_FAILED);
        check_message(parser);
        at += used;
        if (state == KUMO_HTTP_FAILED) {
            g_string_append_printf(seen, "failed %u %s", parser->fail_status, parser->fail_text);
            break;
        }
        if (state == KUMO_HTTP_DONE) {
            g_string_append_printf(seen, "%s %s %u %d %s: ", parser->method, parser->target,
                                   parser->status, parser->keep_alive, parser->error_code);
            g_string_append_len(seen, parser->body->str, (gssize)parser->body->len);
            kumo_http_parser_reset(parser);
        }
    }
    g_string_append_printf(seen, "; state %d", parser->state);
    return seen;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    KumoHttpKind kind;
    GString *whole, *pieces;

    if (size < 1)
        return 0;
    kind = data[0] & 1 ? KUMO_HTTP_RESPONSE : KUMO_HTTP_REQUEST;
    whole = parse(kind, (const char *)data + 1, size - 1, size);
    pieces = parse(kind, (const char *)data + 1, size - 1, 1 + (data[0] >> 1) % 16);
    check(g_string_equal(whole, pieces));
    g_string_free(whole, TRUE);
    g_string_free(pieces, TRUE);
    return 0;
}
