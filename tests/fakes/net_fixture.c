/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/net_fixture.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/fakes/netns.h"
#include "vmm-core/base/fd.h"

static const char *skip;

void net_test_init(int *argc, char ***argv)
{
    g_test_init(argc, argv, NULL);
    skip = kumo_test_enter_netns();
}

bool net_skipped(void)
{
    if (skip)
        g_test_skip(skip);
    return skip != NULL;
}

void net_setup(KumoNetFixture *f, gconstpointer data)
{
    unsigned pairs = GPOINTER_TO_UINT(data);
    struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(NET_ETHERTYPE) };
    struct timeval limit = { .tv_sec = 10 };
    struct ifreq ifr = { 0 };
    g_autoptr(GError) error = NULL;

    f->peer = -1;
    f->driver = kumo_fake_driver_new();
    f->config = kumo_net_config_new();
    f->config->pci.id = g_strdup("_net0");
    f->config->tap = g_strdup(NET_TAP);
    f->config->num_queues = 2 * pairs;
    f->config->queue_size = QUEUE_SIZE;
    f->config->mtu = 9000;
    f->config->mac = g_strdup("52:54:00:01:02:03");
    if (skip)
        return;
    kumo_device_add(kumo_virtio_net_new(&f->driver->machine, f->config), &error);
    g_assert_no_error(error);
    f->peer = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(NET_ETHERTYPE));
    g_assert_cmpint(f->peer, >=, 0);
    g_strlcpy(ifr.ifr_name, NET_TAP, sizeof(ifr.ifr_name));
    g_assert_cmpint(ioctl(f->peer, SIOCGIFINDEX, &ifr), ==, 0);
    addr.sll_ifindex = ifr.ifr_ifindex;
    g_assert_cmpint(bind(f->peer, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(setsockopt(f->peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), ==, 0);
    f->buf = kumo_fake_driver_alloc(f->driver, QUEUE_SIZE * BUF_BYTES);
}

void net_teardown(KumoNetFixture *f, gconstpointer data)
{
    kumo_fd_clear(&f->peer);
    kumo_fake_driver_free(f->driver);
    kumo_net_config_free(f->config);
}

void net_make_frame(uint8_t *frame, size_t len, unsigned seed)
{
    memset(frame, 0xff, 6);
    memcpy(frame + 6, "\x02\0\0\0\0\x01", 6);
    frame[12] = NET_ETHERTYPE >> 8;
    frame[13] = NET_ETHERTYPE & 0xff;
    for (size_t i = 14; i < len; i++)
        frame[i] = (uint8_t)(i * 13 + seed);
}

void net_host_send(KumoNetFixture *f, size_t len, unsigned seed)
{
    uint8_t frame[10000];

    net_make_frame(frame, len, seed);
    g_assert_cmpint(send(f->peer, frame, len, 0), ==, (ssize_t)len);
}

void net_give_more_buffers(KumoNetFixture *f, unsigned first, unsigned n, uint32_t len)
{
    for (unsigned i = first; i < first + n; i++) {
        KumoFakeBuf buf = { f->buf + i * BUF_BYTES, len, true };

        kumo_fake_driver_add(f->driver, 0, &buf, 1);
    }
    kumo_fake_driver_kick(f->driver, 0);
}

void net_give_buffers(KumoNetFixture *f, unsigned n, uint32_t len)
{
    net_give_more_buffers(f, 0, n, len);
}

uint8_t *net_buffer(KumoNetFixture *f, uint16_t head)
{
    return kumo_fake_driver_ptr(f->driver, f->buf + head * BUF_BYTES);
}

uint64_t net_counter(KumoNetFixture *f, const char *name)
{
    json_t *counters = f->driver->virtio->device.ops->counters(&f->driver->virtio->device);
    uint64_t n = (uint64_t)json_integer_value(json_object_get(counters, name));

    json_decref(counters);
    return n;
}

void net_add(const char *path, unsigned pairs, void (*func)(KumoNetFixture *, gconstpointer))
{
    g_test_add(path, KumoNetFixture, GUINT_TO_POINTER(pairs), net_setup, func, net_teardown);
}
