/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/block/blk_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/clock.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/idle_poll.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/throttle.h"
#include "vmm-core/devices/virtio/queue_worker.h"

enum {
    HEADER_BYTES = 16, /* struct virtio_blk_outhdr */
    RING_ROUNDS = 16,  /* times round the ring before the worker looks at its other sources */
    MAX_RETRIES = 16,  /* of one request after EAGAIN or EINTR */
    BOUNCE_BUFFERS = 4,
    BOUNCE_BYTES = 256 * 1024,
    ZEROES_BYTES = 64 * 1024,
    ID_BYTES = VIRTIO_BLK_ID_BYTES,
};

/* What WRITE_ZEROES falls back to; aligned for O_DIRECT. */
static const uint8_t zeroes[ZEROES_BYTES] __attribute__((aligned(65536)));

typedef enum {
    STEP_DATA,       /* IN and OUT */
    STEP_FLUSH,      /* FLUSH, and the end of a write-through WRITE_ZEROES */
    STEP_PUNCH_HOLE, /* DISCARD, WRITE_ZEROES */
    STEP_ZERO_RANGE, /* WRITE_ZEROES */
    STEP_ZERO_WRITE, /* WRITE_ZEROES where the file system can do neither */
} Step;

typedef struct BlkRequest {
    KumoBlockOp op;          /* first: the engine hands it back */
    struct BlkRequest *next; /* in the free list or the queue for a bounce buffer */
    KumoVirtqChain chain;
    struct iovec *iov; /* the data, what is left of it; chain.iov stays whole */
    unsigned n_iov;
    uint8_t *status;
    uint32_t type; /* VIRTIO_BLK_T_* */
    Step step;
    unsigned retries;
    bool dsync;
    uint64_t offset, len, done; /* bytes */
    uint8_t
        *bounce; /* data goes through here; holds a buffer of the queue while the request runs */
    struct iovec small_iov; /* of a bounce buffer or of zeroes */
    uint64_t start_ns;
} BlkRequest;

struct KumoBlkQueue {
    KumoBlkShared *shared;
    KumoLoop *loop;
    KumoBlockEngine *engine;
    char name[16];

    BlkRequest *requests;
    unsigned n_requests;
    struct iovec *iovs; /* two parts of max_iov for each request */
    size_t iovs_bytes;
    unsigned max_iov;
    uint8_t *bounce_memory; /* mapped at the first need */
    uint8_t *bounce_free[BOUNCE_BUFFERS];
    unsigned n_bounce_free;

    KumoVirtq *virtq; /* NULL while stopped */
    KumoLoopSource *kick_source, *engine_source;
    BlkRequest *free_list;
    BlkRequest *bounce_waiters, **bounce_waiters_tail;
    unsigned in_flight;
    bool queued; /* operations wait for engine submit */
    bool broken;
    KumoIdlePoll idle_poll;
    KumoThrottle throttle; /* while it waits nothing is taken from the ring */
    KumoBlkQueueStats stats;
};

/* Only the worker writes; a plain load and store is cheaper than a locked addition. */
static void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static void count(KumoBlkCounters *c, uint64_t bytes, uint64_t start_ns)
{
    uint64_t us = (kumo_monotonic_ns() - start_ns) / 1000;
    bool first = atomic_load_explicit(&c->ops, memory_order_relaxed) == 0;

    counter_add(&c->bytes, bytes);
    counter_add(&c->latency_sum_us, us);
    if (first || us < atomic_load_explicit(&c->latency_min_us, memory_order_relaxed))
        atomic_store_explicit(&c->latency_min_us, us, memory_order_relaxed);
    if (us > atomic_load_explicit(&c->latency_max_us, memory_order_relaxed))
        atomic_store_explicit(&c->latency_max_us, us, memory_order_relaxed);
    counter_add(&c->ops, 1);
}

static void queue_break(KumoBlkQueue *queue, const char *why)
{
    queue->broken = true;
    kumo_virtio_broken(queue->shared->virtio, why);
}

/* --- requests: how they end --- */

static void request_step(KumoBlkQueue *queue, BlkRequest *request);

static void bounce_release(KumoBlkQueue *queue, BlkRequest *request)
{
    BlkRequest *waiter = queue->bounce_waiters;

    queue->bounce_free[queue->n_bounce_free++] = request->bounce;
    request->bounce = NULL;
    if (!waiter)
        return;
    queue->bounce_waiters = waiter->next;
    if (!queue->bounce_waiters)
        queue->bounce_waiters_tail = &queue->bounce_waiters;
    waiter->bounce = queue->bounce_free[--queue->n_bounce_free];
    request_step(queue, waiter);
}

