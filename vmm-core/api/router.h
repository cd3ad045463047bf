/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a request to the endpoint's function, and from its result to an answer. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "vmm-core/api/server.h"

/**
 * KumoApiFunc:
 * @opaque: what the router was given
 * @body: (nullable): the request's JSON value
 * @request: for the descriptors
 * @ret_reply: (out): the answer's value; NULL stays for none
 *
 * Returns: TRUE, or FALSE with @error set.
 */
typedef bool (*KumoApiFunc)(void *opaque, const json_t *body, const KumoApiRequest *request,
                            json_t **ret_reply, GError **error);

typedef struct {
    const char *name;   /* "vm.create" */
    const char *method; /* "GET", "PUT" */
    bool takes_body;
    bool takes_fds;
    KumoApiFunc func; /* NULL: known and not supported yet */
} KumoApiEndpoint;

/* Gives the answer of @endpoint that was put off, and frees @later. @error NULL: it went well. */
void kumo_api_later_finish(KumoApiLater *later, const char *endpoint, const GError *error);

/* Answers @request by the row of @endpoints that it names; @opaque goes to the function. */
void kumo_api_route(const KumoApiEndpoint *endpoints, size_t n_endpoints, void *opaque,
                    const KumoApiRequest *request, KumoApiReply *reply);
