/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory that comes from a snapshot's file as it is touched, and by and by. */
#pragma once

#include "vmm-core/core/memory.h"
#include "vmm-core/core/memory_sums.h"

/* Who wants to know how it goes; called on another thread than the one that asked. */
typedef struct {
    void (*finished)(void *opaque); /* the file is needed no longer */
    void (*failed)(void *opaque,
                   const GError *error); /* a page cannot be had: the machine cannot go on */
    void *opaque;
} KumoMemoryDemandWatch;

/**
 * kumo_memory_demand_start:
 * @fd: as kumo_memory_file_write() made it; it is duplicated
 * @name: of the file, for messages
 * @memory: fresh
 * @sums: (nullable): what the file has to be; kept as long as it is needed
 *
 * Memory of files that no page can be missing of is read at once.
 *
 * Returns: TRUE, or FALSE with @error: INVALID if the size is another or what was read at once is
 * damaged, DENIED if this process may not use userfaultfd, and then @memory is as it was.
 */
bool kumo_memory_demand_start(int fd, const char *name, KumoMemory *memory, KumoMemorySums *sums,
                              const KumoMemoryDemandWatch *watch, GError **error);
