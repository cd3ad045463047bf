/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/remote/help.h"

#include <stdio.h>
#include <string.h>

#include "vmm-core/config/option.h"

enum { LINE_WIDTH = 78, INDENT = 2 };

/* More than the line in the list of all commands says. */
typedef struct {
    const char *command;
    const char *option; /* of kumo, whose option string the command takes; NULL: none */
    const char *text;
    const char *example; /* NULL: none is needed */
} Details;

static const Details details[] = {
    { "add-disk", "disk",
      "A running guest is told at once; before the boot the disk goes into the configuration. "
      "Prints the id and the PCI address that the disk got.",
      "add-disk path=/images/data.raw,id=data,readonly=on" },
    { "add-net", "net",
      "A running guest is told at once; before the boot the device goes into the configuration. "
      "Prints the id and the PCI address that it got. fd=[N,...] passes descriptors of a tap.",
      "add-net tap=tap0,mac=52:54:00:12:34:56" },
    { "add-rate-limit-group", NULL,
      "Keys: id, and the limits as of update-disk. Disks come into it by update-disk or add-disk.",
      "add-rate-limit-group id=slow,bw_size=10M,bw_refill_time=1000" },
    { "coredump", NULL,
      "Writes memory and registers of the guest into a new ELF core file, for gdb and crash. A "
      "running VM is paused meanwhile.",
      "coredump file:///var/tmp/guest.core" },
    { "counters", NULL, "Bytes, operations and latencies of each device since the boot, as JSON.",
      NULL },
    { "create", NULL,
      "Reads the configuration as JSON from a file, or from standard input, without starting "
      "anything. The \"config\" that info prints is such a configuration.",
      "create vm.json" },
    { "delete", NULL, "Stops the VM hard if it runs, and forgets its configuration.", NULL },
    { "power-button", NULL,
      "Presses the ACPI power button. What comes of it is the guest's to decide.", NULL },
    { "receive-migration", "receive-migration",
      "Returns when the VM is there, with wait=off at once. config is a file with the "
      "configuration "
      "that the VM is built from, JSON as of create.",
      "receive-migration receiver_url=tcp:[::]:6000" },
    { "remove-device", NULL,
      "Asks the guest to let the device go; the event device-removed tells when it has. A guest "
      "that did not can be asked again.",
      "remove-device data" },
    { "resize", NULL,
      "Sizes are in bytes, or with K, M or G. --memory is all memory of the guest, --balloon what "
      "it is to give back. Until a guest has let vCPUs go, another resize of them is refused.",
      "resize --cpus 4 --memory 2G" },
    { "resize-disk", NULL,
      "The size is in bytes, or with K, M or G. The guest is told. A block device is measured "
      "again instead.",
      "resize-disk --disk data --size 20G" },
    { "resize-zone", NULL, "The size is in bytes, or with K, M or G.",
      "resize-zone --id mem0 --size 4G" },
    { "restore", "restore",
      "Makes the VM from a snapshot, paused unless resume=on. net_fds=[id@[N,...],...] passes "
      "descriptors.",
      "restore source_url=file:///snapshots/one,resume=on" },
    { "send-migration", "send-migration",
      "Returns when it has begun; events tell the rest. Into a file, of a VM that is paused: "
      "one_way=on and fd:N, a descriptor.",
      "send-migration destination_url=tcp:there:6000" },
    { "shutdown", NULL,
      "Like pulling the plug. The configuration stays: the VM can be booted again.", NULL },
    { "shutdown-vmm", NULL, "Stops the VM hard if it runs, and ends the process.", NULL },
    { "snapshot", NULL, "The VM has to be paused, the directory to exist.",
      "snapshot file:///snapshots/one" },
    { "update-balloon", NULL,
      "Key: stats_period, seconds, 0 for never. The balloon must have had statistics=on or a "
      "period "
      "when the VM was booted.",
      "update-balloon stats_period=10" },
    { "update-cpus", NULL,
      "Key: affinity=[VCPU@[CPU,...],...]. vCPUs that it does not name run wherever the VMM may.",
      "update-cpus affinity=[0@[2],1@[3-5]]" },
    { "update-disk", NULL,
      "Keys: id, bw_size, bw_one_time_burst, bw_refill_time, ops_size, ops_one_time_burst, "
      "ops_refill_time, the same with read_ or write_ in front, op_size, rate_limit_group, "
      "queue_affinity, write_threshold; as of add-disk. The limits are replaced as a whole; zeros "
      "take them away. The first write beyond write_threshold is told by an event.",
      "update-disk id=data,bw_size=10M,bw_refill_time=1000" },
    { "update-net", NULL,
      "Keys: id, link_up, queue_affinity=[PAIR@[CPU,...],...], and the limits bw_... and ops_... "
      "as "
      "of update-disk, for each direction. link_up=off pulls the cable.",
      "update-net id=_net0,link_up=off" },
    { "update-rate-limit-group", NULL,
      "Keys: id, and the limits as of update-disk, which the disks of the group have together.",
      "update-rate-limit-group id=slow,bw_size=10M,bw_refill_time=1000" },
};

