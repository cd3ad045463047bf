/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver object and its configuration: where things are kept, as whom a VM runs, what kumo.conf
 * says.
 */
#pragma once

#include "driver/compat.h"

#include "capabilities.h"
#include "datatypes.h"
#include "domain_event.h"
#include "libvirt_internal.h"
#include "object_event.h"
#include "security_manager.h"
#include "virdomainobjlist.h"
#include "virportallocator.h"
#include "virthread.h"
#include "virthreadpool.h"
#include "virenum.h"

#define KUMO_DRIVER_NAME    "KUMO"
#define KUMO_MACHINE        "kumo-1" /* canonical name of the one board, as dumpxml shows it */
#define KUMO_DEFAULT_BINARY "kumo"

/* How the stream in a save image is compressed. The numbers are part of the image's format. */
typedef enum {
    KUMO_SAVE_FORMAT_RAW = 0,
    KUMO_SAVE_FORMAT_GZIP = 1,
    KUMO_SAVE_FORMAT_BZIP2 = 2,
    KUMO_SAVE_FORMAT_XZ = 3,
    KUMO_SAVE_FORMAT_LZOP = 4,
    KUMO_SAVE_FORMAT_ZSTD = 5,

    KUMO_SAVE_FORMAT_LAST
} kumoSaveFormat;

VIR_ENUM_DECL(kumoSaveFormat);

typedef struct _kumoDriverConfig kumoDriverConfig;
struct _kumoDriverConfig {
    virObject parent;

    char *uri;
    char *configDir;    /* persistent definitions */
    char *autostartDir; /* links to those that start with the daemon */
    char *stateDir;     /* status XML, sockets, pid files: gone after a host reboot */
    char *libDir;       /* what has to outlive a reboot */
    char *logDir;       /* one file per domain */
    char *cacheDir;

    char *binary;   /* of the VMM: a path, or a name for PATH */
    char *firmware; /* for a domain without a kernel; NULL: none */
    uid_t user;     /* the VMM's process identity */
    gid_t group;
    bool dynamicOwnership;
    char **securityDrivers; /* names, NULL: none */
    unsigned int logLevel;  /* -v of the VMM, 0 to 3 */
    unsigned int monitorTimeoutMs;
    char *seccomp;         /* value of --seccomp, NULL: the VMM's default */
    int cgroupControllers; /* mask of VIR_CGROUP_CONTROLLER_*; -1: what there is */

    char *saveDir;          /* images of managed save */
    char *memoryBackingDir; /* of domains whose memory is in files */
    char *saveImageFormat;  /* a name that kumoSaveFormatTypeFromString knows */

    char *migrationHost;    /* by which other hosts reach this one, NULL: its host name */
    char *migrationAddress; /* to listen at, NULL: all */
    unsigned int migrationPortMin;
    unsigned int migrationPortMax;
    char *migrationTlsDir;           /* of certificates */
    unsigned int migrationConnectMs; /* at most, until a destination's daemon has been reached */
    int keepaliveIntervalS;          /* of silence of that daemon; 0 or less: for ever */
    unsigned int keepaliveCount;     /* questions without an answer */
};

typedef struct _kumoEventHandlers kumoEventHandlers; /* kumo_events.h */

typedef struct _kumoDriver kumoDriver;
struct _kumoDriver {
    virMutex lock; /* protects the pointers config and caps; innermost */

    bool privileged;
    char *embeddedRoot; /* NULL unless embedded into its client */
    int lockFD;         /* keeps a second instance off the same directories */

    kumoDriverConfig *config; /* immutable: replaced as a whole */
    virCaps *caps;            /* likewise */

    /* These lock themselves and stay the same for the driver's life. */
    virDomainXMLOption *xmlopt;
    virDomainObjList *domains;
    virObjectEventState *events;
    virThreadPool *workers;
    const kumoEventHandlers *eventHandlers; /* of all domains' VMMs */
    virSecurityManager *security;
    virPortAllocatorRange *migrationPorts;

    virStateInhibitCallback inhibit;
    void *inhibitOpaque;
    unsigned int nactive; /* atomic */
    int lastId;           /* atomic */
};

/**
 * kumoDriverConfigNew:
 * @privileged: of the system daemon, or embedded as root
 * @root: directory of an embedded driver, else NULL
 *
 * Returns: (transfer full): the defaults, or NULL with the error reported.
 */
kumoDriverConfig *kumoDriverConfigNew(bool privileged, const char *root);

/**
 * kumoDriverConfigMemoryDir:
 * @root: directory of an embedded driver, else NULL
 *
 * Returns: (transfer full): where a domain's memory is that is to be in files, or NULL with the
 *     error reported.
 */
char *kumoDriverConfigMemoryDir(const kumoDriverConfig *cfg, const char *root,
                                const virDomainDef *def);

/**
 * kumoDriverConfigLoadFile:
 * @path: kumo.conf; a missing file is no error
 *
 * An unknown key is an error, so is a value of the wrong type or out of range.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoDriverConfigLoadFile(kumoDriverConfig *cfg, const char *path, bool privileged);

/* kumoDriverGetConfig: (transfer full): a reference to the present configuration. */
kumoDriverConfig *kumoDriverGetConfig(kumoDriver *driver);

/* The path of kumo.conf for @driver. */
char *kumoDriverConfigPath(bool privileged, const char *root);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoDriverConfig, virObjectUnref);
