/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The AML that controllers with a select register have in common: the guest selects one of the
 * devices that may come and go by its number, and sees in single bits what there is of it.
 */
#pragma once

#include "vmm-core/acpi/aml.h"

/* Names of one controller, as seen from its methods. */
typedef struct {
    const char *mutex;     /* held while a device is selected */
    const char *select;    /* register: the device that the others are of */
    const char *enabled;   /* bit, read: it is there */
    const char *inserting; /* bit: it has come; written to acknowledge */
    const char *removing;  /* bit: the guest is asked for it; written to acknowledge */

    const char *ost; /* register, written: what the guest says of a notification, see below */

    const char *status_method; /* (device): what the device's _STA says */
    const char *notify_method; /* (device, code) */
    const char *scan_method;   /* (): tells the guest of all that has changed */
    const char *ost_method;    /* (device, event, status) */

    /* Sets @name to that of the device @index. */
    void (*name)(char name[5], uint32_t index);
} KumoHotplugAml;

/* What is written to the register @ost, 32 bits: _OST's event below its status. */
enum { KUMO_HOTPLUG_OST_STATUS_SHIFT = 16, KUMO_HOTPLUG_OST_MASK = 0xffff };

/**
 * kumo_hotplug_aml_select:
 *
 * Takes the mutex and selects the device that the method's first argument names. The caller
 * releases the mutex.
 */
void kumo_hotplug_aml_select(const KumoHotplugAml *methods, KumoAml *aml);

/**
 * kumo_hotplug_aml_status_method:
 *
 * Adds the method @status_method, which a device's _STA calls (ACPI 6.4, 6.3.7).
 */
void kumo_hotplug_aml_status_method(const KumoHotplugAml *methods, KumoAml *aml);

/**
 * kumo_hotplug_aml_status:
 *
 * Adds the _STA of the device @index, inside of it.
 */
void kumo_hotplug_aml_status(const KumoHotplugAml *methods, KumoAml *aml, uint32_t index);

/**
 * kumo_hotplug_aml_ost_method:
 *
 * Adds the method @ost_method, which a device's _OST calls (ACPI 6.4, 6.3.5).
 */
void kumo_hotplug_aml_ost_method(const KumoHotplugAml *methods, KumoAml *aml);

/**
 * kumo_hotplug_aml_ost:
 *
 * Adds the _OST of the device @index, inside of it.
 */
void kumo_hotplug_aml_ost(const KumoHotplugAml *methods, KumoAml *aml, uint32_t index);

/**
 * kumo_hotplug_aml_notify_method:
 *
 * Adds the method @notify_method, which notifies one of @count devices.
 */
void kumo_hotplug_aml_notify_method(const KumoHotplugAml *methods, KumoAml *aml, uint32_t count);

/**
 * kumo_hotplug_aml_scan_method:
 *
 * Adds the method @scan_method, which the event device calls: each of @count devices that has come
 * is announced (device check), each that shall leave is asked for (eject request), and both are
 * acknowledged (ACPI 6.4, 5.6.6).
 */
void kumo_hotplug_aml_scan_method(const KumoHotplugAml *methods, KumoAml *aml, uint32_t count);
