/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the module's two sides, server and client, have in common. */
#pragma once

#include <gio/gio.h>

#include "vmm-core/dbus/module.h"

/* Makes @error, of GIO, one of ours that begins with @what and its @value. */
void kumo_dbus_take_error(GError **error, GError *gio_error, const char *what, const char *value);

/**
 * kumo_dbus_connect:
 *
 * Checks @address and connects to its bus; the end of the bus does not end the process.
 *
 * Returns: (transfer full): or NULL with @error set.
 */
GDBusConnection *kumo_dbus_connect(const KumoDbusAddress *address, GError **error);

/* Returns: (transfer full): the method of an endpoint: "VmAddDisk" of "vm.add-disk". */
char *kumo_dbus_method_name(const char *endpoint);

/* module.h says what these do. */
KumoDbusServer *kumo_dbus_serve(const KumoDbusParams *params, GError **error);
void kumo_dbus_event(KumoDbusServer *server, const char *text);
void kumo_dbus_stop(KumoDbusServer *server);
void kumo_dbus_close(KumoDbusServer *server);
bool kumo_dbus_call(const KumoDbusAddress *address, const char *endpoint, const char *body,
                    const int *fds, size_t n_fds, char **ret_reply, GError **error);
