/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the PCI code share among themselves. */
#pragma once

#include <stdatomic.h>

#include "vmm-core/devices/pci/pci.h"

/* Config space (PCI 3.0, 6.1). */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_PROG_IF = 0x09,
    PCI_SUBCLASS = 0x0a,
    PCI_CLASS = 0x0b,
    PCI_CACHE_LINE = 0x0c,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM = 0x2e,
    PCI_CAP_POINTER = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_FIRST_CAP = 0x40,
    PCI_CAPS_END = 0x100,

    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_PARITY = 1 << 6,
    PCI_COMMAND_SERR = 1 << 8,
    PCI_COMMAND_INTX_OFF = 1 << 10,

    PCI_STATUS_INTERRUPT = 1 << 3,
    PCI_STATUS_CAPS = 1 << 4,

    PCI_BAR_IO_SPACE = 1,
    PCI_BAR_TYPE_64 = 4,
    PCI_BAR_PREFETCHABLE = 8,

    PCI_CAP_MSIX = 0x11,
    PCI_MSIX_CONTROL = 2, /* relative to the capability */
};

enum {
    PCI_INTX_PINS = 8,           /* GSIs that all functions' INTA# share */
    PCI_SEGMENT_SIZE = 0x100000, /* ECAM: one bus a segment */
    PCI_FIRST_IO = 0x1000,       /* I/O BARs: above the ports of platform devices */
    PCI_IO_END = 0x10000,
};

typedef struct {
    unsigned number;
    KumoPciRoot *root;
    uint32_t reserved;  /* slots that the configuration gives to certain devices */
    uint32_t numa_node; /* KUMO_NUMA_NONE: none */
    /* Its part of the windows for BARs is as much of them as weight is of the root's sum, after the
     * parts of the segments before it. */
    uint32_t weight32, weight64;
    /* Bits of slots, under the root's hotplug lock. */
    uint32_t up, down;  /* news that the guest has not read yet */
    uint32_t removable; /* the guest was asked to let the device go, and has not yet */
    uint32_t asked;     /* of these: it has not refused since it was asked last */
    /* vCPU threads load without a lock; unplugging waits until no bus access is under way. */
    _Atomic(KumoPciFunction *) slots[KUMO_PCI_SLOTS];
} KumoPciSegment;

typedef struct KumoPciHotplug KumoPciHotplug;

struct KumoPciRoot {
    KumoDevice device; /* host bridge */
    KumoPciFunction bridge;
    unsigned n_segments;
    KumoPciSegment *segments;
    GMutex address_lock; /* of address: ports 0xcf8..0xcfb are shared by all vCPUs */
    uint32_t address;
    GMutex intx_lock;
    unsigned intx_asserted[PCI_INTX_PINS]; /* functions that assert the line; under intx_lock */
    KumoPciHotplug *hotplug;               /* NULL: devices cannot come and go */
    GMutex hotplug_lock;                   /* taken with no other lock held */
    uint32_t hotplug_select;               /* the segment that the controller's registers are of */
};

static inline uint16_t pci_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t pci_get32(const uint8_t *p)
{
    return pci_get16(p) | (uint32_t)pci_get16(p + 2) << 16;
}

static inline uint64_t pci_get64(const uint8_t *p)
{
    return pci_get32(p) | (uint64_t)pci_get32(p + 4) << 32;
}

static inline void pci_put16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static inline void pci_put32(uint8_t *p, uint32_t value)
{
    pci_put16(p, (uint16_t)value);
    pci_put16(p + 2, (uint16_t)(value >> 16));
}

/* pci_bar.c */

/* Where the guest has put BAR @index, decoding or not. Function lock held. */
uint64_t kumo_pci_bar_address(const KumoPciFunction *function, unsigned index);

/* Where BARs of @kind go in @segment; the windows of all segments together are the machine's. */
typedef struct {
    uint64_t base;
    uint64_t size;
} KumoPciWindow;

KumoPciWindow kumo_pci_segment_window(const KumoPciSegment *segment, KumoPciBarKind kind);

/* Finds room for the function's BARs and writes their addresses into its config space. Main thread.
 */
bool kumo_pci_place_bars(KumoPciRoot *root, KumoPciFunction *function, GError **error);

/* Maps and unmaps as command register and BARs say. Function lock held. */
void kumo_pci_update_bars(KumoPciFunction *function);
void kumo_pci_unmap_bars(KumoPciFunction *function);

/* pci_intx.c: the command register may have changed its INTx disable bit. Function lock held. */
void kumo_pci_update_intx(KumoPciFunction *function);

/* What is written to the hotplug controller's register POST, which a slot's _OST does: the slot,
 * twelve bits of the event, eight of the status. Of the segment that is selected. */
enum {
    KUMO_PCI_OST_SLOT_MASK = 0x1f,
    KUMO_PCI_OST_EVENT_SHIFT = 8,
    KUMO_PCI_OST_EVENT_MASK = 0xfff,
    KUMO_PCI_OST_STATUS_SHIFT = 24,
    KUMO_PCI_OST_STATUS_MASK = 0xff,
};

/* pci_hotplug.c: the slot of @function is free, whatever was said of it. */
void kumo_pci_hotplug_forget(KumoPciRoot *root, const KumoPciFunction *function);

/* pci_state.c */
extern const KumoDeviceState kumo_pci_root_state;

/* pci_aml.c */
void kumo_pci_aml(KumoPciRoot *root, KumoAml *aml);
void kumo_pci_segment_name(char name[8], unsigned segment);
