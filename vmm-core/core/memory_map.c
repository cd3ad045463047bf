/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/memory_map.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum {
    NODE_MASK_BITS = 1024, /* the most nodes that Linux knows */
    NODE_MASK_WORD_BITS = 8 * sizeof(unsigned long),
};

#define PREFAULT_MIN_BYTES (64ull << 20) /* for a thread of its own */

/* --- what a zone is made of --- */

/* Returns: the size of the host's default huge page, 0 if there are none. */
static uint64_t default_hugepage_size(void)
{
    static gsize known; /* plus one; 0: not yet */
    g_autofree char *text = NULL;
    const char *line;
    unsigned long long kib = 0;

    if (g_once_init_enter(&known)) {
        line = g_file_get_contents("/proc/meminfo", &text, NULL, NULL)
                   ? strstr(text, "Hugepagesize:")
                   : NULL;
        if (line && sscanf(line, "Hugepagesize: %llu kB", &kib) != 1)
            kib = 0;
        g_once_init_leave(&known, (gsize)kib * 1024 + 1);
    }
    return known - 1;
}

void kumo_memory_map_prepare(void)
{
    default_hugepage_size();
}

static bool find_page_size(KumoMemSource *source, uint64_t wanted, GError **error)
{
    source->page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!source->hugepages)
        return true;
    source->page_size = wanted ? wanted : default_hugepage_size();
    if (kumo_is_pow2(source->page_size))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                "%s: hugepages=on, but %s (hugepage_size %" G_GUINT64_FORMAT ")", source->name,
                wanted ? "the size is not a power of two" : "this host has no huge pages", wanted);
    return false;
}

/* A directory gets a file without a name, which goes with us. */
static int open_path(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return open(path, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    return open(path, O_RDWR | O_CLOEXEC);
}

static bool open_file(KumoMemSource *source, GError **error)
{
    struct stat st;
    struct statfs fs;
    g_autofree char *shown = g_strdup(source->file);

    source->fd = open_path(source->file);
    if (source->fd < 0 || fstat(source->fd, &st) < 0 || fstatfs(source->fd, &fs) < 0) {
        kumo_set_error_errno(error, errno, "%s: %s", source->name, shown);
        return false;
    }
    if (fs.f_type == HUGETLBFS_MAGIC) {
        source->hugepages = true;
        source->page_size = (uint64_t)fs.f_bsize;
    } else if (source->hugepages) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: hugepages=on, but %s is not on a file system of huge pages", source->name,
                    shown);
        return false;
    }
    /* A shorter file would be a SIGBUS behind its end. */
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < source->size_bytes &&
        ftruncate(source->fd, (off_t)source->size_bytes) < 0) {
        kumo_set_error_errno(error, errno, "%s: %s: growing it to %" G_GUINT64_FORMAT " bytes",
                             source->name, shown, source->size_bytes);
        return false;
    }
    return true;
}

static bool make_shared(KumoMemSource *source, GError **error)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

    if (source->hugepages)
        flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(source->page_size) << MFD_HUGE_SHIFT;
    source->fd = memfd_create("kumo-ram", flags);
    if (source->fd < 0 || ftruncate(source->fd, (off_t)source->size_bytes) < 0) {
        kumo_set_error_errno(error, errno, "%s: memfd of %" G_GUINT64_FORMAT " bytes", source->name,
                             source->size_bytes);
        return false;
    }
    /* Nobody whom the descriptor is given to may pull the pages from under us. */
    fcntl(source->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    return true;
}

static bool prepare(KumoMemSource *source, uint64_t hugepage_size, GError **error)
{
    if (!find_page_size(source, hugepage_size, error))
        return false;
    if (source->file)
        return open_file(source, error);
    return !source->shared || make_shared(source, error);
}

static void source_clear(void *opaque)
{
    KumoMemSource *source = opaque;

    g_free(source->name);
    kumo_fd_clear(&source->fd);
}

