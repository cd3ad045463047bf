/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum { DIRTY_PAGE_SHIFT = 12, DIRTY_WORD_BITS = 64 };

#define MIB (1ULL << 20)
/* Where host and guest address agree modulo this, the hypervisor can map 2 MiB at once. */
#define HOST_ALIGN (2 * MIB)

struct KumoDirtyLog {
    unsigned n_regions;
    _Atomic uint64_t **bits; /* per region */
};

typedef struct {
    KumoMemory base;
    KumoHvVm *vm;     /* NULL for tests */
    unsigned n_slots; /* given to the hypervisor */
    KumoDirtyLog
        *dirty; /* kept until the memory goes: a device may still be marking when tracking stops */
} MemoryImpl;

static size_t dirty_words(const KumoMemRegion *region)
{
    uint64_t pages = (region->size_bytes + (1 << DIRTY_PAGE_SHIFT) - 1) >> DIRTY_PAGE_SHIFT;

    return (pages + DIRTY_WORD_BITS - 1) / DIRTY_WORD_BITS;
}

/* Returns: the size of the host's default huge page, 0 if there are none. */
static uint64_t default_hugepage_size(void)
{
    g_autofree char *text = NULL;
    const char *line;
    unsigned long long kib = 0;

    if (!g_file_get_contents("/proc/meminfo", &text, NULL, NULL))
        return 0;
    line = strstr(text, "Hugepagesize:");
    if (line && sscanf(line, "Hugepagesize: %llu kB", &kib) == 1)
        return kib * 1024;
    return 0;
}

/* Reserves address space of which an aligned part of @size is returned; the rest is given back. */
static uint8_t *reserve_aligned(uint64_t size, uint64_t align)
{
    uint64_t total;
    uint8_t *raw, *aligned;

    if (!kumo_add_u64(size, align, &total))
        return NULL;
    raw = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    aligned = (uint8_t *)kumo_align_up((uintptr_t)raw, align);
    if (aligned > raw)
        munmap(raw, (size_t)(aligned - raw));
    if (aligned + size < raw + total)
        munmap(aligned + size, (size_t)(raw + total - (aligned + size)));
    return aligned;
}

static int shared_memory_new(const KumoMemoryConfig *config, uint64_t page_size, uint64_t size,
                             GError **error)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    kumo_auto_fd fd = -1;

    if (config->hugepages)
        flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(page_size) << MFD_HUGE_SHIFT;
    fd = memfd_create("kumo-ram", flags);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "memory: memfd of %" G_GUINT64_FORMAT " bytes", size);
        return -1;
    }
    if (ftruncate(fd, (off_t)size) < 0) {
        kumo_set_error_errno(error, errno, "memory: memfd of %" G_GUINT64_FORMAT " bytes", size);
        return -1;
    }
    /* Nobody whom the descriptor is given to may pull the pages from under us. */
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    return kumo_fd_steal(&fd);
}

static bool prefault(uint8_t *hva, uint64_t size, uint64_t page_size, GError **error)
{
    if (madvise(hva, size, MADV_POPULATE_WRITE) == 0)
        return true;
    if (errno != EINVAL) {
        kumo_set_error_errno(error, errno, "memory: prefault of %" G_GUINT64_FORMAT " bytes", size);
        return false;
    }
    /* A kernel before 5.14. Fresh memory: writing a zero changes nothing. */
    for (uint64_t offset = 0; offset < size; offset += page_size)
        *(volatile uint8_t *)(hva + offset) = 0;
    return true;
}

