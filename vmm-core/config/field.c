/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/config/field.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"

enum { QUOTED_MAX = 80 };

static void *member(const void *object, size_t offset)
{
    return (char *)object + offset;
}

static void fds_free(GArray *fds)
{
    if (!fds)
        return;
    for (guint i = 0; i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);

        if (fd >= 0)
            close(fd);
    }
    g_array_unref(fds);
}

static GArray *numbers_dup(const GArray *numbers)
{
    GArray *copy = g_array_sized_new(FALSE, FALSE, sizeof(uint32_t), numbers->len);

    return g_array_append_vals(copy, numbers->data, numbers->len);
}

static GArray *fds_dup(const GArray *fds)
{
    GArray *copy;

    if (!fds)
        return NULL;
    copy = g_array_sized_new(FALSE, FALSE, sizeof(int), fds->len);
    for (guint i = 0; i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);
        int dup_fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;

        g_array_append_val(copy, dup_fd);
    }
    return copy;
}

void kumo_section_init(const KumoSection *section, void *object)
{
    memset(object, 0, section->size);
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        void *at = member(object, field->offset);

        if (field->alias)
            continue;
        switch (field->type) {
        case KUMO_FIELD_BOOL:
            *(bool *)at = field->def != 0;
            break;
        case KUMO_FIELD_U32:
            *(uint32_t *)at = (uint32_t)field->def;
            break;
        case KUMO_FIELD_SIZE:
            *(uint64_t *)at = field->def;
            break;
        case KUMO_FIELD_S32:
            *(int32_t *)at = 0;
            break;
        case KUMO_FIELD_SLOT:
        case KUMO_FIELD_TOGGLE:
            *(int *)at = -1;
            break;
        case KUMO_FIELD_ENUM:
            *(int *)at = (int)field->def;
            break;
        case KUMO_FIELD_STRINGS:
            *(GPtrArray **)at = g_ptr_array_new_with_free_func(g_free);
            break;
        case KUMO_FIELD_NUMBERS:
            *(GArray **)at = g_array_new(FALSE, FALSE, sizeof(uint32_t));
            break;
        case KUMO_FIELD_LIST:
            *(GPtrArray **)at = g_ptr_array_new();
            break;
        case KUMO_FIELD_SECTION:
        case KUMO_FIELD_INCLUDE:
            kumo_section_init(field->section, at);
            break;
        case KUMO_FIELD_STRING:
        case KUMO_FIELD_FDS:
        case KUMO_FIELD_NOT_YET:
            break;
        }
    }
}

void kumo_section_finish(const KumoSection *section, void *object)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        void *at = member(object, field->offset);

        if (field->alias)
            continue;
        if (field->type == KUMO_FIELD_SECTION || field->type == KUMO_FIELD_INCLUDE)
            kumo_section_finish(field->section, at);
        if (field->type == KUMO_FIELD_LIST) {
            const GPtrArray *list = *(GPtrArray **)at;

            for (guint n = 0; n < list->len; n++)
                kumo_section_finish(field->section, list->pdata[n]);
        }
    }
    if (section->finish)
        section->finish(object);
}

void kumo_section_clear(const KumoSection *section, void *object)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        void *at = member(object, field->offset);

        if (field->alias)
            continue;
        switch (field->type) {
        case KUMO_FIELD_STRING:
            g_clear_pointer((char **)at, g_free);
            break;
        case KUMO_FIELD_STRINGS:
            g_clear_pointer((GPtrArray **)at, g_ptr_array_unref);
            break;
        case KUMO_FIELD_NUMBERS:
            g_clear_pointer((GArray **)at, g_array_unref);
            break;
        case KUMO_FIELD_FDS:
            g_clear_pointer((GArray **)at, fds_free);
            break;
        case KUMO_FIELD_LIST: {
            GPtrArray *list = *(GPtrArray **)at;

            for (guint n = 0; list && n < list->len; n++)
                kumo_section_free(field->section, list->pdata[n]);
            g_clear_pointer((GPtrArray **)at, g_ptr_array_unref);
            break;
        }
        case KUMO_FIELD_SECTION:
        case KUMO_FIELD_INCLUDE:
            kumo_section_clear(field->section, at);
            break;
        case KUMO_FIELD_BOOL:
        case KUMO_FIELD_U32:
        case KUMO_FIELD_SIZE:
        case KUMO_FIELD_S32:
        case KUMO_FIELD_SLOT:
        case KUMO_FIELD_TOGGLE:
        case KUMO_FIELD_ENUM:
        case KUMO_FIELD_NOT_YET:
            break;
        }
    }
}

