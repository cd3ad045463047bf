/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command-line side of the field tables. */
#include "vmm-core/config/option.h"

#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"
#include "vmm-core/config/option_string.h"

/* What an option string has set so far. */
typedef struct {
    const KumoSection *section;
    void *object;
    const char *option;
    bool mode_given; /* a bare name, or a string that implies one */
} OptionReader;

static bool bad_value(const KumoField *field, const char *name, const char *value, GError **error)
{
    g_autofree char *shown = kumo_quote_value(value);
    g_autofree char *allowed = kumo_field_allowed(field, true);

    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s is not allowed, must be %s", name,
                shown, allowed);
    return false;
}

static bool parse_toggle(const char *text, bool *ret_value)
{
    if (!*text || !g_ascii_strcasecmp(text, "off") || !g_ascii_strcasecmp(text, "false"))
        *ret_value = false;
    else if (!g_ascii_strcasecmp(text, "on") || !g_ascii_strcasecmp(text, "true"))
        *ret_value = true;
    else
        return false;
    return true;
}

static bool parse_number(const KumoField *field, const char *name, const char *text,
                         uint64_t *ret_value, GError **error)
{
    bool ok;

    if (field->type == KUMO_FIELD_SIZE)
        ok = kumo_parse_size(text, ret_value, NULL);
    else if (field->hex && g_str_has_prefix(text, "0x"))
        ok = g_ascii_string_to_unsigned(text + 2, 16, 0, UINT64_MAX, ret_value, NULL);
    else
        ok = kumo_option_parse_u64(text, ret_value);
    if (!ok)
        return bad_value(field, name, text, error);
    return kumo_field_check_number(field, name, *ret_value, error);
}

static bool parse_enum(const KumoField *field, const char *name, const char *text, int *ret_value,
                       GError **error)
{
    for (const KumoEnumName *row = field->names; row->json; row++) {
        if (!row->cli || strcmp(row->cli, text) != 0)
            continue;
        if (row->not_yet) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "%s=%s is not supported yet",
                        name, text);
            return false;
        }
        *ret_value = row->value;
        return true;
    }
    return bad_value(field, name, text, error);
}

/* "a:b:c" into the rows of @field's section, which are all numbers. */
static bool parse_tuple(const KumoField *field, const char *name, const char *text, void *object,
                        GError **error)
{
    const KumoSection *section = field->section;
    g_auto(GStrv) parts = g_strsplit(text, ":", (int)section->n_fields + 1);

    if (g_strv_length(parts) != section->n_fields) {
        g_autofree char *shown = kumo_quote_value(text);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: %s is not allowed, must be %zu numbers with ':' between them", name, shown,
                    section->n_fields);
        return false;
    }
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *part = &section->fields[i];
        uint64_t value = 0;

        if (!parse_number(part, name, parts[i], &value, error))
            return false;
        *(uint32_t *)((char *)object + part->offset) = (uint32_t)value;
    }
    return true;
}

/* "amx" or "[amx,...]" into the BOOL rows of @field's section. */
static bool parse_flags(const KumoField *field, const char *name, const char *raw, void *object,
                        GError **error)
{
    g_autoptr(GPtrArray) words = kumo_option_split_list(name, raw, error);

    if (!words)
        return false;
    for (guint i = 0; i < words->len; i++) {
        const char *word = words->pdata[i];
        size_t offset = 0;
        const KumoField *flag = kumo_section_find(field->section, word, true, &offset);

        if (!flag || flag->type != KUMO_FIELD_BOOL)
            return bad_value(field, name, word, error);
        *(bool *)((char *)object + offset) = true;
    }
    return true;
}

static bool parse_numbers(const KumoField *field, const char *name, const char *raw,
                          GArray *numbers, GError **error)
{
    g_autoptr(GArray) list = kumo_option_parse_int_list(name, raw, error);

    if (!list)
        return false;
    for (guint i = 0; i < list->len; i++) {
        uint32_t number = (uint32_t)g_array_index(list, int, i);

        if (!kumo_field_check_number(field, name, number, error))
            return false;
        g_array_append_val(numbers, number);
    }
    return true;
}

static bool set_member(const KumoField *field, const char *name, void *object, size_t offset,
                       const char *raw, GError **error);

/* "[a@b,c@[d,e]]": one structure of @field's section for each item, its first row before the '@',
 * its second after it. */
