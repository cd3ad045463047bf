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
    KUMO_PCI_MAX_SEGMENTS = 96,
    KUMO_PCI_MAX_MSIX_VECTORS = 2048,
};

/* The host bridge 8086:0d57 at 0000:00:00.0 with the config mechanisms; sets machine->pci. */
extern const KumoDeviceType kumo_device_type_pci_root;

/* The controller by which devices come and go while the guest runs: \_SB_.PHPR. To be created after
 * the host bridge, and first of all that take a page of platform registers. */
extern const KumoDeviceType kumo_device_type_pci_hotplug;

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
    /* NULL. After the BAR was mapped at @gpa, or unmapped (@mapped FALSE). vCPU or main thread, the
     * function's lock held. */
    void (*moved)(void *opaque, bool mapped, uint64_t gpa);
    /* The rest is the PCI code's own. */
    uint64_t gpa;
    bool mapped;
} KumoPciBar;

/*
 * A function of a device; embeds as a member of the device's structure. One function (0) per slot.
 *
 * Locks, outermost first: function lock (config space, BAR mappings, MSI-X enable and function
 * mask) > the device's own lock > INTx lines and MSI-X vectors. So the hooks below and a BAR's ops
 * and moved() may take the device's lock, and a device never touches config space while it holds
 * its lock.
 */
struct KumoPciFunction {
    KumoDevice *device;
    unsigned segment; /* 0 unless set before plugging */
    int slot;         /* wanted slot, -1: any; the slot once it is plugged */
    bool plugged;
    _Atomic bool hidden; /* the guest ejected it: no config access finds it any more */
    uint8_t config[KUMO_PCI_CONFIG_SIZE];
    uint8_t write_mask[KUMO_PCI_CONFIG_SIZE]; /* bits that the guest may change */
    KumoPciBar bars[KUMO_PCI_BARS];
    KumoMsix *msix;    /* NULL: none */
    unsigned next_cap; /* where the next capability goes */
    GMutex lock;       /* config space and BAR mappings */
    /* NULL. Called after a write to config space changed [@offset, @offset + @len), lock held. */
    void (*config_written)(KumoPciFunction *function, unsigned offset, unsigned len);
    /* NULL. Replaces the read or write of bytes that a capability claims (virtio's PCI_CFG window).
     */
    bool (*config_access)(KumoPciFunction *function, unsigned offset, uint8_t *data, unsigned len,
                          bool write);
    uint32_t intx_gsi;
    bool intx_wanted; /* the device asserts its line; under the root's INTx lock, as is the next */
    bool intx_driven; /* it counts among those that assert the line */
    uint16_t intx_command; /* the command register as the INTx line saw it last */
};

typedef struct {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision, class_code, subclass, prog_if;
} KumoPciIds;

void kumo_pci_function_init(KumoPciFunction *function, KumoDevice *device, const KumoPciIds *ids,
                            int slot);
void kumo_pci_function_clear(KumoPciFunction *function);

/* Describes BAR @index; MEM64 takes two. Before plugging. */
void kumo_pci_function_set_bar(KumoPciFunction *function, unsigned index, const KumoPciBar *bar);

/**
 * kumo_pci_add_cap:
 * @body: the capability without its two header bytes
 *
 * Returns: the offset of the capability in config space; all of it read-only until write_mask is
 * set.
 */
unsigned kumo_pci_add_cap(KumoPciFunction *function, uint8_t id, const void *body, size_t len);

/**
 * kumo_pci_plug:
 *
 * Puts the function into its slot of the machine's segment 0, places and maps its BARs.
 *
 * Returns: TRUE, or FALSE with @error: the slot is taken (CONFLICT), no slot or address space is
 * left (RESOURCE).
 */
bool kumo_pci_plug(KumoMachine *machine, KumoPciFunction *function, GError **error);
void kumo_pci_unplug(KumoMachine *machine, KumoPciFunction *function);

/* Tells the running guest that there is a new device in the function's slot. Main thread. */
void kumo_pci_announce(KumoPciFunction *function);

