/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PCI (PCI Local Bus 3.0, PCI Express Base 3.0 chapter 7 for ECAM): the host bridge with its config
 * access mechanisms, functions with table-driven config space, BARs that the guest can move, MSI-X.
 */
#pragma once

#include "vmm-core/core/device.h"

enum {
    KUMO_PCI_CONFIG_SIZE = 4096,
    KUMO_PCI_BARS = 6,
    KUMO_PCI_SLOTS = 32,
};

typedef struct KumoPciFunction KumoPciFunction;
typedef struct KumoMsix KumoMsix;

typedef enum {
    KUMO_PCI_BAR_NONE,
    KUMO_PCI_BAR_IO,
    KUMO_PCI_BAR_MEM32,
    KUMO_PCI_BAR_MEM64,
} KumoPciBarKind;

typedef struct {
    KumoPciBarKind kind;
    uint64_t size;  /* power of two */
    uint64_t align; /* at first placement; 0: the size */
    const KumoBusOps *ops;
    void *opaque;
    /* NULL. After the BAR was mapped at @gpa, or unmapped (@mapped FALSE). vCPU or main thread. */
    void (*moved)(void *opaque, bool mapped, uint64_t gpa);
    /* The rest is the PCI code's own. */
    uint64_t gpa;
    bool mapped;
} KumoPciBar;

/* A function of a device; embeds as a member of the device's structure. One function (0) per slot. */
struct KumoPciFunction {
    KumoDevice *device;
    int slot; /* wanted slot, -1: any; the slot once it is plugged */
    uint8_t config[KUMO_PCI_CONFIG_SIZE];
    uint8_t write_mask[KUMO_PCI_CONFIG_SIZE]; /* bits that the guest may change */
    KumoPciBar bars[KUMO_PCI_BARS];
    KumoMsix *msix; /* NULL: none */
    unsigned next_cap; /* where the next capability goes */
    GMutex lock;    /* config space and BAR mappings */
    /* NULL. Called after a write to config space changed [@offset, @offset + @len), lock held. */
    void (*config_written)(KumoPciFunction *function, unsigned offset, unsigned len);
    /* NULL. Replaces the read or write of bytes that a capability claims (virtio's PCI_CFG window). */
    bool (*config_access)(KumoPciFunction *function, unsigned offset, uint8_t *data, unsigned len, bool write);
    uint32_t intx_gsi;
};

typedef struct {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision, class_code, subclass, prog_if;
} KumoPciIds;

void kumo_pci_function_init(KumoPciFunction *function, KumoDevice *device, const KumoPciIds *ids, int slot);
void kumo_pci_function_clear(KumoPciFunction *function);

/* Describes BAR @index; MEM64 takes two. Before plugging. */
void kumo_pci_function_set_bar(KumoPciFunction *function, unsigned index, const KumoPciBar *bar);

/**
 * kumo_pci_add_cap:
 * @body: the capability without its two header bytes
 *
 * Returns: the offset of the capability in config space; all of it read-only until write_mask is set.
 */
unsigned kumo_pci_add_cap(KumoPciFunction *function, uint8_t id, const void *body, size_t len);

/**
 * kumo_pci_plug:
 *
 * Puts the function into its slot of the machine's segment 0, places and maps its BARs.
 *
 * Returns: TRUE, or FALSE with @error: the slot is taken (CONFLICT), no slot or address space is left (RESOURCE).
 */
bool kumo_pci_plug(KumoMachine *machine, KumoPciFunction *function, GError **error);
void kumo_pci_unplug(KumoMachine *machine, KumoPciFunction *function);

/* "0000:00:03.0" (transfer full). */
char *kumo_pci_function_bdf(const KumoPciFunction *function);

/* --- MSI-X (PCI 3.0, 6.8.2) --- */

/**
 * kumo_msix_new:
 * @n_vectors: 1..2048
 * @bar, @table_offset, @pba_offset: where table and PBA are; the BAR's ops call kumo_msix_access() for them
 *
 * Adds the capability to @function.
 */
KumoMsix *kumo_msix_new(KumoPciFunction *function, unsigned n_vectors, unsigned bar, uint32_t table_offset,
                        uint32_t pba_offset);
void kumo_msix_free(KumoMsix *msix);

/* A read or write of the table (@pba FALSE) or the pending bits, @offset relative to its start. */
void kumo_msix_access(KumoMsix *msix, bool pba, uint64_t offset, uint8_t *data, unsigned size, bool write);

/* Fires a vector, or marks it pending while masked. Any thread; a vector out of range is ignored. */
void kumo_msix_trigger(KumoMsix *msix, unsigned vector);
bool kumo_msix_enabled(const KumoMsix *msix);
