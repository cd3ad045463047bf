/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From memory zones to mappings in this process. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/base/sandbox.h"
#include "vmm-core/config/config.h"

extern const KumoThreadKind kumo_prefault_thread;

/* A part of a region that is of one kind: a memory zone, or what of it is on one side of a hole. */
typedef struct {
    uint64_t gpa;
    uint64_t size_bytes;
    uint8_t *hva;
    int fd; /* of a file or shared memory, -1 for private memory */
    uint64_t fd_offset;
    bool shared; /* what is written goes to fd */
    bool named;  /* fd is of a file that the configuration names: it may have been there before */
    int zone;    /* index into the configuration's zones, -1: there are none */
    uint64_t page_size; /* bytes of the pages that it is made of */
    bool hotplug;
    bool locked; /* pages stay in RAM from when they are touched */
} KumoMemBacking;

/* One kind of memory that guest RAM is taken from: a zone, or all of it where there are none. */
typedef struct {
    char *name; /* for messages */
    int zone;   /* index into the configuration's zones, -1: none are configured */
    uint64_t size_bytes;
    const char *file;
    bool shared, hugepages, prefault, reserve, mergeable, thp, lock;
    unsigned prefault_threads; /* 0: as many as seem right */
    int host_numa_node;        /* -1: wherever the host likes */
    uint64_t page_size;        /* bytes of the pages that it is made of */
    int fd;                    /* of a file or shared memory; -1: private memory */
    uint64_t used_bytes;
    bool hotplug; /* for a virtio-mem device */
} KumoMemSource;

/* Reads once and for all what the host says of its huge pages. */
void kumo_memory_map_prepare(void);

/**
 * kumo_mem_sources_new:
 * @size_bytes: of all, where no zones are configured
 *
 * Opens files and makes shared memory.
 *
 * Returns: (transfer full): array of KumoMemSource, in the order of the zones; NULL with @error.
 */
GArray *kumo_mem_sources_new(const KumoMemoryConfig *config, uint64_t size_bytes, GError **error);

/**
 * kumo_mem_hotplug_source_new:
 *
 * What virtio-mem plugs into zone @range->zone comes from: like the zone's own memory, in a file of
 * its own or behind it in the file that the zone names.
 *
 * Returns: (transfer full): array of one KumoMemSource; NULL with @error.
 */
GArray *kumo_mem_hotplug_source_new(const KumoMemoryConfig *config, const KumoHotplugRange *range,
                                    GError **error);

/**
 * kumo_mem_reserve:
 *
 * Returns: address space of @size bytes aligned to @align without memory behind it; NULL with
 *     @error.
 */
uint8_t *kumo_mem_reserve(uint64_t size, uint64_t align, GError **error);

/**
 * kumo_mem_source_map:
 * @hva: of reserved address space
 * @ret: (out): fd and its offset are filled in too; owned by the caller
 *
 * Maps the next @size bytes of @source, binds them to their host node and touches them all if that
 * is wanted.
 */
bool kumo_mem_source_map(KumoMemSource *source, uint64_t gpa, uint8_t *hva, uint64_t size,
                         KumoMemBacking *ret, GError **error);

/* Has the pages of [@hva, @hva + @size), a mapping of @backing, stay in RAM from when they are
 * touched, if that is wanted; after each mmap() of it. Returns: FALSE with errno set. */
bool kumo_mem_backing_lock(const KumoMemBacking *backing, uint8_t *hva, uint64_t size);

/**
 * kumo_mem_drop_private:
 *
 * Gives pages of private memory back to the host, locked ones too. They read as zeros, or as the
 * file beneath, afterwards.
 *
 * Returns: 0 or an errno.
 */
int kumo_mem_drop_private(uint8_t *hva, uint64_t size, bool locked);
