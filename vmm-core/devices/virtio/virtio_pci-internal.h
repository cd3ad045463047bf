/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of virtio's PCI transport share among themselves. */
#pragma once

#include <stdatomic.h>

#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

struct KumoVirtioPci {
    KumoVirtio *virtio;
    KumoPciFunction function;
    unsigned n_vectors;
    unsigned window_cap; /* the PCI_CFG capability */

    GMutex lock; /* what follows, up to the atomics */
    uint32_t device_feature_select;
    uint32_t driver_feature_select;
    uint64_t driver_features;
    uint16_t queue_select;
    bool bar_mapped;
    uint64_t bar_gpa;
    bool paused;
    bool *ioeventfds;       /* per queue: is one registered? */
    uint64_t ioeventfd_gpa; /* the BAR that they were registered for */
    KumoLogLimit event_limit;

    atomic_uchar status;
    atomic_uchar isr;
    atomic_uchar generation;
    _Atomic uint16_t config_vector;
};

/* Lets the hypervisor signal kicks at the BAR's place of now. Where it cannot, the write exits.
 * Lock held. */
void kumo_virtio_pci_update_ioeventfds(KumoVirtioPci *pci);

/* Maps the rings of the queues that are ready. Lock held. */
bool kumo_virtio_pci_start_queues(KumoVirtio *virtio, GError **error);
