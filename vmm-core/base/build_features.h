/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What this build can do, by the names that Cloud Hypervisor has for it. */
#pragma once

/**
 * kumo_features:
 *
 * The names for `--version -v` and vmm.ping. "guest_debug" is there for vm.coredump.
 *
 * Returns: (transfer none): a list of static strings that ends with NULL.
 */
const char *const *kumo_features(void);
