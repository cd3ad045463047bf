/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <gio/gunixfdlist.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/api/http.h"
#include "vmm-core/base/error.h"
#include "vmm-core/dbus/bus.h"

enum {
    EVENTS_MAX = 1024, /* that wait for a bus that stalls */
    REQUEST_NAME_MS = 10000,
    FAREWELL_MS = 1000,
    NAME_FLAG_DO_NOT_QUEUE = 4,   /* of RequestName in the D-Bus specification, */
    NAME_REPLY_PRIMARY_OWNER = 1, /* and its answer */
};

struct KumoDbusServer {
    KumoDbusParams params;
    char *object_path;
    GDBusConnection *connection;
    GDBusNodeInfo *node;
    guint registration; /* 0: stopped */
    int *waiting;       /* events not yet sent; counted reference */
};

static const KumoApiEndpoint *find_endpoint(const KumoDbusServer *server, const char *method)
{
    for (size_t i = 0; i < server->params.n_endpoints; i++) {
        const KumoApiEndpoint *endpoint = &server->params.endpoints[i];
        g_autofree char *name = kumo_dbus_method_name(endpoint->name);

        if (strcmp(name, method) == 0)
            return endpoint;
    }
    return NULL;
}

/* One that is not supported yet has a body as well: the answer says so, whatever is in it. */
static bool takes_body(const KumoApiEndpoint *endpoint)
{
    return endpoint->takes_body || !endpoint->func;
}

/* The interface is the same whether there is an answer this time or not: a device that is added
 * before the boot has none. */
static bool replies(const KumoApiEndpoint *endpoint)
{
    return strcmp(endpoint->method, "GET") == 0 || g_str_has_prefix(endpoint->name, "vm.add-");
}

/* --- one call --- */

/* The messages of the answer's array. */
static char *error_text(const KumoApiReply *reply)
{
    GString *text = g_string_new(NULL);
    size_t i;
    json_t *part;

    json_array_foreach(reply->body, i, part)
    {
        if (json_is_string(part))
            g_string_append_printf(text, "%s%s", text->len ? ": " : "", json_string_value(part));
    }
    if (!text->len)
        g_string_append_printf(text, "failed with status %u", reply->status);
    return g_string_free(text, FALSE);
}

