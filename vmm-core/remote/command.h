/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sub-commands of kumo-remote: their arguments, and the request that each makes. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* What a sub-command sends besides its endpoint. */
typedef struct {
    char *body;  /* JSON text; NULL: none */
    GArray *fds; /* of int, not owned; NULL: none */
} KumoRemoteRequest;

typedef struct KumoRemoteCommand KumoRemoteCommand;

struct KumoRemoteCommand {
    const char *name;
    const char *arguments; /* for the help */
    const char *help;
    const char *method;
    const char *endpoint;
    /* Turns the arguments after the name into @request. */
    bool (*make)(const KumoRemoteCommand *command, int n_args, char **args,
                 KumoRemoteRequest *request, GError **error);
};

extern const KumoRemoteCommand kumo_remote_commands[];
extern const size_t kumo_remote_n_commands;

/* Returns: (nullable): the sub-command of that name. */
const KumoRemoteCommand *kumo_remote_find(const char *name);

void kumo_remote_request_clear(KumoRemoteRequest *request);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(KumoRemoteRequest, kumo_remote_request_clear)
