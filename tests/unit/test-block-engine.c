/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <seccomp.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-core/base/fd.h"
#include "vmm-core/devices/block/block_uring.h"

enum { DEPTH = 16, FILE_BYTES = 1 << 20, NO_URING = 1 << KUMO_BLOCK_ENGINE_URING };

typedef struct {
    int fd;
    KumoBlockEngine *engine;
    unsigned n_done;
    KumoBlockOp *last;
    int64_t result;
} Fixture;

static void on_done(void *opaque, KumoBlockOp *op, int64_t result)
{
    Fixture *f = opaque;

    f->n_done++;
    f->last = op;
    f->result = result;
}

static int make_file(void)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("kumo-engine-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(ftruncate(fd, FILE_BYTES), ==, 0);
    return fd;
}

static void start_engine(KumoBlockEngine *engine)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(!engine->ops->start || engine->ops->start(engine, &error));
    g_assert_no_error(error);
}

static void setup(Fixture *f, gconstpointer data)
{
    const KumoBlockEngineOps *ops = data;
    g_autoptr(GError) error = NULL;

    f->fd = make_file();
    f->engine = ops->create(f->fd, DEPTH, on_done, f, &error);
    if (error)
        g_test_message("%s", error->message);
    else
        start_engine(f->engine);
}

static void teardown(Fixture *f, gconstpointer data)
{
    if (f->engine)
        f->engine->ops->free(f->engine);
    kumo_fd_clear(&f->fd);
}

static bool skipped(const Fixture *f)
{
    if (!f->engine)
        g_test_skip("this host does not have the engine");
    return !f->engine;
}

static int64_t run(Fixture *f, KumoBlockOp *op)
{
    unsigned before = f->n_done;

    f->engine->ops->queue(f->engine, op);
    f->engine->ops->submit(f->engine);
    while (f->n_done == before)
        f->engine->ops->reap(f->engine, -1);
    g_assert_cmpuint(f->n_done, ==, before + 1);
    g_assert_true(f->last == op);
    return f->result;
}

static void test_operations(Fixture *f, gconstpointer data)
{
    g_autofree char *buf = g_malloc(8192), *back = g_malloc(8192);
    struct iovec iov[2] = { { buf, 4096 }, { buf + 4096, 4096 } }, in = { back, 8192 };
    KumoBlockOp write = { .type = KUMO_BLOCK_OP_WRITE, .iov = iov, .n_iov = 2, .offset = 4096 };
    KumoBlockOp read = { .type = KUMO_BLOCK_OP_READ, .iov = &in, .n_iov = 1, .offset = 4096 };
    KumoBlockOp flush = { .type = KUMO_BLOCK_OP_FLUSH };
    KumoBlockOp zero = { .type = KUMO_BLOCK_OP_ZERO_RANGE, .offset = 4096, .len = 4096 };
    KumoBlockOp punch = { .type = KUMO_BLOCK_OP_PUNCH_HOLE, .offset = 8192, .len = 4096 };
    int64_t result;

    if (skipped(f))
        return;
    memset(buf, 0x5a, 8192);
    for (unsigned i = 0; i < 2; i++) {
        write.dsync = i != 0;
        g_assert_cmpint(run(f, &write), ==, 8192);
        memset(back, 0, 8192);
        g_assert_cmpint(run(f, &read), ==, 8192);
        g_assert_cmpmem(back, 8192, buf, 8192);
    }
    g_assert_cmpint(run(f, &flush), ==, 0);
    result = run(f, &zero);
    if (result == 0) {
        g_assert_cmpint(pread(f->fd, back, 1, 4096), ==, 1);
        g_assert_cmpint(back[0], ==, 0);
    } else {
        g_assert_cmpint(result, ==, -EOPNOTSUPP);
    }
    g_assert_cmpint(run(f, &punch), ==, 0);
    g_assert_cmpint(pread(f->fd, back, 1, 8192), ==, 1);
    g_assert_cmpint(back[0], ==, 0);
    /* At the end of the file, beyond it, and where there cannot be any. */
    read.offset = FILE_BYTES - 512;
    g_assert_cmpint(run(f, &read), ==, 512);
    read.offset = FILE_BYTES;
    g_assert_cmpint(run(f, &read), ==, 0);
    read.offset = (uint64_t)G_MAXINT64 + 1;
    g_assert_cmpint(run(f, &read), ==, -EINVAL);
}

