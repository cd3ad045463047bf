/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What irq.c and ioapic.c share. */
#pragma once

#include "vmm-core/core/irq.h"

struct KumoIrq {
    KumoHvVm *vm;
    GMutex lock; /* everything below; a leaf: the hypervisor is called under it, nothing else */

    /* The IOAPIC. */
    uint32_t id;    /* bits 27:24 */
    uint8_t select; /* IOREGSEL */
    uint64_t redirection[KUMO_IOAPIC_PINS];
    uint32_t levels; /* one bit per pin */

    /* The routing table. */
    GPtrArray *msis; /* of KumoMsi, at GSI - KUMO_IOAPIC_PINS; NULL where free */
    GArray *routes;  /* of KumoHvMsiRoute: scratch, kept to save allocations */
};

/* The message that a redirection entry stands for. Returns: whether its end has to be reported
 * (level). */
bool kumo_ioapic_pin_route(uint64_t entry, uint64_t *ret_address, uint32_t *ret_data);

void kumo_ioapic_reset_locked(KumoIrq *irq);

/* Gives the hypervisor the whole table anew. */
bool kumo_irq_update_routes_locked(KumoIrq *irq, GError **error);
