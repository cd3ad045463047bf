/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What follows from what the VMM tells: the guest powered off, rebooted or crashed, the process
 * ended. The event thread must not wait; what takes a job is done by a worker.
 */
#pragma once

#include "driver/kumo_events.h"

/* What the event threads of the driver's domains call. */
extern const kumoEventHandlers kumoLifecycleHandlers;

/* The function of the driver's worker pool. */
void kumoLifecycleWorker(void *job, void *opaque);

/**
 * kumoLifecycleGuestEnded:
 * @vm: active, locked, with a job; its guest has powered off and the VMM waits
 *
 * Does what the definition says: ends the domain, or starts the guest again.
 */
void kumoLifecycleGuestEnded(virDomainObj *vm);

/**
 * kumoLifecyclePause:
 * @vm: active, locked, with a job
 *
 * Has the VMM pause or continue its guest; state and event follow.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoLifecyclePause(virDomainObj *vm, virDomainPausedReason reason);
int kumoLifecycleResume(virDomainObj *vm, virDomainRunningReason reason);

/* A pause and a resume as the VMM did it: state and event, once, whoever finds out first. */
void kumoLifecyclePaused(virDomainObj *vm, virDomainPausedReason reason);
void kumoLifecycleResumed(virDomainObj *vm, virDomainRunningReason reason);

/* kumoLifecycleOnline: the guest runs: so do its interfaces, or the daemon's log tells why not. */
void kumoLifecycleOnline(virDomainObj *vm);
