/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine as a device sees it: memory, buses, interrupts, workers, the address map, and the few
 * things it may ask of the VM. One machine lives from vm.boot to vm.shutdown; a guest reboot makes
 * a new one.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/base/loop.h"
#include "vmm-core/config/config.h"
#include "vmm-core/core/bus.h"
#include "vmm-core/core/ioapic.h"
#include "vmm-core/core/memory.h"
#include "vmm-core/hypervisor/hypervisor.h"

typedef struct KumoDevice KumoDevice;
typedef struct KumoMachine KumoMachine;
typedef struct KumoPciRoot KumoPciRoot;
typedef struct KumoConsoleSet KumoConsoleSet;

/* Where the architecture puts things; devices take their addresses from here. */
typedef struct {
    uint64_t mmio32_base, mmio32_size; /* PCI BARs below 4 GiB */
    uint64_t mmio64_base, mmio64_size; /* PCI BARs above all RAM */
    uint64_t ecam_base;                /* 1 MiB a PCI segment */
    uint64_t hotplug_gpa;              /* the end of RAM: memory that is added goes behind it */
    uint64_t platform_mmio_base,
        platform_mmio_size;     /* register blocks, handed out from the top down */
    uint32_t pci_intx_gsi_base; /* slot i uses base + i % 8 */
    uint32_t ged_gsi;
    uint32_t serial_gsi;
    uint32_t phys_bits;
} KumoMachineLayout;

/* What the ACPI event device is asked to tell the guest; bits as in its register. */
typedef enum {
    KUMO_ACPI_NOTIFY_CPU = 1 << 0,
    KUMO_ACPI_NOTIFY_MEMORY = 1 << 1,
    KUMO_ACPI_NOTIFY_PCI = 1 << 2,
    KUMO_ACPI_NOTIFY_POWER_BUTTON = 1 << 3,
} KumoAcpiNotify;

typedef enum {
    KUMO_MACHINE_REQUEST_RESET,    /* the guest asked for a reboot, or a vCPU triple-faulted */
    KUMO_MACHINE_REQUEST_SHUTDOWN, /* the guest powered off */
    KUMO_MACHINE_REQUEST_FAILED,   /* a vCPU cannot go on; the reason is in the log */
} KumoMachineRequest;

/* What guest and VMM know of a vCPU that is there or may come. */
typedef enum {
    KUMO_CPU_PRESENT = 1 << 0,   /* what the guest sees: it is there */
    KUMO_CPU_INSERTING = 1 << 1, /* it is new, and the guest has not acknowledged that */
    KUMO_CPU_REMOVING = 1 << 2,  /* the guest is to let it go, and has not acknowledged that */
    KUMO_CPU_ASKED = 1 << 3,     /* the guest may eject it */
    KUMO_CPU_EJECTED = 1 << 4,   /* the guest did: its thread is to be ended by the main loop */
    KUMO_CPU_REFUSED = 1 << 5,   /* the guest said that it will not; it still may */
} KumoCpuFlags;

typedef struct {
    uint32_t apic_id;
    _Atomic uint32_t flags; /* of KumoCpuFlags; set by the main thread, by ejects on vCPUs' */
} KumoCpuSlot;

enum { KUMO_MEMORY_SLOTS = 8 };

/* What guest and VMM know of memory that ACPI adds. */
typedef enum {
    KUMO_MEMORY_PRESENT = 1 << 0,
    KUMO_MEMORY_INSERTING = 1 << 1, /* it is new, and the guest has not acknowledged that */
} KumoMemoryFlags;

typedef struct {
    uint64_t gpa, size_bytes; /* written before flags, and then never again */
    _Atomic uint32_t flags;   /* of KumoMemoryFlags */
} KumoMemorySlot;

