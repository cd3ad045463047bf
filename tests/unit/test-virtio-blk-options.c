/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/fakes/disk_fixture.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option.h"
#include "vmm-core/devices/block/blk_queue.h"

/* What reaches the host's stable storage: the C library's functions, counted on their way. */
static _Atomic unsigned n_flushes, n_safe_writes, n_writes;

int fdatasync(int fd)
{
    n_flushes++;
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n_iov, off_t offset, int flags)
{
    n_writes++;
    n_safe_writes += (flags & RWF_DSYNC) != 0;
    return (ssize_t)syscall(SYS_pwritev2, fd, iov, n_iov, offset, 0, flags);
}

static void set_writeback(KumoDiskFixture *f, uint8_t on)
{
    KumoVirtio *virtio = f->driver->virtio;

    virtio->ops->config_write(virtio, offsetof(struct virtio_blk_config, wce), &on, 1);
}

/* In write-through mode what is written is safe before it is done, and so is what was before. */
static void test_write_through(KumoDiskFixture *f, gconstpointer data)
{
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    n_flushes = n_safe_writes = n_writes = 0;
    g_assert_cmpuint(disk_transfer(f, true, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(n_writes, ==, 1);
    g_assert_cmpuint(n_safe_writes + n_flushes, ==, 0);

    set_writeback(f, 0);
    g_assert_cmpuint(n_flushes, ==, 1);
    for (unsigned i = 1; i <= 3; i++) {
        g_assert_cmpuint(disk_transfer(f, true, 8, 4096), ==, VIRTIO_BLK_S_OK);
        g_assert_cmpuint(n_safe_writes, ==, i);
    }
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(n_flushes, ==, 2);
    set_writeback(f, 0); /* nothing new */
    g_assert_cmpuint(n_flushes, ==, 2);

    set_writeback(f, 1);
    g_assert_cmpuint(disk_transfer(f, true, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(n_safe_writes, ==, 3);
    g_assert_cmpuint(n_flushes, ==, 2);

    /* A driver that cannot flush has it all the time. */
    kumo_fake_driver_stop(f->driver);
    kumo_fake_driver_start(f->driver, ALL_FEATURES & ~FEATURE(VIRTIO_BLK_F_FLUSH), QUEUE_SIZE);
    g_assert_cmpuint(disk_transfer(f, true, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(n_safe_writes, ==, 4);
}

/* Ten operations at once, the others at 100 a second; the worker sleeps meanwhile. */
static void test_limit_ops(KumoDiskFixture *f, gconstpointer data)
{
    int64_t start_us;
    clock_t cpu;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    cpu = clock();
    disk_add_reads(f, 0, 10, 512);
    disk_wait_reads(f, 0, 10);
    disk_add_reads(f, 0, 30, 512);
    disk_wait_reads(f, 0, 30);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 295000);
    g_assert_cmpint(clock() - cpu, <, CLOCKS_PER_SEC / 10);
}

/* A megabyte in 100 ms. What is longer than that waits for a full bucket. All queues together. */
static void test_limit_bandwidth(KumoDiskFixture *f, gconstpointer data)
{
    int64_t start_us;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    for (unsigned q = 0; q < 4; q++)
        disk_add_reads(f, q, 8, 128 << 10);
    for (unsigned q = 0; q < 4; q++)
        disk_wait_reads(f, q, 8);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 295000);
}

/* What a pause or a reset found waiting goes on afterwards. */
static void test_limit_stop(KumoDiskFixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_add_reads(f, 0, 30, 512);
    disk_wait_reads(f, 0, 12);
    g_assert_true(device->ops->pause(device, NULL));
    device->ops->resume(device);
    disk_wait_reads(f, 0, 18);
    disk_add_reads(f, 0, 30, 512);
    kumo_fake_driver_stop(f->driver);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(disk_transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

/* Neither waits for the limiter, which lets the next request through in half a minute; and requests
 * without data are free where only bandwidth is limited. */
static void test_limit_no_wait(KumoDiskFixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    int64_t start_us = g_get_monotonic_time();

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_add_reads(f, 0, 1, 4096);
    disk_wait_reads(f, 0, 1);
    for (unsigned i = 0; i < 10; i++)
        g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL), ==,
                         VIRTIO_BLK_S_OK);
    disk_add_reads(f, 0, 5, 4096);
    g_assert_true(device->ops->pause(device, NULL));
    device->ops->resume(device);
    kumo_fake_driver_stop(f->driver);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 20000000);
}

/* Reads have to wait for half a minute each; writes and flushes behind them in the same queue do
 * not. Those that wait are done at a pause, and forgotten at a reset, without waiting. */
static void test_limit_direction(KumoDiskFixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    KumoDiskFixture other = *f;
    int64_t start_us = g_get_monotonic_time();

    other.header = f->data + 65536;
    other.status = other.header + 64;
    other.data = other.header + 4096;
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_add_reads(f, 0, 5, 4096);
    disk_wait_reads(f, 0, 1);
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpuint(disk_transfer(&other, true, 64, 65536), ==, VIRTIO_BLK_S_OK);
        g_assert_cmpuint(disk_request(&other, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL), ==,
                         VIRTIO_BLK_S_OK);
    }
    g_assert_cmpuint(disk_counter(f, "read_ops"), ==, 1);
    g_assert_true(device->ops->pause(device, NULL));
    device->ops->resume(device);
    disk_wait_reads(f, 0, 4);
    g_assert_cmpuint(disk_counter(f, "read_ops"), ==, 5);
    disk_add_reads(f, 0, 3, 4096);
    g_assert_cmpuint(disk_transfer(&other, true, 64, 4096), ==, VIRTIO_BLK_S_OK);
    kumo_fake_driver_stop(f->driver);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 20000000);
}

/* Five writes at once, the others at 50 a second, in their order; a large one counts for many. */
static void test_limit_writes(KumoDiskFixture *f, gconstpointer data)
{
    int64_t start_us;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    for (unsigned i = 0; i < 15; i++) {
        g_assert_cmpuint(disk_transfer(f, true, 0, 4096), ==, VIRTIO_BLK_S_OK);
        g_assert_cmpuint(disk_transfer(f, false, 0, 65536), ==, VIRTIO_BLK_S_OK);
    }
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 195000);
    start_us = g_get_monotonic_time();
    g_assert_cmpuint(disk_transfer(f, true, 0, 40960), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(disk_transfer(f, true, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 195000);
}

/* What a pause lets through early is paid for by those that come next: 4 KiB in 100 ms. */
static void test_limit_direction_paid(KumoDiskFixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    int64_t start_us;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    disk_add_reads(f, 0, 5, 4096);
    disk_wait_reads(f, 0, 1);
    g_assert_true(device->ops->pause(device, NULL));
    device->ops->resume(device);
    disk_wait_reads(f, 0, 4);
    g_assert_cmpuint(disk_transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 495000);
}

/* A driver that is reset again and again gets nothing past the limit, and has all requests of the
 * queue afterwards. */
static void test_limit_direction_reset(KumoDiskFixture *f, gconstpointer data)
{
    KumoDiskFixture other = *f;

    other.header = f->data + 65536;
    other.status = other.header + 64;
    for (unsigned i = 0; i < 20; i++) {
        kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
        disk_add_reads(f, 0, QUEUE_SIZE / 4, 4096);
        if (i == 0)
            disk_wait_reads(f, 0, 1);
        g_assert_cmpuint(disk_request(&other, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL), ==,
                         VIRTIO_BLK_S_OK);
        kumo_fake_driver_stop(f->driver);
    }
    g_assert_cmpuint(disk_counter(f, "read_ops"), ==, 1);
}

/* The second disk of a group finds the bucket as the first has left it. */
static void test_limit_group(KumoDiskFixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoDiskConfig) config = kumo_disk_config_new();
    KumoFakeDriver first;
    KumoDevice *second;
    int64_t start_us;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    disk_add_reads(f, 0, 5, 512);
    disk_wait_reads(f, 0, 5);
    first = *f->driver;

    config->pci.id = g_strdup("_disk1");
    config->path = g_strdup(f->path);
    config->readonly = true;
    config->rate_limit_group = g_strdup("shared");
    /* Of the same image, for reading; the lock of the first is no obstacle to this test. */
    g_assert_cmpint(unlink(f->path), ==, 0);
    g_assert_true(g_file_set_contents(f->path, "x", 1, NULL));
    g_assert_cmpint(truncate(f->path, DISK_BYTES), ==, 0);
    second = kumo_virtio_blk_new(&f->driver->machine, config);
    kumo_device_add(second, &error);
    g_assert_no_error(error);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_add_reads(f, 0, 1, 512);
    disk_wait_reads(f, 0, 1);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 395000);
    kumo_device_remove(second);
    f->driver->virtio = first.virtio;
    memcpy(f->driver->queues, first.queues, sizeof(first.queues));
}

