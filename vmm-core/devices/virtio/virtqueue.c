/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/virtio/virtqueue.h"

#include <inttypes.h>
#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

#define FEATURE_INDIRECT_DESC (1ULL << 28)
#define FEATURE_EVENT_IDX     (1ULL << 29)

/* Descriptor flags (2.7.5), ring flags (2.7.6, 2.7.8). */
enum {
    DESC_F_NEXT = 1,
    DESC_F_WRITE = 2,
    DESC_F_INDIRECT = 4,
    AVAIL_F_NO_INTERRUPT = 1,
    USED_F_NO_NOTIFY = 1,
    NO_VECTOR = 0xffff,
};

/* Sizes of the structures in guest memory and offsets in them; all is little-endian. */
enum {
    DESC_SIZE = 16,
    USED_ELEM_SIZE = 8,
    RING_FLAGS = 0,
    RING_IDX = 2,
    RING_ENTRIES = 4,
    RING_EVENT_SIZE = 2,
};

typedef struct {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
} Desc;

/*
 * Each of these is one load or store that the compiler neither repeats nor splits. They are
 * aligned: kumo_virtq_start() checked the rings' guest-physical alignment, and regions start on a
 * page.
 */
static inline uint16_t load16(const uint8_t *p)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}

static inline uint16_t load16_acquire(const uint8_t *p)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}

static inline void store16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, GUINT16_TO_LE(value), __ATOMIC_RELAXED);
}

static inline void store16_release(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, GUINT16_TO_LE(value), __ATOMIC_RELEASE);
}

/* Nothing says how an indirect table is aligned. */
typedef volatile uint64_t __attribute__((aligned(1), may_alias)) Unaligned64;

static inline Desc load_desc(const uint8_t *p)
{
    uint64_t first = GUINT64_FROM_LE(((const Unaligned64 *)p)[0]);
    uint64_t second = GUINT64_FROM_LE(((const Unaligned64 *)p)[1]);

    return (Desc){
        .gpa = first,
        .len = (uint32_t)second,
        .flags = (uint16_t)(second >> 32),
        .next = (uint16_t)(second >> 48),
    };
}

static inline uint8_t *avail_event(const KumoVirtq *queue)
{
    return queue->used + RING_ENTRIES + (size_t)queue->size * USED_ELEM_SIZE;
}

static inline const uint8_t *used_event(const KumoVirtq *queue)
{
    return queue->avail + RING_ENTRIES + (size_t)queue->size * sizeof(uint16_t);
}

static inline void mark_used(KumoVirtq *queue, const uint8_t *p, size_t len)
{
    kumo_memory_mark_dirty(queue->memory, queue->used_gpa + (uint64_t)(p - queue->used), len);
}

static KumoVirtqResult broken(KumoVirtq *queue, const char *why)
{
    queue->broken = true;
    kumo_warn_guest("virtqueue %u, chain %u: %s", queue->index, queue->last_avail, why);
    return KUMO_VIRTQ_BROKEN;
}

static uint8_t *map_ring(const KumoVirtq *queue, const KumoMemory *memory, const char *name,
                         uint64_t gpa, size_t len, uint64_t align, GError **error)
{
    uint8_t *hva = NULL;

    if (gpa % align) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "queue %u: %s ring at 0x%" PRIx64 " is not aligned to %u bytes", queue->index,
                    name, gpa, (unsigned)align);
        return NULL;
    }
    hva = kumo_memory_at(memory, gpa, len);
    if (!hva)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "queue %u: %s ring at 0x%" PRIx64 ", %zu bytes, is not inside memory",
                    queue->index, name, gpa, len);
    return hva;
}

