/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fakes/disk_fixture.h"
#include "vmm-core/base/clock.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option.h"
#include "vmm-core/devices/block/blk_queue.h"

static void test_config(KumoDiskFixture *f, gconstpointer data)
{
    KumoVirtio *virtio = f->driver->virtio;
    struct virtio_blk_config space;
    uint8_t beyond[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    static const uint8_t none[8];

    virtio->ops->config_read(virtio, 0, (uint8_t *)&space, sizeof(space));
    g_assert_cmpuint(space.capacity, ==, DISK_BYTES / 512);
    g_assert_cmpuint(space.seg_max, ==, QUEUE_SIZE - 2);
    g_assert_cmpuint(space.blk_size, ==, 512);
    g_assert_cmpuint(space.wce, ==, 1);
    g_assert_cmpuint(space.num_queues, ==, 1);
    g_assert_cmpuint(space.max_discard_seg, ==, 1);
    g_assert_cmpuint(space.max_write_zeroes_seg, ==, 1);
    virtio->ops->config_read(virtio, sizeof(space), beyond, 8);
    g_assert_cmpmem(beyond, 8, none, 8);
    virtio->ops->config_read(virtio, ~0ULL, beyond, 8);
    g_assert_cmpmem(beyond, 8, none, 8);
    g_assert_true(f->driver->params.bar32);
    g_assert_false(virtio->offered & FEATURE(VIRTIO_BLK_F_MQ));
    g_assert_false(virtio->offered & FEATURE(VIRTIO_BLK_F_RO));
    g_assert_true(virtio->offered & FEATURE(VIRTIO_BLK_F_DISCARD));
}

static void test_write_read(KumoDiskFixture *f, gconstpointer data)
{
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    g_autofree uint8_t *back = g_malloc(65536), *want = g_malloc(65536);
    KumoFakeBuf parts[3] = { { f->data, 512, true },
                             { f->data + 8192, 4096, true },
                             { f->data + 700, 512, true } };
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_fill(guest, 65536, 3);
    disk_fill(want, 65536, 3);
    g_assert_cmpuint(disk_transfer(f, true, 100, 65536), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(f->fd, back, 65536, 51200), ==, 65536);
    g_assert_cmpmem(back, 65536, want, 65536);

    memset(guest, 0, 65536);
    g_assert_cmpuint(disk_transfer(f, false, 100, 65536), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest, 65536, want, 65536);

    /* Scattered, one piece not aligned to anything. */
    memset(guest, 0, 65536);
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_IN, 100, parts, 3, &len), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(len, ==, 5120 + 1);
    g_assert_cmpmem(guest, 512, want, 512);
    g_assert_cmpmem(guest + 8192, 4096, want + 512, 4096);
    g_assert_cmpmem(guest + 700, 512, want + 4608, 512);
    g_assert_cmpuint(guest[699], ==, 0);
    g_assert_cmpuint(guest[1212], ==, 0);

    g_assert_cmpuint(disk_counter(f, "write_bytes"), ==, 65536);
    g_assert_cmpuint(disk_counter(f, "write_ops"), ==, 1);
    g_assert_cmpuint(disk_counter(f, "read_bytes"), ==, 65536 + 5120);
    g_assert_cmpuint(disk_counter(f, "read_ops"), ==, 2);
    g_assert_cmpuint(disk_counter(f, "read_latency_max"), >=, disk_counter(f, "read_latency_min"));
}

/* Larger than a bounce buffer, from a buffer that O_DIRECT does not take; and with O_DIRECT more
 * such requests than buffers. */
