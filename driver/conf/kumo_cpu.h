/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's CPU: from what a definition asks for to what this host's KVM gives. */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"

/**
 * kumoCpuResolve:
 * @def: of a starting domain; its CPU is made that of the guest
 * @host: (nullable): the host's CPU
 * @askKvm: take into account what this host's KVM gives; it may not be the one that is meant
 *
 * host-model becomes the host's model and features; optional features are there or not; features
 * that KVM does not give to guests are disabled. With check='full' those are an error, and without
 * check='none' it is one if the host has not what is asked for.
 *
 * Returns: 0, or -1 with the error reported (VIR_ERR_CPU_INCOMPATIBLE).
 */
int kumoCpuResolve(virDomainDef *def, const virCPUDef *host, bool askKvm);

/* Does the definition name a model, or features beside one? */
bool kumoCpuHasModel(const virCPUDef *cpu);

/* Returns: 0, or -1 with the error reported: a feature has a name that the VMM does not know. */
int kumoCpuCheckFeatures(const virCPUDef *cpu);

/* Returns: (transfer full) (nullable): the model and features that host-model stands for. */
virCPUDef *kumoCpuHostModel(const virCPUDef *host);
