/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/core/arch.h"

/* Registers, MSRs and local APIC of a vCPU at power-on; @entry is NULL for one that waits for a
 * start-up IPI. @x2apic: its local APIC is in x2APIC mode already. */
bool kumo_x86_vcpu_power_on(KumoHvVcpu *vcpu, const KumoArchEntry *entry, bool x2apic,
                            GError **error);