static void give_answer(const KumoApiEndpoint *endpoint, const KumoApiReply *reply,
                        GDBusMethodInvocation *invocation)
{
    if (reply->status >= 400) {
        g_autofree char *text = error_text(reply);

        g_dbus_method_invocation_return_dbus_error(invocation, "org.freedesktop.DBus.Error.Failed",
                                                   text);
    } else if (replies(endpoint)) {
        char *text = reply->body ? json_dumps(reply->body, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

        /* D-Bus has no null: an empty string stands for no answer. */
        g_dbus_method_invocation_return_value(invocation, g_variant_new("(s)", text ? text : ""));
        free(text);
    } else {
        g_dbus_method_invocation_return_value(invocation, NULL);
    }
}

/* A call whose answer comes later. */
typedef struct {
    const KumoApiEndpoint *endpoint;
    GDBusMethodInvocation *invocation;
} Waiting;

static void answer_later(void *opaque, const KumoApiReply *reply)
{
    Waiting *waiting = opaque;

    give_answer(waiting->endpoint, reply, waiting->invocation);
    g_free(waiting);
}

static void wait_for_answer(const KumoApiEndpoint *endpoint, GDBusMethodInvocation *invocation,
                            KumoApiLater *later)
{
    Waiting *waiting = g_new0(Waiting, 1);

    waiting->endpoint = endpoint;
    waiting->invocation = invocation;
    later->answer = answer_later;
    later->opaque = waiting;
}

static void on_call(GDBusConnection *connection, const char *sender, const char *object_path,
                    const char *interface, const char *method, GVariant *arguments,
                    GDBusMethodInvocation *invocation, gpointer opaque)
{
    KumoDbusServer *server = opaque;
    const KumoApiEndpoint *endpoint = find_endpoint(server, method);
    GUnixFDList *fds =
        g_dbus_message_get_unix_fd_list(g_dbus_method_invocation_get_message(invocation));
    g_autofree char *target = NULL;
    KumoApiRequest request = { .body = "" };
    KumoApiReply reply = { .status = 500 };
    gint n_fds = 0;

    /* The connection has checked name and arguments against what we told of the interface. */
    target = g_strconcat("/api/v1/", endpoint->name, NULL);
    request.method = endpoint->method;
    request.target = target;
    if (takes_body(endpoint))
        g_variant_get(arguments, "(&s)", &request.body);
    request.body_len = strlen(request.body);
    if (request.body_len > KUMO_HTTP_REQUEST_BODY_MAX) {
        g_dbus_method_invocation_return_dbus_error(
            invocation, "org.freedesktop.DBus.Error.LimitsExceeded", "the body is too long");
        return;
    }
    if (fds) {
        request.fds = g_unix_fd_list_steal_fds(fds, &n_fds);
        request.n_fds = (size_t)n_fds;
    }
    server->params.handler(server->params.opaque, &request, &reply);
    for (gint i = 0; i < n_fds; i++) {
        if (request.fds[i] >= 0)
            close(request.fds[i]);
    }
    g_free(request.fds);
    if (reply.later)
        wait_for_answer(endpoint, invocation, reply.later);
    else
        give_answer(endpoint, &reply, invocation);
    json_decref(reply.body);
}

/* --- the interface --- */

/* As the specification of D-Bus has it in XML. */
static GDBusNodeInfo *describe(const KumoDbusParams *params)
{
    g_autoptr(GString) xml =
        g_string_new("<node><interface name='" KUMO_DBUS_INTERFACE "'>"
                     "<signal name='Event'><arg name='event' type='s'/></signal>");
    GDBusNodeInfo *node;

    for (size_t i = 0; i < params->n_endpoints; i++) {
        const KumoApiEndpoint *endpoint = &params->endpoints[i];
        g_autofree char *name = kumo_dbus_method_name(endpoint->name);

        g_string_append_printf(
            xml, "<method name='%s'>%s%s</method>", name,
            takes_body(endpoint) ? "<arg name='request' type='s' direction='in'/>" : "",
            replies(endpoint) ? "<arg name='answer' type='s' direction='out'/>" : "");
    }
    g_string_append(xml, "</interface></node>");
    node = g_dbus_node_info_new_for_xml(xml->str, NULL);
    g_assert(node);
    return node;
}

static bool request_name(KumoDbusServer *server, GError **error)
{
    const char *name = server->params.address.service_name;
    GError *gio_error = NULL;
    g_autoptr(GVariant) answer = g_dbus_connection_call_sync(
        server->connection, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
        "RequestName", g_variant_new("(su)", name, NAME_FLAG_DO_NOT_QUEUE), G_VARIANT_TYPE("(u)"),
        G_DBUS_CALL_FLAGS_NONE, REQUEST_NAME_MS, NULL, &gio_error);
    guint32 result = 0;

    if (!answer) {
        kumo_dbus_take_error(error, gio_error, "--dbus-service-name", name);
        return false;
    }
    g_variant_get(answer, "(u)", &result);
    if (result != NAME_REPLY_PRIMARY_OWNER)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                    "--dbus-service-name %s: somebody else has the name", name);
    return result == NAME_REPLY_PRIMARY_OWNER;
}

static void on_closed(GDBusConnection *connection, gboolean vanished, GError *error,
                      gpointer opaque)
{
    KumoDbusServer *server = opaque;
    g_autofree char *text =
        g_strdup_printf("D-Bus: the bus is gone (%s): the VM goes on without it",
                        error ? error->message : "closed");

    server->params.warn(text);
}

/* Called on the connection's thread when a message is the next to be written. */
static GDBusMessage *on_message(GDBusConnection *connection, GDBusMessage *message,
                                gboolean incoming, gpointer opaque)
{
    if (!incoming && g_dbus_message_get_message_type(message) == G_DBUS_MESSAGE_TYPE_SIGNAL)
        g_atomic_int_add((int *)opaque, -1);
    return message;
}