bool kumo_virtq_start(KumoVirtq *queue, KumoMemory *memory, uint64_t features, GError **error)
{
    size_t size = queue->size;

    if (!kumo_is_pow2(size) || size > queue->max_size) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "queue %u: size %zu is not a power of two up to %u", queue->index, size,
                    queue->max_size);
        return false;
    }
    queue->desc =
        map_ring(queue, memory, "descriptor", queue->desc_gpa, size * DESC_SIZE, 16, error);
    if (!queue->desc)
        return false;
    queue->avail = map_ring(queue, memory, "available", queue->avail_gpa,
                            RING_ENTRIES + size * sizeof(uint16_t) + RING_EVENT_SIZE, 2, error);
    if (!queue->avail)
        return false;
    queue->used = map_ring(queue, memory, "used", queue->used_gpa,
                           RING_ENTRIES + size * USED_ELEM_SIZE + RING_EVENT_SIZE, 4, error);
    if (!queue->used)
        return false;

    queue->memory = memory;
    queue->event_idx = (features & FEATURE_EVENT_IDX) != 0;
    queue->indirect = (features & FEATURE_INDIRECT_DESC) != 0;
    queue->avail_seen = queue->last_avail;
    queue->signalled_used = queue->last_used;
    /* Nobody knows what was signalled before a restore: one interrupt too many does no harm. */
    queue->signalled_valid = queue->last_used == 0;
    queue->kicks_off = true;
    queue->broken = false;
    kumo_virtq_enable_kicks(queue);
    return true;
}

void kumo_virtq_reset(KumoVirtq *queue)
{
    queue->size = queue->max_size;
    queue->ready = false;
    queue->desc_gpa = queue->avail_gpa = queue->used_gpa = 0;
    __atomic_store_n(&queue->msix_vector, NO_VECTOR, __ATOMIC_RELAXED);
    queue->event_idx = false;
    queue->indirect = false;
    queue->desc = queue->avail = queue->used = NULL;
    queue->last_avail = queue->last_used = 0;
    queue->avail_seen = 0;
    queue->signalled_used = 0;
    queue->signalled_valid = false;
    queue->kicks_off = false;
    queue->broken = false;
}

/* Splits a buffer at the borders of memory regions. Returns NULL, or what is wrong with it. */
static const char *add_buffer(const KumoMemory *memory, KumoVirtqChain *chain, const Desc *desc,
                              bool writable)
{
    uint64_t gpa = desc->gpa;
    uint64_t left = desc->len;

    while (left > 0) {
        const KumoMemRegion *region = kumo_memory_find(memory, gpa);
        unsigned n = chain->n_readable + chain->n_writable;
        uint64_t part;

        if (!region)
            return "a buffer is outside memory";
        if (n >= chain->max_iov)
            return "too many buffers";
        part = MIN(left, region->size_bytes - (gpa - region->gpa));
        chain->iov[n].iov_base = region->hva + (gpa - region->gpa);
        chain->iov[n].iov_len = part;
        if (writable)
            chain->n_writable++;
        else
            chain->n_readable++;
        left -= part;
        if (left > 0 && !kumo_add_u64(gpa, part, &gpa))
            return "a buffer's address wraps";
    }
    if (writable)
        chain->writable_bytes += desc->len;
    else
        chain->readable_bytes += desc->len;
    return NULL;
}

/* Walks the chain that begins at chain->head. Returns NULL, or what is wrong with it. */
static const char *walk(const KumoVirtq *queue, KumoVirtqChain *chain)
{
    const uint8_t *table = queue->desc;
    uint32_t table_len = queue->size;
    uint32_t index = chain->head;
    bool in_indirect = false;
    bool seen_writable = false;

    /* 2.7.5.3.1: no chain is longer than the queue. Linux's drivers put chains into indirect tables
     * that are longer than a small queue all the same; those have a bound of their own. Either ends
     * loops. */
    for (unsigned budget = queue->size; budget > 0; budget--) {
        const char *wrong;
        bool writable;
        Desc desc;

        if (index >= table_len)
            return "a descriptor is outside its table";
        desc = load_desc(table + (size_t)index * DESC_SIZE);

        if (desc.flags & DESC_F_INDIRECT) {
            if (!queue->indirect)
                return "an indirect descriptor was not negotiated";
            if (in_indirect)
                return "an indirect table is inside another";
            if (desc.flags & DESC_F_NEXT)
                return "a descriptor follows an indirect one";
            if (desc.len == 0 || desc.len % DESC_SIZE)
                return "an indirect table's length is wrong";
            table = kumo_memory_at(queue->memory, desc.gpa, desc.len);
            if (!table)
                return "an indirect table is outside memory";
            table_len = desc.len / DESC_SIZE;
            index = 0;
            in_indirect = true;
            /* The descriptor that refers to the table holds no buffer: it does not count. */
            budget = MAX(budget, KUMO_VIRTQ_MAX_INDIRECT) + 1;
            continue;
        }

        writable = (desc.flags & DESC_F_WRITE) != 0;
        if (!writable && seen_writable)
            return "a readable buffer follows a writable one";
        seen_writable = writable;
        wrong = add_buffer(queue->memory, chain, &desc, writable);
        if (wrong)
            return wrong;
        if (!(desc.flags & DESC_F_NEXT))
            return NULL;
        index = desc.next;
    }
    return "a chain is too long";
}

