/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fakes/virtio_driver.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option.h"
#include "vmm-core/devices/block/blk_queue.h"
#include "vmm-core/devices/block/virtio_blk.h"

enum { DISK_BYTES = 8 << 20, QUEUE_SIZE = 128 };

#define FEATURE(bit) (1ULL << (bit))
#define ALL_FEATURES (~0ULL)

typedef struct {
    KumoFakeDriver *driver;
    KumoDiskConfig *config;
    char *path;
    int fd; /* the image, to look into */
    uint64_t header, status, data;
} Fixture;

/* What a test wants different from a plain writable disk. */
typedef struct {
    bool readonly, direct;
    unsigned num_queues, queue_size;
    KumoRateLimit limit;
    const char *group;
    const char *options; /* further keys of --disk */
} Variant;

static void setup(Fixture *f, gconstpointer data)
{
    const Variant *v = data;
    g_autoptr(GError) error = NULL;
    int fd;

    f->path = g_build_filename(g_get_tmp_dir(), "kumo-blk-XXXXXX", NULL);
    f->fd = g_mkstemp(f->path);
    g_assert_cmpint(f->fd, >=, 0);
    g_assert_cmpint(ftruncate(f->fd, DISK_BYTES), ==, 0);
    f->driver = kumo_fake_driver_new();
    if (v && v->options) {
        g_autofree char *text = g_strdup_printf("path=x,%s", v->options);

        f->config = kumo_option_parse_disk(text, &error);
        g_assert_no_error(error);
        g_clear_pointer(&f->config->path, g_free);
    } else {
        f->config = kumo_disk_config_new();
    }
    f->config->pci.id = g_strdup("_disk0");
    f->config->path = g_strdup(f->path);
    f->config->serial = g_strdup("kumo-serial");
    f->config->readonly = v && v->readonly;
    f->config->direct = v && v->direct;
    f->config->num_queues = v && v->num_queues ? v->num_queues : 1;
    f->config->queue_size = v && v->queue_size ? v->queue_size : QUEUE_SIZE;
    if (v) {
        f->config->rate.limit = v->limit;
        f->config->rate_limit_group = g_strdup(v->group);
    }
    if (v && v->group)
        kumo_option_apply(f->driver->config, "rate-limit-group",
                          "id=shared,ops_size=5,ops_refill_time=2000", &error);
    g_assert_no_error(error);
    fd = open(f->path, O_RDONLY | O_CLOEXEC | (f->config->direct ? O_DIRECT : 0));
    if (fd < 0)
        f->config->direct = false;
    kumo_fd_clear(&fd);
    kumo_device_add(kumo_virtio_blk_new(&f->driver->machine, f->config), &error);
    g_assert_no_error(error);
    f->header = kumo_fake_driver_alloc(f->driver, 4096);
    f->status = kumo_fake_driver_alloc(f->driver, 1);
    f->data = kumo_fake_driver_alloc(f->driver, 1 << 20);
}

static void teardown(Fixture *f, gconstpointer data)
{
    kumo_fake_driver_free(f->driver);
    kumo_disk_config_free(f->config);
    kumo_fd_clear(&f->fd);
    unlink(f->path);
    g_free(f->path);
}

static void put_header(Fixture *f, uint32_t type, uint64_t sector)
{
    struct virtio_blk_outhdr *header = kumo_fake_driver_ptr(f->driver, f->header);

    *header =
        (struct virtio_blk_outhdr){ .type = GUINT32_TO_LE(type), .sector = GUINT64_TO_LE(sector) };
    *(uint8_t *)kumo_fake_driver_ptr(f->driver, f->status) = 0xaa;
}

/* One request on queue 0 with @n data buffers. Returns: its status. */
static uint8_t request(Fixture *f, uint32_t type, uint64_t sector, const KumoFakeBuf *data,
                       unsigned n, uint32_t *ret_len)
{
    KumoFakeBuf bufs[QUEUE_SIZE];
    uint16_t head, got;
    uint32_t len;

    g_assert_cmpuint(n, <=, QUEUE_SIZE - 2);
    put_header(f, type, sector);
    bufs[0] = (KumoFakeBuf){ f->header, 16, false };
    for (unsigned i = 0; i < n; i++)
        bufs[i + 1] = data[i];
    bufs[n + 1] = (KumoFakeBuf){ f->status, 1, true };
    head = kumo_fake_driver_add(f->driver, 0, bufs, n + 2);
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &got, &len));
    g_assert_cmpuint(got, ==, head);
    if (ret_len)
        *ret_len = len;
    return *(uint8_t *)kumo_fake_driver_ptr(f->driver, f->status);
}

