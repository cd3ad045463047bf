/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What kumo-remote says about itself. */
#pragma once

#include "vmm-core/remote/command.h"

/* All commands, each in a line. */
void kumo_remote_print_help(void);

/* One command: its arguments, the request that it makes, the keys of its option string. */
void kumo_remote_print_command_help(const KumoRemoteCommand *command);
