/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/state.h"

#include <string.h>

#include "vmm-core/base/error.h"

static const char version_key[] = "version";

static const uint64_t number_max[] = {
    [KUMO_STATE_U8] = UINT8_MAX,   [KUMO_STATE_U16] = UINT16_MAX, [KUMO_STATE_U32] = UINT32_MAX,
    [KUMO_STATE_U64] = UINT64_MAX, [KUMO_STATE_BOOL] = 1,
};

static size_t element_size(const KumoStateField *field)
{
    switch (field->type) {
    case KUMO_STATE_U16:
        return sizeof(uint16_t);
    case KUMO_STATE_U32:
        return sizeof(uint32_t);
    case KUMO_STATE_U64:
        return sizeof(uint64_t);
    case KUMO_STATE_BOOL:
        return sizeof(bool);
    case KUMO_STATE_TABLE:
        return field->table->size;
    default:
        return 1;
    }
}

static uint64_t load_number(const KumoStateField *field, const void *at)
{
    switch (field->type) {
    case KUMO_STATE_U8:
        return *(const uint8_t *)at;
    case KUMO_STATE_U16:
        return *(const uint16_t *)at;
    case KUMO_STATE_U32:
        return *(const uint32_t *)at;
    case KUMO_STATE_U64:
        return *(const uint64_t *)at;
    default:
        return *(const bool *)at;
    }
}

static void store_number(const KumoStateField *field, void *at, uint64_t value)
{
    switch (field->type) {
    case KUMO_STATE_U8:
        *(uint8_t *)at = (uint8_t)value;
        break;
    case KUMO_STATE_U16:
        *(uint16_t *)at = (uint16_t)value;
        break;
    case KUMO_STATE_U32:
        *(uint32_t *)at = (uint32_t)value;
        break;
    case KUMO_STATE_U64:
        *(uint64_t *)at = value;
        break;
    default:
        *(bool *)at = value != 0;
    }
}

static size_t *count_at(const KumoStateField *field, const void *object)
{
    return (size_t *)((char *)object + field->count_offset);
}

static bool is_array(const KumoStateField *field)
{
    return field->list || (field->count > 0 && field->type <= KUMO_STATE_TABLE);
}

/* --- encoding --- */

static json_t *encode_bytes(const uint8_t *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    g_autofree char *text = g_malloc(2 * len + 1);

    for (size_t i = 0; i < len; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    return json_stringn_nocheck(text, 2 * len);
}

static json_t *encode_element(const KumoStateField *field, const void *at)
{
    char text[2 + 16 + 1];

    switch (field->type) {
    case KUMO_STATE_TABLE:
        return kumo_state_encode(field->table, at);
    case KUMO_STATE_BOOL:
        return json_boolean(*(const bool *)at);
    case KUMO_STATE_U64:
        g_snprintf(text, sizeof(text), "0x%" G_GINT64_MODIFIER "x", *(const uint64_t *)at);
        return json_string_nocheck(text);
    default:
        return json_integer((json_int_t)load_number(field, at));
    }
}

static json_t *encode_field(const KumoStateField *field, const void *object)
{
    const char *at = (const char *)object + field->offset;
    json_t *array;
    size_t n;

    if (field->type == KUMO_STATE_BYTES)
        return encode_bytes((const uint8_t *)at, field->count);
    if (field->type == KUMO_STATE_BLOB)
        return encode_bytes(*(uint8_t *const *)(const void *)at, *count_at(field, object));
    if (field->type == KUMO_STATE_STRING) {
        const char *text = *(char *const *)(const void *)at;

        return text ? json_string(text) : json_null();
    }
    if (!is_array(field))
        return encode_element(field, at);
    array = json_array();
    n = field->list ? *count_at(field, object) : field->count;
    if (field->list)
        at = *(char *const *)(const void *)at;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, encode_element(field, at + i * element_size(field)));
    return array;
}

static const char *key_of(const KumoStateField *field, char **ret_owned)
{
    *ret_owned = field->optional ? g_strconcat(field->name, "?", NULL) : NULL;
    return *ret_owned ? *ret_owned : field->name;
}

json_t *kumo_state_encode(const KumoStateTable *table, const void *object)
{
    json_t *json = json_object();

    json_object_set_new_nocheck(json, version_key, json_integer(table->version));
    for (size_t i = 0; i < table->n_fields; i++) {
        g_autofree char *owned = NULL;
        const char *key = key_of(&table->fields[i], &owned);

        json_object_set_new_nocheck(json, key, encode_field(&table->fields[i], object));
    }
    return json;
}

/* --- decoding --- */