static void request_finish(KumoBlkQueue *queue, BlkRequest *request, uint8_t status)
{
    uint32_t written = 1;

    if (status == VIRTIO_BLK_S_OK) {
        if (request->type == VIRTIO_BLK_T_IN) {
            written += request->len;
            kumo_virtq_chain_mark_dirty(queue->virtq, &request->chain, 0, request->len);
            count(&queue->stats.read, request->len, request->start_ns);
        } else if (request->type == VIRTIO_BLK_T_OUT) {
            count(&queue->stats.write, request->len, request->start_ns);
        } else if (request->type == VIRTIO_BLK_T_GET_ID) {
            written += request->len;
        }
    } else if (request->type == VIRTIO_BLK_T_IN && request->done) {
        /* Part of the data is in guest memory already. */
        kumo_virtq_chain_mark_dirty(queue->virtq, &request->chain, 0, request->done);
    }
    __atomic_store_n(request->status, status, __ATOMIC_RELAXED);
    kumo_virtq_chain_mark_dirty(queue->virtq, &request->chain, request->chain.writable_bytes - 1,
                                1);
    kumo_virtq_push(queue->virtq, request->chain.head, written);

    queue->in_flight--;
    request->next = queue->free_list;
    queue->free_list = request;
    if (request->bounce)
        bounce_release(queue, request);
}

void kumo_blk_report_error(KumoBlkShared *shared, const char *operation, int err)
{
    KumoDevice *device = &shared->virtio->device;
    const char *name = strerrorname_np(err);

    if (!kumo_log_limit_pass(&shared->error_limit))
        return;
    kumo_machine_event_full(device->machine, "virtio-device", "io-error",
                            json_pack("{s:s, s:s, s:s}", "id", device->id, "operation", operation,
                                      "error", name ? name : "EIO"));
}

static const char *operation_name(uint32_t type)
{
    switch (type) {
    case VIRTIO_BLK_T_IN:
        return "read";
    case VIRTIO_BLK_T_OUT:
        return "write";
    case VIRTIO_BLK_T_DISCARD:
        return "discard";
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return "write-zeroes";
    default:
        return "flush";
    }
}

static void request_failed(KumoBlkQueue *queue, BlkRequest *request, int err)
{
    kumo_blk_report_error(queue->shared, operation_name(request->type), err);
    kumo_warn_guest("%s: %s: request type %u at byte %" G_GUINT64_FORMAT ", %" G_GUINT64_FORMAT
                    " bytes: %s",
                    queue->name, queue->shared->file->path, request->type, request->offset,
                    request->len, g_strerror(err));
    request_finish(queue, request, VIRTIO_BLK_S_IOERR);
}

/* --- requests: data transfer --- */

static void request_queue_op(KumoBlkQueue *queue, BlkRequest *request, KumoBlockOpType type)
{
    request->op.type = type;
    request->op.dsync = request->dsync;
    request->op.offset = request->offset + request->done;
    request->op.len = request->len - request->done;
    queue->queued = true;
    queue->engine->ops->queue(queue->engine, &request->op);
}

static void request_queue_small(KumoBlkQueue *queue, BlkRequest *request, KumoBlockOpType type,
                                const void *buf, size_t buf_len)
{
    request->small_iov.iov_base = (void *)buf;
    request->small_iov.iov_len = MIN(request->len - request->done, buf_len);
    request->op.iov = &request->small_iov;
    request->op.n_iov = 1;
    request_queue_op(queue, request, type);
}

/* Copies between a bounce buffer and the next @len bytes of the data; what is copied is not yet
 * passed. */
static void bounce_copy(const BlkRequest *request, size_t len, bool to_guest)
{
    uint8_t *buf = request->bounce;

    for (unsigned i = 0; i < request->n_iov && len; i++) {
        size_t n = MIN(request->iov[i].iov_len, len);

        if (to_guest)
            memcpy(request->iov[i].iov_base, buf, n);
        else
            memcpy(buf, request->iov[i].iov_base, n);
        buf += n;
        len -= n;
    }
}

/* Passes @len bytes of the data. */
static void request_advance(BlkRequest *request, size_t len)
{
    request->done += len;
    while (request->n_iov && len >= request->iov[0].iov_len) {
        len -= request->iov[0].iov_len;
        request->iov++;
        request->n_iov--;
    }
    if (len) {
        request->iov[0].iov_base = (uint8_t *)request->iov[0].iov_base + len;
        request->iov[0].iov_len -= len;
    }
}

