/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The devices of a PC that are not on PCI, each at its fixed place. All but the ACPI event device
 * need port I/O; on a machine without it they make nothing.
 */
#pragma once

#include "vmm-core/core/device.h"

extern const KumoDeviceType kumo_device_type_serial;
extern const KumoDeviceType kumo_device_type_cmos;
extern const KumoDeviceType kumo_device_type_i8042;
extern const KumoDeviceType kumo_device_type_debug_port;
extern const KumoDeviceType kumo_device_type_debug_console;
extern const KumoDeviceType kumo_device_type_acpi_power;

/* For machines that may get more memory by ACPI. To be created first of those with register pages.
 */
extern const KumoDeviceType kumo_device_type_memory_hotplug;

/* For machines that may have more than one vCPU. To be created after the one of PCI hotplug. */
extern const KumoDeviceType kumo_device_type_cpu_hotplug;

/* To be created after those who own the register pages above its own: the controllers of memory,
 * PCI and CPU hotplug. */
extern const KumoDeviceType kumo_device_type_ged;

/* What ACPI's fixed tables say about the power device; port addresses. */
enum {
    KUMO_ACPI_POWER_PORT = 0x600, /* SLEEP_CONTROL, SLEEP_STATUS and RESET_REG, a byte */
    KUMO_ACPI_RESET_VALUE = 1,
    KUMO_ACPI_S5_SLEEP_TYPE = 5,
    KUMO_ACPI_PM_TIMER_PORT = 0x608, /* 32 bits at 3.579545 MHz */
    /* Where kumo_cpus_can_run_hyperv(); they read as 0, and what is written is dropped. */
    KUMO_ACPI_PM1A_EVENT_PORT = 0x60c,
    KUMO_ACPI_PM1A_EVENT_BYTES = 4,
    KUMO_ACPI_PM1A_CONTROL_PORT = 0x610,
    KUMO_ACPI_PM1A_CONTROL_BYTES = 2,
};
