/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Live migration by libvirt's protocol, version 3 with parameters. The steps, in their order:
 *
 *   source       Begin    the XML and a cookie for the destination
 *   destination  Prepare  a VMM that waits for the VM at a port
 *   source       Perform  the VMM sends; in the end the VM is the destination's, or runs on here
 *   destination  Finish   the domain is told of and defined, or goes again
 *   source       Confirm  the domain is gone here, or as before
 *
 * The two VMMs hand the VM over between themselves (docs/migration.md): who may run it never
 * depends on a daemon, on a client, or on a step that does not come. The steps find out where the
 * VM is.
 */
#pragma once

#include "driver/conf/kumo_domain.h"
#include "virtypedparam.h"
#include "viruri.h"

/* The flags that are known here; what they ask for is checked in Begin and Prepare. */
#define KUMO_MIGRATION_FLAGS                                                                       \
    (VIR_MIGRATE_LIVE | VIR_MIGRATE_PEER2PEER | VIR_MIGRATE_TUNNELLED | VIR_MIGRATE_PERSIST_DEST | \
     VIR_MIGRATE_UNDEFINE_SOURCE | VIR_MIGRATE_PAUSED | VIR_MIGRATE_NON_SHARED_DISK |              \
     VIR_MIGRATE_NON_SHARED_INC | VIR_MIGRATE_CHANGE_PROTECTION | VIR_MIGRATE_UNSAFE |             \
     VIR_MIGRATE_OFFLINE | VIR_MIGRATE_COMPRESSED | VIR_MIGRATE_ABORT_ON_ERROR |                   \
     VIR_MIGRATE_AUTO_CONVERGE | VIR_MIGRATE_RDMA_PIN_ALL | VIR_MIGRATE_POSTCOPY |                 \
     VIR_MIGRATE_TLS | VIR_MIGRATE_PARALLEL | VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES |          \
     VIR_MIGRATE_POSTCOPY_RESUME | VIR_MIGRATE_ZEROCOPY)

/* Is a connection of @vm's migration, while memory follows, broken, at the end that has it in
 * @state? Returns: 0, or -1 with the error reported: it cannot be resumed. */
int kumoMigrationCheckResumable(virDomainObj *vm, virDomainState state);

/* As long as a client says nothing else: the VMM's default. */
#define KUMO_MIGRATION_DOWNTIME_MS 300

/* The most of bandwidth: it is in bytes to the VMM. */
#define KUMO_MIGRATION_MAX_MIB (G_MAXINT64 >> 20)

/* The parameters of one migration, as a client gave them. */
typedef struct {
    const char *uri;
    const char *destName;
    const char *destXml;
    const char *persistXml;
    const char *listenAddress;
    unsigned long long bandwidthMib; /* per second; 0: as the domain says */
    unsigned long long postcopyMib;  /* likewise, of memory that follows */
    int connections;
    const char *tlsDestination;
    const char **compression;
    size_t ncompression;
    int convergeInitial;
    int convergeIncrement;
} kumoMigrationParams;

void kumoMigrationParamsClear(kumoMigrationParams *params);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(kumoMigrationParams, kumoMigrationParamsClear);

/**
 * kumoMigrationParamsRead:
 * @params: outlives @ret
 *
 * Returns: 0, or -1 with the error reported: one is unknown, of the wrong type or not supported.
 */
int kumoMigrationParamsRead(virTypedParameterPtr params, int nparams, kumoMigrationParams *ret);

/* kumoMigrationCheckFlags: Returns: 0, or -1 with the error reported, naming what is refused. */
int kumoMigrationCheckFlags(unsigned int flags);

/* kumoMigrationCheckParams: Returns: 0, or -1 with the error reported: one is of no use without a
 * flag. */
int kumoMigrationCheckParams(const kumoMigrationParams *params, unsigned int flags);

/**
 * kumoMigrationSocketUrl:
 * @uri: of the scheme unix
 * @text: the same, for messages
 *
 * Returns: (transfer full): unix:PATH as the VMM takes it, or NULL with the error reported.
 */
