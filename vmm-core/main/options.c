/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/main/options.h"

#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log_format.h"
#include "vmm-core/config/option.h"
#include "vmm-core/dbus/load.h"

typedef enum {
    GROUP_VMM,
    GROUP_LOGGING,
    GROUP_PAYLOAD,
    GROUP_VM,
} Group;

static const char *const group_titles[] = {
    [GROUP_VMM] = "VMM",
    [GROUP_LOGGING] = "Logging",
    [GROUP_PAYLOAD] = "Payload",
    [GROUP_VM] = "Virtual machine",
};

typedef enum {
    TAKES_NOTHING,
    TAKES_ONE,
    TAKES_ONE_OR_NOTHING, /* without a word all that it would say has its default */
    TAKES_MANY,           /* all words up to the next option; may be repeated */
} Takes;

typedef struct OptionSpec OptionSpec;

struct OptionSpec {
    const char *name;
    Group group;
    Takes takes;
    /* NULL: belongs to the VM's configuration. */
    bool (*set)(KumoOptions *options, const OptionSpec *spec, const char *value, GError **error);
    const char *argument;
    const char *help;
};

static bool set_api_socket(KumoOptions *options, const OptionSpec *spec, const char *value,
                           GError **error)
{
    options->api_socket = g_strdup(value);
    return true;
}

static bool set_event_monitor(KumoOptions *options, const OptionSpec *spec, const char *value,
                              GError **error)
{
    options->event_monitor = g_strdup(value);
    return true;
}

static bool set_dbus_service_name(KumoOptions *options, const OptionSpec *spec, const char *value,
                                  GError **error)
{
    options->dbus_service_name = g_strdup(value);
    return true;
}

static bool set_dbus_object_path(KumoOptions *options, const OptionSpec *spec, const char *value,
                                 GError **error)
{
    options->dbus_object_path = g_strdup(value);
    return true;
}

static bool set_dbus_system_bus(KumoOptions *options, const OptionSpec *spec, const char *value,
                                GError **error)
{
    options->dbus_system_bus = true;
    return true;
}

static bool set_log_file(KumoOptions *options, const OptionSpec *spec, const char *value,
                         GError **error)
{
    options->log_file = g_strdup(value);
    return true;
}

static bool set_log_format(KumoOptions *options, const OptionSpec *spec, const char *value,
                           GError **error)
{
    options->log_format = g_strdup(value);
    return true;
}

static bool set_no_shutdown(KumoOptions *options, const OptionSpec *spec, const char *value,
                            GError **error)
{
    options->no_shutdown = true;
    return true;
}

static bool set_help(KumoOptions *options, const OptionSpec *spec, const char *value,
                     GError **error)
{
    options->help = true;
    return true;
}

static bool set_version(KumoOptions *options, const OptionSpec *spec, const char *value,
                        GError **error)
{
    options->version = true;
    return true;
}

static bool set_seccomp(KumoOptions *options, const OptionSpec *spec, const char *value,
                        GError **error)
{
    static const struct {
        const char *word;
        KumoSandboxMode mode;
    } modes[] = {
        { "true", KUMO_SANDBOX_TRAP },
        { "false", KUMO_SANDBOX_OFF },
        { "log", KUMO_SANDBOX_LOG },
        { "errno", KUMO_SANDBOX_ERRNO },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (g_str_equal(value, modes[i].word)) {
            options->seccomp = modes[i].mode;
            return true;
        }
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "--seccomp: \"%s\" is none of true, false, log, errno", value);
    return false;
}

static bool set_restore(KumoOptions *options, const OptionSpec *spec, const char *value,
                        GError **error)
{
    options->restore = kumo_option_parse_restore(value, error);
    return options->restore != NULL;
}

static bool refuse(KumoOptions *options, const OptionSpec *spec, const char *value, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "--%s is not supported yet",
                spec->name);
    return false;
}