static bool region_map(KumoMemRegion *region, const KumoMemoryConfig *config, uint64_t page_size,
                       GError **error)
{
    uint64_t size = region->size_bytes;
    uint64_t align = MAX(page_size, size >= HOST_ALIGN ? HOST_ALIGN : page_size);
    int flags = MAP_FIXED;
    uint8_t *hva;

    if (config->shared) {
        region->fd = shared_memory_new(config, page_size, size, error);
        if (region->fd < 0)
            return false;
        flags |= MAP_SHARED;
    } else {
        flags |= MAP_PRIVATE | MAP_ANONYMOUS;
        if (config->hugepages)
            flags |= MAP_HUGETLB | __builtin_ctzll(page_size) << MAP_HUGE_SHIFT;
    }
    /* Huge pages are always reserved: running out of them later would be a SIGBUS. */
    if (!config->reserve && !config->hugepages)
        flags |= MAP_NORESERVE;

    hva = reserve_aligned(size, align);
    if (!hva || mmap(hva, size, PROT_READ | PROT_WRITE, flags, region->fd, 0) == MAP_FAILED) {
        int err = errno;

        kumo_set_error_errno(error, err, "memory: mapping %" G_GUINT64_FORMAT " bytes%s", size,
                             config->hugepages ? " of huge pages" : "");
        if (hva)
            munmap(hva, size);
        return false;
    }
    region->hva = hva;

    /* The guest's memory has no place in our core dumps. These are hints: failure costs nothing but
     * speed. */
    madvise(hva, size, MADV_DONTDUMP);
    if (config->thp && !config->hugepages && madvise(hva, size, MADV_HUGEPAGE) < 0)
        kumo_debug("memory: transparent huge pages: %s", g_strerror(errno));
    if (config->mergeable && madvise(hva, size, MADV_MERGEABLE) < 0)
        kumo_warn("memory: mergeable=on has no effect on this host: %s", g_strerror(errno));
    return !config->prefault || prefault(hva, size, page_size, error);
}

static MemoryImpl *memory_impl_new(unsigned n_regions)
{
    MemoryImpl *impl = g_new0(MemoryImpl, 1);

    impl->base.regions = g_new0(KumoMemRegion, n_regions);
    impl->base.n_regions = n_regions;
    for (unsigned i = 0; i < n_regions; i++)
        impl->base.regions[i].fd = -1;
    return impl;
}

static bool page_size_for(const KumoMemoryConfig *config, uint64_t *ret_size, GError **error)
{
    if (!config->hugepages) {
        *ret_size = (uint64_t)sysconf(_SC_PAGESIZE);
        return true;
    }
    *ret_size = config->hugepage_size_bytes ? config->hugepage_size_bytes : default_hugepage_size();
    if (kumo_is_pow2(*ret_size))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                "memory: hugepages=on, but %s (hugepage_size %" G_GUINT64_FORMAT ")",
                config->hugepage_size_bytes ? "the size is not a power of two"
                                            : "this host has no huge pages",
                config->hugepage_size_bytes);
    return false;
}

KumoMemory *kumo_memory_new(const KumoMemoryConfig *config, const KumoMemRange *ranges,
                            unsigned n_ranges, KumoHvVm *vm, GError **error)
{
    g_autoptr(KumoMemory) memory = NULL;
    MemoryImpl *impl;
    uint64_t page_size;

    if (!page_size_for(config, &page_size, error))
        return NULL;
    impl = memory_impl_new(n_ranges);
    memory = &impl->base;
    impl->vm = vm;
    for (unsigned i = 0; i < n_ranges; i++) {
        KumoMemRegion *region = &memory->regions[i];

        region->gpa = ranges[i].gpa;
        region->size_bytes = ranges[i].size_bytes;
        region->slot = i;
        if (((region->gpa | region->size_bytes) & (page_size - 1)) != 0 ||
            region->size_bytes == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "memory: size %" G_GUINT64_FORMAT
                        ": the part at guest address 0x%" G_GINT64_MODIFIER
                        "x of %" G_GUINT64_FORMAT
                        " bytes is not a multiple of the page size %" G_GUINT64_FORMAT,
                        config->size_bytes, region->gpa, region->size_bytes, page_size);
            return NULL;
        }
        if (!region_map(region, config, page_size, error) ||
            !vm->ops->set_memory(vm, region->slot, region->gpa, region->size_bytes, region->hva, 0,
                                 error))
            return NULL;
        impl->n_slots = i + 1;
    }
    return g_steal_pointer(&memory);
}

KumoMemory *kumo_memory_new_for_test(uint64_t gpa, uint64_t size_bytes)
{
    MemoryImpl *impl = memory_impl_new(1);
    KumoMemRegion *region = &impl->base.regions[0];
    void *hva = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert(hva != MAP_FAILED);
    region->gpa = gpa;
    region->size_bytes = size_bytes;
    region->hva = hva;
    return &impl->base;
}

static void dirty_log_free(KumoDirtyLog *log)
{
    if (!log)
        return;
    for (unsigned i = 0; i < log->n_regions; i++)
        g_free(log->bits[i]);
    g_free(log->bits);
    g_free(log);
}