static void test_bounce(KumoDiskFixture *f, gconstpointer data)
{
    enum { LEN = 600 * 1024, SMALL = 8192, N = 20 };
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    g_autofree uint8_t *back = g_malloc(LEN), *want = g_malloc(LEN);
    KumoFakeBuf odd = { f->data + 7, LEN, false };
    uint64_t statuses = kumo_fake_driver_alloc(f->driver, N);
    uint16_t head;
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_fill(guest + 7, LEN, 9);
    disk_fill(want, LEN, 9);
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_OUT, 8, &odd, 1, NULL), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(f->fd, back, LEN, 4096), ==, LEN);
    g_assert_cmpmem(back, LEN, want, LEN);
    memset(guest, 0, LEN + 7);
    odd.writable = true;
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_IN, 8, &odd, 1, NULL), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest + 7, LEN, want, LEN);

    memset(guest, 0, LEN);
    disk_put_header(f, VIRTIO_BLK_T_IN, 8);
    for (unsigned i = 0; i < N; i++) {
        KumoFakeBuf bufs[3] = { { f->header, 16, false },
                                { f->data + i * 2 * SMALL + 3, SMALL, true },
                                { statuses + i, 1, true } };

        kumo_fake_driver_add(f->driver, 0, bufs, 3);
    }
    kumo_fake_driver_kick(f->driver, 0);
    for (unsigned i = 0; i < N; i++)
        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    for (unsigned i = 0; i < N; i++)
        g_assert_cmpmem(guest + i * 2 * SMALL + 3, SMALL, want, SMALL);
}

static void test_unaligned_range(KumoDiskFixture *f, gconstpointer data)
{
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    uint8_t want[1536], back[1536];

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_fill(guest, sizeof(want), 5);
    disk_fill(want, sizeof(want), 5);
    g_assert_cmpuint(disk_transfer(f, true, 3, sizeof(want)), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(f->fd, back, sizeof(back), 3 * 512), ==, (ssize_t)sizeof(back));
    g_assert_cmpmem(back, sizeof(back), want, sizeof(want));
    memset(guest, 0, sizeof(want));
    g_assert_cmpuint(disk_transfer(f, false, 3, sizeof(want)), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest, sizeof(want), want, sizeof(want));
}

static void test_many(KumoDiskFixture *f, gconstpointer data)
{
    enum { N = 500, PER = 40 };
    uint64_t headers = kumo_fake_driver_alloc(f->driver, PER * 16);
    uint64_t statuses = kumo_fake_driver_alloc(f->driver, PER);
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    uint16_t head;
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    for (unsigned round = 0; round < N / PER * 2; round++) {
        bool write = round % 2 == 0;

        for (unsigned i = 0; i < PER; i++) {
            struct virtio_blk_outhdr *header = kumo_fake_driver_ptr(f->driver, headers + i * 16);
            KumoFakeBuf bufs[3] = { { headers + i * 16, 16, false },
                                    { f->data + i * 4096, 4096, !write },
                                    { statuses + i, 1, true } };

            *header =
                (struct virtio_blk_outhdr){ .type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
                                            .sector = (uint64_t)(round / 2 * PER + i) * 8 };
            if (write)
                disk_fill(guest + i * 4096, 4096, round + i);
            else
                memset(guest + i * 4096, 0, 4096);
            *(uint8_t *)kumo_fake_driver_ptr(f->driver, statuses + i) = 0xaa;
            if (i % 2)
                kumo_fake_driver_add(f->driver, 0, bufs, 3);
            else
                kumo_fake_driver_add_indirect(f->driver, 0, bufs, 3);
        }
        kumo_fake_driver_kick(f->driver, 0);
        for (unsigned i = 0; i < PER; i++)
            g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        for (unsigned i = 0; i < PER; i++) {
            uint8_t want[4096];

            disk_fill(want, sizeof(want), round - !write + i);
            g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, statuses + i), ==, 0);
            g_assert_cmpmem(guest + i * 4096, 4096, want, 4096);
        }
    }
    /* Batches: far fewer interrupts than requests. */
    g_assert_cmpuint(f->driver->queues[0].n_interrupts, <, N);
}

