/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What sections must agree on among themselves, and the devices' ids. */
#include "vmm-core/config/config.h"

#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum { PCI_SLOTS = 32 };

/* One PCI device of the configuration, to look at all of them alike. */
typedef struct {
    KumoPciCommon *pci;
    char *path;            /* "disks[0]" */
    const char *fixed_id;  /* its automatic id, if there is one such device only */
    const char *id_prefix; /* otherwise: "_disk" makes "_disk0", "_disk1", ... */
} PciEntry;

static void entry_clear(void *opaque)
{
    PciEntry *entry = opaque;

    g_free(entry->path);
}

/* Their ids are those of the zones: given, never chosen. */
static void add_memory(GArray *entries, KumoVirtioMemConfig *virtio_mem, const char *id, char *path)
{
    PciEntry memory = { .pci = &virtio_mem->pci, .path = path };

    g_free(virtio_mem->pci.id);
    virtio_mem->pci.id = g_strdup(id);
    g_array_append_val(entries, memory);
}

static void add_virtio_mem(GArray *entries, KumoVmConfig *config)
{
    KumoMemoryConfig *memory = &config->memory;

    if (memory->hotplug_method != KUMO_HOTPLUG_METHOD_VIRTIO_MEM)
        return;
    if (memory->hotplug_size_bytes)
        add_memory(entries, &memory->virtio_mem, KUMO_MEMORY_ID, g_strdup("memory"));
    for (guint i = 0; i < memory->zones->len; i++) {
        KumoMemoryZoneConfig *zone = memory->zones->pdata[i];

        if (zone->hotplug_size_bytes)
            add_memory(entries, &zone->virtio_mem, zone->id,
                       g_strdup_printf("memory.zones[%u]", i));
    }
}

static GArray *pci_entries(KumoVmConfig *config)
{
    GArray *entries = g_array_new(FALSE, FALSE, sizeof(PciEntry));
    PciEntry rng = { .pci = &config->rng.pci, .path = g_strdup("rng"), .fixed_id = "__rng" };

    g_array_set_clear_func(entries, entry_clear);
    for (guint i = 0; i < config->disks->len; i++) {
        PciEntry disk = { .pci = &((KumoDiskConfig *)config->disks->pdata[i])->pci,
                          .path = g_strdup_printf("disks[%u]", i),
                          .id_prefix = "_disk" };

        g_array_append_val(entries, disk);
    }
    for (guint i = 0; i < config->nets->len; i++) {
        PciEntry net = { .pci = &((KumoNetConfig *)config->nets->pdata[i])->pci,
                         .path = g_strdup_printf("net[%u]", i),
                         .id_prefix = "_net" };

        g_array_append_val(entries, net);
    }
    g_array_append_val(entries, rng);
    if (config->has_balloon) {
        PciEntry balloon = { .pci = &config->balloon.pci,
                             .path = g_strdup("balloon"),
                             .fixed_id = "__balloon" };

        g_array_append_val(entries, balloon);
    }
    add_virtio_mem(entries, config);
    if (config->console.mode != KUMO_CONSOLE_OFF) {
        PciEntry console = { .pci = &config->console.pci,
                             .path = g_strdup("console"),
                             .fixed_id = "__console" };

        g_array_append_val(entries, console);
    }
    return entries;
}

/* Ids that start with "__" are the VMM's; a device may carry its own, as vm.info shows it. */
static bool check_id_form(const PciEntry *entry, GError **error)
{
    g_autofree char *shown = NULL;

    if (!entry->pci->id || !g_str_has_prefix(entry->pci->id, "__") ||
        g_strcmp0(entry->pci->id, entry->fixed_id) == 0)
        return true;
    shown = kumo_quote_value(entry->pci->id);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s.id: %s is not allowed, must not start with \"__\"", entry->path, shown);
    return false;
}

static bool check_ids(GArray *entries, GHashTable *ids, GError **error)
{
    for (guint i = 0; i < entries->len; i++) {
        PciEntry *entry = &g_array_index(entries, PciEntry, i);
        const char *other;

        if (!check_id_form(entry, error))
            return false;
        if (!entry->pci->id)
            continue;
        other = g_hash_table_lookup(ids, entry->pci->id);
        if (other) {
            g_autofree char *shown = kumo_quote_value(entry->pci->id);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT, "%s.id: %s is taken by %s",
                        entry->path, shown, other);
            return false;
        }
        g_hash_table_insert(ids, entry->pci->id, entry->path);
    }
    return true;
}

