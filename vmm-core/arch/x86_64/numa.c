/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/acpi/tables.h"
#include "vmm-core/arch/x86_64/acpi.h"
#include "vmm-core/arch/x86_64/cpuid.h"

enum {
    SRAT_REVISION = 3,
    SRAT_MEMORY = 1,
    SRAT_MEMORY_BYTES = 40,
    SRAT_X2APIC = 2,
    SRAT_X2APIC_BYTES = 24,
    SRAT_ENABLED = 1 << 0,
    SRAT_HOTPLUGGABLE = 1 << 1,

    SLIT_REVISION = 1,
};

static void put_memory(GByteArray *table, uint32_t node, const KumoMemBacking *backing)
{
    kumo_acpi_put(table, SRAT_MEMORY, 1);
    kumo_acpi_put(table, SRAT_MEMORY_BYTES, 1);
    kumo_acpi_put(table, node, 4);
    kumo_acpi_put(table, 0, 2);
    kumo_acpi_put(table, backing->gpa, 8);
    kumo_acpi_put(table, backing->size_bytes, 8);
    kumo_acpi_put(table, 0, 4);
    kumo_acpi_put(table, SRAT_ENABLED | (backing->hotplug ? SRAT_HOTPLUGGABLE : 0), 4);
    kumo_acpi_put(table, 0, 8);
}

static void put_cpu(GByteArray *table, uint32_t node, uint32_t apic_id)
{
    kumo_acpi_put(table, SRAT_X2APIC, 1);
    kumo_acpi_put(table, SRAT_X2APIC_BYTES, 1);
    kumo_acpi_put(table, 0, 2);
    kumo_acpi_put(table, node, 4);
    kumo_acpi_put(table, apic_id, 4);
    kumo_acpi_put(table, SRAT_ENABLED, 4);
    kumo_acpi_put(table, 0, 4); /* clock domain: one for all */
    kumo_acpi_put(table, 0, 4);
}

GByteArray *kumo_x86_acpi_srat_new(const KumoVmConfig *config, const KumoMemory *memory)
{
    GByteArray *table = kumo_acpi_table_new("SRAT", SRAT_REVISION);

    kumo_acpi_put(table, 1, 4); /* reserved, and 1 for backward compatibility */
    kumo_acpi_put(table, 0, 8);
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *backing = &memory->backings[i];
        const KumoMemoryZoneConfig *zone;
        uint32_t node;

        if (backing->zone < 0)
            continue;
        zone = config->memory.zones->pdata[backing->zone];
        node = kumo_numa_node_of_zone(config, zone->id);
        if (node != KUMO_NUMA_NONE)
            put_memory(table, node, backing);
    }
    /* vCPUs that are plugged later have their node as well. */
    for (uint32_t i = 0; i < config->cpus.max_vcpus; i++) {
        uint32_t node = kumo_numa_node_of_cpu(config, i);

        if (node != KUMO_NUMA_NONE)
            put_cpu(table, node, kumo_x86_apic_id(&config->cpus, i));
    }
    kumo_acpi_table_finish(table);
    return table;
}

GByteArray *kumo_x86_acpi_slit_new(const KumoVmConfig *config)
{
    GByteArray *table = kumo_acpi_table_new("SLIT", SLIT_REVISION);
    uint32_t n_nodes = 0;

    /* The matrix is indexed by node number, so numbers that are left out have rows too. */
    for (guint i = 0; i < config->numa->len; i++) {
        const KumoNumaConfig *node = config->numa->pdata[i];

        n_nodes = MAX(n_nodes, node->guest_numa_id + 1);
    }
    kumo_acpi_put(table, n_nodes, 8);
    for (uint32_t from = 0; from < n_nodes; from++)
        for (uint32_t to = 0; to < n_nodes; to++)
            kumo_acpi_put(table, kumo_numa_distance(config, from, to), 1);
    kumo_acpi_table_finish(table);
    return table;
}
