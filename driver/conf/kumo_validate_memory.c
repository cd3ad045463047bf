/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a definition says of memory, and its memory devices. */
#include "driver/conf/kumo_validate_memory.h"

#include "driver/conf/kumo_memory.h"
#include "driver/conf/kumo_refuse.h"
#include "vmm-core/config/config.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* Each cell's memory lies on one node of the host, or wherever the domain's may. */
static int kumoValidateMemnodes(const virDomainDef *def)
{
    int cells = (int)virDomainNumaGetNodeCount(def->numa);

    for (int cell = 0; cell < cells; cell++) {
        virDomainNumatuneMemMode mode;
        virBitmap *nodes;

        if (!virDomainNumatuneNodeSpecified(def->numa, cell) ||
            virDomainNumatuneGetMode(def->numa, cell, &mode) < 0)
            continue;
        if (mode != VIR_DOMAIN_NUMATUNE_MEM_STRICT) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/numatune/memnode/@mode: '%s' is not supported by kumo, only "
                             "'strict' is"),
                           virDomainNumatuneMemModeTypeToString(mode));
            return -1;
        }
        nodes = virDomainNumatuneGetNodeset(def->numa, NULL, cell);
        if (nodes && virBitmapCountBits(nodes) > 1) {
            g_autofree char *text = virBitmapFormat(nodes);

            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/numatune/memnode/@nodeset: '%s' is not supported by kumo: a "
                             "NUMA node's memory lies on one node of the host"),
                           text);
            return -1;
        }
    }
    return 0;
}

static int kumoValidateHugePages(const virDomainDef *def)
{
    size_t cells = MAX(virDomainNumaGetNodeCount(def->numa), 1);
    size_t general = 0;

    for (size_t i = 0; i < def->mem.nhugepages; i++) {
        const virDomainHugePage *page = &def->mem.hugepages[i];
        ssize_t last;

        if (!page->nodemask) {
            general++;
            continue;
        }
        last = virBitmapLastSetBit(page->nodemask);
        if (last >= (ssize_t)cells) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/memoryBacking/hugepages/page/@nodeset: the guest has no NUMA "
                             "node %zd"),
                           last);
            return -1;
        }
        for (size_t n = 0; n < i; n++) {
            if (!def->mem.hugepages[n].nodemask ||
                !virBitmapOverlaps(def->mem.hugepages[n].nodemask, page->nodemask))
                continue;
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                           _("/domain/memoryBacking/hugepages/page/@nodeset: a NUMA node has two "
                             "sizes of pages"));
            return -1;
        }
    }
    if (general > 1) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("/domain/memoryBacking/hugepages/page: two sizes without @nodeset"));
        return -1;
    }
    return 0;
}

static int kumoValidateNuma(const virDomainDef *def)
{
    size_t cells = virDomainNumaGetNodeCount(def->numa);

    if (virDomainNumaHasHMAT(def->numa)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("%s is not supported by kumo"),
                       "/domain/cpu/numa/interconnects");
        return -1;
    }
    for (size_t i = 0; i < cells; i++) {
        if (virDomainNumaGetNodeMemorySize(def->numa, i) == 0) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/cpu/numa/cell[@id='%zu']/@memory: a node without memory is "
                             "not supported by kumo"),
                           i);
            return -1;
        }
    }
    return 0;
}

static int kumoValidateCurrentMemory(const virDomainDef *def)
{
    unsigned long long total = virDomainDefGetMemoryTotal(def);
    unsigned long long current = def->mem.cur_balloon;

    if (current == 0) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("/domain/currentMemory: 0 is not supported by kumo"));
        return -1;
    }
    /* What virtio-mem has not plugged is missing without a balloon too. */
    if (kumoHasBalloon(def) || total - current <= kumoMemoryVirtioMemTotal(def))
        return 0;
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("/domain/currentMemory: %llu KiB differs from /domain/memory, %llu KiB; "
                     "that needs /domain/devices/memballoon[@model='virtio']"),
                   current, total);
    return -1;
}