/* Loads the driver's index. Returns FALSE if there is nothing more, or it is wrong (queue->broken).
 */
static bool load_avail(KumoVirtq *queue)
{
    uint16_t idx = load16_acquire(queue->avail + RING_IDX);
    uint16_t pending = (uint16_t)(idx - queue->last_avail);

    if (pending == 0)
        return false;
    if (pending > queue->size) {
        broken(queue, "the available index jumped beyond the queue's size");
        return false;
    }
    queue->avail_seen = idx;
    return true;
}

static inline uint16_t avail_entry(const KumoVirtq *queue, uint16_t position)
{
    size_t slot = position & (queue->size - 1U);

    return load16(queue->avail + RING_ENTRIES + slot * sizeof(uint16_t));
}

KumoVirtqResult kumo_virtq_pop(KumoVirtq *queue, KumoVirtqChain *chain)
{
    const char *wrong;

    if (G_UNLIKELY(queue->broken || !queue->desc))
        return queue->broken ? KUMO_VIRTQ_BROKEN : KUMO_VIRTQ_EMPTY;

    if (queue->avail_seen == queue->last_avail && !load_avail(queue)) {
        if (queue->broken)
            return KUMO_VIRTQ_BROKEN;
        /* With EVENT_IDX the driver kicks only past the index that it was told: tell it, then look
         * again. */
        if (queue->kicks_off || !queue->event_idx || !kumo_virtq_enable_kicks(queue) ||
            !load_avail(queue))
            return queue->broken ? KUMO_VIRTQ_BROKEN : KUMO_VIRTQ_EMPTY;
    }

    chain->n_readable = chain->n_writable = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
    chain->head = avail_entry(queue, queue->last_avail);
    if (G_UNLIKELY(chain->head >= queue->size))
        return broken(queue, "a chain's head is outside the descriptor table");

    wrong = walk(queue, chain);
    if (G_UNLIKELY(wrong != NULL))
        return broken(queue, wrong);

    queue->last_avail++;
    if (queue->last_avail != queue->avail_seen) {
        size_t next = avail_entry(queue, queue->last_avail) & (queue->size - 1U);

        __builtin_prefetch(queue->desc + next * DESC_SIZE);
    }
    return KUMO_VIRTQ_CHAIN;
}

void kumo_virtq_unpop(KumoVirtq *queue)
{
    queue->last_avail--;
}

bool kumo_virtq_has_work(const KumoVirtq *queue)
{
    if (queue->broken || !queue->desc)
        return false;
    return queue->avail_seen != queue->last_avail ||
           load16_acquire(queue->avail + RING_IDX) != queue->last_avail;
}

static void put_used(KumoVirtq *queue, uint16_t head, uint32_t written)
{
    size_t slot = queue->last_used & (queue->size - 1U);
    uint8_t *elem = queue->used + RING_ENTRIES + slot * USED_ELEM_SIZE;

    __atomic_store_n((uint32_t *)elem, GUINT32_TO_LE((uint32_t)head), __ATOMIC_RELAXED);
    __atomic_store_n((uint32_t *)(elem + 4), GUINT32_TO_LE(written), __ATOMIC_RELAXED);
    mark_used(queue, elem, USED_ELEM_SIZE);
    /* A whole turn without asking the driver: the difference of the indices says nothing any more.
     */
    if (++queue->last_used == queue->signalled_used)
        queue->signalled_valid = false;
}

static void publish_used(KumoVirtq *queue)
{
    store16_release(queue->used + RING_IDX, queue->last_used);
    mark_used(queue, queue->used + RING_IDX, sizeof(uint16_t));
}

void kumo_virtq_push(KumoVirtq *queue, uint16_t head, uint32_t written)
{
    if (G_UNLIKELY(queue->broken || !queue->desc))
        return;
    put_used(queue, head, written);
    publish_used(queue);
}

void kumo_virtq_push_many(KumoVirtq *queue, const uint16_t *heads, const uint32_t *written,
                          unsigned n)
{
    if (G_UNLIKELY(queue->broken || !queue->desc || n == 0))
        return;
    for (unsigned i = 0; i < n; i++)
        put_used(queue, heads[i], written[i]);
    publish_used(queue);
}