/* Starts the next part of a request that holds all it needs. */
static void request_step(KumoBlkQueue *queue, BlkRequest *request)
{
    bool write = request->type == VIRTIO_BLK_T_OUT;

    switch (request->step) {
    case STEP_DATA:
        if (request->bounce) {
            if (write)
                bounce_copy(request, MIN(request->len - request->done, BOUNCE_BYTES), false);
            request_queue_small(queue, request, write ? KUMO_BLOCK_OP_WRITE : KUMO_BLOCK_OP_READ,
                                request->bounce, BOUNCE_BYTES);
        } else {
            request->op.iov = request->iov;
            request->op.n_iov = request->n_iov;
            request_queue_op(queue, request, write ? KUMO_BLOCK_OP_WRITE : KUMO_BLOCK_OP_READ);
        }
        break;
    case STEP_FLUSH:
        request_queue_op(queue, request, KUMO_BLOCK_OP_FLUSH);
        break;
    case STEP_PUNCH_HOLE:
        request_queue_op(queue, request, KUMO_BLOCK_OP_PUNCH_HOLE);
        break;
    case STEP_ZERO_RANGE:
        request_queue_op(queue, request, KUMO_BLOCK_OP_ZERO_RANGE);
        break;
    case STEP_ZERO_WRITE:
        /* Real data after all. It is too late to wait: who comes next does. */
        if (request->done == 0)
            kumo_throttle_charge(&queue->throttle, request->len, 0);
        request_queue_small(queue, request, KUMO_BLOCK_OP_WRITE, zeroes, sizeof(zeroes));
        break;
    }
}

/* A file system or device refused to deallocate: DISCARD is a hint, WRITE_ZEROES tries the next
 * best way. */
static void request_zero_fallback(KumoBlkQueue *queue, BlkRequest *request, int err)
{
    KumoBlkShared *shared = queue->shared;

    /* EINVAL: a range not aligned to the device's blocks; other ranges may be. */
    if (err != EOPNOTSUPP && err != ENOTTY && err != ENOSYS && err != EINVAL) {
        request_failed(queue, request, err);
        return;
    }
    if (err != EINVAL)
        atomic_store(request->step == STEP_PUNCH_HOLE ? &shared->no_punch_hole
                                                      : &shared->no_zero_range,
                     true);
    if (request->type == VIRTIO_BLK_T_DISCARD) {
        request_finish(queue, request, VIRTIO_BLK_S_OK);
        return;
    }
    if (request->step == STEP_ZERO_RANGE && !atomic_load(&shared->no_punch_hole))
        request->step = STEP_PUNCH_HOLE;
    else
        request->step = STEP_ZERO_WRITE;
    request_step(queue, request);
}

static void request_data_done(KumoBlkQueue *queue, BlkRequest *request, uint64_t n)
{
    if (n == 0) {
        /* The end of a file that somebody truncated, or a device that takes no more. */
        request_failed(queue, request, EIO);
        return;
    }
    n = MIN(n, request->len - request->done);
    if (request->step == STEP_ZERO_WRITE) {
        request->done += n;
    } else {
        if (request->bounce && request->type == VIRTIO_BLK_T_IN)
            bounce_copy(request, n, true);
        request_advance(request, n);
    }
    if (request->done < request->len)
        request_step(queue, request);
    else
        request_finish(queue, request, VIRTIO_BLK_S_OK);
}

/* The engine's callback. */
static void request_op_done(void *opaque, KumoBlockOp *op, int64_t result)
{
    KumoBlkQueue *queue = opaque;
    BlkRequest *request = (BlkRequest *)op;

    if ((result == -EAGAIN || result == -EINTR) && request->retries++ < MAX_RETRIES) {
        request_step(queue, request);
        return;
    }
    if (result < 0) {
        if (request->step == STEP_PUNCH_HOLE || request->step == STEP_ZERO_RANGE)
            request_zero_fallback(queue, request, (int)-result);
        else
            request_failed(queue, request, (int)-result);
        return;
    }
    switch (request->step) {
    case STEP_DATA:
    case STEP_ZERO_WRITE:
        request_data_done(queue, request, (uint64_t)result);
        break;
    case STEP_FLUSH:
        request_finish(queue, request, VIRTIO_BLK_S_OK);
        break;
    case STEP_PUNCH_HOLE:
    case STEP_ZERO_RANGE:
        if (request->dsync) {
            request->step = STEP_FLUSH;
            request_step(queue, request);
        } else {
            request_finish(queue, request, VIRTIO_BLK_S_OK);
        }
        break;
    }
}

/* --- requests: how they begin --- */

