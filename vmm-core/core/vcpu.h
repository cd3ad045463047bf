/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vCPU threads of one machine. All of them run, all are parked, or all are gone; the main
 * thread moves them from one to the other and waits for the acknowledgement of each. vCPUs may come
 * and go meanwhile.
 */
#pragma once

#include "vmm-core/core/machine.h"

extern const KumoThreadKind kumo_vcpu_thread;

typedef struct KumoVcpus KumoVcpus;

/**
 * kumo_vcpus_new:
 * @machine: with hv and buses; outlives the vCPUs
 *
 * No vCPU and no thread yet.
 */
KumoVcpus *kumo_vcpus_new(KumoMachine *machine);

/* Stops and joins the threads, destroys the vCPUs. Main thread. */
void kumo_vcpus_free(KumoVcpus *vcpus);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoVcpus, kumo_vcpus_free)

/**
 * kumo_vcpus_add:
 * @index: of a vCPU that is not there
 * @ret_again: (out) (optional): it has been there before; it needs no set-up, but still has the
 * state that it left with
 *
 * Makes vCPU @index, without its thread.
 *
 * Returns: (transfer none): the hypervisor's side, for set-up until kumo_vcpus_start(); NULL with
 * @error set.
 */
KumoHvVcpu *kumo_vcpus_add(KumoVcpus *vcpus, unsigned index, uint32_t apic_id, bool *ret_again,
                           GError **error);

/**
 * kumo_vcpus_start:
 *
 * Starts the thread of every vCPU that has none. They are parked, or run if the others do.
 *
 * Returns: TRUE, or FALSE with @error; kumo_vcpus_retire() or kumo_vcpus_free() cleans up.
 */
bool kumo_vcpus_start(KumoVcpus *vcpus, GError **error);

/**
 * kumo_vcpus_retire:
 *
 * Ends the thread of vCPU @index, if there is one, while the others go on as they do. The
 * hypervisor's side is kept for the next kumo_vcpus_add(): KVM makes each of a VM's vCPUs once.
 *
 * Returns: TRUE, or FALSE with @error (BUSY) if it does not come out of a device. It never runs
 * again all the same; when its thread ends, machine->device_ejected is called, and this function
 * has to be.
 */
bool kumo_vcpus_retire(KumoVcpus *vcpus, unsigned index, GError **error);

/**
 * kumo_vcpus_pause:
 *
 * Returns when every vCPU is parked between two instructions with no access half done.
 *
 * Returns: TRUE, or FALSE with @error (BUSY) if a vCPU does not come out of a device; all run on
 * then.
 */
bool kumo_vcpus_pause(KumoVcpus *vcpus, GError **error);
void kumo_vcpus_resume(KumoVcpus *vcpus);

/* Tells every vCPU to park, and waits for none. */
void kumo_vcpus_freeze(KumoVcpus *vcpus);

/**
 * kumo_vcpus_throttle:
 * @percent: of the time, up to 99, in which no vCPU is to run; 0: all run as they can
 *
 * While it is not 0, no vCPU comes or goes. Main thread.
 */
void kumo_vcpus_throttle(KumoVcpus *vcpus, unsigned percent);

/* Returns: a number above the index of every vCPU. */
unsigned kumo_vcpus_end(const KumoVcpus *vcpus);

/* Returns: (transfer none): the hypervisor's side of vCPU @index, to be used while it is parked;
 * NULL: it is not there. */
KumoHvVcpu *kumo_vcpus_get(const KumoVcpus *vcpus, unsigned index);

/* The vCPUs have run, elsewhere: when they go on, their guest is told that it was stopped. */
void kumo_vcpus_have_run(KumoVcpus *vcpus);

/* Sends an NMI to every vCPU; they must be parked. */
bool kumo_vcpus_nmi(KumoVcpus *vcpus, GError **error);

/* Binds the threads to the host CPUs that @cpus allows. Returns: FALSE with @error: as they were.
 */
bool kumo_vcpus_bind(KumoVcpus *vcpus, const KumoCpusConfig *cpus, GError **error);