/* As many as the depth allows, in one batch, again and again. */
static void test_batches(Fixture *f, gconstpointer data)
{
    uint8_t bytes[DEPTH], back[DEPTH];
    struct iovec iov[DEPTH];
    KumoBlockOp ops[DEPTH];

    if (skipped(f))
        return;
    for (unsigned round = 0; round < 20; round++) {
        bool write = round % 2 == 0;
        struct pollfd pfd = { .fd = f->engine->wait_fd, .events = POLLIN };

        f->n_done = 0;
        for (unsigned i = 0; i < DEPTH; i++) {
            bytes[i] = (uint8_t)(round / 2 + i);
            iov[i] = (struct iovec){ write ? &bytes[i] : &back[i], 1 };
            ops[i] = (KumoBlockOp){ .type = write ? KUMO_BLOCK_OP_WRITE : KUMO_BLOCK_OP_READ,
                                    .iov = &iov[i],
                                    .n_iov = 1,
                                    .offset = i * 1000 };
            f->engine->ops->queue(f->engine, &ops[i]);
        }
        f->engine->ops->submit(f->engine);
        while (f->n_done < DEPTH) {
            if (f->engine->wait_fd >= 0)
                g_assert_cmpint(poll(&pfd, 1, 10000), ==, 1);
            f->engine->ops->reap(f->engine, 0);
        }
        if (!write)
            g_assert_cmpmem(back, DEPTH, bytes, DEPTH);
    }
    /* With nothing outstanding it returns at once, whatever it may wait for. */
    f->engine->ops->reap(f->engine, -1);
    g_assert_cmpuint(f->n_done, ==, DEPTH);
}

static void test_wait_bound(Fixture *f, gconstpointer data)
{
    int pipe_fds[2];
    char byte;
    struct iovec iov = { &byte, 1 };
    KumoBlockOp op = { .type = KUMO_BLOCK_OP_READ, .iov = &iov, .n_iov = 1 };
    g_autoptr(GError) error = NULL;
    KumoBlockEngine *engine;
    int64_t start_us;

    if (skipped(f))
        return;
    g_assert_cmpint(pipe(pipe_fds), ==, 0);
    engine = f->engine->ops->create(pipe_fds[0], DEPTH, on_done, f, &error);
    g_assert_no_error(error);
    start_engine(engine);
    engine->ops->queue(engine, &op);
    engine->ops->submit(engine);
    start_us = g_get_monotonic_time();
    engine->ops->reap(engine, 50);
    g_assert_cmpuint(f->n_done, ==, 0);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 45000);
    g_assert_cmpint(write(pipe_fds[1], "x", 1), ==, 1);
    while (!f->n_done)
        engine->ops->reap(engine, 10000);
    engine->ops->free(engine);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static const char *chosen(unsigned forbidden)
{
    kumo_auto_fd fd = make_file();
    g_autoptr(GError) error = NULL;
    Fixture f = { .fd = -1 };
    KumoBlockEngine *engine = kumo_block_engine_new(forbidden, fd, DEPTH, on_done, &f, &error);
    const char *name;

    g_assert_no_error(error);
    name = engine->ops->name;
    engine->ops->free(engine);
    return name;
}

static void test_forbidden(void)
{
    g_assert_cmpstr(chosen(NO_URING), ==, "aio");
    g_assert_cmpstr(chosen(NO_URING | 1 << KUMO_BLOCK_ENGINE_AIO), ==, "sync");
}

/* In a process of its own: a host, or a sandbox, without the system call @name. */
static void forbid(const char *name, unsigned action)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

    g_assert_cmpint(seccomp_rule_add(filter, action, seccomp_syscall_resolve_name(name), 0), ==, 0);
    g_assert_cmpint(seccomp_load(filter), ==, 0);
    seccomp_release(filter);
}

