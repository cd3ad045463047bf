/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The HTTP parser: splits at every byte, limits, what smuggles requests elsewhere. */
#include <string.h>

#include "vmm-core/api/http.h"

static const char put_text[] =
    "PUT /api/v1/vm.create HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
    "Content-Type: application/json\r\ncontent-length:  7 \r\n\r\n{\"a\":1}";

static void assert_put(const KumoHttpParser *parser)
{
    g_assert_cmpint(parser->state, ==, KUMO_HTTP_DONE);
    g_assert_cmpstr(parser->method, ==, "PUT");
    g_assert_cmpstr(parser->target, ==, "/api/v1/vm.create");
    g_assert_cmpmem(parser->body->str, parser->body->len, "{\"a\":1}", 7);
    g_assert_true(parser->keep_alive);
    g_assert_false(parser->expect_continue);
}

static void test_whole(void)
{
    g_autoptr(KumoHttpParser) parser = kumo_http_parser_new(KUMO_HTTP_REQUEST);
    size_t used = 0;

    for (unsigned round = 0; round < 2; round++) {
        g_assert_cmpint(kumo_http_parser_feed(parser, put_text, strlen(put_text), &used), ==,
                        KUMO_HTTP_DONE);
        g_assert_cmpuint(used, ==, strlen(put_text));
        assert_put(parser);
        kumo_http_parser_reset(parser);
    }
}

static void test_splits(void)
{
    size_t len = strlen(put_text);

    for (size_t first = 0; first <= len; first++) {
        for (size_t second = first; second <= len; second++) {
            g_autoptr(KumoHttpParser) parser = kumo_http_parser_new(KUMO_HTTP_REQUEST);
            const size_t cuts[] = { 0, first, second, len };

            for (unsigned i = 0; i < 3; i++) {
                size_t used = 0;

                g_assert_cmpint(parser->state, !=, KUMO_HTTP_FAILED);
                kumo_http_parser_feed(parser, put_text + cuts[i], cuts[i + 1] - cuts[i], &used);
                g_assert_cmpuint(used, ==, cuts[i + 1] - cuts[i]);
            }
            assert_put(parser);
        }
    }
}

/* What follows the message is left to the next one. */
static void test_pipeline(void)
{
    g_autoptr(KumoHttpParser) parser = kumo_http_parser_new(KUMO_HTTP_REQUEST);
    g_autofree char *twice = g_strconcat(put_text, "GET /x HTTP/1.0\r\n\r\nrest", NULL);
    size_t used = 0;
    size_t more = 0;

    g_assert_cmpint(kumo_http_parser_feed(parser, twice, strlen(twice), &used), ==, KUMO_HTTP_DONE);
    assert_put(parser);
    kumo_http_parser_reset(parser);
    g_assert_cmpint(kumo_http_parser_feed(parser, twice + used, strlen(twice) - used, &more), ==,
                    KUMO_HTTP_DONE);
    g_assert_cmpstr(parser->method, ==, "GET");
    g_assert_false(parser->keep_alive);
    g_assert_cmpuint(parser->body->len, ==, 0);
    g_assert_cmpstr(twice + used + more, ==, "rest");
}

static unsigned feed(KumoHttpKind kind, const char *data, size_t len)
{
    g_autoptr(KumoHttpParser) parser = kumo_http_parser_new(kind);
    size_t used = 0;

    if (kumo_http_parser_feed(parser, data, len, &used) != KUMO_HTTP_FAILED)
        return 0;
    g_assert_nonnull(parser->fail_text);
    /* A failed parser stays failed and takes nothing. */
    g_assert_cmpint(kumo_http_parser_feed(parser, "GET / HTTP/1.1\r\n\r\n", 18, &used), ==,
                    KUMO_HTTP_FAILED);
    g_assert_cmpuint(used, ==, 0);
    return parser->fail_status;
}

