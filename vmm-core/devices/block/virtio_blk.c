/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/block/virtio_blk.h"

#include <errno.h>
#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/block/blk_queue.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

#define FEATURE(bit) (1ULL << (bit))

enum { DRAIN_US = 30 * G_USEC_PER_SEC /* how long a pause waits for requests in flight */ };

typedef struct {
    KumoVirtio virtio; /* first */
    const KumoDiskConfig *config;
    KumoBlkShared shared;
    KumoBlkQueue **queues; /* config->num_queues, while realized */
    struct virtio_blk_config space;
    GMutex
        lock; /* guards space.wce, which several vCPUs may write; taken with no other lock held */
    bool hotplugged;
} KumoVirtioBlk;

/* Write-back unless the driver cannot flush or has switched it off (5.2.5.1, 5.2.6.2). */
static void blk_update_cache_mode(KumoVirtioBlk *blk)
{
    const KumoVirtio *virtio = &blk->virtio;
    bool writethrough =
        !kumo_virtio_has(virtio, FEATURE(VIRTIO_BLK_F_FLUSH)) ||
        (kumo_virtio_has(virtio, FEATURE(VIRTIO_BLK_F_CONFIG_WCE)) && !blk->space.wce);

    atomic_store(&blk->shared.writethrough, writethrough);
}

static void blk_config_read(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)virtio;

    kumo_virtio_config_copy(&blk->space, sizeof(blk->space), offset, data, size);
}

static void blk_config_write(KumoVirtio *virtio, uint64_t offset, const uint8_t *data,
                             unsigned size)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)virtio;
    const uint64_t wce_offset = offsetof(struct virtio_blk_config, wce);
    bool to_writethrough;
    int result;

    /* The cache mode is the only field that a driver may write. */
    if (!kumo_virtio_has(virtio, FEATURE(VIRTIO_BLK_F_CONFIG_WCE)) || offset > wce_offset ||
        size <= wce_offset - offset) {
        kumo_warn_guest("%s: write to read-only configuration at %" G_GUINT64_FORMAT,
                        virtio->device.id, offset);
        return;
    }
    g_mutex_lock(&blk->lock);
    to_writethrough = blk->space.wce && !data[wce_offset - offset];
    blk->space.wce = data[wce_offset - offset] != 0;
    blk_update_cache_mode(blk);
    g_mutex_unlock(&blk->lock);

    /* What was written back so far has to be as safe as what comes. */
    if (to_writethrough && !blk->shared.file->readonly) {
        result = kumo_block_file_flush(blk->shared.file);
        if (result < 0) {
            kumo_warn_guest("%s: %s: flush: %s", virtio->device.id, blk->shared.file->path,
                            g_strerror(-result));
            kumo_blk_report_error(&blk->shared, "flush", -result);
        }
    }
}

static void blk_stop_queues(KumoVirtioBlk *blk)
{
    for (unsigned i = 0; i < blk->config->num_queues; i++)
        kumo_blk_queue_stop(blk->queues[i]);
}

static bool blk_start_queues(KumoVirtioBlk *blk, GError **error)
{
    for (unsigned i = 0; i < blk->config->num_queues; i++) {
        KumoVirtq *virtq = &blk->virtio.queues[i];

        if (!virtq->ready)
            continue;
        if (!kumo_blk_queue_start(blk->queues[i], virtq, error)) {
            blk_stop_queues(blk);
            return false;
        }
    }
    return true;
}

static bool blk_activate(KumoVirtio *virtio, GError **error)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)virtio;

    g_mutex_lock(&blk->lock);
    blk_update_cache_mode(blk);
    g_mutex_unlock(&blk->lock);
    return blk_start_queues(blk, error);
}

static void blk_deactivate(KumoVirtio *virtio)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)virtio;

    blk_stop_queues(blk);
    g_mutex_lock(&blk->lock);
    blk->space.wce = 1;
    g_mutex_unlock(&blk->lock);
}

