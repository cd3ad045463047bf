/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/config/option_string.h"

#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"
#include "vmm-core/config/option.h"

enum { INT_LIST_MAX = 8192 /* the most CPUs of a host or a guest that Linux knows */ };

static void item_free(void *opaque)
{
    KumoOptionItem *item = opaque;

    g_free(item->key);
    g_free(item->value);
    g_free(item);
}

/* Splits at commas outside quotes and brackets; the pieces keep both. */
static GPtrArray *split_commas(const char *name, const char *text, GError **error)
{
    g_autoptr(GPtrArray) pieces = g_ptr_array_new_with_free_func(g_free);
    const char *start = text;
    unsigned depth = 0;
    bool quoted = false;
    const char *fault = NULL;

    for (const char *c = text; !fault; c++) {
        /* A doubled quote inside quotes leaves and enters at once, which is as good as staying. */
        if (*c == '"')
            quoted = !quoted;
        if (*c == '\0' || (*c == ',' && !quoted && !depth)) {
            g_ptr_array_add(pieces, g_strndup(start, (gsize)(c - start)));
            start = c + 1;
        }
        if (*c == '\0')
            break;
        if (*c == '[' && !quoted)
            depth++;
        if (*c == ']' && !quoted) {
            if (!depth)
                fault = "']' without '['; put the value in double quotes if it belongs to it";
            else
                depth--;
        }
    }
    if (!fault && quoted)
        fault = "the closing double quote is missing";
    if (!fault && depth)
        fault = "the closing ']' is missing";
    if (fault) {
        g_autofree char *shown = kumo_quote_value(text);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s: %s", name, shown, fault);
        return NULL;
    }
    return g_steal_pointer(&pieces);
}

GPtrArray *kumo_option_split(const char *name, const char *text, GError **error)
{
    g_autoptr(GPtrArray) items = g_ptr_array_new_with_free_func(item_free);
    g_autoptr(GPtrArray) pieces = split_commas(name, text, error);

    if (!pieces)
        return NULL;
    for (guint i = 0; i < pieces->len; i++) {
        const char *piece = pieces->pdata[i];
        const char *equals = strchr(piece, '=');
        KumoOptionItem *item;

        if (!*piece || equals == piece) {
            g_autofree char *shown = kumo_quote_value(text);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s: %s: an item without a key, must be key=value,key=value", name, shown);
            return NULL;
        }
        item = g_new0(KumoOptionItem, 1);
        item->key = equals ? g_strndup(piece, (gsize)(equals - piece)) : g_strdup(piece);
        item->value = equals ? g_strdup(equals + 1) : NULL;
        g_ptr_array_add(items, item);
    }
    return g_steal_pointer(&items);
}

char *kumo_option_unquote(const char *raw)
{
    GString *text = g_string_sized_new(strlen(raw));
    bool quoted = false;

    for (const char *c = raw; *c; c++) {
        if (*c != '"') {
            g_string_append_c(text, *c);
        } else if (quoted && c[1] == '"') {
            g_string_append_c(text, '"');
            c++;
        } else {
            quoted = !quoted;
        }
    }
    return g_string_free(text, FALSE);
}

GPtrArray *kumo_option_split_list(const char *name, const char *raw, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) pieces = NULL;
    g_autofree char *inner = NULL;
    size_t len = strlen(raw);

    if (len >= 2 && raw[0] == '[' && raw[len - 1] == ']')
        inner = g_strndup(raw + 1, len - 2);
    else
        inner = g_strdup(raw);
    if (!*inner)
        return g_steal_pointer(&list);
    pieces = split_commas(name, inner, error);
    if (!pieces)
        return NULL;
    for (guint i = 0; i < pieces->len; i++)
        g_ptr_array_add(list, kumo_option_unquote(pieces->pdata[i]));
    return g_steal_pointer(&list);
}

bool kumo_option_parse_u64(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;

    if (!*text)
        return false;
    for (; *text; text++) {
        if (!g_ascii_isdigit(*text) || !kumo_mul_u64(value, 10, &value) ||
            !kumo_add_u64(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *ret_value = value;
    return true;
}

/* One item of an integer list: "7" or "0-3". */
static bool parse_range(const char *text, uint64_t *ret_first, uint64_t *ret_last)
{
    const char *dash = strchr(text, '-');
    g_autofree char *first = dash ? g_strndup(text, (gsize)(dash - text)) : g_strdup(text);

    return kumo_option_parse_u64(first, ret_first) &&
           kumo_option_parse_u64(dash ? dash + 1 : first, ret_last) && *ret_first <= *ret_last &&
           *ret_last <= INT32_MAX;
}

GArray *kumo_option_parse_int_list(const char *name, const char *raw, GError **error)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(int));
    g_autoptr(GPtrArray) items = kumo_option_split_list(name, raw, error);

    if (!items)
        return NULL;
    for (guint i = 0; i < items->len; i++) {
        uint64_t first = 0;
        uint64_t last = 0;

        if (!parse_range(items->pdata[i], &first, &last)) {
            g_autofree char *shown = kumo_quote_value(raw);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s: %s is not allowed, must be a list of numbers like [0-3,7]", name,
                        shown);
            return NULL;
        }
        if (last - first >= INT_LIST_MAX - list->len) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: more than %d numbers", name,
                        INT_LIST_MAX);
            return NULL;
        }
        for (uint64_t n = first; n <= last; n++) {
            const int value = (int)n;

            g_array_append_val(list, value);
        }
    }
    return g_steal_pointer(&list);
}

bool kumo_parse_size(const char *text, uint64_t *ret_bytes, GError **error)
{
    size_t len = strlen(text);
    uint64_t unit = 1;
    uint64_t value = 0;
    g_autofree char *digits = NULL;
    g_autofree char *shown = NULL;

    if (len && strchr("KMG", text[len - 1]))
        unit = text[len - 1] == 'K' ? 1 << 10 : text[len - 1] == 'M' ? 1 << 20 : 1 << 30;
    digits = g_strndup(text, unit > 1 ? len - 1 : len);
    /* JSON numbers are signed, so a size above INT64_MAX could not be told to anyone. */
    if (kumo_option_parse_u64(digits, &value) && kumo_mul_u64(value, unit, &value) &&
        value <= INT64_MAX) {
        *ret_bytes = value;
        return true;
    }
    shown = kumo_quote_value(text);
    g_set_error(
        error, KUMO_ERROR, KUMO_ERROR_INVALID,
        "%s is not a size, must be digits with K, M or G if wanted, at most %" G_GINT64_FORMAT
        " bytes",
        shown, INT64_MAX);
    return false;
}
