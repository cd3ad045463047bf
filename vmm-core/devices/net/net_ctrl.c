/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/net/net_ctrl.h"

#include <linux/virtio_net.h>
#include <sys/epoll.h>

#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum {
    HEADER_BYTES = 2, /* class, command */
    MAX_IOV = 64,     /* a command is small; its MAC table may come in pieces */
    BUDGET = 64,      /* commands before the worker's other devices have their turn */
};

/* Returns: whether @len bytes of @chain after the header are there. */
static bool read_data(const KumoVirtqChain *chain, void *data, size_t len)
{
    return kumo_virtq_chain_read(chain, HEADER_BYTES, data, len) == len;
}

static bool serve(KumoNetCtrl *ctrl, const KumoVirtqChain *chain)
{
    struct virtio_net_ctrl_hdr header;
    uint16_t pairs;
    uint64_t offloads;

    if (kumo_virtq_chain_read(chain, 0, &header, sizeof(header)) != HEADER_BYTES)
        return false;
    switch (header.class) {
    case VIRTIO_NET_CTRL_RX:
    case VIRTIO_NET_CTRL_MAC:
    case VIRTIO_NET_CTRL_VLAN:
        /* Not offered, yet some drivers send them. The guest gets all frames: nothing to set up. */
        return true;
    case VIRTIO_NET_CTRL_ANNOUNCE:
        if (header.cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
            return false;
        ctrl->ops->announced(ctrl->opaque);
        return true;
    case VIRTIO_NET_CTRL_MQ:
        if (header.cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
            !read_data(chain, &pairs, sizeof(pairs)))
            return false;
        return ctrl->ops->set_pairs(ctrl->opaque, GUINT16_FROM_LE(pairs));
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
        if (header.cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
            !read_data(chain, &offloads, sizeof(offloads)))
            return false;
        return ctrl->ops->set_offloads(ctrl->opaque, GUINT64_FROM_LE(offloads));
    default:
        return false;
    }
}

static void ctrl_break(KumoNetCtrl *ctrl, const char *why)
{
    ctrl->broken = true;
    kumo_virtio_broken(ctrl->virtio, why);
}

/* Returns: FALSE if there was nothing to do. */
static bool ctrl_one(KumoNetCtrl *ctrl)
{
    struct iovec iov[MAX_IOV];
    KumoVirtqChain chain = { .iov = iov, .max_iov = MAX_IOV };
    uint8_t ack;

    switch (kumo_virtq_pop(ctrl->virtq, &chain)) {
    case KUMO_VIRTQ_EMPTY:
        return false;
    case KUMO_VIRTQ_BROKEN:
        ctrl_break(ctrl, "control queue against the rules");
        return false;
    case KUMO_VIRTQ_CHAIN:
        break;
    }
    if (chain.writable_bytes == 0 || chain.readable_bytes < HEADER_BYTES) {
        ctrl_break(ctrl, "network control command without header or status byte");
        return false;
    }
    ack = serve(ctrl, &chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
    kumo_virtq_chain_write(ctrl->virtq, &chain, 0, &ack, sizeof(ack));
    kumo_virtq_push(ctrl->virtq, chain.head, sizeof(ack));
    return true;
}

static void ctrl_run(void *opaque)
{
    KumoNetCtrl *ctrl = opaque;
    unsigned done = 0;

    while (!ctrl->broken) {
        kumo_virtq_disable_kicks(ctrl->virtq);
        while (done < BUDGET && ctrl_one(ctrl))
            done++;
        kumo_virtq_notify(ctrl->virtq);
        if (done >= BUDGET) {
            kumo_eventfd_signal(ctrl->virtq->kick_fd);
            return;
        }
        if (ctrl->broken || !kumo_virtq_enable_kicks(ctrl->virtq))
            return;
    }
}

static void on_kick(void *opaque, uint32_t events)
{
    ctrl_run(opaque);
}

bool kumo_net_ctrl_start(KumoNetCtrl *ctrl, KumoLoop *loop, KumoVirtq *virtq, GError **error)
{
    ctrl->loop = loop;
    ctrl->virtq = virtq;
    ctrl->broken = false;
    ctrl->source = kumo_loop_add_fd(loop, virtq->kick_fd, EPOLLIN | EPOLLET, on_kick, ctrl, error);
    if (!ctrl->source) {
        ctrl->virtq = NULL;
        return false;
    }
    kumo_loop_call(loop, ctrl_run, ctrl);
    return true;
}

void kumo_net_ctrl_stop(KumoNetCtrl *ctrl)
{
    g_clear_pointer(&ctrl->source, kumo_loop_remove);
    ctrl->virtq = NULL;
}