static bool blk_pause(KumoVirtio *virtio, GError **error)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)virtio;
    int64_t deadline_us = g_get_monotonic_time() + DRAIN_US;
    g_autoptr(GError) again = NULL;

    for (unsigned i = 0; i < blk->config->num_queues; i++) {
        if (kumo_blk_queue_pause(blk->queues[i], deadline_us, error))
            continue;
        /* The guest goes on: so do the queues that are stopped already. */
        while (i-- > 0) {
            KumoVirtq *virtq = &virtio->queues[i];

            if (virtq->ready && !kumo_blk_queue_start(blk->queues[i], virtq, &again)) {
                kumo_error("%s: %s", virtio->device.id, again->message);
                kumo_virtio_broken(virtio, "a queue cannot go on after a pause that failed");
                break;
            }
        }
        return false;
    }
    return true;
}

static void blk_resume(KumoVirtio *virtio)
{
    g_autoptr(GError) error = NULL;

    if (!blk_start_queues((KumoVirtioBlk *)virtio, &error)) {
        kumo_error("%s: resume: %s", virtio->device.id, error->message);
        kumo_virtio_broken(virtio, "the queues cannot be resumed");
    }
}

static const KumoVirtioOps blk_virtio_ops = {
    .config_read = blk_config_read,
    .config_write = blk_config_write,
    .activate = blk_activate,
    .deactivate = blk_deactivate,
    .pause = blk_pause,
    .resume = blk_resume,
};

static uint8_t log2_of(uint32_t power)
{
    return (uint8_t)__builtin_ctz(power);
}

/* 5.2.4: sizes in the topology are in logical blocks. */
static void blk_fill_config(KumoVirtioBlk *blk)
{
    const KumoBlockFile *file = blk->shared.file;
    uint32_t logical = file->logical_block_bytes;
    uint32_t segments = MIN(blk->config->queue_size - 2, KUMO_BLK_MAX_SEGMENTS);

    blk->space = (struct virtio_blk_config){
        .capacity = GUINT64_TO_LE(blk->shared.capacity_sectors),
        .seg_max = GUINT32_TO_LE(segments),
        .blk_size = GUINT32_TO_LE(logical),
        .physical_block_exp = log2_of(MAX(file->physical_block_bytes / logical, 1)),
        .alignment_offset = (uint8_t)MIN(file->align_offset_bytes / logical, G_MAXUINT8),
        .min_io_size = GUINT16_TO_LE(MIN(MAX(file->min_io_bytes / logical, 1), G_MAXUINT16)),
        .opt_io_size = GUINT32_TO_LE(file->opt_io_bytes / logical),
        .wce = 1,
        .num_queues = GUINT16_TO_LE(blk->config->num_queues),
        .max_discard_sectors = GUINT32_TO_LE(KUMO_BLK_MAX_DISCARD_SECTORS),
        .max_discard_seg = GUINT32_TO_LE(1),
        .discard_sector_alignment =
            GUINT32_TO_LE(file->discard_granularity_bytes / KUMO_SECTOR_SIZE),
        .max_write_zeroes_sectors = GUINT32_TO_LE(KUMO_BLK_MAX_DISCARD_SECTORS),
        .max_write_zeroes_seg = GUINT32_TO_LE(1),
        .write_zeroes_may_unmap = file->sparse,
    };
}

static uint64_t blk_features(const KumoVirtioBlk *blk)
{
    uint64_t features = KUMO_VIRTIO_F_RING_EVENT_IDX | KUMO_VIRTIO_F_RING_INDIRECT_DESC |
                        FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_CONFIG_WCE) |
                        FEATURE(VIRTIO_BLK_F_BLK_SIZE) | FEATURE(VIRTIO_BLK_F_TOPOLOGY) |
                        FEATURE(VIRTIO_BLK_F_SEG_MAX);

    if (blk->config->readonly)
        features |= FEATURE(VIRTIO_BLK_F_RO);
    else
        features |= FEATURE(VIRTIO_BLK_F_WRITE_ZEROES) |
                    (blk->config->sparse ? FEATURE(VIRTIO_BLK_F_DISCARD) : 0);
    if (blk->config->num_queues > 1)
        features |= FEATURE(VIRTIO_BLK_F_MQ);
    return features;
}

