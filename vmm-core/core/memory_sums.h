/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checksums of guest memory in a file, one for each block of it: against what disks and copies do
 * to a file, not against who changes it on purpose. Pages of zeros do not count, whether they are
 * holes or not, so a block of zeros has the checksum 0.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KUMO_SUMS_BLOCK_BYTES = 64 << 10 };

typedef struct KumoMemorySums KumoMemorySums;

/* Returns: (transfer full): for a file of @file_bytes of zeros. */
KumoMemorySums *kumo_memory_sums_new(uint64_t file_bytes);
KumoMemorySums *kumo_memory_sums_ref(KumoMemorySums *sums);
void kumo_memory_sums_unref(KumoMemorySums *sums); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoMemorySums, kumo_memory_sums_unref)

/* The page of 4 KiB at @offset of the file, which is not all zeros, comes behind those before it in
 * its block. */
void kumo_memory_sums_add(KumoMemorySums *sums, uint64_t offset, const uint8_t *page);

/* Returns: whether all that is in [@offset, @offset + @len) of the file, whole blocks or up to its
 * end, is zeros. */
bool kumo_memory_sums_is_zero(const KumoMemorySums *sums, uint64_t offset, uint64_t len);

/**
 * kumo_memory_sums_check:
 * @data: what is at @offset, @len bytes: whole blocks or up to the end of the file
 *
 * Returns: TRUE, or FALSE with @error (INVALID) naming the block that is something else.
 */
bool kumo_memory_sums_check(const KumoMemorySums *sums, uint64_t offset, const uint8_t *data,
                            uint64_t len, GError **error);

/* Are the blocks that lie in [@offset, @offset + @len) of the file as those of @found? Returns: as
 * kumo_memory_sums_check(). */
bool kumo_memory_sums_compare(const KumoMemorySums *sums, const KumoMemorySums *found,
                              uint64_t offset, uint64_t len, GError **error);

/**
 * kumo_memory_sums_check_edges:
 *
 * Reads the blocks of @fd that [@offset, @offset + @len) begins or ends in the middle of, and
 * checks these, of which the caller has only a part.
 *
 * Returns: as kumo_memory_sums_check(); IO if they cannot be read.
 */
bool kumo_memory_sums_check_edges(const KumoMemorySums *sums, int fd, uint64_t offset, uint64_t len,
                                  GError **error);

/* Returns: (transfer full): all of it as it is written to a file, *@ret_len bytes. */
void *kumo_memory_sums_write(const KumoMemorySums *sums, size_t *ret_len);

/**
 * kumo_memory_sums_read:
 * @data: hostile
 *
 * Returns: (transfer full): or NULL with @error: INVALID, or NOT_SUPPORTED of another kind.
 */
KumoMemorySums *kumo_memory_sums_read(const void *data, size_t len, GError **error);

/* Returns: the size of the file that it is for, in bytes. */
uint64_t kumo_memory_sums_file_bytes(const KumoMemorySums *sums);

/* Returns: a checksum of @len bytes of anything. */
uint64_t kumo_memory_sums_of_bytes(const void *data, size_t len);
