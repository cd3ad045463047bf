/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a virtio-blk or virtio-net request costs in the VMM alone: no guest, no exits; the driver's
 * side is tests/fakes/virtio_driver.c in this process. To be run by itself, under callgrind or
 * under strace -fc. Prints a line for each case: requests a second, the worker's CPU time and the
 * interrupts of one request.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/fakes/netns.h"
#include "tests/fakes/virtio_driver.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option.h"
#include "vmm-core/devices/block/virtio_blk.h"
#include "vmm-core/devices/net/virtio_net.h"

enum {
    DISK_BYTES = 64 << 20,
    BLOCK = 4096,
    QUEUE_SIZE = 256,
    MAX_DEPTH = 64,
    NET_HEADER = 12,
};

typedef struct {
    const char *name;
    int64_t start_us;
    uint64_t cpu_ns;
} Measure;

static uint64_t cpu_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* All of the process but this thread: the workers, and what the kernel does for them. */
static uint64_t workers_ns(void)
{
    return cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns(CLOCK_THREAD_CPUTIME_ID);
}

static Measure begin(const char *name)
{
    return (Measure){ .name = name, .start_us = g_get_monotonic_time(), .cpu_ns = workers_ns() };
}

static void end(const Measure *m, unsigned n, uint64_t interrupts)
{
    double us = (double)(g_get_monotonic_time() - m->start_us);
    double worker_us = (double)(workers_ns() - m->cpu_ns) / 1000;

    printf("%-34s %9.0f/s  worker %6.2f us  interrupts %5.3f\n", m->name, n * 1e6 / us,
           worker_us / n, (double)interrupts / n);
}

/* --- virtio-blk --- */

static void bench_blk_depth(KumoFakeDriver *driver, const char *engine, unsigned depth, unsigned n)
{
    uint64_t headers = kumo_fake_driver_alloc(driver, MAX_DEPTH * 16);
    uint64_t statuses = kumo_fake_driver_alloc(driver, MAX_DEPTH);
    uint64_t data = kumo_fake_driver_alloc(driver, MAX_DEPTH * BLOCK);
    uint64_t tables = kumo_fake_driver_alloc(driver, 1);
    g_autofree char *name = g_strdup_printf("blk 4k random read %s, depth %u", engine, depth);
    unsigned sent = 0, done = 0;
    uint32_t seed = 1;
    Measure m;

    kumo_fake_driver_start(driver, ~0ULL, QUEUE_SIZE);
    driver->queues[0].n_interrupts = 0;
    m = begin(name);
    while (done < n) {
        bool any = false;
        uint16_t head;
        uint32_t len;

        while (sent < n && sent - done < depth) {
            unsigned slot = sent % MAX_DEPTH;
            struct virtio_blk_outhdr *header =
                kumo_fake_driver_ptr(driver, headers + slot * sizeof(*header));
            KumoFakeBuf bufs[3] = { { headers + slot * sizeof(*header), 16, false },
                                    { data + slot * BLOCK, BLOCK, true },
                                    { statuses + slot, 1, true } };

            seed = seed * 1664525 + 1013904223;
            *header =
                (struct virtio_blk_outhdr){ .type = VIRTIO_BLK_T_IN,
                                            .sector = (seed >> 8) % (DISK_BYTES / BLOCK) * 8 };
            kumo_fake_driver_add(driver, 0, bufs, 3);
            sent++;
            any = true;
        }
        if (any)
            kumo_fake_driver_kick(driver, 0);
        g_assert_true(kumo_fake_driver_wait(driver, 0, &head, &len));
        done++;
        while (kumo_fake_driver_take(driver, 0, &head, &len))
            done++;
    }
    end(&m, n, driver->queues[0].n_interrupts);
    kumo_fake_driver_stop(driver);
    driver->ram_next = tables;
}

static void bench_blk(unsigned n)
{
    static const char *const engines[][2] = { { "io_uring", "" },
                                              { "io_uring direct", ",direct=on" },
                                              { "aio", ",_disable_io_uring=on" },
                                              { "sync", ",_disable_io_uring=on,_disable_aio=on" } };
    g_autofree char *path = NULL, *block = g_malloc0(1 << 20);
    kumo_auto_fd fd = g_file_open_tmp("kumo-bench-XXXXXX", &path, NULL);

    for (unsigned i = 0; i < DISK_BYTES >> 20; i++)
        g_assert_cmpint(write(fd, block, 1 << 20), ==, 1 << 20);
    for (size_t e = 0; e < G_N_ELEMENTS(engines); e++) {
        g_autoptr(GError) error = NULL;
        KumoFakeDriver *driver = kumo_fake_driver_new();
        g_autofree char *option =
            g_strdup_printf("path=%s,id=_disk0,queue_size=%d%s", path, QUEUE_SIZE, engines[e][1]);
        g_autoptr(KumoDiskConfig) config = kumo_option_parse_disk(option, &error);

        g_assert_no_error(error);
        kumo_device_add(kumo_virtio_blk_new(&driver->machine, config), &error);
        g_assert_no_error(error);
        bench_blk_depth(driver, engines[e][0], 1, n / 4);
        bench_blk_depth(driver, engines[e][0], 32, n);
        kumo_fake_driver_free(driver);
    }
    unlink(path);
}

