/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kumo-build.h"
#include "vmm-core/api/endpoints.h"
#include "vmm-core/api/event.h"
#include "vmm-core/arch/x86_64/x86_64.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/build_features.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/sandbox.h"
#include "vmm-core/dbus/load.h"
#include "vmm-core/devices/console/backend.h"
#include "vmm-core/main/backends.h"
#include "vmm-core/main/devices.h"
#include "vmm-core/main/options.h"
#include "vmm-core/main/threads.h"
#include "vmm-core/migration/stream.h"
#include "vmm-core/vmm/vmm.h"

enum { FD_TABLE_SIZE = 4096 };

typedef struct {
    GMainLoop *loop;
    KumoVmm *vmm;
    KumoApiServer *api;         /* NULL: no API socket */
    const KumoDbusModule *dbus; /* NULL: no API over D-Bus */
    KumoDbusServer *dbus_server;
    bool failed;
} Main;

/*
 * From here on only what the tables of system calls have. Before the API serves anybody, after what
 * loads code: the D-Bus module.
 */
static bool enter_sandbox(const KumoOptions *options, GError **error)
{
    static KumoSandboxParams params = {
        .main = &kumo_main_thread,
        .programs = kumo_sandbox_programs,
    };

    params.mode = options->seccomp;
    /* What libraries read from files when it is first needed, be it by a thread that may open none.
     */
    g_free(g_locale_to_utf8("x", -1, NULL, NULL, NULL)); /* as for errors' texts */
    json_object_seed(0);
    return kumo_sandbox_start(&params, error);
}

/* Growing the table of descriptors while threads share it waits for the kernel's grace periods:
 * some milliseconds each time. */
static void grow_fd_table(void)
{
    struct rlimit limit;
    int fd;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, (int)MIN(limit.rlim_cur, FD_TABLE_SIZE) - 1);
    if (fd >= 0)
        close(fd);
}

/* Blocks in this thread, and so in all that it starts, the signals that the main loop takes. */
static int signals_open(GError **error)
{
    sigset_t taken;
    int fd;

    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error of the write */
    sigemptyset(&taken);
    sigaddset(&taken, SIGTERM);
    sigaddset(&taken, SIGINT);
    sigaddset(&taken, SIGWINCH);
    sigprocmask(SIG_BLOCK, &taken, NULL);
    fd = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        kumo_set_error_errno(error, errno, "signalfd");
    return fd;
}

static gboolean on_signal(int fd, GIOCondition condition, gpointer opaque)
{
    Main *self = opaque;
    struct signalfd_siginfo info;

    while (read(fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGWINCH) {
            kumo_vmm_console_resized(self->vmm);
        } else {
            kumo_info("signal %u: ending", info.ssi_signo);
            kumo_vmm_quit(self->vmm);
        }
    }
    return G_SOURCE_CONTINUE;
}

static void on_quit(void *opaque, bool failed)
{
    Main *self = opaque;

    self->failed = failed;
    g_main_loop_quit(self->loop);
}

static void dbus_warn(const char *message)
{
    kumo_warn("%s", message);
}

static void dbus_event(void *opaque, const char *text)
{
    const Main *self = opaque;

    self->dbus->event(self->dbus_server, text);
}

static bool serve_dbus(Main *self, const KumoOptions *options, GError **error)
{
    const KumoDbusParams params = {
        .address = { .service_name = options->dbus_service_name,
                     .object_path = options->dbus_object_path,
                     .system_bus = options->dbus_system_bus },
        .endpoints = kumo_api_endpoints,
        .n_endpoints = kumo_api_n_endpoints,
        .handler = kumo_api_handle,
        .opaque = self->vmm,
        .warn = dbus_warn,
    };

    if (!options->dbus_service_name)
        return true;
    self->dbus = kumo_dbus_load(error);
    if (!self->dbus)
        return false;
    self->dbus_server = self->dbus->serve(&params, error);
    if (!self->dbus_server)
        return false;
    kumo_event_set_listener(dbus_event, self);
    return true;
}

