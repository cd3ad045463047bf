/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <disk>. */
#include "domain-xml/xml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* What a second brings; a bucket holds what it brings. */
#define REFILL_TIME_MS 1000

/* A burst may be had at once, at whatever rate; what the rate brings fills the bucket again. */
static KumoRateBucket bucket_of(unsigned long long rate, unsigned long long burst,
                                unsigned long long length_s)
{
    if (!burst)
        return (KumoRateBucket){ .size = rate, .refill_time_ms = REFILL_TIME_MS };
    burst *= MAX(length_s, 1);
    return (KumoRateBucket){
        .size = burst,
        .refill_time_ms = (uint64_t)((__uint128_t)burst * REFILL_TIME_MS / rate),
    };
}

static void set_bucket(unsigned long long rate, unsigned long long burst,
                       unsigned long long length_s, KumoRateBucket *bucket, bool *present)
{
    *present = rate != 0;
    if (rate)
        *bucket = bucket_of(rate, burst, length_s);
}

static void set_rate(const virDomainBlockIoTuneInfo *tune, KumoRateLimitConfig *rate)
{
    KumoRateLimit *limit = &rate->limit;

    set_bucket(tune->total_bytes_sec, tune->total_bytes_sec_max, tune->total_bytes_sec_max_length,
               &limit->bandwidth, &limit->has_bandwidth);
    set_bucket(tune->read_bytes_sec, tune->read_bytes_sec_max, tune->read_bytes_sec_max_length,
               &limit->read_bandwidth, &limit->has_read_bandwidth);
    set_bucket(tune->write_bytes_sec, tune->write_bytes_sec_max, tune->write_bytes_sec_max_length,
               &limit->write_bandwidth, &limit->has_write_bandwidth);
    set_bucket(tune->total_iops_sec, tune->total_iops_sec_max, tune->total_iops_sec_max_length,
               &limit->ops, &limit->has_ops);
    set_bucket(tune->read_iops_sec, tune->read_iops_sec_max, tune->read_iops_sec_max_length,
               &limit->read_ops, &limit->has_read_ops);
    set_bucket(tune->write_iops_sec, tune->write_iops_sec_max, tune->write_iops_sec_max_length,
               &limit->write_ops, &limit->has_write_ops);
    limit->op_size_bytes = tune->size_iops_sec;
    rate->has_limit = virDomainBlockIoTuneInfoHasBasic(tune);
}

json_t *kumo_xml_rate_limit_json(const virDomainBlockIoTuneInfo *tune)
{
    g_autoptr(KumoDiskConfig) config = kumo_disk_config_new();
    json_t *json;
    json_t *limit;

    set_rate(tune, &config->rate);
    json = kumo_disk_config_to_json(config);
    limit = json_incref(json_object_get(json, "rate_limiter_config"));
    json_decref(json);
    return limit ? limit : json_null();
}

void kumo_xml_rate_limit_groups(const virDomainDef *def, KumoVmConfig *config)
{
    for (size_t i = 0; i < def->ndisks; i++) {
        const virDomainBlockIoTuneInfo *tune = &def->disks[i]->blkdeviotune;
        KumoRateLimitGroupConfig *group;

        if (!tune->group_name || kumo_vm_config_find_rate_limit_group(config, tune->group_name))
            continue;
        group = g_new0(KumoRateLimitGroupConfig, 1);
        group->id = g_strdup(tune->group_name);
        set_rate(tune, &group->rate);
        g_ptr_array_add(config->rate_limit_groups, group);
    }
}

/* A virtio disk has room for so much, and tools give UUIDs of volumes: what fits is what guests of
 * other VMMs see. */
static char *visible_serial(const char *serial)
{
    const char *end;

    if (!serial || strlen(serial) <= KUMO_DISK_SERIAL_MAX)
        return g_strdup(serial);
    for (end = serial + KUMO_DISK_SERIAL_MAX; ((unsigned char)*end & 0xc0) == 0x80; end--)
        ; /* back to the beginning of a character */
    return g_strndup(serial, (size_t)(end - serial));
}

/* Each queue has a thread of its own. Where those of one I/O thread may run, they all may. */
static int set_affinity(const virDomainDef *def, const virDomainDiskDef *disk,
                        KumoDiskConfig *config)
{
    const virDomainIOThreadIDDef *thread =
        disk->iothread ? virDomainIOThreadIDFind(def, disk->iothread) : NULL;
    g_autoptr(virBitmap) cpus = NULL;

    if (thread && kumo_xml_thread_cpus(def, thread->cpumask, &cpus) < 0)
        return -1;
    for (uint32_t i = 0; cpus && i < config->num_queues; i++) {
        KumoQueueAffinity *affinity = g_new0(KumoQueueAffinity, 1);
        ssize_t cpu = -1;

        affinity->queue_index = i;
        affinity->host_cpus = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        while ((cpu = virBitmapNextSetBit(cpus, cpu)) >= 0) {
            uint32_t number = (uint32_t)cpu;

            g_array_append_val(affinity->host_cpus, number);
        }
        g_ptr_array_add(config->queue_affinity, affinity);
    }
    return 0;
}

KumoDiskConfig *kumo_xml_disk(const virDomainDef *def, const virDomainDiskDef *disk)
{
    g_autoptr(KumoDiskConfig) config = kumo_disk_config_new();

    kumo_xml_pci(&disk->info, &config->pci);
    config->path = g_strdup(disk->src->path);
    config->image_type = KUMO_IMAGE_RAW; /* never guessed from what a guest can write */
    config->readonly = disk->src->readonly || disk->device == VIR_DOMAIN_DISK_DEVICE_CDROM;
    config->direct = disk->cachemode == VIR_DOMAIN_DISK_CACHE_DISABLE;
    if (disk->queues)
        config->num_queues = disk->queues;
    if (disk->queue_size)
        config->queue_size = disk->queue_size;
    config->serial = visible_serial(disk->serial);
    /* Those of a group are the group's. */
    if (disk->blkdeviotune.group_name)
        config->rate_limit_group = g_strdup(disk->blkdeviotune.group_name);
    else
        set_rate(&disk->blkdeviotune, &config->rate);
    if (set_affinity(def, disk, config) < 0)
        return NULL;
    return g_steal_pointer(&config);
}

json_t *kumo_xml_queue_affinity_json(const virDomainDef *def, const virDomainDiskDef *disk)
{
    g_autoptr(KumoDiskConfig) config = kumo_xml_disk(def, disk);
    json_t *json;
    json_t *list;

    if (!config)
        return NULL;
    kumo_xml_namespace_disk(def, disk, config);
    json = kumo_disk_config_to_json(config);
    list = json_incref(json_object_get(json, "queue_affinity"));
    json_decref(json);
    return json_pack("{s:s, s:o}", "id", disk->info.alias, "queue_affinity",
                     list ? list : json_null());
}