static KumoMemSource describe_zone(const KumoMemoryConfig *config, guint index)
{
    const KumoMemoryZoneConfig *zone = config->zones->pdata[index];

    return (KumoMemSource){
        .name = g_strdup_printf("memory.zones[%u] (%s)", index, zone->id),
        .zone = (int)index,
        .size_bytes = zone->size_bytes,
        .file = zone->file,
        .shared = zone->shared,
        .hugepages = zone->hugepages,
        .prefault = zone->prefault,
        .reserve = zone->reserve,
        .mergeable = kumo_memory_zone_is_mergeable(config, zone),
        .thp = config->thp,
        .lock = config->lock,
        .prefault_threads = config->prefault_threads,
        .host_numa_node = zone->host_numa_node,
        .fd = -1,
    };
}

static KumoMemSource describe_all(const KumoMemoryConfig *config, uint64_t size_bytes)
{
    return (KumoMemSource){
        .name = g_strdup("memory"),
        .zone = -1,
        .size_bytes = size_bytes,
        .shared = config->shared,
        .hugepages = config->hugepages,
        .prefault = config->prefault,
        .reserve = config->reserve,
        .mergeable = config->mergeable,
        .thp = config->thp,
        .lock = config->lock,
        .prefault_threads = config->prefault_threads,
        .host_numa_node = -1,
        .fd = -1,
    };
}

static bool add_source(GArray *sources, const KumoMemoryConfig *config, KumoMemSource *source,
                       GError **error)
{
    uint64_t hugepage_size = config->hugepage_size_bytes;

    if (source->zone >= 0)
        hugepage_size =
            ((const KumoMemoryZoneConfig *)config->zones->pdata[source->zone])->hugepage_size_bytes;
    g_array_append_vals(sources, source, 1);
    return prepare(&g_array_index(sources, KumoMemSource, sources->len - 1), hugepage_size, error);
}

GArray *kumo_mem_sources_new(const KumoMemoryConfig *config, uint64_t size_bytes, GError **error)
{
    g_autoptr(GArray) sources = g_array_new(FALSE, FALSE, sizeof(KumoMemSource));
    guint n_zones = config->zones ? config->zones->len : 0;

    g_array_set_clear_func(sources, source_clear);
    for (guint i = 0; i < MAX(n_zones, 1); i++) {
        KumoMemSource source =
            n_zones ? describe_zone(config, i) : describe_all(config, size_bytes);

        if (!add_source(sources, config, &source, error))
            return NULL;
    }
    return g_steal_pointer(&sources);
}

GArray *kumo_mem_hotplug_source_new(const KumoMemoryConfig *config, const KumoHotplugRange *range,
                                    GError **error)
{
    g_autoptr(GArray) sources = g_array_new(FALSE, FALSE, sizeof(KumoMemSource));
    KumoMemSource source = range->zone < 0 ? describe_all(config, config->size_bytes)
                                           : describe_zone(config, (guint)range->zone);
    g_autofree char *zone_name = source.name;

    g_array_set_clear_func(sources, source_clear);
    source.name = g_strdup_printf("%s: hotplug_size", zone_name);
    /* A file that the zone names has the zone's memory first. */
    source.used_bytes = source.file ? source.size_bytes : 0;
    source.size_bytes = source.used_bytes + range->size_bytes;
    source.hotplug = true;
    /* Page by page as they are plugged. */
    source.prefault = false;
    return add_source(sources, config, &source, error) ? g_steal_pointer(&sources) : NULL;
}

/* --- address space --- */

uint8_t *kumo_mem_reserve(uint64_t size, uint64_t align, GError **error)
{
    uint64_t total;
    uint8_t *raw, *aligned;

    if (!kumo_add_u64(size, align, &total)) {
        kumo_set_error_errno(error, ENOMEM, "memory: %" G_GUINT64_FORMAT " bytes", size);
        return NULL;
    }
    raw = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        kumo_set_error_errno(error, errno, "memory: mapping %" G_GUINT64_FORMAT " bytes", size);
        return NULL;
    }
    aligned = (uint8_t *)kumo_align_up((uintptr_t)raw, align);
    if (aligned > raw)
        munmap(raw, (size_t)(aligned - raw));
    if (aligned + size < raw + total)
        munmap(aligned + size, (size_t)(raw + total - (aligned + size)));
    return aligned;
}

