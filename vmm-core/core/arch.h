/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What core asks of a processor architecture: address map, processor set-up, boot protocol and
 * tables. */
#pragma once

#include "vmm-core/core/machine.h"

enum { KUMO_ARCH_MAX_RANGES = 4 };

/* How the boot processor enters the payload. */
typedef struct {
    KumoHvRegs regs;
    KumoHvSregs sregs;
} KumoArchEntry;

typedef struct {
    const char *name;
    /**
     * layout: fills @ret_layout and where RAM goes, for the configured sizes and the host's address
     * width.
     */
    bool (*layout)(KumoHv *hv, const KumoVmConfig *config, KumoMachineLayout *ret_layout,
                   KumoMemRange *ret_ranges, unsigned *ret_n_ranges, GError **error);
    /* The APIC id of vCPU @index under the configured topology. */
    uint32_t (*apic_id)(const KumoVmConfig *config, uint32_t index);
    /* Loads the payload, writes ACPI, SMBIOS and boot parameters into guest memory. All devices are
     * realized. */
    bool (*load)(KumoMachine *machine, KumoArchEntry *ret_entry, GError **error);
    /* CPUID, MSRs, local APIC of a new vCPU; @entry is NULL for all but the boot processor: they
     * wait for a start-up IPI. */
    bool (*setup_vcpu)(KumoMachine *machine, KumoHvVcpu *vcpu, const KumoArchEntry *entry,
                       GError **error);
    uint16_t elf_machine; /* of core dumps */
    /* Appends the ELF notes that describe a parked vCPU in a core dump. NULL: there are no core
     * dumps. */
    bool (*core_notes)(KumoHvVcpu *vcpu, GByteArray *notes, GError **error);
} KumoArchOps;
