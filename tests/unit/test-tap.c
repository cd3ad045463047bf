/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fakes/netns.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/devices/net/tap.h"

static const char *skip;

static bool skipped(void)
{
    if (skip)
        g_test_skip(skip);
    return skip != NULL;
}

static struct ifreq query(const char *name, unsigned long request)
{
    kumo_auto_fd sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = { 0 };

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    g_assert_cmpint(ioctl(sock, request, &ifr), ==, 0);
    return ifr;
}

static bool exists(const char *name)
{
    kumo_auto_fd sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = { 0 };

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    return ioctl(sock, SIOCGIFINDEX, &ifr) == 0;
}

/* A queue of interface @name, opened as somebody else would. */
static int open_tap(const char *name, int flags)
{
    struct ifreq ifr = { .ifr_flags = (short)flags };
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    g_strlcpy(ifr.ifr_name, name, sizeof(ifr.ifr_name));
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ioctl(fd, TUNSETIFF, &ifr), ==, 0);
    return fd;
}

static void assert_refused(const KumoNetConfig *config, unsigned n, const char *word)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoTap) tap = kumo_tap_open(config, n, &error);

    g_assert_null(tap);
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, word));
}

static void test_mac(void)
{
    static const char *const bad[] = { "",
                                       "1",
                                       "52:54:00:12:34",
                                       "52:54:00:12:34:56:78",
                                       "52-54-00-12-34-56",
                                       "52:54:00:12:34:5",
                                       "52:54:00:12:34:5g",
                                       " 2:54:00:12:34:56",
                                       "52:54:00:12:34:56 " };
    uint8_t mac[6];

    g_assert_true(kumo_mac_parse("52:54:00:aB:cD:ef", mac));
    g_assert_cmpmem(mac, 6, "\x52\x54\x00\xab\xcd\xef", 6);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(kumo_mac_parse(bad[i], mac));
}

static void test_new(void)
{
    g_autoptr(KumoNetConfig) config = kumo_net_config_new();
    g_autoptr(GError) error = NULL;
    char name[16];

    if (skipped())
        return;
    config->ip = g_strdup("192.0.2.1");
    config->mask = g_strdup("255.255.255.240");
    config->host_mac = g_strdup("02:00:00:00:00:77");
    config->mtu = 1400;
    {
        g_autoptr(KumoTap) tap = kumo_tap_open(config, 1, &error);
        struct ifreq ifr;

        g_assert_no_error(error);
        g_assert_true(tap->created);
        g_assert_true(g_str_has_prefix(tap->name, "vmtap"));
        g_strlcpy(name, tap->name, sizeof(name));
        ifr = query(name, SIOCGIFADDR);
        g_assert_cmpuint(((struct sockaddr_in *)&ifr.ifr_addr)->sin_addr.s_addr, ==,
                         inet_addr("192.0.2.1"));
        ifr = query(name, SIOCGIFNETMASK);
        g_assert_cmpuint(((struct sockaddr_in *)&ifr.ifr_addr)->sin_addr.s_addr, ==,
                         inet_addr("255.255.255.240"));
        ifr = query(name, SIOCGIFHWADDR);
        g_assert_cmpmem(ifr.ifr_hwaddr.sa_data, 6, "\x02\0\0\0\0\x77", 6);
        g_assert_cmpint(query(name, SIOCGIFMTU).ifr_mtu, ==, 1400);
        g_assert_cmpuint(kumo_tap_mtu(tap), ==, 1400);
        g_assert_true(query(name, SIOCGIFFLAGS).ifr_flags & IFF_UP);
        g_assert_true(fcntl(tap->fds[0], F_GETFL) & O_NONBLOCK);
        g_assert_true(kumo_tap_can_offload(tap));
        g_assert_true(kumo_tap_set_offload(tap, ~0ULL, &error));
        g_assert_no_error(error);
    }
    g_assert_false(exists(name));
}

/* The address with the length of its prefix, as the kernel lists them. */
static void test_new_ipv6(void)
{
    g_autoptr(KumoNetConfig) config = kumo_net_config_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoTap) tap = NULL;
    g_autofree char *list = NULL, *name = NULL;
    g_auto(GStrv) lines = NULL;
    kumo_auto_fd fd = -1;
    unsigned n_found = 0;

    if (skipped())
        return;
    /* A new network namespace may have it off. */
    fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
        g_test_skip("IPv6 cannot be enabled here");
        return;
    }
    config->ip = g_strdup("2001:db8::17");
    config->mask = g_strdup("ffff:ffff:ffff:fff0::");
    tap = kumo_tap_open(config, 1, &error);
    g_assert_no_error(error);
    g_assert_true(g_file_get_contents("/proc/thread-self/net/if_inet6", &list, NULL, &error));
    g_assert_no_error(error);
    lines = g_strsplit(list, "\n", -1);
    name = g_strconcat(" ", tap->name, NULL);
    for (unsigned i = 0; lines[i]; i++) {
        g_auto(GStrv) words = NULL;

        if (!g_str_has_suffix(lines[i], name) || !g_str_has_prefix(lines[i], "20010db8"))
            continue;
        words = g_strsplit(lines[i], " ", -1);
        g_assert_cmpstr(words[0], ==, "20010db8000000000000000000000017");
        g_assert_cmpstr(words[2], ==, "3c"); /* 60 bits */
        n_found++;
    }
    g_assert_cmpuint(n_found, ==, 1);
    g_free(config->mask);
    config->mask = g_strdup("ffff:0:ffff::");
    assert_refused(config, 1, "not an IPv6 address and mask");
}