static void blk_close(KumoVirtioBlk *blk)
{
    for (unsigned i = 0; blk->queues && i < blk->config->num_queues; i++)
        kumo_blk_queue_free(blk->queues[i]);
    g_clear_pointer(&blk->queues, g_free);
    g_clear_pointer(&blk->shared.file, kumo_block_file_close);
    g_clear_pointer(&blk->shared.limiter, kumo_rate_limiter_unref);
}

static const KumoDeviceOps blk_device_ops;

/* Returns: (transfer full) (nullable): the limiter that @config asks for, which is the one that the
 * other disks of its group use already, if there are any. */
static KumoRateLimiter *blk_limiter(const KumoVirtioBlk *blk, const KumoDiskConfig *config)
{
    const KumoMachine *machine = blk->virtio.device.machine;
    const KumoRateLimitGroupConfig *group;

    if (!config->rate_limit_group)
        return kumo_rate_limiter_new(&config->rate.limit);
    for (unsigned i = 0; i < machine->devices->len; i++) {
        const KumoDevice *device = g_ptr_array_index(machine->devices, i);
        const KumoVirtioBlk *other = (const KumoVirtioBlk *)device;

        if (device->ops == &blk_device_ops && other != blk && device->realized &&
            g_strcmp0(other->config->rate_limit_group, config->rate_limit_group) == 0)
            return kumo_rate_limiter_ref(other->shared.limiter);
    }
    group = kumo_vm_config_find_rate_limit_group(machine->config, config->rate_limit_group);
    return group ? kumo_rate_limiter_new(&group->rate.limit) : NULL;
}

static bool blk_open(KumoVirtioBlk *blk, GError **error)
{
    const KumoDiskConfig *config = blk->config;

    if (config->num_queues < 1 || config->queue_size < 4 ||
        config->queue_size > KUMO_MAX_QUEUE_SIZE || !kumo_is_pow2(config->queue_size)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "disk %s: num_queues %u, queue_size %u: at least one queue of a power of two "
                    "from 4 to %d",
                    config->path, config->num_queues, config->queue_size, KUMO_MAX_QUEUE_SIZE);
        return false;
    }
    blk->shared.file =
        kumo_block_file_open(config, !blk->virtio.device.machine->locks_later, error);
    if (!blk->shared.file)
        return false;
    blk->shared.virtio = &blk->virtio;
    blk->shared.config = config;
    blk->shared.limiter = blk_limiter(blk, config);
    blk->shared.capacity_sectors = blk->shared.file->size_bytes / KUMO_SECTOR_SIZE;
    atomic_store(&blk->shared.write_threshold, config->write_threshold_bytes);
    atomic_store(&blk->shared.no_zero_range, false);
    atomic_store(&blk->shared.no_punch_hole, !blk->shared.file->sparse);
    blk->queues = g_new0(KumoBlkQueue *, config->num_queues);
    for (unsigned i = 0; i < config->num_queues; i++) {
        blk->queues[i] =
            kumo_blk_queue_new(&blk->shared, i, (uint16_t)config->queue_size, NULL, error);
        if (!blk->queues[i])
            return false;
    }
    blk_fill_config(blk);
    return true;
}

