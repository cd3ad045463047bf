/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/net/virtio_net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/net/net_ctrl.h"
#include "vmm-core/devices/net/net_queue.h"
#include "vmm-core/devices/net/tap.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

#define FEATURE(bit) (1ULL << (bit))

#define GUEST_GSO                                                                                  \
    (FEATURE(VIRTIO_NET_F_GUEST_TSO4) | FEATURE(VIRTIO_NET_F_GUEST_TSO6) |                         \
     FEATURE(VIRTIO_NET_F_GUEST_UFO))
#define GUEST_OFFLOADS                                                                             \
    (GUEST_GSO | FEATURE(VIRTIO_NET_F_GUEST_ECN) | FEATURE(VIRTIO_NET_F_GUEST_CSUM))

enum {
    CTRL_QUEUE_SIZE = 64,
    DEFAULT_MTU = 1500,
    ETHERNET_BYTES = 18,   /* header with a VLAN tag */
    MAX_GSO_BYTES = 65535, /* what a segment to be split further may hold */
};

typedef struct {
    KumoVirtio virtio; /* first */
    const KumoNetConfig *config;
    unsigned n_pairs;
    uint8_t mac[6]; /* kept over realize and unrealize */

    /* While realized. */
    KumoTap *tap;
    KumoNetPair **pairs;                      /* n_pairs of them */
    KumoRateLimiter *rx_limiter, *tx_limiter; /* of all pairs together; NULL: no limit */
    KumoNetCtrl ctrl;
    KumoLoop *slow_loop;

    /* While active: set by activation, then only by the control queue's worker. */
    unsigned pairs_enabled;
    uint64_t offloads; /* VIRTIO_NET_F_GUEST_* in use */
    bool announce_due; /* came from elsewhere: main thread, at resume */

    GMutex lock; /* guards space; taken with no other lock held */
    struct virtio_net_config space;
} KumoVirtioNet;

static uint32_t net_max_frame(const KumoVirtioNet *net)
{
    uint32_t mtu;

    if (net->offloads & GUEST_GSO)
        return KUMO_TAP_HEADER_BYTES + ETHERNET_BYTES + MAX_GSO_BYTES;
    mtu = kumo_tap_mtu(net->tap);
    return KUMO_TAP_HEADER_BYTES + ETHERNET_BYTES + MAX(mtu, DEFAULT_MTU);
}

/* --- the control queue's commands, on the slow worker --- */

static bool net_ctrl_set_pairs(void *opaque, unsigned n_pairs)
{
    KumoVirtioNet *net = opaque;
    g_autoptr(GError) error = NULL;

    if (!kumo_virtio_has(&net->virtio, FEATURE(VIRTIO_NET_F_MQ)) || n_pairs < 1 ||
        n_pairs > net->n_pairs)
        return false;
    while (net->pairs_enabled < n_pairs) {
        if (net->tap->multi_queue &&
            !kumo_tap_enable_queue(net->tap, net->pairs_enabled, true, &error))
            break;
        kumo_net_pair_set_enabled(net->pairs[net->pairs_enabled++], true);
    }
    while (!error && net->pairs_enabled > n_pairs) {
        kumo_net_pair_set_enabled(net->pairs[--net->pairs_enabled], false);
        if (net->tap->multi_queue)
            kumo_tap_enable_queue(net->tap, net->pairs_enabled, false, &error);
    }
    if (error)
        kumo_warn_guest("%s: %u queue pairs: %s", net->virtio.device.id, n_pairs, error->message);
    return !error;
}

static bool net_ctrl_set_offloads(void *opaque, uint64_t offloads)
{
    KumoVirtioNet *net = opaque;
    g_autoptr(GError) error = NULL;

    if (!kumo_virtio_has(&net->virtio, FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)) ||
        offloads & ~(net->virtio.negotiated & GUEST_OFFLOADS))
        return false;
    if (!kumo_tap_set_offload(net->tap, offloads, &error)) {
        kumo_warn_guest("%s: %s", net->virtio.device.id, error->message);
        return false;
    }
    net->offloads = offloads;
    for (unsigned i = 0; i < net->n_pairs; i++)
        kumo_net_pair_set_max_frame(net->pairs[i], net_max_frame(net));
    return true;
}

static void net_ctrl_announced(void *opaque)
{
    KumoVirtioNet *net = opaque;

    g_mutex_lock(&net->lock);
    net->space.status &= GUINT16_TO_LE((uint16_t)~VIRTIO_NET_S_ANNOUNCE);
    g_mutex_unlock(&net->lock);
}

