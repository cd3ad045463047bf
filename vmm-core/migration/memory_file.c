/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/config.h"

enum {
    PAGE = 4096,
    MAP_BATCH = 4096, /* pages looked up at a time */
    IO_BYTES = 4 << 20,
};

/* /proc/PID/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)

static bool io_failed(const char *what, uint64_t offset, GError **error)
{
    kumo_set_error_errno(error, errno, "%s at %" G_GUINT64_FORMAT, what, offset);
    return false;
}

static uint64_t total_bytes(const KumoMemory *memory)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < memory->n_backings; i++)
        total += memory->backings[i].size_bytes;
    return total;
}

/* --- writing --- */

typedef struct {
    int fd;
    int pagemap_fd; /* -1: nobody says which pages are there */
    bool all;       /* pages that are not there are no zeros */
    const KumoMemBacking *part;
    uint64_t file_offset; /* of the part */
} Writer;

static bool is_zero(const uint8_t *page)
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

static bool write_run(const Writer *writer, uint64_t start, uint64_t end, GError **error)
{
    while (start < end) {
        uint64_t at = writer->file_offset + start;
        ssize_t n =
            pwrite(writer->fd, writer->part->hva + start, MIN(end - start, IO_BYTES), (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = ENOSPC;
            return io_failed("writing", at, error);
        }
        start += (uint64_t)n;
    }
    return true;
}

/* Writes what of [@start, @end) is not zero. */
static bool write_part(const Writer *writer, uint64_t start, uint64_t end, GError **error)
{
    uint64_t run = start;

    for (uint64_t at = start; at < end; at += PAGE) {
        if (!is_zero(writer->part->hva + at))
            continue;
        if (run < at && !write_run(writer, run, at, error))
            return false;
        run = at + PAGE;
    }
    return run >= end || write_run(writer, run, end, error);
}

/* Private memory: pages that were never touched are not in the page table, and looking at them
 * would bring them there. */
static bool write_private(const Writer *writer, GError **error)
{
    g_autofree uint64_t *entries = g_new(uint64_t, MAP_BATCH);
    uint64_t n_pages = writer->part->size_bytes / PAGE;
    uint64_t first_page = (uintptr_t)writer->part->hva / PAGE;

    for (uint64_t page = 0; page < n_pages; page += MAP_BATCH) {
        uint64_t n = MIN(n_pages - page, MAP_BATCH);
        size_t len = n * sizeof(uint64_t);
        uint64_t run = page;

        if (writer->all || writer->pagemap_fd < 0 ||
            kumo_pread_full(writer->pagemap_fd, entries, len,
                            (off_t)((first_page + page) * sizeof(uint64_t))) != (ssize_t)len)
            memset(entries, 0xff, len);
        for (uint64_t i = 0; i < n; i++) {
            if (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
                continue;
            if (run < page + i && !write_part(writer, run * PAGE, (page + i) * PAGE, error))
                return false;
            run = page + i + 1;
        }
        if (run < page + n && !write_part(writer, run * PAGE, (page + n) * PAGE, error))
            return false;
    }
    return true;
}

/* Shared memory: its file knows where there is something. */
static bool write_shared(const Writer *writer, GError **error)
{
    const KumoMemBacking *part = writer->part;
    uint64_t end = part->fd_offset + part->size_bytes;
    uint64_t at = part->fd_offset;

    while (at < end) {
        off_t data = lseek(part->fd, (off_t)at, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno == ENXIO)
            return true;
        if (data < 0) /* huge pages do not know */
            return write_part(writer, at - part->fd_offset, part->size_bytes, error);
        hole = lseek(part->fd, data, SEEK_HOLE);
        if (hole < 0)
            hole = (off_t)end;
        at = MIN(kumo_align_up((uint64_t)hole, PAGE), end);
        if ((uint64_t)data < at &&
            !write_part(writer, kumo_align_down((uint64_t)data, PAGE) - part->fd_offset,
                        at - part->fd_offset, error))
            return false;
    }
    return true;
}

bool kumo_memory_file_write(int fd, const KumoMemory *memory, GError **error)
{
    return kumo_memory_file_write_at(fd, 0, memory, error);
}

bool kumo_memory_file_write_at(int fd, uint64_t offset, const KumoMemory *memory, GError **error)
{
    kumo_auto_fd pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    Writer writer = { .fd = fd, .pagemap_fd = pagemap_fd, .file_offset = offset };

    if (ftruncate(fd, (off_t)(offset + total_bytes(memory))) < 0)
        return io_failed("growing the file", 0, error);
    for (unsigned i = 0; i < memory->n_backings; i++) {
        writer.part = &memory->backings[i];
        writer.all = writer.part->fd >= 0 || memory->from_snapshot;
        if (!(writer.part->fd >= 0 && writer.part->shared ? write_shared(&writer, error)
                                                          : write_private(&writer, error)))
            return false;
        writer.file_offset += writer.part->size_bytes;
    }
    return true;
}

/* --- reading --- */

static bool check_size(int fd, const KumoMemory *memory, GError **error)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return io_failed("looking at the size", 0, error);
    if ((uint64_t)st.st_size == total_bytes(memory))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "has %" G_GUINT64_FORMAT " bytes, must have %" G_GUINT64_FORMAT
                ", the size of the memory",
                (uint64_t)st.st_size, total_bytes(memory));
    return false;
}

