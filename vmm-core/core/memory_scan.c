/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/memory_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/fd.h"

enum {
    PAGE = 4096,
    MAP_BATCH = 4096, /* pages looked up at a time */
};

/* /proc/PID/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)

static int kept_pagemap_fd = -1; /* written by the main thread, while no thread scans */

typedef struct {
    KumoMemoryScanFunc func;
    void *opaque;
    int pagemap_fd; /* -1: nobody says which pages are there */
    bool all;       /* pages that are not there are no zeros */
    const KumoMemBacking *part;
} Scan;

bool kumo_memory_page_is_zero(const uint8_t *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;

    for (unsigned i = 0; i < PAGE / sizeof(uint64_t); i += 8) {
        uint64_t any = 0;

        for (unsigned j = 0; j < 8; j++)
            any |= words[i + j];
        if (any)
            return false;
    }
    return true;
}

static bool found(const Scan *scan, uint64_t start, uint64_t end, GError **error)
{
    return start >= end || scan->func(scan->opaque, scan->part, start, end, error);
}

/* Private memory: pages that were never touched are not in the page table, and looking at them
 * would bring them there. */
static bool scan_private(const Scan *scan, GError **error)
{
    g_autofree uint64_t *entries = g_new(uint64_t, MAP_BATCH);
    uint64_t n_pages = scan->part->size_bytes / PAGE;
    uint64_t first_page = (uintptr_t)scan->part->hva / PAGE;

    for (uint64_t page = 0; page < n_pages; page += MAP_BATCH) {
        uint64_t n = MIN(n_pages - page, MAP_BATCH);
        size_t len = n * sizeof(uint64_t);
        uint64_t run = page;

        if (scan->all || scan->pagemap_fd < 0 ||
            kumo_pread_full(scan->pagemap_fd, entries, len,
                            (off_t)((first_page + page) * sizeof(uint64_t))) != (ssize_t)len)
            memset(entries, 0xff, len);
        for (uint64_t i = 0; i < n; i++) {
            if (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
                continue;
            if (!found(scan, run * PAGE, (page + i) * PAGE, error))
                return false;
            run = page + i + 1;
        }
        if (!found(scan, run * PAGE, (page + n) * PAGE, error))
            return false;
    }
    return true;
}

/* Shared memory: its file knows where there is something. */
static bool scan_shared(const Scan *scan, GError **error)
{
    const KumoMemBacking *part = scan->part;
    uint64_t end = part->fd_offset + part->size_bytes;
    uint64_t at = part->fd_offset;

    /* A hole is where no page has come yet, too. */
    if (scan->all)
        return found(scan, 0, part->size_bytes, error);
    while (at < end) {
        off_t data = lseek(part->fd, (off_t)at, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno == ENXIO)
            return true;
        if (data < 0) /* huge pages do not know */
            return found(scan, at - part->fd_offset, part->size_bytes, error);
        hole = lseek(part->fd, data, SEEK_HOLE);
        if (hole < 0)
            hole = (off_t)end;
        at = MIN(kumo_align_up((uint64_t)hole, PAGE), end);
        if ((uint64_t)data < at &&
            !found(scan, kumo_align_down((uint64_t)data, PAGE) - part->fd_offset,
                   at - part->fd_offset, error))
            return false;
    }
    return true;
}

static int open_pagemap(void)
{
    return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

void kumo_memory_scan_prepare(void)
{
    if (kept_pagemap_fd < 0)
        kept_pagemap_fd = open_pagemap();
}

bool kumo_memory_scan(const KumoMemory *memory, KumoMemoryScanFunc func, void *opaque,
                      GError **error)
{
    kumo_auto_fd own_fd = kept_pagemap_fd < 0 ? open_pagemap() : -1;
    Scan scan = { .func = func,
                  .opaque = opaque,
                  .pagemap_fd = own_fd < 0 ? kept_pagemap_fd : own_fd };
    bool shared;

    for (unsigned i = 0; i < memory->n_backings; i++) {
        scan.part = &memory->backings[i];
        shared = scan.part->fd >= 0 && scan.part->shared;
        scan.all = memory->from_snapshot || kumo_memory_is_incomplete(memory) ||
                   (scan.part->fd >= 0 && !shared);
        if (!(shared ? scan_shared(&scan, error) : scan_private(&scan, error)))
            return false;
    }
    return true;
}

bool kumo_memory_is_named_file(const KumoMemBacking *part)
{
    struct stat st;

    return part->fd >= 0 && fstat(part->fd, &st) == 0 && st.st_nlink > 0;
}