static bool parse_tuple_list(const KumoField *field, const char *name, const char *raw,
                             GPtrArray *list, GError **error)
{
    const KumoSection *section = field->section;
    g_autoptr(GPtrArray) items = kumo_option_split_list(name, raw, error);

    if (!items)
        return false;
    for (guint i = 0; i < items->len; i++) {
        const char *item = items->pdata[i];
        const char *at = strchr(item, '@');
        g_autofree char *first = at ? g_strndup(item, (gsize)(at - item)) : NULL;
        void *object;

        if (!at)
            return bad_value(field, name, item, error);
        object = kumo_section_new(section);
        g_ptr_array_add(list, object);
        if (!set_member(&section->fields[0], name, object, section->fields[0].offset, first,
                        error) ||
            !set_member(&section->fields[1], name, object, section->fields[1].offset, at + 1,
                        error))
            return false;
    }
    return true;
}

static bool parse_fds(const char *name, const char *raw, GArray **fds, GError **error)
{
    GArray *list = kumo_option_parse_int_list(name, raw, error);

    if (!list)
        return false;
    for (guint i = 0; i < list->len; i++) {
        int fd = g_array_index(list, int, i);
        bool twice = false;

        for (guint n = 0; n < i; n++)
            twice = twice || g_array_index(list, int, n) == fd;
        if (fd <= 2 || twice) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s: %d is not allowed, must be different descriptors above 2", name, fd);
            g_array_unref(list);
            return false;
        }
    }
    if (!list->len)
        g_clear_pointer(&list, g_array_unref);
    *fds = list;
    return true;
}

static bool parse_strings(const KumoField *field, const char *name, const char *raw,
                          GPtrArray *strings, GError **error)
{
    g_autoptr(GPtrArray) list = kumo_option_split_list(name, raw, error);

    if (!list)
        return false;
    for (guint i = 0; i < list->len; i++) {
        if (!kumo_field_check_string(field, name, list->pdata[i], error))
            return false;
        g_ptr_array_add(strings, g_strdup(list->pdata[i]));
    }
    return true;
}

static bool set_member(const KumoField *field, const char *name, void *object, size_t offset,
                       const char *raw, GError **error)
{
    g_autofree char *text = kumo_option_unquote(raw);
    void *at = (char *)object + offset;
    uint64_t number = 0;

    switch (field->type) {
    case KUMO_FIELD_BOOL:
        return parse_toggle(text, at) || bad_value(field, name, text, error);
    case KUMO_FIELD_U32:
        if (!parse_number(field, name, text, &number, error))
            return false;
        *(uint32_t *)at = (uint32_t)number;
        return true;
    case KUMO_FIELD_SIZE:
        return parse_number(field, name, text, at, error);
    case KUMO_FIELD_S32: {
        gint64 value;

        if (!g_ascii_string_to_signed(text, 10, INT32_MIN, INT32_MAX, &value, NULL))
            return bad_value(field, name, text, error);
        if (!kumo_field_check_signed(field, name, value, error))
            return false;
        *(int32_t *)at = (int32_t)value;
        return true;
    }
    case KUMO_FIELD_SLOT:
        if (!parse_number(field, name, text, &number, error))
            return false;
        *(int *)at = (int)number;
        return true;
    case KUMO_FIELD_TOGGLE: {
        bool on = false;

        if (!parse_toggle(text, &on))
            return bad_value(field, name, text, error);
        *(int *)at = on;
        return true;
    }
    case KUMO_FIELD_STRING:
        if (!kumo_field_check_string(field, name, text, error))
            return false;
        g_free(*(char **)at);
        *(char **)at = *text ? g_steal_pointer(&text) : NULL;
        return true;
    case KUMO_FIELD_STRINGS:
        return parse_strings(field, name, raw, *(GPtrArray **)at, error);
    case KUMO_FIELD_NUMBERS:
        return parse_numbers(field, name, raw, *(GArray **)at, error);
    case KUMO_FIELD_FDS:
        return parse_fds(name, raw, at, error);
    case KUMO_FIELD_ENUM:
        return parse_enum(field, name, text, at, error);
    case KUMO_FIELD_SECTION:
        if (field->flags ? !parse_flags(field, name, raw, at, error)
                         : !parse_tuple(field, name, text, at, error))
            return false;
        if (field->present_offset)
            *(bool *)((char *)at - field->offset + field->present_offset) = true;
        return true;
    case KUMO_FIELD_NOT_YET:
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "%s is not supported yet", name);
        return false;
    case KUMO_FIELD_LIST:
        return parse_tuple_list(field, name, raw, *(GPtrArray **)at, error);
    case KUMO_FIELD_INCLUDE:
        break;
    }
    g_return_val_if_reached(false);
}