static bool bind_to_node(const KumoMemSource *source, uint8_t *hva, uint64_t size, GError **error)
{
    unsigned long mask[NODE_MASK_BITS / NODE_MASK_WORD_BITS] = { 0 };
    unsigned node = (unsigned)source->host_numa_node;

    if (source->host_numa_node < 0)
        return true;
    mask[node / NODE_MASK_WORD_BITS] = 1ul << node % NODE_MASK_WORD_BITS;
    /* The kernel takes one bit less than it is told of. */
    if (syscall(SYS_mbind, hva, size, MPOL_BIND, mask, (unsigned long)NODE_MASK_BITS + 1,
                MPOL_MF_STRICT | MPOL_MF_MOVE) == 0)
        return true;
    kumo_set_error_errno(error, errno, "%s: host_numa_node %u: binding %" G_GUINT64_FORMAT " bytes",
                         source->name, node, size);
    return false;
}

/* --- touching every page --- */

typedef struct {
    uint8_t *hva;
    uint64_t size;
    uint64_t page_size;
    int err;
} Prefault;

static void *prefault_part(void *opaque)
{
    Prefault *part = opaque;

    if (madvise(part->hva, part->size, MADV_POPULATE_WRITE) == 0)
        return NULL;
    if (errno != EINVAL) {
        part->err = errno;
        return NULL;
    }
    /* A kernel before 5.14. An atomic OR with nothing touches a page and changes none. */
    for (uint64_t offset = 0; offset < part->size; offset += part->page_size)
        __atomic_fetch_or(part->hva + offset, 0, __ATOMIC_RELAXED);
    return NULL;
}

static const KumoSyscallTable *const prefault_tables[] = { NULL };

const KumoThreadKind kumo_prefault_thread = { .name = "prefault", .tables = prefault_tables };

static void *prefault_thread(void *opaque)
{
    kumo_sandbox_enter(&kumo_prefault_thread);
    return prefault_part(opaque);
}

static bool prefault(const KumoMemSource *source, uint8_t *hva, uint64_t size, GError **error)
{
    Prefault parts[KUMO_PREFAULT_THREADS_MAX] = { 0 };
    GThread *threads[KUMO_PREFAULT_THREADS_MAX] = { NULL };
    uint64_t wanted = source->prefault_threads
                          ? source->prefault_threads
                          : MIN(size / PREFAULT_MIN_BYTES, g_get_num_processors());
    unsigned n = (unsigned)CLAMP(wanted, 1, KUMO_PREFAULT_THREADS_MAX);
    uint64_t step = kumo_align_up(size / n, source->page_size);
    int err = 0;

    for (unsigned i = 0; i < n; i++) {
        uint64_t start = MIN(i * step, size);

        parts[i] = (Prefault){ .hva = hva + start,
                               .size = i == n - 1 ? size - start : MIN(step, size - start),
                               .page_size = source->page_size };
        if (parts[i].size == 0)
            continue;
        /* The last part is for this thread, as is one that no thread can be had for. */
        if (i < n - 1)
            threads[i] = g_thread_try_new("prefault", prefault_thread, &parts[i], NULL);
        if (!threads[i])
            prefault_part(&parts[i]);
    }
    for (unsigned i = 0; i < n; i++) {
        if (threads[i])
            g_thread_join(threads[i]);
        err = err ? err : parts[i].err;
    }
    if (!err)
        return true;
    kumo_set_error_errno(error, err, "%s: prefault of %" G_GUINT64_FORMAT " bytes", source->name,
                         size);
    return false;
}

/* --- mapping --- */

