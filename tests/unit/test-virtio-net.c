/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fakes/net_fixture.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/idle_poll.h"

static void test_config(KumoNetFixture *f, gconstpointer data)
{
    struct virtio_net_config space;
    uint64_t offered;

    if (net_skipped())
        return;
    offered = f->driver->virtio->offered;
    f->driver->virtio->ops->config_read(f->driver->virtio, 0, (uint8_t *)&space, sizeof(space));
    g_assert_cmpmem(space.mac, 6, "\x52\x54\0\1\2\3", 6);
    g_assert_cmpuint(space.status, ==, VIRTIO_NET_S_LINK_UP);
    g_assert_cmpuint(space.max_virtqueue_pairs, ==, 1);
    g_assert_cmpuint(space.mtu, ==, 9000);
    g_assert_cmpuint(space.speed, ==, 0);
    g_assert_true(offered & FEATURE(VIRTIO_NET_F_MTU));
    g_assert_true(offered & FEATURE(VIRTIO_NET_F_GUEST_TSO4));
    g_assert_false(offered & MQ);
    g_assert_cmpuint(f->driver->virtio->n_queues, ==, 3);
}

static void test_random_mac(void)
{
    g_autoptr(GError) error = NULL;
    KumoFakeDriver *driver;
    KumoNetConfig *config;

    if (net_skipped())
        return;
    driver = kumo_fake_driver_new();
    config = kumo_net_config_new();
    config->pci.id = g_strdup("_net0");
    config->queue_size = QUEUE_SIZE;
    g_ptr_array_add(driver->config->nets, config);
    g_assert_true(kumo_device_type_virtio_net.create(&driver->machine, driver->config, &error));
    g_assert_no_error(error);
    driver->virtio->device.ops->report(&driver->virtio->device, driver->config);
    g_assert_nonnull(config->mac);
    g_assert_cmpuint(strlen(config->mac), ==, 17);
    g_assert_cmpuint(g_ascii_xdigit_value(config->mac[1]) & 3, ==, 2);
    kumo_fake_driver_free(driver);
}

static void test_transmit(KumoNetFixture *f, gconstpointer data)
{
    enum { LEN = 900 };
    uint8_t want[LEN], got[2000];
    uint64_t at = f->buf + HEADER;
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC, QUEUE_SIZE);
    for (unsigned i = 0; i < 30; i++) {
        KumoFakeBuf two[2] = { { f->buf, HEADER, false }, { at, LEN, false } };
        KumoFakeBuf split[3] = { { f->buf, 5, false },
                                 { f->buf + 5, 100, false },
                                 { f->buf + 105, LEN - 93, false } };

        net_make_frame(want, LEN, i);
        memset(net_buffer(f, 0), 0, HEADER);
        memcpy(net_buffer(f, 0) + HEADER, want, LEN);
        if (i % 2)
            kumo_fake_driver_add(f->driver, 1, two, 2);
        else
            kumo_fake_driver_add_indirect(f->driver, 1, split, 3);
        kumo_fake_driver_kick(f->driver, 1);
        g_assert_true(kumo_fake_driver_wait(f->driver, 1, &head, &len));
        g_assert_cmpuint(len, ==, 0);
        g_assert_cmpint(recv(f->peer, got, sizeof(got), 0), ==, LEN);
        g_assert_cmpmem(got, LEN, want, LEN);
    }
    g_assert_cmpuint(net_counter(f, "tx_frames"), ==, 30);
    g_assert_cmpuint(net_counter(f, "tx_bytes"), ==, 30 * LEN);
}

/* A driver that goes on at once and kicks only when it is asked to: no frame waits for a kick that
 * is not asked for, while the worker looks at the ring and when it goes to sleep. */