struct KumoMachine {
    const KumoVmConfig *config;
    KumoHvVm *hv;
    KumoMemory *memory;
    KumoBus *pio; /* NULL on architectures without ports */
    KumoBus *mmio;
    KumoIrq *irq;
    KumoMachineLayout layout;
    KumoPciRoot *pci; /* set by the PCI host bridge when it is realized, before any PCI device */
    bool has_pci_hotplug; /* there is a \_SB_.PHPR, to be called when PCI slots changed */
    bool has_cpu_hotplug; /* there is a \_SB_.CPUS, to be called when vCPUs changed */
    KumoCpuSlot *cpus;    /* max_vcpus of them */
    /* Of a restored machine, what processor its guest knows, for vCPUs that come later. NULL: the
     * host's, as configured. */
    GArray *guest_cpuid; /* of KumoHvCpuid, the first vCPU's */
    uint32_t guest_tsc_khz;
    bool has_memory_hotplug; /* there is a \_SB_.MHPC, to be called when memory slots changed */
    KumoMemorySlot memory_slots[KUMO_MEMORY_SLOTS]; /* taken from the first on */
    GPtrArray *devices;          /* of KumoDevice, owned, in the order of creation */
    uint64_t platform_mmio_next; /* see kumo_machine_alloc_platform_mmio() */
    KumoLoop *slow_loop;         /* see kumo_machine_slow_loop() */
    bool
        locks_later; /* another host has the locks of the media still: KumoDeviceOps.lock follows */
    KumoConsoleSet *consoles; /* the VM's, outlives the machine; NULL: output is dropped */

    /* Set by the ACPI event device; called on any thread. */
    void (*acpi_notify)(void *opaque, KumoAcpiNotify what);
    void *acpi_notify_opaque;

    /* Set by the VM; only records the request and wakes the main loop. Any thread. */
    void (*request)(void *opaque, KumoMachineRequest request);
    void *request_opaque;
    /* Set by the VM: the guest let a device or a vCPU go, KumoDevice.ejected or KUMO_CPU_EJECTED
     * says which, or refused to, KumoDevice.refused or KUMO_CPU_REFUSED. Only wakes the main loop;
     * goes with request_opaque. Any thread. */
    void (*device_ejected)(void *opaque);
    /* Set by the VM, NULL: nobody listens. See kumo_machine_event(). */
    void (*event)(const char *source, const char *event, json_t *properties);
};

/* Tells the VM what the guest or a device wants; carried out later by the main loop. Any thread. */
void kumo_machine_request(KumoMachine *machine, KumoMachineRequest request);

/* What a guest says by an object's _OST of a notification: it cannot take what has come, or does
 * not let go of what it was asked for; anything else. */
typedef enum {
    KUMO_ACPI_OST_OTHER,
    KUMO_ACPI_OST_NOT_TAKEN,
    KUMO_ACPI_OST_NOT_LET_GO,
} KumoAcpiOst;

/* @event, @status: _OST's first two arguments (ACPI 6.4, 6.3.5). */
KumoAcpiOst kumo_acpi_ost(uint32_t event, uint32_t status);

/**
 * kumo_machine_guest_refused:
 * @what: NOT_TAKEN or NOT_LET_GO
 * @bdf: (nullable): where it is on PCI
 *
 * Tells those who watch the VM that the guest has refused: "device-insertion-failed" or
 * "device-removal-failed". Any thread, any lock may be held.
 */
void kumo_machine_guest_refused(KumoMachine *machine, KumoAcpiOst what, const char *id,
                                const char *bdf, uint32_t status);

/* Tells those who watch the VM that @event happened to device @id, under the names of Cloud
 * Hypervisor's event monitor. Any thread, any lock may be held. */
void kumo_machine_event(KumoMachine *machine, const char *source, const char *event,
                        const char *id);

/* The same with more to say than who it was: @properties: (transfer full) of the event. */
void kumo_machine_event_full(KumoMachine *machine, const char *source, const char *event,
                             json_t *properties);

/**
 * kumo_machine_alloc_platform_mmio:
 * @size: at most a page; the result is page aligned
 *
 * Returns: TRUE and the address, next below what was handed out before; FALSE with @error when it
 * is used up.
 */
bool kumo_machine_alloc_platform_mmio(KumoMachine *machine, uint64_t size, uint64_t *ret_gpa,
                                      GError **error);

/**
 * kumo_machine_slow_loop:
 *
 * The worker that all devices without a queue worker of their own share; started at first use. Main
 * thread.
 *
 * Returns: (transfer none): or NULL with @error set.
 */
KumoLoop *kumo_machine_slow_loop(KumoMachine *machine, GError **error);

extern const KumoThreadKind kumo_slow_thread;

/* What devices do on a vCPU's thread and on the worker of the slow ones. */
extern const KumoSyscallTable kumo_device_syscalls;