static const KumoNetCtrlOps net_ctrl_ops = {
    .set_pairs = net_ctrl_set_pairs,
    .set_offloads = net_ctrl_set_offloads,
    .announced = net_ctrl_announced,
};

/* --- virtio --- */

static void net_config_read(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoVirtioNet *net = (KumoVirtioNet *)virtio;

    /* Up to mtu: what follows belongs to features that are not offered. */
    g_mutex_lock(&net->lock);
    kumo_virtio_config_copy(&net->space, offsetof(struct virtio_net_config, speed), offset, data,
                            size);
    g_mutex_unlock(&net->lock);
}

static void net_stop(KumoVirtioNet *net)
{
    kumo_net_ctrl_stop(&net->ctrl);
    for (unsigned i = 0; i < net->n_pairs; i++)
        kumo_net_pair_stop(net->pairs[i]);
}

/* The control queue comes after the receive and transmit queues that the driver knows of (5.1.2).
 */
static unsigned net_ctrl_index(const KumoVirtioNet *net)
{
    return kumo_virtio_has(&net->virtio, FEATURE(VIRTIO_NET_F_MQ)) ? 2 * net->n_pairs : 2;
}

static bool net_start(KumoVirtioNet *net, GError **error)
{
    KumoVirtio *virtio = &net->virtio;
    bool mq = kumo_virtio_has(virtio, FEATURE(VIRTIO_NET_F_MQ));
    bool mergeable = kumo_virtio_has(virtio, FEATURE(VIRTIO_NET_F_MRG_RXBUF));
    KumoVirtq *ctrl = &virtio->queues[net_ctrl_index(net)];

    for (unsigned i = 0; i < (mq ? net->n_pairs : 1); i++) {
        KumoVirtq *rx = &virtio->queues[2 * i];
        KumoVirtq *tx = &virtio->queues[2 * i + 1];

        if (!rx->ready || !tx->ready)
            continue;
        if (!kumo_net_pair_start(net->pairs[i], rx, tx, mergeable, net_max_frame(net),
                                 i < net->pairs_enabled, error))
            goto fail;
    }
    if (kumo_virtio_has(virtio, FEATURE(VIRTIO_NET_F_CTRL_VQ)) && ctrl->ready &&
        !kumo_net_ctrl_start(&net->ctrl, net->slow_loop, ctrl, error))
        goto fail;
    return true;

fail:
    net_stop(net);
    return false;
}

/* The kernel spreads frames over all attached queues: only those that the driver uses may be. */
static bool net_attach_queues(KumoVirtioNet *net, unsigned n, GError **error)
{
    while (net->tap->multi_queue && net->pairs_enabled > n) {
        if (!kumo_tap_enable_queue(net->tap, net->pairs_enabled - 1, false, error))
            return false;
        net->pairs_enabled--;
    }
    while (net->tap->multi_queue && net->pairs_enabled < n) {
        if (!kumo_tap_enable_queue(net->tap, net->pairs_enabled, true, error))
            return false;
        net->pairs_enabled++;
    }
    net->pairs_enabled = n;
    return true;
}

static bool net_activate(KumoVirtio *virtio, GError **error)
{
    KumoVirtioNet *net = (KumoVirtioNet *)virtio;

    net->offloads = virtio->negotiated & GUEST_OFFLOADS;
    return kumo_tap_set_offload(net->tap, net->offloads, error) &&
           net_attach_queues(net, 1, error) && net_start(net, error);
}

static void net_deactivate(KumoVirtio *virtio)
{
    KumoVirtioNet *net = (KumoVirtioNet *)virtio;

    net_stop(net);
    net->offloads = 0;
    net_ctrl_announced(net);
}

static bool net_pause(KumoVirtio *virtio, GError **error)
{
    net_stop((KumoVirtioNet *)virtio);
    return true;
}

static void net_resume(KumoVirtio *virtio)
{
    KumoVirtioNet *net = (KumoVirtioNet *)virtio;
    g_autoptr(GError) error = NULL;

    if (!net_start(net, &error)) {
        kumo_error("%s: resume: %s", virtio->device.id, error->message);
        kumo_virtio_broken(virtio, "the queues cannot be resumed");
        return;
    }
    /* Switches still send to where the machine was: the guest makes itself heard (5.1.5.4). */
    if (net->announce_due) {
        net->announce_due = false;
        g_mutex_lock(&net->lock);
        net->space.status |= GUINT16_TO_LE(VIRTIO_NET_S_ANNOUNCE);
        g_mutex_unlock(&net->lock);
        virtio->notify_config(virtio);
    }
}