static void test_fallback(void)
{
    if (g_test_subprocess()) {
        forbid("io_uring_setup", SCMP_ACT_ERRNO(ENOSYS));
        g_assert_cmpstr(chosen(0), ==, "aio");
        /* Found out once: it is not even tried again. */
        forbid("io_uring_setup", SCMP_ACT_KILL_PROCESS);
        g_assert_cmpstr(chosen(0), ==, "aio");
        forbid("io_setup", SCMP_ACT_ERRNO(EPERM));
        g_assert_cmpstr(chosen(0), ==, "sync");
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_passed();
}

/* Returns: what the operation gives; a ring of its own, to do what an engine does not. */
static int ask_ring(struct io_uring *ring, uint8_t operation, int fd, unsigned flags)
{
    static char buffer[512];
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe = NULL;
    int result;

    io_uring_prep_rw(operation, sqe, fd, buffer, sizeof(buffer), 0);
    sqe->flags = (uint8_t)flags;
    g_assert_cmpint(io_uring_submit_and_wait(ring, 1), ==, 1);
    g_assert_cmpint(io_uring_peek_cqe(ring, &cqe), ==, 0);
    result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result;
}

/* A ring reads the file that it was given, and does nothing else that the kernel can do. */
static void test_restricted(Fixture *f, gconstpointer data)
{
    struct io_uring ring;
    struct io_uring_probe *probe;

    if (skipped(f))
        return;
    for (unsigned fixed = 0; fixed < 2; fixed++) {
        if (io_uring_queue_init(DEPTH, &ring, IORING_SETUP_R_DISABLED) < 0) {
            g_test_skip("this kernel cannot restrict rings");
            return;
        }
        if (fixed)
            g_assert_cmpint(io_uring_register_files(&ring, &f->fd, 1), ==, 0);
        kumo_block_uring_restrict(&ring, fixed);
        g_assert_cmpint(kumo_block_uring_enable(&ring), ==, 0);
        g_assert_cmpint(
            ask_ring(&ring, IORING_OP_READ, fixed ? 0 : f->fd, fixed ? IOSQE_FIXED_FILE : 0), ==,
            512);
        if (fixed)
            g_assert_cmpint(ask_ring(&ring, IORING_OP_READ, f->fd, 0), ==, -EACCES);
        g_assert_cmpint(
            ask_ring(&ring, IORING_OP_NOP, fixed ? 0 : -1, fixed ? IOSQE_FIXED_FILE : 0), ==,
            -EACCES);
        g_assert_cmpint(ask_ring(&ring, IORING_OP_OPENAT, AT_FDCWD, 0), ==, -EACCES);
        g_assert_cmpint(ask_ring(&ring, IORING_OP_CONNECT, f->fd, 0), ==, -EACCES);
        g_assert_cmpint(ask_ring(&ring, IORING_OP_READ, f->fd, IOSQE_ASYNC), ==, -EACCES);
        probe = io_uring_get_probe_ring(&ring);
        g_assert_null(probe); /* nothing can be registered any more, either */
        io_uring_queue_exit(&ring);
    }
}

/* And so do the rings of the engine: of those that this process has, there is one. */
static void test_engine_restricted(Fixture *f, gconstpointer data)
{
    unsigned rings = 0;

    if (skipped(f))
        return;
    for (int fd = 3; fd < 64; fd++) {
        g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
        g_autofree char *link = g_file_read_link(path, NULL);

        if (g_strcmp0(link, "anon_inode:[io_uring]") != 0)
            continue;
        rings++;
        g_assert_cmpint(syscall(SYS_io_uring_register, fd, IORING_UNREGISTER_EVENTFD, NULL, 0), ==,
                        -1);
        g_assert_cmpint(errno, ==, EACCES);
    }
    g_assert_cmpuint(rings, ==, 1);
}

static void add(const char *name, const KumoBlockEngineOps *ops,
                void (*test)(Fixture *, gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/block-engine/%s/%s", ops->name, name);

    g_test_add(path, Fixture, ops, setup, test, teardown);
}

int main(int argc, char **argv)
{
    static const KumoBlockEngineOps *const engines[] = { &kumo_block_uring, &kumo_block_aio,
                                                         &kumo_block_sync };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        add("operations", engines[i], test_operations);
        add("batches", engines[i], test_batches);
    }
    add("wait-bound", &kumo_block_uring, test_wait_bound);
    add("restricted", &kumo_block_uring, test_restricted);
    add("engine-restricted", &kumo_block_uring, test_engine_restricted);
    g_test_add_func("/block-engine/forbidden", test_forbidden);
    g_test_add_func("/block-engine/fallback", test_fallback);
    return g_test_run();
}
