/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the driver keeps for each domain beyond libvirt's own object, and how it survives a restart
 * of the daemon (the private part of the status XML).
 */
#pragma once

#include "driver/conf/kumo_conf.h"

#include "domain_conf.h"
#include "vircgroup.h"
#include "virchrdev.h"
#include "virdomainjob.h"

typedef struct _kumoMonitor kumoMonitor;
typedef struct _kumoEvents kumoEvents;

/* What a VMM does with a stream of its VM: sends it away, into a file, or has it come in. */
typedef enum {
    KUMO_STREAM_NONE,
    KUMO_STREAM_RUNNING,
    KUMO_STREAM_FINISHED,
    KUMO_STREAM_FAILED,
} kumoStreamState;

/* With post-copy: the guest runs at the destination, and what of its memory is at the source
 * follows. */
typedef enum {
    KUMO_POSTCOPY_NONE,
    KUMO_POSTCOPY_STARTED,
    KUMO_POSTCOPY_COMPLETED,
    KUMO_POSTCOPY_FAILED,     /* the rest of the memory is lost, or needs another connection, */
    KUMO_POSTCOPY_RECOVERING, /* which is being made */
} kumoPostcopyState;

typedef struct _kumoJobCall kumoJobCall;

typedef struct _kumoDomainObjPrivate kumoDomainObjPrivate;
struct _kumoDomainObjPrivate {
    kumoDriver *driver;

    char *dir;                    /* of this run: sockets and the like, removed when it ends */
    char *memoryDir;              /* likewise, of the files that its memory is in; or NULL */
    unsigned long long startTime; /* of the process with vm->pid: together they are its identity */
    int pidfd;                    /* -1 unless running */

    kumoMonitor *mon;   /* NULL unless running */
    kumoEvents *events; /* NULL unless running */
    virChrdevs *chrdevs;
    virCgroup *cgroup; /* of the process, or NULL: see kumo_cgroup.h */
    virPerf *perf;     /* its performance counters; may be NULL unless running */

    virDomainPausedReason pauseReason; /* why the next pause will have happened */
    unsigned int ownPauses;            /* calls whose event "paused" is yet to come */
    unsigned int ownResumes;           /* likewise "resumed" */
    bool bootPending;                  /* created, but no vCPU has run yet: resume has to boot it */
    bool rebootPending;                /* the guest was asked to power off, to be started again */
    bool handshake;                    /* the process has not become the VMM yet */
    bool beingDestroyed;               /* somebody is ending the process: its end is no surprise */
    bool identified;                   /* the process has a security label for this run */
    bool unclaimed;                    /* nothing of the host's network is this run's yet */
    bool labelled;                     /* what is the domain's has them too, or was about to */
    char *unplugAlias;                 /* of the device whose removal a job waits for, or NULL */
    bool unplugged;                    /* it is gone */
    bool unplugRefused;                /* the guest will not let it go */
    unsigned int wantedVcpus;          /* that the guest is to keep and has not yet, or 0 */
    bool rebooting;                    /* the VMM is between the two events of a reboot */

    /* Of the last stream, as the VMM's events tell. */
    kumoStreamState stream;
    char *streamError;                   /* why it failed */
    unsigned int streamIteration;        /* rounds of memory that have begun */
    unsigned long long streamRoundMs[2]; /* when the last two did */
    kumoPostcopyState postcopy;          /* whether memory follows the guest */
    bool postcopyAsked;                  /* it is to */

    kumoJobCall *call;                  /* that the job waits for, or NULL: see kumo_job_call.h */
    unsigned short migrationPort;       /* taken for a VM that comes in, or 0 */
    bool migrationAbandoned;            /* nobody comes who would end it */
    bool migratedAway;                  /* this run ends because the VM is elsewhere */
    bool autodestroy;                   /* bound to a connection */
    char *persistentXml;                /* incoming: what is to be defined in the end, or NULL */
    unsigned long long maxDowntimeMs;   /* 0: the VMM's default */
    unsigned long long maxBandwidthMib; /* per second, 0: no limit */
    unsigned long long maxPostcopyMib;  /* likewise, of memory that follows */