static int kumoValidateMemoryDevices(const virDomainDef *def)
{
    int cells = (int)virDomainNumaGetNodeCount(def->numa);
    size_t slots = 0;

    for (size_t i = 0; i < def->nmems; i++) {
        const virDomainMemoryDef *mem = def->mems[i];
        int cell = kumoMemoryCell(def, mem);

        slots += mem->model == VIR_DOMAIN_MEMORY_MODEL_DIMM;
        for (size_t n = 0; n < i; n++) {
            if (mem->info.type != VIR_DOMAIN_DEVICE_ADDRESS_TYPE_DIMM ||
                !virDomainDeviceInfoAddressIsEqual(&mem->info, &def->mems[n]->info))
                continue;
            virReportError(VIR_ERR_XML_ERROR, _("memory slot %u is used twice"),
                           mem->info.addr.dimm.slot);
            return -1;
        }
        if (mem->model != VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM)
            continue;
        if (cell < cells && kumoMemoryVirtioMem(def, cell) != mem) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/devices/memory[%zu]: a second virtio-mem device of the same "
                             "NUMA node is not supported by kumo"),
                           i + 1);
            return -1;
        }
        if (kumoMemoryHugePage(def, cell) &&
            kumoMemoryHugePage(def, cell)->size > kumoMemoryBlock(mem)) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/devices/memory[%zu]/target/block: %llu KiB is less than the "
                             "huge pages that the memory is made of"),
                           i + 1, kumoMemoryBlock(mem));
            return -1;
        }
    }
    if (slots > def->mem.memory_slots) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/maxMemory/@slots: %u is less than the number of memory modules, "
                         "%zu"),
                       def->mem.memory_slots, slots);
        return -1;
    }
    return 0;
}

int kumoValidateMemory(const virDomainDef *def)
{
    const virDomainMemtune *mem = &def->mem;
    const kumoRefusal items[] = {
        { mem->dump_core == VIR_TRISTATE_SWITCH_ON, "/domain/memory/@dumpCore" },
    };

    if (kumoRefuse("", items, G_N_ELEMENTS(items)) < 0)
        return -1;
    if (mem->allocation_threads > KUMO_PREFAULT_THREADS_MAX) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/memoryBacking/allocation/@threads: %u is more than %d"),
                       mem->allocation_threads, KUMO_PREFAULT_THREADS_MAX);
        return -1;
    }
    if (kumoValidateNuma(def) < 0 || kumoValidateMemnodes(def) < 0 ||
        kumoValidateHugePages(def) < 0 || kumoValidateMemoryDevices(def) < 0)
        return -1;
    return kumoValidateCurrentMemory(def);
}

int kumoValidateMemoryDevice(const virDomainMemoryDef *mem, const virDomainDef *def)
{
    bool virtio = mem->model == VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM;
    int access = (int)mem->access;
    const kumoRefusal items[] = {
        { !virtio && mem->model != VIR_DOMAIN_MEMORY_MODEL_DIMM,
          "/@model (other than dimm and virtio-mem)" },
        /* It is of a kind with the memory that it adds to. */
        { access != VIR_DOMAIN_MEMORY_ACCESS_DEFAULT &&
              (access == VIR_DOMAIN_MEMORY_ACCESS_SHARED) !=
                  kumoMemoryIsShared(def, kumoMemoryCell(def, mem)),
          "/@access (other than the memory's)" },
        { kumoCompatMemorySourceGiven(mem), "/source" },
        { virtio && kumoCompatVirtioMemPlaced(mem), "/target/address" },
        { virtio && kumoCompatVirtioMemDynamic(mem), "/target/@dynamicMemslots" },
        { mem->info.acpiIndex, "/acpi" },
        { mem->info.type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_DIMM && mem->info.addr.dimm.base,
          "/address/@base" },
    };

    if (kumoRefuse("/domain/devices/memory", items, G_N_ELEMENTS(items)) < 0)
        return -1;
    if (virtio && mem->size % KUMO_MEMORY_PIECE_KIB) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/devices/memory/target/size: %llu KiB is not a multiple of "
                         "128 MiB"),
                       mem->size);
        return -1;
    }
    return 0;
}
