/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What comes to a virtio-net device, and waits for the guest's buffers. */
#include <linux/virtio_net.h>
#include <string.h>
#include <time.h>

#include "tests/fakes/net_fixture.h"

static void test_receive(KumoNetFixture *f, gconstpointer data)
{
    uint8_t want[600];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC, QUEUE_SIZE);
    net_give_buffers(f, QUEUE_SIZE, BUF_BYTES);
    for (unsigned i = 0; i < 50; i++) {
        struct virtio_net_hdr_v1 header;

        net_host_send(f, sizeof(want), i);
        net_make_frame(want, sizeof(want), i);
        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        g_assert_cmpuint(head, ==, i);
        g_assert_cmpuint(len, ==, sizeof(want) + HEADER);
        memcpy(&header, net_buffer(f, head), HEADER);
        g_assert_cmpuint(header.num_buffers, ==, 1);
        g_assert_cmpuint(header.gso_type, ==, VIRTIO_NET_HDR_GSO_NONE);
        g_assert_cmpmem(net_buffer(f, head) + HEADER, sizeof(want), want, sizeof(want));
    }
    g_assert_cmpuint(net_counter(f, "rx_frames"), ==, 50);
    g_assert_cmpuint(net_counter(f, "rx_bytes"), ==, 50 * sizeof(want));
}

/* A frame larger than one buffer fills several. */
static void test_mergeable(KumoNetFixture *f, gconstpointer data)
{
    enum { LEN = 5000, ROUNDS = 4 };
    uint8_t want[LEN], got[LEN + HEADER + BUF_BYTES];

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
    net_give_buffers(f, QUEUE_SIZE, BUF_BYTES);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct virtio_net_hdr_v1 header;
        unsigned n = (LEN + HEADER + BUF_BYTES - 1) / BUF_BYTES;
        size_t at = 0;

        net_host_send(f, LEN, i);
        net_make_frame(want, LEN, i);
        for (unsigned j = 0; j < n; j++) {
            uint16_t head;
            uint32_t len;

            g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
            g_assert_cmpuint(head, ==, i * n + j);
            if (j == 0)
                memcpy(&header, net_buffer(f, head), HEADER);
            memcpy(got + at, net_buffer(f, head), len);
            at += len;
        }
        g_assert_cmpuint(header.num_buffers, ==, n);
        g_assert_cmpuint(at, ==, LEN + HEADER);
        g_assert_cmpmem(got + HEADER, LEN, want, LEN);
    }
}

/* A large frame after many small ones, when it is not expected. */
static void test_large_after_small(KumoNetFixture *f, gconstpointer data)
{
    enum { SMALL = 300, SMALL_N = 100, LARGE = 8000, PARTS = 4 };
    uint8_t want[LARGE], got[PARTS * BUF_BYTES];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
    net_give_buffers(f, QUEUE_SIZE, BUF_BYTES);
    for (unsigned round = 0; round < 2; round++) {
        struct virtio_net_hdr_v1 header;
        size_t at = 0;

        for (unsigned i = 0; i < SMALL_N; i++) {
            net_host_send(f, SMALL, i);
            net_make_frame(want, SMALL, i);
            g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
            g_assert_cmpuint(len, ==, SMALL + HEADER);
            g_assert_cmpmem(net_buffer(f, head) + HEADER, SMALL, want, SMALL);
            kumo_fake_driver_publish(f->driver, 0, head);
            kumo_fake_driver_kick(f->driver, 0);
        }
        net_host_send(f, LARGE, 7);
        net_make_frame(want, LARGE, 7);
        for (unsigned i = 0; i < PARTS; i++) {
            g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
            memcpy(got + at, net_buffer(f, head), len);
            at += len;
            kumo_fake_driver_publish(f->driver, 0, head);
        }
        kumo_fake_driver_kick(f->driver, 0);
        memcpy(&header, got, HEADER);
        g_assert_cmpuint(header.num_buffers, ==, PARTS);
        g_assert_cmpuint(at, ==, LARGE + HEADER);
        g_assert_cmpmem(got + HEADER, LARGE, want, LARGE);
    }
}

/* Does not fit into the guest's only buffer: dropped, and the buffer serves the next frame. */
static void test_too_large(KumoNetFixture *f, gconstpointer data)
{
    uint8_t want[300];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC, QUEUE_SIZE);
    net_give_buffers(f, 1, 512);
    net_host_send(f, 3000, 1);
    net_host_send(f, sizeof(want), 2);
    net_make_frame(want, sizeof(want), 2);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(len, ==, sizeof(want) + HEADER);
    g_assert_cmpmem(net_buffer(f, head) + HEADER, sizeof(want), want, sizeof(want));
}

/* The device sleeps with a frame in hand. */
static void assert_held(KumoNetFixture *f)
{
    clock_t before;
    uint16_t head;
    uint32_t len;

    g_usleep(20000);
    before = clock();
    g_usleep(100000);
    g_assert_cmpint(clock() - before, <, CLOCKS_PER_SEC / 20);
    g_assert_false(kumo_fake_driver_take(f->driver, 0, &head, &len));
}