/* --- virtio-net --- */

static void bench_tx(KumoFakeDriver *driver, unsigned len, unsigned n)
{
    enum { BATCH = 64 };
    uint64_t buf = kumo_fake_driver_alloc(driver, 4096);
    uint8_t *frame = kumo_fake_driver_ptr(driver, buf);
    g_autofree char *name = g_strdup_printf("net transmit, %u bytes", len);
    unsigned sent = 0, done = 0;
    Measure m;

    memset(frame + NET_HEADER, 0xff, 6);
    memcpy(frame + NET_HEADER + 6, "\2\0\0\0\0\1\x88\xb5", 8);
    kumo_fake_driver_start(driver, KUMO_VIRTIO_F_RING_EVENT_IDX, QUEUE_SIZE);
    driver->queues[1].n_interrupts = 0;
    m = begin(name);
    while (done < n) {
        KumoFakeBuf bufs[2] = { { buf, NET_HEADER, false }, { buf + NET_HEADER, len, false } };
        bool any = false;
        uint16_t head;
        uint32_t used;

        while (sent < n && sent - done < BATCH) {
            kumo_fake_driver_add(driver, 1, bufs, 2);
            sent++;
            any = true;
        }
        if (any)
            kumo_fake_driver_kick(driver, 1);
        g_assert_true(kumo_fake_driver_wait(driver, 1, &head, &used));
        done++;
        while (kumo_fake_driver_take(driver, 1, &head, &used))
            done++;
    }
    end(&m, n, driver->queues[1].n_interrupts);
    kumo_fake_driver_stop(driver);
}

static void bench_rx(KumoFakeDriver *driver, int peer, bool tso, unsigned len, unsigned n)
{
    enum { BUF_BYTES = 2048, BURST = 32 };
    uint64_t bufs = kumo_fake_driver_alloc(driver, QUEUE_SIZE * BUF_BYTES);
    uint8_t frame[2000] = { 0 };
    g_autofree char *name = g_strdup_printf("net receive%s, %u bytes", tso ? " with TSO" : "", len);
    unsigned done = 0;
    Measure m;

    memset(frame, 0xff, 6);
    memcpy(frame + 6, "\2\0\0\0\0\1\x88\xb5", 8);
    kumo_fake_driver_start(
        driver,
        KUMO_VIRTIO_F_RING_EVENT_IDX | 1ULL << VIRTIO_NET_F_MRG_RXBUF |
            (tso ? 1ULL << VIRTIO_NET_F_GUEST_CSUM | 1ULL << VIRTIO_NET_F_GUEST_TSO4 : 0),
        QUEUE_SIZE);
    for (unsigned i = 0; i < QUEUE_SIZE; i++) {
        KumoFakeBuf buf = { bufs + i * BUF_BYTES, BUF_BYTES, true };

        kumo_fake_driver_add(driver, 0, &buf, 1);
    }
    kumo_fake_driver_kick(driver, 0);
    driver->queues[0].n_interrupts = 0;
    m = begin(name);
    while (done < n) {
        for (unsigned i = 0; i < BURST; i++)
            g_assert_cmpint(send(peer, frame, len, 0), ==, (ssize_t)len);
        for (unsigned i = 0; i < BURST; i++) {
            uint16_t head;
            uint32_t used;

            g_assert_true(kumo_fake_driver_wait(driver, 0, &head, &used));
            kumo_fake_driver_publish(driver, 0, head);
            done++;
        }
        kumo_fake_driver_kick(driver, 0);
    }
    end(&m, n, driver->queues[0].n_interrupts);
    kumo_fake_driver_stop(driver);
}

static void bench_net(unsigned n)
{
    struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5) };
    struct ifreq ifr = { .ifr_name = "kumobench0" };
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoNetConfig) config = NULL;
    kumo_auto_fd peer = -1;
    const char *skip = kumo_test_enter_netns();
    KumoFakeDriver *driver;

    if (skip) {
        printf("net: left out: %s\n", skip);
        return;
    }
    driver = kumo_fake_driver_new();
    config = kumo_option_parse_net("tap=kumobench0,id=_net0", &error);
    g_assert_no_error(error);
    kumo_device_add(kumo_virtio_net_new(&driver->machine, config), &error);
    g_assert_no_error(error);
    peer = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    g_assert_cmpint(ioctl(peer, SIOCGIFINDEX, &ifr), ==, 0);
    addr.sll_ifindex = ifr.ifr_ifindex;
    addr.sll_protocol = 0; /* sends only */
    g_assert_cmpint(bind(peer, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    bench_tx(driver, 60, n);
    bench_tx(driver, 1514, n);
    bench_rx(driver, peer, false, 60, n);
    bench_rx(driver, peer, true, 60, n);
    bench_rx(driver, peer, true, 1514, n);
    kumo_fake_driver_free(driver);
}

int main(int argc, char **argv)
{
    unsigned n = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 100000;
    const char *what = argc > 1 ? argv[1] : "all";

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(what, "net") != 0)
        bench_blk(n);
    if (strcmp(what, "blk") != 0)
        bench_net(n);
    return 0;
}
