/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line of kumo: names, grammar and defaults are those of Cloud Hypervisor. */
#pragma once

#include <stdio.h>

#include "vmm-core/base/sandbox.h"
#include "vmm-core/config/config.h"

typedef struct {
    bool help;
    bool version;
    unsigned verbosity; /* number of -v */
    char *log_file;     /* NULL: standard error */
    char *log_format;   /* NULL: the default */
    bool no_shutdown;
    KumoSandboxMode seccomp;
    char *api_socket;        /* as given; NULL: no API */
    char *event_monitor;     /* as given; NULL: none */
    char *dbus_service_name; /* NULL: no API over D-Bus */
    char *dbus_object_path;
    bool dbus_system_bus;
    KumoVmConfig *config;       /* NULL: no VM until the API makes one */
    KumoRestoreConfig *restore; /* NULL: none; excludes config */
} KumoOptions;

void kumo_options_clear(KumoOptions *options);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(KumoOptions, kumo_options_clear)

/**
 * kumo_options_parse:
 * @options: (out): to be cleared by the caller, also on failure
 *
 * Returns: TRUE, or FALSE with @error naming the option and what is wrong with it.
 */
bool kumo_options_parse(int argc, char **argv, KumoOptions *options, GError **error);

void kumo_options_print_help(FILE *out);