static void assign_ids(GArray *entries, GHashTable *ids)
{
    for (guint i = 0; i < entries->len; i++) {
        PciEntry *entry = &g_array_index(entries, PciEntry, i);

        if (entry->pci->id)
            continue;
        if (entry->fixed_id)
            entry->pci->id = g_strdup(entry->fixed_id);
        for (unsigned n = 0; !entry->pci->id; n++) {
            g_autofree char *id = g_strdup_printf("%s%u", entry->id_prefix, n);

            if (!g_hash_table_contains(ids, id))
                entry->pci->id = g_steal_pointer(&id);
        }
        g_hash_table_insert(ids, entry->pci->id, entry->path);
    }
}

static bool check_segments(const KumoVmConfig *config, const GArray *entries, GError **error)
{
    uint32_t n_segments = config->platform.num_pci_segments;
    bool seen[KUMO_MAX_PCI_SEGMENTS] = { false };

    for (guint i = 0; i < config->pci_segments->len; i++) {
        uint32_t segment =
            ((const KumoPciSegmentConfig *)config->pci_segments->pdata[i])->pci_segment;

        if (segment >= n_segments || seen[segment]) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "pci_segments[%u].pci_segment: %u %s", i, segment,
                        segment < n_segments ? "is given twice"
                                             : "is not below platform.num_pci_segments");
            return false;
        }
        seen[segment] = true;
    }
    for (guint i = 0; i < entries->len; i++) {
        const PciEntry *entry = &g_array_index(entries, PciEntry, i);

        if (entry->pci->pci_segment >= n_segments) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.pci_segment: %u is not allowed, must be below "
                        "platform.num_pci_segments, %u",
                        entry->path, entry->pci->pci_segment, n_segments);
            return false;
        }
    }
    return true;
}

static bool check_slots(GArray *entries, GError **error)
{
    const char *taken[KUMO_MAX_PCI_SEGMENTS][PCI_SLOTS] = { { NULL } };
    unsigned n_devices[KUMO_MAX_PCI_SEGMENTS] = { 0 };

    for (guint i = 0; i < entries->len; i++) {
        const PciEntry *entry = &g_array_index(entries, PciEntry, i);
        uint32_t segment = entry->pci->pci_segment;
        unsigned n_max = segment ? PCI_SLOTS : PCI_SLOTS - 1; /* slot 0 of 0 is the host bridge */
        int slot = entry->pci->pci_device_id;

        if (++n_devices[segment] > n_max) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s: at most %u PCI devices fit into PCI segment %u", entry->path, n_max,
                        segment);
            return false;
        }
        if (slot < 0)
            continue;
        if (taken[segment][slot]) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                        "%s.pci_device_id: %d is taken by %s", entry->path, slot,
                        taken[segment][slot]);
            return false;
        }
        taken[segment][slot] = entry->path;
    }
    return true;
}

/* A device keeps its queues while vCPUs come and go: the number that is there at the moment is no
 * measure, the one that can be there is. */
static bool check_queues(const KumoVmConfig *config, GError **error)
{
    uint32_t vcpus = config->cpus.max_vcpus;

    for (guint i = 0; i < config->disks->len; i++) {
        const KumoDiskConfig *disk = config->disks->pdata[i];

        if (disk->num_queues > vcpus) {
            g_set_error(
                error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "disks[%u].num_queues: %u is not allowed, must be at most %u, cpus.max_vcpus", i,
                disk->num_queues, vcpus);
            return false;
        }
    }
    for (guint i = 0; i < config->nets->len; i++) {
        const KumoNetConfig *net = config->nets->pdata[i];

        if (net->num_queues / 2 > vcpus) {
            g_set_error(
                error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "net[%u].num_queues: %u is not allowed, must be at most %u, two for each of "
                "cpus.max_vcpus",
                i, net->num_queues, 2 * vcpus);
            return false;
        }
    }
    return true;
}

