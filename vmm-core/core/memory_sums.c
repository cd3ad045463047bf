/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/memory_sums.h"

#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/memory_scan.h"

enum {
    PAGE = 4096,
    BLOCK = KUMO_SUMS_BLOCK_BYTES,
    VERSION = 1, /* XXH3, 64 bits, of each page */
};

/* "kumosums" */
#define MAGIC 0x736d75736f6d756bULL

/* Odd, so that no change of what came before is lost. */
#define MIX 0x9e3779b97f4a7c15ULL

/* At the beginning of the file; all little endian. */
typedef struct {
    uint64_t magic;
    uint32_t version, block_bytes;
    uint64_t file_bytes; /* of the memory's file */
} Header;

G_STATIC_ASSERT(sizeof(Header) == 24);

struct KumoMemorySums {
    gatomicrefcount refs;
    uint64_t file_bytes;
    uint64_t n_blocks;
    uint64_t values[];
};

static uint64_t blocks_of(uint64_t file_bytes)
{
    return file_bytes / BLOCK + (file_bytes % BLOCK != 0);
}

KumoMemorySums *kumo_memory_sums_new(uint64_t file_bytes)
{
    uint64_t n = blocks_of(file_bytes);
    KumoMemorySums *sums = g_malloc0(sizeof(*sums) + n * sizeof(sums->values[0]));

    g_atomic_ref_count_init(&sums->refs);
    sums->file_bytes = file_bytes;
    sums->n_blocks = n;
    return sums;
}

KumoMemorySums *kumo_memory_sums_ref(KumoMemorySums *sums)
{
    g_atomic_ref_count_inc(&sums->refs);
    return sums;
}

void kumo_memory_sums_unref(KumoMemorySums *sums)
{
    if (sums && g_atomic_ref_count_dec(&sums->refs))
        g_free(sums);
}

/* @number: of the page in its block. */
static uint64_t add(uint64_t sum, uint64_t number, const uint8_t *page)
{
    return sum * MIX + (XXH3_64bits(page, PAGE) ^ (number + 1));
}

void kumo_memory_sums_add(KumoMemorySums *sums, uint64_t offset, const uint8_t *page)
{
    uint64_t *value = &sums->values[offset / BLOCK];

    *value = add(*value, offset % BLOCK / PAGE, page);
}

static uint64_t sum_of_block(const uint8_t *data, uint64_t len)
{
    uint64_t sum = 0;

    for (uint64_t at = 0; at < len; at += PAGE) {
        if (!kumo_memory_page_is_zero(data + at))
            sum = add(sum, at / PAGE, data + at);
    }
    return sum;
}

bool kumo_memory_sums_is_zero(const KumoMemorySums *sums, uint64_t offset, uint64_t len)
{
    for (uint64_t block = offset / BLOCK; block < blocks_of(offset + len); block++) {
        if (sums->values[block])
            return false;
    }
    return true;
}

static bool damaged(uint64_t offset, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "is damaged: what it has at %" G_GUINT64_FORMAT " is not what was saved", offset);
    return false;
}

bool kumo_memory_sums_check(const KumoMemorySums *sums, uint64_t offset, const uint8_t *data,
                            uint64_t len, GError **error)
{
    for (uint64_t at = 0; at < len; at += BLOCK) {
        if (sum_of_block(data + at, MIN(len - at, BLOCK)) != sums->values[(offset + at) / BLOCK])
            return damaged(offset + at, error);
    }
    return true;
}

bool kumo_memory_sums_compare(const KumoMemorySums *sums, const KumoMemorySums *found,
                              uint64_t offset, uint64_t len, GError **error)
{
    uint64_t end = offset + len == sums->file_bytes ? sums->n_blocks : (offset + len) / BLOCK;

    for (uint64_t block = blocks_of(offset); block < end; block++) {
        if (sums->values[block] != found->values[block])
            return damaged(block * BLOCK, error);
    }
    return true;
}

static bool check_block(const KumoMemorySums *sums, int fd, uint64_t offset, GError **error)
{
    uint64_t len = MIN(sums->file_bytes - offset, BLOCK);
    g_autofree uint8_t *data = g_malloc0(len);
    ssize_t got = kumo_pread_full(fd, data, len, (off_t)offset);

    if (got < 0) {
        kumo_set_error_errno(error, errno, "reading at %" G_GUINT64_FORMAT, offset);
        return false;
    }
    return kumo_memory_sums_check(sums, offset, data, len, error);
}

bool kumo_memory_sums_check_edges(const KumoMemorySums *sums, int fd, uint64_t offset, uint64_t len,
                                  GError **error)
{
    uint64_t end = offset + len;
    uint64_t last = kumo_align_down(end, BLOCK);

    if (offset % BLOCK && !check_block(sums, fd, kumo_align_down(offset, BLOCK), error))
        return false;
    return end % BLOCK == 0 || end == sums->file_bytes || last < offset ||
           check_block(sums, fd, last, error);
}

void *kumo_memory_sums_write(const KumoMemorySums *sums, size_t *ret_len)
{
    const Header header = { GUINT64_TO_LE(MAGIC), GUINT32_TO_LE(VERSION), GUINT32_TO_LE(BLOCK),
                            GUINT64_TO_LE(sums->file_bytes) };
    size_t len = sizeof(header) + sums->n_blocks * sizeof(sums->values[0]);
    uint8_t *data = g_malloc(len);

    memcpy(data, &header, sizeof(header));
    for (uint64_t i = 0; i < sums->n_blocks; i++) {
        uint64_t value = GUINT64_TO_LE(sums->values[i]);

        memcpy(data + sizeof(header) + i * sizeof(value), &value, sizeof(value));
    }
    *ret_len = len;
    return data;
}

KumoMemorySums *kumo_memory_sums_read(const void *data, size_t len, GError **error)
{
    KumoMemorySums *sums;
    Header header;

    if (len < sizeof(header)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "has only %zu bytes", len);
        return NULL;
    }
    memcpy(&header, data, sizeof(header));
    if (header.magic != GUINT64_TO_LE(MAGIC)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "does not begin like one of kumo");
        return NULL;
    }
    if (GUINT32_FROM_LE(header.version) != VERSION ||
        GUINT32_FROM_LE(header.block_bytes) != BLOCK) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "version %u with blocks of %u bytes: this kumo reads version %d with blocks of "
                    "%d",
                    GUINT32_FROM_LE(header.version), GUINT32_FROM_LE(header.block_bytes), VERSION,
                    BLOCK);
        return NULL;
    }
    if (blocks_of(GUINT64_FROM_LE(header.file_bytes)) !=
            (len - sizeof(header)) / sizeof(sums->values[0]) ||
        len % sizeof(sums->values[0])) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "has %zu bytes, which is wrong", len);
        return NULL;
    }
    sums = kumo_memory_sums_new(GUINT64_FROM_LE(header.file_bytes));
    for (uint64_t i = 0; i < sums->n_blocks; i++) {
        memcpy(&sums->values[i], (const uint8_t *)data + sizeof(header) + i * sizeof(uint64_t),
               sizeof(uint64_t));
        sums->values[i] = GUINT64_FROM_LE(sums->values[i]);
    }
    return sums;
}

uint64_t kumo_memory_sums_file_bytes(const KumoMemorySums *sums)
{
    return sums->file_bytes;
}

uint64_t kumo_memory_sums_of_bytes(const void *data, size_t len)
{
    return XXH3_64bits(data, len);
}
