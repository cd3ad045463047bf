/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/bus.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "vmm-core/base/error.h"

enum { CACHE_LINE = 64, YIELDS_BEFORE_SLEEP = 100, SLEEP_US = 50 };

typedef struct {
    uint64_t base, size;
    const KumoBusOps *ops;
    void *opaque;
    const char *name;
} BusRange;

/* Never changed once published. Sorted by base; ranges do not overlap. */
typedef struct {
    unsigned n;
    BusRange ranges[];
} BusTable;

/*
 * sequence is odd while the reader is inside an access and grows by one at each edge, so that "it
 * was odd then and has changed since" means that the access of then is over.
 */
typedef struct {
    _Atomic uint64_t sequence;
    unsigned depth;    /* the rest is the reader's own; an access may lead to another */
    unsigned last_hit; /* only a hint: checked against the present table */
} __attribute__((aligned(CACHE_LINE))) BusReader;

/* A replaced table with the readers' sequences at its replacement. */
typedef struct {
    BusTable *table;
    uint64_t sequences[];
} BusRetired;

struct KumoBus {
    _Atomic(BusTable *) table;
    BusReader *readers;
    unsigned n_readers;
    char *name;

    GMutex lock;        /* changes of table, and retired */
    GPtrArray *retired; /* of BusRetired */
};

KumoBus *kumo_bus_new(const char *name, unsigned n_readers)
{
    KumoBus *bus = g_new0(KumoBus, 1);

    bus->name = g_strdup(name);
    bus->n_readers = n_readers;
    bus->readers = g_aligned_alloc0(MAX(n_readers, 1), sizeof(BusReader), CACHE_LINE);
    bus->retired = g_ptr_array_new();
    g_mutex_init(&bus->lock);
    atomic_store_explicit(&bus->table, g_malloc0(sizeof(BusTable)), memory_order_release);
    return bus;
}

static void retired_free(BusRetired *retired)
{
    g_free(retired->table);
    g_free(retired);
}

void kumo_bus_free(KumoBus *bus)
{
    if (!bus)
        return;
    for (unsigned i = 0; i < bus->retired->len; i++)
        retired_free(g_ptr_array_index(bus->retired, i));
    g_ptr_array_unref(bus->retired);
    g_free(atomic_load(&bus->table));
    g_aligned_free(bus->readers);
    g_mutex_clear(&bus->lock);
    g_free(bus->name);
    g_free(bus);
}

static bool access_over(KumoBus *bus, unsigned reader, uint64_t sequence)
{
    return !(sequence & 1) || atomic_load(&bus->readers[reader].sequence) != sequence;
}

/* With the lock held: frees the tables that no access can still be using. */
static void reclaim(KumoBus *bus)
{
    for (unsigned i = bus->retired->len; i-- > 0;) {
        BusRetired *retired = g_ptr_array_index(bus->retired, i);
        bool over = true;

        for (unsigned r = 0; r < bus->n_readers && over; r++)
            over = access_over(bus, r, retired->sequences[r]);
        if (over) {
            g_ptr_array_remove_index_fast(bus->retired, i);
            retired_free(retired);
        }
    }
}

/* With the lock held. The store and the loads after it, and their counterparts in access_begin(),
 * are sequentially consistent: a reader either is seen inside or sees the new table. */
static void publish(KumoBus *bus, BusTable *table)
{
    BusRetired *retired = g_malloc(sizeof(*retired) + bus->n_readers * sizeof(uint64_t));

    retired->table = atomic_exchange(&bus->table, table);
    for (unsigned r = 0; r < bus->n_readers; r++)
        retired->sequences[r] = atomic_load(&bus->readers[r].sequence);
    g_ptr_array_add(bus->retired, retired);
    reclaim(bus);
}

