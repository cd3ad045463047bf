/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum {
    DISTANCE_LOCAL = 10, /* ACPI 6.4, 5.2.17 */
    DISTANCE_REMOTE = 20,
    DISTANCE_MAX = 255, /* unreachable */
};

static const KumoField distance_fields[] = {
    { .json = "destination",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoNumaDistance, destination),
      .max = KUMO_NUMA_ID_MAX },
    { .json = "distance",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoNumaDistance, distance),
      .def = DISTANCE_REMOTE,
      .min = DISTANCE_LOCAL,
      .max = DISTANCE_MAX },
};

static const KumoSection distance_section = {
    .fields = distance_fields,
    .n_fields = G_N_ELEMENTS(distance_fields),
    .size = sizeof(KumoNumaDistance),
};

static const KumoField numa_fields[] = {
    { .cli = "guest_numa_id",
      .json = "guest_numa_id",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoNumaConfig, guest_numa_id),
      .max = KUMO_NUMA_ID_MAX },
    { .cli = "cpus",
      .json = "cpus",
      .type = KUMO_FIELD_NUMBERS,
      .offset = offsetof(KumoNumaConfig, cpus),
      .max = KUMO_MAX_VCPUS - 1 },
    { .cli = "distances",
      .json = "distances",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoNumaConfig, distances),
      .section = &distance_section },
    { .cli = "memory_zones",
      .json = "memory_zones",
      .type = KUMO_FIELD_STRINGS,
      .offset = offsetof(KumoNumaConfig, memory_zones),
      .max = KUMO_ID_MAX },
    { .cli = "pci_segments",
      .json = "pci_segments",
      .type = KUMO_FIELD_NUMBERS,
      .offset = offsetof(KumoNumaConfig, pci_segments),
      .max = KUMO_MAX_PCI_SEGMENTS - 1 },
    { .cli = "device_id", .json = "device_id", .type = KUMO_FIELD_NOT_YET },
};

const KumoSection kumo_numa_section = {
    .option = "numa",
    .fields = numa_fields,
    .n_fields = G_N_ELEMENTS(numa_fields),
    .size = sizeof(KumoNumaConfig),
};

static const KumoNumaConfig *node_at(const KumoVmConfig *config, guint index)
{
    return config->numa->pdata[index];
}

static const KumoNumaConfig *find_node(const KumoVmConfig *config, uint32_t id)
{
    for (guint i = 0; i < config->numa->len; i++) {
        if (node_at(config, i)->guest_numa_id == id)
            return node_at(config, i);
    }
    return NULL;
}

static const KumoNumaDistance *find_distance(const KumoNumaConfig *node, uint32_t destination)
{
    for (guint i = 0; node && i < node->distances->len; i++) {
        const KumoNumaDistance *distance = node->distances->pdata[i];

        if (distance->destination == destination)
            return distance;
    }
    return NULL;
}

uint8_t kumo_numa_distance(const KumoVmConfig *config, uint32_t from, uint32_t to)
{
    const KumoNumaDistance *distance = find_distance(find_node(config, from), to);

    if (from == to)
        return DISTANCE_LOCAL;
    if (!distance)
        distance = find_distance(find_node(config, to), from);
    return distance ? (uint8_t)distance->distance : DISTANCE_REMOTE;
}

uint32_t kumo_numa_node_of_cpu(const KumoVmConfig *config, uint32_t vcpu)
{
    for (guint i = 0; i < config->numa->len; i++) {
        const GArray *cpus = node_at(config, i)->cpus;

        for (guint n = 0; n < cpus->len; n++) {
            if (g_array_index(cpus, uint32_t, n) == vcpu)
                return node_at(config, i)->guest_numa_id;
        }
    }
    return KUMO_NUMA_NONE;
}

uint32_t kumo_numa_node_of_zone(const KumoVmConfig *config, const char *zone)
{
    for (guint i = 0; i < config->numa->len; i++) {
        const GPtrArray *zones = node_at(config, i)->memory_zones;

        for (guint n = 0; n < zones->len; n++) {
            if (strcmp(zones->pdata[n], zone) == 0)
                return node_at(config, i)->guest_numa_id;
        }
    }
    return KUMO_NUMA_NONE;
}