static const KumoVirtioOps net_virtio_ops = {
    .config_read = net_config_read,
    .activate = net_activate,
    .deactivate = net_deactivate,
    .pause = net_pause,
    .resume = net_resume,
};

/* --- the device --- */

static uint64_t net_features(const KumoVirtioNet *net)
{
    const KumoNetConfig *config = net->config;
    bool guest_side = kumo_tap_can_offload(net->tap);
    uint64_t features = KUMO_VIRTIO_F_RING_EVENT_IDX | KUMO_VIRTIO_F_RING_INDIRECT_DESC |
                        FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_MRG_RXBUF) |
                        FEATURE(VIRTIO_NET_F_STATUS) | FEATURE(VIRTIO_NET_F_CTRL_VQ) |
                        FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE);

    if (config->offload_csum)
        features |= FEATURE(VIRTIO_NET_F_CSUM);
    if (config->offload_csum && config->offload_tso)
        features |= FEATURE(VIRTIO_NET_F_HOST_TSO4) | FEATURE(VIRTIO_NET_F_HOST_TSO6) |
                    FEATURE(VIRTIO_NET_F_HOST_ECN);
    if (config->offload_csum && config->offload_ufo)
        features |= FEATURE(VIRTIO_NET_F_HOST_UFO);
    if (guest_side && config->offload_csum) {
        features |= FEATURE(VIRTIO_NET_F_GUEST_CSUM) | FEATURE(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
        if (config->offload_tso)
            features |= FEATURE(VIRTIO_NET_F_GUEST_TSO4) | FEATURE(VIRTIO_NET_F_GUEST_TSO6) |
                        FEATURE(VIRTIO_NET_F_GUEST_ECN);
        if (config->offload_ufo)
            features |= FEATURE(VIRTIO_NET_F_GUEST_UFO);
    }
    if (config->mtu)
        features |= FEATURE(VIRTIO_NET_F_MTU);
    if (net->n_pairs > 1)
        features |= FEATURE(VIRTIO_NET_F_MQ);
    return features;
}

static bool net_set_mac(KumoVirtioNet *net, GError **error)
{
    static const uint8_t unset[6];

    if (net->config->mac) {
        if (kumo_mac_parse(net->config->mac, net->mac))
            return true;
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "mac %s is not a MAC address",
                    net->config->mac);
        return false;
    }
    if (memcmp(net->mac, unset, sizeof(unset)) == 0) {
        for (unsigned i = 0; i < sizeof(net->mac); i++)
            net->mac[i] = (uint8_t)g_random_int();
        net->mac[0] = (net->mac[0] & 0xfc) | 0x02; /* locally administered, of one station */
    }
    return true;
}

static void net_close(KumoVirtioNet *net)
{
    for (unsigned i = 0; net->pairs && i < net->n_pairs; i++)
        kumo_net_pair_free(net->pairs[i]);
    g_clear_pointer(&net->pairs, g_free);
    g_clear_pointer(&net->rx_limiter, kumo_rate_limiter_unref);
    g_clear_pointer(&net->tx_limiter, kumo_rate_limiter_unref);
    g_clear_pointer(&net->tap, kumo_tap_close);
}

static bool net_open(KumoVirtioNet *net, GError **error)
{
    const KumoNetConfig *config = net->config;

    if (config->num_queues < 2 || config->num_queues % 2 || config->queue_size < 4 ||
        config->queue_size > KUMO_MAX_QUEUE_SIZE || !kumo_is_pow2(config->queue_size)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "num_queues %u, queue_size %u: pairs of queues of a power of two from 4 to %d",
                    config->num_queues, config->queue_size, KUMO_MAX_QUEUE_SIZE);
        return false;
    }
    net->n_pairs = config->num_queues / 2;
    if (!net_set_mac(net, error))
        return false;
    net->slow_loop = kumo_machine_slow_loop(net->virtio.device.machine, error);
    if (!net->slow_loop)
        return false;
    net->tap = kumo_tap_open(config, net->n_pairs, error);
    if (!net->tap)
        return false;
    net->pairs_enabled = net->n_pairs;
    net->rx_limiter = kumo_rate_limiter_new(&config->rate.limit);
    net->tx_limiter = kumo_rate_limiter_new(&config->rate.limit);
    net->pairs = g_new0(KumoNetPair *, net->n_pairs);
    for (unsigned i = 0; i < net->n_pairs; i++) {
        net->pairs[i] =
            kumo_net_pair_new(&net->virtio, i, (uint16_t)config->queue_size, net->tap->fds[i],
                              net->rx_limiter, net->tx_limiter, error);
        if (!net->pairs[i] || (config->queue_affinity->len &&
                               !kumo_net_pair_bind(net->pairs[i], config->queue_affinity, error)))
            return false;
        if (!config->link_up)
            kumo_net_pair_set_link(net->pairs[i], false);
    }
    net->space = (struct virtio_net_config){
        .status = GUINT16_TO_LE(config->link_up ? VIRTIO_NET_S_LINK_UP : 0),
        .max_virtqueue_pairs = GUINT16_TO_LE((uint16_t)net->n_pairs),
        .mtu = GUINT16_TO_LE((uint16_t)MIN(config->mtu, G_MAXUINT16)),
    };
    memcpy(net->space.mac, net->mac, sizeof(net->mac));
    return true;
}

