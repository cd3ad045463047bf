/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * On which of the host's CPUs a domain's threads run. vCPUs that come later are placed by the VMM,
 * which is told all of them; what else its process does, the "emulator", by the driver.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoPinVcpus:
 * @vm: active, locked, with a job
 *
 * Tells the VMM what the live definition says.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoPinVcpus(virDomainObj *vm);

/**
 * kumoPinIOThreads:
 * @vm: active, locked, with a job
 * @id: of an I/O thread; 0: all
 *
 * Tells the VMM where the threads of those disks run that name the I/O thread.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoPinIOThreads(virDomainObj *vm, unsigned int id);

/**
 * kumoPinReadCpus:
 *
 * Returns: (transfer full): the CPUs of a client's map, or NULL with VIR_ERR_INVALID_ARG reported
 *     if they are none.
 */
virBitmap *kumoPinReadCpus(unsigned char *cpumap, int maplen);

/* kumoPinTell: queues the event "tunable": @what is the parameter that is now @cpus. */
void kumoPinTell(virDomainObj *vm, const char *what, virBitmap *cpus);

/**
 * kumoPinEmulator:
 * @pid: the VMM's process
 *
 * Places all threads that are no vCPU's. Those that the VMM starts later follow.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoPinEmulator(pid_t pid, virBitmap *cpus);
