/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <memory> and <memoryBacking>. libvirt counts in KiB, the VMM in bytes. */
#include "domain-xml/xml.h"

#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static int kib_to_bytes(const char *path, unsigned long long kib, uint64_t *ret_bytes)
{
    if (kib > UINT64_MAX / 1024) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("%s: %llu KiB is too large"), path, kib);
        return -1;
    }
    *ret_bytes = kib * 1024;
    return 0;
}

int kumo_xml_memory(const virDomainDef *def, KumoVmConfig *config)
{
    KumoMemoryConfig *memory = &config->memory;
    const virDomainMemtune *mem = &def->mem;

    if (kib_to_bytes("/domain/memory", virDomainDefGetMemoryTotal(def), &memory->size_bytes) < 0)
        return -1;

    if (def->memballoon && def->memballoon->model != VIR_DOMAIN_MEMBALLOON_MODEL_NONE) {
        const virDomainMemballoonDef *balloon = def->memballoon;

        config->has_balloon = true;
        kumo_xml_pci(&balloon->info, &config->balloon.pci);
        config->balloon.size_bytes = memory->size_bytes - mem->cur_balloon * 1024;
        config->balloon.deflate_on_oom = balloon->autodeflate == VIR_TRISTATE_SWITCH_ON;
        config->balloon.free_page_reporting =
            balloon->free_page_reporting == VIR_TRISTATE_SWITCH_ON;
        config->balloon.stats_period_s = (uint32_t)balloon->period;
    }

    memory->shared = mem->access == VIR_DOMAIN_MEMORY_ACCESS_SHARED;
    memory->prefault = mem->allocation == VIR_DOMAIN_MEMORY_ALLOCATION_IMMEDIATE;
    if (mem->nhugepages > 0) {
        memory->hugepages = true;
        /* Zero is <hugepages/> without a size: the host's default. */
        if (kib_to_bytes("/domain/memoryBacking/hugepages/page/@size", mem->hugepages[0].size,
                         &memory->hugepage_size_bytes) < 0)
            return -1;
    }
    return 0;
}
