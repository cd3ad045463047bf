/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A run of a domain, from its start to its end: what the host gives it, the VMM's process, and the
 * VM in it.
 */
#pragma once

#include "driver/kumo_monitor.h"

typedef enum {
    KUMO_START_PAUSED = 1 << 0,
    KUMO_START_AUTODESTROY = 1 << 1,
} kumoStartFlags;

/**
 * kumoRunStart:
 * @conn: the connection that autodestroy is bound to, or NULL
 * @vm: inactive, locked, with a job
 * @reason: why the domain runs then
 * @detail: of the STARTED event
 *
 * Returns: 0, or -1 with the error reported and everything undone.
 */
int kumoRunStart(virConnectPtr conn, virDomainObj *vm, virDomainRunningReason reason,
                 virDomainEventStartedDetailType detail, unsigned int flags);

/**
 * kumoRunStartIncoming:
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
int kumoRunStartIncoming(virConnectPtr conn, virDomainObj *vm, const kumoMonitorReceive *incoming,
                         const char *audit, unsigned int flags);

/**
 * kumoRunStop:
 * @vm: active, locked, with a job
 *
 * Ends the process if it still runs and gives back what the domain held. The definition is the
 * persistent one afterwards. No event is queued.
 */
void kumoRunStop(virDomainObj *vm, virDomainShutoffReason reason);

/**
 * kumoRunBoot:
 *
 * Has the VMM start its guest, and puts the vCPUs' threads where they belong. The caller holds a
 * job.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoRunBoot(virDomainObj *vm);

/**
 * kumoRunRefreshConsoles:
 *
 * Asks the VMM for its ptys and puts them into the live definition. The caller holds a job.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoRunRefreshConsoles(virDomainObj *vm);

/* The close callback of a domain that ends with its connection. */
void kumoRunAutoDestroy(virDomainObj *vm, virConnectPtr conn);