static uint8_t transfer(Fixture *f, bool write, uint64_t sector, uint32_t len)
{
    KumoFakeBuf buf = { f->data, len, !write };

    return request(f, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, sector, &buf, 1, NULL);
}

static void fill(uint8_t *p, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(i * 31 + i / 512 + seed);
}

static uint64_t counter(Fixture *f, const char *name)
{
    json_t *counters = f->driver->virtio->device.ops->counters(&f->driver->virtio->device);
    json_t *value = json_object_get(counters, name);
    uint64_t n;

    g_assert_true(json_is_integer(value));
    n = (uint64_t)json_integer_value(value);
    json_decref(counters);
    return n;
}

static void test_config(Fixture *f, gconstpointer data)
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

static void test_write_read(Fixture *f, gconstpointer data)
{
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    g_autofree uint8_t *back = g_malloc(65536), *want = g_malloc(65536);
    KumoFakeBuf parts[3] = { { f->data, 512, true },
                             { f->data + 8192, 4096, true },
                             { f->data + 700, 512, true } };
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    fill(guest, 65536, 3);
    fill(want, 65536, 3);
    g_assert_cmpuint(transfer(f, true, 100, 65536), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(f->fd, back, 65536, 51200), ==, 65536);
    g_assert_cmpmem(back, 65536, want, 65536);

    memset(guest, 0, 65536);
    g_assert_cmpuint(transfer(f, false, 100, 65536), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest, 65536, want, 65536);

    /* Scattered, one piece not aligned to anything. */
    memset(guest, 0, 65536);
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_IN, 100, parts, 3, &len), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(len, ==, 5120 + 1);
    g_assert_cmpmem(guest, 512, want, 512);
    g_assert_cmpmem(guest + 8192, 4096, want + 512, 4096);
    g_assert_cmpmem(guest + 700, 512, want + 4608, 512);
    g_assert_cmpuint(guest[699], ==, 0);
    g_assert_cmpuint(guest[1212], ==, 0);

    g_assert_cmpuint(counter(f, "write_bytes"), ==, 65536);
    g_assert_cmpuint(counter(f, "write_ops"), ==, 1);
    g_assert_cmpuint(counter(f, "read_bytes"), ==, 65536 + 5120);
    g_assert_cmpuint(counter(f, "read_ops"), ==, 2);
    g_assert_cmpuint(counter(f, "read_latency_max"), >=, counter(f, "read_latency_min"));
}

/* Larger than a bounce buffer, from a buffer that O_DIRECT does not take; and with O_DIRECT more
 * such requests than buffers. */
static void test_bounce(Fixture *f, gconstpointer data)
{
    enum { LEN = 600 * 1024, SMALL = 8192, N = 20 };
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    g_autofree uint8_t *back = g_malloc(LEN), *want = g_malloc(LEN);
    KumoFakeBuf odd = { f->data + 7, LEN, false };
    uint64_t statuses = kumo_fake_driver_alloc(f->driver, N);
    uint16_t head;
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    fill(guest + 7, LEN, 9);
    fill(want, LEN, 9);
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_OUT, 8, &odd, 1, NULL), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(f->fd, back, LEN, 4096), ==, LEN);
    g_assert_cmpmem(back, LEN, want, LEN);
    memset(guest, 0, LEN + 7);
    odd.writable = true;
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_IN, 8, &odd, 1, NULL), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest + 7, LEN, want, LEN);

    memset(guest, 0, LEN);
    put_header(f, VIRTIO_BLK_T_IN, 8);
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

static void test_unaligned_range(Fixture *f, gconstpointer data)
{
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    uint8_t want[1536], back[1536];

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    fill(guest, sizeof(want), 5);
    fill(want, sizeof(want), 5);
    g_assert_cmpuint(transfer(f, true, 3, sizeof(want)), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(f->fd, back, sizeof(back), 3 * 512), ==, (ssize_t)sizeof(back));
    g_assert_cmpmem(back, sizeof(back), want, sizeof(want));
    memset(guest, 0, sizeof(want));
    g_assert_cmpuint(transfer(f, false, 3, sizeof(want)), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest, sizeof(want), want, sizeof(want));
}

