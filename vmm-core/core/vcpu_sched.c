/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/vcpu_sched.h"

#include <errno.h>
#include <linux/prctl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

static const KumoCpuAffinity *find_affinity(const KumoCpusConfig *cpus, unsigned index)
{
    for (guint i = 0; cpus && cpus->affinity && i < cpus->affinity->len; i++) {
        const KumoCpuAffinity *affinity = cpus->affinity->pdata[i];

        if (affinity->vcpu == index)
            return affinity;
    }
    return NULL;
}

/* Returns: (transfer full): a set of *@ret_size bytes; free with CPU_FREE(). */
static cpu_set_t *cpu_set_of(const KumoCpuAffinity *affinity, size_t *ret_size)
{
    const uint32_t *cpus = (const uint32_t *)(const void *)affinity->host_cpus->data;
    uint32_t highest = 0;
    cpu_set_t *set;

    for (guint i = 0; i < affinity->host_cpus->len; i++)
        highest = MAX(highest, cpus[i]);
    *ret_size = CPU_ALLOC_SIZE(highest + 1);
    set = CPU_ALLOC(highest + 1);
    CPU_ZERO_S(*ret_size, set);
    for (guint i = 0; i < affinity->host_cpus->len; i++)
        CPU_SET_S(cpus[i], *ret_size, set);
    return set;
}

static void set_bind_error(const KumoCpuAffinity *affinity, unsigned index, int err, GError **error)
{
    if (affinity && err == EINVAL)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "cpus.affinity: vCPU %u: this process may run on none of the %u host CPUs from "
                    "%u on",
                    index, affinity->host_cpus->len,
                    affinity->host_cpus->len ? g_array_index(affinity->host_cpus, uint32_t, 0) : 0);
    else
        kumo_set_error_errno(error, err, "thread of vCPU %u", index);
}

bool kumo_vcpu_thread_create(const KumoCpusConfig *cpus, unsigned index, pthread_t *ret_thread,
                             void *(*func)(void *), void *opaque, GError **error)
{
    const KumoCpuAffinity *affinity = find_affinity(cpus, index);
    pthread_attr_t attr;
    int err = pthread_attr_init(&attr);

    if (!err && affinity) {
        size_t size;
        cpu_set_t *set = cpu_set_of(affinity, &size);

        err = pthread_attr_setaffinity_np(&attr, size, set);
        CPU_FREE(set);
    }
    if (!err)
        err = pthread_create(ret_thread, &attr, func, opaque);
    pthread_attr_destroy(&attr);
    if (err)
        set_bind_error(affinity, index, err, error);
    return !err;
}

bool kumo_vcpu_thread_bind(const KumoCpusConfig *cpus, unsigned index, pthread_t thread,
                           GError **error)
{
    /* As many CPUs as the kernel can be built for. */
    enum { CPUS_MAX = 8192 };
    const KumoCpuAffinity *affinity = find_affinity(cpus, index);
    size_t size = CPU_ALLOC_SIZE(CPUS_MAX);
    cpu_set_t *set = affinity ? cpu_set_of(affinity, &size) : CPU_ALLOC(CPUS_MAX);
    int err = 0;

    if (!affinity) {
        CPU_ZERO_S(size, set);
        err = sched_getaffinity(0, size, set) < 0 ? errno : 0;
    }
    if (!err)
        err = pthread_setaffinity_np(thread, size, set);
    CPU_FREE(set);
    if (err)
        set_bind_error(affinity, index, err, error);
    return !err;
}

void kumo_vcpu_cookie_init(KumoVcpuCookie *cookie)
{
    g_mutex_init(&cookie->lock);
    g_cond_init(&cookie->made);
}

void kumo_vcpu_cookie_clear(KumoVcpuCookie *cookie)
{
    g_mutex_clear(&cookie->lock);
    g_cond_clear(&cookie->made);
}

/* @pid 0: the calling thread. */
static void sched_core(unsigned long command, int pid, unsigned index)
{
    if (prctl(PR_SCHED_CORE, command, (unsigned long)pid, PR_SCHED_CORE_SCOPE_THREAD, 0UL) == 0)
        return;
    /* ENODEV: no core has sibling threads; EINVAL: a kernel without it. */
    if (errno == ENODEV || errno == EINVAL)
        kumo_debug("vCPU %u: core scheduling: %s", index, g_strerror(errno));
    else
        kumo_warn("vCPU %u: core scheduling has no effect: %s", index, g_strerror(errno));
}

void kumo_vcpu_join_core(KumoVcpuCookie *cookie, KumoCoreScheduling scheduling, unsigned index)
{
    int owner;

    if (scheduling == KUMO_CORE_SCHEDULING_OFF)
        return;
    if (scheduling == KUMO_CORE_SCHEDULING_VCPU || index == 0)
        sched_core(PR_SCHED_CORE_CREATE, 0, index);
    if (scheduling == KUMO_CORE_SCHEDULING_VCPU)
        return;

    g_mutex_lock(&cookie->lock);
    if (index == 0) {
        cookie->owner_tid = gettid();
        g_cond_broadcast(&cookie->made);
    }
    while (cookie->owner_tid == 0)
        g_cond_wait(&cookie->made, &cookie->lock);
    owner = cookie->owner_tid;
    g_mutex_unlock(&cookie->lock);
    if (index != 0)
        sched_core(PR_SCHED_CORE_SHARE_FROM, owner, index);
}
