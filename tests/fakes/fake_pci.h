/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A machine with memory, buses, interrupts and a PCI host bridge over the fake hypervisor. */
#pragma once

#include "tests/fakes/fake_hv.h"
#include "vmm-core/core/device.h"
#include "vmm-core/devices/pci/pci.h"

#define FAKE_MMIO32_BASE 0xc0000000ULL
#define FAKE_MMIO32_SIZE 0x04000000ULL
#define FAKE_MMIO64_BASE 0x200000000ULL
#define FAKE_MMIO64_SIZE 0x100000000ULL
#define FAKE_ECAM_BASE   0xe8000000ULL
#define FAKE_RAM_SIZE    (4ULL << 20)
#define FAKE_INTX_BASE   5

typedef struct {
    KumoMachine machine;
    KumoVmConfig *config;
    FakeHvVm *vm;
} FakePci;

/* What a device with a PCI function, made with g_new(), begins with; and its operations. */
typedef struct {
    KumoDevice device;
    KumoPciFunction function;
} FakePciFunction;

extern const KumoDeviceOps fake_pci_function_ops;

/* With the host bridge. */
FakePci *fake_pci_new(void);
/* The same for @config (transfer full). */
FakePci *fake_pci_new_for(KumoVmConfig *config);
/* Removes all devices. */
void fake_pci_free(FakePci *fake);

/* Config accesses of one register of a slot; @size 1, 2 or 4. */
uint32_t fake_ecam_read(FakePci *fake, unsigned slot, unsigned reg, unsigned size);
void fake_ecam_write(FakePci *fake, unsigned slot, unsigned reg, uint32_t value, unsigned size);

uint64_t fake_mmio_read(FakePci *fake, uint64_t gpa, unsigned size);
void fake_mmio_write(FakePci *fake, uint64_t gpa, uint64_t value, unsigned size);
uint32_t fake_pio_read(FakePci *fake, unsigned port, unsigned size);
void fake_pio_write(FakePci *fake, unsigned port, uint32_t value, unsigned size);

/* Returns: the offset of capability @id number @n of @slot, 0 if there is none. */
unsigned fake_find_cap(FakePci *fake, unsigned slot, uint8_t id, unsigned n);
