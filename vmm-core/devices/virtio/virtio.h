/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A virtio device (Virtio 1.2, chapter 2) without its transport. The device implements
 * KumoVirtioOps; the PCI transport (virtio_pci.h) drives it.
 */
#pragma once

#include "vmm-core/core/device.h"
#include "vmm-core/devices/virtio/virtqueue.h"

enum {
    KUMO_VIRTIO_NET = 1,
    KUMO_VIRTIO_BLOCK = 2,
    KUMO_VIRTIO_CONSOLE = 3,
    KUMO_VIRTIO_RNG = 4,
    KUMO_VIRTIO_BALLOON = 5,
    KUMO_VIRTIO_MEM = 24,
};

/* Feature bits (6): every device offers VERSION_1. */
#define KUMO_VIRTIO_F_RING_INDIRECT_DESC (1ULL << 28)
#define KUMO_VIRTIO_F_RING_EVENT_IDX     (1ULL << 29)
#define KUMO_VIRTIO_F_VERSION_1          (1ULL << 32)

/* Device status (2.1). */
enum {
    KUMO_VIRTIO_S_ACKNOWLEDGE = 1,
    KUMO_VIRTIO_S_DRIVER = 2,
    KUMO_VIRTIO_S_DRIVER_OK = 4,
    KUMO_VIRTIO_S_FEATURES_OK = 8,
    KUMO_VIRTIO_S_NEEDS_RESET = 64,
    KUMO_VIRTIO_S_FAILED = 128,
};

typedef struct KumoVirtio KumoVirtio;

typedef struct {
    /* Config space (2.5). @offset + @size may exceed what the device has: excess reads as zero,
     * excess writes vanish. vCPU threads. */
    void (*config_read)(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size);
    void (*config_write)(KumoVirtio *virtio, uint64_t offset, const uint8_t *data,
                         unsigned size); /* NULL: read-only */
    /**
     * activate: the driver set DRIVER_OK. Queues that are ready have been started; the device hands
     * them to its workers, which watch kick_fd. vCPU thread. Returns: FALSE with @error: the
     * transport sets DEVICE_NEEDS_RESET.
     */
    bool (*activate)(KumoVirtio *virtio, GError **error);
    /* Reset or unplug: returns when no worker touches queues or guest memory any more. Requests in
     * flight are drained. */
    void (*deactivate)(KumoVirtio *virtio);
    /* Like deactivate and activate but nothing is forgotten: the queues' positions stay. Main
     * thread. */
    bool (*pause)(KumoVirtio *virtio, GError **error);
    void (*resume)(KumoVirtio *virtio);
} KumoVirtioOps;

/* A virtio device's structure starts with this one. */
struct KumoVirtio {
    KumoDevice device; /* the PCI transport is part of the same device: see virtio_pci.h */
    const KumoVirtioOps *ops;
    unsigned type;       /* KUMO_VIRTIO_* */
    uint64_t offered;    /* features; set before realize */
    uint64_t negotiated; /* valid from FEATURES_OK on */
    KumoVirtq *queues;
    unsigned n_queues;
    bool active; /* between activate and deactivate */
    /* Set by the transport. Any thread. */
    void (*notify_config)(KumoVirtio *virtio); /* config space changed: generation and interrupt */
    void (*needs_reset)(KumoVirtio *virtio);   /* sets DEVICE_NEEDS_RESET and interrupts */
    struct KumoVirtioPci *pci;
};

static inline bool kumo_virtio_has(const KumoVirtio *virtio, uint64_t feature)
{
    return (virtio->negotiated & feature) != 0;
}

/* Helper for config_read: copies from a config structure of @config_len bytes; what lies beyond
 * reads as zero. */
void kumo_virtio_config_copy(const void *config, size_t config_len, uint64_t offset, uint8_t *data,
                             unsigned size);

/* Tells the guest that the device saw something against the rules and has to be reset. */
void kumo_virtio_broken(KumoVirtio *virtio, const char *why);