static void test_transmit_quickly(KumoNetFixture *f, gconstpointer data)
{
    enum { LEN = 100, N = 20000 };
    KumoFakeBuf frame = { f->buf, HEADER + LEN, false };
    unsigned n_kicks = 0;
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC, QUEUE_SIZE);
    net_give_buffers(f, 1, BUF_BYTES);
    memset(net_buffer(f, 0), 0, HEADER);
    net_make_frame(net_buffer(f, 0) + HEADER, LEN, 1);
    for (unsigned i = 0; i < N; i++) {
        gint64 end = g_get_monotonic_time() + 10 * G_TIME_SPAN_SECOND;

        kumo_fake_driver_add(f->driver, 1, &frame, 1);
        if (kumo_fake_driver_kick_if_wanted(f->driver, 1))
            n_kicks++;
        while (!kumo_fake_driver_take(f->driver, 1, &head, &len))
            g_assert_cmpint(g_get_monotonic_time(), <, end);
        if (i % 500 == 0) /* longer than it looks */
            g_usleep(2 * KUMO_IDLE_POLL_MAX_NS / 1000);
        if (i == N / 2) /* the tap has its turn meanwhile */
            net_host_send(f, 60, 2);
    }
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(net_counter(f, "tx_frames"), ==, N);
    g_assert_cmpuint(n_kicks, >, 0);
    g_test_message("%u kicks for %u frames", n_kicks, N);
}

/* What the kernel refuses is dropped and returned; the device goes on. */
static void test_transmit_refused(KumoNetFixture *f, gconstpointer data)
{
    const struct virtio_net_hdr_v1 bad[] = {
        { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 60000, .csum_offset = 2 },
        { .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 0, .hdr_len = 65535 },
        { .gso_type = 0x7f, .gso_size = 100 },
    };
    KumoFakeBuf frame = { f->buf, HEADER + 100, false };
    KumoFakeBuf tiny = { f->buf, HEADER, false };
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver, BASIC, QUEUE_SIZE);
    net_make_frame(net_buffer(f, 0) + HEADER, 100, 1);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        memcpy(net_buffer(f, 0), &bad[i], HEADER);
        kumo_fake_driver_add(f->driver, 1, &frame, 1);
        kumo_fake_driver_kick(f->driver, 1);
        g_assert_true(kumo_fake_driver_wait(f->driver, 1, &head, &len));
    }
    memset(net_buffer(f, 0), 0, HEADER);
    kumo_fake_driver_add(f->driver, 1, &tiny, 1);
    kumo_fake_driver_kick(f->driver, 1);
    g_assert_true(kumo_fake_driver_wait(f->driver, 1, &head, &len));
    g_assert_cmpuint(net_counter(f, "tx_frames"), ==, 0);
    kumo_fake_driver_add(f->driver, 1, &frame, 1);
    kumo_fake_driver_kick(f->driver, 1);
    g_assert_true(kumo_fake_driver_wait(f->driver, 1, &head, &len));
    g_assert_cmpuint(net_counter(f, "tx_frames"), ==, 1);
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

static uint8_t control(KumoNetFixture *f, unsigned queue, uint8_t class, uint8_t cmd,
                       const void *data, uint32_t data_len)
{
    uint64_t at = kumo_fake_driver_alloc(f->driver, 64);
    uint8_t *p = kumo_fake_driver_ptr(f->driver, at);
    KumoFakeBuf bufs[3] = { { at, 2, false }, { at + 2, data_len, false }, { at + 40, 1, true } };
    uint16_t head;
    uint32_t len;

    p[0] = class;
    p[1] = cmd;
    if (data_len)
        memcpy(p + 2, data, data_len);
    p[40] = 0xaa;
    if (!data_len)
        bufs[1] = bufs[2];
    kumo_fake_driver_add(f->driver, queue, bufs, data_len ? 3 : 2);
    kumo_fake_driver_kick(f->driver, queue);
    g_assert_true(kumo_fake_driver_wait(f->driver, queue, &head, &len));
    g_assert_cmpuint(len, ==, 1);
    return p[40];
}

static void test_control(KumoNetFixture *f, gconstpointer data)
{
    uint64_t offloads = FEATURE(VIRTIO_NET_F_GUEST_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_TSO4);
    uint64_t foreign = FEATURE(VIRTIO_NET_F_GUEST_TSO6);
    uint8_t on = 1;

    if (net_skipped())
        return;
    kumo_fake_driver_start(f->driver,
                           BASIC | CONTROL | offloads | FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
                           QUEUE_SIZE);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), ==,
                     VIRTIO_NET_OK);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_VLAN, 0, "\1\0", 2), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 0), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &offloads, 8), ==,
                     VIRTIO_NET_OK);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &foreign, 8), ==,
                     VIRTIO_NET_ERR);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &offloads, 7), ==,
                     VIRTIO_NET_ERR);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_MQ, 0, "\1\0", 2), ==, VIRTIO_NET_ERR);
    g_assert_cmpuint(control(f, 2, 99, 0, NULL, 0), ==, VIRTIO_NET_ERR);
}

