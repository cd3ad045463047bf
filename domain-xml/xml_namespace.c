/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <kumo:vm>: what libvirt's format has no word for. Laid over what the rest of the domain says. */
#include "domain-xml/xml.h"

#include "driver/conf/kumo_namespace.h"

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
        g_ptr_array_add(affinity, entry);
    }
}

static void set_device(const virDomainDef *def, const kumoNamespaceDevice *device,
                       KumoVmConfig *config)
{
    char mac[VIR_MAC_STRING_BUFLEN];

    for (size_t i = 0; device->isDisk && i < def->ndisks; i++) {
        KumoDiskConfig *disk = config->disks->pdata[i];

        if (STRNEQ(def->disks[i]->dst, device->name))
            continue;
        set_switch(device->sparse, &disk->sparse);
        if (device->lock)
            disk->lock_granularity =
                STREQ(device->lock, "full") ? KUMO_LOCK_FULL : KUMO_LOCK_BYTE_RANGE;
        set_queues(device, disk->queue_affinity);
    }
    for (size_t i = 0; !device->isDisk && i < def->nnets; i++) {
        if (STRCASEEQ(virMacAddrFormat(&def->nets[i]->mac, mac), device->name))
            set_queues(device, ((KumoNetConfig *)config->nets->pdata[i])->queue_affinity);
    }
}

void kumo_xml_namespace(const virDomainDef *def, KumoVmConfig *config)
{
    const kumoNamespace *ns = def->namespaceData;

    if (!ns)
        return;
    if (ns->coreScheduling)
        config->cpus.core_scheduling = STREQ(ns->coreScheduling, "vm") ? KUMO_CORE_SCHEDULING_VM
                                       : STREQ(ns->coreScheduling, "vcpu")
                                           ? KUMO_CORE_SCHEDULING_VCPU
                                           : KUMO_CORE_SCHEDULING_OFF;
    set_switch(ns->amx, &config->cpus.features.amx);
    set_memory(ns, &config->memory);
    for (guint i = 0; i < ns->devices->len; i++)
        set_device(def, ns->devices->pdata[i], config);
}
