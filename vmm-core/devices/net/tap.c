/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/net/tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

#define FEATURE(bit)  (1ULL << (bit))
#define TAP_NODE      "/dev/net/tun"
#define TAP_AUTO_NAME "vmtap%d" /* the kernel fills in the first free number */

bool kumo_mac_parse(const char *text, uint8_t ret_mac[6])
{
    uint8_t mac[6];

    for (unsigned i = 0; i < 6; i++) {
        int high = g_ascii_xdigit_value(text[0]);
        int low = high < 0 ? -1 : g_ascii_xdigit_value(text[1]);

        if (low < 0 || text[2] != (i < 5 ? ':' : '\0'))
            return false;
        mac[i] = (uint8_t)(high << 4 | low);
        text += 3;
    }
    memcpy(ret_mac, mac, sizeof(mac));
    return true;
}

static void ifreq_init(struct ifreq *ifr, const char *name)
{
    memset(ifr, 0, sizeof(*ifr));
    g_strlcpy(ifr->ifr_name, name, sizeof(ifr->ifr_name));
}

static int control_socket(int family, GError **error)
{
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        kumo_set_error_errno(error, errno, "socket to set up a tap interface");
    return fd;
}

static bool interface_exists(const char *name, bool *ret_exists, GError **error)
{
    kumo_auto_fd sock = control_socket(AF_INET, error);
    struct ifreq ifr;

    if (sock < 0)
        return false;
    ifreq_init(&ifr, name);
    *ret_exists = ioctl(sock, SIOCGIFINDEX, &ifr) == 0;
    return true;
}

/* Common to all ways of getting a descriptor: header size, byte order, no blocking. */
static bool prepare_fd(int fd, const char *name, GError **error)
{
    int header = KUMO_TAP_HEADER_BYTES;
    int little = 1;

    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0) {
        kumo_set_error_errno(error, errno, "tap %s: header of %d bytes", name, header);
        return false;
    }
    /* Without this call (Linux before 4.1, or one built without) the host's order applies. */
    if (ioctl(fd, TUNSETVNETLE, &little) < 0 && G_BYTE_ORDER != G_LITTLE_ENDIAN) {
        kumo_set_error_errno(error, errno, "tap %s: little-endian headers", name);
        return false;
    }
    if (!kumo_fd_set_nonblock(fd, true)) {
        kumo_set_error_errno(error, errno, "tap %s", name);
        return false;
    }
    return true;
}

/* Opens one queue of interface @name, which may be a pattern. *@name becomes the real name. */
static int open_queue(char name[16], bool multi_queue, GError **error)
{
    kumo_auto_fd fd = open(TAP_NODE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq ifr;

    if (fd < 0) {
        kumo_set_error_errno(error, errno, "tap %s: opening " TAP_NODE, name);
        return -1;
    }
    ifreq_init(&ifr, name);
    ifr.ifr_flags =
        (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0));
    if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
        int err = errno;

        if (err == EINVAL)
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "tap %s: is not a tap interface, or %s several queues", name,
                        multi_queue ? "was made without" : "was made for");
        else
            kumo_set_error_errno(error, err, "tap %s", name);
        return -1;
    }
    g_strlcpy(name, ifr.ifr_name, IFNAMSIZ);
    if (!prepare_fd(fd, name, error))
        return -1;
    return kumo_fd_steal(&fd);
}

static bool tap_open_named(KumoTap *tap, const char *name, unsigned n_queues, GError **error)
{
    bool exists = false;

    if (name && *name) {
        if (strlen(name) >= IFNAMSIZ) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "tap %s: the name is longer than %d bytes", name, IFNAMSIZ - 1);
            return false;
        }
        /* The kernel would take it as a pattern. */
        if (strchr(name, '%')) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "tap %s: '%%' cannot be part of the name", name);
            return false;
        }
        if (!interface_exists(name, &exists, error))
            return false;
    }
    g_strlcpy(tap->name, name && *name ? name : TAP_AUTO_NAME, sizeof(tap->name));
    tap->multi_queue = n_queues > 1;
    for (unsigned i = 0; i < n_queues; i++) {
        g_autoptr(GError) local = NULL;

        tap->fds[i] = open_queue(tap->name, tap->multi_queue, &local);
        /* A persistent interface made for several queues may be used with one. */
        if (tap->fds[i] < 0 && exists && n_queues == 1 &&
            g_error_matches(local, KUMO_ERROR, KUMO_ERROR_INVALID)) {
            g_clear_error(&local);
            tap->multi_queue = true;
            tap->fds[i] = open_queue(tap->name, true, &local);
        }
        if (tap->fds[i] < 0) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        tap->n_fds = i + 1;
    }
    tap->created = !exists;
    return true;
}