void kumo_section_copy(const KumoSection *section, void *dest, const void *source)
{
    memcpy(dest, source, section->size);
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        const void *from = member(source, field->offset);
        void *to = member(dest, field->offset);

        if (field->alias)
            continue;
        switch (field->type) {
        case KUMO_FIELD_STRING:
            *(char **)to = g_strdup(*(char *const *)from);
            break;
        case KUMO_FIELD_STRINGS: {
            const GPtrArray *strings = *(GPtrArray *const *)from;
            GPtrArray *copy = g_ptr_array_new_with_free_func(g_free);

            for (guint n = 0; strings && n < strings->len; n++)
                g_ptr_array_add(copy, g_strdup(strings->pdata[n]));
            *(GPtrArray **)to = copy;
            break;
        }
        case KUMO_FIELD_NUMBERS:
            *(GArray **)to = numbers_dup(*(GArray *const *)from);
            break;
        case KUMO_FIELD_FDS:
            *(GArray **)to = fds_dup(*(GArray *const *)from);
            break;
        case KUMO_FIELD_LIST: {
            const GPtrArray *list = *(GPtrArray *const *)from;
            GPtrArray *copy = g_ptr_array_new();

            for (guint n = 0; list && n < list->len; n++) {
                void *item = g_malloc(field->section->size);

                kumo_section_copy(field->section, item, list->pdata[n]);
                g_ptr_array_add(copy, item);
            }
            *(GPtrArray **)to = copy;
            break;
        }
        case KUMO_FIELD_SECTION:
        case KUMO_FIELD_INCLUDE:
            kumo_section_copy(field->section, to, from);
            break;
        case KUMO_FIELD_BOOL:
        case KUMO_FIELD_U32:
        case KUMO_FIELD_SIZE:
        case KUMO_FIELD_S32:
        case KUMO_FIELD_SLOT:
        case KUMO_FIELD_TOGGLE:
        case KUMO_FIELD_ENUM:
        case KUMO_FIELD_NOT_YET:
            break;
        }
    }
}

void *kumo_section_new(const KumoSection *section)
{
    void *object = g_malloc(section->size);

    kumo_section_init(section, object);
    return object;
}

void kumo_section_free(const KumoSection *section, void *object)
{
    if (!object)
        return;
    kumo_section_clear(section, object);
    g_free(object);
}

const KumoField *kumo_section_find(const KumoSection *section, const char *key, bool cli,
                                   size_t *ret_offset)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        const char *name = cli ? field->cli : field->json;

        if (field->type == KUMO_FIELD_INCLUDE) {
            const KumoField *inner = kumo_section_find(field->section, key, cli, ret_offset);

            if (inner) {
                *ret_offset += field->offset;
                return inner;
            }
        } else if (name && strcmp(name, key) == 0) {
            *ret_offset = field->offset;
            return field;
        }
    }
    return NULL;
}

static void append_keys(const KumoSection *section, bool cli, GString *keys)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        const char *name = cli ? field->cli : field->json;

        if (field->type == KUMO_FIELD_INCLUDE) {
            append_keys(field->section, cli, keys);
            continue;
        }
        if (cli && field->bare) {
            for (const KumoEnumName *names = field->names; names->json; names++) {
                if (names->cli && !names->not_yet)
                    g_string_append_printf(keys, "%s%s", keys->len ? ", " : "", names->cli);
            }
            continue;
        }
        if (name && field->type != KUMO_FIELD_NOT_YET && !field->alias)
            g_string_append_printf(keys, "%s%s", keys->len ? ", " : "", name);
    }
}

char *kumo_section_keys(const KumoSection *section, bool cli)
{
    GString *keys = g_string_new(NULL);

    append_keys(section, cli, keys);
    return g_string_free(keys, FALSE);
}

char *kumo_field_name(const char *path, const char *key)
{
    return *path ? g_strdup_printf("%s.%s", path, key) : g_strdup(key);
}

