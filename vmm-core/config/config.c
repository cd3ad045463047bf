/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM's section, which holds all the others, and the public functions over it. */
#include "vmm-core/config/config.h"

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

static const KumoField vm_fields[] = {
    { .cli = "cpus",
      .json = "cpus",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, cpus),
      .section = &kumo_cpus_section },
    { .cli = "memory",
      .json = "memory",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, memory),
      .section = &kumo_memory_section },
    { .json = "payload",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, payload),
      .optional = true,
      .section = &kumo_payload_section },
    { .cli = "disk",
      .json = "disks",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoVmConfig, disks),
      .section = &kumo_disk_section },
    { .cli = "net",
      .json = "net",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoVmConfig, nets),
      .section = &kumo_net_section },
    { .cli = "rate-limit-group",
      .json = "rate_limit_groups",
      .host = true,
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoVmConfig, rate_limit_groups),
      .section = &kumo_rate_limit_group_section },
    { .cli = "rng",
      .json = "rng",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, rng),
      .section = &kumo_rng_section },
    { .cli = "balloon",
      .json = "balloon",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, balloon),
      .present_offset = offsetof(KumoVmConfig, has_balloon),
      .section = &kumo_balloon_section },
    { .cli = "serial",
      .json = "serial",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, serial),
      .section = &kumo_serial_section },
    { .cli = "console",
      .json = "console",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, console),
      .section = &kumo_console_section },
    { .cli = "platform",
      .json = "platform",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, platform),
      .optional = true,
      .section = &kumo_platform_section },
    { .cli = "debug-console",
      .json = "debug_console",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoVmConfig, debug_console),
      .optional = true,
      .section = &kumo_debug_console_section },
    { .cli = "generic-vhost-user", .json = "generic_vhost_user", .type = KUMO_FIELD_NOT_YET },
    { .cli = "fs", .json = "fs", .type = KUMO_FIELD_NOT_YET },
    { .cli = "pmem", .json = "pmem", .type = KUMO_FIELD_NOT_YET },
    { .cli = "device", .json = "devices", .type = KUMO_FIELD_NOT_YET },
    { .cli = "user-device", .json = "user_devices", .type = KUMO_FIELD_NOT_YET },
    { .cli = "vdpa", .json = "vdpa", .type = KUMO_FIELD_NOT_YET },
    { .cli = "vsock", .json = "vsock", .type = KUMO_FIELD_NOT_YET },
    { .cli = "pvmemcontrol", .json = "pvmemcontrol", .type = KUMO_FIELD_NOT_YET },
    { .cli = "pvpanic", .json = "pvpanic", .type = KUMO_FIELD_NOT_YET },
    { .json = "iommu", .type = KUMO_FIELD_NOT_YET },
    { .cli = "memory-zone",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoVmConfig, memory.zones),
      .alias = true,
      .section = &kumo_memory_zone_section },
    { .cli = "numa",
      .json = "numa",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoVmConfig, numa),
      .section = &kumo_numa_section },
    { .cli = "watchdog", .json = "watchdog", .type = KUMO_FIELD_NOT_YET },
    { .cli = "rtc", .json = "rtc", .type = KUMO_FIELD_NOT_YET },
    { .cli = "gdb", .json = "gdb", .type = KUMO_FIELD_NOT_YET },
    { .cli = "pci-segment",
      .json = "pci_segments",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoVmConfig, pci_segments),
      .section = &kumo_pci_segment_section },
    { .cli = "tpm", .json = "tpm", .type = KUMO_FIELD_NOT_YET },
    { .cli = "landlock",
      .json = "landlock_enable",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoVmConfig, landlock_enable) },
    { .cli = "landlock-rules",
      .json = "landlock_rules",
      .host = true,
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoVmConfig, landlock_rules),
      .section = &kumo_landlock_rule_section },
    { .cli = "ivshmem", .json = "ivshmem", .type = KUMO_FIELD_NOT_YET },
};

const KumoSection kumo_vm_section = {
    .fields = vm_fields,
    .n_fields = G_N_ELEMENTS(vm_fields),
    .size = sizeof(KumoVmConfig),
};

static void *new_finished(const KumoSection *section)
{
    void *object = kumo_section_new(section);

    kumo_section_finish(section, object);
    return object;
}

KumoVmConfig *kumo_vm_config_new(void)
{
    return new_finished(&kumo_vm_section);
}

void kumo_vm_config_free(KumoVmConfig *config)
{
    kumo_section_free(&kumo_vm_section, config);
}

KumoVmConfig *kumo_vm_config_copy(const KumoVmConfig *config)
{
    KumoVmConfig *copy = g_new(KumoVmConfig, 1);

    kumo_section_copy(&kumo_vm_section, copy, config);
    return copy;
}

KumoDiskConfig *kumo_disk_config_new(void)
{
    return new_finished(&kumo_disk_section);
}

void kumo_disk_config_free(KumoDiskConfig *disk)
{
    kumo_section_free(&kumo_disk_section, disk);
}

KumoNetConfig *kumo_net_config_new(void)
{
    return new_finished(&kumo_net_section);
}

void kumo_net_config_free(KumoNetConfig *net)
{
    kumo_section_free(&kumo_net_section, net);
}

KumoMemoryZoneConfig *kumo_memory_zone_config_new(void)
{
    return new_finished(&kumo_memory_zone_section);
}

