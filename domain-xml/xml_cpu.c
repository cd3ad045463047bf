/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <vcpu> and <cpu>. */
#include "domain-xml/xml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumo_xml_cpu(const virDomainDef *def, KumoVmConfig *config)
{
    KumoCpusConfig *cpus = &config->cpus;
    const virCPUDef *cpu = def->cpu;

    cpus->boot_vcpus = virDomainDefGetVcpus(def);
    cpus->max_vcpus = virDomainDefGetVcpusMax(def);
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