static int map_flags(const KumoMemSource *source)
{
    int flags = MAP_FIXED;

    flags |= source->shared ? MAP_SHARED : MAP_PRIVATE;
    if (source->fd < 0) {
        flags |= MAP_ANONYMOUS;
        if (source->hugepages)
            flags |= MAP_HUGETLB | __builtin_ctzll(source->page_size) << MAP_HUGE_SHIFT;
    }
    /* Huge pages are always reserved: running out of them later would be a SIGBUS. */
    if (!source->reserve && !source->hugepages)
        flags |= MAP_NORESERVE;
    return flags;
}

static void give_hints(const KumoMemSource *source, uint8_t *hva, uint64_t size)
{
    /* The guest's memory has no place in our core dumps. Failure costs nothing but speed. */
    madvise(hva, size, MADV_DONTDUMP);
    if (source->thp && !source->hugepages && madvise(hva, size, MADV_HUGEPAGE) < 0)
        kumo_debug("%s: transparent huge pages: %s", source->name, g_strerror(errno));
    if (source->mergeable && madvise(hva, size, MADV_MERGEABLE) < 0)
        kumo_warn("%s: mergeable=on has no effect on this host: %s", source->name,
                  g_strerror(errno));
}

/* All pages have the same flag, so that one mapping stays one whatever comes and goes in it. */
bool kumo_mem_backing_lock(const KumoMemBacking *backing, uint8_t *hva, uint64_t size)
{
    return !backing->locked || mlock2(hva, size, MLOCK_ONFAULT) == 0;
}

/* Before Linux 5.18. */
static int drop_unlocked(uint8_t *hva, uint64_t size)
{
    int err = 0;

    if (munlock(hva, size) < 0)
        return errno;
    if (madvise(hva, size, MADV_DONTNEED) < 0)
        err = errno;
    if (mlock2(hva, size, MLOCK_ONFAULT) < 0 && !err)
        err = errno;
    return err;
}

int kumo_mem_drop_private(uint8_t *hva, uint64_t size, bool locked)
{
    if (madvise(hva, size, locked ? MADV_DONTNEED_LOCKED : MADV_DONTNEED) == 0)
        return 0;
    return locked && errno == EINVAL ? drop_unlocked(hva, size) : errno;
}

bool kumo_mem_source_map(KumoMemSource *source, uint64_t gpa, uint8_t *hva, uint64_t size,
                         KumoMemBacking *ret, GError **error)
{
    *ret = (KumoMemBacking){ .gpa = gpa,
                             .size_bytes = size,
                             .hva = hva,
                             .fd = -1,
                             .fd_offset = source->fd < 0 ? 0 : source->used_bytes,
                             .shared = source->shared,
                             .named = source->file != NULL,
                             .zone = source->zone,
                             .page_size = source->page_size,
                             .hotplug = source->hotplug,
                             .locked = source->lock };
    if (((gpa | size) & (source->page_size - 1)) != 0 || size == 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: size %" G_GUINT64_FORMAT
                    ": the part at guest address 0x%" G_GINT64_MODIFIER "x of %" G_GUINT64_FORMAT
                    " bytes is not a multiple of the page size %" G_GUINT64_FORMAT,
                    source->name, source->size_bytes, gpa, size, source->page_size);
        return false;
    }
    if (source->fd >= 0) {
        ret->fd = fcntl(source->fd, F_DUPFD_CLOEXEC, 3);
        if (ret->fd < 0) {
            kumo_set_error_errno(error, errno, "%s", source->name);
            return false;
        }
    }
    if (mmap(hva, size, PROT_READ | PROT_WRITE, map_flags(source), ret->fd,
             (off_t)ret->fd_offset) == MAP_FAILED) {
        kumo_set_error_errno(error, errno, "%s: mapping %" G_GUINT64_FORMAT " bytes%s",
                             source->name, size, source->hugepages ? " of huge pages" : "");
        return false;
    }
    source->used_bytes += size;
    if (!bind_to_node(source, hva, size, error))
        return false;
    give_hints(source, hva, size);
    if (!kumo_mem_backing_lock(ret, hva, size)) {
        kumo_set_error_errno(error, errno, "%s: lock of %" G_GUINT64_FORMAT " bytes", source->name,
                             size);
        return false;
    }
    return !source->prefault || prefault(source, hva, size, error);
}
