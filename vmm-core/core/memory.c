/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/core/memory_map.h"
#include "vmm-core/core/userfault.h"

enum {
    DIRTY_PAGE_SHIFT = 12,
    DIRTY_WORD_BITS = 64,
    ADDED_MAX = 8, /* regions that kumo_memory_add() may make */
};

#define MIB (1ULL << 20)
/* Where host and guest address agree modulo this, the hypervisor can map 2 MiB at once. */
#define HOST_ALIGN (2 * MIB)

struct KumoDirtyLog {
    unsigned n_regions;
    _Atomic uint64_t **bits; /* per region, NULL for those that came after the start */
};

typedef struct {
    KumoMemory base;
    KumoHvVm *vm;     /* NULL for tests */
    GArray *backings; /* of KumoMemBacking */
    unsigned n_slots; /* given to the hypervisor */
    unsigned room;    /* regions that there is an element for */
    KumoDirtyLog
        *dirty; /* kept until the memory goes: a device may still be marking when tracking stops */
} MemoryImpl;

size_t kumo_memory_dirty_words(const KumoMemRegion *region)
{
    uint64_t pages = (region->size_bytes + (1 << DIRTY_PAGE_SHIFT) - 1) >> DIRTY_PAGE_SHIFT;

    return (pages + DIRTY_WORD_BITS - 1) / DIRTY_WORD_BITS;
}

static MemoryImpl *memory_impl_new(unsigned n_regions, unsigned n_zones)
{
    MemoryImpl *impl = g_new0(MemoryImpl, 1);

    /* It never moves: others look at it without a lock. */
    impl->room = n_regions + ADDED_MAX;
    impl->base.regions = g_new0(KumoMemRegion, impl->room);
    impl->base.n_regions = n_regions;
    /* A new one begins with each region and with each zone. */
    impl->backings = g_array_sized_new(FALSE, FALSE, sizeof(KumoMemBacking), impl->room + n_zones);
    return impl;
}

/* The pages of every source start where their size divides host and guest address alike. */
static uint64_t alignment_for(const GArray *sources, uint64_t size)
{
    uint64_t align = size >= HOST_ALIGN ? HOST_ALIGN : 1;

    for (guint i = 0; i < sources->len; i++)
        align = MAX(align, g_array_index(sources, KumoMemSource, i).page_size);
    return align;
}

/* Fills @region from the sources, of which *@next is the first with anything left. */
static bool map_region(MemoryImpl *impl, KumoMemRegion *region, GArray *sources, guint *next,
                       GError **error)
{
    uint64_t done = 0;

    region->hva =
        kumo_mem_reserve(region->size_bytes, alignment_for(sources, region->size_bytes), error);
    if (!region->hva)
        return false;
    while (done < region->size_bytes) {
        KumoMemSource *source = &g_array_index(sources, KumoMemSource, *next);
        uint64_t left = source->size_bytes - source->used_bytes;
        uint64_t size = MIN(left, region->size_bytes - done);
        KumoMemBacking backing;
        bool ok = kumo_mem_source_map(source, region->gpa + done, region->hva + done, size,
                                      &backing, error);

        g_array_append_val(impl->backings, backing);
        impl->base.backings = (const KumoMemBacking *)(const void *)impl->backings->data;
        impl->base.n_backings = impl->backings->len;
        if (!ok)
            return false;
        done += size;
        if (size == left)
            (*next)++;
    }
    return true;
}

static bool give_to_hypervisor(MemoryImpl *impl, KumoMemRegion *region, GError **error)
{
    if (!impl->vm->ops->set_memory(impl->vm, region->slot, region->gpa, region->size_bytes,
                                   region->hva, 0, error))
        return false;
    impl->n_slots = region->slot + 1;
    return true;
}

/* Regions from @first on are for what virtio-mem plugs. */
static bool map_hotplug(MemoryImpl *impl, const KumoMemoryConfig *config, const GArray *hotplug,
                        unsigned first, GError **error)
{
    for (guint i = 0; i < hotplug->len; i++) {
        const KumoHotplugRange *range = &g_array_index(hotplug, KumoHotplugRange, i);
        KumoMemRegion *region = &impl->base.regions[first + i];
        g_autoptr(GArray) sources = kumo_mem_hotplug_source_new(config, range, error);
        guint next = 0;

        if (!sources)
            return false;
        *region = (KumoMemRegion){
            .gpa = range->gpa, .size_bytes = range->size_bytes, .slot = first + i, .hotplug = true
        };
        if (!map_region(impl, region, sources, &next, error) ||
            !give_to_hypervisor(impl, region, error))
            return false;
    }
    return true;
}

