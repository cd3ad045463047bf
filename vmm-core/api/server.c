/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/server.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm-core/api/http.h"
#include "vmm-core/api/listen.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum {
    CLIENTS_MAX = 32,
    RECEIVE_BYTES = 16 << 10,
    /* Without progress in the middle of a request or an answer, and between requests. */
    STALLED_SECONDS = 30,
    IDLE_SECONDS = 600,
    SWEEP_SECONDS = 10,
    ACCEPT_PAUSE_MS = 100,
};

/* A descriptor on the main loop whose events can be changed, which g_unix_fd_source cannot. */
typedef struct {
    GSource source;
    gpointer tag;
} FdSource;

typedef struct {
    KumoApiServer *server;
    int fd;
    FdSource *source;
    KumoHttpParser *parser;
    GString *input;     /* received and not parsed: what follows a request that is being answered */
    GString *output;    /* empty if all was sent */
    size_t output_sent; /* of it */
    GArray *fds;        /* of int, came with the request being received */
    bool continue_sent;
    bool close_after;    /* the output is the last */
    bool keep_alive;     /* after the answer that comes later */
    KumoApiLater *later; /* NULL: no answer is due */
    gint64 progress_us;
} Client;

struct KumoApiServer {
    GMainContext *context;
    KumoApiListener listener;
    FdSource *accept_source;
    GSource *sweep; /* while there are clients */
    GSource *pause; /* while the process has no descriptors left */
    KumoApiHandler handler;
    void *opaque;
    GQueue clients; /* of Client, the one that was silent longest first */
};

static gboolean fd_source_check(GSource *source)
{
    return g_source_query_unix_fd(source, ((FdSource *)source)->tag) != 0;
}

static gboolean fd_source_dispatch(GSource *source, GSourceFunc callback, gpointer opaque)
{
    return callback(opaque);
}

static GSourceFuncs fd_source_funcs = {
    .check = fd_source_check,
    .dispatch = fd_source_dispatch,
};

static FdSource *fd_source_new(KumoApiServer *server, int fd, GIOCondition events, GSourceFunc func,
                               void *opaque)
{
    FdSource *source = (FdSource *)g_source_new(&fd_source_funcs, sizeof(FdSource));

    source->tag = g_source_add_unix_fd(&source->source, fd, events);
    g_source_set_callback(&source->source, func, opaque, NULL);
    g_source_attach(&source->source, server->context);
    return source;
}

static void source_clear(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
    }
    *source = NULL;
}

static void close_fds(GArray *fds)
{
    for (guint i = 0; i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);

        if (fd >= 0)
            close(fd);
    }
    g_array_set_size(fds, 0);
}

static void client_free(Client *client)
{
    KumoApiServer *server = client->server;

    g_queue_remove(&server->clients, client);
    if (client->later)
        client->later->answer = NULL;
    source_clear((GSource **)&client->source);
    close(client->fd);
    kumo_http_parser_free(client->parser);
    close_fds(client->fds);
    g_array_unref(client->fds);
    g_string_free(client->input, TRUE);
    g_string_free(client->output, TRUE);
    g_free(client);
    if (g_queue_is_empty(&server->clients))
        source_clear(&server->sweep);
}

static void client_progress(Client *client)
{
    GQueue *clients = &client->server->clients;

    client->progress_us = g_get_monotonic_time();
    g_queue_remove(clients, client);
    g_queue_push_tail(clients, client);
}

