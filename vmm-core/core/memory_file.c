/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/memory_map.h"
#include "vmm-core/core/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/config.h"
#include "vmm-core/core/memory_scan.h"

enum {
    PAGE = 4096,
    /* At a time: short enough for the processor's caches, as checksums look at it, too. */
    IO_BYTES = 256 << 10,
};

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
    const KumoMemory *memory;
    uint64_t offset;      /* of the memory in the file */
    KumoMemorySums *sums; /* NULL: nobody wants them */
} Writer;

/* Returns: where @part begins in the file. */
static uint64_t file_offset(const Writer *writer, const KumoMemBacking *part)
{
    uint64_t offset = writer->offset;

    for (const KumoMemBacking *before = writer->memory->backings; before < part; before++)
        offset += before->size_bytes;
    return offset;
}

static bool write_all(int fd, const uint8_t *data, uint64_t len, uint64_t offset, GError **error)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = ENOSPC;
            return io_failed("writing", offset, error);
        }
        data += n;
        len -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return true;
}

/* None of its pages is zero. */
static bool write_run(const Writer *writer, const KumoMemBacking *part, uint64_t start,
                      uint64_t end, GError **error)
{
    uint64_t base = file_offset(writer, part);

    while (start < end) {
        uint64_t len = MIN(end - start, IO_BYTES);

        for (uint64_t at = start; writer->sums && at < start + len; at += PAGE)
            kumo_memory_sums_add(writer->sums, base + at, part->hva + at);
        if (!write_all(writer->fd, part->hva + start, len, base + start, error))
            return false;
        start += len;
    }
    return true;
}

/* Writes what of [@start, @end) is not zero. */
static bool write_part(void *opaque, const KumoMemBacking *part, uint64_t start, uint64_t end,
                       GError **error)
{
    const Writer *writer = opaque;
    uint64_t run = start;

    for (uint64_t at = start; at < end; at += PAGE) {
        if (!kumo_memory_page_is_zero(part->hva + at))
            continue;
        if (run < at && !write_run(writer, part, run, at, error))
            return false;
        run = at + PAGE;
    }
    return run >= end || write_run(writer, part, run, end, error);
}

static bool write_memory(const Writer *writer, GError **error)
{
    if (ftruncate(writer->fd, (off_t)(writer->offset + total_bytes(writer->memory))) < 0)
        return io_failed("growing the file", 0, error);
    return kumo_memory_scan(writer->memory, write_part, (void *)writer, error);
}

KumoMemorySums *kumo_memory_file_new_sums(const KumoMemory *memory)
{
    return kumo_memory_sums_new(total_bytes(memory));
}

bool kumo_memory_file_write(int fd, const KumoMemory *memory, KumoMemorySums *sums, GError **error)
{
    const Writer writer = { .fd = fd, .memory = memory, .sums = sums };

    return write_memory(&writer, error);
}

bool kumo_memory_file_write_at(int fd, uint64_t offset, const KumoMemory *memory, GError **error)
{
    const Writer writer = { .fd = fd, .memory = memory, .offset = offset };

    return write_memory(&writer, error);
}

/* --- reading --- */

bool kumo_memory_file_check_size(int fd, const KumoMemory *memory, const KumoMemorySums *sums,
                                 GError **error)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return io_failed("looking at the size", 0, error);
    if ((uint64_t)st.st_size == total_bytes(memory)) {
        if (!sums || kumo_memory_sums_file_bytes(sums) == total_bytes(memory))
            return true;
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "its checksums are those of %" G_GUINT64_FORMAT " bytes",
                    kumo_memory_sums_file_bytes(sums));
        return false;
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "has %" G_GUINT64_FORMAT " bytes, must have %" G_GUINT64_FORMAT
                ", the size of the memory",
                (uint64_t)st.st_size, total_bytes(memory));
    return false;
}

static void add_sums(KumoMemorySums *sums, uint64_t offset, const uint8_t *data, uint64_t len)
{
    for (uint64_t at = 0; sums && at < len; at += PAGE) {
        if (!kumo_memory_page_is_zero(data + at))
            kumo_memory_sums_add(sums, offset + at, data + at);
    }
}

