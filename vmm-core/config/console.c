/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The serial port, the virtio console and the debug console. */
#include <limits.h>
#include <sys/un.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/tcp.h"
#include "vmm-core/config/field.h"

/* A host name of the greatest length in brackets, and a port. */
enum { TCP_ADDRESS_MAX = KUMO_CONSOLE_HOST_MAX + 2 + 6 };

static const KumoEnumName console_modes[] = {
    { .cli = "off", .json = "Off", .value = KUMO_CONSOLE_OFF },
    { .cli = "null", .json = "Null", .value = KUMO_CONSOLE_NULL },
    { .cli = "pty", .json = "Pty", .value = KUMO_CONSOLE_PTY },
    { .cli = "tty", .json = "Tty", .value = KUMO_CONSOLE_TTY },
    { .json = "File", .value = KUMO_CONSOLE_FILE },
    { .json = "Socket", .value = KUMO_CONSOLE_SOCKET },
    { .json = "Tcp", .value = KUMO_CONSOLE_TCP }, /* more than Cloud Hypervisor has */
    {},
};

/* It listens to nobody. */
static const KumoEnumName debug_console_modes[] = {
    { .cli = "off", .json = "Off", .value = KUMO_CONSOLE_OFF },
    { .cli = "null", .json = "Null", .value = KUMO_CONSOLE_NULL },
    { .cli = "pty", .json = "Pty", .value = KUMO_CONSOLE_PTY },
    { .cli = "tty", .json = "Tty", .value = KUMO_CONSOLE_TTY },
    { .json = "File", .value = KUMO_CONSOLE_FILE },
    {},
};

static const KumoField serial_fields[] = {
    { .json = "mode",
      .host = true,
      .presence = true,
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoConsoleConfig, mode),
      .def = KUMO_CONSOLE_NULL,
      .bare = true,
      .names = console_modes },
    { .cli = "file",
      .json = "file",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, file),
      .max = PATH_MAX - 1,
      .implies = true,
      .implied = KUMO_CONSOLE_FILE },
    { .cli = "socket",
      .json = "socket",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, socket),
      .max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1,
      .implies = true,
      .implied = KUMO_CONSOLE_SOCKET },
    /* More than Cloud Hypervisor has. */
    { .cli = "tcp",
      .json = "tcp",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, tcp),
      .max = TCP_ADDRESS_MAX,
      .implies = true,
      .implied = KUMO_CONSOLE_TCP },
    { .cli = "connect",
      .json = "connect",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoConsoleConfig, connect) },
    { .cli = "reconnect",
      .json = "reconnect",
      .host = true,
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoConsoleConfig, reconnect_s),
      .max = KUMO_CONSOLE_RECONNECT_MAX_S },
    { .cli = "append",
      .json = "append",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoConsoleConfig, append) },
    { .cli = "log_file",
      .json = "log_file",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, log_file),
      .max = PATH_MAX - 1 },
    { .cli = "log_append",
      .json = "log_append",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoConsoleConfig, log_append) },
    /* Releases before 53 give it for the serial port too. */
    { .json = "iommu", .type = KUMO_FIELD_NOT_YET },
};

static const KumoField console_fields[] = {
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoConsoleConfig, pci),
      .section = &kumo_pci_common_section },
    { .json = "mode",
      .host = true,
      .presence = true,
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoConsoleConfig, mode),
      .def = KUMO_CONSOLE_TTY,
      .bare = true,
      .names = console_modes },
    { .cli = "file",
      .json = "file",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, file),
      .max = PATH_MAX - 1,
      .implies = true,
      .implied = KUMO_CONSOLE_FILE },
    /* More than Cloud Hypervisor has, which knows it for the serial port only. */
    { .cli = "socket",
      .json = "socket",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, socket),
      .max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1,
      .implies = true,
      .implied = KUMO_CONSOLE_SOCKET },
    /* More than Cloud Hypervisor has. */
    { .cli = "tcp",
      .json = "tcp",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, tcp),
      .max = TCP_ADDRESS_MAX,
      .implies = true,
      .implied = KUMO_CONSOLE_TCP },
    { .cli = "connect",
      .json = "connect",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoConsoleConfig, connect) },
    { .cli = "reconnect",
      .json = "reconnect",
      .host = true,
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoConsoleConfig, reconnect_s),
      .max = KUMO_CONSOLE_RECONNECT_MAX_S },
    { .cli = "append",
      .json = "append",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoConsoleConfig, append) },
    { .cli = "log_file",
      .json = "log_file",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoConsoleConfig, log_file),
      .max = PATH_MAX - 1 },
    { .cli = "log_append",
      .json = "log_append",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoConsoleConfig, log_append) },
};