static void test_out_of_range(KumoDiskFixture *f, gconstpointer data)
{
    static const struct {
        uint64_t sector;
        uint32_t len;
    } bad[] = {
        { DISK_BYTES / 512, 512 },
        { DISK_BYTES / 512 - 1, 1024 },
        { ~0ULL, 512 },
        { ~0ULL / 512, 512 },
        { 1ULL << 55, 512 },
        { ~0ULL - 1, 1024 },
        { 0, 513 },
        { 0, 1 },
        { 5, 511 },
    };

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_cmpuint(disk_transfer(f, false, bad[i].sector, bad[i].len), ==,
                         VIRTIO_BLK_S_IOERR);
        g_assert_cmpuint(disk_transfer(f, true, bad[i].sector, bad[i].len), ==, VIRTIO_BLK_S_IOERR);
    }
    g_assert_cmpuint(disk_transfer(f, false, DISK_BYTES / 512 - 1, 512), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

static void test_flush_id_unknown(KumoDiskFixture *f, gconstpointer data)
{
    KumoFakeBuf id = { f->data, 20, true };
    char *guest = kumo_fake_driver_ptr(f->driver, f->data);
    static const char want[20] = "kumo-serial";
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, &len), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(len, ==, 1);
    memset(guest, 0xff, 24);
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_GET_ID, 0, &id, 1, &len), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(len, ==, 21);
    g_assert_cmpmem(guest, 20, want, 20);
    id.len = 4;
    memset(guest, 0xff, 24);
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_GET_ID, 0, &id, 1, NULL), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest, 6, "kumo\xff\xff", 6);
    g_assert_cmpuint(disk_request(f, 77, 0, NULL, 0, NULL), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_SECURE_ERASE, 0, NULL, 0, NULL), ==,
                     VIRTIO_BLK_S_UNSUPP);
}

static void test_discard_zeroes(KumoDiskFixture *f, gconstpointer data)
{
    g_autofree uint8_t *ones = g_malloc(1 << 20);
    KumoFakeBuf two = { f->data, 32, false };
    struct stat st;

    memset(ones, 0x11, 1 << 20);
    g_assert_cmpint(pwrite(f->fd, ones, 1 << 20, 0), ==, 1 << 20);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);

    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 300, 0), ==, VIRTIO_BLK_S_OK);
    disk_assert_content(f, 0, 512, 0x11);
    disk_assert_content(f, 512, 300 * 512, 0);
    disk_assert_content(f, 301 * 512, 4096, 0x11);
    g_assert_cmpuint(
        disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 512, 128, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
        ==, VIRTIO_BLK_S_OK);
    disk_assert_content(f, 512 * 512, 128 * 512, 0);
    disk_assert_content(f, 640 * 512, 4096, 0x11);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_DISCARD, 1024, 1024, 0), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(fstat(f->fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, DISK_BYTES);

    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_DISCARD, 0, 8, 1), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_DISCARD, DISK_BYTES / 512 - 1, 2, 0), ==,
                     VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, ~0ULL, 2, 0), ==,
                     VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_DISCARD, 0, ~0U, 0), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_DISCARD, 0, 0, 0), ==, VIRTIO_BLK_S_OK);
    /* Two segments are more than the configuration allows. */
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_DISCARD, 0, &two, 1, NULL), ==,
                     VIRTIO_BLK_S_IOERR);
}

