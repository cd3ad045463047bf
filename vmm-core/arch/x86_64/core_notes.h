/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a core dump says of an x86-64 vCPU. */
#pragma once

#include "vmm-core/hypervisor/hypervisor.h"

/* Appends two ELF notes: CORE/PRSTATUS with the registers, and the one named QEMU with the system
 * registers, by which crash(8) finds its way from a kernel's page tables to its symbols. */
bool kumo_x86_core_notes(KumoHvVcpu *vcpu, GByteArray *notes, GError **error);
