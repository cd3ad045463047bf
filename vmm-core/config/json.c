/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The JSON side of the field tables. */
#include "vmm-core/config/field.h"

#include <string.h>

#include "vmm-core/base/error.h"

enum {
    FDS_MAX = 253, /* descriptors in one SCM_RIGHTS message */
    NUMBERS_MAX = 65536,
};

static const char *type_name(const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "a number";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

static bool wrong_type(const KumoField *field, const char *name, const json_t *json, GError **error)
{
    g_autofree char *allowed = kumo_field_allowed(field, false);

    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s is not allowed, must be %s", name,
                type_name(json), allowed);
    return false;
}

static bool read_number(const KumoField *field, const char *name, const json_t *json,
                        uint64_t *ret_value, GError **error)
{
    g_autofree char *allowed = NULL;
    json_int_t value;

    if (!json_is_integer(json))
        return wrong_type(field, name, json, error);
    value = json_integer_value(json);
    if (value < 0) {
        allowed = kumo_field_allowed(field, false);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %" JSON_INTEGER_FORMAT " is not allowed, must be %s", name, value,
                    allowed);
        return false;
    }
    if (!kumo_field_check_number(field, name, (uint64_t)value, error))
        return false;
    *ret_value = (uint64_t)value;
    return true;
}

static bool read_string(const KumoField *field, const char *name, const json_t *json,
                        char **ret_value, GError **error)
{
    const char *value = json_string_value(json);

    if (!value)
        return wrong_type(field, name, json, error);
    if (strlen(value) != json_string_length(json)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: the string holds a zero byte",
                    name);
        return false;
    }
    if (!kumo_field_check_string(field, name, value, error))
        return false;
    *ret_value = *value ? g_strdup(value) : NULL;
    return true;
}

static bool read_strings(const KumoField *field, const char *name, const json_t *json,
                         GPtrArray *strings, GError **error)
{
    size_t i;
    const json_t *item;

    if (!json_is_array(json))
        return wrong_type(field, name, json, error);
    g_ptr_array_set_size(strings, 0);
    json_array_foreach((json_t *)json, i, item)
    {
        g_autofree char *item_name = g_strdup_printf("%s[%zu]", name, i);
        KumoField string_field = { .type = KUMO_FIELD_STRING, .max = field->max };
        char *value = NULL;

        if (!read_string(&string_field, item_name, item, &value, error))
            return false;
        g_ptr_array_add(strings, value ? value : g_strdup(""));
    }
    return true;
}

static bool read_numbers(const KumoField *field, const char *name, const json_t *json,
                         GArray *numbers, GError **error)
{
    size_t i;
    const json_t *item;

    if (!json_is_array(json))
        return wrong_type(field, name, json, error);
    if (json_array_size(json) > NUMBERS_MAX) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %zu numbers, at most %d are allowed", name, json_array_size(json),
                    NUMBERS_MAX);
        return false;
    }
    g_array_set_size(numbers, 0);
    json_array_foreach((json_t *)json, i, item)
    {
        g_autofree char *item_name = g_strdup_printf("%s[%zu]", name, i);
        KumoField number_field = { .type = KUMO_FIELD_U32, .min = field->min, .max = field->max };
        uint64_t value = 0;
        uint32_t number;

        if (!read_number(&number_field, item_name, item, &value, error))
            return false;
        number = (uint32_t)value;
        g_array_append_val(numbers, number);
    }
    return true;
}

/*
 * Descriptor numbers mean nothing in this process: each entry only says that a descriptor belongs
 * here, to be filled in from the message's SCM_RIGHTS (kumo_vm_config_take_fds).
 */
static bool read_fds(const KumoField *field, const char *name, const json_t *json, GArray **ret_fds,
                     GError **error)
{
    size_t i;
    const json_t *item;
    g_autoptr(GArray) fds = NULL;
    const int placeholder = -1;

    if (!json_is_array(json))
        return wrong_type(field, name, json, error);
    if (json_array_size(json) > FDS_MAX) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %zu descriptors, at most %d are allowed", name, json_array_size(json),
                    FDS_MAX);
        return false;
    }
    fds = g_array_new(FALSE, FALSE, sizeof(int));
    json_array_foreach((json_t *)json, i, item)
    {
        if (!json_is_integer(item))
            return wrong_type(field, name, item, error);
        g_array_append_val(fds, placeholder);
    }
    *ret_fds = fds->len ? g_steal_pointer(&fds) : NULL;
    return true;
}