/* What is left where neither hole nor zero range can be had. It counts like other writes. */
static void test_zeroes_by_writing(KumoDiskFixture *f, gconstpointer data)
{
    const KumoRateLimit limit = { .write_ops = { 100, 0, 1000 }, .op_size_bytes = 512 };
    g_autoptr(KumoRateLimiter) limiter = kumo_rate_limiter_new(&limit);
    g_autofree uint8_t *ones = g_malloc(1 << 20);
    KumoBlkShared shared = { .virtio = f->driver->virtio,
                             .config = f->config,
                             .limiter = limiter,
                             .no_punch_hole = true,
                             .no_zero_range = true };
    g_autoptr(KumoDiskConfig) config = kumo_disk_config_new();
    g_autoptr(GError) error = NULL;
    KumoBlkQueue *queue;
    g_autofree char *path = g_strconcat(f->path, ".2", NULL);
    KumoVirtq *virtq;
    uint16_t head;
    uint32_t len;
    struct virtio_blk_discard_write_zeroes *seg = kumo_fake_driver_ptr(f->driver, f->data);
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, 16, false },
                            { f->status, 1, true } };

    memset(ones, 0x11, 1 << 20);
    g_assert_true(g_file_set_contents(path, (char *)ones, 1 << 20, NULL));
    config->path = g_strdup(path);
    shared.file = kumo_block_file_open(config, true, &error);
    g_assert_no_error(error);
    shared.capacity_sectors = shared.file->size_bytes / 512;
    queue = kumo_blk_queue_new(&shared, 0, QUEUE_SIZE, &kumo_block_sync, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(kumo_blk_queue_engine_name(queue), ==, "sync");

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    f->driver->virtio->ops->pause(f->driver->virtio, NULL); /* its own worker lets go */
    virtq = &f->driver->virtio->queues[0];
    g_assert_true(kumo_blk_queue_start(queue, virtq, &error));
    *seg = (struct virtio_blk_discard_write_zeroes){ .sector = 1, .num_sectors = 1000 };
    disk_put_header(f, VIRTIO_BLK_T_WRITE_ZEROES, 0);
    kumo_fake_driver_add(f->driver, 0, bufs, 3);
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, f->status), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(shared.file->fd, ones, 1 << 20, 0), ==, 1 << 20);
    for (size_t i = 0; i < 1 << 20; i++)
        g_assert_cmpuint(ones[i], ==, i >= 512 && i < 1001 * 512 ? 0 : 0x11);
    /* 1000 operations, of which 100 in a second may be. */
    g_assert_cmpuint(kumo_rate_limiter_take(limiter, KUMO_RATE_WRITE, 0, 1, kumo_monotonic_ns()), >,
                     5000000000);
    kumo_blk_queue_stop(queue);
    kumo_blk_queue_free(queue);
    kumo_block_file_close(shared.file);
    unlink(path);
}

