/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The API over D-Bus, as a module of its own: it links GIO, whose start-up costs as much as all of
 * kumo, so it is loaded only when somebody asks for it. The module knows nothing of the VMM but
 * what KumoDbusParams hands to it.
 *
 * Interface org.cloudhypervisor.DBusApi1: a method for each endpoint ("vm.add-disk" is VmAddDisk)
 * that takes the request's JSON as a string and gives back the answer's JSON, and the signal Event
 * with the text of each event.
 */
#pragma once

#include "vmm-core/api/router.h"

#define KUMO_DBUS_INTERFACE "org.cloudhypervisor.DBusApi1"

typedef struct KumoDbusServer KumoDbusServer;

/* Which object on which bus. */
typedef struct {
    const char *service_name;
    const char *object_path;
    bool system_bus; /* otherwise the session's */
} KumoDbusAddress;

/* All of it outlives the server, but the strings. */
typedef struct {
    KumoDbusAddress address;
    const KumoApiEndpoint *endpoints;
    size_t n_endpoints;
    KumoApiHandler handler; /* on the main thread, from the default main context */
    void *opaque;
    void (*warn)(const char *message); /* any thread */
} KumoDbusParams;

typedef struct {
    const char *version; /* KUMO_VERSION of the build: the module of another one does not fit */

    /* Waits until the bus has given us the name. Returns: NULL with @error naming bus or name. */
    KumoDbusServer *(*serve)(const KumoDbusParams *params, GError **error);
    /* Sends the signal. Any thread; never blocks: while the bus stalls, events get lost. */
    void (*event)(KumoDbusServer *server, const char *text);
    /* No method is called any more; events still go out. */
    void (*stop)(KumoDbusServer *server);
    /* After stop, when nobody calls event: sends what waits, for a moment at most, and frees. */
    void (*close)(KumoDbusServer *server);

    /**
     * call:
     * @endpoint: "vm.boot"
     * @body: (nullable): JSON text
     * @fds: go with the call and stay the caller's
     * @ret_reply: (out) (transfer full) (nullable): JSON text; free with g_free()
     *
     * The client's side: one call, without a time limit.
     */
    bool (*call)(const KumoDbusAddress *address, const char *endpoint, const char *body,
                 const int *fds, size_t n_fds, char **ret_reply, GError **error);
} KumoDbusModule;

/* The one symbol that the module exports: a KumoDbusModule. */
#define KUMO_DBUS_MODULE_SYMBOL "kumo_dbus_module"
#define KUMO_DBUS_MODULE_FILE   "kumo-dbus.so"
