/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What vm.restore and --restore take. */
#include <limits.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"
#include "vmm-core/config/option.h"
#include "vmm-core/config/option_string.h"

enum {
    MAX_NET_FDS = 256,
    HOST_NODE_MAX = 1023, /* of Linux */
};

static const KumoField restore_net_fields[] = {
    { .json = "id",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoRestoreNet, id),
      .max = KUMO_ID_MAX },
    { .json = "num_fds",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoRestoreNet, num_fds),
      .max = MAX_NET_FDS },
    { .cli = "fds", .type = KUMO_FIELD_FDS, .offset = offsetof(KumoRestoreNet, fds) },
};

static const KumoSection restore_net_section = {
    .fields = restore_net_fields,
    .n_fields = G_N_ELEMENTS(restore_net_fields),
    .size = sizeof(KumoRestoreNet),
};

static const KumoField restore_zone_fields[] = {
    { .json = "id",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoRestoreZone, id),
      .max = KUMO_ID_MAX },
    { .json = "host_numa_node",
      .type = KUMO_FIELD_SLOT,
      .offset = offsetof(KumoRestoreZone, host_numa_node),
      .max = HOST_NODE_MAX },
};

static const KumoSection restore_zone_section = {
    .fields = restore_zone_fields,
    .n_fields = G_N_ELEMENTS(restore_zone_fields),
    .size = sizeof(KumoRestoreZone),
};

static const KumoEnumName mode_names[] = {
    { .cli = "copy", .json = "Copy", .value = KUMO_RESTORE_COPY },
    { .cli = "ondemand", .json = "OnDemand", .value = KUMO_RESTORE_ON_DEMAND },
    { 0 },
};

static const KumoField restore_fields[] = {
    { .cli = "source_url",
      .json = "source_url",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoRestoreConfig, source_url),
      .max = PATH_MAX + 7 },
    { .cli = "prefault",
      .json = "prefault",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoRestoreConfig, prefault) },
    { .cli = "memory_restore_mode",
      .json = "memory_restore_mode",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoRestoreConfig, mode),
      .names = mode_names },
    { .cli = "resume",
      .json = "resume",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoRestoreConfig, resume) },
    { .cli = "net_fds",
      .type = KUMO_FIELD_STRINGS,
      .offset = offsetof(KumoRestoreConfig, net_texts),
      .max = KUMO_ID_MAX + 4096 },
    { .json = "net_fds",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoRestoreConfig, nets),
      .section = &restore_net_section },
    { .cli = "vfio_fds", .json = "vfio_fds", .type = KUMO_FIELD_NOT_YET },
    { .cli = "iommufd_fd", .json = "iommufd_fd", .type = KUMO_FIELD_NOT_YET },
    { .cli = "zone_updates",
      .type = KUMO_FIELD_STRINGS,
      .offset = offsetof(KumoRestoreConfig, zone_texts),
      .max = KUMO_ID_MAX + 5 },
    { .json = "zone_updates",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoRestoreConfig, zones),
      .section = &restore_zone_section },
};

static bool restore_validate(const void *object, const char *path, GError **error)
{
    const KumoRestoreConfig *restore = object;

    if (!restore->source_url) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "source_url: must be given");
        return false;
    }
    if (restore->prefault && restore->mode == KUMO_RESTORE_ON_DEMAND) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "prefault and memory_restore_mode on demand exclude each other");
        return false;
    }
    for (guint i = 0; i < restore->nets->len; i++) {
        const KumoRestoreNet *net = restore->nets->pdata[i];

        if (!net->id || net->num_fds == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "net_fds[%u]: must have an id and at least one descriptor", i);
            return false;
        }
    }
    for (guint i = 0; i < restore->zones->len; i++) {
        const KumoRestoreZone *zone = restore->zones->pdata[i];

        if (!zone->id || zone->host_numa_node < 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "zone_updates[%u]: must have an id and a host_numa_node", i);
            return false;
        }
    }
    return true;
}

const KumoSection kumo_restore_section = {
    .option = "restore",
    .fields = restore_fields,
    .n_fields = G_N_ELEMENTS(restore_fields),
    .size = sizeof(KumoRestoreConfig),
    .validate = restore_validate,
};

/* "id@[3,4]": descriptors of this process. */
static bool parse_net(KumoRestoreConfig *restore, const char *text, GError **error)
{
    const char *at = strrchr(text, '@');
    g_autoptr(GArray) fds =
        at ? kumo_option_parse_int_list("--restore net_fds", at + 1, error) : NULL;
    KumoRestoreNet *net;

    if (!at)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--restore net_fds: must be like [id@[fd,fd],id@[fd]]");
    if (!fds)
        return false;
    net = kumo_section_new(&restore_net_section);
    net->id = g_strndup(text, (gsize)(at - text));
    net->num_fds = fds->len;
    net->fds = g_steal_pointer(&fds);
    g_ptr_array_add(restore->nets, net);
    return true;
}

