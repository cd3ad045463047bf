/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A virtkumod that was built but not installed finds the driver module beside itself. libvirt.so
 * asks LIBVIRT_DRIVER_DIR for the directory, and a client that starts a session daemon does not
 * hand that variable on; an installed daemon has no module beside it and is not affected.
 */
#include <glib.h>

static void __attribute__((constructor)) kumoUseModuleBeside(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = self ? g_path_get_dirname(self) : NULL;
    g_autofree char *module = dir ? g_build_filename(dir, "libvirt_driver_kumo.so", NULL) : NULL;

    if (module && g_file_test(module, G_FILE_TEST_IS_REGULAR))
        g_setenv("LIBVIRT_DRIVER_DIR", dir, FALSE);
}