static const KumoField debug_console_fields[] = {
    { .json = "mode",
      .host = true,
      .presence = true,
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoDebugConsoleConfig, console.mode),
      .def = KUMO_CONSOLE_OFF,
      .bare = true,
      .names = debug_console_modes },
    { .cli = "file",
      .json = "file",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoDebugConsoleConfig, console.file),
      .max = PATH_MAX - 1,
      .implies = true,
      .implied = KUMO_CONSOLE_FILE },
    { .cli = "iobase",
      .json = "iobase",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoDebugConsoleConfig, iobase),
      .def = 0xe9,
      .hex = true,
      .max = UINT16_MAX },
};

static bool check_sockets(const KumoConsoleConfig *console, const char *path, GError **error)
{
    g_autofree char *host = NULL;
    const char *port = NULL;

    if (console->mode == KUMO_CONSOLE_TCP && !kumo_tcp_address_split(console->tcp, &host, &port)) {
        g_autofree char *shown = kumo_quote_value(console->tcp);

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.tcp: %s is not allowed, must have a host and a port from 1 to 65535", path,
                    shown);
        return false;
    }
    if (console->connect && console->mode != KUMO_CONSOLE_SOCKET &&
        console->mode != KUMO_CONSOLE_TCP) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.connect: true is not allowed, mode %s connects to nothing", path,
                    kumo_console_mode_to_string(console->mode));
        return false;
    }
    if (console->reconnect_s && !console->connect) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.reconnect: %u needs connect, which is off", path, console->reconnect_s);
        return false;
    }
    return true;
}

static bool console_validate(const void *object, const char *path, GError **error)
{
    const KumoConsoleConfig *console = object;
    const char *missing = NULL;

    if (console->mode == KUMO_CONSOLE_FILE && !console->file)
        missing = "file";
    if (console->mode == KUMO_CONSOLE_SOCKET && !console->socket)
        missing = "socket";
    if (console->mode == KUMO_CONSOLE_TCP && !console->tcp)
        missing = "tcp";
    if (!missing && console->log_file &&
        (console->mode == KUMO_CONSOLE_OFF || console->mode == KUMO_CONSOLE_NULL)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.log_file: %s is not allowed, mode %s has no output", path,
                    console->log_file, kumo_console_mode_to_string(console->mode));
        return false;
    }
    if (!missing)
        return check_sockets(console, path, error);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s.%s: the %s is missing, mode %s needs it",
                path, missing, console->mode == KUMO_CONSOLE_TCP ? "address" : "path",
                kumo_console_mode_to_string(console->mode));
    return false;
}

static bool debug_console_validate(const void *object, const char *path, GError **error)
{
    return console_validate(&((const KumoDebugConsoleConfig *)object)->console, path, error);
}

const char *kumo_console_mode_to_string(KumoConsoleMode mode)
{
    for (const KumoEnumName *row = console_modes; row->json; row++) {
        if (row->value == (int)mode)
            return row->json;
    }
    return "Unknown";
}

const KumoSection kumo_serial_section = {
    .option = "serial",
    .fields = serial_fields,
    .n_fields = G_N_ELEMENTS(serial_fields),
    .size = sizeof(KumoConsoleConfig),
    .validate = console_validate,
};

const KumoSection kumo_console_section = {
    .option = "console",
    .fields = console_fields,
    .n_fields = G_N_ELEMENTS(console_fields),
    .size = sizeof(KumoConsoleConfig),
    .validate = console_validate,
};

const KumoSection kumo_debug_console_section = {
    .option = "debug-console",
    .fields = debug_console_fields,
    .n_fields = G_N_ELEMENTS(debug_console_fields),
    .size = sizeof(KumoDebugConsoleConfig),
    .validate = debug_console_validate,
};
