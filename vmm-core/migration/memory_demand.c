/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/memory_demand.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/core/memory_file.h"

enum {
    WINDOW_BYTES = 64 << 10,      /* what is next to a page is likely to be touched, too */
    BACKGROUND_BYTES = 256 << 10, /* who touches a page waits for one such read at most */
};

typedef struct {
    uint64_t gpa, size_bytes, offset;
} Piece;

/* Where the pages come from. */
typedef struct {
    int fd;
    char *name;
    GArray *pieces;       /* of Piece: what is where in the file */
    KumoMemorySums *sums; /* NULL: nothing tells whether it is damaged */
    KumoMemoryDemandWatch watch;
} Source;

static const Piece *find_piece(const Source *source, uint64_t gpa)
{
    for (guint i = 0; i < source->pieces->len; i++) {
        const Piece *piece = &g_array_index(source->pieces, Piece, i);

        if (gpa - piece->gpa < piece->size_bytes)
            return piece;
    }
    return NULL;
}

static void failed_to_read(const Source *source, uint64_t offset, int err, GError **error)
{
    if (err)
        kumo_set_error_errno(error, err, "%s: reading at %" G_GUINT64_FORMAT, source->name, offset);
    else
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO,
                    "%s: ends at %" G_GUINT64_FORMAT ", it has been cut off", source->name, offset);
}

static bool read_at(const Source *source, uint64_t offset, void *buf, size_t len, GError **error)
{
    ssize_t got = kumo_pread_full(source->fd, buf, len, (off_t)offset);

    if ((size_t)got == len)
        return true;
    failed_to_read(source, got < 0 ? offset : offset + (uint64_t)got, got < 0 ? errno : 0, error);
    return false;
}

/* Blocks that are read as a whole, or up to the end of the file. */
static bool check_blocks(const Source *source, uint64_t offset, const uint8_t *data, size_t len,
                         GError **error)
{
    if (kumo_memory_sums_check(source->sums, offset, data, len, error))
        return true;
    kumo_prefix_error(error, "%s", source->name);
    return false;
}

/* A part of one block, which has to be read as a whole to know what it is. */
static bool read_in_block(const Source *source, uint64_t offset, uint8_t *buf, size_t len,
                          GError **error)
{
    uint64_t start = kumo_align_down(offset, KUMO_SUMS_BLOCK_BYTES);
    uint64_t end = MIN(start + KUMO_SUMS_BLOCK_BYTES, kumo_memory_sums_file_bytes(source->sums));
    g_autofree uint8_t *block = g_malloc(KUMO_SUMS_BLOCK_BYTES);

    if (!read_at(source, start, block, end - start, error) ||
        !check_blocks(source, start, block, end - start, error))
        return false;
    memcpy(buf, block + (offset - start), len);
    return true;
}

static KumoFetch fetch_checked(const Source *source, uint64_t offset, uint8_t *buf, size_t len,
                               GError **error)
{
    uint64_t end = offset + len;

    if (kumo_memory_sums_is_zero(source->sums, offset, len))
        return KUMO_FETCH_ZEROS;
    while (offset < end) {
        uint64_t behind = kumo_align_down(offset, KUMO_SUMS_BLOCK_BYTES) + KUMO_SUMS_BLOCK_BYTES;
        uint64_t whole = end == kumo_memory_sums_file_bytes(source->sums)
                             ? end
                             : kumo_align_down(end, KUMO_SUMS_BLOCK_BYTES);
        uint64_t n;

        if (offset % KUMO_SUMS_BLOCK_BYTES == 0 && whole > offset) {
            n = whole - offset;
            if (!read_at(source, offset, buf, n, error) ||
                !check_blocks(source, offset, buf, n, error))
                return KUMO_FETCH_FAILED;
        } else {
            n = MIN(behind, end) - offset;
            if (!read_in_block(source, offset, buf, n, error))
                return KUMO_FETCH_FAILED;
        }
        offset += n;
        buf += n;
    }
    return KUMO_FETCH_DATA;
}