/* Options without help are known but refused. */
static const OptionSpec specs[] = {
    { "api-socket", GROUP_VMM, TAKES_ONE, set_api_socket, "path=<path>|fd=<n>|<path>",
      "UNIX socket on which the REST API is served" },
    { "event-monitor", GROUP_VMM, TAKES_ONE, set_event_monitor, "path=<path>|fd=<n>",
      "where events are written as JSON" },
    { "dbus-service-name", GROUP_VMM, TAKES_ONE, set_dbus_service_name, "<name>",
      "well-known name under which the API is served over D-Bus" },
    { "dbus-object-path", GROUP_VMM, TAKES_ONE, set_dbus_object_path, "<path>",
      "object that has the API's interface there" },
    { "dbus-system-bus", GROUP_VMM, TAKES_NOTHING, set_dbus_system_bus, NULL,
      "use the system's bus, not the session's" },
    { "no-shutdown", GROUP_VMM, TAKES_NOTHING, set_no_shutdown, NULL,
      "stay when the guest has powered off" },
    { "seccomp", GROUP_VMM, TAKES_ONE, set_seccomp, "true|false|log|errno",
      "what becomes of a system call that a thread has no business with; default: true, it ends "
      "the "
      "process" },
    { "landlock", GROUP_VMM, TAKES_NOTHING, NULL, NULL,
      "let the process open only the files that the virtual machine needs" },
    { "landlock-rules", GROUP_VMM, TAKES_MANY, NULL, "path=<path>,access=r|w|rw",
      "files and directories that it may use besides, one per word" },
    { "restore", GROUP_VMM, TAKES_ONE, set_restore,
      "source_url=file:///<directory>,resume=on|off,...",
      "bring a virtual machine back from a snapshot" },
    { "help", GROUP_VMM, TAKES_NOTHING, set_help, NULL, "print this text" },
    { "version", GROUP_VMM, TAKES_NOTHING, set_version, NULL, "print the version" },

    { "log-file", GROUP_LOGGING, TAKES_ONE, set_log_file, "<path>",
      "append log messages to a file, not standard error" },
    { "log-format", GROUP_LOGGING, TAKES_ONE, set_log_format, "<text>",
      "how a line looks; default: " KUMO_LOG_FORMAT_DEFAULT },

    { "kernel", GROUP_PAYLOAD, TAKES_ONE, NULL, "<path>", "ELF with a PVH entry, or bzImage" },
    { "firmware", GROUP_PAYLOAD, TAKES_ONE, NULL, "<path>",
      "firmware to boot instead of a kernel" },
    { "cmdline", GROUP_PAYLOAD, TAKES_ONE, NULL, "<text>", "the kernel's command line" },
    { "initramfs", GROUP_PAYLOAD, TAKES_ONE, NULL, "<path>", "initial RAM file system" },

    { "cpus", GROUP_VM, TAKES_ONE, NULL, "boot=<n>,max=<n>,topology=<t>:<c>:<d>:<p>,...",
      "virtual CPUs; the guest may get up to max while it runs" },
    { "memory", GROUP_VM, TAKES_ONE, NULL,
      "size=<n>[K|M|G],hotplug_size=<n>[K|M|G],hotplug_method=acpi|virtio-mem,shared=on|off,...",
      "guest memory; it may get hotplug_size more while it runs, and less again by virtio-mem" },
    { "memory-zone", GROUP_VM, TAKES_MANY, NULL,
      "id=<id>,size=<n>[K|M|G],file=<path>,host_numa_node=<n>,hotplug_size=<n>[K|M|G],...",
      "parts of the guest memory, one per word; with --memory size=0" },
    { "numa", GROUP_VM, TAKES_MANY, NULL,
      "guest_numa_id=<n>,cpus=[<n>-<n>],memory_zones=[<id>],distances=[<node>@<n>],...",
      "NUMA nodes of the guest, one per word" },
    { "disk", GROUP_VM, TAKES_MANY, NULL, "path=<path>,readonly=on|off,direct=on|off,...",
      "disks, one per word" },
    { "net", GROUP_VM, TAKES_MANY, NULL, "tap=<name>,mac=<mac>,fd=[<n>],link_up=on|off,...",
      "network devices, one per word" },
    { "rate-limit-group", GROUP_VM, TAKES_MANY, NULL,
      "id=<id>,bw_size=<bytes>,bw_refill_time=<ms>,ops_size=<n>,ops_refill_time=<ms>,...",
      "limits that disks share, one group per word" },
    { "balloon", GROUP_VM, TAKES_ONE, NULL,
      "size=<n>[K|M|G],deflate_on_oom=on|off,free_page_reporting=on|off,statistics=on|off,...",
      "memory that the guest is asked to give back" },
    { "rng", GROUP_VM, TAKES_ONE_OR_NOTHING, NULL, "src=<path>", "source of random numbers" },
    { "serial", GROUP_VM, TAKES_ONE, NULL,
      "off|null|tty|pty|file=<path>|socket=<path>|tcp=<host>:<port>,connect=on|off,reconnect=<s>",
      "the serial port" },
    { "console", GROUP_VM, TAKES_ONE, NULL,
      "off|null|tty|pty|file=<path>|socket=<path>|tcp=<host>:<port>,connect=on|off,reconnect=<s>",
      "the virtio console" },
    { "debug-console", GROUP_VM, TAKES_ONE, NULL, "off|null|tty|pty|file=<path>,iobase=<port>",
      "what the guest writes to an I/O port, 0xe9 by default" },
    { "platform", GROUP_VM, TAKES_ONE, NULL,
      "num_pci_segments=<n>,uuid=<uuid>,serial_number=<text>,rtc_offset=<s>,...",
      "PCI segments, what the SMBIOS tables say, and the clock" },
    { "pci-segment", GROUP_VM, TAKES_MANY, NULL,
      "pci_segment=<n>,mmio32_aperture_weight=<n>,mmio64_aperture_weight=<n>",
      "PCI segments with more room than others, one per word" },

    { "gdb", GROUP_VMM, TAKES_ONE, refuse, NULL, NULL },
};

