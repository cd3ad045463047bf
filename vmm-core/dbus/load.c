/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/dbus/load.h"

#include <dlfcn.h>

#include "kumo-build.h"
#include "vmm-core/base/error.h"

const KumoDbusModule *kumo_dbus_load(GError **error)
{
    const char *directory = g_getenv("KUMO_MODULE_DIR");
    g_autofree char *path = g_build_filename(directory && *directory ? directory : KUMO_MODULEDIR,
                                             KUMO_DBUS_MODULE_FILE, NULL);
    const KumoDbusModule *module;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (!handle) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "the D-Bus module cannot be loaded: %s", dlerror());
        return NULL;
    }
    /* Types that GIO has registered forbid ever unloading it. */
    module = dlsym(handle, KUMO_DBUS_MODULE_SYMBOL);
    if (!module || !g_str_equal(module->version, KUMO_VERSION)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "the D-Bus module %s is of version %s, must be " KUMO_VERSION, path,
                    module ? module->version : "unknown");
        return NULL;
    }
    return module;
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
