/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The io_uring engine. One ring per queue, made for the queue's worker, which alone uses it. A
 * batch is one system call. An eventfd wakes the worker's epoll when something is done: polling the
 * ring itself misses completions while their work is deferred.
 */
#include "vmm-core/devices/block/block_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum {
    SUBMIT_TRIES = 1000,
    SUBMIT_PAUSE_US = 1000,
};

typedef struct {
    KumoBlockEngine engine;
    struct io_uring ring;
    int fd;
    bool fixed_file; /* @fd is registered as file 0 */
    bool deferred;   /* completions are only run when we enter the kernel for them */
    bool disabled;   /* until it is started */
    unsigned outstanding;
    KumoBlockDoneFunc done;
    void *opaque;
} UringEngine;

static const uint8_t operations[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ,
                                      IORING_OP_WRITE, IORING_OP_FSYNC,  IORING_OP_FALLOCATE };

/* The best set-up that this kernel knows. Completion work then runs in our own system calls, not in
 * interrupts of them. */
static int ring_init(UringEngine *uring, unsigned depth)
{
    static const unsigned flags[] = {
        IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG, /* Linux 6.1 */
        IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* 5.19 */
        IORING_SETUP_R_DISABLED,                                                         /* 5.10 */
        0,
    };
    int result = -EINVAL;

    for (size_t i = 0; i < G_N_ELEMENTS(flags) && result == -EINVAL; i++) {
        struct io_uring_params params = { .flags = flags[i] | IORING_SETUP_CLAMP };

        result = io_uring_queue_init_params(depth, &uring->ring, &params);
        uring->deferred = flags[i] & IORING_SETUP_TASKRUN_FLAG;
        uring->disabled = flags[i] & IORING_SETUP_R_DISABLED;
        if (result == 0 && !(params.features & IORING_FEAT_NODROP)) {
            io_uring_queue_exit(&uring->ring);
            result = -ENOSYS;
        }
    }
    return result;
}

/* Everything used here is there from Linux 5.6 on; ask, since a sandbox may have cut it down. */
static bool ring_has_ops(UringEngine *uring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(&uring->ring);
    bool ok = probe != NULL;

    for (size_t i = 0; ok && i < G_N_ELEMENTS(operations); i++)
        ok = io_uring_opcode_supported(probe, operations[i]);
    io_uring_free_probe(probe);
    return ok;
}

/* Not all releases of liburing export its functions for these. Returns: 0 or a negative errno. */
static int ring_register(struct io_uring *ring, unsigned opcode, const void *argument, unsigned n)
{
    return syscall(SYS_io_uring_register, ring->ring_fd, opcode, argument, n) < 0 ? -errno : 0;
}