static bool adopt_fd(KumoTap *tap, int given, GError **error)
{
    kumo_auto_fd fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
    struct ifreq ifr = { 0 };

    if (fd < 0) {
        kumo_set_error_errno(error, errno, "tap descriptor %d", given);
        return false;
    }
    if (ioctl(fd, TUNGETIFF, &ifr) < 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "tap descriptor %d: is not a tap or macvtap queue", given);
        return false;
    }
    ifr.ifr_name[IFNAMSIZ - 1] = '\0';
    if (!(ifr.ifr_flags & IFF_VNET_HDR) || (ifr.ifr_flags & IFF_TAP) != IFF_TAP ||
        !(ifr.ifr_flags & IFF_NO_PI)) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "tap descriptor %d (%s): has to be opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR",
            given, ifr.ifr_name);
        return false;
    }
    if (tap->n_fds && strcmp(tap->name, ifr.ifr_name) != 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "tap descriptor %d: is a queue of %s, the one before is of %s", given,
                    ifr.ifr_name, tap->name);
        return false;
    }
    g_strlcpy(tap->name, ifr.ifr_name, sizeof(tap->name));
    tap->multi_queue = (ifr.ifr_flags & IFF_MULTI_QUEUE) != 0;
    if (!prepare_fd(fd, tap->name, error))
        return false;
    tap->fds[tap->n_fds++] = kumo_fd_steal(&fd);
    return true;
}

/* --- an interface of our own --- */

static bool set_ipv4(const char *name, unsigned long request, const char *text, const char *what,
                     GError **error)
{
    kumo_auto_fd sock = control_socket(AF_INET, error);
    struct sockaddr_in addr = { .sin_family = AF_INET };
    struct ifreq ifr;

    if (sock < 0)
        return false;
    if (inet_pton(AF_INET, text, &addr.sin_addr) != 1) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "tap %s: %s %s is not an IPv4 address",
                    name, what, text);
        return false;
    }
    ifreq_init(&ifr, name);
    memcpy(&ifr.ifr_addr, &addr, sizeof(addr));
    if (ioctl(sock, request, &ifr) < 0) {
        kumo_set_error_errno(error, errno, "tap %s: setting %s %s", name, what, text);
        return false;
    }
    return true;
}

/* Returns: the length of the prefix that @mask stands for, or -1 if there are holes in it. */
static int prefix_length(const struct in6_addr *mask)
{
    int bits = 0;

    while (bits < 128 && mask->s6_addr[bits / 8] & (0x80 >> bits % 8))
        bits++;
    for (int i = bits; i < 128; i++)
        if (mask->s6_addr[i / 8] & (0x80 >> i % 8))
            return -1;
    return bits;
}

static bool set_ipv6(const char *name, const char *ip, const char *mask, GError **error)
{
    kumo_auto_fd sock = control_socket(AF_INET6, error);
    struct in6_ifreq request = { 0 };
    struct in6_addr mask_bits;
    struct ifreq ifr;
    int prefix;

    if (sock < 0)
        return false;
    if (inet_pton(AF_INET6, ip, &request.ifr6_addr) != 1 ||
        inet_pton(AF_INET6, mask, &mask_bits) != 1 || (prefix = prefix_length(&mask_bits)) < 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "tap %s: ip %s, mask %s: not an IPv6 address and mask", name, ip, mask);
        return false;
    }
    ifreq_init(&ifr, name);
    if (ioctl(sock, SIOCGIFINDEX, &ifr) == 0) {
        request.ifr6_ifindex = ifr.ifr_ifindex;
        request.ifr6_prefixlen = (uint32_t)prefix;
        if (ioctl(sock, SIOCSIFADDR, &request) == 0)
            return true;
    }
    kumo_set_error_errno(error, errno, "tap %s: setting ip %s", name, ip);
    return false;
}

static bool set_host_mac(int sock, const char *name, const char *text, GError **error)
{
    struct ifreq ifr;
    uint8_t mac[6];

    if (!kumo_mac_parse(text, mac)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "tap %s: host_mac %s is not a MAC address", name, text);
        return false;
    }
    ifreq_init(&ifr, name);
    ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(ifr.ifr_hwaddr.sa_data, mac, sizeof(mac));
    if (ioctl(sock, SIOCSIFHWADDR, &ifr) < 0) {
        kumo_set_error_errno(error, errno, "tap %s: setting host_mac %s", name, text);
        return false;
    }
    return true;
}

static bool set_up(int sock, const char *name, GError **error)
{
    struct ifreq ifr;

    ifreq_init(&ifr, name);
    if (ioctl(sock, SIOCGIFFLAGS, &ifr) == 0) {
        ifr.ifr_flags |= IFF_UP;
        if (ioctl(sock, SIOCSIFFLAGS, &ifr) == 0)
            return true;
    }
    kumo_set_error_errno(error, errno, "tap %s: bringing it up", name);
    return false;
}