static bool blk_realize(KumoDevice *device, GError **error)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;
    g_autofree uint16_t *sizes = NULL;
    KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_BLOCK,
        .class_code = 0x01, /* mass storage, other */
        .subclass = 0x80,
        .offered = blk_features(blk),
        .n_queues = blk->config->num_queues,
        .bar32 = !blk->hotplugged, /* firmware may boot from a disk that is there at the start */
    };

    /* The file first: its size and blocks are in the configuration that the guest may read at once.
     */
    if (!blk_open(blk, error)) {
        blk_close(blk);
        return false;
    }
    sizes = g_new(uint16_t, params.n_queues);
    for (unsigned i = 0; i < params.n_queues; i++)
        sizes[i] = (uint16_t)blk->config->queue_size;
    params.queue_sizes = sizes;
    if (!kumo_virtio_pci_realize(&blk->virtio, &blk->config->pci, &params, error)) {
        blk_close(blk);
        return false;
    }
    kumo_debug("%s: %s: %" G_GUINT64_FORMAT " bytes, %u queues by %s", device->id,
               blk->config->path, blk->shared.file->size_bytes, blk->config->num_queues,
               kumo_blk_queue_engine_name(blk->queues[0]));
    return true;
}

static void blk_unrealize(KumoDevice *device)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;

    kumo_virtio_pci_unrealize(&blk->virtio);
    blk_close(blk);
}

static void blk_free(KumoDevice *device)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;

    g_mutex_clear(&blk->lock);
    g_free(blk);
}

typedef struct {
    uint64_t ops, bytes, min, max, sum;
} Total;

static void total_add(Total *total, const KumoBlkCounters *c)
{
    uint64_t ops = atomic_load_explicit(&c->ops, memory_order_relaxed);
    uint64_t min = atomic_load_explicit(&c->latency_min_us, memory_order_relaxed);

    if (!ops)
        return;
    total->min = total->ops ? MIN(total->min, min) : min;
    total->max = MAX(total->max, atomic_load_explicit(&c->latency_max_us, memory_order_relaxed));
    total->sum += atomic_load_explicit(&c->latency_sum_us, memory_order_relaxed);
    total->bytes += atomic_load_explicit(&c->bytes, memory_order_relaxed);
    total->ops += ops;
}

static json_t *blk_counters(KumoDevice *device)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;
    Total read = { 0 }, write = { 0 };

    for (unsigned i = 0; i < blk->config->num_queues; i++) {
        const KumoBlkQueueStats *stats = kumo_blk_queue_stats(blk->queues[i]);

        total_add(&read, &stats->read);
        total_add(&write, &stats->write);
    }
    /* Latencies in microseconds. */
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "read_bytes", (json_int_t)read.bytes,
        "read_ops", (json_int_t)read.ops, "write_bytes", (json_int_t)write.bytes, "write_ops",
        (json_int_t)write.ops, "read_latency_min", (json_int_t)read.min, "read_latency_max",
        (json_int_t)read.max, "read_latency_avg", (json_int_t)(read.ops ? read.sum / read.ops : 0),
        "write_latency_min", (json_int_t)write.min, "write_latency_max", (json_int_t)write.max,
        "write_latency_avg", (json_int_t)(write.ops ? write.sum / write.ops : 0));
}

typedef struct {
    KumoVirtioBlk *blk;
    uint64_t size_bytes;
} Resize;

static bool blk_change_size(void *opaque, GError **error)
{
    const Resize *resize = opaque;
    KumoVirtioBlk *blk = resize->blk;

    if (!kumo_block_file_resize(blk->shared.file, resize->size_bytes, error))
        return false;
    blk->shared.capacity_sectors = blk->shared.file->size_bytes / KUMO_SECTOR_SIZE;
    blk->space.capacity = GUINT64_TO_LE(blk->shared.capacity_sectors);
    blk->virtio.notify_config(&blk->virtio);
    return true;
}

/* 5.2.5.2: the driver learns of a new capacity by the configuration interrupt. */
static bool blk_resize(KumoDevice *device, uint64_t size_bytes, GError **error)
{
    Resize resize = { (KumoVirtioBlk *)device, size_bytes };

    return kumo_virtio_pci_change(&resize.blk->virtio, blk_change_size, &resize, error);
}

typedef struct {
    KumoVirtioBlk *blk;
    KumoRateLimiter *limiter; /* NULL: none */
} LimiterChange;

