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
#include "vmm-core/base/log.h"
#include "vmm-core/devices/block/blk_request.h"
#include "vmm-core/devices/virtio/queue_worker.h"

enum { RING_ROUNDS = 16 /* times round the ring before the worker looks at its other sources */ };

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
            kumo_blk_queue_break(queue, "block queue against the rules");
            return any;
        case KUMO_VIRTQ_CHAIN:
            any = true;
            queue->free_list = request->next;
            if (!kumo_blk_request_begin(queue, request)) {
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
    bool pauses;         /* the ring is gone on with: what was taken from it has to be done */
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
    if (call->pauses) {
        kumo_blk_held_release(&queue->held_reads);
        kumo_blk_held_release(&queue->held_writes);
    } else {
        kumo_blk_held_drop(&queue->held_reads, kumo_blk_request_drop_held);
        kumo_blk_held_drop(&queue->held_writes, kumo_blk_request_drop_held);
    }
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
    StopCall call = { .queue = queue, .pauses = true, .deadline_us = deadline_us };

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
        queue->engine = ops->create(fd, queue->n_requests, kumo_blk_request_op_done, queue, error);
    else
        queue->engine = kumo_block_engine_new(forbidden, fd, queue->n_requests,
                                              kumo_blk_request_op_done, queue, error);
    if (queue->engine)
        kumo_loop_call(queue->loop, start_engine_on_worker, &call);
    return call.ok;
}

bool kumo_blk_queue_bind(KumoBlkQueue *queue, const KumoDiskConfig *config, unsigned index,
                         GError **error)
{
    return kumo_queue_worker_bind(queue->loop, config->queue_affinity, index, true, error);
}

bool kumo_blk_queue_prepare_limiter(KumoBlkQueue *queue, const KumoRateLimiter *limiter,
                                    GError **error)
{
    return kumo_throttle_prepare(&queue->throttle, queue->loop, error) &&
           (!kumo_rate_limiter_is_split(limiter) ||
            (kumo_throttle_prepare(&queue->held_reads.throttle, queue->loop, error) &&
             kumo_throttle_prepare(&queue->held_writes.throttle, queue->loop, error)));
}

typedef struct {
    KumoBlkQueue *queue;
    KumoRateLimiter *limiter;
} LimiterCall;

static void set_limiter_on_worker(void *opaque)
{
    const LimiterCall *call = opaque;

    KumoRateLimiter *directed = kumo_rate_limiter_is_split(call->limiter) ? call->limiter : NULL;

    kumo_throttle_set_limiter(&call->queue->throttle, call->limiter);
    kumo_throttle_set_limiter(&call->queue->held_reads.throttle, directed);
    kumo_throttle_set_limiter(&call->queue->held_writes.throttle, directed);
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

static bool queue_init_held(KumoBlkQueue *queue, GError **error)
{
    KumoRateLimiter *limiter = queue->shared->limiter;

    if (!kumo_rate_limiter_is_split(limiter))
        limiter = NULL;
    return kumo_blk_held_init(&queue->held_reads, KUMO_RATE_READ, queue->loop, limiter,
                              kumo_blk_request_start_held, queue_go_on, queue, error) &&
           kumo_blk_held_init(&queue->held_writes, KUMO_RATE_WRITE, queue->loop, limiter,
                              kumo_blk_request_start_held, queue_go_on, queue, error);
}

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
        !queue_init_held(queue, error) || !queue_make_engine(queue, engine_ops, error)) {
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
    kumo_blk_held_clear(&queue->held_reads);
    kumo_blk_held_clear(&queue->held_writes);
    kumo_loop_free(queue->loop);
    if (queue->engine)
        queue->engine->ops->free(queue->engine);
    if (queue->bounce_memory)
        munmap(queue->bounce_memory, KUMO_BLK_BOUNCE_BUFFERS * KUMO_BLK_BOUNCE_BYTES);
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
