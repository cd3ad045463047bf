/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The modern PCI transport (Virtio 1.2, 4.1): BAR 0 holds common, ISR, device and notify registers
 * and MSI-X. */
#pragma once

#include "vmm-core/devices/pci/pci.h"
#include "vmm-core/devices/virtio/virtio.h"

typedef struct KumoVirtioPci KumoVirtioPci;

typedef struct {
    unsigned type; /* KUMO_VIRTIO_* */
    uint8_t class_code, subclass;
    uint64_t offered; /* features besides VERSION_1 */
    unsigned n_queues;
    const uint16_t *queue_sizes; /* one per queue */
    bool bar32;                  /* place BAR 0 below 4 GiB: what firmware boots from */
} KumoVirtioPciParams;

/**
 * kumo_virtio_pci_realize:
 * @virtio: its device base is initialised; ops set
 * @common: slot and segment
 *
 * To be called first in the device's realize: sets up queues, config space, BARs, MSI-X with a
 * vector per queue and one for the configuration, and plugs it in. The guest does not run yet or
 * will learn of it by hotplug.
 */
bool kumo_virtio_pci_realize(KumoVirtio *virtio, const KumoPciCommon *common,
                             const KumoVirtioPciParams *params, GError **error);

/*
 * In the device's unrealize, before what activate and the workers use is given back: unplugs,
 * deactivates if active, frees queues and transport. Nothing calls the device's KumoVirtioOps
 * afterwards.
 */
void kumo_virtio_pci_unrealize(KumoVirtio *virtio);

/* Ready-made KumoDeviceOps.pause and resume, which go to the device's KumoVirtioOps when it is
 * active. */
bool kumo_virtio_pci_pause(KumoDevice *device, GError **error);
void kumo_virtio_pci_resume(KumoDevice *device);

/**
 * kumo_virtio_pci_change:
 *
 * Calls @change while the queues are stopped and the guest's accesses to the device wait;
 * afterwards the queues go on where they were. @change may call notify_config. Main thread.
 *
 * Returns: what @change returns, or FALSE with @error if the queues could not be stopped.
 */
bool kumo_virtio_pci_change(KumoVirtio *virtio, bool (*change)(void *opaque, GError **error),
                            void *opaque, GError **error);

/* Ready-made KumoDeviceOps.describe: the transport is a node of its own, "_virtio-pci-ID". */
void kumo_virtio_pci_describe(KumoDevice *device, json_t *tree, json_t *node);

/* Ready-made KumoDeviceOps.pci_bdf. */
char *kumo_virtio_pci_bdf(KumoDevice *device);

/* Ready-made KumoDeviceOps.announce and ask_removal. */
void kumo_virtio_pci_announce(KumoDevice *device);
bool kumo_virtio_pci_ask_removal(KumoDevice *device, GError **error);

/* --- state --- */

typedef struct {
    uint16_t size;
    bool ready;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    uint16_t msix_vector;
    uint16_t last_avail, last_used;
    bool broken;
} KumoVirtqState;

/* The first member of the state of a virtio device. */
typedef struct {
    KumoPciFunctionState function;
    uint8_t status, isr, generation;
    uint16_t config_vector;
    uint64_t offered; /* what the guest saw */
    uint64_t driver_features;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    bool active;
    KumoVirtqState *queues;
    size_t n_queues;
} KumoVirtioPciState;

extern const KumoStateTable kumo_virtio_pci_state_table;

/* Fills what of @ret is the transport's; the device is paused. */
void kumo_virtio_pci_save(KumoVirtio *virtio, KumoVirtioPciState *ret);

/**
 * kumo_virtio_pci_load:
 *
 * Brings transport and queues to where they were, paused: the device's resume starts the workers.
 * Guest memory is there already.
 *
 * Returns: TRUE, or FALSE with @error: the guest would find another device than before, or a ring
 * is not in RAM.
 */
bool kumo_virtio_pci_load(KumoVirtio *virtio, const KumoVirtioPciState *state, GError **error);

/* Ready-made for devices that keep nothing but the transport's. */
extern const KumoDeviceState kumo_virtio_pci_state;

/* The function, for BDF and device tree. */
KumoPciFunction *kumo_virtio_pci_function(KumoVirtio *virtio);
