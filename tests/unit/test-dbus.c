/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The module for D-Bus on a bus of its own: methods of a false API, descriptors, events, errors. */
#include <gio/gio.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/dbus/load.h"

#define NAME "org.example.Vm1"
#define PATH "/org/example/Vm1"

typedef struct {
    GTestDBus *bus;
    const KumoDbusModule *module;
    KumoDbusServer *server;
    char *created; /* what vm.create was given */
    unsigned n_fds;
    bool keep_fd;
    int kept_fd;
    GString *events; /* of the listener, one a line */
    unsigned n_events;
} Fixture;

static unsigned warnings;

static void on_warn(const char *message)
{
    warnings++;
}

static bool ping(void *opaque, const json_t *body, const KumoApiRequest *request,
                 json_t **ret_reply, GError **error)
{
    *ret_reply = json_pack("{s:s}", "version", "1");
    return true;
}

static bool create(void *opaque, const json_t *body, const KumoApiRequest *request,
                   json_t **ret_reply, GError **error)
{
    Fixture *f = opaque;
    char *text = json_dumps(body, JSON_COMPACT);

    g_free(f->created);
    f->created = g_strdup(text);
    free(text);
    f->n_fds = (unsigned)request->n_fds;
    if (f->keep_fd) {
        f->kept_fd = request->fds[0];
        request->fds[0] = -1;
    }
    return true;
}

static bool boot(void *opaque, const json_t *body, const KumoApiRequest *request,
                 json_t **ret_reply, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "the VM is in the state \"Fantasy\"");
    return false;
}

static bool add_disk(void *opaque, const json_t *body, const KumoApiRequest *request,
                     json_t **ret_reply, GError **error)
{
    if (json_is_string(json_object_get(body, "path")))
        *ret_reply = json_pack("{s:s}", "id", "_disk0");
    return true;
}

static const KumoApiEndpoint endpoints[] = {
    { .name = "vmm.ping", .method = "GET", .func = ping },
    { .name = "vm.create", .method = "PUT", .takes_body = true, .takes_fds = true, .func = create },
    { .name = "vm.boot", .method = "PUT", .func = boot },
    { .name = "vm.add-disk", .method = "PUT", .takes_body = true, .func = add_disk },
    { .name = "vm.add-vdpa", .method = "PUT" },
};

static void handle(void *opaque, const KumoApiRequest *request, KumoApiReply *reply)
{
    kumo_api_route(endpoints, G_N_ELEMENTS(endpoints), opaque, request, reply);
}

static KumoDbusServer *serve(Fixture *f, const char *name, const char *path, GError **error)
{
    const KumoDbusParams params = {
        .address = { .service_name = name, .object_path = path },
        .endpoints = endpoints,
        .n_endpoints = G_N_ELEMENTS(endpoints),
        .handler = handle,
        .opaque = f,
        .warn = on_warn,
    };

    return f->module->serve(&params, error);
}

static void setup(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    warnings = 0;
    f->bus = g_test_dbus_new(G_TEST_DBUS_NONE);
    g_test_dbus_up(f->bus);
    f->module = kumo_dbus_load(&error);
    g_assert_no_error(error);
    f->server = serve(f, NAME, PATH, &error);
    g_assert_no_error(error);
    g_assert_nonnull(f->server);
    f->events = g_string_new(NULL);
}

static void end_server(Fixture *f)
{
    if (!f->server)
        return;
    f->module->stop(f->server);
    f->module->close(g_steal_pointer(&f->server));
}

static void teardown(Fixture *f, gconstpointer data)
{
    end_server(f);
    while (g_main_context_iteration(NULL, FALSE))
        ;
    if (f->bus) {
        g_test_dbus_stop(f->bus);
        g_object_unref(f->bus);
    }
    g_free(f->created);
    g_string_free(f->events, TRUE);
}

/* --- calls from another thread, while the main context serves --- */

typedef struct {
    Fixture *f;
    const char *endpoint, *body;
    int fd; /* -1: none */
    char *reply;
    GError *error;
    bool ok;
    int done;
} Call;

static void *call_thread(void *opaque)
{
    const KumoDbusAddress address = { .service_name = NAME, .object_path = PATH };
    Call *call = opaque;

    call->ok = call->f->module->call(&address, call->endpoint, call->body, &call->fd,
                                     call->fd >= 0 ? 1 : 0, &call->reply, &call->error);
    g_atomic_int_set(&call->done, 1);
    g_main_context_wakeup(NULL);
    return NULL;
}