/* "id@1" */
static bool parse_zone(KumoRestoreConfig *restore, const char *text, GError **error)
{
    const char *at = strrchr(text, '@');
    KumoRestoreZone *zone;
    uint64_t node;

    if (!at || at == text || !kumo_option_parse_u64(at + 1, &node) || node > HOST_NODE_MAX) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "--restore zone_updates: must be like [zone@node,zone@node], nodes from 0 to %d",
            HOST_NODE_MAX);
        return false;
    }
    zone = kumo_section_new(&restore_zone_section);
    zone->id = g_strndup(text, (gsize)(at - text));
    zone->host_numa_node = (int)node;
    g_ptr_array_add(restore->zones, zone);
    return true;
}

KumoRestoreConfig *kumo_option_parse_restore(const char *value, GError **error)
{
    g_autoptr(KumoRestoreConfig) restore = kumo_section_new(&kumo_restore_section);

    if (!kumo_section_from_option(&kumo_restore_section, restore, "restore", value, error))
        return NULL;
    for (guint i = 0; i < restore->net_texts->len; i++) {
        if (!parse_net(restore, restore->net_texts->pdata[i], error))
            return NULL;
    }
    for (guint i = 0; i < restore->zone_texts->len; i++) {
        if (!parse_zone(restore, restore->zone_texts->pdata[i], error))
            return NULL;
    }
    if (!kumo_section_check(&kumo_restore_section, restore, "", error)) {
        kumo_prefix_error(error, "--restore");
        return NULL;
    }
    return g_steal_pointer(&restore);
}

KumoRestoreConfig *kumo_restore_config_from_json(const json_t *json, GError **error)
{
    g_autoptr(KumoRestoreConfig) restore = kumo_section_new(&kumo_restore_section);

    if (!kumo_section_from_json(&kumo_restore_section, restore, json, "", error) ||
        !kumo_section_check(&kumo_restore_section, restore, "", error))
        return NULL;
    return g_steal_pointer(&restore);
}

json_t *kumo_restore_config_to_json(const KumoRestoreConfig *restore)
{
    return kumo_section_to_json(&kumo_restore_section, restore);
}

void kumo_restore_config_free(KumoRestoreConfig *restore)
{
    kumo_section_free(&kumo_restore_section, restore);
}

bool kumo_restore_config_take_fds(KumoRestoreConfig *restore, int *fds, size_t n_fds,
                                  GError **error)
{
    size_t wanted = 0, used = 0;

    for (guint i = 0; i < restore->nets->len; i++)
        wanted += ((const KumoRestoreNet *)restore->nets->pdata[i])->num_fds;
    if (wanted != n_fds) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "net_fds: %zu descriptors came with the request, must be %zu", n_fds, wanted);
        return false;
    }
    for (guint i = 0; i < restore->nets->len; i++) {
        KumoRestoreNet *net = restore->nets->pdata[i];

        if (!net->fds)
            net->fds = g_array_new(FALSE, FALSE, sizeof(int));
        for (uint32_t n = 0; n < net->num_fds; n++) {
            g_array_append_val(net->fds, fds[used]);
            fds[used++] = -1;
        }
    }
    return true;
}

static KumoNetConfig *find_net(const KumoVmConfig *config, const char *id)
{
    for (guint i = 0; i < config->nets->len; i++) {
        KumoNetConfig *net = config->nets->pdata[i];

        if (g_strcmp0(net->pci.id, id) == 0)
            return net;
    }
    return NULL;
}

static bool apply_zones(const KumoRestoreConfig *restore, KumoVmConfig *config, GError **error)
{
    for (guint i = 0; i < restore->zones->len; i++) {
        const KumoRestoreZone *given = restore->zones->pdata[i];
        KumoMemoryZoneConfig *zone = NULL;

        for (guint n = 0; n < config->memory.zones->len && !zone; n++) {
            KumoMemoryZoneConfig *one = config->memory.zones->pdata[n];

            zone = g_strcmp0(one->id, given->id) == 0 ? one : NULL;
        }
        if (!zone) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "zone_updates: %s: the snapshot has no memory zone of this id", given->id);
            return false;
        }
        zone->host_numa_node = given->host_numa_node;
    }
    return true;
}

bool kumo_restore_config_apply(KumoRestoreConfig *restore, KumoVmConfig *config, GError **error)
{
    for (guint i = 0; i < restore->nets->len; i++) {
        KumoRestoreNet *given = restore->nets->pdata[i];
        KumoNetConfig *net = find_net(config, given->id);

        if (!net || !net->fds || !given->fds || net->fds->len != given->fds->len) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "net_fds: %s: the snapshot has no network device of this id with %u "
                        "descriptors",
                        given->id, given->num_fds);
            return false;
        }
        for (guint n = 0; n < net->fds->len; n++) {
            int *fd = &g_array_index(given->fds, int, n);

            g_array_index(net->fds, int, n) = *fd;
            *fd = -1;
        }
    }
    for (guint i = 0; i < config->nets->len; i++) {
        const KumoNetConfig *net = config->nets->pdata[i];

        if (net->fds && g_array_index(net->fds, int, 0) < 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "net_fds: %s: its descriptors of before are gone, new ones must be given",
                        net->pci.id);
            return false;
        }
    }
    return apply_zones(restore, config, error);
}