static bool net_realize(KumoDevice *device, GError **error)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;
    g_autofree uint16_t *sizes = NULL;
    KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_NET,
        .class_code = 0x02, /* network, Ethernet */
        .subclass = 0x00,
    };

    if (!net_open(net, error)) {
        net_close(net);
        return false;
    }
    params.offered = net_features(net);
    params.n_queues = 2 * net->n_pairs + 1;
    sizes = g_new(uint16_t, params.n_queues);
    for (unsigned i = 0; i < params.n_queues; i++)
        sizes[i] = (uint16_t)net->config->queue_size;
    sizes[2 * net->n_pairs] = CTRL_QUEUE_SIZE;
    params.queue_sizes = sizes;
    if (!kumo_virtio_pci_realize(&net->virtio, &net->config->pci, &params, error)) {
        net_close(net);
        return false;
    }
    net->ctrl = (KumoNetCtrl){ .virtio = &net->virtio, .ops = &net_ctrl_ops, .opaque = net };
    kumo_debug("%s: tap %s, %u queue pairs", device->id, net->tap->name, net->n_pairs);
    return true;
}

static void net_unrealize(KumoDevice *device)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;

    g_autoptr(GError) error = NULL;

    kumo_virtio_pci_unrealize(&net->virtio);
    /* Descriptors that were given to us outlive the device; the next one expects them attached. */
    if (!net_attach_queues(net, net->n_pairs, &error))
        kumo_warn("%s: %s", device->id, error->message);
    net_close(net);
}

static void net_free(KumoDevice *device)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;

    g_mutex_clear(&net->lock);
    g_free(net);
}

static json_t *net_counters(KumoDevice *device)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;
    json_int_t rx_bytes = 0, rx_frames = 0, tx_bytes = 0, tx_frames = 0;

    for (unsigned i = 0; i < net->n_pairs; i++) {
        const KumoNetStats *stats = kumo_net_pair_stats(net->pairs[i]);

        rx_bytes += (json_int_t)atomic_load_explicit(&stats->rx_bytes, memory_order_relaxed);
        rx_frames += (json_int_t)atomic_load_explicit(&stats->rx_frames, memory_order_relaxed);
        tx_bytes += (json_int_t)atomic_load_explicit(&stats->tx_bytes, memory_order_relaxed);
        tx_frames += (json_int_t)atomic_load_explicit(&stats->tx_frames, memory_order_relaxed);
    }
    return json_pack("{s:I, s:I, s:I, s:I}", "rx_bytes", rx_bytes, "rx_frames", rx_frames,
                     "tx_bytes", tx_bytes, "tx_frames", tx_frames);
}

static void net_report(KumoDevice *device, KumoVmConfig *config)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;

    for (unsigned i = 0; i < config->nets->len; i++) {
        KumoNetConfig *entry = g_ptr_array_index(config->nets, i);

        if (!entry->mac && g_strcmp0(entry->pci.id, device->id) == 0)
            entry->mac = g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", net->mac[0], net->mac[1],
                                         net->mac[2], net->mac[3], net->mac[4], net->mac[5]);
    }
}

/* Frames pass only while the guest is told that they do: its driver waits for the interrupt
 * (5.1.4). */
