/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/main/devices.h"

#include "vmm-core/devices/block/virtio_blk.h"
#include "vmm-core/devices/console/virtio_console.h"
#include "vmm-core/devices/net/virtio_net.h"
#include "vmm-core/devices/pci/pci.h"
#include "vmm-core/devices/platform/platform.h"
#include "vmm-core/devices/virtio/virtio_balloon.h"
#include "vmm-core/devices/virtio/virtio_mem.h"
#include "vmm-core/devices/virtio/virtio_rng.h"

/*
 * PCI slots and register pages are handed out in this order, and guests and snapshots know them by
 * it: new kinds go to the end of their part.
 */
const KumoDeviceType *const kumo_device_types[] = {
    &kumo_device_type_memory_hotplug,
    &kumo_device_type_pci_root,
    &kumo_device_type_pci_hotplug,
    &kumo_device_type_cpu_hotplug,
    /* Fixed addresses. */
    &kumo_device_type_serial,
    &kumo_device_type_cmos,
    &kumo_device_type_i8042,
    &kumo_device_type_debug_port,
    &kumo_device_type_acpi_power,
    &kumo_device_type_ged,
    &kumo_device_type_debug_console,
    /* PCI. */
    &kumo_device_type_virtio_console,
    &kumo_device_type_virtio_blk,
    &kumo_device_type_virtio_net,
    &kumo_device_type_virtio_rng,
    &kumo_device_type_virtio_mem,
    &kumo_device_type_virtio_balloon,
    NULL,
};
