/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One receive and transmit queue pair of a virtio-net device with its worker. Frames go between
 * guest memory and the tap without a copy of ours: the rings' buffers are handed to readv() and
 * writev().
 *
 * Threads: between start and stop everything belongs to the worker, except what is marked
 * otherwise.
 */
#pragma once

#include <linux/virtio_net.h>
#include <stdatomic.h>

#include "vmm-core/base/loop.h"
#include "vmm-core/base/rate_limiter.h"
#include "vmm-core/base/sandbox.h"
#include "vmm-core/devices/virtio/virtio.h"

extern const KumoThreadKind kumo_net_thread;

/* Written by the worker, read by anybody. */
typedef struct {
    _Atomic uint64_t rx_bytes, rx_frames, tx_bytes, tx_frames;
    _Atomic uint64_t rx_dropped, tx_dropped;
} KumoNetStats;

typedef struct KumoNetPair KumoNetPair;

/**
 * kumo_net_pair_new:
 * @tap_fd: non-blocking, with headers of KUMO_TAP_HEADER_BYTES; stays the caller's
 * @rx_limiter: (nullable) (transfer none): of what the guest receives
 * @tx_limiter: (nullable) (transfer none): of what it sends
 *
 * Starts the worker.
 *
 * Returns: (transfer full): or NULL with @error set.
 */
KumoNetPair *kumo_net_pair_new(KumoVirtio *virtio, unsigned index, uint16_t queue_size, int tap_fd,
                               KumoRateLimiter *rx_limiter, KumoRateLimiter *tx_limiter,
                               GError **error);

/* The pair must be stopped. NULL is fine. */
void kumo_net_pair_free(KumoNetPair *pair);

/**
 * kumo_net_pair_start:
 * @mergeable: VIRTIO_NET_F_MRG_RXBUF was negotiated
 * @max_frame_bytes: the largest frame, with header, that is to be expected
 * @enabled: whether the tap is to be read: FALSE while the queue is detached from it
 *
 * Hands the queues to the worker. Any thread but the worker's.
 */
bool kumo_net_pair_start(KumoNetPair *pair, KumoVirtq *rx, KumoVirtq *tx, bool mergeable,
                         uint32_t max_frame_bytes, bool enabled, GError **error);

/* Returns when the worker leaves rings and guest memory alone. Fine if not started. */
void kumo_net_pair_stop(KumoNetPair *pair);

/* While started: begins or ends to read from the tap. Any thread. */
void kumo_net_pair_set_enabled(KumoNetPair *pair, bool enabled);

/* While started: the largest frame changes, since the driver changed its offloads. Any thread. */
void kumo_net_pair_set_max_frame(KumoNetPair *pair, uint32_t max_frame_bytes);

/* While the link is down frames of both directions are dropped. Any thread, started or not. */
void kumo_net_pair_set_link(KumoNetPair *pair, bool up);

/* Of a stopped pair: first prepare, which may fail, for all pairs; then the limiters for each. */
bool kumo_net_pair_prepare_limiters(KumoNetPair *pair, GError **error);
void kumo_net_pair_set_limiters(KumoNetPair *pair, KumoRateLimiter *rx, KumoRateLimiter *tx);

/* The worker may run on the CPUs that @affinity, of KumoQueueAffinity, has for the pair; anywhere
 * if it has none. */
bool kumo_net_pair_bind(KumoNetPair *pair, const GPtrArray *affinity, GError **error);

const KumoNetStats *kumo_net_pair_stats(const KumoNetPair *pair);
