/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API client against a server that answers from a script. */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "vmm-core/api/client.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

typedef struct {
    char *dir;
    char *path;
    int listen_fd;
    GThread *thread;

    const char *answer;
    size_t answer_len;
    bool byte_by_byte;
    bool early;  /* answers and closes before it read the body */
    bool silent; /* keeps the connection and says nothing */
    size_t want_bytes;

    GString *request;
    int fd; /* what came with it */
} Server;

static void receive(Server *server, int fd)
{
    char buf[4096];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;

    do {
        struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) };
        struct msghdr message = { .msg_iov = &iov,
                                  .msg_iovlen = 1,
                                  .msg_control = control.bytes,
                                  .msg_controllen = sizeof(control) };
        ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);

        if (n <= 0)
            return;
        g_string_append_len(server->request, buf, n);
        if (message.msg_controllen)
            memcpy(&server->fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    } while (!strstr(server->request->str, "\r\n\r\n") ||
             server->request->len < server->want_bytes);
}

static void *serve(void *opaque)
{
    Server *server = opaque;
    kumo_auto_fd fd = accept(server->listen_fd, NULL, NULL);
    char byte;

    if (!server->early)
        receive(server, fd);
    if (server->silent) {
        while (recv(fd, &byte, 1, 0) > 0)
            ;
        return NULL;
    }
    for (size_t i = 0; i < server->answer_len; i++) {
        size_t len = server->byte_by_byte ? 1 : server->answer_len;

        if (send(fd, server->answer + i, len, MSG_NOSIGNAL) < 0)
            break;
        i += len - 1;
    }
    return NULL;
}

static void start(Server *server)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    server->dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    server->path = g_build_filename(server->dir, "api", NULL);
    server->request = g_string_new(NULL);
    server->fd = -1;
    g_strlcpy(address.sun_path, server->path, sizeof(address.sun_path));
    server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(server->listen_fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(server->listen_fd, 1), ==, 0);
    if (server->answer && !server->answer_len)
        server->answer_len = strlen(server->answer);
    server->thread = g_thread_new("server", serve, server);
}

static void stop(Server *server)
{
    g_thread_join(server->thread);
    kumo_fd_clear(&server->listen_fd);
    kumo_fd_clear(&server->fd);
    g_unlink(server->path);
    g_rmdir(server->dir);
    g_free(server->path);
    g_free(server->dir);
    g_string_free(server->request, TRUE);
}

static void test_request(void)
{
    Server server = { .answer =
                          "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 8\r\n\r\n{\"a\": 1}",
                      .byte_by_byte = true };
    g_autoptr(GError) error = NULL;
    json_t *body = NULL;

    start(&server);
    g_assert_true(
        kumo_api_call(server.path, "GET", "vmm.ping", NULL, NULL, 0, 5000, &body, &error));
    g_assert_no_error(error);
    g_assert_cmpint(json_integer_value(json_object_get(body, "a")), ==, 1);
    json_decref(body);
    g_assert_true(g_str_has_prefix(server.request->str, "GET /api/v1/vmm.ping HTTP/1.1\r\n"));
    g_assert_null(strstr(server.request->str, "Content-Length"));
    stop(&server);
}

static void test_body_and_fds(void)
{
    Server server = { .answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                      .want_bytes = 1 };
    g_autoptr(GError) error = NULL;
    kumo_auto_fd fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    json_t *body = json_pack("{s:s}", "id", "net0");
    json_t *answer = body;

    start(&server);
    g_assert_true(
        kumo_api_call(server.path, "PUT", "vm.add-net", body, &fd, 1, 5000, &answer, &error));
    g_assert_no_error(error);
    g_assert_null(answer);
    json_decref(body);
    g_assert_true(g_str_has_suffix(server.request->str, "\r\n\r\n{\"id\":\"net0\"}"));
    g_assert_nonnull(strstr(server.request->str, "\r\nContent-Length: 13\r\n"));
    stop(&server);
}

static void test_fds_arrive(void)
{
    Server server = { .answer = "HTTP/1.1 204 No Content\r\n\r\n" };
    g_auto(KumoApiResponse) response = { 0 };
    int ends[2];
    char byte = 0;

    g_assert_cmpint(pipe(ends), ==, 0);
    start(&server);
    g_assert_true(kumo_api_request(server.path, "PUT", "vm.add-net", "{}", &ends[1], 1, 5000,
                                   &response, NULL));
    g_assert_cmpuint(response.status, ==, 204);
    g_assert_null(response.body);
    g_assert_cmpint(server.fd, >=, 0);
    g_assert_cmpint(write(server.fd, "x", 1), ==, 1);
    g_assert_cmpint(read(ends[0], &byte, 1), ==, 1);
    g_assert_cmpint(byte, ==, 'x');
    close(ends[0]);
    close(ends[1]);
    stop(&server);
}

