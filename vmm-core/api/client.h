/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Client of the API, for kumo-remote and the libvirt driver. Each call is one connection, so that
 * calls from several threads do not meet; it blocks at most until its time-out.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct {
    unsigned status;
    char *body; /* zero-terminated after @body_len bytes; NULL: none */
    size_t body_len;
    char *error_code; /* the error's code by name, if the server is kumo; NULL: none */
} KumoApiResponse;

void kumo_api_response_clear(KumoApiResponse *response);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(KumoApiResponse, kumo_api_response_clear)

/**
 * kumo_api_request:
 * @socket_path: the server's UNIX socket
 * @method: "GET" or "PUT"
 * @endpoint: "vm.create"; "/api/v1/" is put before it
 * @body: (nullable): JSON text
 * @fds: (nullable): @n_fds descriptors to pass with SCM_RIGHTS; they stay the caller's
 * @timeout_ms: for the whole of the exchange; negative: none
 * @response: (out): whatever the server answered, errors too; to be cleared by the caller
 *
 * Returns: TRUE if an answer of any status came; FALSE with @error set (NOT_FOUND: no such socket
 * or nobody listens, DENIED, IO: the connection broke, the answer is garbage or the time is over).
 */
bool kumo_api_request(const char *socket_path, const char *method, const char *endpoint,
                      const char *body, const int *fds, size_t n_fds, int timeout_ms,
                      KumoApiResponse *response, GError **error);

/**
 * kumo_api_call:
 * @body: (nullable): JSON value
 * @ret_body: (out) (optional) (nullable): the answer's JSON value, NULL if it has no body
 *
 * kumo_api_request() with JSON on both sides. An answer of 400 and above becomes @error, with the
 * code that the server had and its chain of messages.
 *
 * Returns: TRUE, or FALSE with @error set.
 */
bool kumo_api_call(const char *socket_path, const char *method, const char *endpoint,
                   const json_t *body, const int *fds, size_t n_fds, int timeout_ms,
                   json_t **ret_body, GError **error);

/**
 * kumo_api_set_error:
 * @response: an answer of status 400 and above
 *
 * Sets @error from the answer: its code, and the causes in its JSON array.
 */
void kumo_api_set_error(const KumoApiResponse *response, GError **error);