static void test_named(void)
{
    g_autoptr(KumoNetConfig) config = kumo_net_config_new();
    g_autoptr(GError) error = NULL;

    if (skipped())
        return;
    config->tap = g_strdup("kumotest0");
    {
        g_autoptr(KumoTap) tap = kumo_tap_open(config, 1, &error);

        g_assert_no_error(error);
        g_assert_cmpstr(tap->name, ==, "kumotest0");
        g_assert_true(tap->created);
        /* In use: a second opener is refused. */
        assert_refused(config, 1, "kumotest0");
    }
    g_free(config->tap);
    config->tap = g_strdup("a-name-that-is-too-long");
    assert_refused(config, 1, "longer");
    g_free(config->tap);
    config->tap = g_strdup("tap%d");
    assert_refused(config, 1, "%");
    g_free(config->tap);
    config->tap = g_strdup("lo");
    assert_refused(config, 1, "lo");
}

/* What exists already is not reconfigured. */
static void test_existing(void)
{
    for (int mq = 0; mq < 2; mq++) {
        g_autoptr(KumoNetConfig) config = kumo_net_config_new();
        g_autoptr(GError) error = NULL;
        g_autoptr(KumoTap) tap = NULL;
        kumo_auto_fd fd = -1;

        if (skipped())
            return;
        fd = open_tap("kumotest1", IFF_TAP | IFF_NO_PI | (mq ? IFF_MULTI_QUEUE : 0));
        g_assert_cmpint(ioctl(fd, TUNSETPERSIST, 1), ==, 0);
        kumo_fd_clear(&fd);
        config->tap = g_strdup("kumotest1");
        config->host_mac = g_strdup("02:00:00:00:00:78");
        if (!mq)
            assert_refused(config, 2, "queues");
        tap = kumo_tap_open(config, 1, &error);
        g_assert_no_error(error);
        g_assert_false(tap->created);
        g_assert_cmpint(
            memcmp(query("kumotest1", SIOCGIFHWADDR).ifr_hwaddr.sa_data, "\x02\0\0\0\0\x78", 6), !=,
            0);
        g_assert_false(query("kumotest1", SIOCGIFFLAGS).ifr_flags & IFF_UP);
        g_assert_cmpint(ioctl(tap->fds[0], TUNSETPERSIST, 0), ==, 0);
    }
}

static void test_multi_queue(void)
{
    g_autoptr(KumoNetConfig) config = kumo_net_config_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoTap) tap = NULL;

    if (skipped())
        return;
    tap = kumo_tap_open(config, 4, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(tap->n_fds, ==, 4);
    g_assert_true(tap->multi_queue);
    for (unsigned i = 1; i < 4; i++) {
        g_assert_true(kumo_tap_enable_queue(tap, i, false, &error));
        g_assert_no_error(error);
    }
    g_assert_true(kumo_tap_set_offload(tap, 1ULL << VIRTIO_NET_F_GUEST_CSUM, &error));
    g_assert_no_error(error);
    g_assert_true(kumo_tap_enable_queue(tap, 2, true, &error));
    g_assert_false(kumo_tap_enable_queue(tap, 2, true, &error));
    g_assert_nonnull(error);
}

static void test_fds(void)
{
    g_autoptr(KumoNetConfig) config = kumo_net_config_new();
    g_autoptr(GError) error = NULL;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int plain, good, closed = 999;

    config->fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_append_val(config->fds, null);
    assert_refused(config, 1, "not a tap");
    g_array_index(config->fds, int, 0) = closed;
    assert_refused(config, 1, "999");
    g_array_index(config->fds, int, 0) = null;
    if (skipped())
        return;

    plain = open_tap("kumotest2", IFF_TAP | IFF_NO_PI);
    g_array_index(config->fds, int, 0) = plain;
    assert_refused(config, 1, "IFF_VNET_HDR");
    assert_refused(config, 2, "1 descriptors for 2");
    good = open_tap("kumotest3", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    g_array_index(config->fds, int, 0) = good;
    {
        g_autoptr(KumoTap) tap = kumo_tap_open(config, 1, &error);

        g_assert_no_error(error);
        g_assert_cmpstr(tap->name, ==, "kumotest3");
        g_assert_false(tap->created);
        g_assert_cmpint(tap->fds[0], !=, good);
    }
    /* The configuration keeps its own. */
    g_assert_cmpint(fcntl(good, F_GETFD), >=, 0);
    close(null);
    close(plain);
    g_array_set_size(config->fds, 0);
    close(good);
}

static void test_bad_values(void)
{
    g_autoptr(KumoNetConfig) config = kumo_net_config_new();

    assert_refused(config, 0, "queue pairs");
    assert_refused(config, 257, "queue pairs");
    if (skipped())
        return;
    config->ip = g_strdup("192.0.2.300");
    config->mask = g_strdup("255.255.255.0");
    assert_refused(config, 1, "192.0.2.300");
    g_free(config->ip);
    config->ip = g_strdup("2001:db8::1");
    assert_refused(config, 1, "2001:db8::1");
    g_clear_pointer(&config->ip, g_free);
    config->host_mac = g_strdup("02:00:00:00:00");
    assert_refused(config, 1, "host_mac");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    skip = kumo_test_enter_netns();
    g_test_add_func("/tap/mac", test_mac);
    g_test_add_func("/tap/new", test_new);
    g_test_add_func("/tap/new-ipv6", test_new_ipv6);
    g_test_add_func("/tap/named", test_named);
    g_test_add_func("/tap/existing", test_existing);
    g_test_add_func("/tap/multi-queue", test_multi_queue);
    g_test_add_func("/tap/fds", test_fds);
    g_test_add_func("/tap/bad-values", test_bad_values);
    return g_test_run();
}
