/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm-core/api/http.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

enum { RECEIVE_BYTES = 16 << 10, ERROR_TEXT_MAX = 4096 };

typedef struct {
    const char *socket_path;
    const char *endpoint;
    int fd;
    gint64 deadline_us; /* monotonic; -1: none */
} Connection;

void kumo_api_response_clear(KumoApiResponse *response)
{
    g_clear_pointer(&response->body, g_free);
    g_clear_pointer(&response->error_code, g_free);
    response->body_len = 0;
    response->status = 0;
}

static bool timed_out(const Connection *conn, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s on %s: no answer in time", conn->endpoint,
                conn->socket_path);
    return false;
}

/* Waits until @events are there. */
static bool wait_for(const Connection *conn, short events, GError **error)
{
    for (;;) {
        struct pollfd ready = { .fd = conn->fd, .events = events };
        int timeout_ms = -1;
        int n;

        if (conn->deadline_us >= 0) {
            gint64 left_us = conn->deadline_us - g_get_monotonic_time();

            if (left_us <= 0)
                return timed_out(conn, error);
            timeout_ms = (int)MIN((left_us + 999) / 1000, G_MAXINT);
        }
        n = poll(&ready, 1, timeout_ms);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR) {
            kumo_set_error_errno(error, errno, "%s on %s", conn->endpoint, conn->socket_path);
            return false;
        }
    }
}

static int connect_socket(Connection *conn, GError **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    kumo_auto_fd fd = -1;

    if (strlen(conn->socket_path) >= sizeof(address.sun_path)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "API socket %s: the path is too long, at most %zu bytes are allowed",
                    conn->socket_path, sizeof(address.sun_path) - 1);
        return -1;
    }
    memcpy(address.sun_path, conn->socket_path, strlen(conn->socket_path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "API socket");
        return -1;
    }
    while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        /* EAGAIN: the server's backlog is full, which poll() does not tell the end of. */
        if (errno == EAGAIN || errno == EINTR) {
            if (conn->deadline_us >= 0 && g_get_monotonic_time() >= conn->deadline_us) {
                timed_out(conn, error);
                return -1;
            }
            g_usleep(2000);
            continue;
        }
        if (errno == ECONNREFUSED)
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "API socket %s: nobody listens",
                        conn->socket_path);
        else
            kumo_set_error_errno(error, errno, "API socket %s", conn->socket_path);
        return -1;
    }
    return kumo_fd_steal(&fd);
}

/* Sends what it can of @data at once, the descriptors with it. */
static ssize_t send_some(int fd, const char *data, size_t len, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(KUMO_HTTP_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = (void *)data, .iov_len = len };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (n_fds) {
        struct cmsghdr *rights;

        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, n_fds * sizeof(int));
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

static bool send_all(const Connection *conn, const GString *data, const int *fds, size_t n_fds,
                     GError **error)
{
    size_t sent = 0;

    while (sent < data->len) {
        ssize_t n = send_some(conn->fd, data->str + sent, data->len - sent, fds, n_fds);

        if (n >= 0) {
            sent += (size_t)n;
            n_fds = 0;
            continue;
        }
        /* The server may refuse early, answer and close: its answer says more than EPIPE. */
        if (errno == EPIPE || errno == ECONNRESET)
            return true;
        if (errno == EAGAIN) {
            if (!wait_for(conn, POLLOUT, error))
                return false;
        } else if (errno != EINTR) {
            kumo_set_error_errno(error, errno, "%s on %s", conn->endpoint, conn->socket_path);
            return false;
        }
    }
    return true;
}

static bool receive(const Connection *conn, KumoHttpParser *parser, GError **error)
{
    g_autofree char *buf = g_malloc(RECEIVE_BYTES);

    for (;;) {
        ssize_t n = recv(conn->fd, buf, RECEIVE_BYTES, 0);
        size_t done = 0;

        if (n < 0 && errno == EAGAIN) {
            if (!wait_for(conn, POLLIN, error))
                return false;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO,
                        "%s on %s: the connection ended before the answer was complete",
                        conn->endpoint, conn->socket_path);
            return false;
        }
        while (done < (size_t)n) {
            size_t used = 0;
            KumoHttpState state =
                kumo_http_parser_feed(parser, buf + done, (size_t)n - done, &used);

            done += used;
            if (state == KUMO_HTTP_FAILED) {
                g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s on %s: the answer is garbage: %s",
                            conn->endpoint, conn->socket_path, parser->fail_text);
                return false;
            }
            if (state == KUMO_HTTP_DONE && parser->status >= 200)
                return true;
            if (state == KUMO_HTTP_DONE) /* 100 Continue */
                kumo_http_parser_reset(parser);
        }
    }
}

