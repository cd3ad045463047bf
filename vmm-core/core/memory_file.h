/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory in a file: the regions one after the other, pages of zeros as holes. */
#pragma once

#include "vmm-core/core/memory.h"
#include "vmm-core/core/memory_sums.h"

/* Returns: (transfer full): for @memory in a file of its own. */
KumoMemorySums *kumo_memory_file_new_sums(const KumoMemory *memory);

/**
 * kumo_memory_file_write:
 * @fd: an empty file
 * @sums: (nullable): of kumo_memory_file_new_sums(), is filled
 *
 * The machine is paused. Returns: TRUE, or FALSE with @error set.
 */
bool kumo_memory_file_write(int fd, const KumoMemory *memory, KumoMemorySums *sums, GError **error);

/* The same behind what is in the file before @offset, a multiple of the page size. */
bool kumo_memory_file_write_at(int fd, uint64_t offset, const KumoMemory *memory, GError **error);

/**
 * kumo_memory_file_read:
 * @memory: fresh
 * @sums: (nullable): what it has to be
 *
 * Returns: TRUE, or FALSE with @error (INVALID if the size is another, or the file is damaged).
 */
bool kumo_memory_file_read(int fd, const KumoMemory *memory, const KumoMemorySums *sums,
                           GError **error);

/* The same for one of its parts, which begins at @offset of the file. */
bool kumo_memory_file_read_part(int fd, uint64_t offset, const KumoMemBacking *part,
                                const KumoMemorySums *sums, GError **error);

/* Returns: whether the file is as long as @memory, and @sums (nullable) are those of such a one,
 * FALSE with @error (INVALID) if not. */
bool kumo_memory_file_check_size(int fd, const KumoMemory *memory, const KumoMemorySums *sums,
                                 GError **error);

/* Puts private mappings of the file in the place of @memory. Returns: as kumo_memory_file_read().
 */
bool kumo_memory_file_map(int fd, KumoMemory *memory, GError **error);