/* An engine whose operations come back only when the test says so. */
typedef struct {
    KumoBlockEngine engine;
    KumoBlockDoneFunc done;
    void *opaque;
    KumoBlockOp *held;
} StuckEngine;

static int stuck_release; /* atomic */
static const KumoBlockEngineOps stuck_ops;

static KumoBlockEngine *stuck_create(int fd, unsigned depth, KumoBlockDoneFunc done, void *opaque,
                                     GError **error)
{
    StuckEngine *stuck = g_new0(StuckEngine, 1);

    stuck->engine = (KumoBlockEngine){ .ops = &stuck_ops, .wait_fd = -1 };
    stuck->done = done;
    stuck->opaque = opaque;
    return &stuck->engine;
}

static void stuck_free(KumoBlockEngine *engine)
{
    g_free(engine);
}

static void stuck_queue(KumoBlockEngine *engine, KumoBlockOp *op)
{
    StuckEngine *stuck = (StuckEngine *)engine;

    g_assert_null(stuck->held);
    stuck->held = op;
}

static void stuck_submit(KumoBlockEngine *engine)
{
}

static void stuck_reap(KumoBlockEngine *engine, int timeout_ms)
{
    StuckEngine *stuck = (StuckEngine *)engine;

    if (stuck->held && g_atomic_int_get(&stuck_release))
        stuck->done(stuck->opaque, g_steal_pointer(&stuck->held), 512);
    else if (timeout_ms)
        g_usleep(1000);
}

