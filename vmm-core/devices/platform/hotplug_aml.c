/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/platform/hotplug_aml.h"

enum {
    NOTIFY_DEVICE_CHECK = 1, /* ACPI 6.4, table 5.160 */
    NOTIFY_EJECT_REQUEST = 3,

    STA_ALL = 0x0f, /* present, enabled, shown, working */
};

static void store_integer(KumoAml *aml, uint64_t value, unsigned local)
{
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_integer(aml, value);
    kumo_aml_local(aml, local);
}

void kumo_hotplug_aml_select(const KumoHotplugAml *methods, KumoAml *aml)
{
    kumo_aml_acquire(aml, methods->mutex, 0xffff);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_arg(aml, 0);
    kumo_aml_path(aml, methods->select);
}

void kumo_hotplug_aml_status_method(const KumoHotplugAml *methods, KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, methods->status_method, 1, true);
    KumoAmlMark test;

    kumo_hotplug_aml_select(methods, aml);
    store_integer(aml, 0, 0);
    test = kumo_aml_open_if(aml);
    kumo_aml_op(aml, KUMO_AML_LEQUAL);
    kumo_aml_path(aml, methods->enabled);
    kumo_aml_integer(aml, 1);
    store_integer(aml, STA_ALL, 0);
    kumo_aml_close(aml, test);
    kumo_aml_release(aml, methods->mutex);
    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_local(aml, 0);
    kumo_aml_close(aml, method);
}

void kumo_hotplug_aml_status(const KumoHotplugAml *methods, KumoAml *aml, uint32_t index)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "_STA", 0, true);

    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_path(aml, methods->status_method);
    kumo_aml_integer(aml, index);
    kumo_aml_close(aml, method);
}

static void masked_arg(KumoAml *aml, unsigned arg)
{
    kumo_aml_op(aml, KUMO_AML_AND);
    kumo_aml_arg(aml, arg);
    kumo_aml_integer(aml, KUMO_HOTPLUG_OST_MASK);
    kumo_aml_integer(aml, 0); /* And's target: none */
}

void kumo_hotplug_aml_ost_method(const KumoHotplugAml *methods, KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, methods->ost_method, 3, true);

    kumo_hotplug_aml_select(methods, aml);
    kumo_aml_op(aml, KUMO_AML_OR);
    masked_arg(aml, 1);
    kumo_aml_op(aml, KUMO_AML_SHIFT_LEFT);
    masked_arg(aml, 2);
    kumo_aml_integer(aml, KUMO_HOTPLUG_OST_STATUS_SHIFT);
    kumo_aml_integer(aml, 0); /* ShiftLeft's target: none */
    kumo_aml_path(aml, methods->ost);
    kumo_aml_release(aml, methods->mutex);
    kumo_aml_close(aml, method);
}

void kumo_hotplug_aml_ost(const KumoHotplugAml *methods, KumoAml *aml, uint32_t index)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "_OST", 3, true);

    kumo_aml_path(aml, methods->ost_method);
    kumo_aml_integer(aml, index);
    kumo_aml_arg(aml, 0);
    kumo_aml_arg(aml, 1);
    kumo_aml_close(aml, method);
}

void kumo_hotplug_aml_notify_method(const KumoHotplugAml *methods, KumoAml *aml, uint32_t count)
{
    KumoAmlMark method = kumo_aml_open_method(aml, methods->notify_method, 2, true);

    for (uint32_t i = 0; i < count; i++) {
        KumoAmlMark test = kumo_aml_open_if(aml);
        char name[5];

        methods->name(name, i);
        kumo_aml_op(aml, KUMO_AML_LEQUAL);
        kumo_aml_arg(aml, 0);
        kumo_aml_integer(aml, i);
        kumo_aml_op(aml, KUMO_AML_NOTIFY);
        kumo_aml_path(aml, name);
        kumo_aml_arg(aml, 1);
        kumo_aml_close(aml, test);
    }
    kumo_aml_close(aml, method);
}

/* If the selected device's @bit is set: tells the guest, and acknowledges. */
static void notify_if(const KumoHotplugAml *methods, KumoAml *aml, const char *bit, unsigned code)
{
    KumoAmlMark test = kumo_aml_open_if(aml);

    kumo_aml_op(aml, KUMO_AML_LEQUAL);
    kumo_aml_path(aml, bit);
    kumo_aml_integer(aml, 1);
    kumo_aml_path(aml, methods->notify_method);
    kumo_aml_local(aml, 0);
    kumo_aml_integer(aml, code);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_integer(aml, 1);
    kumo_aml_path(aml, bit);
    kumo_aml_close(aml, test);
}

void kumo_hotplug_aml_scan_method(const KumoHotplugAml *methods, KumoAml *aml, uint32_t count)
{
    KumoAmlMark method = kumo_aml_open_method(aml, methods->scan_method, 0, true);
    KumoAmlMark loop;

    kumo_aml_acquire(aml, methods->mutex, 0xffff);
    store_integer(aml, 0, 0);
    loop = kumo_aml_open_while(aml);
    kumo_aml_op(aml, KUMO_AML_LLESS);
    kumo_aml_local(aml, 0);
    kumo_aml_integer(aml, count);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_local(aml, 0);
    kumo_aml_path(aml, methods->select);
    notify_if(methods, aml, methods->inserting, NOTIFY_DEVICE_CHECK);
    notify_if(methods, aml, methods->removing, NOTIFY_EJECT_REQUEST);
    kumo_aml_op(aml, KUMO_AML_INCREMENT);
    kumo_aml_local(aml, 0);
    kumo_aml_close(aml, loop);
    kumo_aml_release(aml, methods->mutex);
    kumo_aml_close(aml, method);
}