static void test_many(Fixture *f, gconstpointer data)
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
                fill(guest + i * 4096, 4096, round + i);
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

            fill(want, sizeof(want), round - !write + i);
            g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, statuses + i), ==, 0);
            g_assert_cmpmem(guest + i * 4096, 4096, want, 4096);
        }
    }
    /* Batches: far fewer interrupts than requests. */
    g_assert_cmpuint(f->driver->queues[0].n_interrupts, <, N);
}

static void test_out_of_range(Fixture *f, gconstpointer data)
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
        g_assert_cmpuint(transfer(f, false, bad[i].sector, bad[i].len), ==, VIRTIO_BLK_S_IOERR);
        g_assert_cmpuint(transfer(f, true, bad[i].sector, bad[i].len), ==, VIRTIO_BLK_S_IOERR);
    }
    g_assert_cmpuint(transfer(f, false, DISK_BYTES / 512 - 1, 512), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

static void test_flush_id_unknown(Fixture *f, gconstpointer data)
{
    KumoFakeBuf id = { f->data, 20, true };
    char *guest = kumo_fake_driver_ptr(f->driver, f->data);
    static const char want[20] = "kumo-serial";
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, &len), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(len, ==, 1);
    memset(guest, 0xff, 24);
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_GET_ID, 0, &id, 1, &len), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(len, ==, 21);
    g_assert_cmpmem(guest, 20, want, 20);
    id.len = 4;
    memset(guest, 0xff, 24);
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_GET_ID, 0, &id, 1, NULL), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpmem(guest, 6, "kumo\xff\xff", 6);
    g_assert_cmpuint(request(f, 77, 0, NULL, 0, NULL), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_SECURE_ERASE, 0, NULL, 0, NULL), ==,
                     VIRTIO_BLK_S_UNSUPP);
}

static uint8_t discard(Fixture *f, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes *seg = kumo_fake_driver_ptr(f->driver, f->data);
    KumoFakeBuf buf = { f->data, sizeof(*seg), false };

    *seg = (struct virtio_blk_discard_write_zeroes){ .sector = sector,
                                                     .num_sectors = n,
                                                     .flags = flags };
    return request(f, type, 0, &buf, 1, NULL);
}

static void assert_content(Fixture *f, uint64_t offset, size_t len, int value)
{
    g_autofree uint8_t *back = g_malloc(len);

    g_assert_cmpint(pread(f->fd, back, len, (off_t)offset), ==, (ssize_t)len);
    for (size_t i = 0; i < len; i++)
        g_assert_cmpuint(back[i], ==, value);
}

static void test_discard_zeroes(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *ones = g_malloc(1 << 20);
    KumoFakeBuf two = { f->data, 32, false };
    struct stat st;

    memset(ones, 0x11, 1 << 20);
    g_assert_cmpint(pwrite(f->fd, ones, 1 << 20, 0), ==, 1 << 20);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);

    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 300, 0), ==, VIRTIO_BLK_S_OK);
    assert_content(f, 0, 512, 0x11);
    assert_content(f, 512, 300 * 512, 0);
    assert_content(f, 301 * 512, 4096, 0x11);
    g_assert_cmpuint(
        discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 512, 128, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), ==,
        VIRTIO_BLK_S_OK);
    assert_content(f, 512 * 512, 128 * 512, 0);
    assert_content(f, 640 * 512, 4096, 0x11);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_DISCARD, 1024, 1024, 0), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(fstat(f->fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, DISK_BYTES);

    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_DISCARD, 0, 8, 1), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_DISCARD, DISK_BYTES / 512 - 1, 2, 0), ==,
                     VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_WRITE_ZEROES, ~0ULL, 2, 0), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_DISCARD, 0, ~0U, 0), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_DISCARD, 0, 0, 0), ==, VIRTIO_BLK_S_OK);
    /* Two segments are more than the configuration allows. */
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_DISCARD, 0, &two, 1, NULL), ==, VIRTIO_BLK_S_IOERR);
}