/* Empty with the ACPI method, whose memory comes in slots of its own. */
static GArray *virtio_mem_ranges(const KumoMemoryConfig *config, uint64_t from_gpa, GError **error)
{
    GArray *ranges;

    if (config->hotplug_method != KUMO_HOTPLUG_METHOD_VIRTIO_MEM)
        return g_array_new(FALSE, FALSE, sizeof(KumoHotplugRange));
    ranges = kumo_memory_config_hotplug_ranges(config, from_gpa);
    if (!ranges)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "memory: hotplug_size: all together is too large");
    return ranges;
}

KumoMemory *kumo_memory_new(const KumoMemoryConfig *config, const KumoMemRange *ranges,
                            unsigned n_ranges, uint64_t hotplug_gpa, KumoHvVm *vm, GError **error)
{
    g_autoptr(KumoMemory) memory = NULL;
    g_autoptr(GArray) sources = NULL, hotplug = NULL;
    MemoryImpl *impl;
    guint next = 0;
    uint64_t total = 0;

    for (unsigned i = 0; i < n_ranges; i++)
        total += ranges[i].size_bytes;
    g_return_val_if_fail(
        !config->zones || !config->zones->len || total == kumo_memory_config_total(config), NULL);
    sources = kumo_mem_sources_new(config, total, error);
    hotplug = sources ? virtio_mem_ranges(config, hotplug_gpa, error) : NULL;
    if (!hotplug)
        return NULL;
    impl = memory_impl_new(n_ranges + hotplug->len, config->zones ? config->zones->len : 0);
    memory = &impl->base;
    impl->vm = vm;
    for (unsigned i = 0; i < n_ranges; i++) {
        KumoMemRegion *region = &memory->regions[i];

        region->gpa = ranges[i].gpa;
        region->size_bytes = ranges[i].size_bytes;
        region->slot = i;
        if (!map_region(impl, region, sources, &next, error) ||
            !give_to_hypervisor(impl, region, error))
            return NULL;
    }
    if (!map_hotplug(impl, config, hotplug, n_ranges, error))
        return NULL;
    return g_steal_pointer(&memory);
}

static void drop_backings(MemoryImpl *impl, guint first)
{
    for (guint i = first; i < impl->backings->len; i++)
        kumo_fd_clear(&g_array_index(impl->backings, KumoMemBacking, i).fd);
    g_array_set_size(impl->backings, first);
    impl->base.n_backings = first;
}

bool kumo_memory_add(KumoMemory *memory, const KumoMemoryConfig *config, uint64_t gpa,
                     uint64_t size_bytes, GError **error)
{
    MemoryImpl *impl = (MemoryImpl *)memory;
    unsigned n = memory->n_regions;
    KumoMemRegion *region = &memory->regions[n];
    guint n_backings = impl->backings->len, next = 0;
    g_autoptr(GArray) sources = NULL;

    g_return_val_if_fail(!config->zones || !config->zones->len, false);
    if (n == impl->room || atomic_load(&memory->dirty_log)) {
        g_set_error(error, KUMO_ERROR, n == impl->room ? KUMO_ERROR_RESOURCE : KUMO_ERROR_STATE,
                    "memory: no memory can be added %s",
                    n == impl->room ? "any more" : "while a migration copies it");
        return false;
    }
    sources = kumo_mem_sources_new(config, size_bytes, error);
    if (!sources)
        return false;
    *region = (KumoMemRegion){ .gpa = gpa, .size_bytes = size_bytes, .slot = n };
    if (!map_region(impl, region, sources, &next, error) ||
        !impl->vm->ops->set_memory(impl->vm, region->slot, gpa, size_bytes, region->hva, 0,
                                   error)) {
        drop_backings(impl, n_backings);
        if (region->hva)
            munmap(region->hva, size_bytes);
        *region = (KumoMemRegion){ 0 };
        return false;
    }
    impl->n_slots = n + 1;
    atomic_store_explicit(&memory->n_regions, n + 1, memory_order_release);
    return true;
}

