/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's accesses to config space, and what writing to it brings about. */
#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/devices/pci/pci-internal.h"

void kumo_pci_config_read(KumoPciFunction *function, unsigned offset, uint8_t *data, unsigned len)
{
    if (!kumo_range_inside(offset, len, 0, KUMO_PCI_CONFIG_SIZE)) {
        memset(data, 0xff, len);
        return;
    }
    g_mutex_lock(&function->lock);
    if (!function->config_access || !function->config_access(function, offset, data, len, false))
        memcpy(data, function->config + offset, len);
    g_mutex_unlock(&function->lock);
    /* The line changes without the function's lock, so it is not kept in config[]. */
    if (kumo_range_inside(PCI_STATUS, 1, offset, len) &&
        __atomic_load_n(&function->intx_wanted, __ATOMIC_RELAXED))
        data[PCI_STATUS - offset] |= PCI_STATUS_INTERRUPT;
}

void kumo_pci_config_write(KumoPciFunction *function, unsigned offset, const uint8_t *data,
                           unsigned len)
{
    uint8_t copy[8];

    if (len > sizeof(copy) || !kumo_range_inside(offset, len, 0, KUMO_PCI_CONFIG_SIZE))
        return;
    memcpy(copy, data, len);
    g_mutex_lock(&function->lock);
    if (!function->config_access || !function->config_access(function, offset, copy, len, true)) {
        for (unsigned i = 0; i < len; i++) {
            uint8_t mask = function->write_mask[offset + i];
            uint8_t *byte = &function->config[offset + i];

            *byte = (uint8_t)((*byte & ~mask) | (copy[i] & mask));
        }
        if (kumo_range_overlap(offset, len, PCI_BAR0, 4 * KUMO_PCI_BARS) ||
            kumo_range_overlap(offset, len, PCI_COMMAND, 2))
            kumo_pci_update_bars(function);
        if (kumo_range_overlap(offset, len, PCI_COMMAND, 2))
            kumo_pci_update_intx(function);
        if (function->msix)
            kumo_msix_update(function->msix);
        if (function->config_written)
            function->config_written(function, offset, len);
    }
    g_mutex_unlock(&function->lock);
}