void kumo_memory_free(KumoMemory *memory)
{
    MemoryImpl *impl = (MemoryImpl *)memory;

    if (!memory)
        return;
    for (unsigned i = memory->n_regions; i-- > 0;) {
        KumoMemRegion *region = &memory->regions[i];
        g_autoptr(GError) error = NULL;

        if (i < impl->n_slots && !impl->vm->ops->set_memory(impl->vm, region->slot, region->gpa, 0,
                                                            region->hva, 0, &error))
            kumo_warn("memory: slot %u: %s", region->slot, error->message);
        if (region->hva)
            munmap(region->hva, region->size_bytes);
        kumo_fd_clear(&region->fd);
    }
    dirty_log_free(impl->dirty);
    g_free(memory->regions);
    g_free(impl);
}

/* The part of [@gpa, @gpa + @len) that is in the region of @gpa; NULL if @gpa is not RAM. */
static uint8_t *chunk_at(const KumoMemory *memory, uint64_t gpa, size_t len, size_t *ret_len)
{
    KumoMemRegion *region = kumo_memory_find(memory, gpa);
    uint64_t offset;

    if (!region)
        return NULL;
    offset = gpa - region->gpa;
    *ret_len = (size_t)MIN((uint64_t)len, region->size_bytes - offset);
    return region->hva + offset;
}

bool kumo_memory_read(const KumoMemory *memory, uint64_t gpa, void *buf, size_t len)
{
    while (len > 0) {
        size_t n;
        const uint8_t *hva = chunk_at(memory, gpa, len, &n);

        if (!hva)
            return false;
        memcpy(buf, hva, n);
        buf = (uint8_t *)buf + n;
        gpa += n;
        len -= n;
    }
    return true;
}

bool kumo_memory_write(KumoMemory *memory, uint64_t gpa, const void *buf, size_t len)
{
    while (len > 0) {
        size_t n;
        uint8_t *hva = chunk_at(memory, gpa, len, &n);

        if (!hva)
            return false;
        memcpy(hva, buf, n);
        kumo_memory_mark_dirty(memory, gpa, n);
        buf = (const uint8_t *)buf + n;
        gpa += n;
        len -= n;
    }
    return true;
}

void kumo_memory_dirty_start(KumoMemory *memory)
{
    MemoryImpl *impl = (MemoryImpl *)memory;

    if (!impl->dirty) {
        impl->dirty = g_new0(KumoDirtyLog, 1);
        impl->dirty->n_regions = memory->n_regions;
        impl->dirty->bits = g_new0(_Atomic uint64_t *, memory->n_regions);
        for (unsigned i = 0; i < memory->n_regions; i++)
            impl->dirty->bits[i] = g_malloc0(dirty_words(&memory->regions[i]) * sizeof(uint64_t));
    }
    for (unsigned i = 0; i < memory->n_regions; i++)
        kumo_memory_dirty_fetch(memory, i, NULL);
    atomic_store_explicit(&memory->dirty_log, impl->dirty, memory_order_seq_cst);
}

void kumo_memory_dirty_stop(KumoMemory *memory)
{
    atomic_store_explicit(&memory->dirty_log, NULL, memory_order_seq_cst);
}

void kumo_memory_dirty_fetch(KumoMemory *memory, unsigned region, uint64_t *ret_bitmap)
{
    MemoryImpl *impl = (MemoryImpl *)memory;
    size_t n_words;

    g_return_if_fail(impl->dirty && region < memory->n_regions);
    n_words = dirty_words(&memory->regions[region]);
    for (size_t i = 0; i < n_words; i++) {
        uint64_t word = 0;

        if (atomic_load_explicit(&impl->dirty->bits[region][i], memory_order_relaxed))
            word = atomic_exchange_explicit(&impl->dirty->bits[region][i], 0, memory_order_acq_rel);
        if (ret_bitmap)
            ret_bitmap[i] |= word;
    }
}

void kumo_memory_mark_dirty_slow(KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    KumoDirtyLog *log = atomic_load_explicit(&memory->dirty_log, memory_order_acquire);

    while (log && len > 0) {
        KumoMemRegion *region = kumo_memory_find(memory, gpa);
        uint64_t offset, n;

        if (!region)
            return;
        offset = gpa - region->gpa;
        n = MIN(len, region->size_bytes - offset);
        for (uint64_t page = offset >> DIRTY_PAGE_SHIFT;
             page <= (offset + n - 1) >> DIRTY_PAGE_SHIFT; page++)
            atomic_fetch_or_explicit(&log->bits[region - memory->regions][page / DIRTY_WORD_BITS],
                                     1ULL << (page % DIRTY_WORD_BITS), memory_order_release);
        gpa += n;
        len -= n;
    }
}
