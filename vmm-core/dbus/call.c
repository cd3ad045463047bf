/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The client's side, for kumo-remote. */
#include <gio/gunixfdlist.h>

#include "vmm-core/base/error.h"
#include "vmm-core/dbus/bus.h"

/* Returns: (transfer full): copies of @fds, or NULL with @gio_error set. */
static GUnixFDList *copy_fds(const int *fds, size_t n_fds, GError **gio_error)
{
    GUnixFDList *list = g_unix_fd_list_new();

    for (size_t i = 0; i < n_fds; i++) {
        if (g_unix_fd_list_append(list, fds[i], gio_error) < 0)
            g_clear_object(&list);
        if (!list)
            break;
    }
    return list;
}

bool kumo_dbus_call(const KumoDbusAddress *address, const char *endpoint, const char *body,
                    const int *fds, size_t n_fds, char **ret_reply, GError **error)
{
    g_autoptr(GDBusConnection) connection = kumo_dbus_connect(address, error);
    g_autofree char *method = kumo_dbus_method_name(endpoint);
    g_autoptr(GUnixFDList) list = NULL;
    g_autoptr(GVariant) answer = NULL;
    GError *gio_error = NULL;

    if (!connection)
        return false;
    list = copy_fds(fds, n_fds, &gio_error);
    if (list)
        answer = g_dbus_connection_call_with_unix_fd_list_sync(
            connection, address->service_name, address->object_path, KUMO_DBUS_INTERFACE, method,
            body ? g_variant_new("(s)", body) : NULL, NULL, G_DBUS_CALL_FLAGS_NO_AUTO_START,
            G_MAXINT, list, NULL, NULL, &gio_error);
    if (!answer) {
        kumo_dbus_take_error(error, gio_error, address->service_name, method);
        return false;
    }
    *ret_reply = NULL;
    if (g_variant_is_of_type(answer, G_VARIANT_TYPE("(s)"))) {
        const char *text;

        g_variant_get(answer, "(&s)", &text);
        if (*text)
            *ret_reply = g_strdup(text);
    }
    return true;
}
