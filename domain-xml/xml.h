/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From libvirt's domain definition to KumoVmConfig, one function per family of elements. A
 * definition has passed the driver's validation: what is not handled here was refused there. All
 * functions report their errors through libvirt.
 */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"
#include "vmm-core/config/config.h"

/**
 * kumo_xml_to_config:
 * @def: of a starting domain, with aliases and addresses assigned
 * @firmware: what boots a domain that names neither kernel nor loader, or NULL
 * @memory_dir: where a domain whose memory is in files has them, or NULL
 *
 * Returns: (transfer full): the VM's configuration, validated, or NULL with the error reported.
 */
KumoVmConfig *kumo_xml_to_config(const virDomainDef *def, const char *firmware,
                                 const char *memory_dir);

/* The families. Each sets its part of @config and returns 0, or -1 with the error reported. */
int kumo_xml_os(const virDomainDef *def, const char *firmware, KumoVmConfig *config);
int kumo_xml_cpu(const virDomainDef *def, KumoVmConfig *config);
int kumo_xml_memory(const virDomainDef *def, const char *memory_dir, KumoVmConfig *config);
int kumo_xml_numa(const virDomainDef *def, KumoVmConfig *config);
int kumo_xml_sysinfo(const virDomainDef *def, KumoVmConfig *config);
int kumo_xml_clock(const virDomainDef *def, KumoVmConfig *config);
int kumo_xml_chardev(const virDomainDef *def, KumoVmConfig *config);
int kumo_xml_rng(const virDomainDef *def, KumoVmConfig *config);

/* Gives @config the groups that disks name, each with the limits of its disks, which are the same.
 */
void kumo_xml_rate_limit_groups(const virDomainDef *def, KumoVmConfig *config);

/* Lays what <kumo:vm> says over @config, which has everything else. */
void kumo_xml_namespace(const virDomainDef *def, KumoVmConfig *config);

/* The same for one of @def's disks. */
void kumo_xml_namespace_disk(const virDomainDef *def, const virDomainDiskDef *disk,
                             KumoDiskConfig *config);

/**
 * kumo_xml_disk, kumo_xml_net:
 *
 * One device, as it is added to a running VM too. A net device's descriptors are not part of it.
 *
 * Returns: (transfer full): the device's configuration, or NULL with the error reported.
 */
KumoDiskConfig *kumo_xml_disk(const virDomainDef *def, const virDomainDiskDef *disk);
KumoNetConfig *kumo_xml_net(const virDomainNetDef *net);

/* kumo_xml_rate_limit_json: (transfer full): <iotune> as the VMM takes it for a disk; null: none.
 */
json_t *kumo_xml_rate_limit_json(const virDomainBlockIoTuneInfo *tune);

/**
 * kumo_xml_affinity_json:
 *
 * Returns: (transfer full): where the vCPUs run, as vm.update-cpus takes it, or NULL with the error
 *     reported.
 */
json_t *kumo_xml_affinity_json(virDomainDef *def);

/**
 * kumo_xml_thread_cpus:
 * @own: where the thread is to run, if the definition says so, else NULL
 * @cpus: (out) (transfer full): where it runs; NULL: wherever the VMM's process may
 *
 * Of a vCPU or an I/O thread: without a place of its own it does not follow the emulator.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumo_xml_thread_cpus(const virDomainDef *def, virBitmap *own, virBitmap **cpus);

/**
 * kumo_xml_queue_affinity_json:
 *
 * Returns: (transfer full): where the threads of the disk's queues run, as vm.update-disk takes it,
 *     or NULL with the error reported.
 */
json_t *kumo_xml_queue_affinity_json(const virDomainDef *def, const virDomainDiskDef *disk);

/**
 * kumo_xml_has_zones:
 *
 * Has the VMM to be told of parts of the memory? So it is when they differ in their host node or
 * their pages, are nodes of the guest, are in files, or may grow by virtio-mem.
 */
bool kumo_xml_has_zones(const virDomainDef *def);

/**
 * kumo_xml_zone_id:
 * @cell: the guest's NUMA node, or -1 without nodes
 *
 * Returns: (transfer full): what the VMM calls that part of the memory: as the virtio-mem device
 *     that makes it grow, if there is one, for the two are one there.
 */
char *kumo_xml_zone_id(const virDomainDef *def, int cell);

/* Returns: how much of that part there is without virtio-mem, KiB. */
unsigned long long kumo_xml_zone_kib(const virDomainDef *def, int cell);

/* Sets id and slot of a PCI device from alias and address. */
void kumo_xml_pci(const virDomainDeviceInfo *info, KumoPciCommon *pci);