static bool configure(const KumoTap *tap, const KumoNetConfig *config, GError **error)
{
    kumo_auto_fd sock = control_socket(AF_INET, error);
    struct ifreq ifr;

    if (sock < 0)
        return false;
    if (config->host_mac && !set_host_mac(sock, tap->name, config->host_mac, error))
        return false;
    if (config->mtu) {
        ifreq_init(&ifr, tap->name);
        ifr.ifr_mtu = (int)config->mtu;
        if (ioctl(sock, SIOCSIFMTU, &ifr) < 0) {
            kumo_set_error_errno(error, errno, "tap %s: setting mtu %u", tap->name, config->mtu);
            return false;
        }
    }
    if (config->ip && strchr(config->ip, ':')) {
        if (!set_ipv6(tap->name, config->ip, config->mask ? config->mask : "", error))
            return false;
    } else if (config->ip) {
        if (!set_ipv4(tap->name, SIOCSIFADDR, config->ip, "ip", error) ||
            !set_ipv4(tap->name, SIOCSIFNETMASK, config->mask ? config->mask : "", "mask", error))
            return false;
    }
    return set_up(sock, tap->name, error);
}

KumoTap *kumo_tap_open(const KumoNetConfig *config, unsigned n_queues, GError **error)
{
    g_autoptr(KumoTap) tap = NULL;

    if (n_queues < 1 || n_queues > KUMO_TAP_MAX_QUEUES) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "tap: %u queue pairs: 1 to %d are possible", n_queues, KUMO_TAP_MAX_QUEUES);
        return NULL;
    }
    tap = g_malloc0(sizeof(*tap) + n_queues * sizeof(tap->fds[0]));
    tap->control_fd = control_socket(AF_INET, error);
    if (tap->control_fd < 0)
        return NULL;
    if (config->fds && config->fds->len) {
        if (config->fds->len != n_queues) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "tap: %u descriptors for %u queue pairs", config->fds->len, n_queues);
            return NULL;
        }
        for (unsigned i = 0; i < n_queues; i++)
            if (!adopt_fd(tap, g_array_index(config->fds, int, i), error))
                return NULL;
    } else if (!tap_open_named(tap, config->tap, n_queues, error)) {
        return NULL;
    }
    if (tap->created) {
        if (!configure(tap, config, error))
            return NULL;
    } else if (config->ip || config->host_mac) {
        kumo_warn("tap %s: exists already: ip, mask and host_mac are left as they are", tap->name);
    }
    return g_steal_pointer(&tap);
}

void kumo_tap_close(KumoTap *tap)
{
    if (!tap)
        return;
    for (unsigned i = 0; i < tap->n_fds; i++)
        close(tap->fds[i]);
    kumo_fd_clear(&tap->control_fd);
    g_free(tap);
}

bool kumo_tap_can_offload(KumoTap *tap)
{
    return ioctl(tap->fds[0], TUNSETOFFLOAD, (unsigned long)TUN_F_CSUM) == 0 &&
           ioctl(tap->fds[0], TUNSETOFFLOAD, 0UL) == 0;
}

bool kumo_tap_set_offload(KumoTap *tap, uint64_t guest_features, GError **error)
{
    unsigned long flags = 0;

    if (guest_features & FEATURE(VIRTIO_NET_F_GUEST_CSUM)) {
        flags = TUN_F_CSUM;
        if (guest_features & FEATURE(VIRTIO_NET_F_GUEST_TSO4))
            flags |= TUN_F_TSO4;
        if (guest_features & FEATURE(VIRTIO_NET_F_GUEST_TSO6))
            flags |= TUN_F_TSO6;
        if (guest_features & FEATURE(VIRTIO_NET_F_GUEST_ECN) && flags & (TUN_F_TSO4 | TUN_F_TSO6))
            flags |= TUN_F_TSO_ECN;
        if (guest_features & FEATURE(VIRTIO_NET_F_GUEST_UFO))
            flags |= TUN_F_UFO;
    }
    for (unsigned i = 0; i < tap->n_fds; i++) {
        if (ioctl(tap->fds[i], TUNSETOFFLOAD, flags) == 0)
            continue;
        /* Kernels without UFO never hand over such frames: nothing is lost without the flag. */
        if (errno == EINVAL && flags & TUN_F_UFO &&
            ioctl(tap->fds[i], TUNSETOFFLOAD, flags & ~TUN_F_UFO) == 0)
            continue;
        /* A queue that is not attached; the setting is the interface's, another queue has made it.
         */
        if (errno == EBADFD && i > 0)
            continue;
        kumo_set_error_errno(error, errno, "tap %s: setting offloads 0x%lx", tap->name, flags);
        return false;
    }
    return true;
}

bool kumo_tap_enable_queue(KumoTap *tap, unsigned index, bool enable, GError **error)
{
    struct ifreq ifr = { 0 };

    ifr.ifr_flags = enable ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
    if (ioctl(tap->fds[index], TUNSETQUEUE, &ifr) == 0)
        return true;
    kumo_set_error_errno(error, errno, "tap %s: %s queue %u", tap->name,
                         enable ? "attaching" : "detaching", index);
    return false;
}

uint32_t kumo_tap_mtu(const KumoTap *tap)
{
    struct ifreq ifr;

    ifreq_init(&ifr, tap->name);
    if (ioctl(tap->control_fd, SIOCGIFMTU, &ifr) < 0)
        return 0;
    return (uint32_t)ifr.ifr_mtu;
}
