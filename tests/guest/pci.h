/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PCI functions of bus 0: configuration space through ECAM, BARs, capabilities, MSI-X. Slots from
 * 32 on are those of the second segment, whose window follows the first's.
 */
#pragma once

#include "tests/guest/machine.h"

enum {
    PCI_ALL_SLOTS = 64, /* of two segments */

    PCI_VENDOR = 0x00,
    PCI_DEVICE = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x0b,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM = 0x2e,
    PCI_ROM = 0x30,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,

    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_INTX_OFF = 1 << 10,

    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_MSIX = 0x11,
    MSIX_ENABLE = 1 << 15,
    MSIX_FUNCTION_MASK = 1 << 14,
};

/* Address of a register in the configuration space of @slot. */
uint64_t pci_config(unsigned slot, unsigned offset);

/* The same through ports 0xcf8 and 0xcfc. */
uint32_t pci_port_read(unsigned slot, unsigned offset);
void pci_port_write(unsigned slot, unsigned offset, uint32_t value);

/* Returns: the offset of the capability @id at or behind @from (0: the first), or 0. */
unsigned pci_capability(unsigned slot, unsigned id, unsigned from);

/* Slot of the @nth function with @vendor and @device, or -1. */
int pci_find(unsigned vendor, unsigned device, unsigned nth);

typedef struct {
    uint64_t address, size;
    bool is_io, is_64;
} Bar;

/* Address and size; the sizing leaves everything as it was. Returns: FALSE if there is no such BAR.
 */
bool pci_bar(unsigned slot, unsigned index, Bar *ret);
/* Gives memory BARs that the firmware left without an address one from 3 GiB on. */
void pci_place_bars(unsigned slot);
void pci_bar_move(unsigned slot, unsigned index, uint64_t address);

/* Switches MSI-X on with all vectors masked. Returns: their number, 0 without the capability. */
unsigned msix_on(unsigned slot);
void msix_route(unsigned slot, unsigned entry, uint64_t address, uint32_t data, bool masked);
bool msix_pending(unsigned slot, unsigned entry);
/* Address of the entry's four words. */
uint64_t msix_entry(unsigned slot, unsigned entry);
