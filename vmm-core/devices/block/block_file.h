/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file or block device behind a disk: opened, measured, locked. Only raw content. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm-core/config/config.h"

enum { KUMO_SECTOR_SIZE = 512 };

typedef struct {
    char *path;
    int fd;
    bool readonly;
    bool direct; /* O_DIRECT: buffers and offsets have to be aligned as below */
    bool block_device;
    bool sparse;         /* blocks may be deallocated */
    bool lock_all;       /* the lock is on any length that the file may get */
    bool locked;         /* the lock is held, and the file system has such locks */
    uint64_t size_bytes; /* a multiple of KUMO_SECTOR_SIZE */
    /* What a transfer has to be aligned to; 1 without O_DIRECT. */
    uint32_t mem_align, offset_align;
    /* For the guest's topology. */
    uint32_t logical_block_bytes, physical_block_bytes;
    uint32_t min_io_bytes, opt_io_bytes;
    uint32_t align_offset_bytes; /* of the first physical block that begins at a logical one */
    uint32_t discard_granularity_bytes;
    char serial[KUMO_DISK_SERIAL_MAX + 1];
    GMutex unaligned_lock; /* one read-modify-write at a time; taken with no other lock held */
} KumoBlockFile;

/**
 * kumo_block_file_open:
 * @lock: FALSE: another machine has the lock still, kumo_block_file_lock() follows
 *
 * Opens config->path, read-only if config->readonly, and takes an open-file-description lock on its
 * present length or all of it, as config->lock_granularity says: shared for reading, exclusive for
 * writing. With config->sparse off all blocks of a file are allocated, as far as the file system
 * can do that. A size that is not a multiple of 512 is rounded down with a warning; nothing of the
 * file's last part is lost, the guest just does not see it. Files that start (or for a fixed VHD
 * end) like a qcow2, QED, VHD, VHDX, VMDK or VDI container are refused: shown raw, the first write
 * of the guest would destroy the container.
 *
 * Returns: (transfer full): or NULL with @error naming the path.
 */
KumoBlockFile *kumo_block_file_open(const KumoDiskConfig *config, bool lock, GError **error);

/**
 * kumo_block_file_lock, kumo_block_file_unlock:
 *
 * Takes the lock, as another machine has released it; releases it. Nothing may be written without
 * it.
 *
 * Returns: TRUE, or FALSE with @error (CONFLICT: somebody has it).
 */
bool kumo_block_file_lock(KumoBlockFile *file, GError **error);
void kumo_block_file_unlock(KumoBlockFile *file);

/**
 * kumo_block_file_resize:
 * @size_bytes: a multiple of KUMO_SECTOR_SIZE; of a block device, the size it has by now or 0
 *
 * Gives a file the size @size_bytes; what lies beyond is lost, what is new reads as zero. The size
 * of a block device is not ours to set: it is measured again. No operation may be under way.
 *
 * Returns: TRUE with size_bytes set, or FALSE with @error and nothing changed.
 */
bool kumo_block_file_resize(KumoBlockFile *file, uint64_t size_bytes, GError **error);

/* Releases the lock at once, even while a ring still holds the file. NULL is fine. */
void kumo_block_file_close(KumoBlockFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoBlockFile, kumo_block_file_close)

/**
 * kumo_block_file_rw_unaligned:
 * @len: bytes of @iov to transfer
 *
 * Transfers what O_DIRECT cannot: a range that does not begin and end at blocks. Whole blocks go
 * through a buffer; a write reads them first. Blocks the caller. Correct as long as nobody writes
 * the rest of the same blocks at that time, which a driver that honours the block size never does.
 *
 * Returns: @len, or a negative errno.
 */
int64_t kumo_block_file_rw_unaligned(KumoBlockFile *file, bool write, const struct iovec *iov,
                                     unsigned n_iov, uint64_t offset, uint64_t len);

/* Flushes what was written. Returns: 0 or a negative errno. */
int kumo_block_file_flush(KumoBlockFile *file);