char *kumo_quote_value(const char *value)
{
    size_t len = strlen(value);
    g_autofree char *cut = g_strndup(value, MIN(len, QUOTED_MAX));
    g_autofree char *valid = g_utf8_make_valid(cut, -1);

    for (char *c = valid; *c; c++) {
        if (g_ascii_iscntrl(*c))
            *c = '?';
    }
    return g_strdup_printf("\"%s%s\"", valid, len > QUOTED_MAX ? "…" : "");
}

static char *enum_names(const KumoField *field, bool cli)
{
    GString *list = g_string_new("one of ");
    bool first = true;

    for (const KumoEnumName *name = field->names; name->json; name++) {
        const char *text = cli ? name->cli : name->json;

        if (!text || name->not_yet)
            continue;
        g_string_append_printf(list, "%s%s", first ? "" : ", ", text);
        first = false;
    }
    return g_string_free(list, FALSE);
}

static char *flag_names(const KumoSection *section)
{
    g_autofree char *keys = kumo_section_keys(section, true);

    return g_strdup_printf("a list of %s", keys);
}

char *kumo_field_allowed(const KumoField *field, bool cli)
{
    const char *kind = field->pow2 ? "a power of two" : "a number";
    uint64_t max = field->max;

    switch (field->type) {
    case KUMO_FIELD_BOOL:
    case KUMO_FIELD_TOGGLE:
        return g_strdup(cli ? "on or off" : "true or false");
    case KUMO_FIELD_SIZE:
        kind = field->plain  ? "a number"
               : field->pow2 ? "a power of two in bytes"
                             : "a size in bytes";
        if (!field->min && !max)
            return g_strdup_printf("%s%s", kind, cli ? ", with K, M or G if wanted" : "");
        if (!max)
            return g_strdup_printf("%s, at least %" G_GUINT64_FORMAT, kind, field->min);
        return g_strdup_printf("%s from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT, kind,
                               field->min, max);
    case KUMO_FIELD_S32:
        return g_strdup_printf("a number from -%" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT, max,
                               max);
    case KUMO_FIELD_U32:
    case KUMO_FIELD_SLOT:
        return g_strdup_printf("%s from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT, kind,
                               field->min, max ? max : UINT32_MAX);
    case KUMO_FIELD_STRING:
        return field->max ? g_strdup_printf("a string of at most %" G_GUINT64_FORMAT " bytes", max)
                          : g_strdup("a string");
    case KUMO_FIELD_STRINGS:
        return g_strdup("a list of strings");
    case KUMO_FIELD_NUMBERS:
        return g_strdup_printf("a list of numbers from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
                               field->min, max ? max : UINT32_MAX);
    case KUMO_FIELD_FDS:
        return g_strdup("a list of descriptors");
    case KUMO_FIELD_ENUM:
        return enum_names(field, cli);
    case KUMO_FIELD_SECTION:
        if (cli && field->flags)
            return flag_names(field->section);
        return g_strdup("an object");
    case KUMO_FIELD_INCLUDE:
        return g_strdup("an object");
    case KUMO_FIELD_LIST:
        return g_strdup(cli ? "a list like [0@1,1@[2,3]]" : "a list of objects");
    case KUMO_FIELD_NOT_YET:
        return g_strdup("nothing");
    }
    return g_strdup("nothing");
}

bool kumo_field_check_number(const KumoField *field, const char *name, uint64_t value,
                             GError **error)
{
    uint64_t max = field->max;
    KumoField one = *field;
    g_autofree char *allowed = NULL;

    if (!max)
        max = field->type == KUMO_FIELD_SIZE ? UINT64_MAX : UINT32_MAX;
    if (field->optional && value == 0)
        return true;
    if (value >= field->min && value <= max && (!field->pow2 || kumo_is_pow2(value)))
        return true;
    if (field->type == KUMO_FIELD_NUMBERS)
        one.type = KUMO_FIELD_U32;
    allowed = kumo_field_allowed(&one, false);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s: %" G_GUINT64_FORMAT " is not allowed, must be %s", name, value, allowed);
    return false;
}

bool kumo_field_check_signed(const KumoField *field, const char *name, int64_t value,
                             GError **error)
{
    g_autofree char *allowed = NULL;

    if (value >= -(int64_t)field->max && value <= (int64_t)field->max)
        return true;
    allowed = kumo_field_allowed(field, false);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s: %" G_GINT64_FORMAT " is not allowed, must be %s", name, value, allowed);
    return false;
}