static bool bounce_map(KumoBlkQueue *queue)
{
    void *memory = mmap(NULL, BOUNCE_BUFFERS * BOUNCE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return false;
    queue->bounce_memory = memory;
    for (unsigned i = 0; i < BOUNCE_BUFFERS; i++)
        queue->bounce_free[queue->n_bounce_free++] = queue->bounce_memory + i * BOUNCE_BYTES;
    return true;
}

/* Does O_DIRECT refuse the guest's buffers? */
static bool request_misaligned(const KumoBlockFile *file, const BlkRequest *request)
{
    for (unsigned i = 0; i < request->n_iov; i++)
        if (((uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len) & (file->mem_align - 1))
            return true;
    return false;
}

static void request_start_data(KumoBlkQueue *queue, BlkRequest *request)
{
    KumoBlockFile *file = queue->shared->file;

    request->step = STEP_DATA;
    if (G_LIKELY(file->offset_align == 1)) {
        request_step(queue, request);
        return;
    }
    if ((request->offset | request->len) & (file->offset_align - 1)) {
        int64_t result =
            kumo_block_file_rw_unaligned(file, request->type == VIRTIO_BLK_T_OUT, request->iov,
                                         request->n_iov, request->offset, request->len);

        if (result >= 0 && request->dsync)
            result = kumo_block_file_flush(file);
        if (result < 0)
            request_failed(queue, request, (int)-result);
        else
            request_finish(queue, request, VIRTIO_BLK_S_OK);
        return;
    }
    if (!request_misaligned(file, request)) {
        request_step(queue, request);
        return;
    }
    if (!queue->bounce_memory && !bounce_map(queue)) {
        request_failed(queue, request, ENOMEM);
        return;
    }
    if (queue->n_bounce_free) {
        request->bounce = queue->bounce_free[--queue->n_bounce_free];
        request_step(queue, request);
    } else {
        request->next = NULL;
        *queue->bounce_waiters_tail = request;
        queue->bounce_waiters_tail = &request->next;
    }
}

/* Leaves in request->iov what of @iov lies in [@skip, @skip + @len). */
static void request_set_data(BlkRequest *request, const struct iovec *iov, unsigned n_iov,
                             uint64_t skip, uint64_t len)
{
    request->n_iov = 0;
    for (unsigned i = 0; i < n_iov && len; i++) {
        size_t n;

        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        n = MIN(iov[i].iov_len - skip, len);
        request->iov[request->n_iov++] =
            (struct iovec){ .iov_base = (uint8_t *)iov[i].iov_base + skip, .iov_len = n };
        skip = 0;
        len -= n;
    }
}

/* Is what begins here the first write beyond the threshold? Of several queues, one tells. */
static void check_threshold(KumoBlkShared *shared, uint64_t end)
{
    KumoDevice *device = &shared->virtio->device;
    uint64_t threshold = atomic_load_explicit(&shared->write_threshold, memory_order_relaxed);

    if (G_LIKELY(!threshold || end <= threshold) ||
        !atomic_compare_exchange_strong(&shared->write_threshold, &threshold, 0))
        return;
    kumo_machine_event_full(device->machine, "virtio-device", "block-threshold",
                            json_pack("{s:s, s:I, s:I}", "id", device->id, "threshold",
                                      (json_int_t)threshold, "excess",
                                      (json_int_t)(end - threshold)));
}

static bool sectors_ok(const KumoBlkShared *shared, uint64_t sector, uint64_t n_sectors)
{
    return kumo_range_inside(sector, n_sectors, 0, shared->capacity_sectors);
}

static void start_in_out(KumoBlkQueue *queue, BlkRequest *request, uint64_t sector)
{
    const KumoVirtqChain *chain = &request->chain;
    bool write = request->type == VIRTIO_BLK_T_OUT;
    uint64_t len = write ? chain->readable_bytes - HEADER_BYTES : chain->writable_bytes - 1;

    if (len % KUMO_SECTOR_SIZE || !sectors_ok(queue->shared, sector, len / KUMO_SECTOR_SIZE) ||
        (write && queue->shared->file->readonly)) {
        kumo_warn_guest("%s: %s of %" G_GUINT64_FORMAT " bytes at sector %" G_GUINT64_FORMAT
                        " refused%s",
                        queue->name, write ? "write" : "read", len, sector,
                        write && queue->shared->file->readonly ? ": the disk is read-only" : "");
        request_finish(queue, request, VIRTIO_BLK_S_IOERR);
        return;
    }
    request->offset = sector * KUMO_SECTOR_SIZE;
    request->len = len;
    if (len == 0) {
        request_finish(queue, request, VIRTIO_BLK_S_OK);
        return;
    }
    if (write) {
        check_threshold(queue->shared, request->offset + len);
        request_set_data(request, chain->iov, chain->n_readable, HEADER_BYTES, len);
    } else {
        request_set_data(request, chain->iov + chain->n_readable, chain->n_writable, 0, len);
    }
    request_start_data(queue, request);
}

static void start_get_id(KumoBlkQueue *queue, BlkRequest *request)
{
    char id[ID_BYTES] = { 0 };

    /* Not terminated if it takes all 20 bytes (5.2.6). */
    memcpy(id, queue->shared->file->serial, strnlen(queue->shared->file->serial, ID_BYTES));
    request->len = MIN(request->chain.writable_bytes - 1, sizeof(id));
    kumo_virtq_chain_write(queue->virtq, &request->chain, 0, id, request->len);
    request_finish(queue, request, VIRTIO_BLK_S_OK);
}

/* DISCARD and WRITE_ZEROES (5.2.6.2): one segment, as the config space says. */
static void start_discard(KumoBlkQueue *queue, BlkRequest *request)
{
    KumoBlkShared *shared = queue->shared;
    struct virtio_blk_discard_write_zeroes seg;
    bool zero = request->type == VIRTIO_BLK_T_WRITE_ZEROES;
    uint64_t sector;
    uint32_t n_sectors, flags;

    if (request->chain.readable_bytes != HEADER_BYTES + sizeof(seg) || shared->file->readonly) {
        request_finish(queue, request, VIRTIO_BLK_S_IOERR);
        return;
    }
    kumo_virtq_chain_read(&request->chain, HEADER_BYTES, &seg, sizeof(seg));
    sector = GUINT64_FROM_LE(seg.sector);
    n_sectors = GUINT32_FROM_LE(seg.num_sectors);
    flags = GUINT32_FROM_LE(seg.flags);
    if (flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0U)) {
        request_finish(queue, request, VIRTIO_BLK_S_UNSUPP);
        return;
    }
    if (!zero && !shared->file->sparse) {
        request_finish(queue, request, VIRTIO_BLK_S_UNSUPP);
        return;
    }
    if (n_sectors > KUMO_BLK_MAX_DISCARD_SECTORS || !sectors_ok(shared, sector, n_sectors)) {
        kumo_warn_guest("%s: %s of %u sectors at sector %" G_GUINT64_FORMAT " refused", queue->name,
                        zero ? "write-zeroes" : "discard", n_sectors, sector);
        request_finish(queue, request, VIRTIO_BLK_S_IOERR);
        return;
    }
    request->offset = sector * KUMO_SECTOR_SIZE;
    request->len = (uint64_t)n_sectors * KUMO_SECTOR_SIZE;
    if (n_sectors == 0 ||
        (!zero && atomic_load_explicit(&shared->no_punch_hole, memory_order_relaxed))) {
        request_finish(queue, request, VIRTIO_BLK_S_OK);
        return;
    }
    if (zero)
        check_threshold(shared, request->offset + request->len);
    if ((!zero || flags) && !atomic_load_explicit(&shared->no_punch_hole, memory_order_relaxed))
        request->step = STEP_PUNCH_HOLE;
    else if (!atomic_load_explicit(&shared->no_zero_range, memory_order_relaxed))
        request->step = STEP_ZERO_RANGE;
    else
        request->step = STEP_ZERO_WRITE;
    request_step(queue, request);
}

/* The bytes that count against a limit of bandwidth. */
static uint64_t request_cost(const BlkRequest *request)
{
    switch (request->type) {
    case VIRTIO_BLK_T_IN:
        return request->chain.writable_bytes - 1;
    case VIRTIO_BLK_T_OUT:
        return request->chain.readable_bytes - HEADER_BYTES;
    default:
        return 0;
    }
}

/* Returns: FALSE if it was not begun: the chain is no request at all and the device is broken, or
 * it has to wait for the rate limiter. */
static bool request_begin(KumoBlkQueue *queue, BlkRequest *request)
{
    KumoVirtqChain *chain = &request->chain;
    struct virtio_blk_outhdr header;
    const struct iovec *last;

    /* The status byte is the last of the writable part; without it there is no way to answer. */
    if (chain->writable_bytes == 0) {
        queue_break(queue, "block request without status byte");
        return false;
    }
    if (kumo_virtq_chain_read(chain, 0, &header, sizeof(header)) != HEADER_BYTES) {
        queue_break(queue, "block request with a short header");
        return false;
    }
    last = &chain->iov[chain->n_readable + chain->n_writable - 1];
    while (last->iov_len == 0)
        last--;
    request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    request->type = GUINT32_FROM_LE(header.type);
    if (!kumo_throttle_admit(&queue->throttle, request_cost(request))) {
        kumo_virtq_unpop(queue->virtq);
        return false;
    }
    request->dsync = atomic_load_explicit(&queue->shared->writethrough, memory_order_relaxed);
    request->offset = request->len = request->done = 0;
    request->retries = 0;
    request->bounce = NULL;
    queue->in_flight++;

    switch (request->type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        request->start_ns = kumo_monotonic_ns();
        start_in_out(queue, request, GUINT64_FROM_LE(header.sector));
        break;
    case VIRTIO_BLK_T_FLUSH:
        request->step = STEP_FLUSH;
        request_step(queue, request);
        break;
    case VIRTIO_BLK_T_GET_ID:
        start_get_id(queue, request);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        start_discard(queue, request);
        break;
    default:
        request_finish(queue, request, VIRTIO_BLK_S_UNSUPP);
        break;
    }
    return true;
}

/* --- the worker --- */

/* Takes what is in the ring as far as there are free requests and the rate limiter allows. Returns:
 * whether there was something. */
static bool queue_take(KumoBlkQueue *queue)
{
    bool any = false;

    while (queue->free_list && !queue->broken && !queue->throttle.waiting) {
        BlkRequest *request = queue->free_list;
        size_t slot = (size_t)(request - queue->requests);

        request->chain.iov = queue->iovs + 2 * slot * queue->max_iov;
        request->chain.max_iov = queue->max_iov;
        request->iov = request->chain.iov + queue->max_iov;
        switch (kumo_virtq_pop(queue->virtq, &request->chain)) {
        case KUMO_VIRTQ_EMPTY:
            return any;
        case KUMO_VIRTQ_BROKEN:
            queue_break(queue, "block queue against the rules");
            return any;
        case KUMO_VIRTQ_CHAIN:
            any = true;
            queue->free_list = request->next;
            if (!request_begin(queue, request)) {
                request->next = queue->free_list;
                queue->free_list = request;
            }
            break;
        }
    }
    return any;
}

/* Starts what is queued and takes what is done, until nothing more is to be had without waiting. */
static void queue_io(KumoBlkQueue *queue)
{
    do {
        if (queue->queued) {
            queue->queued = false;
            queue->engine->ops->submit(queue->engine);
        }
        queue->engine->ops->reap(queue->engine, 0);
    } while (queue->queued);
}

static bool queue_has_work(const void *opaque)
{
    const KumoBlkQueue *queue = opaque;

    return kumo_virtq_has_work(queue->virtq);
}

static void queue_run(KumoBlkQueue *queue)
{
    for (unsigned round = 0; round < RING_ROUNDS; round++) {
        unsigned in_flight;
        bool worked;

        kumo_virtq_disable_kicks(queue->virtq);
        worked = queue_take(queue);
        if (worked)
            kumo_idle_poll_worked(&queue->idle_poll);
        in_flight = queue->in_flight;
        queue_io(queue);
        worked |= queue->in_flight != in_flight;
        kumo_virtq_notify(queue->virtq);
        /* With all requests in flight the next completion comes back here; the rate limiter's timer
         * does, too. */
        if (queue->broken || !queue->free_list || queue->throttle.waiting)
            return;
        /* Kicks stay off meanwhile, so a driver that is quick enough saves its exit, too. */
        if (worked && !queue->in_flight &&
            kumo_idle_poll_wait(&queue->idle_poll, queue_has_work, queue))
            continue;
        if (!kumo_virtq_enable_kicks(queue->virtq))
            return;
    }
    /* Give the loop's other sources a turn; the kick source is edge-triggered, so this wakes it
     * again. */
    kumo_eventfd_signal(queue->virtq->kick_fd);
}

/* Kicks and completions alike. The kick's counter is never read: edge-triggered, every kick wakes
 * us. */
static void queue_wake(void *opaque, uint32_t events)
{
    KumoBlkQueue *queue = opaque;

    if (queue->broken)
        queue_io(queue);
    else
        queue_run(queue);
}

static void queue_go_on(void *opaque)
{
    KumoBlkQueue *queue = opaque;

    if (queue->virtq)
        queue_wake(queue, 0);
}

bool kumo_blk_queue_start(KumoBlkQueue *queue, KumoVirtq *virtq, GError **error)
{
    queue->virtq = virtq;
    queue->broken = false;
    queue->idle_poll = (KumoIdlePoll){ 0 };
    if (queue->engine->wait_fd >= 0) {
        queue->engine_source = kumo_loop_add_fd(queue->loop, queue->engine->wait_fd,
                                                EPOLLIN | EPOLLET, queue_wake, queue, error);
        if (!queue->engine_source)
            goto fail;
    }
    queue->kick_source =
        kumo_loop_add_fd(queue->loop, virtq->kick_fd, EPOLLIN | EPOLLET, queue_wake, queue, error);
    if (!queue->kick_source)
        goto fail;
    /* What was made available before and between a stop and this start. */
    kumo_loop_call(queue->loop, queue_go_on, queue);
    return true;

fail:
    kumo_blk_queue_stop(queue);
    return false;
}

typedef struct {
    KumoBlkQueue *queue;
    int64_t deadline_us; /* -1: none */
    unsigned left;       /* in flight at the deadline */
} StopCall;

/* Takes nothing new and waits for what is in flight. */
static void queue_drain(StopCall *call)
{
    KumoBlkQueue *queue = call->queue;
    int timeout_ms = -1;

    while (queue->in_flight) {
        queue_io(queue);
        if (!queue->in_flight)
            break;
        if (call->deadline_us >= 0) {
            int64_t left_us = call->deadline_us - g_get_monotonic_time();

            if (left_us <= 0) {
                call->left = queue->in_flight;
                return;
            }
            timeout_ms = (int)MIN(left_us / 1000 + 1, G_MAXINT);
        }
        queue->engine->ops->reap(queue->engine, timeout_ms);
    }
}

static void queue_stop_on_worker(void *opaque)
{
    StopCall *call = opaque;
    KumoBlkQueue *queue = call->queue;

    kumo_throttle_cancel(&queue->throttle);
    queue_drain(call);
    if (call->left) {
        queue_wake(queue, 0);
        return;
    }
    g_clear_pointer(&queue->kick_source, kumo_loop_remove);
    g_clear_pointer(&queue->engine_source, kumo_loop_remove);
    kumo_virtq_notify(queue->virtq);
    queue->virtq = NULL;
}

void kumo_blk_queue_stop(KumoBlkQueue *queue)
{
    StopCall call = { .queue = queue, .deadline_us = -1 };

    if (queue->virtq)
        kumo_loop_call(queue->loop, queue_stop_on_worker, &call);
}

bool kumo_blk_queue_pause(KumoBlkQueue *queue, int64_t deadline_us, GError **error)
{
    StopCall call = { .queue = queue, .deadline_us = deadline_us };

    if (queue->virtq)
        kumo_loop_call(queue->loop, queue_stop_on_worker, &call);
    if (!call.left)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO,
                "disk %s: %u requests of queue %s do not come back from the host",
                queue->shared->file->path, call.left, queue->name);
    return false;
}

