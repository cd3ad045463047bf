/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* kumo-remote: one request to the API of a running kumo. */
#include <stdio.h>
#include <string.h>

#include "kumo-build.h"
#include "vmm-core/api/client.h"
#include "vmm-core/remote/command.h"

static void print_help(void)
{
    printf("Usage: kumo-remote --api-socket SOCKET COMMAND [ARGUMENTS]\n\n"
           "Options:\n"
           "  --api-socket SOCKET   UNIX socket of kumo's API\n"
           "  -h, --help            this text\n"
           "  -V, --version         the version\n\n"
           "Commands (OPTIONS is a string as on kumo's command line: key=value,key=value):\n");
    for (size_t i = 0; i < kumo_remote_n_commands; i++) {
        const KumoRemoteCommand *command = &kumo_remote_commands[i];

        printf("  %s%s%s\n      %s\n", command->name, *command->arguments ? " " : "",
               command->arguments, command->help);
    }
}

/* What stands before the sub-command. */
typedef struct {
    const char *socket_path;
    int next;  /* index of the sub-command in argv */
    bool done; /* help or version was printed */
} Options;

static bool parse_options(int argc, char **argv, Options *options)
{
    static const char socket_option[] = "--api-socket";
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *arg = argv[i];

        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help();
            options->done = true;
            return true;
        }
        if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0) {
            printf("kumo-remote %s\n", KUMO_VERSION);
            options->done = true;
            return true;
        }
        if (strcmp(arg, socket_option) == 0 && i + 1 < argc) {
            options->socket_path = argv[++i];
        } else if (strncmp(arg, socket_option, strlen(socket_option)) == 0 &&
                   arg[strlen(socket_option)] == '=') {
            options->socket_path = arg + strlen(socket_option) + 1;
        } else {
            fprintf(stderr, "kumo-remote: unknown or incomplete option %s; see --help\n", arg);
            return false;
        }
    }
    if (!options->socket_path || !*options->socket_path) {
        fprintf(stderr, "kumo-remote: --api-socket SOCKET is missing; see --help\n");
        return false;
    }
    if (i >= argc) {
        fprintf(stderr, "kumo-remote: a command is missing; see --help\n");
        return false;
    }
    options->next = i;
    return true;
}

static bool run(const char *socket_path, const KumoRemoteCommand *command, int n_args, char **args,
                GError **error)
{
    g_auto(KumoRemoteRequest) request = { 0 };
    g_auto(KumoApiResponse) response = { 0 };
    json_t *json;

    if (!command->make(command, n_args, args, &request, error))
        return false;
    /* No time-out: booting a large VM or receiving one takes as long as it takes. */
    if (!kumo_api_request(socket_path, command->method, command->endpoint, request.body,
                          request.fds ? (const int *)request.fds->data : NULL,
                          request.fds ? request.fds->len : 0, -1, &response, error))
        return false;
    if (response.status >= 400) {
        kumo_api_set_error(&response, error);
        return false;
    }
    if (!response.body)
        return true;
    json = json_loadb(response.body, response.body_len, JSON_DECODE_ANY, NULL);
    if (json) {
        json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
        json_decref(json);
    } else {
        fwrite(response.body, 1, response.body_len, stdout);
    }
    putchar('\n');
    return true;
}

int main(int argc, char **argv)
{
    Options options = { 0 };
    const KumoRemoteCommand *command;
    g_autoptr(GError) error = NULL;

    if (!parse_options(argc, argv, &options))
        return 1;
    if (!options.done) {
        command = kumo_remote_find(argv[options.next]);
        if (!command) {
            fprintf(stderr, "kumo-remote: unknown command %s; see --help\n", argv[options.next]);
            return 1;
        }
        if (!run(options.socket_path, command, argc - options.next - 1, argv + options.next + 1,
                 &error)) {
            fprintf(stderr, "kumo-remote: %s\n", error->message);
            return 1;
        }
    }
    if (fflush(stdout) != 0) {
        perror("kumo-remote: standard output");
        return 1;
    }
    return 0;
}
