/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a VM needs of the file system, all its life: the rules of Landlock. */
#include "vmm-core/vmm/vmm_landlock.h"

#include <unistd.h>

#include "vmm-core/base/log.h"
#include "vmm-core/core/memory_map.h"
#include "vmm-core/core/memory_scan.h"
#include "vmm-core/migration/channel_tls.h"

enum { READ_WRITE = KUMO_LANDLOCK_READ | KUMO_LANDLOCK_WRITE };

/* The directory may be asked for sockets that are made anew and removed, and nothing else. */
static void add_socket(GPtrArray *rules, const char *path)
{
    g_autofree char *directory = path ? g_path_get_dirname(path) : NULL;

    kumo_landlock_rules_add(rules, path, READ_WRITE);
    kumo_landlock_rules_add(rules, directory, KUMO_LANDLOCK_SOCKETS);
}

static void add_terminal(GPtrArray *rules)
{
    static const int fds[] = { STDIN_FILENO, STDOUT_FILENO };
    char path[64];

    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (ttyname_r(fds[i], path, sizeof(path)) == 0)
            kumo_landlock_rules_add(rules, path, READ_WRITE);
    }
}

/* Opened anew by a vm.boot that comes after a vm.shutdown. */
static void add_console(GPtrArray *rules, const KumoConsoleConfig *console)
{
    switch (console->mode) {
    case KUMO_CONSOLE_PTY:
        kumo_landlock_rules_add(rules, "/dev/ptmx", READ_WRITE);
        kumo_landlock_rules_add(rules, "/dev/pts", READ_WRITE);
        break;
    case KUMO_CONSOLE_TTY:
        add_terminal(rules);
        break;
    case KUMO_CONSOLE_FILE:
        kumo_landlock_rules_add(rules, console->file, READ_WRITE);
        break;
    case KUMO_CONSOLE_SOCKET:
        if (!console->connect)
            add_socket(rules, console->socket);
        break;
    case KUMO_CONSOLE_TCP:
        break;
    case KUMO_CONSOLE_OFF:
    case KUMO_CONSOLE_NULL:
        return;
    }
    kumo_landlock_rules_add(rules, console->log_file, READ_WRITE);
}

static void add_devices(GPtrArray *rules, const KumoVmConfig *config)
{
    for (guint i = 0; i < config->memory.zones->len; i++)
        kumo_landlock_rules_add(
            rules, ((const KumoMemoryZoneConfig *)config->memory.zones->pdata[i])->file,
            READ_WRITE);
    for (guint i = 0; i < config->disks->len; i++) {
        const KumoDiskConfig *disk = config->disks->pdata[i];

        kumo_landlock_rules_add(rules, disk->path,
                                disk->readonly ? KUMO_LANDLOCK_READ : (unsigned)READ_WRITE);
    }
    if (config->nets->len > 0)
        kumo_landlock_rules_add(rules, "/dev/net/tun", READ_WRITE);
    kumo_landlock_rules_add(rules, config->rng.src, KUMO_LANDLOCK_READ);
    add_console(rules, &config->serial);
    add_console(rules, &config->console);
    add_console(rules, &config->debug_console.console);
}

/* What getaddrinfo(3) reads when a migration or a console goes to a host by its name. */
static void add_resolver(GPtrArray *rules)
{
    static const char *const paths[] = { "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf",
                                         "/etc/nsswitch.conf", "/etc/gai.conf" };

    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++)
        kumo_landlock_rules_add(rules, paths[i], KUMO_LANDLOCK_READ);
}

static unsigned access_of(const KumoLandlockRuleConfig *rule)
{
    unsigned access = 0;

    for (const char *letter = rule->access; *letter; letter++)
        access |= *letter == 'r' ? KUMO_LANDLOCK_READ | KUMO_LANDLOCK_EXECUTE : KUMO_LANDLOCK_WRITE;
    return access;
}

static void add_own_rules(GPtrArray *rules, const KumoVmConfig *config)
{
    for (guint i = 0; i < config->landlock_rules->len; i++) {
        const KumoLandlockRuleConfig *rule = config->landlock_rules->pdata[i];
        g_autofree char *name = g_strdup_printf("landlock_rules[%u].path", i);

        kumo_landlock_rules_require(rules, name, rule->path, access_of(rule));
    }
}

GPtrArray *kumo_vmm_landlock_rules(const KumoVmConfig *config, const KumoVmmArrival *arrival,
                                   const KumoHvOps *const *backends,
                                   const char *const *removed_files)
{
    GPtrArray *rules = kumo_landlock_rules_new();

    kumo_landlock_rules_add(rules, config->payload.kernel, KUMO_LANDLOCK_READ);
    kumo_landlock_rules_add(rules, config->payload.firmware, KUMO_LANDLOCK_READ);
    kumo_landlock_rules_add(rules, config->payload.initramfs, KUMO_LANDLOCK_READ);
    add_devices(rules, config);
    for (const KumoHvOps *const *ops = backends; *ops; ops++)
        kumo_landlock_rules_add(rules, (*ops)->device_path, READ_WRITE);
    for (const char *const *file = removed_files; file && *file; file++) {
        g_autofree char *directory = g_path_get_dirname(*file);

        kumo_landlock_rules_add(rules, directory, KUMO_LANDLOCK_SOCKETS);
    }
    if (arrival && arrival->socket)
        add_socket(rules, arrival->socket);
    if (arrival && arrival->memory_on_demand)
        kumo_landlock_rules_add(rules, "/dev/userfaultfd", READ_WRITE);
    add_resolver(rules);
    add_own_rules(rules, config);
    return rules;
}

bool kumo_vmm_confine(KumoVmm *vmm, const KumoVmmArrival *arrival, GError **error)
{
    g_autoptr(GPtrArray) rules = NULL;

    if (!vmm->config->landlock_enable) {
        if (vmm->config->landlock_rules->len > 0)
            kumo_warn("landlock_rules have no effect without landlock_enable (--landlock)");
        return true;
    }
    /* What no rule can be for: files that the kernel makes anew, and libraries wherever they are.
     */
    kumo_memory_scan_prepare();
    kumo_memory_map_prepare();
    kumo_channel_tls_prepare();
    rules = kumo_vmm_landlock_rules(vmm->config, arrival, vmm->params.backends,
                                    vmm->params.removed_files);
    return kumo_landlock_enforce(rules, error);
}