typedef struct {
    KumoBlkQueue *queue;
    bool ok;
    GError **error;
} EngineCall;

static void start_engine_on_worker(void *opaque)
{
    EngineCall *call = opaque;
    KumoBlockEngine *engine = call->queue->engine;

    call->ok = !engine->ops->start || engine->ops->start(engine, call->error);
}

/* The worker gets a ring that was made for it: it may make none itself, which would do more. */
static bool queue_make_engine(KumoBlkQueue *queue, const KumoBlockEngineOps *ops, GError **error)
{
    EngineCall call = { .queue = queue, .error = error };
    const KumoDiskConfig *config = queue->shared->config;
    int fd = queue->shared->file->fd;
    unsigned forbidden = (config->disable_io_uring ? 1U << KUMO_BLOCK_ENGINE_URING : 0) |
                         (config->disable_aio ? 1U << KUMO_BLOCK_ENGINE_AIO : 0);

    if (ops)
        queue->engine = ops->create(fd, queue->n_requests, request_op_done, queue, error);
    else
        queue->engine =
            kumo_block_engine_new(forbidden, fd, queue->n_requests, request_op_done, queue, error);
    if (queue->engine)
        kumo_loop_call(queue->loop, start_engine_on_worker, &call);
    return call.ok;
}

bool kumo_blk_queue_bind(KumoBlkQueue *queue, const KumoDiskConfig *config, unsigned index,
                         GError **error)
{
    return kumo_queue_worker_bind(queue->loop, config->queue_affinity, index, true, error);
}

