/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "driver/conf/kumo_conf.h"

#include "domain_capabilities.h"

/**
 * kumoCapabilitiesNew:
 *
 * Describes the host (CPU, NUMA, pages, caches, security models) and the guests that kumo runs on
 * it.
 *
 * Returns: (transfer full): the capabilities, or NULL with the error reported.
 */
virCaps *kumoCapabilitiesNew(kumoDriver *driver);

/**
 * kumoDriverGetCapabilities:
 * @refresh: look at the host again
 *
 * Returns: (transfer full): a reference, or NULL with the error reported.
 */
virCaps *kumoDriverGetCapabilities(kumoDriver *driver, bool refresh);

/**
 * kumoDomainCapsNew:
 * @emulator: path of the VMM, or NULL for the configured one
 * @arch: name of the guest's architecture, or NULL for the host's
 * @machine: a machine name, or NULL for the default one
 * @virttype: domain type, or NULL
 *
 * Returns: (transfer full): what a domain of that kind can have, or NULL with the error reported.
 */
virDomainCaps *kumoDomainCapsNew(kumoDriver *driver, const char *emulator, const char *arch,
                                 const char *machine, const char *virttype);

/**
 * kumoMachineCanonical:
 * @name: a machine name from a domain XML
 *
 * There is one board. Names that tools use for QEMU's boards without looking at the capabilities
 * stand for it too.
 *
 * Returns: (transfer none): the canonical name, or NULL if @name is unknown.
 */
const char *kumoMachineCanonical(const char *name);

/* kumoBinaryPath: (transfer full): the VMM's path, or NULL with the error reported. */
char *kumoBinaryPath(const kumoDriverConfig *cfg);

/* The largest number of vCPUs that a domain can have here. */
unsigned int kumoMaxVcpus(void);