static void test_multi_queue(KumoNetFixture *f, gconstpointer data)
{
    KumoFakeBuf frame = { f->buf, HEADER + 100, false };
    uint8_t got[200];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    /* Without MQ negotiated the control queue is the third. */
    kumo_fake_driver_start(f->driver, BASIC | CONTROL, QUEUE_SIZE);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_MQ, 0, "\2\0", 2), ==, VIRTIO_NET_ERR);
    kumo_fake_driver_stop(f->driver);

    for (unsigned round = 0; round < 3; round++) {
        f->driver->ram_next = 4 << 20;
        kumo_fake_driver_start(f->driver, BASIC | CONTROL | MQ, QUEUE_SIZE);
        g_assert_cmpuint(control(f, 8, VIRTIO_NET_CTRL_MQ, 0, "\0\0", 2), ==, VIRTIO_NET_ERR);
        g_assert_cmpuint(control(f, 8, VIRTIO_NET_CTRL_MQ, 0, "\5\0", 2), ==, VIRTIO_NET_ERR);
        g_assert_cmpuint(control(f, 8, VIRTIO_NET_CTRL_MQ, 0, "\4\0", 2), ==, VIRTIO_NET_OK);
        memset(net_buffer(f, 0), 0, HEADER);
        net_make_frame(net_buffer(f, 0) + HEADER, 100, 1);
        for (unsigned pair = 0; pair < 4; pair++) {
            kumo_fake_driver_add(f->driver, 2 * pair + 1, &frame, 1);
            kumo_fake_driver_kick(f->driver, 2 * pair + 1);
            g_assert_true(kumo_fake_driver_wait(f->driver, 2 * pair + 1, &head, &len));
            g_assert_cmpint(recv(f->peer, got, sizeof(got), 0), ==, 100);
        }
        g_assert_cmpuint(control(f, 8, VIRTIO_NET_CTRL_MQ, 0, "\2\0", 2), ==, VIRTIO_NET_OK);
        kumo_fake_driver_stop(f->driver);
    }
}

static void test_broken_chains(KumoNetFixture *f, gconstpointer data)
{
    const struct {
        unsigned queue;
        KumoFakeBuf buf;
    } cases[] = {
        { 1, { f->buf, 11, false } },                    /* no whole header */
        { 1, { f->buf, 100, true } },                    /* to be written by us */
        { 1, { KUMO_FAKE_RAM_BYTES - 50, 100, false } }, /* not in memory */
        { 0, { f->buf, 100, false } },                   /* not to be written by us */
        { 0, { ~0ULL - 50, 100, true } },                /* wraps */
        { 2, { f->buf, 2, false } },                     /* no status byte */
        { 2, { f->buf, 1, true } },                      /* no command */
    };

    if (net_skipped())
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        kumo_fake_driver_start(f->driver, BASIC | CONTROL | MERGEABLE, QUEUE_SIZE);
        net_host_send(f, 100, 1);
        kumo_fake_driver_add(f->driver, cases[i].queue, &cases[i].buf, 1);
        kumo_fake_driver_kick(f->driver, cases[i].queue);
        g_assert_true(kumo_fake_driver_wait_broken(f->driver));
        kumo_fake_driver_stop(f->driver);
        g_atomic_int_set(&f->driver->needs_reset, 0);
    }
}

