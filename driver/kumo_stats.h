/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a domain has done so far. The VMM counts what its devices do, the host what its processes
 * and taps do; here they are put into libvirt's terms.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

#include <jansson.h>

/* Of one disk, or of several together. */
typedef struct {
    unsigned long long readOps, readBytes, readTimeNs;
    unsigned long long writeOps, writeBytes, writeTimeNs;
} kumoBlockStats;

/* Of an image on the host, in bytes. */
typedef struct {
    unsigned long long capacity;   /* that the guest sees */
    unsigned long long allocation; /* that it takes on the host */
    unsigned long long physical;   /* the file or device */
} kumoImageSize;

/**
 * kumoStatsCounters:
 * @vm: active, locked, with a job
 * @counters: (out) (transfer full): of the VMM's devices, by alias
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoStatsCounters(virDomainObj *vm, json_t **counters);

/* Adds what @counters say of the disk @alias to @stats. Returns whether they know it. */
bool kumoStatsAddBlock(json_t *counters, const char *alias, kumoBlockStats *stats);

/**
 * kumoStatsMemory:
 * @counters: of the VMM's devices
 *
 * What the guest last told through its balloon, the balloon's size and the process's memory.
 *
 * Returns: how many of @stats, at most @nstats, were filled.
 */
int kumoStatsMemory(virDomainObj *vm, json_t *counters, virDomainMemoryStatPtr stats,
                    unsigned int nstats);

/* kumoStatsImage: Returns: 0, or -1 with the error reported. */
int kumoStatsImage(const virStorageSource *src, kumoImageSize *size);

/* The thread of a vCPU, by the name that the VMM gives it. Returns 0 if there is none. */
pid_t kumoStatsVcpuThread(pid_t pid, unsigned int vcpu);