static bool read_part(int fd, uint64_t offset, uint8_t *to, uint64_t len, GError **error)
{
    while (len > 0) {
        size_t part = MIN(len, IO_BYTES);
        ssize_t n = kumo_pread_full(fd, to, part, (off_t)offset);

        if (n < 0)
            return io_failed("reading", offset, error);
        if ((size_t)n < part) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "ends at %" G_GUINT64_FORMAT,
                        offset + (uint64_t)n);
            return false;
        }
        offset += part;
        to += part;
        len -= part;
    }
    return true;
}

static bool read_backing(int fd, uint64_t offset, const KumoMemBacking *part, GError **error)
{
    uint64_t end = offset + part->size_bytes;
    uint64_t at = offset;

    while (at < end) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        off_t hole;
        uint64_t stop;

        if (data < 0 && errno == ENXIO)
            return true;
        if (data < 0) /* the file system does not know */
            return read_part(fd, at, part->hva + (at - offset), end - at, error);
        hole = lseek(fd, data, SEEK_HOLE);
        stop = hole < 0 ? end : MIN((uint64_t)hole, end);
        if ((uint64_t)data >= end)
            return true;
        if (!read_part(fd, (uint64_t)data, part->hva + ((uint64_t)data - offset),
                       stop - (uint64_t)data, error))
            return false;
        at = stop;
    }
    return true;
}

bool kumo_memory_file_read(int fd, const KumoMemory *memory, GError **error)
{
    uint64_t offset = 0;

    if (!check_size(fd, memory, error))
        return false;
    for (unsigned i = 0; i < memory->n_backings; i++) {
        if (!read_backing(fd, offset, &memory->backings[i], error))
            return false;
        offset += memory->backings[i].size_bytes;
    }
    return true;
}

bool kumo_memory_file_map(int fd, KumoMemory *memory, GError **error)
{
    uint64_t offset = 0;

    if (!check_size(fd, memory, error))
        return false;
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (part->fd >= 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "memory_restore_mode OnDemand is only supported for private memory");
            return false;
        }
        if (mmap(part->hva, part->size_bytes, PROT_READ | PROT_WRITE,
                 MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, fd, (off_t)offset) == MAP_FAILED)
            return io_failed("mapping", offset, error);
        madvise(part->hva, part->size_bytes, MADV_DONTDUMP);
        offset += part->size_bytes;
    }
    memory->from_snapshot = true;
    return true;
}
