/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "driver/daemon/secondary_uri.h"

const char *kumoSecondaryURI(const char *uri)
{
    const char *separator = strstr(uri, "://");
    g_autofree char *scheme = NULL;
    g_autofree char *dir = NULL;
    g_autofree char *direct = NULL;
    g_autofree char *monolithic = NULL;
    g_autofree char *result = NULL;

    if (!separator)
        return uri;

    scheme = g_strndup(uri, separator - uri);
    if (g_str_has_suffix(uri, "/session") && geteuid() != 0) {
        dir = g_build_filename(g_get_user_runtime_dir(), "libvirt", NULL);
    } else {
        dir = g_strdup("/run/libvirt");
    }

    direct = g_strdup_printf("%s/virt%sd-sock", dir, scheme);
    monolithic = g_build_filename(dir, "libvirt-sock", NULL);
    if (access(direct, F_OK) == 0 || access(monolithic, F_OK) < 0)
        return uri;

    result = g_strdup_printf("%s?socket=%s", uri, monolithic);
    return g_intern_string(result);
}
