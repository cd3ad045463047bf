/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The subset of HTTP/1.1 that the API speaks: a request or status line, header fields, a body of
 * Content-Length bytes. Everything else is refused, above all whatever two parsers could read in
 * two ways: bare line feeds, control characters, folded lines, repeated lengths, Transfer-Encoding.
 * The parser knows no sockets; it is fed bytes in pieces of any size.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    KUMO_HTTP_HEAD_MAX = 16 << 10, /* request line and header fields */
    KUMO_HTTP_REQUEST_BODY_MAX = 4 << 20,
    KUMO_HTTP_RESPONSE_BODY_MAX = 64 << 20,
    KUMO_HTTP_FDS_MAX = 253, /* what one SCM_RIGHTS message holds */
};

typedef enum {
    KUMO_HTTP_REQUEST,
    KUMO_HTTP_RESPONSE,
} KumoHttpKind;

typedef enum {
    KUMO_HTTP_HEAD, /* the head is not complete */
    KUMO_HTTP_BODY, /* the head is there, the body is not */
    KUMO_HTTP_DONE,
    KUMO_HTTP_FAILED, /* for ever */
} KumoHttpState;

typedef struct {
    KumoHttpKind kind;
    KumoHttpState state;

    char *method; /* requests */
    char *target;
    unsigned status;  /* responses */
    char *error_code; /* responses: the field Kumo-Error, NULL: none */
    bool keep_alive;
    bool expect_continue;
    size_t content_length;

    GString *head; /* as far as it came */
    GString *body;

    unsigned fail_status; /* FAILED: what a server answers with */
    const char *fail_text;
} KumoHttpParser;

KumoHttpParser *kumo_http_parser_new(KumoHttpKind kind);
void kumo_http_parser_free(KumoHttpParser *parser);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoHttpParser, kumo_http_parser_free)

/* Makes ready for the next message. */
void kumo_http_parser_reset(KumoHttpParser *parser);

/**
 * kumo_http_parser_feed:
 * @ret_used: (out): bytes taken; fewer than @len only if the message is DONE or FAILED
 *
 * Returns: the state after these bytes.
 */
KumoHttpState kumo_http_parser_feed(KumoHttpParser *parser, const char *data, size_t len,
                                    size_t *ret_used);

/* Returns: the standard's words for @status, "Unknown" for others. */
const char *kumo_http_reason(unsigned status);
