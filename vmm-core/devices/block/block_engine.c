/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/block/block_engine.h"

#include <stdatomic.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

/* The best first. The last always works. */
static const KumoBlockEngineOps *const engines[] = {
    [KUMO_BLOCK_ENGINE_URING] = &kumo_block_uring,
    [KUMO_BLOCK_ENGINE_AIO] = &kumo_block_aio,
    [KUMO_BLOCK_ENGINE_SYNC] = &kumo_block_sync,
};

/* What kernel or sandbox do not have stays away for the life of the process: bits of
 * KumoBlockEngineKind. */
static atomic_uint missing;

KumoBlockEngine *kumo_block_engine_new(unsigned forbidden, int fd, unsigned depth,
                                       KumoBlockDoneFunc done, void *opaque, GError **error)
{
    for (unsigned kind = 0; kind < KUMO_BLOCK_ENGINE_SYNC; kind++) {
        g_autoptr(GError) local = NULL;
        KumoBlockEngine *engine;

        if ((forbidden | atomic_load(&missing)) & 1U << kind)
            continue;
        engine = engines[kind]->create(fd, depth, done, opaque, &local);
        if (engine)
            return engine;
        if (g_error_matches(local, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED) ||
            g_error_matches(local, KUMO_ERROR, KUMO_ERROR_DENIED))
            atomic_fetch_or(&missing, 1U << kind);
        kumo_info("block engine %s cannot be had: %s", engines[kind]->name, local->message);
    }
    return engines[KUMO_BLOCK_ENGINE_SYNC]->create(fd, depth, done, opaque, error);
}