static GString *make_request(const char *method, const char *endpoint, const char *body)
{
    GString *request = g_string_new(NULL);

    g_string_append_printf(request, "%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n",
                           method, endpoint);
    if (body)
        g_string_append_printf(request, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                               strlen(body));
    g_string_append_printf(request, "Connection: close\r\n\r\n%s", body ? body : "");
    return request;
}

bool kumo_api_request(const char *socket_path, const char *method, const char *endpoint,
                      const char *body, const int *fds, size_t n_fds, int timeout_ms,
                      KumoApiResponse *response, GError **error)
{
    g_autoptr(KumoHttpParser) parser = NULL;
    g_autoptr(GString) request = NULL;
    kumo_auto_fd fd = -1;
    Connection conn = {
        .socket_path = socket_path,
        .endpoint = endpoint,
        .deadline_us = timeout_ms < 0 ? -1 : g_get_monotonic_time() + (gint64)timeout_ms * 1000,
    };

    *response = (KumoApiResponse){ 0 };
    if (n_fds > KUMO_HTTP_FDS_MAX) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %zu descriptors, at most %d are allowed", endpoint, n_fds,
                    KUMO_HTTP_FDS_MAX);
        return false;
    }
    fd = connect_socket(&conn, error);
    if (fd < 0)
        return false;
    conn.fd = fd;
    request = make_request(method, endpoint, body);
    parser = kumo_http_parser_new(KUMO_HTTP_RESPONSE);
    if (!send_all(&conn, request, fds, n_fds, error) || !receive(&conn, parser, error))
        return false;
    response->status = parser->status;
    response->error_code = g_steal_pointer(&parser->error_code);
    response->body_len = parser->body->len;
    if (parser->body->len) {
        response->body = g_string_free(parser->body, FALSE);
        parser->body = g_string_new(NULL);
    }
    return true;
}

static KumoErrorCode code_from_status(unsigned status)
{
    switch (status) {
    case 400:
        return KUMO_ERROR_INVALID;
    case 404:
        return KUMO_ERROR_NOT_FOUND;
    case 409:
        return KUMO_ERROR_STATE;
    case 429:
        return KUMO_ERROR_BUSY;
    default:
        return KUMO_ERROR_INTERNAL;
    }
}

/* Sets @error from the list of causes. Returns: FALSE if @chain is none. */
static bool set_causes(const json_t *chain, KumoErrorCode code, GError **error)
{
    g_autoptr(GError) made = NULL;

    for (size_t i = json_array_size(chain); i > 0; i--) {
        const char *message = json_string_value(json_array_get(chain, i - 1));

        if (!message || !*message)
            continue;
        if (made)
            kumo_prefix_error(&made, "%s", message);
        else
            made = g_error_new_literal(KUMO_ERROR, (int)code, message);
    }
    if (!made)
        return false;
    g_propagate_error(error, g_steal_pointer(&made));
    return true;
}

void kumo_api_set_error(const KumoApiResponse *response, GError **error)
{
    KumoErrorCode code = code_from_status(response->status);
    json_t *chain = NULL;

    if (response->error_code)
        kumo_error_code_from_name(response->error_code, &code);
    if (response->body)
        chain = json_loadb(response->body, response->body_len, 0, NULL);
    if (set_causes(chain, code, error)) {
        json_decref(chain);
        return;
    }
    json_decref(chain);
    /* Not ours: show what came, as far as it is text. */
    if (response->body) {
        g_autofree char *valid =
            g_utf8_make_valid(response->body, (gssize)MIN(response->body_len, ERROR_TEXT_MAX));

        g_set_error_literal(error, KUMO_ERROR, (int)code, valid);
        return;
    }
    g_set_error(error, KUMO_ERROR, (int)code, "the server answered %u %s", response->status,
                kumo_http_reason(response->status));
}

bool kumo_api_call(const char *socket_path, const char *method, const char *endpoint,
                   const json_t *body, const int *fds, size_t n_fds, int timeout_ms,
                   json_t **ret_body, GError **error)
{
    g_auto(KumoApiResponse) response = { 0 };
    json_t *json = NULL;
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    bool ok;

    if (ret_body)
        *ret_body = NULL;
    ok = kumo_api_request(socket_path, method, endpoint, text, fds, n_fds, timeout_ms, &response,
                          error);
    free(text);
    if (!ok)
        return false;
    if (response.status >= 400) {
        kumo_api_set_error(&response, error);
        return false;
    }
    if (response.body) {
        json_error_t where;

        json = json_loadb(response.body, response.body_len,
                          JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
        if (!json) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s on %s: the answer is not JSON: %s",
                        endpoint, socket_path, where.text);
            return false;
        }
    }
    if (ret_body)
        *ret_body = json;
    else
        json_decref(json);
    return true;
}