uint32_t kumo_numa_node_of_segment(const KumoVmConfig *config, uint32_t segment)
{
    for (guint i = 0; i < config->numa->len; i++) {
        const GArray *segments = node_at(config, i)->pci_segments;

        for (guint n = 0; n < segments->len; n++) {
            if (g_array_index(segments, uint32_t, n) == segment)
                return node_at(config, i)->guest_numa_id;
        }
    }
    return KUMO_NUMA_NONE;
}

/* --- checks --- */

/* @values are below @limit and were not seen in this or an earlier node. */
static bool check_numbers(guint index, const char *key, const GArray *values, uint32_t limit,
                          const char *what, GHashTable *seen, GError **error)
{
    for (guint i = 0; i < values->len; i++) {
        uint32_t value = g_array_index(values, uint32_t, i);

        if (value >= limit) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].%s[%u]: %u is not allowed, must be below %s, %u", index, key, i,
                        value, what, limit);
            return false;
        }
        if (!g_hash_table_add(seen, GUINT_TO_POINTER(value))) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].%s[%u]: %u is in a node already", index, key, i, value);
            return false;
        }
    }
    return true;
}

static bool has_zone(const KumoMemoryConfig *memory, const char *id)
{
    for (guint i = 0; i < memory->zones->len; i++) {
        if (strcmp(((const KumoMemoryZoneConfig *)memory->zones->pdata[i])->id, id) == 0)
            return true;
    }
    return false;
}

static bool check_zones(const KumoVmConfig *config, guint index, GHashTable *seen, GError **error)
{
    const GPtrArray *zones = node_at(config, index)->memory_zones;

    for (guint i = 0; i < zones->len; i++) {
        g_autofree char *shown = kumo_quote_value(zones->pdata[i]);

        if (!has_zone(&config->memory, zones->pdata[i])) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].memory_zones[%u]: no memory zone is called %s", index, i, shown);
            return false;
        }
        if (!g_hash_table_add(seen, zones->pdata[i])) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].memory_zones[%u]: %s is in a node already", index, i, shown);
            return false;
        }
    }
    return true;
}

static bool check_distances(const KumoVmConfig *config, guint index, GError **error)
{
    const KumoNumaConfig *node = node_at(config, index);

    for (guint i = 0; i < node->distances->len; i++) {
        const KumoNumaDistance *distance = node->distances->pdata[i];
        bool self = distance->destination == node->guest_numa_id;

        if (!find_node(config, distance->destination)) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].distances[%u].destination: %u is no node's guest_numa_id", index,
                        i, distance->destination);
            return false;
        }
        if (self != (distance->distance == DISTANCE_LOCAL)) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].distances[%u].distance: %u is not allowed, must be %s", index, i,
                        distance->distance,
                        self ? "10 from a node to itself" : "above 10 from a node to another");
            return false;
        }
        if (find_distance(node, distance->destination) != distance) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].distances[%u].destination: %u is given twice", index, i,
                        distance->destination);
            return false;
        }
    }
    return true;
}

bool kumo_numa_check(const KumoVmConfig *config, GError **error)
{
    g_autoptr(GHashTable) cpus = g_hash_table_new(NULL, NULL);
    g_autoptr(GHashTable) segments = g_hash_table_new(NULL, NULL);
    g_autoptr(GHashTable) zones = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < config->numa->len; i++) {
        const KumoNumaConfig *node = node_at(config, i);

        if (find_node(config, node->guest_numa_id) != node) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "numa[%u].guest_numa_id: %u is another node's", i, node->guest_numa_id);
            return false;
        }
        if (!check_numbers(i, "cpus", node->cpus, config->cpus.max_vcpus, "cpus.max_vcpus", cpus,
                           error) ||
            !check_numbers(i, "pci_segments", node->pci_segments, config->platform.num_pci_segments,
                           "platform.num_pci_segments", segments, error) ||
            !check_zones(config, i, zones, error) || !check_distances(config, i, error))
            return false;
    }
    return true;
}