KumoMemory *kumo_memory_new_for_test(uint64_t gpa, uint64_t size_bytes)
{
    MemoryImpl *impl = memory_impl_new(1, 0);
    KumoMemRegion *region = &impl->base.regions[0];
    void *hva = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    KumoMemBacking backing;

    g_assert(hva != MAP_FAILED);
    region->gpa = gpa;
    region->size_bytes = size_bytes;
    region->hva = hva;
    backing = (KumoMemBacking){
        .gpa = gpa, .size_bytes = size_bytes, .hva = hva, .fd = -1, .zone = -1, .page_size = 4096
    };
    g_array_append_val(impl->backings, backing);
    impl->base.backings = (const KumoMemBacking *)(const void *)impl->backings->data;
    impl->base.n_backings = 1;
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
    kumo_userfault_free(memory->userfault);
    for (unsigned i = memory->n_regions; i-- > 0;) {
        KumoMemRegion *region = &memory->regions[i];
        g_autoptr(GError) error = NULL;

        if (i < impl->n_slots && !impl->vm->ops->set_memory(impl->vm, region->slot, region->gpa, 0,
                                                            region->hva, 0, &error))
            kumo_warn("memory: slot %u: %s", region->slot, error->message);
        if (region->hva)
            munmap(region->hva, region->size_bytes);
    }
    drop_backings(impl, 0);
    g_array_unref(impl->backings);
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

uint64_t kumo_memory_gpa_of(const KumoMemory *memory, const void *hva)
{
    for (unsigned i = 0; i < memory->n_regions; i++) {
        const KumoMemRegion *region = &memory->regions[i];
        uint64_t offset = (uintptr_t)hva - (uintptr_t)region->hva;

        if (offset < region->size_bytes)
            return region->gpa + offset;
    }
    g_return_val_if_reached(0);
}

bool kumo_memory_come_on_demand(KumoMemory *memory, KumoUserfault *engine, GError **error)
{
    g_return_val_if_fail(!memory->userfault, false);
    if (!kumo_userfault_start(engine, error)) {
        kumo_userfault_free(engine);
        return false;
    }
    memory->userfault = engine;
    return true;
}

bool kumo_memory_is_incomplete(const KumoMemory *memory)
{
    return memory->userfault && kumo_userfault_missing_bytes(memory->userfault) > 0;
}

/* Is all of [@gpa, @gpa + @len) RAM? */
static bool is_ram(const KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    while (len > 0) {
        const KumoMemRegion *region = kumo_memory_find(memory, gpa);
        uint64_t part;

        if (!region)
            return false;
        part = MIN(len, region->size_bytes - (gpa - region->gpa));
        gpa += part;
        len -= part;
    }
    return true;
}

static int discard_part(const KumoMemBacking *backing, uint64_t offset, uint64_t len)
{
    int status;

    if (backing->fd < 0 || !backing->shared)
        return kumo_mem_drop_private(backing->hva + offset, len, backing->locked);
    do {
        status = fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)(backing->fd_offset + offset), (off_t)len);
    } while (status < 0 && errno == EINTR);
    return status < 0 ? errno : 0;
}

/* The pages that lie in [@gpa, @gpa + @len) with all that they have. */
static bool whole_pages(const KumoMemBacking *backing, uint64_t gpa, uint64_t len,
                        uint64_t *ret_start, uint64_t *ret_len)
{
    uint64_t start = MAX(gpa, backing->gpa);
    uint64_t end = MIN(gpa + len, backing->gpa + backing->size_bytes);

    if (start >= end)
        return false;
    start = kumo_align_up(start - backing->gpa, backing->page_size);
    end = kumo_align_down(end - backing->gpa, backing->page_size);
    *ret_start = start;
    *ret_len = end - start;
    return start < end;
}

int kumo_memory_discard(KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    int first = 0;

    if (!is_ram(memory, gpa, len))
        return EFAULT;
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *backing = &memory->backings[i];
        uint64_t start, part;
        int err;

        if (!whole_pages(backing, gpa, len, &start, &part))
            continue;
        if (memory->userfault)
            kumo_userfault_begin_discard(memory->userfault, backing->hva + start, part);
        err = discard_part(backing, start, part);
        if (memory->userfault)
            kumo_userfault_end_discard(memory->userfault);
        first = first ? first : err;
        kumo_memory_mark_dirty(memory, backing->gpa + start, part);
    }
    return first;
}

int kumo_memory_populate(KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    uint8_t *hva = kumo_memory_at(memory, gpa, len);
    int status;

    if (!hva)
        return EFAULT;
    do {
        status = madvise(hva, len, MADV_POPULATE_WRITE);
    } while (status < 0 && errno == EINTR);
    return status < 0 ? errno : 0;
}