/**
 * kumo_pci_ask_removal:
 *
 * Asks the guest to let the device go; may be repeated. When the guest has ejected the slot, the
 * function is gone from config space, its device's ejected is set and the VM is told, which has to
 * remove the device. Main thread.
 *
 * Returns: TRUE, or FALSE with @error (NOT_SUPPORTED) if the machine has no hotplug controller.
 */
bool kumo_pci_ask_removal(KumoPciFunction *function, GError **error);

/**
 * kumo_pci_set_intx:
 *
 * Drives the function's INTA# (PCI 3.0, 2.2.6), which it shares with others on the same pin;
 * nothing is signalled while the command register disables it. Any thread.
 */
void kumo_pci_set_intx(KumoPciFunction *function, bool level);

/* A config access of @len bytes at @offset by the guest; what exceeds the config space reads as
 * ones. vCPU threads. */
void kumo_pci_config_read(KumoPciFunction *function, unsigned offset, uint8_t *data, unsigned len);
void kumo_pci_config_write(KumoPciFunction *function, unsigned offset, const uint8_t *data,
                           unsigned len);

/* Returns: (transfer full): array of the BARs, where the guest has them now, as vm.info shows them:
 * {"PciBar": {"index", "base", "size", "type_", "prefetchable"}}. */
json_t *kumo_pci_function_resources(KumoPciFunction *function);

/* "0000:00:03.0" (transfer full). */
char *kumo_pci_function_bdf(const KumoPciFunction *function);

/* --- state --- */

enum { KUMO_PCI_STATE_CONFIG = 256 }; /* what of config space is in use */

typedef struct {
    uint8_t entry[16];
    bool pending;
} KumoMsixVectorState;

typedef struct {
    uint32_t segment;
    uint32_t slot;
    uint8_t config[KUMO_PCI_STATE_CONFIG];
    bool intx; /* the device asserts its line */
    KumoMsixVectorState *vectors;
    size_t n_vectors;
} KumoPciFunctionState;

extern const KumoStateTable kumo_pci_function_state_table;

/* A member of the state of the function's device, which is paused. */
void kumo_pci_function_save(KumoPciFunction *function, KumoPciFunctionState *ret);

/**
 * kumo_pci_function_load:
 *
 * Puts config space, BARs and MSI-X where the guest had them. To be called after the PCI host
 * bridge's own load, which has unmapped all BARs: they may have changed places.
 *
 * Returns: TRUE, or FALSE with @error if the guest would find another function than before.
 */
bool kumo_pci_function_load(KumoPciFunction *function, const KumoPciFunctionState *state,
                            GError **error);

/* --- MSI-X (PCI 3.0, 6.8.2) --- */

/**
 * kumo_msix_new:
 * @n_vectors: 1..2048
 * @bar, @table_offset, @pba_offset: where table and PBA are; the BAR's ops call kumo_msix_access()
 * for them
 *
 * Adds the capability to @function.
 */
KumoMsix *kumo_msix_new(KumoPciFunction *function, unsigned n_vectors, unsigned bar,
                        uint32_t table_offset, uint32_t pba_offset);
void kumo_msix_free(KumoMsix *msix);

/*
 * A read or write of the table (@pba FALSE) or the pending bits, @offset relative to its start. Any
 * size: what exceeds the table reads as zero and writes nothing. vCPU threads.
 */
void kumo_msix_access(KumoMsix *msix, bool pba, uint64_t offset, uint8_t *data, unsigned size,
                      bool write);

/* Fires a vector, or marks it pending while masked. Any thread; a vector out of range, or any while
 * MSI-X is disabled, is ignored. */
void kumo_msix_trigger(KumoMsix *msix, unsigned vector);
bool kumo_msix_enabled(const KumoMsix *msix);

/* What a snapshot keeps of the table; load is called before the control register is written and
 * fires nothing. */
void kumo_msix_save(KumoMsix *msix, KumoPciFunctionState *ret);
bool kumo_msix_load(KumoMsix *msix, const KumoPciFunctionState *state, GError **error);

/* The message control register may have changed: carries out enable and mask bits. Function lock
 * held. */
void kumo_msix_update(KumoMsix *msix);
