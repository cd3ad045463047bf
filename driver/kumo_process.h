/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMM's process: how it is started, watched, found again and ended. It is not a child of the
 * daemon for longer than its start takes; pid and start time identify it.
 */
#pragma once

#include "driver/conf/kumo_domain.h"
#include "vircommand.h"

/**
 * kumoProcessSpawn:
 * @vm: with its run directory and a security label
 *
 * Starts the process, which waits before it becomes the VMM until it is notified: it ends with
 * the daemon as long as nothing on disk tells of it. vm->pid and its start time are set then, and
 * it is watched.
 *
 * Returns: (transfer full): what to notify, or NULL with the error reported.
 */
virCommand *kumoProcessSpawn(virDomainObj *vm, const kumoDriverConfig *cfg);

/**
 * kumoProcessKill:
 * @force: use SIGKILL if SIGTERM does not help in time
 *
 * Ends the process, without anything else: what waits for its answers goes on. Needs no job. The
 * domain's lock is let go of meanwhile.
 *
 * Returns: 0 if it is gone, or -1 with the error reported.
 */
int kumoProcessKill(virDomainObj *vm, bool force);

/* Has @vm's process the identity that it was started with, and does it run? */
bool kumoProcessIsAlive(virDomainObj *vm);

/**
 * kumoProcessWatch:
 *
 * Opens what the driver needs of a running VMM: pidfd, monitor, event reader.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoProcessWatch(virDomainObj *vm);

/* kumoProcessForget: closes what kumoProcessWatch opened; the VM goes on. */
void kumoProcessForget(virDomainObj *vm);

/* kumoProcessExplainError: puts the VMM's last words behind an error that its end caused. */
void kumoProcessExplainError(virDomainObj *vm);
