/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/dbus/load.h"

#include "vmm-core/base/error.h"
#include "vmm-core/base/module.h"

const KumoDbusModule *kumo_dbus_load(GError **error)
{
    return kumo_module_load("D-Bus", KUMO_DBUS_MODULE_FILE, KUMO_DBUS_MODULE_SYMBOL, error);
}

bool kumo_dbus_check_address(const KumoDbusAddress *address, GError **error)
{
    const char *missing = NULL;

    if (!address->service_name)
        missing = "--dbus-service-name";
    else if (!address->object_path)
        missing = "--dbus-object-path";
    if (missing)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s is missing: the API over D-Bus needs --dbus-service-name and "
                    "--dbus-object-path",
                    missing);
    return !missing;
}