    char *logPath;
    off_t logStart; /* where this run's part of the log begins */
};

/* The phases of a migration job, in the order of the protocol; kept in the status XML by name. */
typedef enum {
    KUMO_PHASE_NONE,
    KUMO_PHASE_BEGIN,        /* source: protected against changes, nothing has been sent */
    KUMO_PHASE_PERFORM,      /* source: the VMM sends */
    KUMO_PHASE_POSTCOPY,     /* source: the guest runs at the destination, its memory follows */
    KUMO_PHASE_PERFORM_DONE, /* source: the VM is the destination's */
    KUMO_PHASE_CONFIRM,      /* source: the destination's daemon says so, too: the domain goes */
    KUMO_PHASE_PREPARE,      /* destination: the VMM waits or receives */
    KUMO_PHASE_FINISH,       /* destination: the VM is here */

    KUMO_PHASE_LAST
} kumoMigrationPhase;

VIR_ENUM_DECL(kumoMigrationPhase);

/* How far a job is: the private part of libvirt's job data. */
typedef struct {
    unsigned long long totalBytes; /* of guest memory */
    unsigned long long remainingBytes;
    unsigned long long sentBytes; /* as it went out */
    unsigned long long dataPages;
    unsigned long long zeroPages;
    unsigned long long bytesPerSecond;
    unsigned long long dirtyPagesPerSecond;
    unsigned long long iteration;
    unsigned long long downtimeMs; /* expected while the job runs, real afterwards */
    unsigned long long setupMs;
    bool hasDowntime;
    bool hasSetup;
    unsigned int throttle; /* of the vCPUs by auto-converge, in per cent */
} kumoJobStats;

/**
 * kumoDomainXMLOptionNew:
 *
 * Returns: (transfer full): parser hooks, private data, jobs and close callbacks of the driver.
 */
virDomainXMLOption *kumoDomainXMLOptionNew(kumoDriver *driver);

/**
 * kumoDomainObjFromDomain:
 *
 * Returns: (transfer full): the object of @domain, locked (virDomainObjEndAPI releases it), or NULL
 *     with VIR_ERR_NO_DOMAIN reported.
 */
virDomainObj *kumoDomainObjFromDomain(virDomainPtr domain);

/* g_auto(kumoLockedDomain): is let go of at the end of the scope. */
typedef virDomainObj *kumoLockedDomain;
void kumoLockedDomainEnd(kumoLockedDomain vm);
G_DEFINE_AUTO_CLEANUP_FREE_FUNC(kumoLockedDomain, kumoLockedDomainEnd, NULL)

/**
 * kumoDomainSaveStatus:
 *
 * Writes the status XML of a running domain. A failure is logged: the domain goes on, only a
 * restart of the daemon would see an older state.
 */
void kumoDomainSaveStatus(virDomainObj *vm);

/**
 * kumoDomainSaveDefinition:
 * @def: (inout): a changed copy of the persistent definition; NULL afterwards if that worked
 *
 * Writes the definition and makes it the domain's, for its next start if it runs.
 *
 * Returns: 0, or -1 with the error reported and the definition as before.
 */
int kumoDomainSaveDefinition(virDomainObj *vm, virDomainDef **def);

/* Takes a domain off the list when it is neither running nor persistent. */
void kumoDomainRemoveInactive(kumoDriver *driver, virDomainObj *vm);

/**
 * kumoDomainSetState:
 *
 * Sets state and reason, queues the lifecycle event @event with @detail (unless -1) and saves the
 * status.
 */
void kumoDomainSetState(virDomainObj *vm, virDomainState state, int reason, int event, int detail);

/* Queues a lifecycle event of @vm. */
void kumoDomainQueueEvent(virDomainObj *vm, int event, int detail);