static bool G_GNUC_PRINTF(3, 4) wrong(const char *path, GError **error, const char *format, ...)
{
    g_autofree char *why = NULL;
    va_list args;

    va_start(args, format);
    why = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "state: %s: %s", path, why);
    return false;
}

static bool parse_hex_u64(const char *text, uint64_t *ret)
{
    size_t len = strlen(text);

    *ret = 0;
    if (len < 3 || len > 18 || text[0] != '0' || text[1] != 'x')
        return false;
    for (size_t i = 2; i < len; i++) {
        int digit = g_ascii_xdigit_value(text[i]);

        if (digit < 0)
            return false;
        *ret = *ret << 4 | (uint64_t)digit;
    }
    return true;
}

static bool decode_number(const KumoStateField *field, const json_t *json, const char *path,
                          void *at, GError **error)
{
    uint64_t value;

    if (field->type == KUMO_STATE_BOOL) {
        if (!json_is_boolean(json))
            return wrong(path, error, "must be true or false");
        value = json_is_true(json);
    } else if (field->type == KUMO_STATE_U64) {
        if (!json_is_string(json) || !parse_hex_u64(json_string_value(json), &value))
            return wrong(path, error, "must be a string like \"0x1f\" of at most 16 digits");
    } else {
        if (!json_is_integer(json) || json_integer_value(json) < 0 ||
            (uint64_t)json_integer_value(json) > number_max[field->type])
            return wrong(path, error, "must be a number from 0 to %" G_GUINT64_FORMAT,
                         number_max[field->type]);
        value = (uint64_t)json_integer_value(json);
    }
    store_number(field, at, value);
    return true;
}

