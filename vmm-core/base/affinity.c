/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/affinity.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>

#include "vmm-core/base/error.h"

bool kumo_thread_set_affinity(int tid, const GArray *cpus, GError **error)
{
    g_autoptr(GString) list = g_string_new(NULL);
    uint32_t highest = 0;
    size_t size;
    cpu_set_t *set;
    int result;

    for (guint i = 0; i < cpus->len; i++) {
        uint32_t cpu = g_array_index(cpus, uint32_t, i);

        g_string_append_printf(list, "%s%u", i ? "," : "", cpu);
        highest = MAX(highest, cpu);
    }
    /* A set of cpu_set_t's own size ends at 1024. */
    set = CPU_ALLOC(highest + 1);
    size = CPU_ALLOC_SIZE(highest + 1);
    CPU_ZERO_S(size, set);
    for (guint i = 0; i < cpus->len; i++)
        CPU_SET_S(g_array_index(cpus, uint32_t, i), size, set);
    result = sched_setaffinity(tid, size, set) < 0 ? errno : 0;
    CPU_FREE(set);
    if (result)
        kumo_set_error_errno(error, result, "binding to the host's CPUs %s", list->str);
    return result == 0;
}

bool kumo_thread_share_affinity(int tid, GError **error)
{
    /* As many as the kernel can be built for. */
    enum { CPUS_MAX = 8192 };
    const size_t size = CPU_ALLOC_SIZE(CPUS_MAX);
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX);
    int result;

    memset(set, 0, size);
    result =
        sched_getaffinity(0, size, set) < 0 || sched_setaffinity(tid, size, set) < 0 ? errno : 0;
    CPU_FREE(set);
    if (result)
        kumo_set_error_errno(error, result, "binding to the host CPUs of the main thread");
    return result == 0;
}
