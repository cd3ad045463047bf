/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Address decoding for port and memory-mapped I/O. vCPU threads look up without a lock: they read
 * one immutable sorted table through an atomic pointer. A change builds a new table; the old one is
 * freed when every vCPU has passed a quiescent point since. Changes may come from any thread, vCPU
 * threads included (a guest moves a BAR), also from inside an access.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct KumoBus KumoBus;

/*
 * @offset is relative to the start of the range; @offset + @size never exceeds the range's length.
 * A read fills all of @data. Accesses come concurrently from several vCPU threads: a device locks
 * its own state.
 * @size is 1 to 8, not only powers of two.
 */
typedef struct {
    void (*read)(void *opaque, uint64_t offset, uint8_t *data, unsigned size);
    void (*write)(void *opaque, uint64_t offset, const uint8_t *data, unsigned size);
} KumoBusOps;

/**
 * kumo_bus_new:
 * @name: "pio" or "mmio", for messages
 * @n_readers: how many vCPUs will look up; a reader is its vCPU's index
 */
KumoBus *kumo_bus_new(const char *name, unsigned n_readers);
void kumo_bus_free(KumoBus *bus);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoBus, kumo_bus_free)

/**
 * kumo_bus_add:
 * @name: static or as long-lived as the range, for messages
 *
 * Returns: TRUE, or FALSE with @error (CONFLICT) if it overlaps a range that is there or wraps.
 */
bool kumo_bus_add(KumoBus *bus, uint64_t base, uint64_t size, const KumoBusOps *ops, void *opaque,
                  const char *name, GError **error);

/* Removes the range that starts at @base and belongs to @opaque; accesses under way may still reach
 * it until kumo_bus_synchronize(). */
void kumo_bus_remove(KumoBus *bus, uint64_t base, const void *opaque);

/* Waits until no access that began before is under way. Never call it from inside an access. */
void kumo_bus_synchronize(KumoBus *bus);

/* An access that nobody claims, or that crosses the end of its range, reads as all ones and writes
 * nothing. */
void kumo_bus_read(KumoBus *bus, unsigned reader, uint64_t addr, uint8_t *data, unsigned size);
void kumo_bus_write(KumoBus *bus, unsigned reader, uint64_t addr, const uint8_t *data,
                    unsigned size);
