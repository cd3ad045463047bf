/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of what is in use: rate limits, affinity, the state of a link. A change is JSON with the
 * names of the configuration: laid over the section that it changes, it goes through the same
 * reader and the same checks as a configuration does.
 */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"
#include "vmm-core/vmm/vmm_hotplug.h"

typedef struct {
    const KumoSection *section;
    const char *const *keys; /* that may change; NULL-terminated */
    /* Exchanges what they stand for. */
    void (*swap)(void *a, void *b);
    /* Makes the running machine have what @wanted has; @old is what it has now. */
    bool (*apply)(KumoVmm *vmm, const void *old, const void *wanted, GError **error);
} Changeable;

static void swap_rate(KumoRateLimitConfig *a, KumoRateLimitConfig *b)
{
    KumoRateLimitConfig kept = *a;

    *a = *b;
    *b = kept;
}

static void swap_list(GPtrArray **a, GPtrArray **b)
{
    GPtrArray *kept = *a;

    *a = *b;
    *b = kept;
}

static void swap_disk(void *a, void *b)
{
    KumoDiskConfig *one = a, *other = b;
    char *group = one->rate_limit_group;
    uint64_t threshold;

    one->rate_limit_group = other->rate_limit_group;
    other->rate_limit_group = group;
    swap_rate(&one->rate, &other->rate);
    swap_list(&one->queue_affinity, &other->queue_affinity);
    threshold = one->write_threshold_bytes;
    one->write_threshold_bytes = other->write_threshold_bytes;
    other->write_threshold_bytes = threshold;
}

static void swap_net(void *a, void *b)
{
    KumoNetConfig *one = a, *other = b;
    bool link_up = one->link_up;

    swap_rate(&one->rate, &other->rate);
    swap_list(&one->queue_affinity, &other->queue_affinity);
    one->link_up = other->link_up;
    other->link_up = link_up;
}

static void swap_cpus(void *a, void *b)
{
    KumoCpusConfig *one = a, *other = b;

    swap_list(&one->affinity, &other->affinity);
}

static void swap_balloon(void *a, void *b)
{
    KumoBalloonConfig *one = a, *other = b;
    uint32_t period_s = one->stats_period_s;
    bool statistics = one->statistics;

    one->stats_period_s = other->stats_period_s;
    other->stats_period_s = period_s;
    one->statistics = other->statistics;
    other->statistics = statistics;
}

static void swap_group(void *a, void *b)
{
    KumoRateLimitGroupConfig *one = a, *other = b;

    swap_rate(&one->rate, &other->rate);
}

static bool update_device(KumoVmm *vmm, const char *id, const void *wanted, GError **error)
{
    KumoDevice *device = kumo_device_find(kumo_vm_machine(vmm->vm), id);

    if (device && device->ops->update)
        return device->ops->update(device, wanted, error);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                "%s: cannot be changed while the machine runs", id);
    return false;
}

static bool apply_disk(KumoVmm *vmm, const void *old, const void *wanted, GError **error)
{
    return update_device(vmm, ((const KumoDiskConfig *)wanted)->pci.id, wanted, error);
}

static bool apply_net(KumoVmm *vmm, const void *old, const void *wanted, GError **error)
{
    return update_device(vmm, ((const KumoNetConfig *)wanted)->pci.id, wanted, error);
}

static bool apply_cpus(KumoVmm *vmm, const void *old, const void *wanted, GError **error)
{
    return kumo_vm_bind_vcpus(vmm->vm, wanted, error);
}

static bool apply_balloon(KumoVmm *vmm, const void *old, const void *wanted, GError **error)
{
    const KumoBalloonConfig *balloon = wanted;

    return update_device(vmm, balloon->pci.id ? balloon->pci.id : "__balloon", wanted, error);
}

/* Gives the first @n_devices that are in the group one limiter together. Returns: how many took it;
 * all, unless @error is set. */
static unsigned set_group_limit(KumoVmm *vmm, const KumoRateLimitGroupConfig *group,
                                unsigned n_devices, GError **error)
{
    const GPtrArray *devices = kumo_vm_machine(vmm->vm)->devices;
    KumoRateLimiter *limiter = kumo_rate_limiter_new(&group->rate.limit);
    unsigned done = 0;

    for (; done < n_devices; done++) {
        KumoDevice *device = devices->pdata[done];

        if (device->ops->set_group_limiter &&
            !device->ops->set_group_limiter(device, group->id, limiter, error)) {
            kumo_prefix_error(error, "device %s", device->id);
            break;
        }
    }
    kumo_rate_limiter_unref(limiter);
    return done;
}

