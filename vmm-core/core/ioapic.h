/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The IOAPIC with its 24 pins, in the VMM with every hypervisor. */
#pragma once

#include "vmm-core/core/irq.h"
#include "vmm-core/core/state.h"

/**
 * kumo_irq_set_level:
 * @gsi: IOAPIC pin 0..23
 *
 * Drives a pin. An edge-triggered pin fires on the change to TRUE. Several devices may share a
 * level pin: each keeps its own line and the caller ORs them (PCI INTx does). Any thread.
 */
void kumo_irq_set_level(KumoIrq *irq, unsigned gsi, bool level);

/* TRUE then FALSE: one edge. */
void kumo_irq_pulse(KumoIrq *irq, unsigned gsi);

/* From a vCPU's exit: the guest ended a level-triggered interrupt. */
void kumo_irq_eoi(KumoIrq *irq, uint8_t vector);

/* The IOAPIC's register window (82093AA datasheet, chapter 3), for the MMIO bus; back to its
 * power-on state. */
void kumo_irq_ioapic_read(KumoIrq *irq, uint64_t offset, uint8_t *data, unsigned size);
void kumo_irq_ioapic_write(KumoIrq *irq, uint64_t offset, const uint8_t *data, unsigned size);
void kumo_irq_reset(KumoIrq *irq);

/* What a snapshot keeps of the IOAPIC. Messages' routes belong to the devices that send them. */
typedef struct {
    uint32_t id;
    uint8_t select;
    uint64_t redirection[KUMO_IOAPIC_PINS];
    uint32_t levels; /* one bit per pin */
} KumoIrqState;

extern const KumoStateTable kumo_irq_state_table;

void kumo_irq_save(KumoIrq *irq, KumoIrqState *ret);

/* After the devices, whose lines it knows. Fires nothing: what was due is in the vCPUs already. */
bool kumo_irq_load(KumoIrq *irq, const KumoIrqState *state, GError **error);
