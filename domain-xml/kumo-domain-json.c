/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints what the driver would tell the VMM for a domain XML: kumo-domain-json FILE... */
#include <stdio.h>
#include <stdlib.h>

#include "domain-xml/offline.h"

/* libvirt calls it for its public functions only, and would print their errors itself. */
static void quiet(void *opaque, virErrorPtr error)
{
}

int main(int argc, char **argv)
{
    g_autoptr(kumoDriver) driver = NULL;
    int status = EXIT_SUCCESS;

    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE...\n", argv[0]);
        return EXIT_FAILURE;
    }
    virSetErrorFunc(NULL, quiet);
    if (!(driver = kumo_offline_driver_new())) {
        fprintf(stderr, "%s: %s\n", argv[0], virGetLastErrorMessage());
        return EXIT_FAILURE;
    }

    for (int i = 1; i < argc; i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *xml = NULL;
        g_autofree char *json = NULL;

        if (!g_file_get_contents(argv[i], &xml, NULL, &error)) {
            fprintf(stderr, "%s\n", error->message);
            status = EXIT_FAILURE;
        } else if (!(json = kumo_offline_convert(driver, xml))) {
            fprintf(stderr, "%s: %s\n", argv[i], virGetLastErrorMessage());
            status = EXIT_FAILURE;
        } else {
            fputs(json, stdout);
        }
    }
    return status;
}
