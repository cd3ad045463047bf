/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages of guest memory may hold something, without touching those that were never there. */
#pragma once

#include "vmm-core/core/memory.h"

/* @part: of memory->backings; [@start, @end): offsets in it, whole pages. Returns: FALSE with
 * @error: stop. */
typedef bool (*KumoMemoryScanFunc)(void *opaque, const KumoMemBacking *part, uint64_t start,
                                   uint64_t end, GError **error);

/**
 * kumo_memory_scan:
 *
 * Calls @func for all parts of @memory that may hold anything else than zeros. Of a guest that
 * runs, pages that it touches meanwhile may be missing.
 *
 * Returns: TRUE, or FALSE with @func's @error.
 */
bool kumo_memory_scan(const KumoMemory *memory, KumoMemoryScanFunc func, void *opaque,
                      GError **error);

/* Opens what kumo_memory_scan() needs once and for all. Main thread, while nothing scans. */
void kumo_memory_scan_prepare(void);

/* Is the page of 4 KiB at @page all zeros? */
bool kumo_memory_page_is_zero(const uint8_t *page);

/* Is @part of a file that outlives its VMs, so that it may begin with something else than zeros? */
bool kumo_memory_is_named_file(const KumoMemBacking *part);