void kumo_virtq_notify(KumoVirtq *queue)
{
    uint16_t old = queue->signalled_used;
    uint16_t now = queue->last_used;
    bool valid = queue->signalled_valid;

    if (G_UNLIKELY(queue->broken || !queue->desc) || (valid && now == old))
        return;
    queue->signalled_used = now;
    queue->signalled_valid = true;

    /* The used index has to be visible before the driver's wish is read (2.7.7.2), or both sides
     * sleep. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (queue->event_idx) {
        uint16_t event = load16(used_event(queue));

        if (valid && (uint16_t)(now - event - 1) >= (uint16_t)(now - old))
            return;
    } else if (load16(queue->avail + RING_FLAGS) & AVAIL_F_NO_INTERRUPT) {
        return;
    }
    if (queue->interrupt)
        queue->interrupt(queue->interrupt_opaque, queue);
}

void kumo_virtq_disable_kicks(KumoVirtq *queue)
{
    if (queue->kicks_off || !queue->desc)
        return;
    queue->kicks_off = true;
    /* With EVENT_IDX an index that is left behind is enough: the driver does not come past it
     * again. */
    if (!queue->event_idx) {
        store16(queue->used + RING_FLAGS, USED_F_NO_NOTIFY);
        mark_used(queue, queue->used + RING_FLAGS, sizeof(uint16_t));
    }
}

bool kumo_virtq_enable_kicks(KumoVirtq *queue)
{
    if (G_UNLIKELY(queue->broken || !queue->desc))
        return false;
    if (queue->event_idx) {
        store16(avail_event(queue), queue->last_avail);
        mark_used(queue, avail_event(queue), sizeof(uint16_t));
    } else if (queue->kicks_off) {
        store16(queue->used + RING_FLAGS, 0);
        mark_used(queue, queue->used + RING_FLAGS, sizeof(uint16_t));
    }
    queue->kicks_off = false;
    /* The wish has to be visible before the index is read again: the driver does it the other way
     * round. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load16_acquire(queue->avail + RING_IDX) != queue->last_avail;
}

/* Copies between @buf and the iovs from byte @offset on. Returns: bytes copied. */
static size_t copy_iov(const struct iovec *iov, unsigned n, size_t offset, uint8_t *buf, size_t len,
                       bool to_guest)
{
    size_t done = 0;

    for (unsigned i = 0; i < n && done < len; i++) {
        size_t part;
        uint8_t *base;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        base = (uint8_t *)iov[i].iov_base + offset;
        part = MIN(len - done, iov[i].iov_len - offset);
        if (to_guest)
            memcpy(base, buf + done, part);
        else
            memcpy(buf + done, base, part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t kumo_virtq_chain_read(const KumoVirtqChain *chain, size_t offset, void *buf, size_t len)
{
    return copy_iov(chain->iov, chain->n_readable, offset, buf, len, false);
}

size_t kumo_virtq_chain_write(KumoVirtq *queue, const KumoVirtqChain *chain, size_t offset,
                              const void *buf, size_t len)
{
    size_t done = copy_iov(chain->iov + chain->n_readable, chain->n_writable, offset,
                           (uint8_t *)buf, len, true);

    kumo_virtq_chain_mark_dirty(queue, chain, offset, done);
    return done;
}

static void mark_hva(KumoMemory *memory, const uint8_t *hva, size_t len)
{
    for (unsigned i = 0; i < memory->n_regions; i++) {
        const KumoMemRegion *region = &memory->regions[i];
        size_t at = (size_t)((uintptr_t)hva - (uintptr_t)region->hva);

        if (at < region->size_bytes) {
            kumo_memory_mark_dirty(memory, region->gpa + at, len);
            return;
        }
    }
}

void kumo_virtq_chain_mark_dirty(KumoVirtq *queue, const KumoVirtqChain *chain, size_t offset,
                                 size_t len)
{
    const struct iovec *iov = chain->iov + chain->n_readable;

    if (!atomic_load_explicit(&queue->memory->dirty_log, memory_order_relaxed))
        return;
    for (unsigned i = 0; i < chain->n_writable && len > 0; i++) {
        size_t part;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        part = MIN(len, iov[i].iov_len - offset);
        mark_hva(queue->memory, (const uint8_t *)iov[i].iov_base + offset, part);
        len -= part;
        offset = 0;
    }
}