static const Details *find_details(const KumoRemoteCommand *command)
{
    for (size_t i = 0; i < G_N_ELEMENTS(details); i++) {
        if (strcmp(details[i].command, command->name) == 0)
            return &details[i];
    }
    return NULL;
}

/* Words in lines of a terminal's width. */
static void print_wrapped(const char *text, int indent)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    int column = 0;

    for (char **word = words; *word; word++) {
        int len = (int)strlen(*word);

        if (column && column + 1 + len > LINE_WIDTH) {
            putchar('\n');
            column = 0;
        }
        column += printf("%*s%s", column ? 1 : indent, "", *word);
    }
    putchar('\n');
}

void kumo_remote_print_help(void)
{
    int width = 0;

    printf("Usage: kumo-remote --api-socket SOCKET COMMAND [ARGUMENTS]\n\n"
           "Options:\n"
           "  --api-socket SOCKET   UNIX socket of kumo's API\n"
           "  --dbus-service-name NAME, --dbus-object-path PATH\n"
           "                        instead of the socket: kumo's API on the session's D-Bus\n"
           "  --dbus-system-bus     on the system's bus, not the session's\n"
           "  -h, --help            this text; after a command: that command\n"
           "  -V, --version         the version\n\n"
           "Commands:\n");
    for (size_t i = 0; i < kumo_remote_n_commands; i++)
        width = MAX(width, (int)strlen(kumo_remote_commands[i].name));
    for (size_t i = 0; i < kumo_remote_n_commands; i++) {
        const KumoRemoteCommand *command = &kumo_remote_commands[i];

        printf("  %-*s  %s\n", width, command->name, command->help);
    }
    printf(
        "\n\"kumo-remote COMMAND --help\" tells the arguments of a command. Exit status: 0 done,\n"
        "1 refused or failed, 2 the command line is wrong and nothing was asked for.\n");
}

void kumo_remote_print_command_help(const KumoRemoteCommand *command)
{
    const Details *more = find_details(command);

    printf("Usage: kumo-remote --api-socket SOCKET %s%s%s\n\n", command->name,
           *command->arguments ? " " : "", command->arguments);
    printf("%c%s. (%s /api/v1/%s)\n", g_ascii_toupper(command->help[0]), command->help + 1,
           command->method, command->endpoint);
    if (more) {
        putchar('\n');
        print_wrapped(more->text, 0);
    }
    if (strcmp(command->arguments, "OPTIONS") == 0)
        printf("\nOPTIONS is one word: KEY=VALUE,KEY=VALUE, lists in [], blanks and commas in "
               "\"\".\n");
    if (more && more->option) {
        g_autofree char *keys = kumo_option_keys(more->option);

        printf("\nKeys:\n");
        print_wrapped(keys, INDENT);
    }
    if (more && more->example)
        printf("\nExample:\n  kumo-remote --api-socket /run/vm.sock %s\n", more->example);
}