static void test_refusals(void)
{
    static const struct {
        const char *text;
        unsigned status; /* 0: accepted */
    } rows[] = {
        { "GET / HTTP/1.1\r\n\r\n", 0 },
        { "GET / HTTP/1.1\r\nX: a\tb\xc3\xa4\r\n\r\n", 0 },
        { "GET / HTTP/1.1\r\nX:\r\n\r\n", 0 },
        { "GET / HTTP/1.1\n\n", 400 },
        { "GET / HTTP/1.1\nX: y\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\nX: y\n\r\n", 400 },
        { "GET / HTTP/1.1\rX: y\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\r\n\r\n", 400 },
        { "\r\nGET / HTTP/1.1\r\n\r\n", 400 },
        { "\r\n\r\n", 400 },
        { "GET / HTTP/1.1 \r\n\r\n", 505 },
        { "GET / HTTP/2.0\r\n\r\n", 505 },
        { "GET / HTTP/1.10\r\n\r\n", 505 },
        { "GET / http/1.1\r\n\r\n", 505 },
        { "GET /\r\n\r\n", 400 },
        { "GET  / HTTP/1.1\r\n\r\n", 400 },
        { "get / HTTP/1.1\r\n\r\n", 400 },
        { " GET / HTTP/1.1\r\n\r\n", 400 },
        { "AAAAAAAAAAAAAAAAA / HTTP/1.1\r\n\r\n", 400 },
        { "GET x HTTP/1.1\r\n\r\n", 400 },
        { "GET http://x/ HTTP/1.1\r\n\r\n", 400 },
        { "GET /\x80 HTTP/1.1\r\n\r\n", 400 },
        { "GET /\t HTTP/1.1\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\nX\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n: y\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\nX : y\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\n X: y\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\nX: y\r\n folded\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\nX: \x01\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\nX: \x7f\r\n\r\n", 400 },
        { "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 0 },
        { "PUT / HTTP/1.1\r\nContent-Length: 4194304\r\n\r\n", 0 },
        { "PUT / HTTP/1.1\r\nContent-Length: 4194305\r\n\r\n", 413 },
        { "PUT / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n\r\n", 413 },
        { "PUT / HTTP/1.1\r\nContent-Length: 00000000001\r\n\r\n", 413 },
        { "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: 1 1\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: identity\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nExpect: 200-maybe\r\n\r\n", 417 },
        { "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\n", 400 },
        { "PUT / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", 400 },
    };
    static const char nul_in_value[] = "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n";
    static const char nul_in_target[] = "GET /\0 HTTP/1.1\r\n\r\n";

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        unsigned status = feed(KUMO_HTTP_REQUEST, rows[i].text, strlen(rows[i].text));

        if (status != rows[i].status)
            g_error("\"%s\": %u", rows[i].text, status);
    }
    g_assert_cmpuint(feed(KUMO_HTTP_REQUEST, nul_in_value, sizeof(nul_in_value) - 1), ==, 400);
    g_assert_cmpuint(feed(KUMO_HTTP_REQUEST, nul_in_target, sizeof(nul_in_target) - 1), ==, 400);
}

static void test_head_limit(void)
{
    g_autoptr(GString) text = g_string_new("GET / HTTP/1.1\r\nX: ");
    size_t tail = strlen("\r\n\r\n");

    while (text->len < KUMO_HTTP_HEAD_MAX - tail)
        g_string_append_c(text, 'x');
    g_string_append(text, "\r\n\r\n");
    g_assert_cmpuint(feed(KUMO_HTTP_REQUEST, text->str, text->len), ==, 0);
    g_string_insert(text, 20, "x");
    g_assert_cmpuint(feed(KUMO_HTTP_REQUEST, text->str, text->len), ==, 431);
}

