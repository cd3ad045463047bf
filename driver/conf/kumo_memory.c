/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_memory.h"

#include <unistd.h>

#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoMemoryHostNode(const virDomainDef *def, int cell)
{
    virDomainNumatuneMemMode mode;
    virBitmap *nodes;

    /* The other mode that is taken places processes, and with them their memory. */
    if (virDomainNumatuneGetMode(def->numa, cell, &mode) < 0 ||
        mode != VIR_DOMAIN_NUMATUNE_MEM_STRICT ||
        !(nodes = virDomainNumatuneGetNodeset(def->numa, NULL, cell)) ||
        virBitmapCountBits(nodes) != 1)
        return -1;
    return (int)virBitmapNextSetBit(nodes, -1);
}

bool kumoMemoryIsShared(const virDomainDef *def, int cell)
{
    int access = VIR_DOMAIN_MEMORY_ACCESS_DEFAULT;

    if (cell >= 0)
        access = (int)virDomainNumaGetNodeMemoryAccessMode(def->numa, (size_t)cell);
    if (access == VIR_DOMAIN_MEMORY_ACCESS_DEFAULT)
        access = (int)def->mem.access;
    return access == VIR_DOMAIN_MEMORY_ACCESS_SHARED;
}

const virDomainHugePage *kumoMemoryHugePage(const virDomainDef *def, int cell)
{
    const virDomainHugePage *found = NULL;

    for (size_t i = 0; i < def->mem.nhugepages; i++) {
        const virDomainHugePage *page = &def->mem.hugepages[i];

        if (page->nodemask && virBitmapIsBitSet(page->nodemask, (size_t)MAX(cell, 0))) {
            found = page;
            break;
        }
        if (!page->nodemask)
            found = page;
    }
    /* Pages of the usual size may be asked for in the same way. */
    return found && found->size * 1024 == (unsigned long long)sysconf(_SC_PAGESIZE) ? NULL : found;
}

bool kumoMemoryNodesByGroup(const virDomainDef *def, bool privileged)
{
    virDomainNumatuneMemMode mode;

    return virDomainNumatuneGetMode(def->numa, -1, &mode) == 0 &&
           (mode == VIR_DOMAIN_NUMATUNE_MEM_RESTRICTIVE ||
            (mode == VIR_DOMAIN_NUMATUNE_MEM_STRICT && privileged));
}

bool kumoMemoryIsFile(const virDomainDef *def, int cell)
{
    return def->mem.source == VIR_DOMAIN_MEMORY_SOURCE_FILE && !kumoMemoryHugePage(def, cell);
}

int kumoMemoryCell(const virDomainDef *def, const virDomainMemoryDef *mem)
{
    if (virDomainNumaGetNodeCount(def->numa) == 0)
        return -1;
    return MAX(mem->targetNode, 0);
}

virDomainMemoryDef *kumoMemoryVirtioMem(const virDomainDef *def, int cell)
{
    for (size_t i = 0; i < def->nmems; i++) {
        if (def->mems[i]->model == VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM &&
            kumoMemoryCell(def, def->mems[i]) == cell)
            return def->mems[i];
    }
    return NULL;
}

unsigned long long kumoMemoryVirtioMemTotal(const virDomainDef *def)
{
    unsigned long long kib = 0;

    for (size_t i = 0; i < def->nmems; i++) {
        if (def->mems[i]->model == VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM)
            kib += def->mems[i]->size;
    }
    return kib;
}

unsigned long long kumoMemoryRoom(const virDomainDef *def)
{
    unsigned long long total = virDomainDefGetMemoryTotal(def);
    unsigned long long max = def->mem.max_memory;

    if (!virDomainDefHasMemoryHotplug(def) || max <= total)
        return 0;
    return (max - total) / KUMO_MEMORY_PIECE_KIB * KUMO_MEMORY_PIECE_KIB;
}

unsigned long long kumoMemoryBlock(const virDomainMemoryDef *mem)
{
    return kumoCompatVirtioMem(mem)->blocksize;
}

unsigned long long kumoMemoryRequested(const virDomainMemoryDef *mem)
{
    return kumoCompatVirtioMem(mem)->requestedsize;
}

unsigned long long kumoMemoryCurrent(const virDomainMemoryDef *mem)
{
    return kumoCompatVirtioMem(mem)->currentsize;
}

void kumoMemorySetRequested(virDomainMemoryDef *mem, unsigned long long kib)
{
    kumoCompatVirtioMem(mem)->requestedsize = kib;
}

void kumoMemorySetCurrent(virDomainMemoryDef *mem, unsigned long long kib)
{
    kumoCompatVirtioMem(mem)->currentsize = kib;
}

bool kumoHasBalloon(const virDomainDef *def)
{
    return def->memballoon && def->memballoon->model != VIR_DOMAIN_MEMBALLOON_MODEL_NONE;
}
