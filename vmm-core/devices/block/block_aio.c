/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine of Linux AIO, by its system calls: for kernels without io_uring and for hosts that
 * forbid it. A batch is one system call. With O_DIRECT it is asynchronous; what goes through the
 * page cache is done by the time it is submitted, which the engine's user need not care about.
 * Deallocation is no operation of AIO and is done on the worker.
 */
#include "vmm-core/devices/block/block_engine.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

enum {
    REAP_BATCH = 64,
    SUBMIT_TRIES = 1000,
    SUBMIT_PAUSE_US = 1000,
    /* The kernel's completion ring, which a context's id points to. */
    RING_MAGIC = 0xa10a10a1,
};

typedef struct {
    uint32_t id, nr;
    uint32_t head, tail;
    uint32_t magic;
} CompletionRing;

typedef struct {
    KumoBlockOp *op;
    int64_t result;
} Done;

typedef struct {
    KumoBlockEngine engine;
    aio_context_t context;
    int fd;
    unsigned depth;
    KumoBlockDoneFunc done;
    void *opaque;
    struct iocb *iocbs, **free_iocbs, **batch; /* depth of each */
    unsigned n_free, n_batch;
    Done *finished; /* a ring of depth: what was done without the kernel's queue */
    unsigned finished_first, n_finished;
    unsigned outstanding; /* in the kernel */
} AioEngine;

static long aio_setup(unsigned depth, aio_context_t *context)
{
    return syscall(SYS_io_setup, depth, context);
}

static long aio_submit(AioEngine *aio, struct iocb **iocbs, unsigned n)
{
    return syscall(SYS_io_submit, aio->context, (long)n, iocbs);
}

static long aio_getevents(AioEngine *aio, long min, struct io_event *events,
                          struct timespec *timeout)
{
    return syscall(SYS_io_getevents, aio->context, min, (long)REAP_BATCH, events, timeout);
}

static KumoBlockEngine *aio_create(int fd, unsigned depth, KumoBlockDoneFunc done, void *opaque,
                                   GError **error)
{
    g_autofree AioEngine *aio = g_new0(AioEngine, 1);
    kumo_auto_fd wait_fd = kumo_eventfd_new(error);

    if (wait_fd < 0)
        return NULL;
    if (aio_setup(depth, &aio->context) < 0) {
        kumo_set_error_errno(error, errno, "Linux AIO of %u operations", depth);
        return NULL;
    }
    aio->engine = (KumoBlockEngine){ .ops = &kumo_block_aio, .wait_fd = kumo_fd_steal(&wait_fd) };
    aio->fd = fd;
    aio->depth = depth;
    aio->done = done;
    aio->opaque = opaque;
    aio->iocbs = g_new0(struct iocb, depth);
    aio->free_iocbs = g_new(struct iocb *, depth);
    aio->batch = g_new(struct iocb *, depth);
    aio->finished = g_new(Done, depth);
    for (unsigned i = 0; i < depth; i++)
        aio->free_iocbs[aio->n_free++] = &aio->iocbs[i];
    return &g_steal_pointer(&aio)->engine;
}

static void aio_free(KumoBlockEngine *engine)
{
    AioEngine *aio = (AioEngine *)engine;

    syscall(SYS_io_destroy, aio->context);
    kumo_fd_clear(&engine->wait_fd);
    g_free(aio->iocbs);
    g_free(aio->free_iocbs);
    g_free(aio->batch);
    g_free(aio->finished);
    g_free(aio);
}

static void aio_run_here(AioEngine *aio, KumoBlockOp *op)
{
    Done *done = &aio->finished[(aio->finished_first + aio->n_finished++) % aio->depth];

    done->op = op;
    done->result = kumo_block_sync_run(aio->fd, op);
}