static bool check_fds(const KumoVmConfig *config, GError **error)
{
    for (guint i = 0; i < config->nets->len; i++) {
        const KumoNetConfig *net = config->nets->pdata[i];

        for (guint n = 0; net->fds && n < net->fds->len; n++) {
            if (g_array_index(net->fds, int, n) < 0) {
                g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                            "net[%u].fds[%u]: the descriptor is missing, it has to come with the "
                            "request (SCM_RIGHTS)",
                            i, n);
                return false;
            }
        }
    }
    return true;
}

static bool check_rate_limit_groups(const KumoVmConfig *config, GError **error)
{
    for (guint i = 0; i < config->rate_limit_groups->len; i++) {
        const KumoRateLimitGroupConfig *group = config->rate_limit_groups->pdata[i];

        /* The first of that name is another one. */
        if (kumo_vm_config_find_rate_limit_group(config, group->id) != group) {
            g_autofree char *shown = kumo_quote_value(group->id);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                        "rate_limit_groups[%u].id: %s is there twice", i, shown);
            return false;
        }
    }
    for (guint i = 0; i < config->disks->len; i++) {
        const KumoDiskConfig *disk = config->disks->pdata[i];

        if (disk->rate_limit_group &&
            !kumo_vm_config_find_rate_limit_group(config, disk->rate_limit_group)) {
            g_autofree char *shown = kumo_quote_value(disk->rate_limit_group);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "disks[%u].rate_limit_group: %s is not the id of a rate limit group", i,
                        shown);
            return false;
        }
    }
    return true;
}

/* The ACPI tables of x86-64 machines have a place of fixed size. What they need is known exactly
 * when all devices are there; this is the most that the numbers below stand for. */
static bool check_acpi_room(const KumoVmConfig *config, GError **error)
{
    enum {
        OTHERS = 6 << 10,
        PER_SEGMENT = 2640, /* 32 slots; the entry in MCFG */
        PER_VCPU = 16,      /* MADT */
        PER_VCPU_OBJECT = 124,
        PER_VCPU_WITH_NODE = 24 + 9, /* SRAT; the object's _PXM */
        PER_ZONE = 4 * 40,           /* SRAT */
    };
    const KumoCpusConfig *cpus = &config->cpus;
    uint32_t n_segments = MAX(config->platform.num_pci_segments, 1);
    bool pluggable = cpus->max_vcpus > 1 && cpus->max_vcpus <= KUMO_MAX_PLUGGABLE_VCPUS;
    uint64_t per_vcpu =
        PER_VCPU + (pluggable ? PER_VCPU_OBJECT : 0) + (config->numa->len ? PER_VCPU_WITH_NODE : 0);
    uint64_t n_nodes = 0, needed;

    for (guint i = 0; i < config->numa->len; i++) {
        const KumoNumaConfig *node = config->numa->pdata[i];

        n_nodes = MAX(n_nodes, node->guest_numa_id + 1);
    }
    needed = OTHERS + (uint64_t)n_segments * PER_SEGMENT + cpus->max_vcpus * per_vcpu +
             n_nodes * n_nodes;
    if (n_nodes)
        needed += (uint64_t)PER_ZONE * MAX(config->memory.zones->len, 1);
    if (needed <= KUMO_ACPI_TABLES_BYTES)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "cpus.max_vcpus %u with platform.num_pci_segments %u%s: the ACPI tables would need "
                "%" G_GUINT64_FORMAT " bytes, there are %d",
                cpus->max_vcpus, n_segments, n_nodes ? " and numa" : "", needed,
                KUMO_ACPI_TABLES_BYTES);
    return false;
}

bool kumo_vm_config_validate(KumoVmConfig *config, GError **error)
{
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GArray) entries = NULL;

    if (!kumo_section_check(&kumo_vm_section, config, "", error) || !check_queues(config, error) ||
        !check_fds(config, error) || !check_rate_limit_groups(config, error) ||
        !kumo_numa_check(config, error) || !kumo_balloon_check(config, error) ||
        !check_acpi_room(config, error))
        return false;
    entries = pci_entries(config);
    if (!check_ids(entries, ids, error) || !check_segments(config, entries, error) ||
        !check_slots(entries, error))
        return false;
    assign_ids(entries, ids);
    return true;
}