void kumo_block_uring_restrict(struct io_uring *ring, bool fixed_file)
{
    struct io_uring_restriction list[G_N_ELEMENTS(operations) + 2];
    unsigned n = 0;
    int result = 0;

    memset(list, 0, sizeof(list));
    for (size_t i = 0; i < G_N_ELEMENTS(operations); i++) {
        list[n].opcode = IORING_RESTRICTION_SQE_OP;
        list[n++].sqe_op = operations[i];
    }
    list[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    list[n++].sqe_flags = IOSQE_FIXED_FILE;
    if (fixed_file) {
        list[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
        list[n++].sqe_flags = IOSQE_FIXED_FILE;
    }
    /* Before Linux 5.11, liburing makes a timeout by an operation. */
    if (ring->features & IORING_FEAT_EXT_ARG)
        result = ring_register(ring, IORING_REGISTER_RESTRICTIONS, list, n);
    if (result < 0)
        kumo_debug("io_uring: restrictions: %s", g_strerror(-result));
}

int kumo_block_uring_enable(struct io_uring *ring)
{
    return ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static KumoBlockEngine *uring_create(int fd, unsigned depth, KumoBlockDoneFunc done, void *opaque,
                                     GError **error)
{
    g_autofree UringEngine *uring = g_new0(UringEngine, 1);
    kumo_auto_fd wait_fd = kumo_eventfd_new(error);
    int result;

    if (wait_fd < 0)
        return NULL;
    result = ring_init(uring, depth);
    if (result < 0) {
        kumo_set_error_errno(error, -result, "io_uring of %u entries", depth);
        return NULL;
    }
    result = ring_has_ops(uring) ? io_uring_register_eventfd(&uring->ring, wait_fd) : -EOPNOTSUPP;
    if (result < 0) {
        io_uring_queue_exit(&uring->ring);
        kumo_set_error_errno(error, -result, "operations of io_uring");
        return NULL;
    }
    /* Saves looking the descriptor up for every operation; not vital. */
    uring->fixed_file = io_uring_register_files(&uring->ring, &fd, 1) == 0;
    if (uring->disabled)
        kumo_block_uring_restrict(&uring->ring, uring->fixed_file);
    uring->engine =
        (KumoBlockEngine){ .ops = &kumo_block_uring, .wait_fd = kumo_fd_steal(&wait_fd) };
    uring->fd = fd;
    uring->done = done;
    uring->opaque = opaque;
    return &g_steal_pointer(&uring)->engine;
}

static bool uring_start(KumoBlockEngine *engine, GError **error)
{
    UringEngine *uring = (UringEngine *)engine;
    int result = uring->disabled ? kumo_block_uring_enable(&uring->ring) : 0;

    if (result < 0)
        kumo_set_error_errno(error, -result, "io_uring: enabling");
    return result >= 0;
}

static void uring_free(KumoBlockEngine *engine)
{
    UringEngine *uring = (UringEngine *)engine;

    io_uring_queue_exit(&uring->ring);
    kumo_fd_clear(&engine->wait_fd);
    g_free(uring);
}

/* One buffer: the kernel need not fetch a vector. */
static bool op_is_simple(const KumoBlockOp *op)
{
    return op->n_iov == 1 && op->iov->iov_len <= G_MAXINT;
}

static void uring_queue(KumoBlockEngine *engine, KumoBlockOp *op)
{
    UringEngine *uring = (UringEngine *)engine;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    int fd = uring->fixed_file ? 0 : uring->fd;

    if (!sqe) {
        /* Full although the caller keeps to the depth: the ring was clamped. Make room. */
        engine->ops->submit(engine);
        sqe = io_uring_get_sqe(&uring->ring);
        if (!sqe) {
            uring->done(uring->opaque, op, -EIO);
            return;
        }
    }
    switch (op->type) {
    case KUMO_BLOCK_OP_READ:
        if (op_is_simple(op))
            io_uring_prep_read(sqe, fd, op->iov->iov_base, (unsigned)op->iov->iov_len, op->offset);
        else
            io_uring_prep_readv(sqe, fd, op->iov, op->n_iov, op->offset);
        break;
    case KUMO_BLOCK_OP_WRITE:
        if (op_is_simple(op))
            io_uring_prep_write(sqe, fd, op->iov->iov_base, (unsigned)op->iov->iov_len, op->offset);
        else
            io_uring_prep_writev(sqe, fd, op->iov, op->n_iov, op->offset);
        sqe->rw_flags = op->dsync ? RWF_DSYNC : 0;
        break;
    case KUMO_BLOCK_OP_FLUSH:
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
        break;
    case KUMO_BLOCK_OP_PUNCH_HOLE:
        io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                (off_t)op->offset, (off_t)op->len);
        break;
    case KUMO_BLOCK_OP_ZERO_RANGE:
        io_uring_prep_fallocate(sqe, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                (off_t)op->offset, (off_t)op->len);
        break;
    }
    if (uring->fixed_file)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, op);
    uring->outstanding++;
}

static void uring_submit(KumoBlockEngine *engine)
{
    UringEngine *uring = (UringEngine *)engine;

    for (unsigned tries = 0; io_uring_sq_ready(&uring->ring) && tries < SUBMIT_TRIES; tries++) {
        int result = uring->deferred ? io_uring_submit_and_get_events(&uring->ring)
                                     : io_uring_submit(&uring->ring);

        if (result >= 0 || result == -EINTR)
            continue;
        /* The kernel is short of memory, or wants completions taken first; they wait in the ring
         * meanwhile. */
        kumo_debug("io_uring: submit: %s", g_strerror(-result));
        g_usleep(SUBMIT_PAUSE_US);
    }
    if (io_uring_sq_ready(&uring->ring))
        kumo_error("io_uring: %u operations cannot be submitted", io_uring_sq_ready(&uring->ring));
}

/* Are there completions that the kernel puts into the ring only when it is entered? Those that come
 * after this look signal the eventfd. */
static bool uring_deferred_work(const UringEngine *uring)
{
    return uring->deferred &&
           IO_URING_READ_ONCE(*uring->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void uring_reap(KumoBlockEngine *engine, int timeout_ms)
{
    UringEngine *uring = (UringEngine *)engine;
    struct io_uring_cqe *cqe;
    struct __kernel_timespec timeout = { .tv_sec = timeout_ms / 1000,
                                         .tv_nsec = timeout_ms % 1000 * 1000000LL };

    if (!uring->outstanding)
        return;
    if (timeout_ms < 0)
        io_uring_submit_and_wait(&uring->ring, 1);
    else if (timeout_ms > 0)
        io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &timeout, NULL);
    else if (!io_uring_cq_ready(&uring->ring) && uring_deferred_work(uring))
        io_uring_get_events(&uring->ring);
    while (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
        KumoBlockOp *op = io_uring_cqe_get_data(cqe);
        int result = cqe->res;

        io_uring_cqe_seen(&uring->ring, cqe);
        uring->outstanding--;
        uring->done(uring->opaque, op, result);
    }
}

const KumoBlockEngineOps kumo_block_uring = {
    .name = "io_uring",
    .create = uring_create,
    .start = uring_start,
    .free = uring_free,
    .queue = uring_queue,
    .submit = uring_submit,
    .reap = uring_reap,
};
