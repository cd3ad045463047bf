/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine that always works: plain system calls on the worker, one after another. */
#include "vmm-core/devices/block/block_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

typedef struct {
    KumoBlockEngine engine;
    int fd;
    KumoBlockDoneFunc done;
    void *opaque;
    unsigned depth, first, count;
    KumoBlockOp *pending[]; /* a ring of @depth */
} SyncEngine;

static KumoBlockEngine *sync_create(int fd, unsigned depth, KumoBlockDoneFunc done, void *opaque,
                                    GError **error)
{
    SyncEngine *sync = g_malloc0(sizeof(*sync) + depth * sizeof(sync->pending[0]));

    sync->engine = (KumoBlockEngine){ .ops = &kumo_block_sync, .wait_fd = -1 };
    sync->fd = fd;
    sync->done = done;
    sync->opaque = opaque;
    sync->depth = depth;
    return &sync->engine;
}

static void sync_free(KumoBlockEngine *engine)
{
    g_free(engine);
}

static void sync_queue(KumoBlockEngine *engine, KumoBlockOp *op)
{
    SyncEngine *sync = (SyncEngine *)engine;

    sync->pending[(sync->first + sync->count++) % sync->depth] = op;
}

static void sync_submit(KumoBlockEngine *engine)
{
}

static int64_t sync_write(int fd, const KumoBlockOp *op)
{
    ssize_t n = pwritev2(fd, op->iov, (int)op->n_iov, (off_t)op->offset, op->dsync ? RWF_DSYNC : 0);

    if (n < 0 && errno == EOPNOTSUPP && op->dsync) {
        n = pwritev(fd, op->iov, (int)op->n_iov, (off_t)op->offset);
        if (n >= 0 && fdatasync(fd) < 0)
            n = -1;
    }
    return n;
}

int64_t kumo_block_sync_run(int fd, const KumoBlockOp *op)
{
    int64_t result = -1;

    errno = EINVAL;
    switch (op->type) {
    case KUMO_BLOCK_OP_READ:
        result = preadv(fd, op->iov, (int)op->n_iov, (off_t)op->offset);
        break;
    case KUMO_BLOCK_OP_WRITE:
        result = sync_write(fd, op);
        break;
    case KUMO_BLOCK_OP_FLUSH:
        result = fdatasync(fd);
        break;
    case KUMO_BLOCK_OP_PUNCH_HOLE:
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)op->offset,
                           (off_t)op->len);
        break;
    case KUMO_BLOCK_OP_ZERO_RANGE:
        result = fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)op->offset,
                           (off_t)op->len);
        break;
    }
    return result < 0 ? -errno : result;
}

static void sync_reap(KumoBlockEngine *engine, int timeout_ms)
{
    SyncEngine *sync = (SyncEngine *)engine;

    while (sync->count) {
        KumoBlockOp *op = sync->pending[sync->first];

        sync->first = (sync->first + 1) % sync->depth;
        sync->count--;
        sync->done(sync->opaque, op, kumo_block_sync_run(sync->fd, op));
    }
}

const KumoBlockEngineOps kumo_block_sync = {
    .name = "sync",
    .create = sync_create,
    .free = sync_free,
    .queue = sync_queue,
    .submit = sync_submit,
    .reap = sync_reap,
};