static bool read_enum(const KumoField *field, const char *name, const json_t *json, int *ret_value,
                      GError **error)
{
    const char *text = json_string_value(json);
    g_autofree char *allowed = NULL;
    g_autofree char *shown = NULL;

    if (!text)
        return wrong_type(field, name, json, error);
    for (const KumoEnumName *row = field->names; row->json; row++) {
        if (strcmp(row->json, text) != 0)
            continue;
        if (row->not_yet) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "%s: \"%s\" is not supported yet", name, text);
            return false;
        }
        *ret_value = row->value;
        return true;
    }
    shown = kumo_quote_value(text);
    allowed = kumo_field_allowed(field, false);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s is not allowed, must be %s", name,
                shown, allowed);
    return false;
}

static bool read_list(const KumoField *field, const char *name, const json_t *json,
                      GPtrArray **list, GError **error)
{
    size_t i;
    const json_t *item;

    if (!json_is_array(json))
        return wrong_type(field, name, json, error);
    json_array_foreach((json_t *)json, i, item)
    {
        g_autofree char *item_name = g_strdup_printf("%s[%zu]", name, i);
        void *object = kumo_section_new(field->section);

        g_ptr_array_add(*list, object);
        if (!kumo_section_from_json(field->section, object, item, item_name, error))
            return false;
    }
    return true;
}

/* A key that is not there yet may stand in what vm.info of Cloud Hypervisor gave, with its default.
 */
static bool read_not_yet(const KumoField *field, const char *name, const json_t *json,
                         GError **error)
{
    bool is_default = json_is_null(json);
    char no_members;

    if (field->section && json_is_object(json))
        return kumo_section_from_json(field->section, &no_members, json, name, error);
    if (!is_default && field->json_default) {
        json_t *expected = json_loads(field->json_default, JSON_DECODE_ANY, NULL);

        is_default = json_equal(expected, json);
        json_decref(expected);
    } else if (!is_default) {
        is_default = json_is_false(json) || (json_is_array(json) && json_array_size(json) == 0);
    }
    if (is_default)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "%s is not supported yet", name);
    return false;
}

static bool read_member(const KumoField *field, const char *name, void *object, size_t offset,
                        const json_t *json, GError **error)
{
    void *at = (char *)object + offset;
    uint64_t number = 0;

    switch (field->type) {
    case KUMO_FIELD_BOOL:
        if (!json_is_boolean(json))
            return wrong_type(field, name, json, error);
        *(bool *)at = json_is_true(json);
        return true;
    case KUMO_FIELD_U32:
        if (!(field->optional && json_is_null(json)) &&
            !read_number(field, name, json, &number, error))
            return false;
        *(uint32_t *)at = (uint32_t)number;
        return true;
    case KUMO_FIELD_SIZE:
        if (!(field->optional && json_is_null(json)) &&
            !read_number(field, name, json, &number, error))
            return false;
        *(uint64_t *)at = number;
        return true;
    case KUMO_FIELD_S32:
        if (!json_is_integer(json))
            return wrong_type(field, name, json, error);
        if (!kumo_field_check_signed(field, name, json_integer_value(json), error))
            return false;
        *(int32_t *)at = (int32_t)json_integer_value(json);
        return true;
    case KUMO_FIELD_SLOT:
        if (!json_is_null(json) && !read_number(field, name, json, &number, error))
            return false;
        *(int *)at = json_is_null(json) ? -1 : (int)number;
        return true;
    case KUMO_FIELD_TOGGLE:
        if (!json_is_null(json) && !json_is_boolean(json))
            return wrong_type(field, name, json, error);
        *(int *)at = json_is_null(json) ? -1 : json_is_true(json);
        return true;
    case KUMO_FIELD_STRING: {
        char *value = NULL;

        if (!json_is_null(json) && !read_string(field, name, json, &value, error))
            return false;
        g_free(*(char **)at);
        *(char **)at = value;
        return true;
    }
    case KUMO_FIELD_STRINGS:
        return json_is_null(json) || read_strings(field, name, json, *(GPtrArray **)at, error);
    case KUMO_FIELD_NUMBERS:
        return json_is_null(json) || read_numbers(field, name, json, *(GArray **)at, error);
    case KUMO_FIELD_FDS:
        return json_is_null(json) || read_fds(field, name, json, at, error);
    case KUMO_FIELD_ENUM:
        return read_enum(field, name, json, at, error);
    case KUMO_FIELD_SECTION:
        if (json_is_null(json) && (field->optional || field->present_offset))
            return true;
        if (!kumo_section_from_json(field->section, at, json, name, error))
            return false;
        if (field->present_offset)
            *(bool *)((char *)at - field->offset + field->present_offset) = true;
        return true;
    case KUMO_FIELD_LIST:
        return json_is_null(json) || read_list(field, name, json, at, error);
    case KUMO_FIELD_NOT_YET:
        return read_not_yet(field, name, json, error);
    case KUMO_FIELD_INCLUDE:
        break;
    }
    g_return_val_if_reached(false);
}

