/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's listening socket and the lock beside it. */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct {
    int fd;
    int lock_fd;
    char *path; /* NULL: the descriptor was given */
    char *lock_path;
} KumoApiListener;

#define KUMO_API_LISTENER_INIT                                                                     \
    {                                                                                              \
        .fd = -1, .lock_fd = -1                                                                    \
    }

/**
 * kumo_api_listener_open:
 * @spec: as of kumo_api_server_new()
 *
 * Returns: TRUE with @listener filled in, or FALSE with @error set.
 */
bool kumo_api_listener_open(KumoApiListener *listener, const char *spec, GError **error);

/* As kumo_api_server_path(). */
const char *kumo_api_listener_path(const char *spec);

/* Closes and, if it was made here, removes socket and lock. */
void kumo_api_listener_close(KumoApiListener *listener);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(KumoApiListener, kumo_api_listener_close)