static bool apply_group(KumoVmm *vmm, const void *old, const void *wanted, GError **error)
{
    unsigned n_devices = kumo_vm_machine(vmm->vm)->devices->len;
    unsigned done = set_group_limit(vmm, wanted, n_devices, error);

    if (done == n_devices)
        return true;
    set_group_limit(vmm, old, done, NULL);
    return false;
}

static const char *const disk_keys[] = { "rate_limiter_config", "queue_affinity", "write_threshold",
                                         "rate_limit_group", NULL };
static const char *const net_keys[] = { "rate_limiter_config", "link_up", "queue_affinity", NULL };
static const char *const group_keys[] = { "rate_limiter_config", NULL };
static const char *const cpus_keys[] = { "affinity", NULL };
static const char *const balloon_keys[] = { "stats_period", NULL };

static const Changeable disk_changes = { &kumo_disk_section, disk_keys, swap_disk, apply_disk };
static const Changeable net_changes = { &kumo_net_section, net_keys, swap_net, apply_net };
static const Changeable cpus_changes = { &kumo_cpus_section, cpus_keys, swap_cpus, apply_cpus };
static const Changeable balloon_changes = { &kumo_balloon_section, balloon_keys, swap_balloon,
                                            apply_balloon };
static const Changeable group_changes = { &kumo_rate_limit_group_section, group_keys, swap_group,
                                          apply_group };

/* What can be said of a change without looking at the VM: names, types, ranges. */
static bool check_changes(const Changeable *what, const json_t *changes, bool has_id,
                          GError **error)
{
    const char *key;
    json_t *value, *given;
    void *scratch;
    bool ok;

    if (!json_is_object(changes)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "the body must be an object");
        return false;
    }
    json_object_foreach((json_t *)changes, key, value)
    {
        if (!g_strv_contains(what->keys, key) && !(has_id && strcmp(key, "id") == 0)) {
            g_autofree char *shown = kumo_quote_value(key);
            g_autofree char *keys = g_strjoinv(", ", (char **)what->keys);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "the field %s cannot be changed, known are: %s%s", shown,
                        has_id ? "id, " : "", keys);
            return false;
        }
    }
    given = json_object();
    json_object_foreach((json_t *)changes, key, value)
    {
        if (!json_is_null(value))
            json_object_set(given, key, value);
    }
    scratch = kumo_section_new(what->section);
    ok = kumo_section_from_json(what->section, scratch, given, "", error);
    kumo_section_free(what->section, scratch);
    json_decref(given);
    if (ok && has_id && !json_is_string(json_object_get(changes, "id"))) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "id: what is to be changed is missing");
        return false;
    }
    return ok;
}

static bool check_not_empty(const Changeable *what, const json_t *changes, bool has_id,
                            GError **error)
{
    g_autofree char *keys = g_strjoinv(", ", (char **)what->keys);

    if (json_object_size(changes) > has_id)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "nothing to change: some of these are needed: %s", keys);
    return false;
}

/* Returns: (transfer full): @old with the changes, without its descriptors; or NULL with @error. */
static void *lay_over(const Changeable *what, const void *old, const json_t *changes,
                      GError **error)
{
    json_t *merged = kumo_section_to_json(what->section, old);
    void *fresh = kumo_section_new(what->section);
    const char *key;
    json_t *value;
    bool ok;

    json_object_del(merged, "fds");
    json_object_foreach((json_t *)changes, key, value)
    {
        if (json_is_null(value))
            json_object_del(merged, key);
        else
            json_object_set(merged, key, value);
    }
    ok = kumo_section_from_json(what->section, fresh, merged, "", error);
    json_decref(merged);
    if (!ok) {
        kumo_section_free(what->section, fresh);
        return NULL;
    }
    kumo_section_finish(what->section, fresh);
    return fresh;
}

/* Is the configuration right with the changes in it? */
static bool check_swapped(KumoVmm *vmm, const Changeable *what, void *entry, void *fresh,
                          GError **error)
{
    bool ok;

    what->swap(entry, fresh);
    ok = kumo_vm_config_validate(vmm->config, error);
    what->swap(entry, fresh);
    return ok;
}

static void *find_entry(GPtrArray *entries, size_t id_offset, const char *id)
{
    for (guint i = 0; i < entries->len; i++) {
        char *const *entry_id = (char *const *)((const char *)entries->pdata[i] + id_offset);

        if (g_strcmp0(*entry_id, id) == 0)
            return entries->pdata[i];
    }
    return NULL;
}

/* Changes @entry, a part of the configuration, and what runs by it. */
static bool change(KumoVmm *vmm, const Changeable *what, void *entry, const json_t *changes,
                   GError **error)
{
    void *fresh = lay_over(what, entry, changes, error);
    bool ok;

    if (!fresh)
        return false;
    ok = check_swapped(vmm, what, entry, fresh, error) &&
         (!vmm->vm || what->apply(vmm, entry, fresh, error));
    if (ok)
        what->swap(entry, fresh);
    kumo_section_free(what->section, fresh);
    return ok;
}