static void run_call(Call *call)
{
    GThread *thread = g_thread_new("client", call_thread, call);

    while (!g_atomic_int_get(&call->done))
        g_main_context_iteration(NULL, TRUE);
    g_thread_join(thread);
}

static void expect(Fixture *f, const char *endpoint, const char *body, const char *reply)
{
    Call call = { .f = f, .endpoint = endpoint, .body = body, .fd = -1 };

    run_call(&call);
    g_assert_no_error(call.error);
    g_assert_true(call.ok);
    g_assert_cmpstr(call.reply, ==, reply);
    g_free(call.reply);
}

static void expect_failure(Fixture *f, const char *endpoint, const char *body, const char *text)
{
    Call call = { .f = f, .endpoint = endpoint, .body = body, .fd = -1 };

    run_call(&call);
    g_assert_false(call.ok);
    g_assert_nonnull(strstr(call.error->message, text));
    g_error_free(call.error);
}

static void test_methods(Fixture *f, gconstpointer data)
{
    expect(f, "vmm.ping", NULL, "{\"version\":\"1\"}");
    expect(f, "vm.create", "{\"a\": 1}", NULL);
    g_assert_cmpstr(f->created, ==, "{\"a\":1}");
    expect(f, "vm.add-disk", "{\"path\": \"/x\"}", "{\"id\":\"_disk0\"}");
    expect(f, "vm.add-disk", "{}", NULL);
}

static void test_failures(Fixture *f, gconstpointer data)
{
    expect_failure(f, "vm.boot", NULL, "vm.boot: the VM is in the state \"Fantasy\"");
    expect_failure(f, "vm.create", "{", "vm.create: the body is not JSON");
    expect_failure(f, "vm.create", "", "vm.create: the body is missing");
    expect_failure(f, "vm.create", NULL, "does not match");
    expect_failure(f, "vmm.ping", "{}", "does not match");
    expect_failure(f, "vm.add-vdpa", "{}", "vm.add-vdpa: not supported yet");
    expect_failure(f, "vm.fly", NULL, "No such method");
    g_assert_null(f->created);
}

static void test_descriptors(Fixture *f, gconstpointer data)
{
    int ends[2];
    Call call = { .f = f, .endpoint = "vm.create", .body = "{}" };
    Call other = { .f = f, .endpoint = "vm.create", .body = "{}" };
    Call refused = { .f = f, .endpoint = "vm.add-disk", .body = "{}" };
    char c = 0;

    g_assert_cmpint(pipe(ends), ==, 0);
    call.fd = other.fd = refused.fd = ends[1];
    f->keep_fd = true;
    run_call(&call);
    g_assert_no_error(call.error);
    g_assert_cmpuint(f->n_fds, ==, 1);
    /* What is not kept is closed, also of a call that is refused. */
    f->keep_fd = false;
    run_call(&other);
    g_assert_no_error(other.error);
    run_call(&refused);
    g_assert_false(refused.ok);
    g_clear_error(&refused.error);
    close(ends[1]);
    g_assert_cmpint(write(f->kept_fd, "k", 1), ==, 1);
    close(f->kept_fd);
    g_assert_cmpint(read(ends[0], &c, 1), ==, 1);
    g_assert_cmpint(read(ends[0], &c, 1), ==, 0);
    close(ends[0]);
}

static void on_event(GDBusConnection *connection, const char *sender, const char *path,
                     const char *interface, const char *signal, GVariant *arguments,
                     gpointer opaque)
{
    Fixture *f = opaque;
    const char *text;

    g_variant_get(arguments, "(&s)", &text);
    g_string_append_printf(f->events, "%s\n", text);
    f->n_events++;
}

static GDBusConnection *listen(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    GDBusConnection *connection =
        g_dbus_connection_new_for_address_sync(g_test_dbus_get_bus_address(f->bus),
                                               G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT |
                                                   G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
                                               NULL, NULL, &error);

    g_assert_no_error(error);
    g_dbus_connection_signal_subscribe(connection, NULL, KUMO_DBUS_INTERFACE, "Event", PATH, NULL,
                                       G_DBUS_SIGNAL_FLAGS_NONE, on_event, f, NULL);
    /* An answer of the bus: it knows what was subscribed to. */
    g_variant_unref(g_dbus_connection_call_sync(
        connection, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
        "GetId", NULL, NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error));
    g_assert_no_error(error);
    return connection;
}

static void *event_thread(void *opaque)
{
    Fixture *f = opaque;

    f->module->event(f->server, "from a thread");
    return NULL;
}