bool kumo_section_from_json(const KumoSection *section, void *object, const json_t *json,
                            const char *path, GError **error)
{
    const char *key;
    const json_t *value;

    if (!json_is_object(json)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %s is not allowed, must be an object", *path ? path : "the configuration",
                    json ? type_name(json) : "nothing");
        return false;
    }
    json_object_foreach((json_t *)json, key, value)
    {
        size_t offset = 0;
        const KumoField *field = kumo_section_find(section, key, false, &offset);
        g_autofree char *name = NULL;

        if (!field) {
            g_autofree char *shown = kumo_quote_value(key);
            g_autofree char *keys = kumo_section_keys(section, false);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s%sunknown field %s, known are: %s", path, *path ? ": " : "", shown,
                        keys);
            return false;
        }
        name = kumo_field_name(path, key);
        if (!read_member(field, name, object, offset, value, error))
            return false;
    }
    return true;
}

static json_t *write_string(const char *text)
{
    g_autofree char *valid = NULL;

    if (!text)
        return json_null();
    if (g_utf8_validate(text, -1, NULL))
        return json_string(text);
    valid = g_utf8_make_valid(text, -1);
    return json_string(valid);
}

static json_t *write_enum(const KumoField *field, int value)
{
    for (const KumoEnumName *row = field->names; row->json; row++) {
        if (row->value == value)
            return json_string(row->json);
    }
    return json_null();
}

static json_t *write_fds(const GArray *fds)
{
    json_t *array;

    if (!fds)
        return json_null();
    array = json_array();
    for (guint i = 0; i < fds->len; i++)
        json_array_append_new(array, json_integer(-1));
    return array;
}

static json_t *write_strings(const GPtrArray *strings)
{
    json_t *array;

    if (!strings->len)
        return json_null();
    array = json_array();
    for (guint i = 0; i < strings->len; i++)
        json_array_append_new(array, write_string(strings->pdata[i]));
    return array;
}

static json_t *write_numbers(const GArray *numbers)
{
    json_t *array;

    if (!numbers->len)
        return json_null();
    array = json_array();
    for (guint i = 0; i < numbers->len; i++)
        json_array_append_new(array, json_integer(g_array_index(numbers, uint32_t, i)));
    return array;
}

static json_t *write_list(const KumoField *field, const GPtrArray *list)
{
    json_t *array;

    if (!list->len)
        return json_null();
    array = json_array();
    for (guint i = 0; i < list->len; i++)
        json_array_append_new(array, kumo_section_to_json(field->section, list->pdata[i]));
    return array;
}

json_t *kumo_field_to_json(const KumoField *field, const void *object)
{
    const void *at = (const char *)object + field->offset;
    uint64_t number;

    switch (field->type) {
    case KUMO_FIELD_BOOL:
        return json_boolean(*(const bool *)at);
    case KUMO_FIELD_U32:
    case KUMO_FIELD_SIZE:
        number = field->type == KUMO_FIELD_U32 ? *(const uint32_t *)at : *(const uint64_t *)at;
        return field->optional && number == 0 ? json_null() : json_integer((json_int_t)number);
    case KUMO_FIELD_S32:
        return json_integer(*(const int32_t *)at);
    case KUMO_FIELD_SLOT:
        return *(const int *)at < 0 ? json_null() : json_integer(*(const int *)at);
    case KUMO_FIELD_TOGGLE:
        return *(const int *)at < 0 ? json_null() : json_boolean(*(const int *)at);
    case KUMO_FIELD_STRING:
        return write_string(*(char *const *)at);
    case KUMO_FIELD_STRINGS:
        return write_strings(*(GPtrArray *const *)at);
    case KUMO_FIELD_NUMBERS:
        return write_numbers(*(GArray *const *)at);
    case KUMO_FIELD_FDS:
        return write_fds(*(GArray *const *)at);
    case KUMO_FIELD_ENUM:
        return write_enum(field, *(const int *)at);
    case KUMO_FIELD_SECTION:
        if (field->present_offset && !*((const bool *)object + field->present_offset))
            return json_null();
        return kumo_section_to_json(field->section, at);
    case KUMO_FIELD_LIST:
        return write_list(field, *(GPtrArray *const *)at);
    case KUMO_FIELD_INCLUDE:
    case KUMO_FIELD_NOT_YET:
        break;
    }
    return NULL;
}

static void write_members(const KumoSection *section, const void *object, json_t *json)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];

        if (field->type == KUMO_FIELD_INCLUDE)
            write_members(field->section, (const char *)object + field->offset, json);
        else if (field->json && !field->alias && field->type != KUMO_FIELD_NOT_YET)
            json_object_set_new(json, field->json, kumo_field_to_json(field, object));
    }
}

json_t *kumo_section_to_json(const KumoSection *section, const void *object)
{
    json_t *json = json_object();

    write_members(section, object, json);
    return json;
}