static bool serve(Main *self, const KumoOptions *options, GError **error)
{
    if (options->api_socket) {
        self->api =
            kumo_api_server_new(NULL, options->api_socket, kumo_api_handle, self->vmm, error);
        if (!self->api)
            return false;
    }
    return serve_dbus(self, options, error);
}

/* No request any more. */
static void stop_serving(Main *self)
{
    g_clear_pointer(&self->api, kumo_api_server_free);
    if (self->dbus_server)
        self->dbus->stop(self->dbus_server);
}

/* After the last event. */
static void close_dbus(Main *self)
{
    if (!self->dbus_server)
        return;
    kumo_event_set_listener(NULL, NULL);
    self->dbus->close(g_steal_pointer(&self->dbus_server));
}

static bool boot(Main *self, KumoOptions *options, GError **error)
{
    if (options->restore)
        return kumo_vmm_restore(self->vmm, g_steal_pointer(&options->restore), error);
    if (!options->config)
        return true;
    return kumo_vmm_create(self->vmm, g_steal_pointer(&options->config), error) &&
           kumo_vmm_boot(self->vmm, error);
}

/* Returns: TRUE if the process may end with success. */
static bool run(KumoOptions *options, GError **error)
{
    Main self = { 0 };
    const char *const removed_files[] = {
        options->api_socket ? kumo_api_server_path(options->api_socket) : NULL, NULL
    };
    const KumoVmmParams params = {
        .backends = kumo_backends,
        .arch = &kumo_arch_x86_64,
        .device_types = kumo_device_types,
        .no_shutdown = options->no_shutdown,
        .removed_files = removed_files,
        .consoles_open = kumo_console_set_open,
        .consoles_close = kumo_console_set_close,
        .event = kumo_event,
        .quit = on_quit,
        .opaque = &self,
    };
    kumo_auto_fd signal_fd = -1;
    guint signal_source;
    bool ok;

    if (options->log_format && !kumo_log_set_format(options->log_format, error))
        return false;
    if (options->log_file && !kumo_log_open_file(options->log_file, error))
        return false;
    if (options->event_monitor && !kumo_event_open(options->event_monitor, error))
        return false;
    signal_fd = signals_open(error);
    if (signal_fd < 0)
        return false;
    grow_fd_table();

    kumo_event("vmm", "starting", NULL);
    self.loop = g_main_loop_new(NULL, FALSE);
    self.vmm = kumo_vmm_new(&params);
    signal_source = g_unix_fd_add(signal_fd, G_IO_IN, on_signal, &self);
    ok = serve(&self, options, error) && enter_sandbox(options, error) &&
         boot(&self, options, error);
    if (ok)
        g_main_loop_run(self.loop);
    stop_serving(&self);
    g_source_remove(signal_source);
    kumo_vmm_free(self.vmm);
    g_main_loop_unref(self.loop);
    kumo_event("vmm", "shutdown", NULL);
    close_dbus(&self);
    kumo_event_close();
    if (ok && self.failed) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INTERNAL,
                    "the virtual machine failed, see the log");
        return false;
    }
    return ok;
}

static void print_version(bool features)
{
    puts("kumo " KUMO_VERSION);
    printf("Migration Protocol Versions: %d\n", KUMO_STREAM_VERSION);
    if (!features)
        return;
    puts("Enabled features:");
    for (const char *const *name = kumo_features(); *name; name++)
        printf("    %s\n", *name);
}

int main(int argc, char **argv)
{
    g_auto(KumoOptions) options;
    g_autoptr(GError) error = NULL;

    kumo_log_start();
    umask(077);
    if (!kumo_options_parse(argc, argv, &options, &error)) {
        fprintf(stderr, "kumo: %s\n", error->message);
        return EXIT_FAILURE;
    }
    if (options.help) {
        kumo_options_print_help(stdout);
        return EXIT_SUCCESS;
    }
    if (options.version) {
        print_version(options.verbosity > 0);
        return EXIT_SUCCESS;
    }
    kumo_log_level = MIN(KUMO_LOG_WARN + options.verbosity, KUMO_LOG_TRACE);
    if (!run(&options, &error)) {
        fprintf(stderr, "kumo: %s\n", error->message);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
