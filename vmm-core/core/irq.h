/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interrupts: the IOAPIC with its 24 pins, and message-signalled interrupts over eventfds that the
 * hypervisor delivers without a detour through the VMM (irqfd).
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/core/state.h"
#include "vmm-core/hypervisor/hypervisor.h"

enum { KUMO_IOAPIC_PINS = 24 };

typedef struct KumoIrq KumoIrq;
typedef struct KumoMsi KumoMsi;

KumoIrq *kumo_irq_new(KumoHvVm *vm);
void kumo_irq_free(KumoIrq *irq);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoIrq, kumo_irq_free)

/**
 * kumo_irq_set_level:
 * @gsi: IOAPIC pin 0..23
 *
 * Drives a pin. An edge-triggered pin fires on the change to TRUE. Several devices may share a level pin:
 * each keeps its own line and the caller ORs them (PCI INTx does). Any thread.
 */
void kumo_irq_set_level(KumoIrq *irq, unsigned gsi, bool level);

/* TRUE then FALSE: one edge. */
void kumo_irq_pulse(KumoIrq *irq, unsigned gsi);

/* From a vCPU's exit: the guest ended a level-triggered interrupt. */
void kumo_irq_eoi(KumoIrq *irq, uint8_t vector);

/* The IOAPIC's register window (82093AA datasheet, chapter 3), for the MMIO bus; back to its power-on state. */
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

/**
 * kumo_msi_new:
 *
 * A message-signalled interrupt of its own GSI and eventfd, not yet routed.
 *
 * Returns: (transfer full): or NULL with @error set.
 */
KumoMsi *kumo_msi_new(KumoIrq *irq, GError **error);
void kumo_msi_free(KumoMsi *msi);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoMsi, kumo_msi_free)

/**
 * kumo_msi_route:
 *
 * Routes to @address and @data and connects the eventfd with the hypervisor; with @enable FALSE disconnects
 * it, and kumo_msi_trigger() must not be called. Cheap if nothing changed. Any thread, one at a time per @msi.
 *
 * Returns: TRUE, or FALSE with @error set.
 */
bool kumo_msi_route(KumoMsi *msi, bool enable, uint64_t address, uint32_t data, GError **error);

/* Fires the interrupt. Any thread, no lock. */
void kumo_msi_trigger(KumoMsi *msi);

/* The eventfd, for back-ends (vhost, VFIO) that signal by themselves; stays the msi's. */
int kumo_msi_fd(const KumoMsi *msi);