static void net_set_link(KumoVirtioNet *net, bool up)
{
    uint16_t status;

    for (unsigned i = 0; i < net->n_pairs; i++)
        kumo_net_pair_set_link(net->pairs[i], up);
    g_mutex_lock(&net->lock);
    status = GUINT16_FROM_LE(net->space.status) & (uint16_t)~VIRTIO_NET_S_LINK_UP;
    net->space.status = GUINT16_TO_LE(status | (up ? VIRTIO_NET_S_LINK_UP : 0));
    g_mutex_unlock(&net->lock);
    net->virtio.notify_config(&net->virtio);
}

typedef struct {
    KumoVirtioNet *net;
    const KumoNetConfig *wanted;
} Update;

static bool net_change_limit(void *opaque, GError **error)
{
    const Update *update = opaque;
    KumoVirtioNet *net = update->net;

    for (unsigned i = 0; i < net->n_pairs; i++) {
        if (!kumo_net_pair_prepare_limiters(net->pairs[i], error))
            return false;
    }
    kumo_rate_limiter_unref(net->rx_limiter);
    kumo_rate_limiter_unref(net->tx_limiter);
    net->rx_limiter = kumo_rate_limiter_new(&update->wanted->rate.limit);
    net->tx_limiter = kumo_rate_limiter_new(&update->wanted->rate.limit);
    for (unsigned i = 0; i < net->n_pairs; i++)
        kumo_net_pair_set_limiters(net->pairs[i], net->rx_limiter, net->tx_limiter);
    return true;
}

static bool net_bind_pairs(KumoVirtioNet *net, const GPtrArray *affinity, GError **error)
{
    for (unsigned i = 0; i < net->n_pairs; i++) {
        if (!kumo_net_pair_bind(net->pairs[i], affinity, error))
            return false;
    }
    return true;
}

static bool net_update(KumoDevice *device, const void *wanted, GError **error)
{
    Update update = { (KumoVirtioNet *)device, wanted };
    KumoVirtioNet *net = update.net;

    if (!net_bind_pairs(net, update.wanted->queue_affinity, error) ||
        (!kumo_rate_limit_equal(&net->config->rate.limit, &update.wanted->rate.limit) &&
         !kumo_virtio_pci_change(&net->virtio, net_change_limit, &update, error))) {
        net_bind_pairs(net, net->config->queue_affinity, NULL);
        return false;
    }
    if (net->config->link_up != update.wanted->link_up)
        net_set_link(net, update.wanted->link_up);
    return true;
}

typedef struct {
    KumoVirtioPciState transport;
    uint8_t mac[6];
    uint16_t status;
    uint16_t mtu;
    uint32_t pairs_enabled;
    uint64_t offloads;
} NetState;

static const KumoStateField net_fields[] = {
    { KUMO_STATE_ROW(TABLE, NetState, transport), .table = &kumo_virtio_pci_state_table },
    { KUMO_STATE_ROW(BYTES, NetState, mac), .count = 6 },
    { KUMO_STATE_ROW(U16, NetState, status) },
    { KUMO_STATE_ROW(U16, NetState, mtu) },
    { KUMO_STATE_ROW(U32, NetState, pairs_enabled) },
    { KUMO_STATE_ROW(U64, NetState, offloads) },
};

static const KumoStateTable net_table = {
    .name = "virtio-net",
    .version = 1,
    .fields = net_fields,
    .n_fields = G_N_ELEMENTS(net_fields),
    .size = sizeof(NetState),
};

static void net_save(KumoDevice *device, void *opaque)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;
    NetState *state = opaque;

    kumo_virtio_pci_save(&net->virtio, &state->transport);
    state->pairs_enabled = net->pairs_enabled;
    state->offloads = net->offloads;
    memcpy(state->mac, net->mac, sizeof(state->mac));
    g_mutex_lock(&net->lock);
    state->status = GUINT16_FROM_LE(net->space.status);
    state->mtu = GUINT16_FROM_LE(net->space.mtu);
    g_mutex_unlock(&net->lock);
}

