/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver's side of a VMM's REST API. Every call blocks until the VMM answers or the time is
 * over, so it is made without the domain's lock, between kumoDomainObjEnterMonitor and
 * kumoDomainObjExitMonitor, by a thread that holds the domain's job.
 */
#pragma once

#include "driver/conf/kumo_domain.h"
#include "vmm-core/config/config.h"

typedef enum {
    KUMO_MONITOR_STATE_CREATED, /* configured; not booted, or the guest has ended */
    KUMO_MONITOR_STATE_RUNNING,
    KUMO_MONITOR_STATE_PAUSED,
    KUMO_MONITOR_STATE_SHUTDOWN,
} kumoMonitorState;

typedef struct {
    kumoMonitorState state;
    char *serialPath; /* of a pty, else NULL */
    char *consolePath;
    unsigned long long memoryBytes; /* that the guest has, without what is in its balloon */
    unsigned int vcpus;             /* that are to be on line; 0 if it does not say */
    char **devices;                 /* the ids of its disks and interfaces */
    char *postcopyBroken;           /* why the rest of its memory cannot follow; NULL: it does */
} kumoMonitorInfo;

void kumoMonitorInfoClear(kumoMonitorInfo *info);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(kumoMonitorInfo, kumoMonitorInfoClear);

/* kumoMonitorNew: (transfer full): for the API socket at @path; nothing is connected yet. */
kumoMonitor *kumoMonitorNew(const char *path, unsigned int timeoutMs);

/* Each returns 0, or -1 with the error reported. */
int kumoMonitorPing(kumoMonitor *mon);
int kumoMonitorCreate(kumoMonitor *mon, const KumoVmConfig *config, const int *fds, size_t nfds);
int kumoMonitorBoot(kumoMonitor *mon);
int kumoMonitorPause(kumoMonitor *mon);
int kumoMonitorResume(kumoMonitor *mon);
int kumoMonitorReboot(kumoMonitor *mon);
int kumoMonitorPowerButton(kumoMonitor *mon);
int kumoMonitorGetInfo(kumoMonitor *mon, kumoMonitorInfo *info);
int kumoMonitorAddDisk(kumoMonitor *mon, const KumoDiskConfig *disk);
int kumoMonitorAddNet(kumoMonitor *mon, const KumoNetConfig *net, const int *fds, size_t nfds);
/* Asks the guest to let a device go, and does not wait for that. */
int kumoMonitorRemoveDevice(kumoMonitor *mon, const char *id);
int kumoMonitorResizeDisk(kumoMonitor *mon, const char *id, unsigned long long bytes);
/* @changes: (transfer full): what vm.update-disk and the like take. */
int kumoMonitorUpdateDisk(kumoMonitor *mon, json_t *changes);
/* Sets the limits of a group of disks, which there is afterwards if there was none. */
int kumoMonitorSetRateLimitGroup(kumoMonitor *mon, json_t *changes);
int kumoMonitorUpdateNet(kumoMonitor *mon, json_t *changes);
int kumoMonitorUpdateCpus(kumoMonitor *mon, json_t *changes);
int kumoMonitorUpdateBalloon(kumoMonitor *mon, json_t *changes);
int kumoMonitorResizeVcpus(kumoMonitor *mon, unsigned int vcpus);
int kumoMonitorResizeRam(kumoMonitor *mon, unsigned long long bytes);
/* @bytes: with what virtio-mem adds to it */
int kumoMonitorResizeZone(kumoMonitor *mon, const char *id, unsigned long long bytes);
int kumoMonitorResizeBalloon(kumoMonitor *mon, unsigned long long bytes);
int kumoMonitorInjectNmi(kumoMonitor *mon);
/* @counters: (transfer full): of each device, by its alias. */
int kumoMonitorGetCounters(kumoMonitor *mon, json_t **counters);
/* @direct: past the host's page cache. */
int kumoMonitorCoredump(kumoMonitor *mon, const char *path, bool direct);
/* Fills @buffer with the guest's memory from the physical address @address on. */
int kumoMonitorReadMemory(kumoMonitor *mon, unsigned long long address, void *buffer, size_t size);