/* Returns: the index of the first range that ends after @addr. */
static unsigned table_search(const BusTable *table, uint64_t addr)
{
    unsigned low = 0, high = table->n;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        const BusRange *range = &table->ranges[middle];

        if (range->base + (range->size - 1) < addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool kumo_bus_add(KumoBus *bus, uint64_t base, uint64_t size, const KumoBusOps *ops, void *opaque,
                  const char *name, GError **error)
{
    uint64_t last = base + (size - 1);
    const BusTable *old;
    BusTable *table;
    unsigned at;

    if (size == 0 || last < base) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                    "%s: %s at 0x%" G_GINT64_MODIFIER "x of 0x%" G_GINT64_MODIFIER "x bytes wraps",
                    bus->name, name, base, size);
        return false;
    }
    g_mutex_lock(&bus->lock);
    old = atomic_load_explicit(&bus->table, memory_order_relaxed);
    at = table_search(old, base);
    if (at < old->n && old->ranges[at].base <= last) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                    "%s: %s at 0x%" G_GINT64_MODIFIER "x of 0x%" G_GINT64_MODIFIER
                    "x bytes overlaps %s at 0x%" G_GINT64_MODIFIER "x",
                    bus->name, name, base, size, old->ranges[at].name, old->ranges[at].base);
        g_mutex_unlock(&bus->lock);
        return false;
    }
    table = g_malloc(sizeof(*table) + (old->n + 1) * sizeof(BusRange));
    table->n = old->n + 1;
    memcpy(table->ranges, old->ranges, at * sizeof(BusRange));
    table->ranges[at] = (BusRange){ base, size, ops, opaque, name };
    memcpy(table->ranges + at + 1, old->ranges + at, (old->n - at) * sizeof(BusRange));
    publish(bus, table);
    g_mutex_unlock(&bus->lock);
    return true;
}

void kumo_bus_remove(KumoBus *bus, uint64_t base, const void *opaque)
{
    const BusTable *old;
    unsigned at;

    g_mutex_lock(&bus->lock);
    old = atomic_load_explicit(&bus->table, memory_order_relaxed);
    at = table_search(old, base);
    if (at < old->n && old->ranges[at].base == base && old->ranges[at].opaque == opaque) {
        BusTable *table = g_malloc(sizeof(*table) + (old->n - 1) * sizeof(BusRange));

        table->n = old->n - 1;
        memcpy(table->ranges, old->ranges, at * sizeof(BusRange));
        memcpy(table->ranges + at, old->ranges + at + 1, (table->n - at) * sizeof(BusRange));
        publish(bus, table);
    }
    g_mutex_unlock(&bus->lock);
}

void kumo_bus_synchronize(KumoBus *bus)
{
    for (unsigned r = 0; r < bus->n_readers; r++) {
        uint64_t sequence = atomic_load(&bus->readers[r].sequence);

        for (unsigned turn = 0; !access_over(bus, r, sequence); turn++) {
            if (turn < YIELDS_BEFORE_SLEEP)
                sched_yield();
            else
                g_usleep(SLEEP_US);
        }
    }
    g_mutex_lock(&bus->lock);
    reclaim(bus);
    g_mutex_unlock(&bus->lock);
}

static const BusTable *access_begin(KumoBus *bus, BusReader *reader)
{
    if (reader->depth++ == 0)
        atomic_store(&reader->sequence,
                     atomic_load_explicit(&reader->sequence, memory_order_relaxed) + 1);
    return atomic_load(&bus->table);
}

static void access_end(BusReader *reader)
{
    if (--reader->depth == 0)
        atomic_store_explicit(&reader->sequence,
                              atomic_load_explicit(&reader->sequence, memory_order_relaxed) + 1,
                              memory_order_release);
}

static const BusRange *lookup(BusReader *reader, const BusTable *table, uint64_t addr,
                              unsigned size)
{
    unsigned at = reader->last_hit;
    const BusRange *range;

    if (at >= table->n || addr - table->ranges[at].base >= table->ranges[at].size) {
        at = table_search(table, addr);
        if (at >= table->n || addr < table->ranges[at].base)
            return NULL;
        reader->last_hit = at;
    }
    range = &table->ranges[at];
    return size <= range->size - (addr - range->base) ? range : NULL;
}

void kumo_bus_read(KumoBus *bus, unsigned reader_index, uint64_t addr, uint8_t *data, unsigned size)
{
    BusReader *reader = &bus->readers[reader_index];
    const BusRange *range = lookup(reader, access_begin(bus, reader), addr, size);

    if (range && range->ops->read)
        range->ops->read(range->opaque, addr - range->base, data, size);
    else
        memset(data, 0xff, size);
    access_end(reader);
}

void kumo_bus_write(KumoBus *bus, unsigned reader_index, uint64_t addr, const uint8_t *data,
                    unsigned size)
{
    BusReader *reader = &bus->readers[reader_index];
    const BusRange *range = lookup(reader, access_begin(bus, reader), addr, size);

    if (range && range->ops->write)
        range->ops->write(range->opaque, addr - range->base, data, size);
    access_end(reader);
}