static const KumoBlockEngineOps stuck_ops = {
    .name = "stuck",
    .create = stuck_create,
    .free = stuck_free,
    .queue = stuck_queue,
    .submit = stuck_submit,
    .reap = stuck_reap,
};

/* A pause gives up on a disk that does not answer, and the guest goes on when it does. */
static void test_drain_bound(KumoDiskFixture *f, gconstpointer data)
{
    KumoVirtio *virtio = f->driver->virtio;
    g_autoptr(KumoDiskConfig) config = kumo_disk_config_new();
    g_autoptr(KumoBlockFile) file = NULL;
    g_autoptr(GError) error = NULL;
    KumoBlkShared shared = { .virtio = virtio, .config = config };
    KumoBlkQueue *queue;
    int64_t start_us;

    g_atomic_int_set(&stuck_release, 0);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    virtio->ops->pause(virtio, &error);
    g_assert_no_error(error);
    /* Another queue takes over the ring. */
    config->path = g_strdup_printf("%s-stuck", f->path);
    g_assert_true(g_file_set_contents(config->path, "x", 1, NULL));
    g_assert_cmpint(truncate(config->path, DISK_BYTES), ==, 0);
    file = kumo_block_file_open(config, true, &error);
    g_assert_no_error(error);
    g_assert_cmpint(unlink(config->path), ==, 0);
    shared.file = file;
    shared.capacity_sectors = DISK_BYTES / 512;
    queue = kumo_blk_queue_new(&shared, 0, QUEUE_SIZE, &stuck_ops, &error);
    g_assert_no_error(error);
    g_assert_true(kumo_blk_queue_start(queue, &virtio->queues[0], &error));
    g_assert_true(kumo_blk_queue_pause(queue, g_get_monotonic_time() + 50000, &error));
    g_assert_true(kumo_blk_queue_start(queue, &virtio->queues[0], &error));
    disk_add_reads(f, 0, 1, 512);
    while (kumo_virtq_has_work(&virtio->queues[0]))
        g_usleep(1000);

    start_us = g_get_monotonic_time();
    g_assert_false(kumo_blk_queue_pause(queue, start_us + 50000, &error));
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 50000);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 5000000);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_IO);
    g_assert_nonnull(strstr(error->message, config->path));
    g_clear_error(&error);

    g_atomic_int_set(&stuck_release, 1);
    kumo_fake_driver_kick(f->driver, 0);
    disk_wait_reads(f, 0, 1);
    g_assert_true(kumo_blk_queue_pause(queue, g_get_monotonic_time(), &error));
    kumo_blk_queue_free(queue);
    virtio->ops->resume(virtio);
    g_assert_cmpuint(disk_transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

/* Linux's drivers put long chains into indirect tables of small queues. */
static void test_small_queue(KumoDiskFixture *f, gconstpointer data)
{
    enum { N = 62, PART = 512 };
    KumoFakeBuf bufs[N + 2];
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    g_autofree uint8_t *want = g_malloc(N * PART);
    uint16_t head;
    uint32_t len;

    disk_fill(want, N * PART, 4);
    g_assert_cmpint(pwrite(f->fd, want, N * PART, 0), ==, N * PART);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, 4);
    bufs[0] = (KumoFakeBuf){ f->header, 16, false };
    for (unsigned i = 0; i < N; i++)
        bufs[i + 1] = (KumoFakeBuf){ f->data + i * PART, PART, true };
    bufs[N + 1] = (KumoFakeBuf){ f->status, 1, true };
    for (unsigned round = 0; round < 10; round++) {
        disk_put_header(f, VIRTIO_BLK_T_IN, 0);
        memset(guest, 0, N * PART);
        kumo_fake_driver_add_indirect(f->driver, 0, bufs, N + 2);
        kumo_fake_driver_kick(f->driver, 0);
        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        g_assert_cmpuint(len, ==, N * PART + 1);
        g_assert_cmpmem(guest, N * PART, want, N * PART);
    }
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

/* Returns: the CPUs of this process's thread @name, as a mask of the first 64. */
static uint64_t thread_cpus(const char *name)
{
    g_autoptr(GDir) tasks = g_dir_open("/proc/self/task", 0, NULL);
    const char *tid;

    while ((tid = g_dir_read_name(tasks))) {
        g_autofree char *path = g_strdup_printf("/proc/self/task/%s/comm", tid);
        g_autofree char *comm = NULL;
        cpu_set_t set;
        uint64_t mask = 0;

        if (!g_file_get_contents(path, &comm, NULL, NULL) || strcmp(g_strchomp(comm), name) != 0)
            continue;
        g_assert_cmpint(sched_getaffinity(atoi(tid), sizeof(set), &set), ==, 0);
        for (unsigned i = 0; i < 64; i++)
            mask |= CPU_ISSET(i, &set) ? 1ULL << i : 0;
        return mask;
    }
    g_assert_not_reached();
}

static void test_affinity(KumoDiskFixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    KumoQueueAffinity *affinity;
    uint64_t all = thread_cpus("_disk0_q2");

    if (!(all & 1)) {
        g_test_skip("CPU 0 is not for this process");
        return;
    }
    g_assert_cmpuint(thread_cpus("_disk0_q0"), ==, 1);
    g_assert_cmpuint(thread_cpus("_disk0_q1") & all, ==, all & 3);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_add_reads(f, 0, 1, 4096);
    disk_wait_reads(f, 0, 1);
    kumo_device_remove(&f->driver->virtio->device);

    affinity = f->config->queue_affinity->pdata[1];
    g_array_index(affinity->host_cpus, uint32_t, 0) = 8000;
    g_array_set_size(affinity->host_cpus, 1);
    g_assert_false(kumo_device_add(kumo_virtio_blk_new(&f->driver->machine, f->config), &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, "8000"));
    g_assert_nonnull(strstr(error->message, "queue 1"));
}

/* Nothing is ever deallocated. */
static void test_not_sparse(KumoDiskFixture *f, gconstpointer data)
{
    struct virtio_blk_config space;
    struct stat before, after;

    g_assert_cmpint(fstat(f->fd, &before), ==, 0);
    g_assert_cmpint(before.st_blocks * 512, >=, DISK_BYTES);
    g_assert_cmpint(before.st_size, ==, DISK_BYTES);
    g_assert_false(f->driver->virtio->offered & FEATURE(VIRTIO_BLK_F_DISCARD));
    g_assert_true(f->driver->virtio->offered & FEATURE(VIRTIO_BLK_F_WRITE_ZEROES));
    f->driver->virtio->ops->config_read(f->driver->virtio, 0, (uint8_t *)&space, sizeof(space));
    g_assert_cmpuint(space.write_zeroes_may_unmap, ==, 0);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_DISCARD, 0, 1024, 0), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(
        disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1024, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), ==,
        VIRTIO_BLK_S_OK);
    disk_assert_content(f, 0, 4096, 0);
    g_assert_cmpint(fstat(f->fd, &after), ==, 0);
    g_assert_cmpint(after.st_blocks, >=, before.st_blocks);
}

