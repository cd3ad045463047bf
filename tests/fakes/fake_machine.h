/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A machine for tests of platform devices: real buses and interrupt controller over the fake
 * hypervisor, the default configuration, an address map with 46 bits, no memory and no PCI. It
 * remembers what devices ask for.
 */
#pragma once

#include "tests/fakes/fake_hv.h"
#include "vmm-core/core/device.h"

typedef struct {
    KumoMachine machine;
    KumoVmConfig *config;
    FakeHvVm *hv;
    int n_resets, n_shutdowns; /* atomic: requests so far */
} FakeMachine;

FakeMachine *fake_machine_new(void);

/* Removes the devices that are left, last made first. */
void fake_machine_free(FakeMachine *fake);

/* Makes the devices of @type; it is an error of the test if that fails. */
void fake_machine_create(FakeMachine *fake, const KumoDeviceType *type);

uint8_t fake_machine_inb(FakeMachine *fake, uint16_t port);
void fake_machine_outb(FakeMachine *fake, uint16_t port, uint8_t value);

/* Lets IOAPIC pin @gsi deliver edges as @vector, and counts those that arrived. */
void fake_machine_route(FakeMachine *fake, unsigned gsi, uint8_t vector);
unsigned fake_machine_interrupts(FakeMachine *fake, uint8_t vector);