static void test_errors(void)
{
    static const struct {
        const char *answer;
        KumoErrorCode code;
        const char *message;
    } rows[] = {
        { "HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\n[\"a\",\"b: c\"]",
          KUMO_ERROR_NOT_FOUND, "a: b: c" },
        { "HTTP/1.1 400 Bad Request\r\nKumo-Error: NOT_SUPPORTED\r\nContent-Length: "
          "5\r\n\r\n[\"x\"]",
          KUMO_ERROR_NOT_SUPPORTED, "x" },
        { "HTTP/1.1 400 Bad Request\r\nKumo-Error: BOGUS\r\nContent-Length: 4\r\n\r\noops",
          KUMO_ERROR_INVALID, "oops" },
        { "HTTP/1.1 409 Conflict\r\n\r\n", KUMO_ERROR_STATE, "the server answered 409 Conflict" },
        { "HTTP/1.1 429 X\r\n\r\n", KUMO_ERROR_BUSY, "the server answered 429 Too Many Requests" },
        { "HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\n{]\xff", KUMO_ERROR_INTERNAL,
          "{]\xef\xbf\xbd" },
        { "HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\n[1]", KUMO_ERROR_INTERNAL, "[1]" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        Server server = { .answer = rows[i].answer };
        g_autoptr(GError) error = NULL;

        start(&server);
        g_assert_false(
            kumo_api_call(server.path, "PUT", "vm.boot", NULL, NULL, 0, 5000, NULL, &error));
        g_assert_error(error, KUMO_ERROR, (int)rows[i].code);
        g_assert_cmpstr(error->message, ==, rows[i].message);
        stop(&server);
    }
}

static void test_garbage(void)
{
    static const char *const answers[] = {
        "",
        "\n",
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(answers); i++) {
        Server server = { .answer = answers[i] };
        g_autoptr(GError) error = NULL;
        json_t *body = NULL;

        start(&server);
        g_assert_false(
            kumo_api_call(server.path, "GET", "vm.info", NULL, NULL, 0, 5000, &body, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_IO);
        g_assert_nonnull(strstr(error->message, "vm.info"));
        g_assert_null(body);
        stop(&server);
    }
}

static void test_time_out(void)
{
    Server server = { .silent = true };
    g_autoptr(GError) error = NULL;
    gint64 begin = g_get_monotonic_time();

    start(&server);
    g_assert_false(kumo_api_call(server.path, "GET", "vm.info", NULL, NULL, 0, 50, NULL, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_IO);
    g_assert_nonnull(strstr(error->message, "no answer in time"));
    g_assert_cmpint(g_get_monotonic_time() - begin, >=, 45000);
    stop(&server);
}

/* A server that refuses a large request before it read it: its answer is still seen. */
static void test_early_refusal(void)
{
    Server server = { .answer = "HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\n[\"x\"]",
                      .early = true };
    g_autofree char *large = g_strnfill(3 << 20, ' ');
    g_auto(KumoApiResponse) response = { 0 };
    g_autoptr(GError) error = NULL;

    start(&server);
    /* The kernel may also drop the answer when the server closes with bytes unread. */
    if (kumo_api_request(server.path, "PUT", "vm.create", large, NULL, 0, 5000, &response, &error))
        g_assert_cmpuint(response.status, ==, 413);
    else
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_IO);
    stop(&server);
}

static void test_nobody(void)
{
    Server server = { .answer = "" };
    g_autoptr(GError) error = NULL;
    g_autofree char *long_path = g_strnfill(200, 'x');
    g_autofree char *path = NULL;
    int fds[300] = { 0 };

    start(&server);
    path = g_strdup(server.path);
    g_assert_false(kumo_api_call(path, "GET", "x", NULL, NULL, 0, 1000, NULL, NULL));
    g_thread_join(server.thread);
    kumo_fd_clear(&server.listen_fd);
    g_assert_false(kumo_api_call(path, "GET", "x", NULL, NULL, 0, 1000, NULL, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, path));
    g_clear_error(&error);
    g_unlink(path);
    g_assert_false(kumo_api_call(path, "GET", "x", NULL, NULL, 0, 1000, NULL, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_false(kumo_api_call(long_path, "GET", "x", NULL, NULL, 0, 1000, NULL, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_false(kumo_api_call(path, "GET", "x", NULL, fds, 300, 1000, NULL, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_rmdir(server.dir);
    g_free(server.path);
    g_free(server.dir);
    g_string_free(server.request, TRUE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/api/client/request", test_request);
    g_test_add_func("/api/client/body", test_body_and_fds);
    g_test_add_func("/api/client/fds", test_fds_arrive);
    g_test_add_func("/api/client/errors", test_errors);
    g_test_add_func("/api/client/garbage", test_garbage);
    g_test_add_func("/api/client/time-out", test_time_out);
    g_test_add_func("/api/client/early-refusal", test_early_refusal);
    g_test_add_func("/api/client/nobody", test_nobody);
    return g_test_run();
}
