/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs that take long: a VM that is saved, restored or migrated. libvirt's job object says who
 * holds the domain; here is what becomes of it, how far it is, and how somebody waits for the VMM.
 *
 * While such a job runs, other threads may query the domain, abort the job or destroy the domain.
 * So whoever lets go of the domain's lock finds out afterwards whether it still runs.
 */
#pragma once

#include "driver/kumo_events.h"
#include "virtypedparam.h"

/**
 * kumoJobBegin:
 * @operation: what the job is to clients
 * @apiFlags: that its API was called with
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoJobBegin(virDomainObj *vm, virDomainAsyncJob job, virDomainJobOperation operation,
                 unsigned int apiFlags);

/**
 * kumoJobEnd:
 *
 * Ends the job, if there still is one. What it came to is told by kumoJobComplete before.
 */
void kumoJobEnd(virDomainObj *vm);

/* kumoJobRelease: the job goes on, but this thread's part of it is over. */
void kumoJobRelease(virDomainObj *vm);

/**
 * kumoJobResume:
 *
 * Takes up a job that kumoJobRelease left.
 *
 * Returns: 0, or -1 with the error reported: there is no such job, or another thread has it.
 */
int kumoJobResume(virDomainObj *vm, virDomainAsyncJob job);

/**
 * kumoJobRestore:
 * @job: MIGRATION_OUT or MIGRATION_IN
 *
 * Gives @vm the job that the daemon before us left, as kumoJobRelease leaves one: somebody is to
 * resume it. @vm has none yet.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoJobRestore(virDomainObj *vm, virDomainAsyncJob job, kumoMigrationPhase phase,
                   unsigned int apiFlags);

/* kumoJobSetPhase: notes it in the status XML, too. */
void kumoJobSetPhase(virDomainObj *vm, kumoMigrationPhase phase);

/**
 * kumoJobComplete:
 * @status: COMPLETED, FAILED or CANCELED
 *
 * Keeps the numbers of the job for who asks afterwards, and tells that it has ended.
 */
void kumoJobComplete(virDomainObj *vm, virDomainJobStatus status);

/* kumoJobFailedStatus: FAILED or CANCELED, as the job that fails was aborted or not. */
virDomainJobStatus kumoJobFailedStatus(const virDomainObj *vm);

/**
 * kumoJobStreamBegin:
 *
 * To be called before the VMM is asked for a stream.
 *
 * Returns: 0, or -1 with the error reported if the job has been aborted already.
 */
int kumoJobStreamBegin(virDomainObj *vm);

/**
 * kumoJobStreamWait:
 * @timeoutMs: 0: as long as it takes
 *
 * Waits until the VMM's stream has ended. Lets go of @vm's lock meanwhile.
 *
 * Returns: 0 if it came to its end, or -1 with the error reported: it failed, was aborted, or the
 *     domain has ended.
 */
int kumoJobStreamWait(virDomainObj *vm, unsigned long long timeoutMs);

/**
 * kumoJobMigrationWait:
 * @peer: a connection, or NULL
 *
 * As kumoJobStreamWait without a timeout, but returns also when the guest runs at the destination
 * and its memory follows, and 1, with the stream as it is, when @peer is lost.
 */
int kumoJobMigrationWait(virDomainObj *vm, virConnectPtr peer);

/* A connection has broken, because of @why, while memory follows: the domain is in the state for
 * that, with its event. */
void kumoJobPostcopyBroken(virDomainObj *vm, const char *why);

/* Memory follows, again: likewise. */
void kumoJobPostcopyFollows(virDomainObj *vm);

/**
 * kumoJobPostcopyWait:
 *
 * The destination: waits until all memory is here. Lets go of @vm's lock meanwhile.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoJobPostcopyWait(virDomainObj *vm);

/**
 * kumoJobStopGuest:
 * @vm: with a job of the kind MIGRATION_OUT, and one that may suspend it
 *
 * Stops the guest that is being migrated: what is left of its memory goes while it stands still.
 * Lets go of @vm's lock meanwhile.
 *
 * Returns: 0 when it has stopped, 1 if the migration ended before and the guest runs here, or -1
 *     with the error reported.
 */
int kumoJobStopGuest(virDomainObj *vm);

/* kumoJobIsOverUnseen: a VM that nobody waits for any more has gone to the destination with all of
 * its memory. */
bool kumoJobIsOverUnseen(const virDomainObj *vm);

/* kumoJobEvent: an event of the VMM that is about its stream. Returns: whether it was. */
bool kumoJobEvent(virDomainObj *vm, const kumoEvent *event);

/**
 * kumoJobRefresh:
 *
 * Asks the VMM how far its stream is. Lets go of @vm's lock meanwhile.
 *
 * Returns: 0, or -1 with the error reported if the domain has ended.
 */
int kumoJobRefresh(virDomainObj *vm);

/**
 * kumoJobToParams:
 * @params: (out) (transfer full)
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoJobToParams(const virDomainJobData *job, virTypedParameterPtr *params, int *nparams);