/* A key that is not there yet may have its default all the same, as in JSON. */
static bool is_default(const KumoField *field, const char *raw)
{
    g_autofree char *text = kumo_option_unquote(raw);
    const char *json = field->json_default;
    uint64_t number = 0, expected = 0;
    bool on = false;

    if (!json)
        return !*text || g_str_equal(text, "[]");
    if (g_str_equal(json, "false") || g_str_equal(json, "true"))
        return parse_toggle(text, &on) && on == g_str_equal(json, "true");
    if (json[0] == '"') {
        size_t len = strlen(json) - 2;

        return strlen(text) == len && g_ascii_strncasecmp(text, json + 1, len) == 0;
    }
    return g_ascii_string_to_unsigned(json, 10, 0, UINT64_MAX, &expected, NULL) &&
           kumo_option_parse_u64(text, &number) && number == expected;
}

static const KumoField *bare_enum(const KumoSection *section)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        if (section->fields[i].bare)
            return &section->fields[i];
    }
    return NULL;
}

static bool set_mode(OptionReader *reader, const KumoField *mode, int value, GError **error)
{
    if (reader->mode_given) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--%s: the mode is given twice, must be one", reader->option);
        return false;
    }
    reader->mode_given = true;
    *(int *)((char *)reader->object + mode->offset) = value;
    return true;
}

/* A key of no row: a bare name, a row that is only in included sections' other form, or unknown. */
static bool read_word(OptionReader *reader, const KumoOptionItem *item, GError **error)
{
    const KumoField *mode = bare_enum(reader->section);
    g_autofree char *shown = NULL;
    g_autofree char *keys = NULL;

    if (mode && !item->value) {
        for (const KumoEnumName *row = mode->names; row->json; row++) {
            if (!row->cli || strcmp(row->cli, item->key) != 0)
                continue;
            if (row->not_yet) {
                g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                            "--%s %s is not supported yet", reader->option, row->cli);
                return false;
            }
            return set_mode(reader, mode, row->value, error);
        }
    }
    shown = kumo_quote_value(item->key);
    keys = kumo_section_keys(reader->section, true);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "--%s: unknown key %s, known are: %s",
                reader->option, shown, keys);
    return false;
}

static bool read_item(OptionReader *reader, const GPtrArray *items, guint index, GError **error)
{
    const KumoOptionItem *item = items->pdata[index];
    size_t offset = 0;
    const KumoField *field = kumo_section_find(reader->section, item->key, true, &offset);
    g_autofree char *name = NULL;

    if (!field)
        return read_word(reader, item, error);
    name = g_strdup_printf("--%s %s", reader->option, item->key);
    for (guint i = 0; i < index; i++) {
        const KumoOptionItem *other = items->pdata[i];

        if (strcmp(other->key, item->key) == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s is given twice", name);
            return false;
        }
    }
    if (field->type == KUMO_FIELD_NOT_YET)
        return (item->value && is_default(field, item->value)) ||
               set_member(field, name, reader->object, offset, "", error);
    if (!item->value) {
        g_autofree char *allowed = kumo_field_allowed(field, true);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: a value is missing, must be %s",
                    name, allowed);
        return false;
    }
    if (!set_member(field, name, reader->object, offset, item->value, error))
        return false;
    return !field->implies || set_mode(reader, bare_enum(reader->section), field->implied, error);
}

/* After a failure the descriptors that the option named stay the caller's. */
static void forget_fds(const KumoSection *section, void *object)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        GArray **fds = (GArray **)((char *)object + section->fields[i].offset);

        if (section->fields[i].type == KUMO_FIELD_FDS)
            g_clear_pointer(fds, g_array_unref);
    }
}

static bool read_option(const KumoSection *section, void *object, const char *option,
                        const char *text, GError **error)
{
    OptionReader reader = { .section = section, .object = object, .option = option };
    g_autofree char *name = g_strdup_printf("--%s", option);
    g_autoptr(GPtrArray) items = NULL;

    if (!*text) {
        g_autofree char *keys = kumo_section_keys(section, true);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: the value is empty, known keys are: %s", name, keys);
        return false;
    }
    items = kumo_option_split(name, text, error);
    if (!items)
        return false;
    for (guint i = 0; i < items->len; i++) {
        if (!read_item(&reader, items, i, error))
            return false;
    }
    kumo_section_finish(section, object);
    return true;
}