/* A large frame for which there are too few buffers waits for more, and those behind it do. */
static void test_few_buffers(KumoNetFixture *f, gconstpointer data)
{
    enum { LARGE = 5000, PARTS = 3, SMALL = 300 };
    uint8_t want[LARGE], got[PARTS * BUF_BYTES];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
    for (unsigned round = 0; round < 3; round++) {
        unsigned first = round * (PARTS + 1);
        struct virtio_net_hdr_v1 header;
        size_t at = 0;

        net_give_more_buffers(f, first, 1, BUF_BYTES);
        net_host_send(f, LARGE, round);
        net_host_send(f, SMALL, round);
        assert_held(f);
        net_give_more_buffers(f, first + 1, 1, BUF_BYTES);
        assert_held(f);
        net_give_more_buffers(f, first + 2, 2, BUF_BYTES);

        net_make_frame(want, LARGE, round);
        for (unsigned i = 0; i < PARTS; i++) {
            g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
            memcpy(got + at, net_buffer(f, head), len);
            at += len;
        }
        memcpy(&header, got, HEADER);
        g_assert_cmpuint(header.num_buffers, ==, PARTS);
        g_assert_cmpuint(at, ==, LARGE + HEADER);
        g_assert_cmpmem(got + HEADER, LARGE, want, LARGE);
        net_make_frame(want, SMALL, round);
        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        g_assert_cmpuint(len, ==, SMALL + HEADER);
        g_assert_cmpmem(net_buffer(f, head) + HEADER, SMALL, want, SMALL);
    }
    g_assert_cmpuint(net_counter(f, "rx_frames"), ==, 6);
}

/* No driver adds buffers to a ring that is half full: what does not fit then never will. */
static void test_small_buffers(KumoNetFixture *f, gconstpointer data)
{
    enum { LARGE = 9000, SMALL = 30 };
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
    net_give_buffers(f, QUEUE_SIZE / 2, 64);
    net_host_send(f, LARGE, 1);
    net_host_send(f, SMALL, 2);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(head, ==, 0);
    g_assert_cmpuint(len, ==, SMALL + HEADER);
}

/* What is held is let go when the machine stands still: the network may lose it. */
static void test_held_over_pause(KumoNetFixture *f, gconstpointer data)
{
    KumoDevice *device;
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    device = &f->driver->virtio->device;
    kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
    net_give_buffers(f, 1, BUF_BYTES);
    net_host_send(f, 5000, 1);
    assert_held(f);
    g_assert_true(device->ops->pause(device, NULL));
    g_assert_cmpuint(f->driver->virtio->queues[0].last_avail, ==, 0);
    device->ops->resume(device);
    net_host_send(f, 300, 2);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(len, ==, 300 + HEADER);
}

/* Frames wait in the tap until the guest has buffers, and the worker sleeps meanwhile. */
static void test_no_buffers(KumoNetFixture *f, gconstpointer data)
{
    clock_t before;
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
    for (unsigned i = 0; i < 5; i++)
        net_host_send(f, 200, i);
    g_usleep(20000);
    before = clock();
    g_usleep(300000);
    g_assert_cmpint(clock() - before, <, CLOCKS_PER_SEC / 10);
    net_give_buffers(f, 10, BUF_BYTES);
    for (unsigned i = 0; i < 5; i++) {
        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        g_assert_cmpuint(len, ==, 200 + HEADER);
    }
    g_assert_false(kumo_fake_driver_take(f->driver, 0, &head, &len));
}

/* Buffers taken in advance go back to the ring: none is lost or used twice. */
static void test_pause(KumoNetFixture *f, gconstpointer data)
{
    KumoDevice *device;
    uint8_t want[200];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    device = &f->driver->virtio->device;
    kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
    net_give_buffers(f, 40, BUF_BYTES);
    for (unsigned i = 0; i < 40; i++) {
        net_host_send(f, sizeof(want), i);
        net_make_frame(want, sizeof(want), i);
        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        g_assert_cmpuint(head, ==, i);
        g_assert_cmpmem(net_buffer(f, head) + HEADER, sizeof(want), want, sizeof(want));
        if (i % 4 == 0) {
            g_assert_true(device->ops->pause(device, NULL));
            g_assert_cmpuint(f->driver->virtio->queues[0].last_avail, ==, i + 1);
            device->ops->resume(device);
        }
    }
}

int main(int argc, char **argv)
{
    net_test_init(&argc, &argv);
    net_add("/virtio-net-receive/receive", 1, test_receive);
    net_add("/virtio-net-receive/mergeable", 1, test_mergeable);
    net_add("/virtio-net-receive/large-after-small", 1, test_large_after_small);
    net_add("/virtio-net-receive/too-large", 1, test_too_large);
    net_add("/virtio-net-receive/few-buffers", 1, test_few_buffers);
    net_add("/virtio-net-receive/small-buffers", 1, test_small_buffers);
    net_add("/virtio-net-receive/held-over-pause", 1, test_held_over_pause);
    net_add("/virtio-net-receive/no-buffers", 1, test_no_buffers);
    net_add("/virtio-net-receive/pause", 1, test_pause);
    return g_test_run();
}