/* What is left where neither hole nor zero range can be had. */
static void test_zeroes_by_writing(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *ones = g_malloc(1 << 20);
    KumoBlkShared shared = { .virtio = f->driver->virtio,
                             .config = f->config,
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
    shared.file = kumo_block_file_open(config, &error);
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
    put_header(f, VIRTIO_BLK_T_WRITE_ZEROES, 0);
    kumo_fake_driver_add(f->driver, 0, bufs, 3);
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, f->status), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(pread(shared.file->fd, ones, 1 << 20, 0), ==, 1 << 20);
    for (size_t i = 0; i < 1 << 20; i++)
        g_assert_cmpuint(ones[i], ==, i >= 512 && i < 1001 * 512 ? 0 : 0x11);
    kumo_blk_queue_stop(queue);
    kumo_blk_queue_free(queue);
    kumo_block_file_close(shared.file);
    unlink(path);
}

static void test_readonly(Fixture *f, gconstpointer data)
{
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_true(f->driver->virtio->offered & FEATURE(VIRTIO_BLK_F_RO));
    g_assert_false(f->driver->virtio->offered & FEATURE(VIRTIO_BLK_F_DISCARD));
    g_assert_cmpuint(transfer(f, true, 0, 512), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(transfer(f, false, 0, 512), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL), ==, VIRTIO_BLK_S_OK);
}

static void test_split_header(Fixture *f, gconstpointer data)
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

    fill(want, 512, 1);
    g_assert_cmpint(pwrite(f->fd, want, 512, 9 * 512), ==, 512);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    put_header(f, VIRTIO_BLK_T_IN, 9);
    kumo_fake_driver_add(f->driver, 0, bufs, 5);
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(len, ==, 513);
    g_assert_cmpmem(guest, 512, want, 512);

    /* Header and data in one buffer, data and status in one buffer. */
    memset(guest, 0, 513);
    put_header(f, VIRTIO_BLK_T_IN, 9);
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
static void test_broken_chains(Fixture *f, gconstpointer data)
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
        put_header(f, VIRTIO_BLK_T_IN, 0);
        kumo_fake_driver_add(f->driver, 0, cases[i].bufs, cases[i].n);
        kumo_fake_driver_kick(f->driver, 0);
        g_assert_true(kumo_fake_driver_wait_broken(f->driver));
        kumo_fake_driver_kick(f->driver, 0); /* of no consequence */
        kumo_fake_driver_stop(f->driver);
        g_atomic_int_set(&f->driver->needs_reset, 0);
    }
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

static void test_noise(Fixture *f, gconstpointer data)
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

