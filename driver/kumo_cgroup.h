/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A domain's control groups, in the system driver: one for the whole process, in it one for each
 * vCPU ("vcpu0", …), one for each I/O thread ("iothread1", …: the threads of the disks that name
 * it) and one for all its other threads ("emulator"), as libvirt's other drivers have them. CPU
 * affinity is not among what they do: that is each thread's own (kumo_pin).
 *
 * Where the driver is not privileged or the host lets it make no groups there are none; a domain
 * whose definition needs them does not start then.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

#include "vircgroup.h"

/**
 * kumoCgroupSetup:
 * @vm: its process has just started and has its first threads only
 *
 * Makes the groups and puts the process into them, with all limits but those of vCPUs.
 *
 * Returns: 0, or -1 with the error reported: VIR_ERR_CONFIG_UNSUPPORTED if the definition has
 *     limits that the host cannot set.
 */
int kumoCgroupSetup(virDomainObj *vm);

/**
 * kumoCgroupPlaceVcpus:
 *
 * Puts each vCPU's thread into its group, with the limits of the live definition, and gives it its
 * scheduling policy, which takes no groups. To be called whenever there are new such threads: after
 * a boot, a reboot, a hotplug. It asks the VMM nothing.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoCgroupPlaceVcpus(virDomainObj *vm);

/**
 * kumoCgroupPlaceIOThreads:
 *
 * The same for the threads of those disks that name an I/O thread: after a boot, a reboot, when a
 * disk or an I/O thread comes.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoCgroupPlaceIOThreads(virDomainObj *vm);

/* kumoCgroupPlaceThreads: both. */
int kumoCgroupPlaceThreads(virDomainObj *vm);

/* kumoCgroupForgetIOThread: removes the group of an I/O thread that no disk names. */
void kumoCgroupForgetIOThread(virDomainObj *vm, unsigned int id);

/**
 * kumoCgroupCheckIOThreads:
 *
 * Can the threads of one I/O thread be told from those of another? The VMM names them after their
 * disks, as far as the kernel has room for.
 *
 * Returns: 0, or -1 with VIR_ERR_CONFIG_UNSUPPORTED reported, which names two disks.
 */
int kumoCgroupCheckIOThreads(const virDomainDef *def);

/* kumoCgroupForEachIOThread: as kumoCgroupForEachVcpu. */
int kumoCgroupForEachIOThread(virDomainObj *vm, int (*func)(virCgroup *group, void *opaque),
                              void *opaque);

/* kumoCgroupReconnect: finds the groups of a domain that runs since before the daemon. */
int kumoCgroupReconnect(virDomainObj *vm);

/* kumoCgroupRemove: removes the groups, if there are any, of a domain whose process has ended. */
void kumoCgroupRemove(virDomainObj *vm);

/**
 * kumoCgroupForEachVcpu:
 *
 * Calls @func with the group of each vCPU that is on line, until one call fails.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoCgroupForEachVcpu(virDomainObj *vm, int (*func)(virCgroup *group, void *opaque),
                          void *opaque);

/* kumoCgroupEmulator: (transfer full): the group of the threads that run no vCPU, or NULL. */
virCgroup *kumoCgroupEmulator(virDomainObj *vm);

/**
 * kumoCgroupCheckPrivileged:
 * @code: what libvirt's other drivers answer an ordinary user, who gets no control groups
 * @message: translated
 *
 * Returns: 0, or -1 with @code and @message reported.
 */
int kumoCgroupCheckPrivileged(const kumoDriver *driver, virErrorNumber code, const char *message);

/* kumoCgroupCheckController: reports VIR_ERR_OPERATION_INVALID if @vm's group has no @controller.
 */
int kumoCgroupCheckController(virDomainObj *vm, int controller);