static void aio_queue(KumoBlockEngine *engine, KumoBlockOp *op)
{
    AioEngine *aio = (AioEngine *)engine;
    struct iocb *iocb;

    if (op->type == KUMO_BLOCK_OP_PUNCH_HOLE || op->type == KUMO_BLOCK_OP_ZERO_RANGE) {
        aio_run_here(aio, op);
        return;
    }
    iocb = aio->free_iocbs[--aio->n_free];
    *iocb = (struct iocb){
        .aio_data = (uintptr_t)op,
        .aio_fildes = (uint32_t)aio->fd,
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = (uint32_t)engine->wait_fd,
    };
    if (op->type == KUMO_BLOCK_OP_FLUSH) {
        iocb->aio_lio_opcode = IOCB_CMD_FDSYNC;
    } else {
        bool write = op->type == KUMO_BLOCK_OP_WRITE;

        if (op->n_iov == 1) {
            iocb->aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            iocb->aio_buf = (uintptr_t)op->iov->iov_base;
            iocb->aio_nbytes = op->iov->iov_len;
        } else {
            iocb->aio_lio_opcode = write ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV;
            iocb->aio_buf = (uintptr_t)op->iov;
            iocb->aio_nbytes = op->n_iov;
        }
        iocb->aio_offset = (int64_t)op->offset;
        iocb->aio_rw_flags = write && op->dsync ? RWF_DSYNC : 0;
    }
    aio->batch[aio->n_batch++] = iocb;
}

static void aio_submit_batch(KumoBlockEngine *engine)
{
    AioEngine *aio = (AioEngine *)engine;
    unsigned at = 0, tries = 0;

    while (at < aio->n_batch) {
        long n = aio_submit(aio, aio->batch + at, aio->n_batch - at);

        if (n > 0) {
            at += (unsigned)n;
            aio->outstanding += (unsigned)n;
        } else if (n < 0 && errno == EAGAIN && tries++ < SUBMIT_TRIES) {
            /* The kernel is short of memory. */
            g_usleep(SUBMIT_PAUSE_US);
        } else if (n == 0 || errno != EINTR) {
            /* The first one is refused: a flag or an operation that this kernel or file does not
             * do asynchronously, or a range that is wrong, which comes out either way. */
            aio_run_here(aio, (KumoBlockOp *)(uintptr_t)aio->batch[at]->aio_data);
            aio->free_iocbs[aio->n_free++] = aio->batch[at++];
        }
    }
    aio->n_batch = 0;
}

/* Saves the system call when nothing is done. */
static bool aio_ring_empty(const AioEngine *aio)
{
    const CompletionRing *ring = (const CompletionRing *)(uintptr_t)aio->context;

    return ring->magic == RING_MAGIC && __atomic_load_n(&ring->head, __ATOMIC_RELAXED) ==
                                            __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}

static void aio_reap_finished(AioEngine *aio)
{
    while (aio->n_finished) {
        Done done = aio->finished[aio->finished_first];

        aio->finished_first = (aio->finished_first + 1) % aio->depth;
        aio->n_finished--;
        aio->done(aio->opaque, done.op, done.result);
    }
}

static void aio_reap(KumoBlockEngine *engine, int timeout_ms)
{
    AioEngine *aio = (AioEngine *)engine;
    struct timespec timeout = { .tv_sec = timeout_ms / 1000,
                                .tv_nsec = (long)(timeout_ms % 1000) * 1000000 };
    bool wait = timeout_ms != 0 && !aio->n_finished;

    aio_reap_finished(aio);
    while (aio->outstanding && (wait || !aio_ring_empty(aio))) {
        struct io_event events[REAP_BATCH];
        long n = aio_getevents(aio, wait ? 1 : 0, events, timeout_ms < 0 ? NULL : &timeout);

        wait = false;
        if (n <= 0)
            break;
        aio->outstanding -= (unsigned)n;
        for (long i = 0; i < n; i++)
            aio->free_iocbs[aio->n_free++] = (struct iocb *)(uintptr_t)events[i].obj;
        for (long i = 0; i < n; i++)
            aio->done(aio->opaque, (KumoBlockOp *)(uintptr_t)events[i].data, events[i].res);
    }
}

const KumoBlockEngineOps kumo_block_aio = {
    .name = "aio",
    .create = aio_create,
    .free = aio_free,
    .queue = aio_queue,
    .submit = aio_submit_batch,
    .reap = aio_reap,
};