bool kumo_blk_queue_prepare_limiter(KumoBlkQueue *queue, GError **error)
{
    return kumo_throttle_prepare(&queue->throttle, queue->loop, error);
}

typedef struct {
    KumoBlkQueue *queue;
    KumoRateLimiter *limiter;
} LimiterCall;

static void set_limiter_on_worker(void *opaque)
{
    const LimiterCall *call = opaque;

    kumo_throttle_set_limiter(&call->queue->throttle, call->limiter);
}

void kumo_blk_queue_set_limiter(KumoBlkQueue *queue, KumoRateLimiter *limiter)
{
    LimiterCall call = { queue, limiter };

    kumo_loop_call(queue->loop, set_limiter_on_worker, &call);
}

/* --- the worker's system calls --- */

static const KumoSyscall blk_calls[] = {
    { KUMO_SYSCALL(io_uring_enter) },
    /* Of the ring that it got, which does so much and no more from then on. */
    { KUMO_SYSCALL_IF(io_uring_register, 1, IORING_REGISTER_ENABLE_RINGS) },
    { KUMO_SYSCALL(io_submit) },
    { KUMO_SYSCALL(io_getevents) },
    { KUMO_SYSCALL(pread64) },
    { KUMO_SYSCALL(preadv) },
    { KUMO_SYSCALL(preadv2) },
    { KUMO_SYSCALL(pwrite64) },
    { KUMO_SYSCALL(pwritev) },
    { KUMO_SYSCALL(pwritev2) },
    { KUMO_SYSCALL(fdatasync) },
    { KUMO_SYSCALL_IF(fallocate, 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) },
    { KUMO_SYSCALL_IF(fallocate, 1, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE) },
};

