/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * More or fewer vCPUs, more or less memory of a running domain. What a guest has to do for it may
 * take its time; the live definition says what the guest has. Called with the domain active, locked
 * and with a job, unless said otherwise.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoResizeVcpus:
 * @vcpus: from 1 to the maximum
 *
 * Returns: 0, or -1 with the error reported; VIR_ERR_OPERATION_TIMEOUT: the guest was asked to let
 *     vCPUs go and has not yet.
 */
int kumoResizeVcpus(virDomainObj *vm, unsigned int vcpus);

/* The guest has let go of the vCPU that the VMM calls @id. Needs no job. */
void kumoResizeVcpuRemoved(virDomainObj *vm, const char *id);

/*
 * kumoResizeSync: the VMM has @vcpus. Those that came while no daemon could note it are noted, with
 * a job; those that the guest is yet to let go are told by an event.
 */
void kumoResizeSync(virDomainObj *vm, unsigned int vcpus);

/* The guest has booted anew: vCPUs that were to go are gone. Needs no job. */
void kumoResizeRebooted(virDomainObj *vm);

/**
 * kumoResizeBalloon:
 * @kib: what the guest is to keep
 *
 * Returns: 0 if the guest was asked, or -1 with the error reported.
 */
int kumoResizeBalloon(virDomainObj *vm, unsigned long long kib);

/**
 * kumoResizeNoteMemory:
 * @bytes: what the VMM says that the guest has
 *
 * Puts it into the live definition and queues the event "balloon change" if it is new.
 */
void kumoResizeNoteMemory(virDomainObj *vm, unsigned long long bytes);

/* Asks the VMM for it. */
void kumoResizeRefreshMemory(virDomainObj *vm);