/* @entries_offset: in KumoVmConfig; @id_offset: in an entry. */
static bool update_entry(KumoVmm *vmm, const Changeable *what, size_t entries_offset,
                         size_t id_offset, const json_t *changes, const char *kind, GError **error)
{
    const char *id;
    void *entry;

    if (!check_changes(what, changes, true, error))
        return false;
    if (kumo_vmm_is_busy(vmm) || !vmm->config)
        return kumo_vmm_refuse(vmm, "change a device", error);
    kumo_vmm_finish_ejects(vmm);
    if (vmm->vm)
        kumo_vmm_keep_reports(vmm);
    id = json_string_value(json_object_get(changes, "id"));
    entry = find_entry(*(GPtrArray **)((char *)vmm->config + entries_offset), id_offset, id);
    if (!entry) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "%.*s: the VM has no such %s",
                    KUMO_ID_MAX, id, kind);
        return false;
    }
    return check_not_empty(what, changes, true, error) && change(vmm, what, entry, changes, error);
}

bool kumo_vmm_update_disk(KumoVmm *vmm, const json_t *changes, GError **error)
{
    return update_entry(vmm, &disk_changes, offsetof(KumoVmConfig, disks),
                        offsetof(KumoDiskConfig, pci.id), changes, "device", error);
}

bool kumo_vmm_update_net(KumoVmm *vmm, const json_t *changes, GError **error)
{
    return update_entry(vmm, &net_changes, offsetof(KumoVmConfig, nets),
                        offsetof(KumoNetConfig, pci.id), changes, "device", error);
}

bool kumo_vmm_update_rate_limit_group(KumoVmm *vmm, const json_t *changes, GError **error)
{
    return update_entry(vmm, &group_changes, offsetof(KumoVmConfig, rate_limit_groups),
                        offsetof(KumoRateLimitGroupConfig, id), changes, "rate limit group", error);
}

bool kumo_vmm_add_rate_limit_group(KumoVmm *vmm, const json_t *json, GError **error)
{
    const KumoSection *section = &kumo_rate_limit_group_section;
    KumoRateLimitGroupConfig *group = kumo_section_new(section);

    if (!kumo_section_from_json(section, group, json, "", error)) {
        kumo_section_free(section, group);
        return false;
    }
    if (kumo_vmm_is_busy(vmm) || !vmm->config) {
        kumo_section_free(section, group);
        return kumo_vmm_refuse(vmm, "add a rate limit group", error);
    }
    kumo_section_finish(section, group);
    if (group->id && kumo_vm_config_find_rate_limit_group(vmm->config, group->id)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT, "%s: the VM has that rate limit group",
                    group->id);
        kumo_section_free(section, group);
        return false;
    }
    /* What is left of devices that went meanwhile is no fault of the group's. */
    kumo_vmm_finish_ejects(vmm);
    g_ptr_array_add(vmm->config->rate_limit_groups, group);
    if (kumo_vm_config_validate(vmm->config, error))
        return true;
    kumo_section_free(section, g_ptr_array_remove_index(vmm->config->rate_limit_groups,
                                                        vmm->config->rate_limit_groups->len - 1));
    return false;
}

bool kumo_vmm_update_cpus(KumoVmm *vmm, const json_t *changes, GError **error)
{
    if (!check_changes(&cpus_changes, changes, false, error))
        return false;
    if (kumo_vmm_is_busy(vmm) || !vmm->config)
        return kumo_vmm_refuse(vmm, "change vCPUs", error);
    return check_not_empty(&cpus_changes, changes, false, error) &&
           change(vmm, &cpus_changes, &vmm->config->cpus, changes, error);
}

bool kumo_vmm_update_balloon(KumoVmm *vmm, const json_t *changes, GError **error)
{
    KumoBalloonConfig *balloon;
    json_t *all;
    bool ok;

    if (!check_changes(&balloon_changes, changes, false, error))
        return false;
    if (kumo_vmm_is_busy(vmm) || !vmm->config)
        return kumo_vmm_refuse(vmm, "change the balloon", error);
    if (!vmm->config->has_balloon) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "the VM has no balloon");
        return false;
    }
    if (!check_not_empty(&balloon_changes, changes, false, error))
        return false;
    balloon = &vmm->config->balloon;
    all = json_copy((json_t *)changes);
    /* What the guest's driver was offered stays when nobody asks any more. */
    if (vmm->vm && balloon->stats_period_s)
        json_object_set_new(all, "statistics", json_true());
    ok = change(vmm, &balloon_changes, balloon, all, error);
    json_decref(all);
    return ok;
}
