/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMM process of a domain: how it starts, how it ends, how it is found again. It is not a child
 * of the daemon for longer than its start takes; pid and start time identify it.
 */
#pragma once

#include "driver/kumo_monitor.h"

typedef enum {
    KUMO_START_PAUSED = 1 << 0,
    KUMO_START_AUTODESTROY = 1 << 1,
} kumoStartFlags;

/**
 * kumoProcessStart:
 * @conn: the connection that autodestroy is bound to, or NULL
 * @vm: inactive, locked, with a job
 * @reason: why the domain runs then
 * @detail: of the STARTED event
 *
 * Returns: 0, or -1 with the error reported and everything undone.
 */
int kumoProcessStart(virConnectPtr conn, virDomainObj *vm, virDomainRunningReason reason,
                     virDomainEventStartedDetailType detail, unsigned int flags);

/**
 * kumoProcessStartIncoming:
 * @conn: the connection that autodestroy is bound to, or NULL
 * @vm: inactive, locked, with a job
 * @incoming: where the VM comes from
 * @audit: why, for the audit log
 *
 * Starts a VMM that waits for its VM. Nothing is told of it yet: the caller waits for the stream
 * (kumoJobStreamWait), sets the state and queues the events.
 *
 * Returns: 0, or -1 with the error reported and everything undone.
 */
int kumoProcessStartIncoming(virConnectPtr conn, virDomainObj *vm,
                             const kumoMonitorReceive *incoming, const char *audit,
                             unsigned int flags);

/**
 * kumoProcessStop:
 * @vm: active, locked, with a job
 *
 * Ends the process if it still runs and gives back what the domain held. The definition is the
 * persistent one afterwards. No event is queued.
 */
void kumoProcessStop(virDomainObj *vm, virDomainShutoffReason reason);

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

/* The paths of @vm's present run, below its run directory. */
char *kumoProcessApiSocket(const kumoDomainObjPrivate *priv);
char *kumoProcessEventFifo(const kumoDomainObjPrivate *priv);

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

/* kumoProcessFindLog: the log of a run that another daemon started. */
void kumoProcessFindLog(virDomainObj *vm);

/* kumoProcessRemoveLogs: of a domain that has ended: its log, and what rotations left of it. */
void kumoProcessRemoveLogs(virDomainObj *vm);

/* kumoProcessLogTail: (transfer full): the last lines that this run wrote to its log, or NULL. */
char *kumoProcessLogTail(virDomainObj *vm);

/**
 * kumoProcessBoot:
 *
 * Has the VMM start its guest, and puts the vCPUs' threads where they belong. The caller holds a
 * job.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoProcessBoot(virDomainObj *vm);

/**
 * kumoProcessRefreshConsoles:
 *
 * Asks the VMM for its ptys and puts them into the live definition. The caller holds a job.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoProcessRefreshConsoles(virDomainObj *vm);

/* The close callback of a domain that ends with its connection. */
void kumoProcessAutoDestroy(virDomainObj *vm, virConnectPtr conn);
