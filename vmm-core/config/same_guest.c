/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Do two configurations look alike to a guest? */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum { SHOWN_MAX = 128 };

static bool same_section(const KumoSection *section, const void *theirs, void *own,
                         const char *path, GError **error);

/* Returns: (transfer full): a value for a message. */
static char *show(const json_t *json)
{
    char *text = json_is_string(json) ? NULL : json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT);
    char *shown =
        text ? g_strndup(text, SHOWN_MAX) : kumo_quote_value(json_string_value(json) ?: "");

    free(text);
    return shown;
}

/* Takes over what @own leaves to be chosen. */
static bool choose(const KumoSection *section, const KumoField *field, json_t *value, void *own,
                   const char *path, GError **error)
{
    json_t *object = json_pack("{s:O}", field->json, value);
    bool ok = kumo_section_from_json(section, own, object, path, error);

    json_decref(object);
    return ok;
}

static bool same_value(const KumoSection *section, const KumoField *field, const void *theirs,
                       void *own, const char *path, const char *name, GError **error)
{
    json_t *their_value = kumo_field_to_json(field, theirs);
    json_t *own_value = kumo_field_to_json(field, own);
    bool ok;

    if (field->chosen && json_is_null(own_value)) {
        ok = choose(section, field, their_value, own, path, error);
    } else if (field->presence) {
        ok = !*(const int *)((const char *)theirs + field->offset) ==
             !*(const int *)((const char *)own + field->offset);
    } else {
        ok = json_equal(their_value, own_value);
    }
    if (!ok && error && !*error) {
        g_autofree char *their_text = show(their_value);
        g_autofree char *own_text = show(own_value);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: the VM has %s, this configuration %s; the guest would see that", name,
                    their_text, own_text);
    }
    json_decref(their_value);
    json_decref(own_value);
    return ok;
}

static const char *id_of(const void *item, size_t id_offset)
{
    return *(char *const *)((const char *)item + id_offset);
}

static int find_item(const GPtrArray *list, size_t id_offset, const char *id)
{
    for (guint i = 0; i < list->len; i++) {
        if (g_strcmp0(id_of(list->pdata[i], id_offset), id) == 0)
            return (int)i;
    }
    return -1;
}

static bool missing(const char *name, const char *id, const char *where, GError **error)
{
    g_autofree char *shown = kumo_quote_value(id ? id : "");

    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s: %s is only %s; the guest would see that", name, shown, where);
    return false;
}

/* Items with an id are told apart by it, others by their place. */
static bool same_list(const KumoField *field, const GPtrArray *theirs, const GPtrArray *own,
                      const char *name, GError **error)
{
    size_t id_offset = 0;
    bool has_ids = kumo_section_find(field->section, "id", false, &id_offset) != NULL;

    for (guint i = 0; has_ids && i < own->len; i++) {
        const char *id = id_of(own->pdata[i], id_offset);

        if (find_item(theirs, id_offset, id) < 0)
            return missing(name, id, "in this configuration, not in the VM", error);
    }
    if (!has_ids && theirs->len != own->len) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: the VM has %u, this configuration %u; the guest would see that", name,
                    theirs->len, own->len);
        return false;
    }
    for (guint i = 0; i < theirs->len; i++) {
        int at = has_ids ? find_item(own, id_offset, id_of(theirs->pdata[i], id_offset)) : (int)i;
        g_autofree char *item = g_strdup_printf("%s[%d]", name, at);

        if (at < 0)
            return missing(name, id_of(theirs->pdata[i], id_offset),
                           "in the VM, not in this configuration", error);
        if (!same_section(field->section, theirs->pdata[i], own->pdata[at], item, error))
            return false;
    }
    return true;
}

static bool is_present(const KumoField *field, const void *object)
{
    return !field->present_offset || *((const bool *)object + field->present_offset);
}

static bool same_member(const KumoSection *section, const KumoField *field, const void *theirs,
                        void *own, const char *path, GError **error)
{
    g_autofree char *name = NULL;
    const void *their_member = (const char *)theirs + field->offset;
    void *own_member = (char *)own + field->offset;

    if (field->type == KUMO_FIELD_INCLUDE)
        return same_section(field->section, their_member, own_member, path, error);
    if (!field->json || field->alias || field->type == KUMO_FIELD_NOT_YET ||
        (field->host && !field->presence))
        return true;
    name = kumo_field_name(path, field->json);
    if (field->type == KUMO_FIELD_LIST)
        return same_list(field, *(GPtrArray *const *)their_member, *(GPtrArray **)own_member, name,
                         error);
    if (field->type == KUMO_FIELD_SECTION && is_present(field, theirs) && is_present(field, own))
        return same_section(field->section, their_member, own_member, name, error);
    return same_value(section, field, theirs, own, path, name, error);
}

static bool same_section(const KumoSection *section, const void *theirs, void *own,
                         const char *path, GError **error)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        if (!same_member(section, &section->fields[i], theirs, own, path, error))
            return false;
    }
    return true;
}

/* What a driver was offered it has for good; a machine that was made without can go on as well. */
static bool follow_statistics(const KumoBalloonConfig *theirs, KumoBalloonConfig *own,
                              GError **error)
{
    own->statistics = theirs->statistics || theirs->stats_period_s;
    if (own->statistics || !own->stats_period_s)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "balloon.stats_period: the VM's balloon gives no statistics, this configuration "
                "asks for some every %u s; the guest would see that",
                own->stats_period_s);
    return false;
}

bool kumo_vm_config_check_same_guest(const KumoVmConfig *theirs, KumoVmConfig *own, GError **error)
{
    if (theirs->has_balloon && own->has_balloon &&
        !follow_statistics(&theirs->balloon, &own->balloon, error))
        return false;
    return same_section(&kumo_vm_section, theirs, own, "", error);
}