/* The file shrinks under the guest: an error for the guest, nothing else. */
static void test_host_error(Fixture *f, gconstpointer data)
{
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpint(ftruncate(f->fd, 4096 + 1024), ==, 0);
    g_assert_cmpuint(transfer(f, false, 8, 8192), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(transfer(f, false, 1000, 512), ==, VIRTIO_BLK_S_IOERR);
    g_assert_cmpuint(transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

static void test_cache_mode(Fixture *f, gconstpointer data)
{
    KumoVirtio *virtio = f->driver->virtio;
    uint8_t byte = 0;
    uint64_t at = offsetof(struct virtio_blk_config, wce);

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    virtio->ops->config_write(virtio, at, &byte, 1);
    virtio->ops->config_read(virtio, at, &byte, 1);
    g_assert_cmpuint(byte, ==, 0);
    g_assert_cmpuint(transfer(f, true, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), ==, VIRTIO_BLK_S_OK);
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

static void test_pause(Fixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, 4096, true },
                            { f->status, 1, true } };
    uint16_t head;
    uint32_t len;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
    g_assert_true(device->ops->pause(device, NULL));
    put_header(f, VIRTIO_BLK_T_IN, 0);
    kumo_fake_driver_add(f->driver, 0, bufs, 3);
    kumo_fake_driver_kick(f->driver, 0);
    g_usleep(20000);
    g_assert_false(kumo_fake_driver_take(f->driver, 0, &head, &len));
    device->ops->resume(device);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

/* Stopping in the middle of much work: everything that was taken is returned, nothing is touched
 * afterwards. */
static uint64_t capacity_bytes(Fixture *f)
{
    uint64_t sectors = 0;

    f->driver->virtio->ops->config_read(f->driver->virtio, 0, (uint8_t *)&sectors, sizeof(sectors));
    return GUINT64_FROM_LE(sectors) * 512;
}

static void test_resize(Fixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    g_autoptr(GError) error = NULL;
    struct stat st;

    /* Before the driver is up. */
    g_assert_true(device->ops->resize(device, DISK_BYTES / 2, &error));
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(capacity_bytes(f), ==, DISK_BYTES / 2);
    g_assert_cmpuint(transfer(f, true, DISK_BYTES / 2 / 512, 512), ==, VIRTIO_BLK_S_IOERR);

    g_assert_true(device->ops->resize(device, 2 * DISK_BYTES, &error));
    g_assert_cmpint(g_atomic_int_get(&f->driver->config_changes), ==, 2);
    g_assert_cmpuint(capacity_bytes(f), ==, 2 * DISK_BYTES);
    g_assert_cmpuint(transfer(f, true, 2 * DISK_BYTES / 512 - 1, 512), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpuint(transfer(f, true, 2 * DISK_BYTES / 512, 512), ==, VIRTIO_BLK_S_IOERR);

    /* Requests that are there at the time come back one way or the other, and none makes the file
     * longer than it shall be. */
    put_header(f, VIRTIO_BLK_T_OUT, DISK_BYTES / 512);
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
    g_assert_cmpuint(transfer(f, true, DISK_BYTES / 512, 512), ==, VIRTIO_BLK_S_IOERR);

    g_assert_false(device->ops->resize(device, 1000, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_cmpuint(capacity_bytes(f), ==, DISK_BYTES);
    g_assert_cmpint(g_atomic_int_get(&f->driver->config_changes), ==, 3);
}

static void test_stop_in_flight(Fixture *f, gconstpointer data)
{
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, 65536, true },
                            { f->status, 1, true } };

    for (unsigned round = 0; round < 30; round++) {
        kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
        put_header(f, VIRTIO_BLK_T_IN, 0);
        for (unsigned i = 0; i < 40; i++)
            kumo_fake_driver_add(f->driver, 0, bufs, 3);
        kumo_fake_driver_kick(f->driver, 0);
        if (round % 3)
            g_usleep(50 * round);
        kumo_fake_driver_stop(f->driver);
    }
}

static void test_multiqueue(Fixture *f, gconstpointer data)
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
        put_header(f, VIRTIO_BLK_T_IN, 0);
        kumo_fake_driver_add(f->driver, q, bufs, 3);
        kumo_fake_driver_kick(f->driver, q);
        g_assert_true(kumo_fake_driver_wait(f->driver, q, &head, &len));
        g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, f->status), ==,
                         VIRTIO_BLK_S_OK);
    }
    g_assert_cmpuint(counter(f, "read_ops"), ==, 4);
}

/* Makes @n reads of @len bytes available on @queue. */
static void add_reads(Fixture *f, unsigned queue, unsigned n, uint32_t len)
{
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, len, true },
                            { f->status, 1, true } };

    put_header(f, VIRTIO_BLK_T_IN, 0);
    for (unsigned i = 0; i < n; i++)
        kumo_fake_driver_add(f->driver, queue, bufs, 3);
    kumo_fake_driver_kick(f->driver, queue);
}

static void wait_reads(Fixture *f, unsigned queue, unsigned n)
{
    uint16_t head;
    uint32_t len;

    for (unsigned i = 0; i < n; i++)
        g_assert_true(kumo_fake_driver_wait(f->driver, queue, &head, &len));
}

/* Ten operations at once, the others at 100 a second; the worker sleeps meanwhile. */
static void test_limit_ops(Fixture *f, gconstpointer data)
{
    int64_t start_us;
    clock_t cpu;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    cpu = clock();
    add_reads(f, 0, 10, 512);
    wait_reads(f, 0, 10);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 100000);
    add_reads(f, 0, 30, 512);
    wait_reads(f, 0, 30);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 295000);
    g_assert_cmpint(clock() - cpu, <, CLOCKS_PER_SEC / 10);
}

/* A megabyte in 100 ms. What is longer than that waits for a full bucket. All queues together. */
static void test_limit_bandwidth(Fixture *f, gconstpointer data)
{
    int64_t start_us;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    for (unsigned q = 0; q < 4; q++)
        add_reads(f, q, 8, 128 << 10);
    for (unsigned q = 0; q < 4; q++)
        wait_reads(f, q, 8);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 295000);
    /* Operations without data are free. */
    start_us = g_get_monotonic_time();
    for (unsigned i = 0; i < 20; i++)
        g_assert_cmpuint(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL), ==, VIRTIO_BLK_S_OK);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 200000);
}

