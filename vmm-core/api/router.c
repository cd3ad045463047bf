/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/router.h"

#include <string.h>

#include "vmm-core/base/error.h"

static const char api_root[] = "/api/v1/";

/* What failed and each of its causes, one string each. */
static void set_failure(KumoApiReply *reply, unsigned status, const GError *error)
{
    g_auto(GStrv) causes = kumo_error_causes(error);

    reply->status = status;
    reply->body = json_array();
    for (size_t i = 0; causes[i]; i++) {
        g_autofree char *text = g_utf8_make_valid(causes[i], -1);

        json_array_append_new(reply->body, json_string(text));
    }
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
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "no such endpoint");
    kumo_prefix_error(error, "%s", request->target);
    return NULL;
}

static bool check_request(const KumoApiEndpoint *endpoint, const KumoApiRequest *request,
                          GError **error)
{
    if (strcmp(endpoint->method, request->method) != 0)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "the method %s is not allowed, must be %s", request->method, endpoint->method);
    else if (!endpoint->func)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "not supported yet");
    else if (request->body_len && !endpoint->takes_body)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "takes no body");
    else if (!request->body_len && endpoint->takes_body)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "the body is missing");
    else if (request->n_fds && !endpoint->takes_fds)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "takes no descriptors");
    else
        return true;
    return false;
}

static json_t *parse_body(const KumoApiRequest *request, GError **error)
{
    json_error_t where;
    json_t *body = json_loadb(request->body, request->body_len, JSON_REJECT_DUPLICATES, &where);

    if (!body) {
        bool is_nul = json_error_code(&where) == json_error_null_character ||
                      json_error_code(&where) == json_error_null_byte_in_key;

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "line %d, column %d: %s", where.line,
                    where.column, is_nul ? "\\u0000 is not allowed" : where.text);
        kumo_prefix_error(error, "the body is not JSON");
    }
    return body;
}

static bool call(const KumoApiEndpoint *endpoint, void *opaque, const KumoApiRequest *request,
                 json_t **ret_reply, GError **error)
{
    json_t *body = NULL;
    bool ok;

    if (!check_request(endpoint, request, error))
        return false;
    if (endpoint->takes_body) {
        body = parse_body(request, error);
        if (!body)
            return false;
    }
    ok = endpoint->func(opaque, body, request, ret_reply, error);
    json_decref(body);
    return ok;
}

void kumo_api_route(const KumoApiEndpoint *endpoints, size_t n_endpoints, void *opaque,
                    const KumoApiRequest *request, KumoApiReply *reply)
{
    KumoApiRequest with_later = *request;
    g_autoptr(GError) error = NULL;
    const KumoApiEndpoint *endpoint = find_endpoint(endpoints, n_endpoints, request, &error);
    json_t *answer = NULL;

    with_later.ret_later = &reply->later;
    if (!endpoint || !call(endpoint, opaque, &with_later, &answer, &error)) {
        if (endpoint)
            kumo_prefix_error(&error, "%s", endpoint->name);
        set_failure(reply, kumo_error_http_status(error), error);
        return;
    }
    reply->status = answer ? 200 : 204;
    reply->body = answer;
}

void kumo_api_later_finish(KumoApiLater *later, const char *endpoint, const GError *error)
{
    KumoApiReply reply = { .status = 204 };

    if (error) {
        g_autoptr(GError) prefixed = g_error_copy(error);

        kumo_prefix_error(&prefixed, "%s", endpoint);
        set_failure(&reply, kumo_error_http_status(prefixed), prefixed);
    }
    if (later->answer)
        later->answer(later->opaque, &reply);
    json_decref(reply.body);
    g_free(later);
}
