/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* kumo-remote: one request to the API of a running kumo. */
#include <stdio.h>
#include <string.h>

#include "kumo-build.h"
#include "vmm-core/api/client.h"
#include "vmm-core/dbus/load.h"
#include "vmm-core/remote/command.h"
#include "vmm-core/remote/help.h"

/* Exit statuses. */
enum { DONE = 0, FAILED = 1, WRONG_USE = 2 };

/* What stands before the sub-command. */
typedef struct {
    const char *socket_path; /* NULL: by D-Bus */
    KumoDbusAddress dbus;
    int next;  /* index of the sub-command in argv */
    bool done; /* help or version was printed */
} Options;

/* "--name VALUE" or "--name=VALUE". Returns: FALSE if argv[*@index] is another option, or the value
 * is missing; else *@index is that of the last word. */
static bool take_value(int argc, char **argv, int *index, const char *option, const char **ret)
{
    const char *arg = argv[*index];
    size_t len = strlen(option);

    if (strncmp(arg, option, len) != 0)
        return false;
    if (arg[len] == '=')
        *ret = arg + len + 1;
    else if (arg[len] == '\0' && *index + 1 < argc)
        *ret = argv[++*index];
    else
        return false;
    return true;
}

/* Either the socket, or name and path. */
static bool check_way(const Options *options)
{
    bool dbus = options->dbus.service_name || options->dbus.object_path || options->dbus.system_bus;
    g_autoptr(GError) error = NULL;

    if (options->socket_path && dbus)
        fprintf(stderr, "kumo-remote: --api-socket and --dbus-service-name exclude each other\n");
    else if (dbus && !kumo_dbus_check_address(&options->dbus, &error))
        fprintf(stderr, "kumo-remote: %s\n", error->message);
    else if (!dbus && (!options->socket_path || !*options->socket_path))
        fprintf(stderr, "kumo-remote: --api-socket SOCKET is missing; see --help\n");
    else
        return true;
    return false;
}

/* "COMMAND --help", for which no API is needed. */
static bool wants_help(int n_words, char **words)
{
    return n_words == 2 && (strcmp(words[1], "--help") == 0 || strcmp(words[1], "-h") == 0);
}

static bool parse_options(int argc, char **argv, Options *options)
{
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *arg = argv[i];

        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            kumo_remote_print_help();
            options->done = true;
            return true;
        }
        if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0) {
            printf("kumo-remote %s\n", KUMO_VERSION);
            options->done = true;
            return true;
        }
        if (strcmp(arg, "--dbus-system-bus") == 0) {
            options->dbus.system_bus = true;
            continue;
        }
        if (!take_value(argc, argv, &i, "--api-socket", &options->socket_path) &&
            !take_value(argc, argv, &i, "--dbus-service-name", &options->dbus.service_name) &&
            !take_value(argc, argv, &i, "--dbus-object-path", &options->dbus.object_path)) {
            fprintf(stderr, "kumo-remote: unknown or incomplete option %s; see --help\n", arg);
            return false;
        }
    }
    options->next = i;
    if (wants_help(argc - i, argv + i))
        return true;
    if (!check_way(options))
        return false;
    if (i >= argc) {
        fprintf(stderr, "kumo-remote: a command is missing; see --help\n");
        return false;
    }
    return true;
}

static void print_answer(const char *text, size_t len)
{
    json_t *json = json_loadb(text, len, JSON_DECODE_ANY, NULL);

    if (json) {
        json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
        json_decref(json);
    } else {
        fwrite(text, 1, len, stdout);
    }
    putchar('\n');
}

static bool run_by_dbus(const KumoDbusAddress *address, const KumoRemoteCommand *command,
                        const KumoRemoteRequest *request, GError **error)
{
    const KumoDbusModule *module = kumo_dbus_load(error);
    g_autofree char *reply = NULL;

    if (!module || !module->call(address, command->endpoint, request->body,
                                 request->fds ? (const int *)request->fds->data : NULL,
                                 request->fds ? request->fds->len : 0, &reply, error))
        return false;
    if (reply)
        print_answer(reply, strlen(reply));
    return true;
}

static bool run(const Options *options, const KumoRemoteCommand *command,
                const KumoRemoteRequest *request, GError **error)
{
    g_auto(KumoApiResponse) response = { 0 };

    /* No time-out: booting a large VM or receiving one takes as long as it takes. */
    if (!options->socket_path)
        return run_by_dbus(&options->dbus, command, request, error);
    if (!kumo_api_request(options->socket_path, command->method, command->endpoint, request->body,
                          request->fds ? (const int *)request->fds->data : NULL,
                          request->fds ? request->fds->len : 0, -1, &response, error))
        return false;
    if (response.status >= 400) {
        kumo_api_set_error(&response, error);
        return false;
    }
    if (response.body)
        print_answer(response.body, response.body_len);
    return true;
}

static int run_command(const Options *options, int n_words, char **words)
{
    const KumoRemoteCommand *command = kumo_remote_find(words[0]);
    g_auto(KumoRemoteRequest) request = { 0 };
    g_autoptr(GError) error = NULL;

    if (!command) {
        fprintf(stderr, "kumo-remote: unknown command %s; see --help\n", words[0]);
        return WRONG_USE;
    }
    if (wants_help(n_words, words)) {
        kumo_remote_print_command_help(command);
        return DONE;
    }
    if (!command->make(command, n_words - 1, words + 1, &request, &error)) {
        fprintf(stderr, "kumo-remote: %s\n", error->message);
        return WRONG_USE;
    }
    if (!run(options, command, &request, &error)) {
        fprintf(stderr, "kumo-remote: %s\n", error->message);
        return FAILED;
    }
    return DONE;
}

int main(int argc, char **argv)
{
    Options options = { 0 };
    int status = DONE;

    if (!parse_options(argc, argv, &options))
        return WRONG_USE;
    if (!options.done)
        status = run_command(&options, argc - options.next, argv + options.next);
    if (fflush(stdout) != 0) {
        perror("kumo-remote: standard output");
        return FAILED;
    }
    return status;
}
