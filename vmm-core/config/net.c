/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum { MTU_MIN = 1280, MTU_MAX = 65535, MAC_BYTES = 6 };

static const KumoField net_fields[] = {
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoNetConfig, pci),
      .section = &kumo_pci_common_section },
    { .cli = "tap",
      .json = "tap",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoNetConfig, tap),
      .max = IFNAMSIZ - 1 },
    { .cli = "ip",
      .json = "ip",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoNetConfig, ip),
      .max = INET6_ADDRSTRLEN - 1 },
    { .cli = "mask",
      .json = "mask",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoNetConfig, mask),
      .max = INET6_ADDRSTRLEN - 1 },
    { .cli = "mac",
      .json = "mac",
      .chosen = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoNetConfig, mac),
      .max = 3 * MAC_BYTES - 1 },
    { .cli = "host_mac",
      .json = "host_mac",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoNetConfig, host_mac),
      .max = 3 * MAC_BYTES - 1 },
    { .cli = "mtu",
      .json = "mtu",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoNetConfig, mtu),
      .min = MTU_MIN,
      .max = MTU_MAX,
      .optional = true },
    { .cli = "fd",
      .json = "fds",
      .host = true,
      .type = KUMO_FIELD_FDS,
      .offset = offsetof(KumoNetConfig, fds) },
    { .cli = "num_queues",
      .json = "num_queues",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoNetConfig, num_queues),
      .def = 2,
      .min = 2,
      .max = KUMO_MAX_QUEUES },
    { .cli = "queue_size",
      .json = "queue_size",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoNetConfig, queue_size),
      .def = 256,
      .min = 4,
      .max = KUMO_MAX_QUEUE_SIZE,
      .pow2 = true },
    { .cli = "offload_tso",
      .json = "offload_tso",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoNetConfig, offload_tso),
      .def = true },
    { .cli = "offload_ufo",
      .json = "offload_ufo",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoNetConfig, offload_ufo),
      .def = true },
    { .cli = "offload_csum",
      .json = "offload_csum",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoNetConfig, offload_csum),
      .def = true },
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoNetConfig, rate),
      .section = &kumo_rate_limit_section },
    { .cli = "link_up",
      .json = "link_up",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoNetConfig, link_up),
      .def = true },
    { .cli = "queue_affinity",
      .json = "queue_affinity",
      .host = true,
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoNetConfig, queue_affinity),
      .section = &kumo_queue_affinity_section },
    { .cli = "vhost_user",
      .json = "vhost_user",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "false" },
    { .cli = "socket", .json = "vhost_socket", .type = KUMO_FIELD_NOT_YET },
    { .cli = "vhost_mode",
      .json = "vhost_mode",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "\"Client\"" },
};

/* Six bytes "aa:bb:cc:dd:ee:ff" that one station may have: neither a group's nor zero. */
static bool mac_is_valid(const char *text)
{
    unsigned sum = 0;

    if (strlen(text) != 3 * MAC_BYTES - 1)
        return false;
    for (unsigned i = 0; i < 3 * MAC_BYTES - 1; i++) {
        if (i % 3 == 2 ? text[i] != ':' : !g_ascii_isxdigit(text[i]))
            return false;
        if (i % 3 != 2)
            sum += (unsigned)g_ascii_xdigit_value(text[i]);
    }
    return sum != 0 && !(g_ascii_xdigit_value(text[1]) & 1);
}

static bool check_mac(const char *path, const char *key, const char *mac, GError **error)
{
    g_autofree char *shown = NULL;

    if (!mac || mac_is_valid(mac))
        return true;
    shown = kumo_quote_value(mac);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s.%s: %s is not allowed, must be a unicast address like 52:54:00:12:34:56", path,
                key, shown);
    return false;
}

static int address_family(const char *text)
{
    unsigned char address[sizeof(struct in6_addr)];

    if (inet_pton(AF_INET, text, address) == 1)
        return AF_INET;
    return inet_pton(AF_INET6, text, address) == 1 ? AF_INET6 : AF_UNSPEC;
}

static bool check_addresses(const KumoNetConfig *net, const char *path, GError **error)
{
    const char *const values[] = { net->ip, net->mask };
    const char *const keys[] = { "ip", "mask" };

    if (!net->ip != !net->mask) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: ip and mask are both needed, or neither", path);
        return false;
    }
    for (size_t i = 0; net->ip && i < G_N_ELEMENTS(values); i++) {
        if (address_family(values[i]) == AF_UNSPEC) {
            g_autofree char *shown = kumo_quote_value(values[i]);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.%s: %s is not allowed, must be an IPv4 or IPv6 address", path, keys[i],
                        shown);
            return false;
        }
    }
    if (net->ip && address_family(net->ip) != address_family(net->mask)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: ip %s and mask %s must be of the same family", path, net->ip, net->mask);
        return false;
    }
    return true;
}

static bool check_tap(const KumoNetConfig *net, const char *path, GError **error)
{
    if (net->tap && net->fds) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: tap and fds exclude each other",
                    path);
        return false;
    }
    for (const char *c = net->tap; c && *c; c++) {
        if (g_ascii_iscntrl(*c) || strchr("/:% ", *c)) {
            g_autofree char *shown = kumo_quote_value(net->tap);

            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.tap: %s is not allowed, must be the name of an interface", path, shown);
            return false;
        }
    }
    return true;
}

static bool check_queues(const KumoNetConfig *net, const char *path, GError **error)
{
    if (net->num_queues % 2) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "%s.num_queues: %u is not allowed, must be even: receive and transmit queues are "
            "counted together",
            path, net->num_queues);
        return false;
    }
    if (net->fds && net->num_queues != 2 * net->fds->len) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "%s.num_queues: %u is not allowed, must be %u, two for each of the %u descriptors",
            path, net->num_queues, 2 * net->fds->len, net->fds->len);
        return false;
    }
    return true;
}

static bool net_validate(const void *object, const char *path, GError **error)
{
    const KumoNetConfig *net = object;

    if (!check_tap(net, path, error) || !check_addresses(net, path, error) ||
        !check_mac(path, "mac", net->mac, error) ||
        !check_mac(path, "host_mac", net->host_mac, error) || !check_queues(net, path, error))
        return false;
    if (!net->offload_csum && (net->offload_tso || net->offload_ufo)) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "%s.offload_csum: false is not allowed while offload_tso or offload_ufo is true", path);
        return false;
    }
    return kumo_queue_affinity_check(net->queue_affinity, net->num_queues / 2,
                                     "the number of pairs", path, error);
}

const KumoSection kumo_net_section = {
    .option = "net",
    .fields = net_fields,
    .n_fields = G_N_ELEMENTS(net_fields),
    .size = sizeof(KumoNetConfig),
    .validate = net_validate,
};
