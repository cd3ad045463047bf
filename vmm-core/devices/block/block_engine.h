/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a queue's worker gets data to and from a disk's file. An engine belongs to one thread: made,
 * used and freed there. It knows nothing of virtio; what is short, odd or refused is its caller's
 * affair.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

typedef enum {
    KUMO_BLOCK_OP_READ,
    KUMO_BLOCK_OP_WRITE,
    KUMO_BLOCK_OP_FLUSH,
    KUMO_BLOCK_OP_PUNCH_HOLE, /* deallocate; reads as zero afterwards */
    KUMO_BLOCK_OP_ZERO_RANGE, /* reads as zero, stays allocated */
} KumoBlockOpType;

/* One operation, embedded in the caller's request. It and what @iov points to stay until it is
 * done. */
typedef struct {
    KumoBlockOpType type;
    bool dsync; /* WRITE: on stable storage before it is done */
    const struct iovec *iov;
    unsigned n_iov;
    uint64_t offset; /* bytes */
    uint64_t len;    /* bytes, of PUNCH_HOLE and ZERO_RANGE */
} KumoBlockOp;

/* @result: bytes transferred, 0 for the others, or a negative errno. May queue further operations.
 */
typedef void (*KumoBlockDoneFunc)(void *opaque, KumoBlockOp *op, int64_t result);

typedef struct KumoBlockEngineOps KumoBlockEngineOps;

typedef struct {
    const KumoBlockEngineOps *ops;
    /* Eventfd, signalled when operations are done and reap should be called; to be watched with
     * EPOLLET and not read. -1: reap right after submit. */
    int wait_fd;
} KumoBlockEngine;

struct KumoBlockEngineOps {
    const char *name;
    /**
     * create:
     * @depth: operations outstanding at a time, at most; the caller keeps to it
     *
     * Returns: (transfer full): or NULL with @error; NOT_SUPPORTED and DENIED say that another
     * engine may do.
     */
    KumoBlockEngine *(*create)(int fd, unsigned depth, KumoBlockDoneFunc done, void *opaque,
                               GError **error);
    /* On the thread that is going to use the engine, before anything is queued; any other may have
     * made it. NULL: nothing to do. */
    bool (*start)(KumoBlockEngine *engine, GError **error);
    /* On any thread. Nothing may be outstanding. */
    void (*free)(KumoBlockEngine *engine);
    /* Adds to the batch. */
    void (*queue)(KumoBlockEngine *engine, KumoBlockOp *op);
    /* Starts the batch. */
    void (*submit)(KumoBlockEngine *engine);
    /* Calls back for what is done. Waits for something to be done at most @timeout_ms, 0: not at
     * all, -1: as long as it takes; provided something is outstanding. May return early. */
    void (*reap)(KumoBlockEngine *engine, int timeout_ms);
};

extern const KumoBlockEngineOps kumo_block_uring;
extern const KumoBlockEngineOps kumo_block_aio;
extern const KumoBlockEngineOps kumo_block_sync;

typedef enum {
    KUMO_BLOCK_ENGINE_URING,
    KUMO_BLOCK_ENGINE_AIO,
    KUMO_BLOCK_ENGINE_SYNC,
} KumoBlockEngineKind;

/**
 * kumo_block_engine_new:
 * @forbidden: engines not to be tried, bits 1 << KumoBlockEngineKind
 *
 * The best engine that this host has: io_uring, Linux AIO, or plain system calls. The other
 * parameters are those of create.
 *
 * Returns: (transfer full): or NULL with @error set.
 */
KumoBlockEngine *kumo_block_engine_new(unsigned forbidden, int fd, unsigned depth,
                                       KumoBlockDoneFunc done, void *opaque, GError **error);

/* Does @op at once. Returns: as KumoBlockDoneFunc has it. */
int64_t kumo_block_sync_run(int fd, const KumoBlockOp *op);