KumoDbusServer *kumo_dbus_serve(const KumoDbusParams *params, GError **error)
{
    static const GDBusInterfaceVTable vtable = { .method_call = on_call };
    KumoDbusServer *server;
    GDBusConnection *connection = kumo_dbus_connect(&params->address, error);
    GError *gio_error = NULL;

    if (!connection)
        return NULL;
    server = g_new0(KumoDbusServer, 1);
    server->params = *params;
    server->connection = connection;
    server->object_path = g_strdup(params->address.object_path);
    server->waiting = g_atomic_rc_box_new0(int);
    server->node = describe(params);
    g_dbus_connection_add_filter(connection, on_message, g_atomic_rc_box_acquire(server->waiting),
                                 g_atomic_rc_box_release);
    g_signal_connect(connection, "closed", G_CALLBACK(on_closed), server);
    /* First the object, then the name: whoever sees the name finds the object. */
    server->registration = g_dbus_connection_register_object(connection, server->object_path,
                                                             server->node->interfaces[0], &vtable,
                                                             server, NULL, &gio_error);
    if (!server->registration)
        kumo_dbus_take_error(error, gio_error, "--dbus-object-path", server->object_path);
    if (!server->registration || !request_name(server, error)) {
        kumo_dbus_stop(server);
        kumo_dbus_close(server);
        return NULL;
    }
    return server;
}

/* --- events --- */

void kumo_dbus_event(KumoDbusServer *server, const char *text)
{
    /* The connection queues without bound: what waits in it is counted here. */
    if (g_dbus_connection_is_closed(server->connection) ||
        g_atomic_int_get(server->waiting) >= EVENTS_MAX)
        return;
    g_atomic_int_inc(server->waiting);
    g_dbus_connection_emit_signal(server->connection, NULL, server->object_path,
                                  KUMO_DBUS_INTERFACE, "Event", g_variant_new("(s)", text), NULL);
}

/* --- the end --- */

void kumo_dbus_stop(KumoDbusServer *server)
{
    if (server->registration)
        g_dbus_connection_unregister_object(server->connection, server->registration);
    server->registration = 0;
}

/* Outlives the wait: who sends may be stuck for ever. */
static void on_farewell(GObject *source, GAsyncResult *result, gpointer opaque)
{
    int *done = opaque;

    g_dbus_connection_flush_finish(G_DBUS_CONNECTION(source), result, NULL);
    *done = 1;
    g_atomic_rc_box_release(done);
}

static gboolean on_too_late(gpointer opaque)
{
    *(int *)opaque = 1;
    return G_SOURCE_REMOVE;
}

/* The answer to vmm.shutdown and the last events must get out; a context of our own, for calls that
 * wait in the main one have nobody to answer them any more. */
static void farewell(KumoDbusServer *server)
{
    g_autoptr(GMainContext) context = g_main_context_new();
    g_autoptr(GSource) timer = g_timeout_source_new(FAREWELL_MS);
    int *done = g_atomic_rc_box_new0(int);

    g_main_context_push_thread_default(context);
    g_source_set_callback(timer, on_too_late, done, NULL);
    g_source_attach(timer, context);
    g_dbus_connection_flush(server->connection, NULL, on_farewell, g_atomic_rc_box_acquire(done));
    while (!*done)
        g_main_context_iteration(context, TRUE);
    g_source_destroy(timer);
    g_main_context_pop_thread_default(context);
    g_atomic_rc_box_release(done);
}

void kumo_dbus_close(KumoDbusServer *server)
{
    g_signal_handlers_disconnect_by_data(server->connection, server);
    if (!g_dbus_connection_is_closed(server->connection)) {
        farewell(server);
        g_dbus_connection_close(server->connection, NULL, NULL, NULL);
    }
    g_object_unref(server->connection);
    g_dbus_node_info_unref(server->node);
    g_atomic_rc_box_release(server->waiting);
    g_free(server->object_path);
    g_free(server);
}