char *kumoMigrationSocketUrl(const virURI *uri, const char *text);

/* The destination's daemon, for the source's that is its client. */
typedef struct {
    virConnectPtr conn;
    const char *uri;
} kumoMigrationDaemon;

/* What a step hands on to the next, as bytes. */
typedef struct {
    const char *in;
    int inLen;
    char **out;
    int *outLen;
} kumoMigrationCookies;

/* --- source --- */

/**
 * kumoMigrationBegin:
 * @vm: locked, with a job of the kind MIGRATION_OUT
 *
 * Returns: (transfer full): the XML for the destination, or NULL with the error reported.
 */
char *kumoMigrationBegin(virDomainObj *vm, const kumoMigrationParams *params,
                         kumoMigrationCookies *cookies, unsigned int flags);

/**
 * kumoMigrationPerform:
 * @vm: active, locked, with a job of the kind MIGRATION_OUT
 * @params: with the uri that Prepare gave
 * @peer: without whom the guest does not go, or NULL
 *
 * Sends the VM. Lets go of @vm's lock meanwhile.
 *
 * Returns: 0 if it is the destination's, or -1 with the error reported and the VM here.
 */
int kumoMigrationPerform(virDomainObj *vm, const kumoMigrationParams *params,
                         const kumoMigrationDaemon *peer, kumoMigrationCookies *cookies,
                         unsigned int flags);

/**
 * kumoMigrationConfirm:
 * @vm: locked, with a job of the kind MIGRATION_OUT
 * @cancelled: the destination does not have the domain, as far as who calls knows
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoMigrationConfirm(virDomainObj *vm, kumoMigrationCookies *cookies, unsigned int flags,
                         bool cancelled);

/* kumoMigrationAbandon: the close callback of a client that has begun a migration. */
void kumoMigrationAbandon(virDomainObj *vm, virConnectPtr conn);

/* --- destination --- */

/**
 * kumoMigrationPrepare:
 * @def: (inout): NULL afterwards if it was taken
 * @ret_uri: (out) (transfer full): where the source is to send the VM, or NULL if it is where
 *     @params say
 *
 * Returns: 0, or -1 with the error reported and nothing left behind.
 */
int kumoMigrationPrepare(virConnectPtr conn, virDomainDef **def, const kumoMigrationParams *params,
                         kumoMigrationCookies *cookies, char **ret_uri, unsigned int flags);

/**
 * kumoMigrationFinish:
 * @vm: locked; unlocked and released afterwards
 *
 * Returns: (transfer full): the domain, or NULL with the error reported if it is not here.
 */
virDomainPtr kumoMigrationFinish(virConnectPtr conn, virDomainObj *vm,
                                 kumoMigrationCookies *cookies, unsigned int flags, bool cancelled);

/* --- a daemon that comes later; @vm is active and locked --- */

/**
 * kumoMigrationRecoverOut:
 * @vm: with a job of the kind MIGRATION_OUT
 *
 * Calls off what nobody would confirm, and ends the domain if its VM has gone.
 */
void kumoMigrationRecoverOut(virDomainObj *vm);

/**
 * kumoMigrationRecoverAway:
 * @vm: with a job of the kind MIGRATION_OUT, whose run ends because its VM is elsewhere
 *     (migratedAway); its VMM may be gone
 *
 * Ends the domain as Confirm does.
 */
void kumoMigrationRecoverAway(virDomainObj *vm);

/**
 * kumoMigrationRecoverIn:
 * @vm: with a job of the kind MIGRATION_IN
 *
 * Calls off what is still to come, and ends the domain or makes it what has come. Waits for a VMM
 * that does not answer, as long as that takes and without @vm's lock.
 */
void kumoMigrationRecoverIn(virDomainObj *vm);

/**
 * kumoMigrationRecoverMemory:
 * @vm: after kumoMigrationRecoverIn, and with its job
 *
 * Waits for the memory of a guest that is here already, without @vm's lock.
 */
void kumoMigrationRecoverMemory(virDomainObj *vm);