int main(int argc, char **argv)
{
    static const KumoDiskVariant
        ops = { .limit.ops = { .size = 10, .refill_time_ms = 100 } },
        bandwidth = { .num_queues = 4,
                      .limit.bandwidth = { .size = 1 << 20, .refill_time_ms = 100 } },
        slow = { .limit.bandwidth = { .size = 4096, .refill_time_ms = 30000 } },
        reads = { .limit.read_bandwidth = { .size = 4096, .refill_time_ms = 30000 } },
        quick_reads = { .limit.read_bandwidth = { .size = 4096, .refill_time_ms = 100 } },
        writes = { .limit.write_ops = { .size = 5, .refill_time_ms = 100 },
                   .limit.op_size_bytes = 4096 },
        group = { .group = "shared" };
    static const KumoDiskVariant pinned = { .num_queues = 3,
                                            .options = "queue_affinity=[0@[0],1@[0-1]]" },
                                 small = { .queue_size = 4 },
                                 not_sparse = { .options = "sparse=off" },
                                 synchronous = { .options =
                                                     "_disable_io_uring=on,_disable_aio=on" };

    g_test_init(&argc, &argv, NULL);
    disk_add("/virtio-blk/limit-ops", &ops, test_limit_ops);
    disk_add("/virtio-blk/limit-bandwidth", &bandwidth, test_limit_bandwidth);
    disk_add("/virtio-blk/limit-stop", &ops, test_limit_stop);
    disk_add("/virtio-blk/limit-no-wait", &slow, test_limit_no_wait);
    disk_add("/virtio-blk/limit-direction", &reads, test_limit_direction);
    disk_add("/virtio-blk/limit-direction-paid", &quick_reads, test_limit_direction_paid);
    disk_add("/virtio-blk/limit-direction-reset", &reads, test_limit_direction_reset);
    disk_add("/virtio-blk/limit-writes", &writes, test_limit_writes);
    disk_add("/virtio-blk/limit-group", &group, test_limit_group);
    disk_add("/virtio-blk/drain-bound", NULL, test_drain_bound);
    disk_add("/virtio-blk/affinity", &pinned, test_affinity);
    disk_add("/virtio-blk/small-queue", &small, test_small_queue);
    disk_add("/virtio-blk/not-sparse", &not_sparse, test_not_sparse);
    disk_add("/virtio-blk/write-through", &synchronous, test_write_through);
    return g_test_run();
}