static bool net_load(KumoDevice *device, const void *opaque, GError **error)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;
    KumoVirtio *virtio = &net->virtio;
    const NetState *state = opaque;

    if (state->pairs_enabled < 1 || state->pairs_enabled > net->n_pairs) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "state: pairs_enabled: %u is not from 1 to %u", state->pairs_enabled,
                    net->n_pairs);
        return false;
    }
    if (!kumo_virtio_pci_load(virtio, &state->transport, error))
        return false;
    if (state->offloads & ~(virtio->negotiated & GUEST_OFFLOADS)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "state: offloads: 0x%" G_GINT64_MODIFIER "x were not negotiated",
                    state->offloads);
        return false;
    }
    memcpy(net->mac, state->mac, sizeof(net->mac));
    g_mutex_lock(&net->lock);
    memcpy(net->space.mac, state->mac, sizeof(net->space.mac));
    net->space.status = GUINT16_TO_LE(state->status);
    net->space.mtu = GUINT16_TO_LE(state->mtu);
    g_mutex_unlock(&net->lock);
    if (!virtio->active)
        return true;
    net->offloads = state->offloads;
    net->announce_due = kumo_virtio_has(virtio, FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE));
    return kumo_tap_set_offload(net->tap, net->offloads, error) &&
           net_attach_queues(net, state->pairs_enabled, error);
}

static const KumoDeviceState net_state = {
    .table = &net_table,
    .save = net_save,
    .load = net_load,
};

static const KumoDeviceOps net_device_ops = {
    .type = "virtio-net",
    .realize = net_realize,
    .unrealize = net_unrealize,
    .free = net_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
    .pci_bdf = kumo_virtio_pci_bdf,
    .describe = kumo_virtio_pci_describe,
    .counters = net_counters,
    .report = net_report,
    .state = &net_state,
    .update = net_update,
    .announce = kumo_virtio_pci_announce,
    .ask_removal = kumo_virtio_pci_ask_removal,
};

/* RFC 903: who sends it has the address, which is all that a switch wants to know. */
static void net_send_rarp(const KumoVirtioNet *net)
{
    struct {
        uint8_t header[KUMO_TAP_HEADER_BYTES]; /* no offload */
        struct ethhdr eth;
        struct {
            uint16_t hardware, protocol;
            uint8_t hardware_len, protocol_len;
            uint16_t operation;
            uint8_t sender[6], sender_ip[4], target[6], target_ip[4];
        } __attribute__((packed)) rarp;
        uint8_t padding[ETH_ZLEN - ETH_HLEN - 28];
    } __attribute__((packed)) frame = {
        .eth.h_proto = htons(ETH_P_RARP),
        .rarp = { htons(ARPHRD_ETHER), htons(ETH_P_IP), 6, 4, htons(3 /* reverse request */) },
    };

    memset(frame.eth.h_dest, 0xff, sizeof(frame.eth.h_dest));
    memcpy(frame.eth.h_source, net->mac, sizeof(net->mac));
    memcpy(frame.rarp.sender, net->mac, sizeof(net->mac));
    memcpy(frame.rarp.target, net->mac, sizeof(net->mac));
    if (write(net->tap->fds[0], &frame, sizeof(frame)) < 0)
        kumo_info("%s: tap %s: announcing the address: %s", net->virtio.device.id, net->tap->name,
                  g_strerror(errno));
}

bool kumo_virtio_net_announce(KumoDevice *device)
{
    KumoVirtioNet *net = (KumoVirtioNet *)device;

    if (device->ops != &net_device_ops || !device->realized)
        return false;
    net_send_rarp(net);
    if (!net->virtio.active || !kumo_virtio_has(&net->virtio, FEATURE(VIRTIO_NET_F_GUEST_ANNOUNCE)))
        return false;
    g_mutex_lock(&net->lock);
    net->space.status |= GUINT16_TO_LE(VIRTIO_NET_S_ANNOUNCE);
    g_mutex_unlock(&net->lock);
    net->virtio.notify_config(&net->virtio);
    return true;
}

KumoDevice *kumo_virtio_net_new(KumoMachine *machine, const KumoNetConfig *config)
{
    KumoVirtioNet *net = g_new0(KumoVirtioNet, 1);

    kumo_device_init(&net->virtio.device, &net_device_ops, machine, config->pci.id);
    net->virtio.ops = &net_virtio_ops;
    net->config = config;
    g_mutex_init(&net->lock);
    return &net->virtio.device;
}

static KumoDevice *net_hotplug(KumoMachine *machine, const void *entry)
{
    return kumo_virtio_net_new(machine, entry);
}

static bool net_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    for (unsigned i = 0; i < config->nets->len; i++) {
        const KumoNetConfig *net = g_ptr_array_index(config->nets, i);

        if (!kumo_device_add(kumo_virtio_net_new(machine, net), error))
            return false;
    }
    return true;
}

const KumoDeviceType kumo_device_type_virtio_net = {
    .name = "virtio-net",
    .create = net_create,
    .list = KUMO_DEVICE_LIST_NETS,
    .hotplug = net_hotplug,
};
