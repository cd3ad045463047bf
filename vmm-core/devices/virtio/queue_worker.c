/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/virtio/queue_worker.h"

#include "vmm-core/base/affinity.h"
#include "vmm-core/base/error.h"
#include "vmm-core/config/config.h"

bool kumo_queue_worker_bind(KumoLoop *loop, const GPtrArray *affinity, unsigned index, bool reset,
                            GError **error)
{
    int tid = kumo_loop_tid(loop);

    for (guint i = 0; i < affinity->len; i++) {
        const KumoQueueAffinity *entry = affinity->pdata[i];

        if (entry->queue_index != index)
            continue;
        if (kumo_thread_set_affinity(tid, entry->host_cpus, error))
            return true;
        kumo_prefix_error(error, "queue %u", index);
        return false;
    }
    return !reset || kumo_thread_share_affinity(tid, error);
}