/* Pause and reset do not wait for the limiter, and what waited goes on afterwards. */
static void test_limit_stop(Fixture *f, gconstpointer data)
{
    KumoDevice *device = &f->driver->virtio->device;
    int64_t start_us;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    add_reads(f, 0, 30, 512);
    wait_reads(f, 0, 12);
    start_us = g_get_monotonic_time();
    g_assert_true(device->ops->pause(device, NULL));
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 100000);
    device->ops->resume(device);
    wait_reads(f, 0, 18);
    add_reads(f, 0, 30, 512);
    kumo_fake_driver_stop(f->driver);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    g_assert_cmpuint(transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

/* The second disk of a group finds the bucket as the first has left it. */
static void test_limit_group(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoDiskConfig) config = kumo_disk_config_new();
    KumoFakeDriver first;
    KumoDevice *second;
    int64_t start_us;

    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    start_us = g_get_monotonic_time();
    add_reads(f, 0, 5, 512);
    wait_reads(f, 0, 5);
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
    add_reads(f, 0, 1, 512);
    wait_reads(f, 0, 1);
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
static void test_drain_bound(Fixture *f, gconstpointer data)
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
    file = kumo_block_file_open(config, &error);
    g_assert_no_error(error);
    g_assert_cmpint(unlink(config->path), ==, 0);
    shared.file = file;
    shared.capacity_sectors = DISK_BYTES / 512;
    queue = kumo_blk_queue_new(&shared, 0, QUEUE_SIZE, &stuck_ops, &error);
    g_assert_no_error(error);
    g_assert_true(kumo_blk_queue_start(queue, &virtio->queues[0], &error));
    g_assert_true(kumo_blk_queue_pause(queue, g_get_monotonic_time() + 50000, &error));
    g_assert_true(kumo_blk_queue_start(queue, &virtio->queues[0], &error));
    add_reads(f, 0, 1, 512);
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
    wait_reads(f, 0, 1);
    g_assert_true(kumo_blk_queue_pause(queue, g_get_monotonic_time(), &error));
    kumo_blk_queue_free(queue);
    virtio->ops->resume(virtio);
    g_assert_cmpuint(transfer(f, false, 0, 4096), ==, VIRTIO_BLK_S_OK);
}