static void test_noise(KumoNetFixture *f, gconstpointer data)
{
    if (net_skipped())
        return;
    for (unsigned round = 0; round < 60; round++) {
        unsigned queue = round % 3;

        f->driver->ram_next = 4 << 20;
        kumo_fake_driver_start(f->driver, BASIC | CONTROL | MERGEABLE, 16);
        for (unsigned i = 0; i < 16; i++)
            kumo_fake_driver_desc(f->driver, queue, i,
                                  g_test_rand_bit() ? (uint64_t)g_test_rand_int_range(0, 1 << 20)
                                                    : (uint64_t)g_test_rand_int() << 20,
                                  g_test_rand_int_range(0, 2000), g_test_rand_int_range(0, 8),
                                  g_test_rand_int_range(0, 20));
        for (unsigned i = 0; i < 16; i++)
            kumo_fake_driver_publish(f->driver, queue, g_test_rand_int_range(0, 17));
        net_host_send(f, 1000, round);
        kumo_fake_driver_kick(f->driver, queue);
        if (round % 5 == 0)
            g_usleep(1000);
        kumo_fake_driver_stop(f->driver);
    }
}

/* With the link down frames are dropped on the way out; nothing spins and all comes back when it is
 * up. */
static void test_link_down(KumoNetFixture *f, gconstpointer data)
{
    KumoFakeBuf frame = { f->buf, HEADER + 100, false };
    struct ifreq ifr = { 0 };
    uint8_t got[200];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    g_strlcpy(ifr.ifr_name, NET_TAP, sizeof(ifr.ifr_name));
    kumo_fake_driver_start(f->driver, BASIC, QUEUE_SIZE);
    net_make_frame(net_buffer(f, 0) + HEADER, 100, 1);
    for (unsigned up = 0; up < 2; up++) {
        clock_t before;

        ifr.ifr_flags = up ? IFF_UP : 0;
        g_assert_cmpint(ioctl(f->peer, SIOCSIFFLAGS, &ifr), ==, 0);
        before = clock();
        kumo_fake_driver_add(f->driver, 1, &frame, 1);
        kumo_fake_driver_kick(f->driver, 1);
        g_assert_true(kumo_fake_driver_wait(f->driver, 1, &head, &len));
        g_usleep(100000);
        g_assert_cmpint(clock() - before, <, CLOCKS_PER_SEC / 20);
        g_assert_cmpuint(net_counter(f, "tx_frames"), ==, up);
    }
    /* The socket first tells of the link's fall. */
    if (recv(f->peer, got, sizeof(got), 0) < 0)
        g_assert_cmpint(recv(f->peer, got, sizeof(got), 0), ==, 100);
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

/* Chains of 19 buffers in indirect tables, as Linux makes them, in queues of 4. */
static void test_small_queues(KumoNetFixture *f, gconstpointer data)
{
    enum { N = 19, PART = 60, LEN = (N - 1) * PART };
    KumoFakeBuf bufs[N] = { { f->buf, HEADER, false } };
    uint8_t want[LEN], got[LEN + 100];
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    for (unsigned i = 1; i < N; i++)
        bufs[i] = (KumoFakeBuf){ f->buf + HEADER + (i - 1) * PART, PART, false };
    kumo_fake_driver_start(f->driver, BASIC, 4);
    for (unsigned round = 0; round < 10; round++) {
        net_make_frame(want, LEN, round);
        memset(net_buffer(f, 0), 0, HEADER);
        memcpy(net_buffer(f, 0) + HEADER, want, LEN);
        for (unsigned i = 0; i < N; i++)
            bufs[i].writable = false;
        kumo_fake_driver_add_indirect(f->driver, 1, bufs, N);
        kumo_fake_driver_kick(f->driver, 1);
        g_assert_true(kumo_fake_driver_wait(f->driver, 1, &head, &len));
        g_assert_cmpint(recv(f->peer, got, sizeof(got), 0), ==, LEN);
        g_assert_cmpmem(got, LEN, want, LEN);

        memset(net_buffer(f, 0), 0, HEADER + LEN);
        for (unsigned i = 0; i < N; i++)
            bufs[i].writable = true;
        kumo_fake_driver_add_indirect(f->driver, 0, bufs, N);
        kumo_fake_driver_kick(f->driver, 0);
        net_host_send(f, LEN, round);
        g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        g_assert_cmpuint(len, ==, HEADER + LEN);
        g_assert_cmpmem(net_buffer(f, 0) + HEADER, LEN, want, LEN);
    }
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

static uint16_t link_status(KumoNetFixture *f)
{
    struct virtio_net_config space;

    f->driver->virtio->ops->config_read(f->driver->virtio, 0, (uint8_t *)&space, sizeof(space));
    return space.status;
}

static void test_announce(KumoNetFixture *f, gconstpointer data)
{
    static const uint8_t want[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2,
                                    3,    0x80, 0x35, 0,    1,    8,    0,    6,    4, 0, 3,
                                    0x52, 0x54, 0,    1,    2,    3,    0,    0,    0, 0, 0x52,
                                    0x54, 0,    1,    2,    3,    0,    0,    0,    0 };
    struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(0x8035) };
    kumo_auto_fd rarp = -1;
    struct ifreq ifr = { .ifr_name = NET_TAP };
    KumoDevice *device;
    uint8_t got[100];

    if (net_skipped())
        return;
    rarp = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    g_assert_cmpint(ioctl(rarp, SIOCGIFINDEX, &ifr), ==, 0);
    addr.sll_ifindex = ifr.ifr_ifindex;
    g_assert_cmpint(bind(rarp, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);

    device = &f->driver->virtio->device;
    /* Without a driver, or one that cannot, there is still the frame. */
    g_assert_false(kumo_virtio_net_announce(device));
    kumo_fake_driver_start(f->driver, BASIC | CONTROL, QUEUE_SIZE);
    g_assert_false(kumo_virtio_net_announce(device));
    kumo_fake_driver_stop(f->driver);
    kumo_fake_driver_start(f->driver, BASIC | CONTROL | FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE),
                           QUEUE_SIZE);
    g_assert_cmpint(g_atomic_int_get(&f->driver->config_changes), ==, 0);
    g_assert_true(kumo_virtio_net_announce(device));
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpint(recv(rarp, got, sizeof(got), MSG_DONTWAIT), ==, 60);
        g_assert_cmpmem(got, sizeof(want), want, sizeof(want));
    }
    g_assert_cmpint(g_atomic_int_get(&f->driver->config_changes), ==, 1);
    g_assert_cmpuint(link_status(f), ==, VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    g_assert_cmpuint(control(f, 2, VIRTIO_NET_CTRL_ANNOUNCE, 0, NULL, 0), ==, VIRTIO_NET_OK);
    g_assert_cmpuint(link_status(f), ==, VIRTIO_NET_S_LINK_UP);
    /* A reset forgets the question. */
    g_assert_true(kumo_virtio_net_announce(device));
    kumo_fake_driver_stop(f->driver);
    g_assert_cmpuint(link_status(f), ==, VIRTIO_NET_S_LINK_UP);
}

static bool run_ip(const char *args)
{
    g_autofree char *line = g_strdup_printf("ip %s", args);
    int status;

    return g_spawn_command_line_sync(line, NULL, NULL, &status, NULL) &&
           g_spawn_check_wait_status(status, NULL);
}

/* Opens a queue of macvtap @name as a management layer does. Returns: -1 if that cannot be done. */
static int open_macvtap(const char *name)
{
    kumo_auto_fd sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = { .ifr_flags = 0 };
    g_autofree char *node = NULL;
    int fd;

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    if (ioctl(sock, SIOCGIFINDEX, &ifr) < 0)
        return -1;
    node = g_strdup_printf("/dev/tap%d", ifr.ifr_ifindex);
    fd = open(node, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    g_assert_cmpint(ioctl(fd, TUNSETIFF, &ifr), ==, 0);
    g_assert_cmpint(ioctl(fd, TUNGETIFF, &ifr), ==, 0);
    /* The node may be that of another network namespace. */
    if (strcmp(ifr.ifr_name, name) != 0)
        kumo_fd_clear(&fd);
    return fd;
}

/* A macvtap on one end of a cable, handed over as descriptors; the peer is the other end. */
static void test_macvtap(void)
{
    KumoNetFixture f = { .peer = -1 };
    struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(NET_ETHERTYPE) };
    struct timeval limit = { .tv_sec = 10 };
    struct ifreq ifr = { .ifr_name = "kumocable1" };
    g_autoptr(GError) error = NULL;
    uint8_t want[700], got[1000];
    KumoFakeBuf frame;
    uint16_t head;
    uint32_t len;
    int fds[2] = { -1, -1 };
    /* The node in /dev has the name of the number, of which another namespace may have the same. */
    g_autofree char *add_macvtap =
        g_strdup_printf("link add link kumocable0 name kumomv0 index %d address 52:54:00:01:02:03"
                        " numtxqueues 2 numrxqueues 2 type macvtap mode bridge",
                        200000 + (int)getpid());

    if (net_skipped())
        return;
    if (run_ip("link add kumocable0 type veth peer name kumocable1") &&
        run_ip("link set kumocable0 up") && run_ip("link set kumocable1 up") &&
        run_ip(add_macvtap) && run_ip("link set kumomv0 up")) {
        fds[0] = open_macvtap("kumomv0");
        fds[1] = open_macvtap("kumomv0");
    }
    if (fds[0] < 0 || fds[1] < 0) {
        g_test_skip("no macvtap interface can be made");
        kumo_fd_clear(&fds[0]);
        kumo_fd_clear(&fds[1]);
        return;
    }
    f.driver = kumo_fake_driver_new();
    f.config = kumo_net_config_new();
    f.config->pci.id = g_strdup("_net0");
    f.config->num_queues = 4;
    f.config->queue_size = QUEUE_SIZE;
    f.config->mac = g_strdup("52:54:00:01:02:03");
    f.config->fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_append_vals(f.config->fds, fds, 2);
    kumo_device_add(kumo_virtio_net_new(&f.driver->machine, f.config), &error);
    g_assert_no_error(error);
    f.peer = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(NET_ETHERTYPE));
    g_assert_cmpint(ioctl(f.peer, SIOCGIFINDEX, &ifr), ==, 0);
    addr.sll_ifindex = ifr.ifr_ifindex;
    g_assert_cmpint(bind(f.peer, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(setsockopt(f.peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), ==, 0);
    f.buf = kumo_fake_driver_alloc(f.driver, QUEUE_SIZE * BUF_BYTES);

    g_assert_true(f.driver->virtio->offered & FEATURE(VIRTIO_NET_F_GUEST_TSO4));
    for (unsigned round = 0; round < 2; round++) {
        kumo_fake_driver_start(f.driver,
                               BASIC | CONTROL | MQ | MERGEABLE | FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
                                   FEATURE(VIRTIO_NET_F_GUEST_TSO4),
                               QUEUE_SIZE);
        g_assert_cmpuint(control(&f, 4, VIRTIO_NET_CTRL_MQ, 0, "\2\0", 2), ==, VIRTIO_NET_OK);
        for (unsigned pair = 0; pair < 2; pair++) {
            frame = (KumoFakeBuf){ f.buf, HEADER + sizeof(want), false };
            net_make_frame(want, sizeof(want), pair);
            memset(net_buffer(&f, 0), 0, HEADER);
            memcpy(net_buffer(&f, 0) + HEADER, want, sizeof(want));
            kumo_fake_driver_add(f.driver, 2 * pair + 1, &frame, 1);
            kumo_fake_driver_kick(f.driver, 2 * pair + 1);
            g_assert_true(kumo_fake_driver_wait(f.driver, 2 * pair + 1, &head, &len));
            g_assert_cmpint(recv(f.peer, got, sizeof(got), 0), ==, sizeof(want));
            g_assert_cmpmem(got, sizeof(want), want, sizeof(want));
        }
        /* Back to one pair: whatever comes has to come there. */
        g_assert_cmpuint(control(&f, 4, VIRTIO_NET_CTRL_MQ, 0, "\1\0", 2), ==, VIRTIO_NET_OK);
        net_give_buffers(&f, 8, BUF_BYTES);
        for (unsigned i = 0; i < 8; i++) {
            net_host_send(&f, sizeof(want), i);
            net_make_frame(want, sizeof(want), i);
            g_assert_true(kumo_fake_driver_wait(f.driver, 0, &head, &len));
            g_assert_cmpuint(len, ==, sizeof(want) + HEADER);
            g_assert_cmpmem(net_buffer(&f, head) + HEADER, sizeof(want), want, sizeof(want));
        }
        kumo_fake_driver_stop(f.driver);
    }
    net_teardown(&f, NULL);
    run_ip("link del kumocable0");
}

static void setup_limited(KumoNetFixture *f, gconstpointer data)
{
    net_setup(f, data);
    if (f->peer < 0)
        return;
    /* Anew, with ten frames at once and 100 a second, each way. */
    kumo_device_remove(&f->driver->virtio->device);
    f->config->rate.limit.ops = (KumoRateBucket){ .size = 10, .refill_time_ms = 100 };
}

static void test_limits(KumoNetFixture *f, gconstpointer data)
{
    enum { N = 30 };
    KumoFakeBuf frame = { f->buf, HEADER + 100, false };
    g_autoptr(GError) error = NULL;
    struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(NET_ETHERTYPE) };
    struct ifreq ifr = { .ifr_name = NET_TAP };
    int pending;
    socklen_t pending_len = sizeof(pending);
    int64_t start_us;
    clock_t cpu;
    uint16_t head;
    uint32_t len;

    if (net_skipped())
        return;
    kumo_device_add(kumo_virtio_net_new(&f->driver->machine, f->config), &error);
    g_assert_no_error(error);
    g_assert_cmpint(ioctl(f->peer, SIOCGIFINDEX, &ifr), ==, 0);
    addr.sll_ifindex = ifr.ifr_ifindex;
    g_assert_cmpint(bind(f->peer, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    /* That the first interface went away is an error of the socket's next call. */
    g_assert_cmpint(getsockopt(f->peer, SOL_SOCKET, SO_ERROR, &pending, &pending_len), ==, 0);
    for (unsigned round = 0; round < 2; round++) {
        kumo_fake_driver_start(f->driver, BASIC | MERGEABLE, QUEUE_SIZE);
        net_make_frame(net_buffer(f, 0) + HEADER, 100, 1);
        start_us = g_get_monotonic_time();
        cpu = clock();
        for (unsigned i = 0; i < N; i++)
            kumo_fake_driver_add(f->driver, 1, &frame, 1);
        kumo_fake_driver_kick(f->driver, 1);
        for (unsigned i = 0; i < N; i++)
            g_assert_true(kumo_fake_driver_wait(f->driver, 1, &head, &len));
        g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 195000);
        g_assert_cmpint(clock() - cpu, <, CLOCKS_PER_SEC / 10);

        start_us = g_get_monotonic_time();
        net_give_buffers(f, N + 1, BUF_BYTES);
        for (unsigned i = 0; i < N + 1; i++)
            net_host_send(f, 100, i);
        for (unsigned i = 0; i < N + 1; i++)
            g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
        g_assert_cmpint(g_get_monotonic_time() - start_us, >=, 195000);
        /* A reset in the middle of a wait. */
        for (unsigned i = 0; i < N; i++)
            kumo_fake_driver_add(f->driver, 1, &frame, 1);
        kumo_fake_driver_kick(f->driver, 1);
        net_host_send(f, 100, 1);
        g_usleep(5000);
        kumo_fake_driver_stop(f->driver);
        g_usleep(300000);
    }
    g_assert_cmpint(g_atomic_int_get(&f->driver->needs_reset), ==, 0);
}

int main(int argc, char **argv)
{
    net_test_init(&argc, &argv);
    net_add("/virtio-net/config", 1, test_config);
    g_test_add_func("/virtio-net/random-mac", test_random_mac);
    net_add("/virtio-net/transmit", 1, test_transmit);
    net_add("/virtio-net/transmit-quickly", 1, test_transmit_quickly);
    net_add("/virtio-net/transmit-refused", 1, test_transmit_refused);
    net_add("/virtio-net/control", 1, test_control);
    net_add("/virtio-net/multi-queue", 4, test_multi_queue);
    net_add("/virtio-net/broken-chains", 1, test_broken_chains);
    net_add("/virtio-net/noise", 1, test_noise);
    net_add("/virtio-net/link-down", 1, test_link_down);
    net_add("/virtio-net/small-queues", 1, test_small_queues);
    net_add("/virtio-net/announce", 1, test_announce);
    g_test_add_func("/virtio-net/macvtap", test_macvtap);
    g_test_add("/virtio-net/limits", KumoNetFixture, GUINT_TO_POINTER(1), setup_limited,
               test_limits, net_teardown);
    return g_test_run();
}