/* Where the VMM sends its VM, and how. */
typedef struct {
    const char *url;                      /* "tcp:host:port", or "fd:" */
    int fd;                               /* with "fd:", else -1 */
    bool oneWay;                          /* nobody answers: the VM stays, paused */
    unsigned long long downtimeMs;        /* 0: the VMM's default */
    unsigned long long bandwidth;         /* bytes per second, 0: no limit */
    unsigned long long postcopyBandwidth; /* likewise, of memory that follows */
    unsigned int connections;             /* 0: one */
    bool postcopy;                        /* memory follows the VM when it is asked to */
    bool zstd;                            /* pages go compressed */
    bool autoConverge;                    /* slow down a guest that writes too much, by percents: */
    int convergeInitial;                  /* 0: the VMM's default */
    int convergeIncrement;
    const char *tlsDir;  /* of certificates; NULL: no TLS */
    const char *tlsName; /* for which the destination's is; NULL: that of @url */
} kumoMonitorSend;

/* What comes into a VMM that has no VM yet. */
typedef struct {
    const char *url;    /* "tcp:host:port", or "fd:" */
    int fd;             /* with "fd:", else -1 */
    bool paused;        /* it is not to run when it is there */
    bool postcopy;      /* its memory may follow */
    const char *tlsDir; /* of certificates; NULL: no TLS */
} kumoMonitorReceive;

/*
 * Both return when the stream has begun or may come; its end is an event (kumoJobStreamWait).
 * @fds: of the network devices of @config
 */
int kumoMonitorSendVm(kumoMonitor *mon, const kumoMonitorSend *how);
int kumoMonitorReceiveVm(kumoMonitor *mon, const kumoMonitorReceive *how,
                         const KumoVmConfig *config, const int *fds, size_t nfds);

/* Memory that follows goes on over another connection, if the last has broken; events tell. */
int kumoMonitorRecoverSend(kumoMonitor *mon, const kumoMonitorSend *how);
int kumoMonitorRecoverReceive(kumoMonitor *mon, const kumoMonitorReceive *how);

/* Whichever it was; fails if none is under way, or if it is too late. */
int kumoMonitorCancelMigration(kumoMonitor *mon);

/* @changes: (transfer full): what vm.update-migration takes. A VMM that sends none, not yet or not
 * any more, has nothing to change, which is no failure. */
int kumoMonitorUpdateMigration(kumoMonitor *mon, json_t *changes);

/* Of one that was begun with postcopy: what of its memory has not been sent is to follow the VM. */
int kumoMonitorStartPostcopy(kumoMonitor *mon);

/* @stats: its dirty pages are those of the last round, not of a second. */
int kumoMonitorMigrationProgress(kumoMonitor *mon, kumoJobStats *stats);

/* What has come of a VM that was to come in. */
typedef enum {
    KUMO_ARRIVAL_NONE,    /* it is not here, and will not come */
    KUMO_ARRIVAL_COMING,  /* the source has let it go, and it is about to be here */
    KUMO_ARRIVAL_WHOLE,   /* it is here */
    KUMO_ARRIVAL_PARTIAL, /* it is here, and a part of its memory is not */
} kumoMonitorArrival;

/**
 * kumoMonitorEndArrival:
 *
 * Calls a VM off that is still to come, and finds out where it is.
 *
 * Returns: 0 with what is certain in @arrival, or -1 with the error reported: the VMM has not
 *     answered, and nothing is known.
 */
int kumoMonitorEndArrival(kumoMonitor *mon, kumoMonitorArrival *arrival);

/* Has the VM that was here been sent away? */
typedef enum {
    KUMO_MONITOR_SENT_NOT,
    KUMO_MONITOR_SENT_UNDER_WAY,
    KUMO_MONITOR_SENT_DONE,
    KUMO_MONITOR_SENT_FOLLOWS, /* it has, and its memory is on the way, */
    KUMO_MONITOR_SENT_BROKEN,  /* or was: it needs another connection */
    KUMO_MONITOR_SENT_UNKNOWN, /* its destination was told to run it and did not answer */
} kumoMonitorSent;

int kumoMonitorSentState(kumoMonitor *mon, kumoMonitorSent *sent);

/**
 * kumoDomainObjEnterMonitor:
 *
 * Lets go of @vm's lock. The caller holds a job.
 *
 * Returns: (transfer full): the monitor, for kumoDomainObjExitMonitor.
 */
kumoMonitor *kumoDomainObjEnterMonitor(virDomainObj *vm);

/**
 * kumoDomainObjExitMonitor:
 * @mon: (transfer full): what kumoDomainObjEnterMonitor gave
 *
 * Takes @vm's lock again.
 *
 * Returns: 0, or -1 if the domain ended meanwhile; that is reported unless an error is already.
 */
int kumoDomainObjExitMonitor(virDomainObj *vm, kumoMonitor *mon);
