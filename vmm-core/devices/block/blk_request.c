/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What becomes of one request of a disk. */
#include "vmm-core/devices/block/blk_request.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/clock.h"
#include "vmm-core/base/log.h"

enum {
    HEADER_BYTES = 16, /* struct virtio_blk_outhdr */
    MAX_RETRIES = 16,  /* of one request after EAGAIN or EINTR */
    ZEROES_BYTES = 64 * 1024,
    ID_BYTES = VIRTIO_BLK_ID_BYTES,
};

/* What WRITE_ZEROES falls back to; aligned for O_DIRECT. */
static const uint8_t zeroes[ZEROES_BYTES] __attribute__((aligned(65536)));

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

void kumo_blk_queue_break(KumoBlkQueue *queue, const char *why)
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
                bounce_copy(request, MIN(request->len - request->done, KUMO_BLK_BOUNCE_BYTES),
                            false);
            request_queue_small(queue, request, write ? KUMO_BLOCK_OP_WRITE : KUMO_BLOCK_OP_READ,
                                request->bounce, KUMO_BLK_BOUNCE_BYTES);
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
        /* Real data after all, which is paid for as another request. It is too late to wait: who
         * comes next does. */
        if (request->done == 0)
            kumo_throttle_charge(kumo_blk_queue_is_split(queue) ? &queue->held_writes.throttle
                                                                : &queue->throttle,
                                 KUMO_RATE_WRITE, request->len, 1);
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
void kumo_blk_request_op_done(void *opaque, KumoBlockOp *op, int64_t result)
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
    void *memory = mmap(NULL, KUMO_BLK_BOUNCE_BUFFERS * KUMO_BLK_BOUNCE_BYTES,
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return false;
    queue->bounce_memory = memory;
    for (unsigned i = 0; i < KUMO_BLK_BOUNCE_BUFFERS; i++)
        queue->bounce_free[queue->n_bounce_free++] =
            queue->bounce_memory + i * KUMO_BLK_BOUNCE_BYTES;
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

static KumoRateKind request_kind(const BlkRequest *request)
{
    switch (request->type) {
    case VIRTIO_BLK_T_IN:
        return KUMO_RATE_READ;
    case VIRTIO_BLK_T_OUT:
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return KUMO_RATE_WRITE;
    default:
        return KUMO_RATE_OTHER;
    }
}

static void request_start(KumoBlkQueue *queue, BlkRequest *request)
{
    request->dsync = atomic_load_explicit(&queue->shared->writethrough, memory_order_relaxed);
    request->offset = request->len = request->done = 0;
    request->retries = 0;
    request->bounce = NULL;
    queue->in_flight++;

    switch (request->type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        request->start_ns = kumo_monotonic_ns();
        start_in_out(queue, request, request->sector);
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
}

static BlkRequest *request_of(KumoBlkHeldItem *item)
{
    return (BlkRequest *)(void *)((char *)item - offsetof(BlkRequest, held));
}

void kumo_blk_request_start_held(void *opaque, KumoBlkHeldItem *item)
{
    request_start(opaque, request_of(item));
}

void kumo_blk_request_drop_held(void *opaque, KumoBlkHeldItem *item)
{
    KumoBlkQueue *queue = opaque;
    BlkRequest *request = request_of(item);

    request->next = queue->free_list;
    queue->free_list = request;
}

/* Returns: FALSE if it has to wait, where it came from or among those of its direction. */
static bool request_admit(KumoBlkQueue *queue, BlkRequest *request, bool *ret_kept)
{
    KumoRateKind kind = request_kind(request);
    uint64_t cost = request_cost(request);

    *ret_kept = kumo_blk_queue_is_split(queue) && kind != KUMO_RATE_OTHER;
    if (*ret_kept)
        return kumo_blk_held_admit(kind == KUMO_RATE_READ ? &queue->held_reads
                                                          : &queue->held_writes,
                                   &request->held, cost);
    if (kumo_throttle_admit(&queue->throttle, kind, cost))
        return true;
    kumo_virtq_unpop(queue->virtq);
    return false;
}

bool kumo_blk_request_begin(KumoBlkQueue *queue, BlkRequest *request)
{
    KumoVirtqChain *chain = &request->chain;
    struct virtio_blk_outhdr header;
    const struct iovec *last;
    bool kept;

    /* The status byte is the last of the writable part; without it there is no way to answer. */
    if (chain->writable_bytes == 0) {
        kumo_blk_queue_break(queue, "block request without status byte");
        return false;
    }
    if (kumo_virtq_chain_read(chain, 0, &header, sizeof(header)) != HEADER_BYTES) {
        kumo_blk_queue_break(queue, "block request with a short header");
        return false;
    }
    last = &chain->iov[chain->n_readable + chain->n_writable - 1];
    while (last->iov_len == 0)
        last--;
    request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    request->type = GUINT32_FROM_LE(header.type);
    request->sector = GUINT64_FROM_LE(header.sector);
    if (!request_admit(queue, request, &kept))
        return kept;
    request_start(queue, request);
    return true;
}
