/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which of the host's CPUs serve the queues of a device. */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum { HOST_CPU_MAX = 65535 };

static const KumoField queue_affinity_fields[] = {
    { .json = "queue_index",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoQueueAffinity, queue_index),
      .max = KUMO_MAX_QUEUES - 1 },
    { .json = "host_cpus",
      .type = KUMO_FIELD_NUMBERS,
      .offset = offsetof(KumoQueueAffinity, host_cpus),
      .max = HOST_CPU_MAX },
};

static bool queue_affinity_validate(const void *object, const char *path, GError **error)
{
    const KumoQueueAffinity *affinity = object;

    if (affinity->host_cpus->len)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s.host_cpus: [] is not allowed, must not be empty", path);
    return false;
}

const KumoSection kumo_queue_affinity_section = {
    .fields = queue_affinity_fields,
    .n_fields = G_N_ELEMENTS(queue_affinity_fields),
    .size = sizeof(KumoQueueAffinity),
    .validate = queue_affinity_validate,
};

bool kumo_queue_affinity_check(const GPtrArray *entries, uint32_t n_queues, const char *limit,
                               const char *path, GError **error)
{
    for (guint i = 0; i < entries->len; i++) {
        const KumoQueueAffinity *affinity = entries->pdata[i];

        if (affinity->queue_index >= n_queues) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.queue_affinity[%u].queue_index: %u is not allowed, must be below "
                        "%s, %u",
                        path, i, affinity->queue_index, limit, n_queues);
            return false;
        }
        for (guint n = 0; n < i; n++) {
            const KumoQueueAffinity *other = entries->pdata[n];

            if (other->queue_index == affinity->queue_index) {
                g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                            "%s.queue_affinity[%u].queue_index: %u is there twice", path, i,
                            affinity->queue_index);
                return false;
            }
        }
    }
    return true;
}
