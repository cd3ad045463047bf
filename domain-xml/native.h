/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMM's own descriptions of a VM, beside the domain XML: its JSON (vm.create) and its command
 * line, both Cloud Hypervisor's. What of one cannot be said in the other is refused by name.
 */
#pragma once

#include "driver/conf/kumo_conf.h"

#include "vmm-core/config/config.h"

/* The formats' names for virsh domxml-from-native and domxml-to-native. */
#define KUMO_NATIVE_JSON "kumo-json"
#define KUMO_NATIVE_ARGV "kumo-argv"

/**
 * kumo_native_parse:
 * @format: one of the above
 *
 * A command line begins with the program's name; what of it is not about the VM is left out.
 *
 * Returns: (transfer full): the configuration, validated, or NULL with the error reported through
 *     libvirt.
 */
KumoVmConfig *kumo_native_parse(const char *format, const char *text);

/**
 * kumo_native_to_xml:
 * @config: validated
 *
 * Returns: (transfer full): a domain XML that makes the same VM, but for ids, slots and the names
 *     of taps, or NULL with the error reported through libvirt: it names what has no word in the
 *     domain format.
 */
char *kumo_native_to_xml(kumoDriver *driver, const KumoVmConfig *config);
