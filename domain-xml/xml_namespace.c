/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <kumo:vm>: what libvirt's format has no word for. Laid over what the rest of the domain says. */
#include "domain-xml/xml.h"

#include "driver/conf/kumo_namespace.h"
#include "vmm-core/config/field.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static void set_switch(virTristateSwitch value, bool *ret)
{
    if (value != VIR_TRISTATE_SWITCH_ABSENT)
        *ret = value == VIR_TRISTATE_SWITCH_ON;
}

static void set_memory(const kumoNamespace *ns, KumoMemoryConfig *memory)
{
    set_switch(ns->thp, &memory->thp);
    set_switch(ns->mergeable, &memory->mergeable);
    if (memory->zones->len == 0)
        set_switch(ns->reserve, &memory->reserve);
    for (guint i = 0; i < memory->zones->len; i++)
        set_switch(ns->reserve, &((KumoMemoryZoneConfig *)memory->zones->pdata[i])->reserve);
}

/* What an I/O thread says of a queue holds no longer. */
static void drop_queue(GPtrArray *affinity, uint32_t number)
{
    for (guint i = affinity->len; i-- > 0;) {
        const KumoQueueAffinity *entry = affinity->pdata[i];

        if (entry->queue_index == number)
            kumo_section_free(&kumo_queue_affinity_section, g_ptr_array_remove_index(affinity, i));
    }
}

static void set_queues(const kumoNamespaceDevice *device, GPtrArray *affinity)
{
    for (guint i = 0; i < device->queues->len; i++) {
        const kumoNamespaceQueue *queue = device->queues->pdata[i];
        KumoQueueAffinity *entry = g_new0(KumoQueueAffinity, 1);
        ssize_t cpu = -1;

        entry->queue_index = queue->number;
        entry->host_cpus = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        while ((cpu = virBitmapNextSetBit(queue->cpus, cpu)) >= 0) {
            uint32_t number = (uint32_t)cpu;

            g_array_append_val(entry->host_cpus, number);
        }
        drop_queue(affinity, queue->number);
        g_ptr_array_add(affinity, entry);
    }
}

void kumo_xml_namespace_disk(const virDomainDef *def, const virDomainDiskDef *disk,
                             KumoDiskConfig *config)
{
    const kumoNamespace *ns = def->namespaceData;

    for (guint i = 0; ns && i < ns->devices->len; i++) {
        const kumoNamespaceDevice *device = ns->devices->pdata[i];

        if (!device->isDisk || STRNEQ(disk->dst, device->name))
            continue;
        set_switch(device->sparse, &config->sparse);
        if (device->lock)
            config->lock_granularity =
                STREQ(device->lock, "full") ? KUMO_LOCK_FULL : KUMO_LOCK_BYTE_RANGE;
        set_queues(device, config->queue_affinity);
    }
}

static void set_interface(const virDomainDef *def, const kumoNamespaceDevice *device,
                          KumoVmConfig *config)
{
    char mac[VIR_MAC_STRING_BUFLEN];

    for (size_t i = 0; i < def->nnets; i++) {
        if (STRCASEEQ(virMacAddrFormat(&def->nets[i]->mac, mac), device->name))
            set_queues(device, ((KumoNetConfig *)config->nets->pdata[i])->queue_affinity);
    }
}

void kumo_xml_namespace(const virDomainDef *def, KumoVmConfig *config)
{
    const kumoNamespace *ns = def->namespaceData;
    guint there = 0;

    if (!ns)
        return;
    if (ns->coreScheduling)
        config->cpus.core_scheduling = STREQ(ns->coreScheduling, "vm") ? KUMO_CORE_SCHEDULING_VM
                                       : STREQ(ns->coreScheduling, "vcpu")
                                           ? KUMO_CORE_SCHEDULING_VCPU
                                           : KUMO_CORE_SCHEDULING_OFF;
    set_switch(ns->amx, &config->cpus.features.amx);
    set_memory(ns, &config->memory);
    for (size_t i = 0; i < def->ndisks; i++) {
        /* An empty drive is no device. */
        if (!virStorageSourceIsEmpty(def->disks[i]->src))
            kumo_xml_namespace_disk(def, def->disks[i], config->disks->pdata[there++]);
    }
    for (guint i = 0; i < ns->devices->len; i++) {
        const kumoNamespaceDevice *device = ns->devices->pdata[i];

        if (!device->isDisk)
            set_interface(def, device, config);
    }
}
