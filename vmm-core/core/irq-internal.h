/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What irq.c and ioapic.c share. */
#pragma once

#include "vmm-core/core/irq.h"

/* A redirection entry (82093AA datasheet, 3.2.4) whose interrupts are held back, as all are at
 * power-on. */
#define KUMO_IOAPIC_MASKED (1ULL << 16)

struct KumoIrq {
    KumoHvVm *vm;
    GMutex lock; /* everything below; a leaf: the hypervisor is called under it, nothing else */

    /* The IOAPIC. */
    uint32_t id;    /* bits 27:24 */
    uint8_t select; /* IOREGSEL */
    uint64_t redirection[KUMO_IOAPIC_PINS];
    uint32_t levels; /* one bit per pin */

    /* The routing table. Level-triggered pins are in it so that the hypervisor knows which vectors
     * to report the end of. */
    KumoHvMsiRoute pin_routes[KUMO_IOAPIC_PINS];
    uint32_t routed_pins; /* one bit per pin */
    GPtrArray *msis;      /* of KumoMsi, at GSI - KUMO_IOAPIC_PINS; NULL where free */
    GArray *routes;       /* of KumoHvMsiRoute: scratch, kept to save allocations */
    GArray *installed;    /* of KumoHvMsiRoute: what the hypervisor has, none at first */
    bool held;            /* the hypervisor is given no table for now */
};

/* Gives the hypervisor the whole table anew. */
bool kumo_irq_update_routes_locked(KumoIrq *irq, GError **error);
