/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "vmm-core/dbus/module.h"

/**
 * kumo_dbus_load:
 *
 * Loads the module, see kumo_module_load().
 *
 * Returns: (transfer none): the module, or NULL with @error (NOT_SUPPORTED) set.
 */
const KumoDbusModule *kumo_dbus_load(GError **error);

/**
 * kumo_dbus_check_address:
 *
 * Checks that service name and object path are there; their form is the module's to check.
 *
 * Returns: TRUE, or FALSE with @error naming the option that is missing.
 */
bool kumo_dbus_check_address(const KumoDbusAddress *address, GError **error);
