/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Interrupts: the hypervisor's routing table, and message-signalled interrupts over eventfds that
 * it delivers without a detour through the VMM (irqfd). The pins are ioapic.h's.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/hypervisor/hypervisor.h"

enum { KUMO_IOAPIC_PINS = 24 };

typedef struct KumoIrq KumoIrq;
typedef struct KumoMsi KumoMsi;

/* All pins are masked. */
KumoIrq *kumo_irq_new(KumoHvVm *vm);
void kumo_irq_free(KumoIrq *irq);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoIrq, kumo_irq_free)

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
 * Routes to @address and @data and connects the eventfd with the hypervisor; with @enable FALSE
 * disconnects it, and kumo_msi_trigger() must not be called. Cheap if nothing changed. Any thread,
 * one at a time per @msi.
 *
 * Returns: TRUE, or FALSE with @error set.
 */
bool kumo_msi_route(KumoMsi *msi, bool enable, uint64_t address, uint32_t data, GError **error);

/**
 * kumo_irq_hold:
 *
 * From here on routes are only noted, until kumo_irq_release() gives the hypervisor all of them at
 * once: while a machine is loaded, whose vCPUs and devices stand still. The main thread only.
 */
void kumo_irq_hold(KumoIrq *irq);

/**
 * kumo_irq_release:
 *
 * What was triggered meanwhile is delivered.
 *
 * Returns: TRUE, or FALSE with @error set, and some of it not done.
 */
bool kumo_irq_release(KumoIrq *irq, GError **error);

/* Fires the interrupt. Any thread, no lock. */
void kumo_msi_trigger(KumoMsi *msi);

/* The eventfd, for back-ends (vhost, VFIO) that signal by themselves; stays the msi's. */
int kumo_msi_fd(const KumoMsi *msi);