bool kumo_section_from_option(const KumoSection *section, void *object, const char *option,
                              const char *text, GError **error)
{
    if (read_option(section, object, option, text, error))
        return true;
    forget_fds(section, object);
    return false;
}

/* The row of @option: one of the VM's own, or one of the payload's, whose keys are options. */
static const KumoField *find_option(const char *option, bool *ret_is_payload)
{
    size_t offset = 0;
    const KumoField *field = kumo_section_find(&kumo_vm_section, option, true, &offset);

    *ret_is_payload = false;
    if (!field) {
        field = kumo_section_find(&kumo_payload_section, option, true, &offset);
        *ret_is_payload = field != NULL;
    }
    return field;
}

bool kumo_option_is_vm_config(const char *option)
{
    bool is_payload;

    return find_option(option, &is_payload) != NULL;
}

static bool apply_payload(KumoVmConfig *config, const KumoField *field, const char *option,
                          const char *value, GError **error)
{
    g_autofree char *name = g_strdup_printf("--%s", option);
    char **at = (char **)((char *)&config->payload + field->offset);

    /* Not an option string: the value is taken as it stands. */
    if (field->type == KUMO_FIELD_NOT_YET)
        return set_member(field, name, config, 0, "", error);
    if (!kumo_field_check_string(field, name, value, error))
        return false;
    g_free(*at);
    *at = *value ? g_strdup(value) : NULL;
    return true;
}

/* A list that has an option of its own (memory zones) stays when the section around it is given. */
static void keep_other_lists(const KumoSection *section, void *old, void *new)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        const KumoField *field = &section->fields[i];
        GPtrArray **from = (GPtrArray **)((char *)old + field->offset);
        GPtrArray **to = (GPtrArray **)((char *)new + field->offset);
        GPtrArray *list;

        if (field->type != KUMO_FIELD_LIST || field->cli)
            continue;
        list = *from;
        *from = *to;
        *to = list;
    }
}

static bool apply_section(KumoVmConfig *config, const KumoField *field, const char *option,
                          const char *value, GError **error)
{
    void *at = (char *)config + field->offset;
    void *object = kumo_section_new(field->section);

    if (!kumo_section_from_option(field->section, object, option, value, error)) {
        kumo_section_free(field->section, object);
        return false;
    }
    if (field->type == KUMO_FIELD_LIST) {
        g_ptr_array_add(*(GPtrArray **)at, object);
        return true;
    }
    keep_other_lists(field->section, at, object);
    kumo_section_clear(field->section, at);
    memcpy(at, object, field->section->size);
    g_free(object);
    if (field->present_offset)
        *(bool *)((char *)config + field->present_offset) = true;
    return true;
}

bool kumo_option_apply(KumoVmConfig *config, const char *option, const char *value, GError **error)
{
    bool is_payload = false;
    const KumoField *field = find_option(option, &is_payload);

    if (!field) {
        g_autofree char *shown = kumo_quote_value(option);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "unknown option %s", shown);
        return false;
    }
    if (is_payload)
        return apply_payload(config, field, option, value, error);
    if (field->type == KUMO_FIELD_NOT_YET) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "--%s is not supported yet",
                    option);
        return false;
    }
    /* A flag: the option is all that there is to say. */
    if (field->type == KUMO_FIELD_BOOL) {
        *(bool *)((char *)config + field->offset) = true;
        return true;
    }
    return apply_section(config, field, option, value, error);
}

KumoDiskConfig *kumo_option_parse_disk(const char *value, GError **error)
{
    g_autoptr(KumoDiskConfig) disk = kumo_section_new(&kumo_disk_section);

    if (!kumo_section_from_option(&kumo_disk_section, disk, "disk", value, error))
        return NULL;
    return g_steal_pointer(&disk);
}

KumoNetConfig *kumo_option_parse_net(const char *value, GError **error)
{
    g_autoptr(KumoNetConfig) net = kumo_section_new(&kumo_net_section);

    if (!kumo_section_from_option(&kumo_net_section, net, "net", value, error))
        return NULL;
    return g_steal_pointer(&net);
}

char *kumo_option_keys(const char *option)
{
    /* What is no option of a VM. */
    static const KumoSection *const others[] = { &kumo_restore_section,
                                                 &kumo_send_migration_section,
                                                 &kumo_receive_migration_section };
    const KumoField *field;
    bool is_payload;

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        if (strcmp(option, others[i]->option) == 0)
            return kumo_section_keys(others[i], true);
    }
    field = find_option(option, &is_payload);
    return field && field->section ? kumo_section_keys(field->section, true) : g_strdup("");
}
