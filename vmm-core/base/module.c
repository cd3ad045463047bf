/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/module.h"

#include <dlfcn.h>

#include "kumo-build.h"
#include "vmm-core/base/error.h"

/* Returns: (transfer full): where @file is, or would be if it were installed. */
static char *find(const char *file)
{
    const char *given = g_getenv("KUMO_MODULE_DIR");
    g_auto(GStrv) directories = g_strsplit(given ? given : "", ":", -1);

    for (char **directory = directories; *directory; directory++) {
        g_autofree char *path = g_build_filename(*directory, file, NULL);

        if (**directory && g_file_test(path, G_FILE_TEST_EXISTS))
            return g_steal_pointer(&path);
    }
    return g_build_filename(given && *given ? directories[0] : KUMO_MODULEDIR, file, NULL);
}

const void *kumo_module_load(const char *what, const char *file, const char *symbol, GError **error)
{
    g_autofree char *path = find(file);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *const *version;

    if (!handle) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "the %s module cannot be loaded: %s", what, dlerror());
        return NULL;
    }
    /* What its libraries have registered may forbid ever unloading it. */
    version = dlsym(handle, symbol);
    if (!version || !g_str_equal(*version, KUMO_VERSION)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "the %s module %s is of version %s, must be " KUMO_VERSION, what, path,
                    version ? *version : "unknown");
        return NULL;
    }
    return version;
}
