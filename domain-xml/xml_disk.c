/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <disk>. */
#include "domain-xml/xml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

KumoDiskConfig *kumo_xml_disk(const virDomainDiskDef *disk)
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
    config->serial = g_strdup(disk->serial);
    return g_steal_pointer(&config);
}
