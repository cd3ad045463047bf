/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/disk_fixture.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option.h"
#include "vmm-core/devices/block/blk_queue.h"

void disk_setup(KumoDiskFixture *f, gconstpointer data)
{
    const KumoDiskVariant *v = data;
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

void disk_teardown(KumoDiskFixture *f, gconstpointer data)
{
    kumo_fake_driver_free(f->driver);
    kumo_disk_config_free(f->config);
    kumo_fd_clear(&f->fd);
    unlink(f->path);
    g_free(f->path);
}

void disk_put_header(KumoDiskFixture *f, uint32_t type, uint64_t sector)
{
    struct virtio_blk_outhdr *header = kumo_fake_driver_ptr(f->driver, f->header);

    *header =
        (struct virtio_blk_outhdr){ .type = GUINT32_TO_LE(type), .sector = GUINT64_TO_LE(sector) };
    *(uint8_t *)kumo_fake_driver_ptr(f->driver, f->status) = 0xaa;
}

uint8_t disk_request(KumoDiskFixture *f, uint32_t type, uint64_t sector, const KumoFakeBuf *data,
                     unsigned n, uint32_t *ret_len)
{
    KumoFakeBuf bufs[QUEUE_SIZE];
    uint16_t head, got;
    uint32_t len;

    g_assert_cmpuint(n, <=, QUEUE_SIZE - 2);
    disk_put_header(f, type, sector);
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

uint8_t disk_transfer(KumoDiskFixture *f, bool write, uint64_t sector, uint32_t len)
{
    KumoFakeBuf buf = { f->data, len, !write };

    return disk_request(f, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, sector, &buf, 1, NULL);
}

void disk_fill(uint8_t *p, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(i * 31 + i / 512 + seed);
}

uint64_t disk_counter(KumoDiskFixture *f, const char *name)
{
    json_t *counters = f->driver->virtio->device.ops->counters(&f->driver->virtio->device);
    json_t *value = json_object_get(counters, name);
    uint64_t n;

    g_assert_true(json_is_integer(value));
    n = (uint64_t)json_integer_value(value);
    json_decref(counters);
    return n;
}

uint8_t disk_discard(KumoDiskFixture *f, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes *seg = kumo_fake_driver_ptr(f->driver, f->data);
    KumoFakeBuf buf = { f->data, sizeof(*seg), false };

    *seg = (struct virtio_blk_discard_write_zeroes){ .sector = sector,
                                                     .num_sectors = n,
                                                     .flags = flags };
    return disk_request(f, type, 0, &buf, 1, NULL);
}

void disk_assert_content(KumoDiskFixture *f, uint64_t offset, size_t len, int value)
{
    g_autofree uint8_t *back = g_malloc(len);

    g_assert_cmpint(pread(f->fd, back, len, (off_t)offset), ==, (ssize_t)len);
    for (size_t i = 0; i < len; i++)
        g_assert_cmpuint(back[i], ==, value);
}

void disk_add_reads(KumoDiskFixture *f, unsigned queue, unsigned n, uint32_t len)
{
    KumoFakeBuf bufs[3] = { { f->header, 16, false },
                            { f->data, len, true },
                            { f->status, 1, true } };

    disk_put_header(f, VIRTIO_BLK_T_IN, 0);
    for (unsigned i = 0; i < n; i++)
        kumo_fake_driver_add(f->driver, queue, bufs, 3);
    kumo_fake_driver_kick(f->driver, queue);
}

void disk_wait_reads(KumoDiskFixture *f, unsigned queue, unsigned n)
{
    uint16_t head;
    uint32_t len;

    for (unsigned i = 0; i < n; i++)
        g_assert_true(kumo_fake_driver_wait(f->driver, queue, &head, &len));
}

void disk_add(const char *path, const KumoDiskVariant *variant,
              void (*func)(KumoDiskFixture *, gconstpointer))
{
    g_test_add(path, KumoDiskFixture, variant, disk_setup, func, disk_teardown);
}
