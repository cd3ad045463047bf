/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One queue of a virtio-blk device with its worker: takes requests from the ring, checks them, runs
 * them through an engine and returns them. All memory is allocated at creation.
 *
 * Threads: between start and stop everything belongs to the worker, except what is marked
 * otherwise.
 */
#pragma once

#include <linux/virtio_blk.h>
#include <stdatomic.h>

#include "vmm-core/base/log.h"
#include "vmm-core/base/loop.h"
#include "vmm-core/base/rate_limiter.h"
#include "vmm-core/base/sandbox.h"
#include "vmm-core/devices/block/block_engine.h"
#include "vmm-core/devices/block/block_file.h"
#include "vmm-core/devices/virtio/virtio.h"

extern const KumoThreadKind kumo_blk_thread;

enum {
    /* Bounds of what a queue of any size holds in memory: requests in flight and data segments of
       one request. */
    KUMO_BLK_MAX_INFLIGHT = 256,
    KUMO_BLK_MAX_SEGMENTS = 254,
    KUMO_BLK_MIN_SEGMENTS = 64,             /* for the indirect tables of small queues */
    KUMO_BLK_MAX_DISCARD_SECTORS = 1 << 21, /* 1 GiB in one request */
};

/* Written by the worker, read by anybody. */
typedef struct {
    _Atomic uint64_t ops, bytes;
    _Atomic uint64_t latency_min_us, latency_max_us, latency_sum_us;
} KumoBlkCounters;

typedef struct {
    KumoBlkCounters read, write;
} KumoBlkQueueStats;

typedef struct KumoBlkQueue KumoBlkQueue;

/* What queues share; owned by the device. */
typedef struct {
    KumoVirtio *virtio;
    const KumoDiskConfig *config;
    KumoBlockFile *file;
    KumoRateLimiter *limiter; /* NULL: no limit */
    uint64_t capacity_sectors;
    atomic_bool writethrough; /* each write is on stable storage before it is used: see 5.2.6.2 */
    /* What the file turned out not to support; only ever set. */
    atomic_bool no_zero_range, no_punch_hole;
    /* Bytes; the first write that ends beyond it clears it and is told by an event. 0: none. */
    _Atomic uint64_t write_threshold;
    KumoLogLimit error_limit; /* of the event io-error */
} KumoBlkShared;

/**
 * kumo_blk_report_error:
 * @operation: "read", "write", "flush", "discard" or "write-zeroes"
 * @err: what the host answered, an errno
 *
 * Tells those who watch the VM by the event io-error, at a limited rate: a full disk fails often.
 * Any thread.
 */
void kumo_blk_report_error(KumoBlkShared *shared, const char *operation, int err);

/**
 * kumo_blk_queue_new:
 * @engine_ops: NULL: the best that works and shared->config allows
 *
 * Starts the worker, on the CPUs that shared->config wants for it, and makes its engine.
 *
 * Returns: (transfer full): or NULL with @error set.
 */
KumoBlkQueue *kumo_blk_queue_new(KumoBlkShared *shared, unsigned index, uint16_t max_size,
                                 const KumoBlockEngineOps *engine_ops, GError **error);

/* The queue must be stopped. NULL is fine. */
void kumo_blk_queue_free(KumoBlkQueue *queue);

/* Hands @virtq to the worker. Any thread but the worker's. */
bool kumo_blk_queue_start(KumoBlkQueue *queue, KumoVirtq *virtq, GError **error);

/* For a reset: returns when nothing is in flight and the worker leaves ring and guest memory alone.
 * What waits for a rate limiter is not done any more. Fine if not started. */
void kumo_blk_queue_stop(KumoBlkQueue *queue);

/**
 * kumo_blk_queue_pause:
 * @deadline_us: of g_get_monotonic_time()
 *
 * Stops the queue so that it can go on with the same ring, with all done that was taken from it;
 * gives up when requests are still in flight at @deadline_us: the queue then goes on as if nothing
 * had been asked.
 *
 * Returns: TRUE when it is stopped, or FALSE with @error naming the disk.
 */
bool kumo_blk_queue_pause(KumoBlkQueue *queue, int64_t deadline_us, GError **error);

/* Where @config, which is to become the disk's own, lets the worker of queue @index run. Main
 * thread. */
bool kumo_blk_queue_bind(KumoBlkQueue *queue, const KumoDiskConfig *config, unsigned index,
                         GError **error);

/* Of a stopped queue: first prepare, which may fail, for all queues; then the limiter for each. */
bool kumo_blk_queue_prepare_limiter(KumoBlkQueue *queue, const KumoRateLimiter *limiter,
                                    GError **error);
void kumo_blk_queue_set_limiter(KumoBlkQueue *queue, KumoRateLimiter *limiter);

const KumoBlkQueueStats *kumo_blk_queue_stats(const KumoBlkQueue *queue);
const char *kumo_blk_queue_engine_name(const KumoBlkQueue *queue);