static bool blk_change_limiter(void *opaque, GError **error)
{
    const LimiterChange *change = opaque;
    KumoVirtioBlk *blk = change->blk;
    unsigned n_queues = blk->config->num_queues;

    for (unsigned i = 0; i < n_queues; i++) {
        if (!kumo_blk_queue_prepare_limiter(blk->queues[i], change->limiter, error))
            return false;
    }
    kumo_rate_limiter_unref(blk->shared.limiter);
    blk->shared.limiter = kumo_rate_limiter_ref(change->limiter);
    for (unsigned i = 0; i < n_queues; i++)
        kumo_blk_queue_set_limiter(blk->queues[i], blk->shared.limiter);
    return true;
}

static bool blk_bind_queues(KumoVirtioBlk *blk, const KumoDiskConfig *config, GError **error)
{
    for (unsigned i = 0; i < blk->config->num_queues; i++) {
        if (!kumo_blk_queue_bind(blk->queues[i], config, i, error))
            return false;
    }
    return true;
}

static bool blk_set_limiter(KumoVirtioBlk *blk, KumoRateLimiter *limiter, GError **error)
{
    LimiterChange change = { blk, limiter };

    return kumo_virtio_pci_change(&blk->virtio, blk_change_limiter, &change, error);
}

static bool blk_update(KumoDevice *device, const void *opaque, GError **error)
{
    const KumoDiskConfig *wanted = opaque;
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;
    KumoRateLimiter *limiter = NULL;
    bool ok = blk_bind_queues(blk, wanted, error);

    if (ok && (!kumo_rate_limit_equal(&blk->config->rate.limit, &wanted->rate.limit) ||
               g_strcmp0(blk->config->rate_limit_group, wanted->rate_limit_group) != 0)) {
        limiter = blk_limiter(blk, wanted);
        ok = blk_set_limiter(blk, limiter, error);
        kumo_rate_limiter_unref(limiter);
    }
    if (!ok)
        blk_bind_queues(blk, blk->config, NULL);
    else if (wanted->write_threshold_bytes != blk->config->write_threshold_bytes)
        atomic_store(&blk->shared.write_threshold, wanted->write_threshold_bytes);
    return ok;
}

/* What is left of the threshold: none after the write beyond it. And the serial number that the
 * guest knows, which would be another one for another file. */
static void blk_report(KumoDevice *device, KumoVmConfig *config)
{
    const KumoVirtioBlk *blk = (const KumoVirtioBlk *)device;

    for (unsigned i = 0; i < config->disks->len; i++) {
        KumoDiskConfig *entry = g_ptr_array_index(config->disks, i);

        if (g_strcmp0(entry->pci.id, device->id) != 0)
            continue;
        entry->write_threshold_bytes = atomic_load(&blk->shared.write_threshold);
        if (!entry->serial)
            entry->serial = g_strdup(blk->shared.file->serial);
    }
}

static bool blk_set_group_limiter(KumoDevice *device, const char *group, KumoRateLimiter *limiter,
                                  GError **error)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;

    return g_strcmp0(blk->config->rate_limit_group, group) != 0 ||
           blk_set_limiter(blk, limiter, error);
}

static bool blk_flush(KumoDevice *device, GError **error)
{
    const KumoVirtioBlk *blk = (KumoVirtioBlk *)device;
    int err = blk->config->readonly ? 0 : -kumo_block_file_flush(blk->shared.file);

    if (err)
        kumo_set_error_errno(error, err, "%s: %s: flushing", device->id, blk->config->path);
    return !err;
}

static bool blk_lock(KumoDevice *device, bool lock, bool *ret_exclusive, GError **error)
{
    KumoBlockFile *file = ((KumoVirtioBlk *)device)->shared.file;

    if (!lock) {
        *ret_exclusive = file->locked && !file->readonly;
        kumo_block_file_unlock(file);
        return true;
    }
    return kumo_block_file_lock(file, error);
}

typedef struct {
    KumoVirtioPciState transport;
    uint64_t capacity_sectors;
    uint32_t logical_block_bytes;
    bool writeback;
} BlkState;