static void test_readonly(KumoDiskFixture *f, gconstpointer data)
{
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_true(f->driver->virtio->offered & FEATURE(VIRTIO_BLK_F_RO));
    g_assert_false(f->driver->virtio->offered & FEATURE(VIRTIO_BLK_F_DISCARD));
    g_assert_cmpuint(disk_transfer(f, true, 0, 512), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(disk_transfer(f, false, 0, 512), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(disk_request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL), ==, VIRTIO_BLK_S_OK);
}

static void test_split_header(KumoDiskFixture *f, gconstpointer data)
{
    KumoFakeBuf bufs[6] = { { f->header, 5, false },
                            { f->header + 5, 11, false },
                            { f->data, 300, true },
                            { f->data + 300, 212, true },
                            { f->status, 1, true } };
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    uint8_t want[512];
    uint16_t head;
    uint32_t len;

    disk_fill(want, 512, 1);
    g_assert_cmpint(pwrite(f->fd, want, 512, 9 * 512), ==, 512);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    disk_put_header(f, VIRTIO_BLK_T_IN, 9);
    kumo_fake_driver_add(f->driver, 0, bufs, 5);
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(len, ==, 513);
    g_assert_cmpmem(guest, 512, want, 512);

    /* Header and data in one buffer, data and status in one buffer. */
    memset(guest, 0, 513);
    disk_put_header(f, VIRTIO_BLK_T_IN, 9);
    bufs[0] = (KumoFakeBuf){ f->header, 16, false };
    bufs[1] = (KumoFakeBuf){ f->data, 513, true };
    guest[512] = 0xaa;
    kumo_fake_driver_add(f->driver, 0, bufs, 2);
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(guest[512], ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest, 512, want, 512);
}

/* Each of these leaves the device in need of a reset, and works again after one. */
static void test_broken_chains(KumoDiskFixture *f, gconstpointer data)
{
    const KumoFakeBuf no_status[] = { { f->header, 16, false }, { f->data, 512, false } };
    const KumoFakeBuf short_header[] = { { f->header, 15, false }, { f->status, 1, true } };
    const KumoFakeBuf no_header[] = { { f->data, 512, true }, { f->status, 1, true } };
    const KumoFakeBuf mixed[] = { { f->header, 16, false },
                                  { f->status, 1, true },
                                  { f->data, 512, false } };
    const KumoFakeBuf outside[] = { { f->header, 16, false },
                                    { KUMO_FAKE_RAM_BYTES - 256, 512, true },
                                    { f->status, 1, true } };
    const KumoFakeBuf wraps[] = { { f->header, 16, false },
                                  { ~0ULL - 100, 512, true },
                                  { f->status, 1, true } };
    const struct {
        const KumoFakeBuf *bufs;
        unsigned n;
    } cases[] = { { no_status, 2 }, { short_header, 2 }, { no_header, 2 },
                  { mixed, 3 },     { outside, 3 },      { wraps, 3 } };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
        disk_put_header(f, VIRTIO_BLK_T_IN, 0);
        kumo_fake_driver_add(f->driver, 0, cases[i].bufs, cases[i].n);
        kumo_fake_driver_kick(f->driver, 0);
        g_assert_true(kumo_fake_driver_wait_broken(f->driver));
        kumo_fake_driver_kick(f->driver, 0); /* of no consequence */
        kumo_fake_driver_stop(f->driver);
        g_atomic_int_set(&f->driver->needs_reset, 0);
    }
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(disk_transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

static void test_noise(KumoDiskFixture *f, gconstpointer data)
{
    for (unsigned round = 0; round < 50; round++) {
        kumo_fake_driver_start(f->driver, ALL_FEATURES, 16);
        for (unsigned i = 0; i < 16; i++)
            kumo_fake_driver_desc(f->driver, 0, i,
                                  g_test_rand_bit() ? (uint64_t)g_test_rand_int_range(0, 1 << 20)
                                                    : (uint64_t)g_test_rand_int() << 20,
                                  g_test_rand_int_range(0, 2000), g_test_rand_int_range(0, 8),
                                  g_test_rand_int_range(0, 20));
        for (unsigned i = 0; i < 16; i++)
            kumo_fake_driver_publish(f->driver, 0, g_test_rand_int_range(0, 17));
        kumo_fake_driver_kick(f->driver, 0);
        kumo_fake_driver_stop(f->driver);
        if (f->driver->ram_next > KUMO_FAKE_RAM_BYTES / 2)
            f->driver->ram_next = 4 << 20;
    }
}

static GMutex said_lock;
static GString *said; /* events, as "NAME: PROPERTIES;" */

static void record_event(const char *source, const char *event, json_t *properties)
{
    char *text = json_dumps(properties, JSON_COMPACT | JSON_SORT_KEYS);

    g_mutex_lock(&said_lock);
    g_string_append_printf(said, "%s %s: %s;", source, event, text);
    g_mutex_unlock(&said_lock);
    free(text);
    json_decref(properties);
}

static void record_events(KumoDiskFixture *f)
{
    said = g_string_new(NULL);
    f->driver->machine.event = record_event;
}

/* Returns: (transfer full): what was said since the last time. */
static char *take_events(void)
{
    char *text;

    g_mutex_lock(&said_lock);
    text = g_strdup(said->str);
    g_string_truncate(said, 0);
    g_mutex_unlock(&said_lock);
    return text;
}

static void assert_events(const char *wanted)
{
    g_autofree char *found = take_events();

    g_assert_cmpstr(found, ==, wanted);
}

static void forget_events(KumoDiskFixture *f)
{
    f->driver->machine.event = NULL;
    g_string_free(said, TRUE);
}

/* Those who watch are told what the host refused, not what the guest did wrong, and not for ever.
 */
static void test_error_event(KumoDiskFixture *f, gconstpointer data)
{
    g_autofree char *found = NULL;
    unsigned n = 0;

    record_events(f);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(disk_transfer(f, true, DISK_BYTES / 512, 512), ==, VIRTIO_BLK_S_IOERR);
    assert_events("");
    g_assert_cmpint(ftruncate(f->fd, 4096), ==, 0);
    g_assert_cmpuint(disk_transfer(f, false, 8, 4096), ==, VIRTIO_BLK_S_IOERR);
    assert_events("virtio-device io-error: "
                  "{\"error\":\"EIO\",\"id\":\"_disk0\",\"operation\":\"read\"};");
    for (unsigned i = 0; i < 100; i++)
        g_assert_cmpuint(disk_transfer(f, false, 8, 4096), ==, VIRTIO_BLK_S_IOERR);
    found = take_events();
    for (const char *at = found; (at = strstr(at, "io-error")); at++)
        n++;
    g_assert_cmpuint(n, >, 0);
    g_assert_cmpuint(n, <, 20);
    forget_events(f);
}

static void set_threshold(KumoDiskFixture *f, uint64_t bytes)
{
    KumoDevice *device = &f->driver->virtio->device;
    g_autoptr(KumoDiskConfig) wanted = kumo_option_parse_disk("path=/x", NULL);
    g_autoptr(GError) error = NULL;

    wanted->write_threshold_bytes = bytes;
    device->ops->update(device, wanted, &error);
    g_assert_no_error(error);
}

static uint64_t shown_threshold(KumoDiskFixture *f)
{
    KumoDevice *device = &f->driver->virtio->device;
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    KumoDiskConfig *disk = kumo_option_parse_disk("path=/x,id=_disk0", NULL);

    g_ptr_array_add(config->disks, disk);
    device->ops->report(device, config);
    return disk->write_threshold_bytes;
}

static void test_threshold(KumoDiskFixture *f, gconstpointer data)
{
    record_events(f);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    set_threshold(f, 1 << 20);
    g_assert_cmpuint(shown_threshold(f), ==, 1 << 20);
    g_assert_cmpuint(disk_transfer(f, true, 2040, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(disk_transfer(f, false, 4096, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(disk_transfer(f, true, DISK_BYTES / 512, 512), ==, VIRTIO_BLK_S_IOERR);
    assert_events("");
    g_assert_cmpuint(disk_transfer(f, true, 2047, 1024), ==, VIRTIO_BLK_S_OK);
    assert_events("virtio-device block-threshold: "
                  "{\"excess\":512,\"id\":\"_disk0\",\"threshold\":1048576};");
    /* Once, until it is set again. */
    g_assert_cmpuint(shown_threshold(f), ==, 0);
    g_assert_cmpuint(disk_transfer(f, true, 4096, 4096), ==, VIRTIO_BLK_S_OK);
    assert_events("");
    set_threshold(f, 4 << 20);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_DISCARD, 8192, 8, 0), ==, VIRTIO_BLK_S_OK);
    assert_events("");
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 8192, 8, 0), ==, VIRTIO_BLK_S_OK);
    assert_events("virtio-device block-threshold: "
                  "{\"excess\":4096,\"id\":\"_disk0\",\"threshold\":4194304};");
    forget_events(f);
}

/* The file shrinks under the guest: an error for the guest, nothing else. */
static void test_host_error(KumoDiskFixture *f, gconstpointer data)
{
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpint(ftruncate(f->fd, 4096 + 1024), ==, 0);
    g_assert_cmpuint(disk_transfer(f, false, 8, 8192), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(disk_transfer(f, false, 1000, 512), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(disk_transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

static void test_cache_mode(KumoDiskFixture *f, gconstpointer data)
{
    KumoVirtio *virtio = f->driver->virtio;
    uint8_t byte = 0;
    uint64_t at = offsetof(struct virtio_blk_config, wce);

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    virtio->ops->config_write(virtio, at, &byte, 1);
    virtio->ops->config_read(virtio, at, &byte, 1);
    g_assert_cmpuint(byte, ==, 0);
    g_assert_cmpuint(disk_transfer(f, true, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(disk_discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), ==, VIRTIO_BLK_S_OK);
    byte = 7;
    virtio->ops->config_write(virtio, at, &byte, 1);
    virtio->ops->config_read(virtio, at, &byte, 1);
    g_assert_cmpuint(byte, ==, 1);
    /* Nothing else can be written. */
    byte = 9;
    virtio->ops->config_write(virtio, 0, &byte, 1);
    virtio->ops->config_write(virtio, at + 1, &byte, 1);
    virtio->ops->config_write(virtio, ~0ULL, &byte, 1);
    virtio->ops->config_read(virtio, 0, &byte, 1);
    g_assert_cmpuint(byte, ==, (DISK_BYTES / 512) & 0xff);
    /* A reset goes back to write-back. */
    byte = 0;
    virtio->ops->config_write(virtio, at, &byte, 1);
    kumo_fake_driver_stop(f->driver);
    virtio->ops->config_read(virtio, at, &byte, 1);
    g_assert_cmpuint(byte, ==, 1);
}

static void test_pause(KumoDiskFixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, 4096, true },
                            { f->status, 1, true } };
    uint16_t head;
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(disk_transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_true(device->ops->pause(device, NULL));
    disk_put_header(f, VIRTIO_BLK_T_IN, 0);
    kumo_fake_driver_add(f->driver, 0, bufs, 3);
    kumo_fake_driver_kick(f->driver, 0);
    g_usleep(20000);
    g_assert_false(kumo_fake_driver_take(f->driver, 0, &head, &len));
    device->ops->resume(device);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(disk_transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

/* Stopping in the middle of much work: everything that was taken is returned, nothing is touched
 * afterwards. */
static uint64_t capacity_bytes(KumoDiskFixture *f)
{
    uint64_t sectors = 0;

    f->driver->virtio->ops->config_read(f->driver->virtio, 0, (uint8_t *)&sectors, sizeof(sectors));
    return GUINT64_FROM_LE(sectors) * 512;
}

static void test_resize(KumoDiskFixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    g_autoptr(GError) error = NULL;
    struct stat st;

    /* Before the driver is up. */
    g_assert_true(device->ops->resize(device, DISK_BYTES / 2, &error));
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(capacity_bytes(f), ==, DISK_BYTES / 2);
    g_assert_cmpuint(disk_transfer(f, true, DISK_BYTES / 2 / 512, 512), ==, VIRTIO_BLK_S_IOERR);

    g_assert_true(device->ops->resize(device, 2 * DISK_BYTES, &error));
    g_assert_cmpint(g_atomic_int_get(&f->driver->config_changes), ==, 2);
    g_assert_cmpuint(capacity_bytes(f), ==, 2 * DISK_BYTES);
    g_assert_cmpuint(disk_transfer(f, true, 2 * DISK_BYTES / 512 - 1, 512), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(disk_transfer(f, true, 2 * DISK_BYTES / 512, 512), ==, VIRTIO_BLK_S_IOERR);

    /* Requests that are there at the time come back one way or the other, and none makes the file
     * longer than it shall be. */
    disk_put_header(f, VIRTIO_BLK_T_OUT, DISK_BYTES / 512);
    for (unsigned i = 0; i < 20; i++) {
        KumoFakeBuf bufs[] = { { f->header, 16, false },
                               { f->data, 65536, false },
                               { f->status, 1, true } };

        kumo_fake_driver_add(f->driver, 0, bufs, G_N_ELEMENTS(bufs));
    }
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(device->ops->resize(device, DISK_BYTES, &error));
    for (unsigned i = 0; i < 20; i++) {
        uint16_t head;
        uint32_t len;

        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    }
    g_assert_cmpint(fstat(f->fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, DISK_BYTES);
    g_assert_cmpuint(disk_transfer(f, true, DISK_BYTES / 512, 512), ==, VIRTIO_BLK_S_IOERR);

    g_assert_false(device->ops->resize(device, 1000, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_cmpuint(capacity_bytes(f), ==, DISK_BYTES);
    g_assert_cmpint(g_atomic_int_get(&f->driver->config_changes), ==, 3);
}

static void test_stop_in_flight(KumoDiskFixture *f, gconstpointer data)
{
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, 65536, true },
                            { f->status, 1, true } };

    for (unsigned round = 0; round < 30; round++) {
        kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
        disk_put_header(f, VIRTIO_BLK_T_IN, 0);
        for (unsigned i = 0; i < 40; i++)
            kumo_fake_driver_add(f->driver, 0, bufs, 3);
        kumo_fake_driver_kick(f->driver, 0);
        if (round % 3)
            g_usleep(50 * round);
        kumo_fake_driver_stop(f->driver);
    }
}

static void test_multiqueue(KumoDiskFixture *f, gconstpointer data)
{
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, 4096, true },
                            { f->status, 1, true } };
    struct virtio_blk_config space;
    uint16_t head;
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    f->driver->virtio->ops->config_read(f->driver->virtio, 0, (uint8_t *)&space, sizeof(space));
    g_assert_true(f->driver->virtio->offered & FEATURE(VIRTIO_BLK_F_MQ));
    g_assert_cmpuint(space.num_queues, ==, 4);
    for (unsigned q = 0; q < 4; q++) {
        disk_put_header(f, VIRTIO_BLK_T_IN, 0);
        kumo_fake_driver_add(f->driver, q, bufs, 3);
        kumo_fake_driver_kick(f->driver, q);
        g_assert_true(kumo_fake_driver_wait(f->driver, q, &head, &len));
        g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, f->status), ==,
                         VIRTIO_BLK_S_OK);
    }
    g_assert_cmpuint(disk_counter(f, "read_ops"), ==, 4);
}

int main(int argc, char **argv)
{
    static const KumoDiskVariant direct = { .direct = true }, readonly = { .readonly = true },
                                 four = { .num_queues = 4 };
    static const KumoDiskVariant aio = { .options = "_disable_io_uring=on" },
                                 aio_direct = { .direct = true, .options = "_disable_io_uring=on" },
                                 sync = { .options = "_disable_io_uring=on,_disable_aio=on" };
    static const struct {
        const char *name;
        void (*func)(KumoDiskFixture *, gconstpointer);
    } of_engines[] = {
        { "write-read", test_write_read },
        { "bounce", test_bounce },
        { "many", test_many },
        { "discard-zeroes", test_discard_zeroes },
        { "host-error", test_host_error },
        { "stop-in-flight", test_stop_in_flight },
        { "cache-mode", test_cache_mode },
    };

    g_test_init(&argc, &argv, NULL);
    disk_add("/virtio-blk/config", NULL, test_config);
    disk_add("/virtio-blk/write-read", NULL, test_write_read);
    disk_add("/virtio-blk/write-read-direct", &direct, test_write_read);
    disk_add("/virtio-blk/bounce", NULL, test_bounce);
    disk_add("/virtio-blk/bounce-direct", &direct, test_bounce);
    disk_add("/virtio-blk/unaligned-range", NULL, test_unaligned_range);
    disk_add("/virtio-blk/unaligned-range-direct", &direct, test_unaligned_range);
    disk_add("/virtio-blk/many", NULL, test_many);
    disk_add("/virtio-blk/many-direct", &direct, test_many);
    disk_add("/virtio-blk/out-of-range", NULL, test_out_of_range);
    disk_add("/virtio-blk/flush-id-unknown", NULL, test_flush_id_unknown);
    disk_add("/virtio-blk/discard-zeroes", NULL, test_discard_zeroes);
    disk_add("/virtio-blk/zeroes-by-writing", NULL, test_zeroes_by_writing);
    disk_add("/virtio-blk/readonly", &readonly, test_readonly);
    disk_add("/virtio-blk/split-header", NULL, test_split_header);
    disk_add("/virtio-blk/broken-chains", NULL, test_broken_chains);
    disk_add("/virtio-blk/noise", NULL, test_noise);
    disk_add("/virtio-blk/host-error", NULL, test_host_error);
    disk_add("/virtio-blk/cache-mode", NULL, test_cache_mode);
    disk_add("/virtio-blk/error-event", NULL, test_error_event);
    disk_add("/virtio-blk/threshold", NULL, test_threshold);
    disk_add("/virtio-blk/pause", NULL, test_pause);
    disk_add("/virtio-blk/resize", NULL, test_resize);
    disk_add("/virtio-blk/resize-direct", &direct, test_resize);
    disk_add("/virtio-blk/stop-in-flight", NULL, test_stop_in_flight);
    disk_add("/virtio-blk/multiqueue", &four, test_multiqueue);
    for (size_t i = 0; i < G_N_ELEMENTS(of_engines); i++) {
        g_autofree char *a = g_strdup_printf("/virtio-blk/aio/%s", of_engines[i].name);
        g_autofree char *b = g_strdup_printf("/virtio-blk/aio-direct/%s", of_engines[i].name);
        g_autofree char *c = g_strdup_printf("/virtio-blk/sync/%s", of_engines[i].name);

        disk_add(a, &aio, of_engines[i].func);
        disk_add(b, &aio_direct, of_engines[i].func);
        disk_add(c, &sync, of_engines[i].func);
    }
    return g_test_run();
}