/* Lets the hypervisor log what the guest writes to all regions, or not. */
static bool log_guest(MemoryImpl *impl, bool on, GError **error)
{
    for (unsigned i = 0; i < impl->n_slots; i++) {
        const KumoMemRegion *region = &impl->base.regions[i];

        if (!impl->vm->ops->set_memory(impl->vm, region->slot, region->gpa, region->size_bytes,
                                       region->hva, on ? KUMO_HV_MEM_LOG_DIRTY : 0, error))
            return false;
    }
    return true;
}

static void make_dirty_log(MemoryImpl *impl)
{
    if (!impl->dirty) {
        impl->dirty = g_new0(KumoDirtyLog, 1);
        impl->dirty->bits = g_new0(_Atomic uint64_t *, impl->room);
    }
    for (; impl->dirty->n_regions < impl->base.n_regions; impl->dirty->n_regions++) {
        unsigned i = impl->dirty->n_regions;

        impl->dirty->bits[i] =
            g_malloc0(kumo_memory_dirty_words(&impl->base.regions[i]) * sizeof(uint64_t));
    }
}

bool kumo_memory_dirty_start(KumoMemory *memory, GError **error)
{
    MemoryImpl *impl = (MemoryImpl *)memory;
    bool ok = true;

    if (impl->vm && !impl->vm->ops->dirty_get) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "the hypervisor does not tell which pages the guest writes");
        return false;
    }
    make_dirty_log(impl);
    atomic_store_explicit(&memory->dirty_log, impl->dirty, memory_order_seq_cst);
    ok = log_guest(impl, true, error);
    for (unsigned i = 0; ok && i < memory->n_regions; i++)
        ok = kumo_memory_dirty_fetch(memory, i, NULL, error);
    if (!ok)
        kumo_memory_dirty_stop(memory);
    return ok;
}

void kumo_memory_dirty_stop(KumoMemory *memory)
{
    g_autoptr(GError) error = NULL;

    if (!atomic_load(&memory->dirty_log))
        return;
    atomic_store_explicit(&memory->dirty_log, NULL, memory_order_seq_cst);
    if (!log_guest((MemoryImpl *)memory, false, &error))
        kumo_warn("memory: %s", error->message);
}

static bool fetch_guest(MemoryImpl *impl, unsigned region, uint64_t *ret_bitmap, GError **error)
{
    const KumoMemRegion *of = &impl->base.regions[region];
    size_t n_words = kumo_memory_dirty_words(of);
    g_autofree uint64_t *bitmap = NULL;

    if (!impl->vm)
        return true;
    bitmap = g_new0(uint64_t, n_words);
    if (!impl->vm->ops->dirty_get(impl->vm, of->slot, bitmap, of->size_bytes >> DIRTY_PAGE_SHIFT,
                                  error))
        return false;
    for (size_t i = 0; ret_bitmap && i < n_words; i++)
        ret_bitmap[i] |= bitmap[i];
    return true;
}

bool kumo_memory_dirty_fetch(KumoMemory *memory, unsigned region, uint64_t *ret_bitmap,
                             GError **error)
{
    MemoryImpl *impl = (MemoryImpl *)memory;
    size_t n_words;

    g_return_val_if_fail(impl->dirty && region < memory->n_regions, false);
    if (!fetch_guest(impl, region, ret_bitmap, error))
        return false;
    n_words = kumo_memory_dirty_words(&memory->regions[region]);
    for (size_t i = 0; i < n_words; i++) {
        uint64_t word = 0;

        if (atomic_load_explicit(&impl->dirty->bits[region][i], memory_order_relaxed))
            word = atomic_exchange_explicit(&impl->dirty->bits[region][i], 0, memory_order_acq_rel);
        if (ret_bitmap)
            ret_bitmap[i] |= word;
    }
    return true;
}

void kumo_memory_mark_dirty_slow(KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    KumoDirtyLog *log = atomic_load_explicit(&memory->dirty_log, memory_order_acquire);

    while (log && len > 0) {
        KumoMemRegion *region = kumo_memory_find(memory, gpa);
        _Atomic uint64_t *bits;
        uint64_t offset, n;

        if (!region)
            return;
        offset = gpa - region->gpa;
        n = MIN(len, region->size_bytes - offset);
        bits = log->bits[region - memory->regions];
        for (uint64_t page = offset >> DIRTY_PAGE_SHIFT;
             bits && page <= (offset + n - 1) >> DIRTY_PAGE_SHIFT; page++)
            atomic_fetch_or_explicit(&bits[page / DIRTY_WORD_BITS],
                                     1ULL << (page % DIRTY_WORD_BITS), memory_order_release);
        gpa += n;
        len -= n;
    }
}