static const KumoStateField blk_fields[] = {
    { KUMO_STATE_ROW(TABLE, BlkState, transport), .table = &kumo_virtio_pci_state_table },
    { KUMO_STATE_ROW(U64, BlkState, capacity_sectors) },
    { KUMO_STATE_ROW(U32, BlkState, logical_block_bytes) },
    { KUMO_STATE_ROW(BOOL, BlkState, writeback) },
};

static const KumoStateTable blk_table = {
    .name = "virtio-blk",
    .version = 1,
    .fields = blk_fields,
    .n_fields = G_N_ELEMENTS(blk_fields),
    .size = sizeof(BlkState),
};

static void blk_save(KumoDevice *device, void *opaque)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;
    BlkState *state = opaque;

    kumo_virtio_pci_save(&blk->virtio, &state->transport);
    state->capacity_sectors = blk->shared.capacity_sectors;
    state->logical_block_bytes = blk->shared.file->logical_block_bytes;
    g_mutex_lock(&blk->lock);
    state->writeback = blk->space.wce;
    g_mutex_unlock(&blk->lock);
}

/* Another size or block size would corrupt the guest's file system. */
static bool blk_load(KumoDevice *device, const void *opaque, GError **error)
{
    KumoVirtioBlk *blk = (KumoVirtioBlk *)device;
    const BlkState *state = opaque;

    if (!kumo_state_check_u64("capacity_sectors", state->capacity_sectors,
                              blk->shared.capacity_sectors, error) ||
        !kumo_state_check_u64("logical_block_bytes", state->logical_block_bytes,
                              blk->shared.file->logical_block_bytes, error)) {
        kumo_prefix_error(error, "%s", blk->config->path);
        return false;
    }
    if (!kumo_virtio_pci_load(&blk->virtio, &state->transport, error))
        return false;
    g_mutex_lock(&blk->lock);
    blk->space.wce = state->writeback;
    blk_update_cache_mode(blk);
    g_mutex_unlock(&blk->lock);
    return true;
}

static const KumoDeviceState blk_state = {
    .table = &blk_table,
    .save = blk_save,
    .load = blk_load,
};

static const KumoDeviceOps blk_device_ops = {
    .type = "virtio-blk",
    .realize = blk_realize,
    .unrealize = blk_unrealize,
    .free = blk_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
    .pci_bdf = kumo_virtio_pci_bdf,
    .describe = kumo_virtio_pci_describe,
    .counters = blk_counters,
    .report = blk_report,
    .state = &blk_state,
    .announce = kumo_virtio_pci_announce,
    .ask_removal = kumo_virtio_pci_ask_removal,
    .resize = blk_resize,
    .update = blk_update,
    .set_group_limiter = blk_set_group_limiter,
    .flush = blk_flush,
    .lock = blk_lock,
};

KumoDevice *kumo_virtio_blk_new(KumoMachine *machine, const KumoDiskConfig *config)
{
    KumoVirtioBlk *blk = g_new0(KumoVirtioBlk, 1);

    kumo_device_init(&blk->virtio.device, &blk_device_ops, machine, config->pci.id);
    blk->virtio.ops = &blk_virtio_ops;
    blk->config = config;
    g_mutex_init(&blk->lock);
    return &blk->virtio.device;
}

static KumoDevice *blk_hotplug(KumoMachine *machine, const void *entry)
{
    KumoDevice *device = kumo_virtio_blk_new(machine, entry);

    ((KumoVirtioBlk *)device)->hotplugged = true;
    return device;
}

static bool blk_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    for (unsigned i = 0; i < config->disks->len; i++) {
        const KumoDiskConfig *disk = g_ptr_array_index(config->disks, i);

        if (!kumo_device_add(kumo_virtio_blk_new(machine, disk), error))
            return false;
    }
    return true;
}

const KumoDeviceType kumo_device_type_virtio_blk = {
    .name = "virtio-blk",
    .create = blk_create,
    .list = KUMO_DEVICE_LIST_DISKS,
    .hotplug = blk_hotplug,
};