KumoNumaConfig *kumo_numa_config_new(void)
{
    return new_finished(&kumo_numa_section);
}

const KumoRateLimitGroupConfig *kumo_vm_config_find_rate_limit_group(const KumoVmConfig *config,
                                                                     const char *id)
{
    for (guint i = 0; i < config->rate_limit_groups->len; i++) {
        const KumoRateLimitGroupConfig *group = config->rate_limit_groups->pdata[i];

        if (g_strcmp0(group->id, id) == 0)
            return group;
    }
    return NULL;
}

KumoVmConfig *kumo_vm_config_from_json(const json_t *root, GError **error)
{
    g_autoptr(KumoVmConfig) config = kumo_section_new(&kumo_vm_section);

    if (!kumo_section_from_json(&kumo_vm_section, config, root, "", error))
        return NULL;
    kumo_section_finish(&kumo_vm_section, config);
    return g_steal_pointer(&config);
}

json_t *kumo_vm_config_to_json(const KumoVmConfig *config)
{
    return kumo_section_to_json(&kumo_vm_section, config);
}

json_t *kumo_disk_config_to_json(const KumoDiskConfig *disk)
{
    return kumo_section_to_json(&kumo_disk_section, disk);
}

json_t *kumo_net_config_to_json(const KumoNetConfig *net)
{
    return kumo_section_to_json(&kumo_net_section, net);
}

static void *device_from_json(const KumoSection *section, const json_t *root, GError **error)
{
    void *object = kumo_section_new(section);

    if (!kumo_section_from_json(section, object, root, "", error)) {
        kumo_section_free(section, object);
        return NULL;
    }
    kumo_section_finish(section, object);
    return object;
}

KumoDiskConfig *kumo_disk_config_from_json(const json_t *root, GError **error)
{
    return device_from_json(&kumo_disk_section, root, error);
}

KumoNetConfig *kumo_net_config_from_json(const json_t *root, GError **error)
{
    return device_from_json(&kumo_net_section, root, error);
}

static size_t count_wanted_fds(const KumoNetConfig *net)
{
    size_t wanted = 0;

    for (guint n = 0; net->fds && n < net->fds->len; n++)
        wanted += g_array_index(net->fds, int, n) < 0;
    return wanted;
}

static bool check_wanted_fds(size_t wanted, size_t n_fds, GError **error)
{
    if (wanted == n_fds)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "net: %zu descriptors came with the request, must be %zu, as many as net[].fds has "
                "entries",
                n_fds, wanted);
    return false;
}

/* Returns: how many of @fds it took. */
static size_t give_fds(KumoNetConfig *net, int *fds)
{
    size_t used = 0;

    for (guint n = 0; net->fds && n < net->fds->len; n++) {
        int *entry = &g_array_index(net->fds, int, n);

        if (*entry < 0) {
            *entry = fds[used];
            fds[used++] = -1;
        }
    }
    return used;
}

bool kumo_net_config_take_fds(KumoNetConfig *net, int *fds, size_t n_fds, GError **error)
{
    if (!check_wanted_fds(count_wanted_fds(net), n_fds, error))
        return false;
    give_fds(net, fds);
    return true;
}

bool kumo_vm_config_take_fds(KumoVmConfig *config, int *fds, size_t n_fds, GError **error)
{
    size_t wanted = 0;

    for (guint i = 0; i < config->nets->len; i++)
        wanted += count_wanted_fds(config->nets->pdata[i]);
    if (!check_wanted_fds(wanted, n_fds, error))
        return false;
    for (guint i = 0; i < config->nets->len; i++)
        fds += give_fds(config->nets->pdata[i], fds);
    return true;
}

KumoPciCommon *kumo_vm_config_find_pci(KumoVmConfig *config, const char *id)
{
    for (guint i = 0; i < config->disks->len; i++) {
        KumoDiskConfig *disk = config->disks->pdata[i];

        if (g_strcmp0(disk->pci.id, id) == 0)
            return &disk->pci;
    }
    for (guint i = 0; i < config->nets->len; i++) {
        KumoNetConfig *net = config->nets->pdata[i];

        if (g_strcmp0(net->pci.id, id) == 0)
            return &net->pci;
    }
    for (guint i = 0; i < config->memory.zones->len; i++) {
        KumoMemoryZoneConfig *zone = config->memory.zones->pdata[i];

        if (zone->hotplug_size_bytes && g_strcmp0(zone->id, id) == 0)
            return &zone->virtio_mem.pci;
    }
    if (config->memory.hotplug_method == KUMO_HOTPLUG_METHOD_VIRTIO_MEM &&
        config->memory.hotplug_size_bytes && g_strcmp0(KUMO_MEMORY_ID, id) == 0)
        return &config->memory.virtio_mem.pci;
    if (config->has_balloon &&
        g_strcmp0(config->balloon.pci.id ? config->balloon.pci.id : "__balloon", id) == 0)
        return &config->balloon.pci;
    if (g_strcmp0(config->rng.pci.id ? config->rng.pci.id : "__rng", id) == 0)
        return &config->rng.pci;
    if (g_strcmp0(config->console.pci.id ? config->console.pci.id : "__console", id) == 0)
        return &config->console.pci;
    return NULL;
}
