/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control queue of virtio-net (Virtio 1.2, 5.1.6.5), served on the slow devices' worker. */
#pragma once

#include "vmm-core/base/loop.h"
#include "vmm-core/devices/virtio/virtio.h"

/* What the commands do; called on the worker. FALSE: the driver gets an error. */
typedef struct {
    bool (*set_pairs)(void *opaque, unsigned n_pairs);
    bool (*set_offloads)(void *opaque, uint64_t offloads);
    void (*announced)(void *opaque);
} KumoNetCtrlOps;

typedef struct {
    KumoVirtio *virtio;
    const KumoNetCtrlOps *ops;
    void *opaque;
    KumoLoop *loop;
    KumoVirtq *virtq; /* NULL while stopped */
    KumoLoopSource *source;
    bool broken;
} KumoNetCtrl;

bool kumo_net_ctrl_start(KumoNetCtrl *ctrl, KumoLoop *loop, KumoVirtq *virtq, GError **error);

/* Returns when no command is being served. Fine if not started. */
void kumo_net_ctrl_stop(KumoNetCtrl *ctrl);
