/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <vcpu> and <cpu>. */
#include "domain-xml/xml.h"

#include "virhostcpu.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static json_t *cpu_list(virBitmap *cpus)
{
    json_t *list = json_array();
    ssize_t cpu = -1;

    while ((cpu = virBitmapNextSetBit(cpus, cpu)) >= 0)
        json_array_append_new(list, json_integer((json_int_t)cpu));
    return list;
}

/* Without a place of its own a vCPU would follow the VMM's main thread, wherever that is pinned. */
static json_t *affinity_list(const virDomainDef *def)
{
    g_autoptr(virBitmap) all = NULL;
    json_t *list = json_array();

    if (def->cputune.emulatorpin && !def->cpumask && !(all = virHostCPUGetAvailableCPUsBitmap())) {
        json_decref(list);
        return NULL;
    }
    for (unsigned i = 0; i < virDomainDefGetVcpusMax(def); i++) {
        virBitmap *cpus = def->vcpus[i]->cpumask;

        if (!cpus)
            cpus = def->cpumask ? def->cpumask : all;
        if (cpus)
            json_array_append_new(
                list, json_pack("{s:I, s:o}", "vcpu", (json_int_t)i, "host_cpus", cpu_list(cpus)));
    }
    return list;
}

json_t *kumo_xml_affinity_json(virDomainDef *def)
{
    json_t *list = affinity_list(def);

    return list ? json_pack("{s:o}", "affinity", list) : NULL;
}

static int set_affinity(const virDomainDef *def, KumoCpusConfig *cpus)
{
    json_t *list = affinity_list(def);
    size_t i;
    json_t *entry;

    if (!list)
        return -1;
    json_array_foreach(list, i, entry)
    {
        KumoCpuAffinity *affinity = g_new0(KumoCpuAffinity, 1);
        size_t n;
        json_t *cpu;

        affinity->vcpu = (uint32_t)json_integer_value(json_object_get(entry, "vcpu"));
        affinity->host_cpus = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        json_array_foreach(json_object_get(entry, "host_cpus"), n, cpu)
        {
            uint32_t number = (uint32_t)json_integer_value(cpu);

            g_array_append_val(affinity->host_cpus, number);
        }
        g_ptr_array_add(cpus->affinity, affinity);
    }
    json_decref(list);
    return 0;
}

int kumo_xml_cpu(const virDomainDef *def, KumoVmConfig *config)
{
    KumoCpusConfig *cpus = &config->cpus;
    const virCPUDef *cpu = def->cpu;

    cpus->boot_vcpus = virDomainDefGetVcpus(def);
    cpus->max_vcpus = virDomainDefGetVcpusMax(def);
    if (set_affinity(def, cpus) < 0)
        return -1;
    if (!cpu)
        return 0;

    /* The host's CPU is what a guest gets, in host-passthrough and host-model alike. */
    if (cpu->sockets > 0 && cpu->cores > 0 && cpu->threads > 0) {
        cpus->has_topology = true;
        cpus->topology = (KumoCpuTopology){
            .threads_per_core = cpu->threads,
            .cores_per_die = cpu->cores,
            .dies_per_package = MAX(cpu->dies, 1),
            .packages = cpu->sockets,
        };
    }
    if (cpu->addr && cpu->addr->mode == VIR_CPU_MAX_PHYS_ADDR_MODE_EMULATE && cpu->addr->bits > 0)
        cpus->max_phys_bits = (uint32_t)cpu->addr->bits;
    return 0;
}