bool kumo_field_check_string(const KumoField *field, const char *name, const char *value,
                             GError **error)
{
    g_autofree char *shown = NULL;

    if (!value)
        return true;
    if (!g_utf8_validate(value, -1, NULL)) {
        shown = kumo_quote_value(value);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s is not valid UTF-8", name,
                    shown);
        return false;
    }
    if (field->max && strlen(value) > field->max) {
        shown = kumo_quote_value(value);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %s is too long, at most %" G_GUINT64_FORMAT " bytes are allowed", name,
                    shown, field->max);
        return false;
    }
    return true;
}

static bool check_enum(const KumoField *field, const char *name, int value, GError **error)
{
    g_autofree char *allowed = NULL;

    for (const KumoEnumName *row = field->names; row->json; row++) {
        if (row->value == value && !row->not_yet)
            return true;
    }
    allowed = kumo_field_allowed(field, false);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %d is not %s", name, value, allowed);
    return false;
}

static bool check_list(const KumoField *field, const char *name, const GPtrArray *list,
                       GError **error)
{
    for (guint i = 0; i < list->len; i++) {
        g_autofree char *item = g_strdup_printf("%s[%u]", name, i);

        if (!kumo_section_check(field->section, list->pdata[i], item, error))
            return false;
    }
    return true;
}

static bool check_strings(const KumoField *field, const char *name, const GPtrArray *strings,
                          GError **error)
{
    for (guint i = 0; i < strings->len; i++) {
        g_autofree char *item = g_strdup_printf("%s[%u]", name, i);

        if (!kumo_field_check_string(field, item, strings->pdata[i], error))
            return false;
    }
    return true;
}

static bool check_numbers(const KumoField *field, const char *name, const GArray *numbers,
                          GError **error)
{
    for (guint i = 0; i < numbers->len; i++) {
        g_autofree char *item = g_strdup_printf("%s[%u]", name, i);

        if (!kumo_field_check_number(field, item, g_array_index(numbers, uint32_t, i), error))
            return false;
    }
    return true;
}

static bool check_member(const KumoField *field, const char *name, const char *path,
                         const void *object, GError **error)
{
    const void *at = member(object, field->offset);

    switch (field->type) {
    case KUMO_FIELD_U32:
        return kumo_field_check_number(field, name, *(const uint32_t *)at, error);
    case KUMO_FIELD_SIZE:
        return kumo_field_check_number(field, name, *(const uint64_t *)at, error);
    case KUMO_FIELD_SLOT:
        return *(const int *)at < 0 ||
               kumo_field_check_number(field, name, (uint64_t) * (const int *)at, error);
    case KUMO_FIELD_STRING:
        return kumo_field_check_string(field, name, *(char *const *)at, error);
    case KUMO_FIELD_STRINGS:
        return check_strings(field, name, *(GPtrArray *const *)at, error);
    case KUMO_FIELD_NUMBERS:
        return check_numbers(field, name, *(GArray *const *)at, error);
    case KUMO_FIELD_ENUM:
        return check_enum(field, name, *(const int *)at, error);
    case KUMO_FIELD_LIST:
        return check_list(field, name, *(GPtrArray *const *)at, error);
    case KUMO_FIELD_SECTION:
        if (field->present_offset && !*(const bool *)member(object, field->present_offset))
            return true;
        return kumo_section_check(field->section, at, name, error);
    case KUMO_FIELD_INCLUDE:
        return kumo_section_check(field->section, at, path, error);
    case KUMO_FIELD_S32:
        return kumo_field_check_signed(field, name, *(const int32_t *)at, error);
    case KUMO_FIELD_BOOL:
    case KUMO_FIELD_TOGGLE:
    case KUMO_FIELD_FDS:
    case KUMO_FIELD_NOT_YET:
        return true;
    }
    return true;
}

bool kumo_section_check(const KumoSection *section, const void *object, const char *path,
                        GError **error)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        g_autofree char *name = NULL;

        if (field->alias)
            continue;
        name = kumo_field_name(path, field->json ? field->json : "");
        if (!check_member(field, name, path, object, error))
            return false;
    }
    return !section->validate || section->validate(object, path, error);
}
