/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the host may run a vCPU's thread, and beside whom. */
#pragma once

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

#include "vmm-core/config/config.h"

/**
 * kumo_vcpu_thread_create:
 * @cpus: NULL: no affinity
 *
 * pthread_create() on the host CPUs that the configuration allows vCPU @index.
 *
 * Returns: TRUE, or FALSE with @error naming vCPU and CPUs.
 */
bool kumo_vcpu_thread_create(const KumoCpusConfig *cpus, unsigned index, pthread_t *ret_thread,
                             void *(*func)(void *), void *opaque, GError **error);

/**
 * kumo_vcpu_thread_bind:
 *
 * Lets the thread of vCPU @index run on the host CPUs that @cpus allows it; those of the calling
 * thread if that says nothing.
 *
 * Returns: TRUE, or FALSE with @error naming vCPU and CPUs.
 */
bool kumo_vcpu_thread_bind(const KumoCpusConfig *cpus, unsigned index, pthread_t thread,
                           GError **error);

/* The scheduling cookie that the vCPUs of a machine have in common, under @lock. */
typedef struct {
    GMutex lock;
    GCond made;
    int owner_tid; /* a thread that has the cookie; 0: not made yet */
} KumoVcpuCookie;

void kumo_vcpu_cookie_init(KumoVcpuCookie *cookie);
void kumo_vcpu_cookie_clear(KumoVcpuCookie *cookie);

/**
 * kumo_vcpu_join_core:
 *
 * Called on the new thread of vCPU @index: sees to it that only those threads run beside it on a
 * core's other hardware threads that @scheduling allows. With VM all vCPUs have to call it, number
 * 0 among them. Without effect where the host has no core scheduling (Linux before 5.14) or no
 * sibling threads to share a core with.
 */
void kumo_vcpu_join_core(KumoVcpuCookie *cookie, KumoCoreScheduling scheduling, unsigned index);