/* @found: (nullable): gets the sums of what was read. */
static bool read_part(int fd, uint64_t offset, uint8_t *to, uint64_t len, KumoMemorySums *found,
                      GError **error)
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
        add_sums(found, offset, to, part);
        offset += part;
        to += part;
        len -= part;
    }
    return true;
}

/* A hole in the file. Memory is fresh and zeros, but where it belongs to a file that was there
 * before. */
static void read_hole(const KumoMemBacking *part, uint64_t start, uint64_t end)
{
    if (!part->named || start >= end)
        return;
    if (part->shared && fallocate(part->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  (off_t)(part->fd_offset + start), (off_t)(end - start)) == 0)
        return;
    for (uint64_t at = start; at < end; at += PAGE) {
        if (!kumo_memory_page_is_zero(part->hva + at))
            memset(part->hva + at, 0, PAGE);
    }
}

/* @found: (nullable): gets the sums of what was read. */
static bool fill_part(int fd, uint64_t offset, const KumoMemBacking *part, KumoMemorySums *found,
                      GError **error)
{
    uint64_t end = offset + part->size_bytes;
    uint64_t at = offset;

    while (at < end) {
        off_t next = lseek(fd, (off_t)at, SEEK_DATA);
        off_t hole = next < 0 ? -1 : lseek(fd, next, SEEK_HOLE);
        uint64_t data = MIN((uint64_t)next, end);
        uint64_t stop = hole < 0 ? end : MIN((uint64_t)hole, end);

        if (next < 0) /* nothing comes any more, or the file system does not know */
            data = errno == ENXIO ? end : at;
        read_hole(part, at - offset, data - offset);
        if (data == end)
            break;
        if (!read_part(fd, data, part->hva + (data - offset), stop - data, found, error))
            return false;
        at = stop;
    }
    return true;
}

bool kumo_memory_file_read_part(int fd, uint64_t offset, const KumoMemBacking *part,
                                const KumoMemorySums *sums, GError **error)
{
    g_autoptr(KumoMemorySums) found =
        sums ? kumo_memory_sums_new(kumo_memory_sums_file_bytes(sums)) : NULL;

    return fill_part(fd, offset, part, found, error) &&
           (!sums || (kumo_memory_sums_compare(sums, found, offset, part->size_bytes, error) &&
                      kumo_memory_sums_check_edges(sums, fd, offset, part->size_bytes, error)));
}

bool kumo_memory_file_read(int fd, const KumoMemory *memory, const KumoMemorySums *sums,
                           GError **error)
{
    g_autoptr(KumoMemorySums) found = sums ? kumo_memory_sums_new(total_bytes(memory)) : NULL;
    uint64_t offset = 0;

    if (!kumo_memory_file_check_size(fd, memory, sums, error))
        return false;
    for (unsigned i = 0; i < memory->n_backings; i++) {
        if (!fill_part(fd, offset, &memory->backings[i], found, error))
            return false;
        offset += memory->backings[i].size_bytes;
    }
    return !sums || kumo_memory_sums_compare(sums, found, 0, offset, error);
}

bool kumo_memory_file_map(int fd, KumoMemory *memory, GError **error)
{
    uint64_t offset = 0;

    if (!kumo_memory_file_check_size(fd, memory, NULL, error))
        return false;
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (part->fd >= 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "memory_restore_mode OnDemand is only supported for private memory");
            return false;
        }
        if (mmap(part->hva, part->size_bytes, PROT_READ | PROT_WRITE,
                 MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, fd, (off_t)offset) == MAP_FAILED ||
            !kumo_mem_backing_lock(part, part->hva, part->size_bytes))
            return io_failed("mapping", offset, error);
        madvise(part->hva, part->size_bytes, MADV_DONTDUMP);
        offset += part->size_bytes;
    }
    memory->from_snapshot = true;
    return true;
}