static void test_connection_and_expect(void)
{
    static const struct {
        const char *text;
        bool keep_alive;
    } rows[] = {
        { "GET / HTTP/1.1\r\n\r\n", true },
        { "GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false },
        { "GET / HTTP/1.1\r\nConnection: x, close\r\n\r\n", false },
        { "GET / HTTP/1.1\r\nConnection: close, keep-alive\r\n\r\n", false },
        { "GET / HTTP/1.0\r\n\r\n", false },
        { "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true },
    };
    const char expect[] = "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
    g_autoptr(KumoHttpParser) parser = kumo_http_parser_new(KUMO_HTTP_REQUEST);
    size_t used = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        kumo_http_parser_reset(parser);
        g_assert_cmpint(kumo_http_parser_feed(parser, rows[i].text, strlen(rows[i].text), &used),
                        ==, KUMO_HTTP_DONE);
        g_assert_cmpint(parser->keep_alive, ==, rows[i].keep_alive);
    }
    kumo_http_parser_reset(parser);
    g_assert_cmpint(kumo_http_parser_feed(parser, expect, strlen(expect), &used), ==,
                    KUMO_HTTP_BODY);
    g_assert_true(parser->expect_continue);
    g_assert_cmpint(kumo_http_parser_feed(parser, "ok", 2, &used), ==, KUMO_HTTP_DONE);
}

static void test_responses(void)
{
    static const struct {
        const char *text;
        bool ok;
        unsigned status;
        const char *body;
    } rows[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", true, 200, "{}" },
        { "HTTP/1.1 204 No Content\r\n\r\n", true, 204, "" },
        { "HTTP/1.1 204\r\nContent-Length: 5\r\n\r\n", true, 204, "" },
        { "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", true, 404, "" },
        { "HTTP/1.1 20 OK\r\n\r\n", false, 0, NULL },
        { "HTTP/1.1 2000 OK\r\n\r\n", false, 0, NULL },
        { "HTTP/1.1 099 OK\r\n\r\n", false, 0, NULL },
        { "HTTP/1.1\r\n\r\n", false, 0, NULL },
        { "SSH-2.0-OpenSSH_9.2\r\n\r\n", false, 0, NULL },
        { "ICY 200 OK\r\n\r\n", false, 0, NULL },
        { "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", false, 0, NULL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(KumoHttpParser) parser = kumo_http_parser_new(KUMO_HTTP_RESPONSE);
        size_t used = 0;
        KumoHttpState state =
            kumo_http_parser_feed(parser, rows[i].text, strlen(rows[i].text), &used);

        g_assert_cmpint(state, ==, rows[i].ok ? KUMO_HTTP_DONE : KUMO_HTTP_FAILED);
        if (rows[i].ok) {
            g_assert_cmpuint(parser->status, ==, rows[i].status);
            g_assert_cmpstr(parser->body->str, ==, rows[i].body);
        }
    }
}

/* Requests with bytes changed at random: any end is fine, but it has to end. */
static void test_garbage(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(815);

    for (unsigned i = 0; i < 20000; i++) {
        g_autoptr(KumoHttpParser) parser =
            kumo_http_parser_new(i % 2 ? KUMO_HTTP_REQUEST : KUMO_HTTP_RESPONSE);
        g_autofree char *text = g_strdup(put_text);
        size_t len = strlen(text);
        size_t used = 0;

        for (int n = g_rand_int_range(random, 1, 6); n > 0; n--)
            text[g_rand_int_range(random, 0, (int)len)] = (char)g_rand_int_range(random, 0, 256);
        kumo_http_parser_feed(parser, text, len, &used);
        g_assert_cmpuint(used, <=, len);
        if (parser->state == KUMO_HTTP_FAILED)
            g_assert_nonnull(parser->fail_text);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/api/http/whole", test_whole);
    g_test_add_func("/api/http/splits", test_splits);
    g_test_add_func("/api/http/pipeline", test_pipeline);
    g_test_add_func("/api/http/refusals", test_refusals);
    g_test_add_func("/api/http/head-limit", test_head_limit);
    g_test_add_func("/api/http/connection", test_connection_and_expect);
    g_test_add_func("/api/http/responses", test_responses);
    g_test_add_func("/api/http/garbage", test_garbage);
    return g_test_run();
}
