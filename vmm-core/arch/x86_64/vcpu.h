/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/core/arch.h"

/* Registers, MSRs and local APIC of a vCPU at power-on; @entry is NULL for one that waits for a
 * start-up IPI. */
bool kumo_x86_vcpu_power_on(KumoHvVcpu *vcpu, const KumoArchEntry *entry, GError **error);
