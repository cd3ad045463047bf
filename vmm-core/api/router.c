/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/router.h"

#include <string.h>

#include "vmm-core/base/error.h"

static const char api_root[] = "/api/v1/";

/* Errors are a JSON array of the chain of messages; ours is one message that has the chain in it.
 */
static void set_failure(KumoApiReply *reply, unsigned status, const GError *error)
{
    g_autofree char *message = g_utf8_make_valid(error->message, -1);

    reply->status = status;
    reply->body = json_pack("[s]", message);
    if (error->domain == KUMO_ERROR)
        reply->error_code = kumo_error_code_name((KumoErrorCode)error->code);
}

static const KumoApiEndpoint *find_endpoint(const KumoApiEndpoint *endpoints, size_t n_endpoints,
                                            const KumoApiRequest *request, GError **error)
{
    const char *name = request->target;

    if (g_str_has_prefix(name, api_root)) {
        name += strlen(api_root);
        for (size_t i = 0; i < n_endpoints; i++) {
            if (strcmp(endpoints[i].name, name) == 0)
                return &endpoints[i];
        }
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "%s: no such endpoint", request->target);
    return NULL;
}

static bool check_request(const KumoApiEndpoint *endpoint, const KumoApiRequest *request,
                          GError **error)
{
    if (strcmp(endpoint->method, request->method) != 0)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: the method %s is not allowed, must be %s", endpoint->name, request->method,
                    endpoint->method);
    else if (!endpoint->func)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "%s is not supported yet",
                    endpoint->name);
    else if (request->body_len && !endpoint->takes_body)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: takes no body", endpoint->name);
    else if (!request->body_len && endpoint->takes_body)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: the body is missing",
                    endpoint->name);
    else if (request->n_fds && !endpoint->takes_fds)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: takes no descriptors",
                    endpoint->name);
    else
        return true;
    return false;
}

static json_t *parse_body(const KumoApiEndpoint *endpoint, const KumoApiRequest *request,
                          GError **error)
{
    json_error_t where;
    json_t *body = json_loadb(request->body, request->body_len, JSON_REJECT_DUPLICATES, &where);

    if (!body)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: the body is not JSON: line %d, column %d: %s", endpoint->name, where.line,
                    where.column, where.text);
    return body;
}

static bool call(const KumoApiEndpoint *endpoints, size_t n_endpoints, void *opaque,
                 const KumoApiRequest *request, json_t **ret_reply, GError **error)
{
    const KumoApiEndpoint *endpoint = find_endpoint(endpoints, n_endpoints, request, error);
    json_t *body = NULL;
    bool ok;

    if (!endpoint || !check_request(endpoint, request, error))
        return false;
    if (endpoint->takes_body) {
        body = parse_body(endpoint, request, error);
        if (!body)
            return false;
    }
    ok = endpoint->func(opaque, body, request, ret_reply, error);
    if (!ok)
        g_prefix_error(error, "%s: ", endpoint->name);
    json_decref(body);
    return ok;
}

void kumo_api_route(const KumoApiEndpoint *endpoints, size_t n_endpoints, void *opaque,
                    const KumoApiRequest *request, KumoApiReply *reply)
{
    g_autoptr(GError) error = NULL;
    json_t *answer = NULL;

    if (!call(endpoints, n_endpoints, opaque, request, &answer, &error)) {
        set_failure(reply, kumo_error_http_status(error), error);
        return;
    }
    reply->status = answer ? 200 : 204;
    reply->body = answer;
}
