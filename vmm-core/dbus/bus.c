/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/dbus/bus.h"

#include "kumo-build.h"
#include "vmm-core/base/error.h"

void kumo_dbus_take_error(GError **error, GError *gio_error, const char *what, const char *value)
{
    g_dbus_error_strip_remote_error(gio_error);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s %s: %s", what, value, gio_error->message);
    g_error_free(gio_error);
}

static bool check_address(const KumoDbusAddress *address, GError **error)
{
    g_autofree char *name = g_utf8_make_valid(address->service_name, -1);
    g_autofree char *path = g_utf8_make_valid(address->object_path, -1);

    if (!g_dbus_is_name(address->service_name) || g_dbus_is_unique_name(address->service_name))
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--dbus-service-name: \"%s\" is not allowed, must be a name like "
                    "org.example.Vm1",
                    name);
    else if (!g_variant_is_object_path(address->object_path))
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--dbus-object-path: \"%s\" is not allowed, must be a path like "
                    "/org/example/Vm1",
                    path);
    else
        return true;
    return false;
}

GDBusConnection *kumo_dbus_connect(const KumoDbusAddress *address, GError **error)
{
    const char *bus = address->system_bus ? "system" : "session";
    g_autofree char *bus_address = NULL;
    GDBusConnection *connection = NULL;
    GError *gio_error = NULL;

    if (!check_address(address, error))
        return NULL;
    bus_address = g_dbus_address_get_for_bus_sync(
        address->system_bus ? G_BUS_TYPE_SYSTEM : G_BUS_TYPE_SESSION, NULL, &gio_error);
    /* A connection of our own: the one that a process shares ends the process with the bus. */
    if (bus_address)
        connection = g_dbus_connection_new_for_address_sync(
            bus_address,
            G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT |
                G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
            NULL, NULL, &gio_error);
    if (!connection)
        kumo_dbus_take_error(error, gio_error, "D-Bus: the bus of the", bus);
    return connection;
}

char *kumo_dbus_method_name(const char *endpoint)
{
    GString *name = g_string_new(NULL);
    bool capital = true;

    for (const char *c = endpoint; *c; c++) {
        if (*c == '.' || *c == '-') {
            capital = true;
            continue;
        }
        g_string_append_c(name, capital ? g_ascii_toupper(*c) : *c);
        capital = false;
    }
    return g_string_free(name, FALSE);
}

G_MODULE_EXPORT extern const KumoDbusModule kumo_dbus_module;

const KumoDbusModule kumo_dbus_module = {
    .version = KUMO_VERSION,
    .serve = kumo_dbus_serve,
    .event = kumo_dbus_event,
    .stop = kumo_dbus_stop,
    .close = kumo_dbus_close,
    .call = kumo_dbus_call,
};
