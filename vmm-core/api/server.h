/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The API's server: HTTP over a UNIX stream socket, on the main loop. Each client has its own
 * parser and buffers and no call on it blocks, so that a slow, silent or hostile client costs
 * nobody else anything.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct KumoApiServer KumoApiServer;
typedef struct KumoApiLater KumoApiLater;

typedef struct {
    const char *method;
    const char *target;
    const char *body; /* zero-terminated after @body_len bytes */
    size_t body_len;
    int *fds; /* that came with the request; the handler sets to -1 those that it keeps */
    size_t n_fds;
    KumoApiLater **ret_later; /* an endpoint that answers later puts that here; set by the router */
} KumoApiRequest;

typedef struct {
    unsigned status;
    json_t *body;           /* (transfer full) (nullable) */
    const char *error_code; /* static; NULL: no error of ours */
    KumoApiLater *later;    /* (transfer none): the answer comes later; the rest is unset */
} KumoApiReply;

/* An answer that is due when something has ended. It belongs to who gives the answer. */
struct KumoApiLater {
    /* Gives the answer to who asked; NULL: that has gone. @reply is the caller's. */
    void (*answer)(void *opaque, const KumoApiReply *reply);
    void *opaque;
};

/* Fills in @reply. Main thread; may take as long as the VM's change takes. */
typedef void (*KumoApiHandler)(void *opaque, const KumoApiRequest *request, KumoApiReply *reply);

/**
 * kumo_api_server_new:
 * @context: (nullable): where the server runs, NULL: the default main context
 * @spec: "path=SOCKET", "SOCKET" or "fd=NUMBER" of a listening UNIX socket
 *
 * A socket left behind by a process that is gone is replaced: SOCKET.lock, held by an OFD lock for
 * the server's life, tells. The socket is for the owner only (mode 0600).
 *
 * Returns: (transfer full): the server, listening, or NULL with @error set (CONFLICT: in use).
 */
KumoApiServer *kumo_api_server_new(GMainContext *context, const char *spec, KumoApiHandler handler,
                                   void *opaque, GError **error);

/* Returns: (transfer none) (nullable): where the socket of @spec is; NULL: it was given. */
const char *kumo_api_server_path(const char *spec);

/* Closes all connections and removes the socket. Not from inside a handler. NULL is fine. */
void kumo_api_server_free(KumoApiServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoApiServer, kumo_api_server_free)