static void test_events(Fixture *f, gconstpointer data)
{
    g_autoptr(GDBusConnection) connection = listen(f);
    GThread *thread;

    f->module->event(f->server, "{\"event\": \"one\"}");
    thread = g_thread_new("device", event_thread, f);
    g_thread_join(thread);
    /* What was sent before the end gets out. */
    f->module->event(f->server, "the last");
    end_server(f);
    while (f->n_events < 3)
        g_main_context_iteration(NULL, TRUE);
    g_assert_cmpstr(f->events->str, ==, "{\"event\": \"one\"}\nfrom a thread\nthe last\n");
}

static pid_t bus_pid(GDBusConnection *connection)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GVariant) answer = g_dbus_connection_call_sync(
        connection, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
        "GetConnectionUnixProcessID", g_variant_new("(s)", "org.freedesktop.DBus"),
        G_VARIANT_TYPE("(u)"), G_DBUS_CALL_FLAGS_NONE, -1, NULL, &error);
    guint32 pid = 0;

    g_assert_no_error(error);
    g_variant_get(answer, "(u)", &pid);
    g_assert_cmpuint(pid, >, 1);
    return (pid_t)pid;
}

/* Events get lost, nobody waits for the bus, and what waits does not grow without bound. */
static void test_stalled_bus(Fixture *f, gconstpointer data)
{
    enum { SENT = 20000, BYTES = 4096 };
    g_autoptr(GDBusConnection) connection = listen(f);
    g_autofree char *text = g_strnfill(BYTES, 'x');
    pid_t pid = bus_pid(connection);
    unsigned heard;

    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    for (unsigned i = 0; i < SENT; i++)
        f->module->event(f->server, text);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
    while (f->n_events < 1024)
        g_main_context_iteration(NULL, TRUE);
    /* Then it goes on. */
    heard = f->n_events;
    f->module->event(f->server, "hello again");
    while (!g_str_has_suffix(f->events->str, "hello again\n"))
        g_main_context_iteration(NULL, TRUE);
    g_assert_cmpuint(f->n_events, >, heard);
    g_assert_cmpuint(f->n_events, <, SENT / 4);
}

static void test_end_while_stalled(Fixture *f, gconstpointer data)
{
    g_autoptr(GDBusConnection) connection = listen(f);
    pid_t pid = bus_pid(connection);
    int64_t start_us = g_get_monotonic_time();

    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    f->module->event(f->server, "nobody hears");
    end_server(f);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 20 * G_USEC_PER_SEC);
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);
}

static void test_bus_ends(Fixture *f, gconstpointer data)
{
    g_test_dbus_stop(f->bus);
    while (!warnings)
        g_main_context_iteration(NULL, TRUE);
    f->module->event(f->server, "nobody hears");
    end_server(f);
    g_clear_object(&f->bus);
    g_assert_cmpuint(warnings, ==, 1);
}

static void refuse(Fixture *f, const char *name, const char *path, const char *text)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(serve(f, name, path, &error));
    g_assert_true(error->domain == KUMO_ERROR);
    g_assert_nonnull(strstr(error->message, text));
}

static void test_wrong_addresses(Fixture *f, gconstpointer data)
{
    g_autofree char *bus = g_strdup(g_getenv("DBUS_SESSION_BUS_ADDRESS"));

    refuse(f, "nodots", PATH, "--dbus-service-name: \"nodots\" is not allowed");
    refuse(f, ":1.1", PATH, "--dbus-service-name: \":1.1\" is not allowed");
    refuse(f, "", PATH, "--dbus-service-name: \"\" is not allowed");
    refuse(f, NAME, "relative", "--dbus-object-path: \"relative\" is not allowed");
    refuse(f, NAME, "/end/", "--dbus-object-path: \"/end/\" is not allowed");
    refuse(f, NAME, PATH, "--dbus-service-name " NAME ": somebody else has the name");
    g_setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus", TRUE);
    refuse(f, NAME, PATH, "the bus of the session");
    g_setenv("DBUS_SESSION_BUS_ADDRESS", bus, TRUE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/dbus/" name, Fixture, NULL, setup, func, teardown)
    ADD("methods", test_methods);
    ADD("failures", test_failures);
    ADD("descriptors", test_descriptors);
    ADD("events", test_events);
    ADD("stalled-bus", test_stalled_bus);
    ADD("end-while-stalled", test_end_while_stalled);
    ADD("bus-ends", test_bus_ends);
    ADD("wrong-addresses", test_wrong_addresses);
    return g_test_run();
}
