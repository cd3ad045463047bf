/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory. Devices touch it only through these accessors: an address that a guest gave is
 * never turned into a pointer without a check of its whole length.
 */
#pragma once

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm-core/config/config.h"
#include "vmm-core/core/memory_map.h"
#include "vmm-core/hypervisor/hypervisor.h"

typedef struct {
    uint64_t gpa;
    uint64_t size_bytes;
    uint8_t *hva;
    uint32_t slot;
    bool hotplug; /* RAM is only what a virtio-mem device has plugged: no memory map tells of it */
} KumoMemRegion;

/* Pages written by the VMM itself, for migration: one bit per page, set atomically. */
typedef struct KumoDirtyLog KumoDirtyLog;

/* Brings pages when they are touched, see userfault.h. */
typedef struct KumoUserfault KumoUserfault;

typedef struct {
    KumoMemRegion *regions;         /* sorted by gpa, not overlapping */
    _Atomic unsigned n_regions;     /* grows by kumo_memory_add(), while others look */
    const KumoMemBacking *backings; /* the same memory, sorted by gpa */
    _Atomic unsigned n_backings;    /* grows like n_regions; the array does not move */
    bool from_snapshot;             /* pages that nobody has touched are a snapshot's, not zeros */
    _Atomic(KumoDirtyLog *) dirty_log; /* NULL while nothing is tracked */
    KumoUserfault
        *userfault; /* owned. NULL: all pages are there. Set before anybody uses the memory */
} KumoMemory;

/* One range of guest-physical addresses that is to be RAM. */
typedef struct {
    uint64_t gpa;
    uint64_t size_bytes;
} KumoMemRange;

/**
 * kumo_memory_new:
 * @config: size, sharing and page size, or zones
 * @ranges: where the architecture wants RAM, ascending; the zones fill them in their order
 * @hotplug_gpa: behind it is room for what virtio-mem may plug, a region for each zone that has
 * some
 *
 * Maps host memory and gives it to @vm.
 *
 * Returns: (transfer full): or NULL with @error set.
 */
KumoMemory *kumo_memory_new(const KumoMemoryConfig *config, const KumoMemRange *ranges,
                            unsigned n_ranges, uint64_t hotplug_gpa, KumoHvVm *vm, GError **error);

/**
 * kumo_memory_add:
 * @config: as for kumo_memory_new(), without zones
 * @gpa: behind all there is
 *
 * One more region, while the guest runs. Main thread.
 *
 * Returns: TRUE, or FALSE with @error set and nothing changed (STATE: while writes are logged).
 */
bool kumo_memory_add(KumoMemory *memory, const KumoMemoryConfig *config, uint64_t gpa,
                     uint64_t size_bytes, GError **error);

/* Unmaps; the VM must not run any more. */
void kumo_memory_free(KumoMemory *memory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoMemory, kumo_memory_free)

/**
 * kumo_memory_new_for_test:
 *
 * One private region at @gpa without a hypervisor behind it.
 */
KumoMemory *kumo_memory_new_for_test(uint64_t gpa, uint64_t size_bytes);

/* Returns: the region that holds @gpa, or NULL. */
static inline KumoMemRegion *kumo_memory_find(const KumoMemory *memory, uint64_t gpa)
{
    unsigned n = atomic_load_explicit(&memory->n_regions, memory_order_acquire);

    for (unsigned i = 0; i < n; i++) {
        KumoMemRegion *region = &memory->regions[i];

        if (gpa - region->gpa < region->size_bytes)
            return region;
    }
    return NULL;
}

/**
 * kumo_memory_at:
 *
 * Returns: a pointer to [@gpa, @gpa + @len) if all of it is RAM of one region, else NULL. Valid as
 * long as the VM's memory layout does not change. Who writes through it calls
 * kumo_memory_mark_dirty().
 */
static inline void *kumo_memory_at(const KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    KumoMemRegion *region = kumo_memory_find(memory, gpa);

    if (!region || len > region->size_bytes - (gpa - region->gpa))
        return NULL;
    return region->hva + (gpa - region->gpa);
}

/* Copies; false (and nothing is promised about the copied part) if not all of it is RAM. May span
 * regions. */
bool kumo_memory_read(const KumoMemory *memory, uint64_t gpa, void *buf, size_t len);
bool kumo_memory_write(KumoMemory *memory, uint64_t gpa, const void *buf, size_t len);

/* Returns: the guest address of @hva, which is inside RAM (an iov of a chain). */
uint64_t kumo_memory_gpa_of(const KumoMemory *memory, const void *hva);

/**
 * kumo_memory_come_on_demand:
 * @engine: (transfer full): made for the backings of @memory, which nobody uses yet
 *
 * From now on whoever touches a page that @engine does not have yet waits for it.
 *
 * Returns: TRUE, or FALSE with @error set, and the engine is gone.
 */
bool kumo_memory_come_on_demand(KumoMemory *memory, KumoUserfault *engine, GError **error);

/* Returns: whether some pages come only when they are touched, so that nothing but touching them
 * tells what they hold. */
bool kumo_memory_is_incomplete(const KumoMemory *memory);

/**
 * kumo_memory_discard:
 *
 * Gives the host back what is behind [@gpa, @gpa + @len), all of it RAM: it reads as zero
 * afterwards, or, of memory that belongs to a private file, as that file. Only whole pages of what
 * it is made of go; the rest stays. Any thread.
 *
 * Returns: 0, or the errno value of the first failure: EFAULT, with nothing done, if not all is
 * RAM.
 */
int kumo_memory_discard(KumoMemory *memory, uint64_t gpa, uint64_t len);

/* Takes memory of the host for all of [@gpa, @gpa + @len). Returns: 0 or an errno value. Any
 * thread. */
int kumo_memory_populate(KumoMemory *memory, uint64_t gpa, uint64_t len);

void kumo_memory_mark_dirty_slow(KumoMemory *memory, uint64_t gpa, uint64_t len);

/* To be called after the VMM wrote [@gpa, @gpa + @len). Free while nothing is tracked. */
static inline void kumo_memory_mark_dirty(KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    if (G_UNLIKELY(atomic_load_explicit(&memory->dirty_log, memory_order_relaxed) != NULL))
        kumo_memory_mark_dirty_slow(memory, gpa, len);
}

/**
 * kumo_memory_dirty_start:
 *
 * Begins with an empty log of what guest and VMM write. Only one may be kept at a time; any thread.
 *
 * Returns: TRUE, or FALSE with @error (NOT_SUPPORTED: the hypervisor has no log) and nothing
 * logged.
 */
bool kumo_memory_dirty_start(KumoMemory *memory, GError **error);

/* Stops logging. Fine if it was not started. */
void kumo_memory_dirty_stop(KumoMemory *memory);

/* Returns: the 64-bit words of @region's log: one bit per 4 KiB page. */
size_t kumo_memory_dirty_words(const KumoMemRegion *region);

/**
 * kumo_memory_dirty_fetch:
 * @region: index into regions
 * @ret_bitmap: (optional): kumo_memory_dirty_words() of them; dirty pages are ORed into it
 *
 * Takes and clears the region's log. After kumo_memory_dirty_start() only, by the thread that
 * called it.
 */
bool kumo_memory_dirty_fetch(KumoMemory *memory, unsigned region, uint64_t *ret_bitmap,
                             GError **error);