/* Linux's drivers put long chains into indirect tables of small queues. */
static void test_small_queue(Fixture *f, gconstpointer data)
{
    enum { N = 62, PART = 512 };
    KumoFakeBuf bufs[N + 2];
    uint8_t *guest = kumo_fake_driver_ptr(f->driver, f->data);
    g_autofree uint8_t *want = g_malloc(N * PART);
    uint16_t head;
    uint32_t len;

    fill(want, N * PART, 4);
    g_assert_cmpint(pwrite(f->fd, want, N * PART, 0), ==, N * PART);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, 4);
    bufs[0] = (KumoFakeBuf){ f->header, 16, false };
    for (unsigned i = 0; i < N; i++)
        bufs[i + 1] = (KumoFakeBuf){ f->data + i * PART, PART, true };
    bufs[N + 1] = (KumoFakeBuf){ f->status, 1, true };
    for (unsigned round = 0; round < 10; round++) {
        put_header(f, VIRTIO_BLK_T_IN, 0);
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

static void test_affinity(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    KumoQueueAffinity *affinity;
    uint64_t all = thread_cpus("_disk0_q2");

    g_assert_cmpuint(thread_cpus("_disk0_q0"), ==, 1);
    g_assert_cmpuint(thread_cpus("_disk0_q1") & all, ==, all & 3);
    kumo_fake_driver_start(f->driver, ALL_FEATURES, QUEUE_SIZE);
    add_reads(f, 0, 1, 4096);
    wait_reads(f, 0, 1);
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
static void test_not_sparse(Fixture *f, gconstpointer data)
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
    g_assert_cmpuint(discard(f, VIRTIO_BLK_T_DISCARD, 0, 1024, 0), ==, VIRTIO_BLK_S_UNSUPP);
    g_assert_cmpuint(
        discard(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1024, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), ==,
        VIRTIO_BLK_S_OK);
    assert_content(f, 0, 4096, 0);
    g_assert_cmpint(fstat(f->fd, &after), ==, 0);
    g_assert_cmpint(after.st_blocks, >=, before.st_blocks);
}

static void add(const char *path, const Variant *variant, void (*func)(Fixture *, gconstpointer))
{
    g_test_add(path, Fixture, variant, setup, func, teardown);
}

int main(int argc, char **argv)
{
    static const Variant direct = { .direct = true }, readonly = { .readonly = true },
                         four = { .num_queues = 4 };
    static const Variant ops = { .limit.ops = { .size = 10, .refill_time_ms = 100 } },
                         bandwidth = { .num_queues = 4,
                                       .limit.bandwidth = { .size = 1 << 20,
                                                            .refill_time_ms = 100 } },
                         group = { .group = "shared" };
    static const Variant aio = { .options = "_disable_io_uring=on" },
                         aio_direct = { .direct = true, .options = "_disable_io_uring=on" },
                         sync = { .options = "_disable_io_uring=on,_disable_aio=on" },
                         pinned = { .num_queues = 3, .options = "queue_affinity=[0@[0],1@[0-1]]" },
                         small = { .queue_size = 4 }, not_sparse = { .options = "sparse=off" };
    static const struct {
        const char *name;
        void (*func)(Fixture *, gconstpointer);
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
    add("/virtio-blk/config", NULL, test_config);
    add("/virtio-blk/write-read", NULL, test_write_read);
    add("/virtio-blk/write-read-direct", &direct, test_write_read);
    add("/virtio-blk/bounce", NULL, test_bounce);
    add("/virtio-blk/bounce-direct", &direct, test_bounce);
    add("/virtio-blk/unaligned-range", NULL, test_unaligned_range);
    add("/virtio-blk/unaligned-range-direct", &direct, test_unaligned_range);
    add("/virtio-blk/many", NULL, test_many);
    add("/virtio-blk/many-direct", &direct, test_many);
    add("/virtio-blk/out-of-range", NULL, test_out_of_range);
    add("/virtio-blk/flush-id-unknown", NULL, test_flush_id_unknown);
    add("/virtio-blk/discard-zeroes", NULL, test_discard_zeroes);
    add("/virtio-blk/zeroes-by-writing", NULL, test_zeroes_by_writing);
    add("/virtio-blk/readonly", &readonly, test_readonly);
    add("/virtio-blk/split-header", NULL, test_split_header);
    add("/virtio-blk/broken-chains", NULL, test_broken_chains);
    add("/virtio-blk/noise", NULL, test_noise);
    add("/virtio-blk/host-error", NULL, test_host_error);
    add("/virtio-blk/cache-mode", NULL, test_cache_mode);
    add("/virtio-blk/pause", NULL, test_pause);
    add("/virtio-blk/resize", NULL, test_resize);
    add("/virtio-blk/resize-direct", &direct, test_resize);
    add("/virtio-blk/stop-in-flight", NULL, test_stop_in_flight);
    add("/virtio-blk/multiqueue", &four, test_multiqueue);
    add("/virtio-blk/limit-ops", &ops, test_limit_ops);
    add("/virtio-blk/limit-bandwidth", &bandwidth, test_limit_bandwidth);
    add("/virtio-blk/limit-stop", &ops, test_limit_stop);
    add("/virtio-blk/limit-group", &group, test_limit_group);
    add("/virtio-blk/drain-bound", NULL, test_drain_bound);
    add("/virtio-blk/affinity", &pinned, test_affinity);
    add("/virtio-blk/small-queue", &small, test_small_queue);
    add("/virtio-blk/not-sparse", &not_sparse, test_not_sparse);
    for (size_t i = 0; i < G_N_ELEMENTS(of_engines); i++) {
        g_autofree char *a = g_strdup_printf("/virtio-blk/aio/%s", of_engines[i].name);
        g_autofree char *b = g_strdup_printf("/virtio-blk/aio-direct/%s", of_engines[i].name);
        g_autofree char *c = g_strdup_printf("/virtio-blk/sync/%s", of_engines[i].name);

        add(a, &aio, of_engines[i].func);
        add(b, &aio_direct, of_engines[i].func);
        add(c, &sync, of_engines[i].func);
    }
    return g_test_run();
}
