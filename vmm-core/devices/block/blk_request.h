/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A queue of a disk between its two halves: the worker (blk_queue.c), and what becomes of one
 * request (blk_request.c). Everything on the worker's thread. */
#pragma once

#include "vmm-core/base/idle_poll.h"
#include "vmm-core/base/throttle.h"
#include "vmm-core/devices/block/blk_held.h"
#include "vmm-core/devices/block/blk_queue.h"

enum {
    KUMO_BLK_BOUNCE_BUFFERS = 4,
    KUMO_BLK_BOUNCE_BYTES = 256 * 1024,
};

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
    uint32_t type;        /* VIRTIO_BLK_T_* */
    uint64_t sector;      /* as the guest said */
    KumoBlkHeldItem held; /* while it waits for a limiter of its direction */
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
    uint8_t *bounce_free[KUMO_BLK_BOUNCE_BUFFERS];
    unsigned n_bounce_free;

    KumoVirtq *virtq; /* NULL while stopped */
    KumoLoopSource *kick_source, *engine_source;
    BlkRequest *free_list;
    BlkRequest *bounce_waiters, **bounce_waiters_tail;
    unsigned in_flight;
    bool queued; /* operations wait for engine submit */
    bool broken;
    KumoIdlePoll idle_poll;
    KumoThrottle throttle;               /* while it waits nothing is taken from the ring */
    KumoBlkHeld held_reads, held_writes; /* with limits of a direction only; not yet in flight */
    KumoBlkQueueStats stats;
};

/* Nothing more is taken from the ring. */
void kumo_blk_queue_break(KumoBlkQueue *queue, const char *why);

/* Do requests of one direction go on while those of the other wait? */
static inline bool kumo_blk_queue_is_split(const KumoBlkQueue *queue)
{
    return G_UNLIKELY(queue->held_reads.throttle.limiter != NULL);
}

/**
 * kumo_blk_request_begin:
 * @request: whose chain was taken from the ring
 *
 * Returns: FALSE if it was not begun: the chain is no request at all and the device is broken, or
 *     it has to wait for the rate limiter and is in the ring again.
 */
bool kumo_blk_request_begin(KumoBlkQueue *queue, BlkRequest *request);

/* Begins one that was held. */
void kumo_blk_request_start_held(void *queue, KumoBlkHeldItem *item);

/* Forgets one that was held, unanswered. */
void kumo_blk_request_drop_held(void *queue, KumoBlkHeldItem *item);

/* An operation of the engine has ended; a KumoBlockDoneFunc. */
void kumo_blk_request_op_done(void *queue, KumoBlockOp *op, int64_t result);
