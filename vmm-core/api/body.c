/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/body.h"

#include <inttypes.h>
#include <string.h>

#include "vmm-core/base/error.h"

enum { SHOWN_MAX = 64 };

/* Returns: (transfer full): @json as text that is short enough for a message. */
static char *show(const json_t *json)
{
    char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
    char *shown = g_strndup(text ? text : "it", SHOWN_MAX);

    free(text);
    return shown;
}

static bool wrong(const char *key, const json_t *json, const char *allowed, GError **error)
{
    g_autofree char *shown = show(json);

    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s is not allowed, must be %s", key,
                shown, allowed);
    return false;
}

static bool read_size(const KumoApiValue *value, const json_t *json, GError **error)
{
    uint64_t max_bytes = value->max_bytes ? value->max_bytes : INT64_MAX;
    g_autofree char *allowed = value->max_bytes
                                   ? g_strdup_printf("a size in bytes from %" PRIu64 " to %" PRIu64,
                                                     value->min_bytes, value->max_bytes)
                                   : g_strdup("a size in bytes");
    uint64_t bytes = (uint64_t)json_integer_value(json);

    if (!json_is_integer(json) || json_integer_value(json) < 0 || bytes < value->min_bytes ||
        bytes > max_bytes)
        return wrong(value->key, json, allowed, error);
    *value->ret_size_bytes = bytes;
    return true;
}

static bool read_value(const KumoApiValue *value, const json_t *json, GError **error)
{
    if (value->ret_has) {
        *value->ret_has = !json_is_null(json);
        if (json_is_null(json))
            return true;
    }
    if (value->ret_text) {
        const char *text = json_string_value(json);

        if (!text || strlen(text) != json_string_length(json))
            return wrong(value->key, json, "a string", error);
        *value->ret_text = text;
        return true;
    }
    if (value->ret_size_bytes)
        return read_size(value, json, error);
    if (value->ret_truth) {
        if (!json_is_boolean(json))
            return wrong(value->key, json, "true or false", error);
        *value->ret_truth = json_is_true(json);
        return true;
    }
    if (!json_is_integer(json) || json_integer_value(json) < 0 ||
        json_integer_value(json) > UINT32_MAX)
        return wrong(value->key, json, "a number from 0 to 4294967295", error);
    *value->ret_number = (uint32_t)json_integer_value(json);
    return true;
}

static const KumoApiValue *find(const KumoApiValue *values, size_t n_values, const char *key)
{
    for (size_t i = 0; i < n_values; i++) {
        if (strcmp(values[i].key, key) == 0)
            return &values[i];
    }
    return NULL;
}

static void set_unknown(const KumoApiValue *values, size_t n_values, const char *key,
                        GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);
    json_t *name = json_string(key);
    g_autofree char *shown = show(name);

    json_decref(name);
    for (size_t i = 0; i < n_values; i++)
        g_string_append_printf(known, "%s%s", i ? ", " : "", values[i].key);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "unknown field %s, known are: %s", shown,
                known->str);
}

bool kumo_api_read_body(const json_t *body, const KumoApiValue *values, size_t n_values,
                        GError **error)
{
    const char *key;
    json_t *json;

    if (!json_is_object(body))
        return wrong("the body", body, "an object", error);
    json_object_foreach((json_t *)body, key, json)
    {
        const KumoApiValue *value = find(values, n_values, key);

        if (!value) {
            set_unknown(values, n_values, key, error);
            return false;
        }
        if (!read_value(value, json, error))
            return false;
    }
    for (size_t i = 0; i < n_values; i++) {
        if (!values[i].ret_has && !json_object_get(body, values[i].key)) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: is missing", values[i].key);
            return false;
        }
    }
    return true;
}
