/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * <memory>, <maxMemory>, <memoryBacking>, <numatune> and the memory devices. libvirt counts in KiB,
 * the VMM in bytes.
 */
#include "domain-xml/xml.h"

#include "driver/conf/kumo_memory.h"
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

bool kumo_xml_has_zones(const virDomainDef *def)
{
    return virDomainNumaGetNodeCount(def->numa) > 0 || kumoMemoryHostNode(def, -1) >= 0 ||
           kumoMemoryVirtioMem(def, -1) || kumoMemoryIsFile(def, -1);
}

char *kumo_xml_zone_id(const virDomainDef *def, int cell)
{
    const virDomainMemoryDef *mem = kumoMemoryVirtioMem(def, cell);

    if (mem && mem->info.alias)
        return g_strdup(mem->info.alias);
    return cell < 0 ? g_strdup("ram") : g_strdup_printf("ram-node%d", cell);
}

unsigned long long kumo_xml_zone_kib(const virDomainDef *def, int cell)
{
    unsigned long long kib = cell < 0 ? virDomainDefGetMemoryInitial(def)
                                      : virDomainNumaGetNodeMemorySize(def->numa, (size_t)cell);

    /* What is there at the start is no different from other memory. */
    for (size_t i = 0; i < def->nmems; i++) {
        if (def->mems[i]->model == VIR_DOMAIN_MEMORY_MODEL_DIMM &&
            kumoMemoryCell(def, def->mems[i]) == cell)
            kib += def->mems[i]->size;
    }
    return kib;
}

static int set_pages(const virDomainHugePage *page, bool *ret_hugepages, uint64_t *ret_bytes)
{
    if (!page)
        return 0;
    *ret_hugepages = true;
    /* Zero is <hugepages/> without a size: the host's default. */
    return kib_to_bytes("/domain/memoryBacking/hugepages/page/@size", page->size, ret_bytes);
}

static int add_zone(const virDomainDef *def, int cell, const char *memory_dir,
                    KumoMemoryConfig *memory)
{
    const virDomainMemoryDef *mem = kumoMemoryVirtioMem(def, cell);
    KumoMemoryZoneConfig *zone = kumo_memory_zone_config_new();

    g_ptr_array_add(memory->zones, zone);
    zone->id = kumo_xml_zone_id(def, cell);
    zone->shared = kumoMemoryIsShared(def, cell);
    if (memory_dir && kumoMemoryIsFile(def, cell))
        zone->file = g_strdup_printf("%s/%s", memory_dir, zone->id);
    zone->prefault = def->mem.allocation == VIR_DOMAIN_MEMORY_ALLOCATION_IMMEDIATE;
    zone->host_numa_node = kumoMemoryHostNode(def, cell);
    if (set_pages(kumoMemoryHugePage(def, cell), &zone->hugepages, &zone->hugepage_size_bytes) <
            0 ||
        kib_to_bytes("/domain/memory", kumo_xml_zone_kib(def, cell), &zone->size_bytes) < 0)
        return -1;
    if (!mem)
        return 0;

    memory->hotplug_method = KUMO_HOTPLUG_METHOD_VIRTIO_MEM;
    if (mem->info.type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_PCI)
        zone->virtio_mem.pci.pci_device_id = (int)mem->info.addr.pci.slot;
    if (kib_to_bytes("/domain/devices/memory/target/size", mem->size, &zone->hotplug_size_bytes) <
            0 ||
        kib_to_bytes("/domain/devices/memory/target/requested", kumoMemoryRequested(mem),
                     &zone->virtio_mem.plugged_bytes) < 0)
        return -1;
    return 0;
}

static int set_zones(const virDomainDef *def, const char *memory_dir, KumoMemoryConfig *memory)
{
    int cells = (int)virDomainNumaGetNodeCount(def->numa);

    memory->size_bytes = 0;
    if (cells == 0)
        return add_zone(def, -1, memory_dir, memory);
    for (int i = 0; i < cells; i++) {
        if (add_zone(def, i, memory_dir, memory) < 0)
            return -1;
    }
    return 0;
}

static int set_memory(const virDomainDef *def, KumoMemoryConfig *memory)
{
    if (kib_to_bytes("/domain/memory", virDomainDefGetMemoryTotal(def), &memory->size_bytes) < 0 ||
        kib_to_bytes("/domain/maxMemory", kumoMemoryRoom(def), &memory->hotplug_size_bytes) < 0)
        return -1;
    memory->shared = kumoMemoryIsShared(def, -1);
    memory->prefault = def->mem.allocation == VIR_DOMAIN_MEMORY_ALLOCATION_IMMEDIATE;
    return set_pages(kumoMemoryHugePage(def, -1), &memory->hugepages, &memory->hugepage_size_bytes);
}

int kumo_xml_memory(const virDomainDef *def, const char *memory_dir, KumoVmConfig *config)
{
    const virDomainMemballoonDef *balloon = def->memballoon;

    config->memory.lock = def->mem.locked;
    config->memory.prefault_threads = def->mem.allocation_threads;

    if ((kumo_xml_has_zones(def) ? set_zones(def, memory_dir, &config->memory)
                                 : set_memory(def, &config->memory)) < 0)
        return -1;
    if (!balloon || balloon->model == VIR_DOMAIN_MEMBALLOON_MODEL_NONE)
        return 0;

    config->has_balloon = true;
    kumo_xml_pci(&balloon->info, &config->balloon.pci);
    /* What virtio-mem has not plugged is not in the balloon. */
    config->balloon.size_bytes = (virDomainDefGetMemoryTotal(def) - def->mem.cur_balloon) * 1024;
    config->balloon.deflate_on_oom = balloon->autodeflate == VIR_TRISTATE_SWITCH_ON;
    config->balloon.free_page_reporting = balloon->free_page_reporting == VIR_TRISTATE_SWITCH_ON;
    /* A period may come while the guest runs. */
    config->balloon.statistics = true;
    config->balloon.stats_period_s = (uint32_t)balloon->period;
    return 0;
}
