/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "domain-xml/xml.h"

#include "driver/conf/kumo_error.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

KumoVmConfig *kumo_xml_to_config(const virDomainDef *def, const char *firmware,
                                 const char *memory_dir)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;

    if (kumo_xml_os(def, firmware, config) < 0 || kumo_xml_cpu(def, config) < 0 ||
        kumo_xml_memory(def, memory_dir, config) < 0 || kumo_xml_numa(def, config) < 0 ||
        kumo_xml_sysinfo(def, config) < 0 || kumo_xml_clock(def, config) < 0 ||
        kumo_xml_chardev(def, config) < 0 || kumo_xml_rng(def, config) < 0)
        return NULL;

    kumo_xml_rate_limit_groups(def, config);
    for (size_t i = 0; i < def->ndisks; i++) {
        KumoDiskConfig *disk;

        /* An empty drive keeps its slot. What is put into it is a device that is added then. */
        if (virStorageSourceIsEmpty(def->disks[i]->src))
            continue;
        disk = kumo_xml_disk(def, def->disks[i]);
        if (!disk)
            return NULL;
        g_ptr_array_add(config->disks, disk);
    }
    for (size_t i = 0; i < def->nnets; i++) {
        KumoNetConfig *net = kumo_xml_net(def->nets[i]);

        if (!net)
            return NULL;
        g_ptr_array_add(config->nets, net);
    }

    kumo_xml_namespace(def, config);
    if (!kumo_vm_config_validate(config, &error)) {
        kumoReportGError(error, _("domain '%s' does not make a valid VM"), def->name);
        return NULL;
    }
    return g_steal_pointer(&config);
}