static bool decode_hex(const json_t *json, const char *path, size_t len, uint8_t *ret,
                       GError **error)
{
    const char *text = json_string_value(json);

    for (size_t i = 0; i < len; i++) {
        int high = g_ascii_xdigit_value(text[2 * i]);
        int low = g_ascii_xdigit_value(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return wrong(path, error, "has a character that is no hexadecimal digit");
        ret[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool decode_bytes(const KumoStateField *field, const json_t *json, const char *path,
                         void *object, GError **error)
{
    char *at = (char *)object + field->offset;
    size_t len = json_string_length(json) / 2;

    if (!json_is_string(json) || json_string_length(json) % 2)
        return wrong(path, error, "must be a string of pairs of hexadecimal digits");
    if (field->type == KUMO_STATE_BYTES) {
        if (len != field->count)
            return wrong(path, error, "has %zu bytes, must have %zu", len, field->count);
        return decode_hex(json, path, len, (uint8_t *)at, error);
    }
    if (len > field->max)
        return wrong(path, error, "has %zu bytes, at most %zu are allowed", len, field->max);
    *(uint8_t **)(void *)at = g_malloc0(MAX(len, 1));
    *count_at(field, object) = len;
    return decode_hex(json, path, len, *(uint8_t **)(void *)at, error);
}

static bool decode_string(const KumoStateField *field, const json_t *json, const char *path,
                          void *object, GError **error)
{
    const char *text = json_string_value(json);

    if (json_is_null(json))
        return true;
    if (!text || strlen(text) != json_string_length(json))
        return wrong(path, error, "must be a string");
    if (json_string_length(json) > field->max)
        return wrong(path, error, "has %zu bytes, at most %zu are allowed",
                     json_string_length(json), field->max);
    *(char **)(void *)((char *)object + field->offset) = g_strdup(text);
    return true;
}

static bool decode_element(const KumoStateField *field, const json_t *json, const char *path,
                           void *at, GError **error)
{
    return field->type == KUMO_STATE_TABLE ? kumo_state_decode(field->table, json, path, at, error)
                                           : decode_number(field, json, path, at, error);
}

static bool decode_array(const KumoStateField *field, const json_t *json, const char *path,
                         void *object, GError **error)
{
    char *at = (char *)object + field->offset;
    size_t n = json_array_size(json);

    if (!json_is_array(json))
        return wrong(path, error, "must be an array");
    if (!field->list && n != field->count)
        return wrong(path, error, "has %zu elements, must have %zu", n, field->count);
    if (field->list) {
        if (n > field->max)
            return wrong(path, error, "has %zu elements, at most %zu are allowed", n, field->max);
        *(void **)(void *)at = g_malloc0_n(MAX(n, 1), element_size(field));
        *count_at(field, object) = n;
        at = *(char **)(void *)at;
    }
    for (size_t i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf("%s[%zu]", path, i);

        if (!decode_element(field, json_array_get(json, i), name, at + i * element_size(field),
                            error))
            return false;
    }
    return true;
}

static bool decode_field(const KumoStateField *field, const json_t *json, const char *path,
                         void *object, GError **error)
{
    if (field->type == KUMO_STATE_BYTES || field->type == KUMO_STATE_BLOB)
        return decode_bytes(field, json, path, object, error);
    if (field->type == KUMO_STATE_STRING)
        return decode_string(field, json, path, object, error);
    if (is_array(field))
        return decode_array(field, json, path, object, error);
    return decode_element(field, json, path, (char *)object + field->offset, error);
}

/* A field of a later version than the stream's. What is no number is left at zero: empty. */
static void set_default(const KumoStateField *field, void *object)
{
    char *at = (char *)object + field->offset;

    if (field->type > KUMO_STATE_BOOL || field->list)
        return;
    for (size_t i = 0; i < MAX(field->count, 1); i++)
        store_number(field, at + i * element_size(field), field->def);
}

static bool check_version(const KumoStateTable *table, const json_t *json, const char *path,
                          uint32_t *ret_version, GError **error)
{
    const json_t *version = json_object_get(json, version_key);
    json_int_t value = json_integer_value(version);

    if (!json_is_object(json))
        return wrong(path, error, "must be an object");
    if (!json_is_integer(version) || value < 1)
        return wrong(path, error, "has no version");
    if (value > table->version)
        return wrong(path, error,
                     "is %s in version %" JSON_INTEGER_FORMAT
                     ", made by a newer kumo: this one reads up to version %u",
                     table->name, value, table->version);
    *ret_version = (uint32_t)value;
    return true;
}

/* Refuses what the table does not have. */
static bool check_keys(const KumoStateTable *table, const json_t *json, const char *path,
                       GError **error)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)json, key, value)
    {
        bool known = strcmp(key, version_key) == 0 || g_str_has_suffix(key, "?");

        for (size_t i = 0; i < table->n_fields && !known; i++)
            known = strcmp(key, table->fields[i].name) == 0 && !table->fields[i].optional;
        if (!known) {
            g_autofree char *shown = g_strescape(key, NULL);

            return wrong(path, error, "%s has no field \"%.64s\"", table->name, shown);
        }
    }
    return true;
}

bool kumo_state_decode(const KumoStateTable *table, const json_t *json, const char *path,
                       void *object, GError **error)
{
    uint32_t version = 0;

    memset(object, 0, table->size);
    if (!check_version(table, json, path, &version, error) || !check_keys(table, json, path, error))
        return false;
    for (size_t i = 0; i < table->n_fields; i++) {
        const KumoStateField *field = &table->fields[i];
        g_autofree char *owned = NULL;
        const json_t *value = json_object_get(json, key_of(field, &owned));
        g_autofree char *name = NULL;

        if (!value && (field->optional || field->since > version)) {
            set_default(field, object);
            continue;
        }
        name = g_strdup_printf("%s.%s", path, field->name);
        if (!value)
            return wrong(name, error, "is missing");
        if (!decode_field(field, value, name, object, error))
            return false;
    }
    return true;
}

void kumo_state_clear(const KumoStateTable *table, void *object)
{
    for (size_t i = 0; i < table->n_fields; i++) {
        const KumoStateField *field = &table->fields[i];
        char *at = (char *)object + field->offset;
        void **owned = NULL;

        if (field->list || field->type == KUMO_STATE_BLOB || field->type == KUMO_STATE_STRING)
            owned = (void **)(void *)at;
        if (field->type == KUMO_STATE_TABLE) {
            size_t n = field->list ? *count_at(field, object) : MAX(field->count, 1);
            char *element = owned ? *owned : at;

            for (size_t j = 0; j < n; j++)
                kumo_state_clear(field->table, element + j * field->table->size);
        }
        if (owned)
            g_free(*owned);
    }
    memset(object, 0, table->size);
}

bool kumo_state_check_u64(const char *field, uint64_t saved, uint64_t present, GError **error)
{
    if (saved == present)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "state: %s was 0x%" G_GINT64_MODIFIER "x and is 0x%" G_GINT64_MODIFIER
                "x here: the guest would see a difference",
                field, saved, present);
    return false;
}

bool kumo_state_check_same(const KumoStateTable *table, const void *saved, const void *present,
                           GError **error)
{
    for (size_t i = 0; i < table->n_fields; i++) {
        const KumoStateField *field = &table->fields[i];

        if (!kumo_state_check_u64(field->name,
                                  load_number(field, (const char *)saved + field->offset),
                                  load_number(field, (const char *)present + field->offset), error))
            return false;
    }
    return true;
}