/* Sends what the client takes. Returns: FALSE if the connection is broken. */
static bool client_flush(Client *client)
{
    while (client->output->len) {
        ssize_t n = send(client->fd, client->output->str + client->output_sent,
                         client->output->len - client->output_sent, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        client->output_sent += (size_t)n;
        if (client->output_sent == client->output->len) {
            /* Not truncated: the memory of a large answer should not stay with an idle client. */
            g_string_free(client->output, TRUE);
            client->output = g_string_new(NULL);
            client->output_sent = 0;
        }
        client_progress(client);
    }
    return true;
}

/* Whoever asks by HEAD wants no body (RFC 9110, 9.3.2), and would take it for the next answer. */
static void queue_reply(Client *client, const KumoApiReply *reply, bool keep_alive)
{
    GString *output = client->output;
    bool is_head = g_strcmp0(client->parser->method, "HEAD") == 0;
    char *body = reply->body ? json_dumps(reply->body, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    g_string_append_printf(output, "HTTP/1.1 %u %s\r\nServer: kumo\r\nConnection: %s\r\n",
                           reply->status, kumo_http_reason(reply->status),
                           keep_alive ? "keep-alive" : "close");
    if (reply->error_code)
        g_string_append_printf(output, "Kumo-Error: %s\r\n", reply->error_code);
    if (body)
        g_string_append_printf(output,
                               "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                               strlen(body), is_head ? "" : body);
    else
        g_string_append(output, reply->status == 204 ? "\r\n" : "Content-Length: 0\r\n\r\n");
    free(body);
    if (!keep_alive)
        client->close_after = true;
}

static void client_refuse(Client *client, unsigned status, const char *text)
{
    KumoApiReply reply = { .status = status, .body = json_pack("[s]", text) };

    reply.error_code = kumo_error_code_name(KUMO_ERROR_INVALID);
    queue_reply(client, &reply, false);
    json_decref(reply.body);
}

static void client_watch(Client *client)
{
    /* While an answer waits to be read, or is due, nothing more is taken. */
    g_source_modify_unix_fd(&client->source->source, client->source->tag,
                            client->output->len ? G_IO_OUT
                            : client->later     ? 0
                                                : G_IO_IN);
}

static void client_serve(Client *client);

static void answer_later(void *opaque, const KumoApiReply *reply)
{
    Client *client = opaque;

    client->later = NULL;
    kumo_info("api: %s", client->keep_alive ? "the answer that was due" : "the last answer");
    queue_reply(client, reply, client->keep_alive);
    client_progress(client);
    client_serve(client);
}

static void client_answer(Client *client)
{
    const KumoHttpParser *parser = client->parser;
    KumoApiReply reply = { .status = 500 };
    const KumoApiRequest request = {
        .method = parser->method,
        .target = parser->target,
        .body = parser->body->str,
        .body_len = parser->body->len,
        .fds = (int *)client->fds->data,
        .n_fds = client->fds->len,
    };

    client->server->handler(client->server->opaque, &request, &reply);
    if (reply.later) {
        client->keep_alive = parser->keep_alive;
        client->later = reply.later;
        *reply.later = (KumoApiLater){ .answer = answer_later, .opaque = client };
    } else {
        kumo_info("api: %s %s: %u", parser->method, parser->target, reply.status);
        queue_reply(client, &reply, parser->keep_alive);
    }
    json_decref(reply.body);
    close_fds(client->fds);
    client->continue_sent = false;
    kumo_http_parser_reset(client->parser);
}

/*
 * Parses what was received, one request at a time: the next is looked at when the answer has left,
 * so that a client that sends and never reads cannot make the buffers grow.
 */
static void client_parse(Client *client)
{
    KumoHttpParser *parser = client->parser;

    while (client->input->len && !client->close_after && !client->output->len && !client->later) {
        size_t used = 0;
        KumoHttpState state =
            kumo_http_parser_feed(parser, client->input->str, client->input->len, &used);

        g_string_erase(client->input, 0, (gssize)used);
        if (state == KUMO_HTTP_FAILED) {
            client_refuse(client, parser->fail_status, parser->fail_text);
        } else if (state == KUMO_HTTP_DONE && client->input->len && client->fds->len) {
            /* The kernel does not tell which of the two requests they came with. */
            client_refuse(client, 400, "descriptors came together with more than one request");
        } else if (state == KUMO_HTTP_DONE) {
            client_answer(client);
            if (!client_flush(client))
                client->close_after = true;
        } else if (state == KUMO_HTTP_BODY && parser->expect_continue && !parser->body->len &&
                   !client->continue_sent) {
            client->continue_sent = true;
            g_string_append(client->output, "HTTP/1.1 100 Continue\r\n\r\n");
            if (!client_flush(client))
                client->close_after = true;
        }
    }
}

/* Adds the message's descriptors. Returns: FALSE if some were lost or they are too many. */
static bool collect_fds(Client *client, struct msghdr *message)
{
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg; cmsg = CMSG_NXTHDR(message, cmsg)) {
        if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
            g_array_append_vals(client->fds, CMSG_DATA(cmsg),
                                (guint)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int)));
    }
    return !(message->msg_flags & MSG_CTRUNC) && client->fds->len <= KUMO_HTTP_FDS_MAX;
}

/* Returns: FALSE if the connection ended. */
static bool client_receive(Client *client)
{
    char buf[RECEIVE_BYTES];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(KUMO_HTTP_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) };
    struct msghdr message = { .msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = control.bytes,
                              .msg_controllen = sizeof(control) };
    ssize_t n = recvmsg(client->fd, &message, MSG_CMSG_CLOEXEC);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (!collect_fds(client, &message)) {
        client_refuse(client, 400,
                      "too many descriptors came with the request, or such as this process may not "
                      "have");
        return true;
    }
    if (n == 0)
        return false;
    g_string_append_len(client->input, buf, n);
    client_progress(client);
    return true;
}

/* Parses and answers what there is; the client may be gone afterwards. */
static void client_serve(Client *client)
{
    client_parse(client);
    if (!client_flush(client) || (client->close_after && !client->output->len))
        client_free(client);
    else
        client_watch(client);
}

