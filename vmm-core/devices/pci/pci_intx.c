/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* INTx lines (PCI 3.0, 2.2.6): all functions whose slots have the same pin share one. */
#include "vmm-core/devices/pci/pci-internal.h"

/* INTx lock held. */
static void drive_line(KumoPciRoot *root, KumoPciFunction *function)
{
    KumoMachine *machine = root->device.machine;
    unsigned pin = function->intx_gsi - machine->layout.pci_intx_gsi_base;
    bool level = function->intx_wanted && !(function->intx_command & PCI_COMMAND_INTX_OFF);

    if (level == function->intx_driven)
        return;
    function->intx_driven = level;
    if (level && root->intx_asserted[pin]++ == 0)
        kumo_irq_set_level(machine->irq, function->intx_gsi, true);
    if (!level && --root->intx_asserted[pin] == 0)
        kumo_irq_set_level(machine->irq, function->intx_gsi, false);
}

void kumo_pci_set_intx(KumoPciFunction *function, bool level)
{
    KumoPciRoot *root = function->device->machine->pci;

    g_mutex_lock(&root->intx_lock);
    if (function->plugged && function->intx_wanted != level) {
        __atomic_store_n(&function->intx_wanted, level, __ATOMIC_RELAXED);
        drive_line(root, function);
    }
    g_mutex_unlock(&root->intx_lock);
}

void kumo_pci_update_intx(KumoPciFunction *function)
{
    KumoPciRoot *root = function->device->machine->pci;

    if (!function->plugged)
        return;
    g_mutex_lock(&root->intx_lock);
    function->intx_command = pci_get16(function->config + PCI_COMMAND);
    drive_line(root, function);
    g_mutex_unlock(&root->intx_lock);
}