static const KumoSyscallTable blk_table = KUMO_SYSCALL_TABLE(blk_calls);
static const KumoSyscallTable *const blk_tables[] = { &kumo_loop_syscalls, &blk_table, NULL };

const KumoThreadKind kumo_blk_thread = {
    .name = "disk",
    .roles = KUMO_THREAD_HAS_DEVICES,
    .tables = blk_tables,
};

KumoBlkQueue *kumo_blk_queue_new(KumoBlkShared *shared, unsigned index, uint16_t max_size,
                                 const KumoBlockEngineOps *engine_ops, GError **error)
{
    KumoBlkQueue *queue = g_new0(KumoBlkQueue, 1);
    void *iovs;
    char suffix[8];

    g_snprintf(suffix, sizeof(suffix), "_q%u", index % 10000);
    g_snprintf(queue->name, sizeof(queue->name), "%.*s%s",
               (int)(sizeof(queue->name) - 1 - strlen(suffix)), shared->virtio->device.id, suffix);
    queue->shared = shared;
    queue->bounce_waiters_tail = &queue->bounce_waiters;
    queue->n_requests = MIN(max_size, KUMO_BLK_MAX_INFLIGHT);
    /* Header and status besides the data; buffers that cross memory regions take two. */
    queue->max_iov = CLAMP(max_size, KUMO_BLK_MIN_SEGMENTS, KUMO_BLK_MAX_SEGMENTS) + 4;
    queue->requests = g_new0(BlkRequest, queue->n_requests);
    queue->iovs_bytes = 2UL * queue->n_requests * queue->max_iov * sizeof(struct iovec);
    /* Mapped, not allocated: pages of requests that are never used are never touched. */
    iovs =
        mmap(NULL, queue->iovs_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (iovs == MAP_FAILED) {
        kumo_set_error_errno(error, errno, "requests of %s", queue->name);
        kumo_blk_queue_free(queue);
        return NULL;
    }
    queue->iovs = iovs;
    for (unsigned i = queue->n_requests; i-- > 0;) {
        queue->requests[i].next = queue->free_list;
        queue->free_list = &queue->requests[i];
    }
    queue->loop = kumo_loop_new(queue->name, &kumo_blk_thread, error);
    if (!queue->loop ||
        !kumo_queue_worker_bind(queue->loop, shared->config->queue_affinity, index, false, error) ||
        !kumo_throttle_init(&queue->throttle, queue->loop, shared->limiter, queue_go_on, queue,
                            error) ||
        !queue_make_engine(queue, engine_ops, error)) {
        kumo_blk_queue_free(queue);
        return NULL;
    }
    return queue;
}

void kumo_blk_queue_free(KumoBlkQueue *queue)
{
    if (!queue)
        return;
    kumo_throttle_clear(&queue->throttle);
    kumo_loop_free(queue->loop);
    if (queue->engine)
        queue->engine->ops->free(queue->engine);
    if (queue->bounce_memory)
        munmap(queue->bounce_memory, BOUNCE_BUFFERS * BOUNCE_BYTES);
    if (queue->iovs)
        munmap(queue->iovs, queue->iovs_bytes);
    g_free(queue->requests);
    g_free(queue);
}

const KumoBlkQueueStats *kumo_blk_queue_stats(const KumoBlkQueue *queue)
{
    return &queue->stats;
}

const char *kumo_blk_queue_engine_name(const KumoBlkQueue *queue)
{
    return queue->engine->ops->name;
}