void kumo_options_print_help(FILE *out)
{
    fputs("kumo: runs a virtual machine\n\nUsage: kumo [options]\n", out);
    for (unsigned group = 0; group < G_N_ELEMENTS(group_titles); group++) {
        fprintf(out, "\n%s:\n", group_titles[group]);
        for (unsigned i = 0; i < G_N_ELEMENTS(specs); i++) {
            const OptionSpec *spec = &specs[i];

            if (spec->group == group && spec->help)
                fprintf(out, "  --%s%s%s\n          %s\n", spec->name, spec->argument ? " " : "",
                        spec->argument ? spec->argument : "", spec->help);
        }
        if (group == GROUP_LOGGING)
            fputs("  -v, -vv, -vvv\n          log more: information, debugging, everything\n", out);
    }
}

void kumo_options_clear(KumoOptions *options)
{
    g_free(options->log_file);
    g_free(options->log_format);
    g_free(options->api_socket);
    g_free(options->event_monitor);
    g_free(options->dbus_service_name);
    g_free(options->dbus_object_path);
    g_clear_pointer(&options->config, kumo_vm_config_free);
    g_clear_pointer(&options->restore, kumo_restore_config_free);
}

static const OptionSpec *find(const char *name, size_t len, OptionSpec *unlisted, char **ret_name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(specs); i++) {
        if (strlen(specs[i].name) == len && memcmp(specs[i].name, name, len) == 0)
            return &specs[i];
    }
    /* What the configuration knows but does not support says so itself. */
    *ret_name = g_strndup(name, len);
    if (!kumo_option_is_vm_config(*ret_name))
        return NULL;
    *unlisted = (OptionSpec){ .name = *ret_name, .group = GROUP_VM, .takes = TAKES_MANY };
    return unlisted;
}

