/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Machines of tests/data/state on the fake hypervisor, with all devices of kumo. */
#pragma once

#include "tests/fakes/fake_hv.h"
#include "vmm-core/core/vm-internal.h"

/* The network device, which needs a tap named kumogolden; a state without it makes a machine
 * without it. */
#define GOLDEN_NET "_net0"

typedef struct {
    KumoVmConfig *config;
    KumoHv *hv;
    KumoVm *vm; /* NULL: the state was refused */
} GoldenMachine;

/* Makes the disks, empty files, once for the process; they are gone with
 * golden_machine_tear_down(). */
void golden_machine_set_up(void);
void golden_machine_tear_down(void);

/* Returns: (transfer full): the JSON of @name, "26.11/acpi", in @file. */
json_t *golden_machine_read(const char *name, const char *file);

/* Returns: (transfer full): the state of @name as if the fake hypervisor had written it. */
json_t *golden_machine_state(const char *name);

/**
 * golden_machine_start:
 * @good: the state as it was written: the host is what that needs
 * @state: what is loaded
 *
 * Returns: whether it was. golden_machine_end() is due in any case.
 */
bool golden_machine_start(GoldenMachine *machine, const char *name, const json_t *good,
                          const json_t *state, GError **error);
void golden_machine_end(GoldenMachine *machine);