static KumoFetch fetch(void *opaque, uint64_t gpa, void *buf, size_t len, GError **error)
{
    const Source *source = opaque;
    const Piece *piece = find_piece(source, gpa);
    uint64_t offset = piece->offset + (gpa - piece->gpa);
    off_t data;

    if (source->sums)
        return fetch_checked(source, offset, buf, len, error);
    data = lseek(source->fd, (off_t)offset, SEEK_DATA);
    /* Behind the end of a file that was cut off is no hole. */
    if (data >= (off_t)(offset + len))
        return KUMO_FETCH_ZEROS;
    if (data < 0 && errno == ENXIO && lseek(source->fd, 0, SEEK_END) >= (off_t)(offset + len))
        return KUMO_FETCH_ZEROS;
    return read_at(source, offset, buf, len, error) ? KUMO_FETCH_DATA : KUMO_FETCH_FAILED;
}

static void finished(void *opaque)
{
    const Source *source = opaque;

    if (source->watch.finished)
        source->watch.finished(source->watch.opaque);
}

static void failed(void *opaque, const GError *error)
{
    const Source *source = opaque;

    source->watch.failed(source->watch.opaque, error);
}

static void source_free(void *opaque)
{
    Source *source = opaque;

    kumo_fd_clear(&source->fd);
    g_array_unref(source->pieces);
    kumo_memory_sums_unref(source->sums);
    g_free(source->name);
    g_free(source);
}

static const KumoUserfaultOps ops = {
    .fetch = fetch,
    .window_bytes = WINDOW_BYTES,
    .background_bytes = BACKGROUND_BYTES,
    .finished = finished,
    .failed = failed,
    .release = source_free,
};

static Source *source_new(int fd, const char *name, const KumoMemory *memory, KumoMemorySums *sums,
                          const KumoMemoryDemandWatch *watch, GError **error)
{
    Source *source;
    uint64_t offset = 0;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    if (own < 0) {
        kumo_set_error_errno(error, errno, "%s", name);
        return NULL;
    }
    source = g_new0(Source, 1);
    source->fd = own;
    source->name = g_strdup(name);
    source->watch = *watch;
    source->sums = sums ? kumo_memory_sums_ref(sums) : NULL;
    source->pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const Piece piece = { memory->backings[i].gpa, memory->backings[i].size_bytes, offset };

        g_array_append_val(source->pieces, piece);
        offset += piece.size_bytes;
    }
    return source;
}

/* Files in memory may be there from before; what they have would be taken for the guest's. */
static bool empty(const KumoMemory *memory, GError **error)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (!part->named || !kumo_userfault_supports(part) ||
            fallocate(part->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)part->fd_offset,
                      (off_t)part->size_bytes) == 0)
            continue;
        kumo_set_error_errno(error, errno, "emptying the memory at 0x%" G_GINT64_MODIFIER "x",
                             part->gpa);
        return false;
    }
    return true;
}

/* What no page can be missing of. */
static bool read_rest(const Source *source, const KumoMemory *memory, GError **error)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (!kumo_userfault_supports(part) &&
            !kumo_memory_file_read_part(source->fd, g_array_index(source->pieces, Piece, i).offset,
                                        part, source->sums, error)) {
            kumo_prefix_error(error, "%s", source->name);
            return false;
        }
    }
    return true;
}

bool kumo_memory_demand_start(int fd, const char *name, KumoMemory *memory, KumoMemorySums *sums,
                              const KumoMemoryDemandWatch *watch, GError **error)
{
    KumoUserfault *engine;
    Source *source;

    if (!kumo_memory_file_check_size(fd, memory, sums, error)) {
        kumo_prefix_error(error, "%s", name);
        return false;
    }
    source = source_new(fd, name, memory, sums, watch, error);
    if (!source)
        return false;
    engine = kumo_userfault_new(memory->backings, memory->n_backings, &ops, source, error);
    if (!engine) {
        source_free(source);
        return false;
    }
    if (!empty(memory, error) || !read_rest(source, memory, error)) {
        kumo_userfault_free(engine);
        return false;
    }
    return kumo_memory_come_on_demand(memory, engine, error);
}