/* @value: NULL if none was given. */
static bool apply(KumoOptions *options, const OptionSpec *spec, const char *value, GError **error)
{
    if (spec->set)
        return spec->set(options, spec, value, error);
    if (!options->config)
        options->config = kumo_vm_config_new();
    if (!value && spec->takes != TAKES_NOTHING)
        return true;
    return kumo_option_apply(options->config, spec->name, value ? value : "", error);
}

static bool is_option(const char *word)
{
    return g_str_has_prefix(word, "--") || g_str_equal(word, "-h") || g_str_equal(word, "-V") ||
           g_str_has_prefix(word, "-v");
}

/* Options of one letter. Returns: FALSE with @error if @word is none. */
static bool parse_short(KumoOptions *options, const char *word, GError **error)
{
    size_t n = strspn(word + 1, "v");

    if (n > 0 && word[1 + n] == '\0') {
        options->verbosity += (unsigned)n;
    } else if (g_str_equal(word, "-h")) {
        options->help = true;
    } else if (g_str_equal(word, "-V")) {
        options->version = true;
    } else {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "\"%s\" is not an option", word);
        return false;
    }
    return true;
}

static bool wants_dbus(const KumoOptions *options)
{
    return options->dbus_service_name || options->dbus_object_path || options->dbus_system_bus;
}

static bool check_purpose(const KumoOptions *options, GError **error)
{
    const KumoDbusAddress address = { .service_name = options->dbus_service_name,
                                      .object_path = options->dbus_object_path };

    if (wants_dbus(options) && !kumo_dbus_check_address(&address, error))
        return false;
    if (options->config && options->restore) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "--restore brings its own configuration: options of a virtual machine do not go "
            "with it");
        return false;
    }
    if (options->config && !options->config->payload.kernel && !options->config->payload.firmware) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "a virtual machine needs --kernel or --firmware");
        return false;
    }
    if (!options->config && !options->restore && !options->api_socket &&
        !options->dbus_service_name) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "nothing to do: give --kernel or --firmware to run a virtual machine, or "
                    "--api-socket or --dbus-service-name to wait for one");
        return false;
    }
    return true;
}

bool kumo_options_parse(int argc, char **argv, KumoOptions *options, GError **error)
{
    bool seen[G_N_ELEMENTS(specs)] = { false };
    int i = 1;

    *options = (KumoOptions){ .help = argc <= 1, .seccomp = KUMO_SANDBOX_TRAP };
    while (i < argc) {
        const char *word = argv[i++];
        const char *equals = strchr(word, '=');
        g_autofree char *name = NULL;
        OptionSpec unlisted;
        const OptionSpec *spec;
        bool bare;

        if (!g_str_has_prefix(word, "--")) {
            if (!parse_short(options, word, error))
                return false;
            continue;
        }
        word += strlen("--");
        spec = find(word, equals ? (size_t)(equals - word) : strlen(word), &unlisted, &name);
        if (!spec) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "--%s is not an option", name);
            return false;
        }
        if (spec->takes == TAKES_NOTHING && equals) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "--%s takes no value", spec->name);
            return false;
        }
        bare = !equals && (i >= argc || is_option(argv[i]));
        /* Of one that is not there yet, nobody knows whether it takes one. */
        if (spec == &unlisted && bare)
            return apply(options, spec, "", error);
        if (bare && spec->takes != TAKES_NOTHING && spec->takes != TAKES_ONE_OR_NOTHING) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "--%s needs a value", spec->name);
            return false;
        }
        if (spec != &unlisted && spec->takes != TAKES_MANY) {
            if (seen[spec - specs]) {
                g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "--%s is given twice",
                            spec->name);
                return false;
            }
            seen[spec - specs] = true;
        }
        if (!apply(options, spec,
                   equals                                 ? equals + 1
                   : bare || spec->takes == TAKES_NOTHING ? NULL
                                                          : argv[i++],
                   error))
            return false;
        while (spec->takes == TAKES_MANY && i < argc && !is_option(argv[i])) {
            if (!apply(options, spec, argv[i++], error))
                return false;
        }
    }
    return options->help || options->version || check_purpose(options, error);
}