static gboolean on_client(gpointer opaque)
{
    Client *client = opaque;
    GIOCondition events = g_source_query_unix_fd(&client->source->source, client->source->tag);
    bool alive = true;

    if (events & G_IO_OUT)
        alive = client_flush(client);
    if (alive && events & (G_IO_IN | G_IO_HUP | G_IO_ERR))
        alive = client_receive(client);
    if (!alive) {
        client_free(client);
        return G_SOURCE_REMOVE;
    }
    client_serve(client);
    return G_SOURCE_CONTINUE;
}

static bool client_is_idle(const Client *client)
{
    return !client->output->len && !client->parser->head->len && !client->later;
}

static gboolean on_sweep(gpointer opaque)
{
    KumoApiServer *server = opaque;
    gint64 now = g_get_monotonic_time();
    GList *next;

    for (GList *link = server->clients.head; link; link = next) {
        Client *client = link->data;
        gint64 limit = client_is_idle(client) ? IDLE_SECONDS : STALLED_SECONDS;

        next = link->next;
        if (!client->later && now - client->progress_us > limit * G_USEC_PER_SEC) {
            /* Freeing the last client drops this source, which is still safe: GLib holds it. */
            client_free(client);
        }
    }
    return G_SOURCE_CONTINUE;
}

static void client_new(KumoApiServer *server, int fd)
{
    Client *client = g_new0(Client, 1);

    client->server = server;
    client->fd = fd;
    client->parser = kumo_http_parser_new(KUMO_HTTP_REQUEST);
    client->input = g_string_new(NULL);
    client->output = g_string_new(NULL);
    client->fds = g_array_new(FALSE, FALSE, sizeof(int));
    client->progress_us = g_get_monotonic_time();
    client->source = fd_source_new(server, fd, G_IO_IN, on_client, client);
    g_queue_push_tail(&server->clients, client);
    if (!server->sweep) {
        server->sweep = g_timeout_source_new_seconds(SWEEP_SECONDS);
        g_source_set_callback(server->sweep, on_sweep, server, NULL);
        g_source_attach(server->sweep, server->context);
    }
}

static gboolean on_accept_again(gpointer opaque)
{
    KumoApiServer *server = opaque;

    source_clear(&server->pause);
    g_source_modify_unix_fd(&server->accept_source->source, server->accept_source->tag, G_IO_IN);
    return G_SOURCE_REMOVE;
}

/* No descriptor for the client that waits: give up the most silent one, or look again a little
 * later. */
static void make_room(KumoApiServer *server)
{
    static KumoLogLimit limit;

    if (kumo_log_limit_pass(&limit))
        kumo_warn("api: no descriptor for another client: %s", g_strerror(errno));
    if (!g_queue_is_empty(&server->clients)) {
        client_free(g_queue_peek_head(&server->clients));
        return;
    }
    g_source_modify_unix_fd(&server->accept_source->source, server->accept_source->tag, 0);
    server->pause = g_timeout_source_new(ACCEPT_PAUSE_MS);
    g_source_set_callback(server->pause, on_accept_again, server, NULL);
    g_source_attach(server->pause, server->context);
}

static gboolean on_accept(gpointer opaque)
{
    KumoApiServer *server = opaque;
    int fd = accept4(server->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            make_room(server);
        return G_SOURCE_CONTINUE;
    }
    if (server->clients.length >= CLIENTS_MAX)
        client_free(g_queue_peek_head(&server->clients));
    client_new(server, fd);
    return G_SOURCE_CONTINUE;
}

KumoApiServer *kumo_api_server_new(GMainContext *context, const char *spec, KumoApiHandler handler,
                                   void *opaque, GError **error)
{
    g_auto(KumoApiListener) listener = KUMO_API_LISTENER_INIT;
    KumoApiServer *server;

    if (!kumo_api_listener_open(&listener, spec, error))
        return NULL;
    server = g_new0(KumoApiServer, 1);
    server->context = context;
    server->listener = listener;
    listener = (KumoApiListener)KUMO_API_LISTENER_INIT;
    server->handler = handler;
    server->opaque = opaque;
    g_queue_init(&server->clients);
    server->accept_source = fd_source_new(server, server->listener.fd, G_IO_IN, on_accept, server);
    return server;
}

const char *kumo_api_server_path(const char *spec)
{
    return kumo_api_listener_path(spec);
}

void kumo_api_server_free(KumoApiServer *server)
{
    if (!server)
        return;
    while (!g_queue_is_empty(&server->clients))
        client_free(g_queue_peek_head(&server->clients));
    source_clear((GSource **)&server->accept_source);
    source_clear(&server->pause);
    kumo_api_listener_close(&server->listener);
    g_free(server);
}
