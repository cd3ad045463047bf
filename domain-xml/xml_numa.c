/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <cpu><numa>: the guest's NUMA nodes. Their memory is xml_memory.c's. */
#include "domain-xml/xml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static KumoNumaConfig *node_of(const virDomainDef *def, size_t cell, size_t cells)
{
    KumoNumaConfig *node = kumo_numa_config_new();
    virBitmap *cpus = virDomainNumaGetNodeCpumask(def->numa, cell);
    ssize_t cpu = -1;

    node->guest_numa_id = (uint32_t)cell;
    g_ptr_array_add(node->memory_zones, kumo_xml_zone_id(def, (int)cell));
    while (cpus && (cpu = virBitmapNextSetBit(cpus, cpu)) >= 0) {
        uint32_t number = (uint32_t)cpu;

        g_array_append_val(node->cpus, number);
    }
    for (size_t i = 0; i < cells; i++) {
        KumoNumaDistance *distance;

        if (i == cell || virDomainNumaNodeDistanceIsUsingDefaults(def->numa, cell, i))
            continue;
        distance = g_new0(KumoNumaDistance, 1);
        distance->destination = (uint32_t)i;
        distance->distance = (uint32_t)virDomainNumaGetNodeDistance(def->numa, cell, i);
        g_ptr_array_add(node->distances, distance);
    }
    return node;
}

int kumo_xml_numa(const virDomainDef *def, KumoVmConfig *config)
{
    size_t cells = virDomainNumaGetNodeCount(def->numa);

    for (size_t i = 0; i < cells; i++)
        g_ptr_array_add(config->numa, node_of(def, i, cells));
    return 0;
}
