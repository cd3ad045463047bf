/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices that come and go, before the boot and while the guest runs. The configuration follows: it
 * gains a device when that is there, and loses it when that is gone, so what it says is always what
 * the next machine is built from.
 */
#include "vmm-core/vmm/vmm_hotplug.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

typedef struct {
    KumoDeviceList list;
    const char *name;
    size_t offset;     /* of the GPtrArray in KumoVmConfig */
    size_t pci_offset; /* of the KumoPciCommon in an entry */
    void (*free)(void *entry);
} ConfigList;

static void disk_free(void *entry)
{
    kumo_disk_config_free(entry);
}

static void net_free(void *entry)
{
    kumo_net_config_free(entry);
}

static const ConfigList lists[] = {
    { .list = KUMO_DEVICE_LIST_DISKS,
      .name = "disk",
      .offset = offsetof(KumoVmConfig, disks),
      .pci_offset = offsetof(KumoDiskConfig, pci),
      .free = disk_free },
    { .list = KUMO_DEVICE_LIST_NETS,
      .name = "network device",
      .offset = offsetof(KumoVmConfig, nets),
      .pci_offset = offsetof(KumoNetConfig, pci),
      .free = net_free },
};

static GPtrArray *entries_of(const KumoVmm *vmm, const ConfigList *list)
{
    return *(GPtrArray **)((char *)vmm->config + list->offset);
}

static KumoPciCommon *entry_pci(const ConfigList *list, void *entry)
{
    return (KumoPciCommon *)((char *)entry + list->pci_offset);
}

/* Returns: the list that has a device @id, and where it is in it; NULL: none has. */
static const ConfigList *find_entry(const KumoVmm *vmm, const char *id, guint *ret_index)
{
    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
        const GPtrArray *entries = entries_of(vmm, &lists[i]);

        for (guint n = 0; n < entries->len; n++) {
            if (g_strcmp0(entry_pci(&lists[i], entries->pdata[n])->id, id) == 0) {
                *ret_index = n;
                return &lists[i];
            }
        }
    }
    return NULL;
}

static void remove_entry(KumoVmm *vmm, const char *id)
{
    guint index = 0;
    const ConfigList *list = find_entry(vmm, id, &index);

    if (list)
        list->free(g_ptr_array_remove_index(entries_of(vmm, list), index));
}

/* What vm.add-disk answers and the event device-removed says. */
static json_t *describe(KumoDevice *device)
{
    g_autofree char *bdf = device->ops->pci_bdf ? device->ops->pci_bdf(device) : NULL;

    return json_pack("{s:s, s:s*}", "id", device->id, "bdf", bdf);
}

/* --- adding --- */

static const KumoDeviceType *find_type(const KumoVmm *vmm, const ConfigList *list)
{
    for (const KumoDeviceType *const *type = vmm->params.device_types; *type; type++) {
        if ((*type)->list == list->list && (*type)->hotplug)
            return *type;
    }
    return NULL;
}

/* The device stays in its slot over reboots, whatever else comes and goes. */
static void keep_slot(KumoPciCommon *pci, KumoDevice *device)
{
    g_autofree char *bdf = device->ops->pci_bdf ? device->ops->pci_bdf(device) : NULL;
    unsigned slot;

    if (bdf && sscanf(bdf, "%*x:%*x:%x", &slot) == 1)
        pci->pci_device_id = (int)slot;
}

static bool plug(KumoVmm *vmm, const ConfigList *list, void *entry, json_t **ret_info,
                 GError **error)
{
    const KumoDeviceType *type = find_type(vmm, list);
    KumoDevice *device;

    if (!type) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "a %s cannot be added to a running machine", list->name);
        return false;
    }
    device = type->hotplug(kumo_vm_machine(vmm->vm), entry);
    if (!kumo_device_add(device, error))
        return false;
    /* Like all others, until vm.resume. */
    if (vmm->paused && device->ops->pause && !device->ops->pause(device, error)) {
        kumo_device_remove(device);
        return false;
    }
    keep_slot(entry_pci(list, entry), device);
    if (device->ops->report)
        device->ops->report(device, vmm->config);
    *ret_info = describe(device);
    if (device->ops->announce)
        device->ops->announce(device);
    return true;
}

static bool add_entry(KumoVmm *vmm, const ConfigList *list, void *entry, json_t **ret_info,
                      GError **error)
{
    GPtrArray *entries;

    *ret_info = NULL;
    if (kumo_vmm_is_busy(vmm) || !vmm->config) {
        g_autofree char *what = g_strdup_printf("add a %s", list->name);

        list->free(entry);
        return kumo_vmm_refuse(vmm, what, error);
    }
    kumo_vmm_finish_ejects(vmm);
    entries = entries_of(vmm, list);
    g_ptr_array_add(entries, entry);
    if (!kumo_vm_config_validate(vmm->config, error) ||
        (vmm->vm && !plug(vmm, list, entry, ret_info, error))) {
        list->free(g_ptr_array_remove_index(entries, entries->len - 1));
        return false;
    }
    return true;
}

bool kumo_vmm_add_disk(KumoVmm *vmm, KumoDiskConfig *disk, json_t **ret_info, GError **error)
{
    return add_entry(vmm, &lists[0], disk, ret_info, error);
}

bool kumo_vmm_add_net(KumoVmm *vmm, KumoNetConfig *net, json_t **ret_info, GError **error)
{
    return add_entry(vmm, &lists[1], net, ret_info, error);
}

void kumo_vmm_keep_reports(KumoVmm *vmm)
{
    const GPtrArray *devices = kumo_vm_machine(vmm->vm)->devices;

    for (guint i = 0; i < devices->len; i++) {
        KumoDevice *device = devices->pdata[i];
        guint index;

        if (device->ops->report && find_entry(vmm, device->id, &index))
            device->ops->report(device, vmm->config);
    }
}

/* --- removing --- */

static void set_not_found(const KumoVmm *vmm, const char *id, const char *what, GError **error)
{
    const KumoVmConfig *config = vmm->config;
    bool is_there =
        g_strcmp0(config->rng.pci.id, id) == 0 ||
        (config->console.mode != KUMO_CONSOLE_OFF && g_strcmp0(config->console.pci.id, id) == 0) ||
        (config->has_balloon && g_strcmp0(config->balloon.pci.id, id) == 0) ||
        (vmm->vm && kumo_device_find(kumo_vm_machine(vmm->vm), id));
    g_autofree char *shown = g_utf8_make_valid(id, -1);

    if (is_there)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "%s: such a device cannot be %s",
                    shown, what);
    else
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "%.*s: the VM has no such device",
                    KUMO_ID_MAX, *shown ? shown : "an empty id");
}

bool kumo_vmm_remove_device(KumoVmm *vmm, const char *id, GError **error)
{
    KumoDevice *device;
    guint index;

    if (kumo_vmm_is_busy(vmm) || !vmm->config)
        return kumo_vmm_refuse(vmm, "remove a device", error);
    kumo_vmm_finish_ejects(vmm);
    if (!find_entry(vmm, id, &index)) {
        set_not_found(vmm, id, "removed", error);
        return false;
    }
    if (!vmm->vm) {
        remove_entry(vmm, id);
        return true;
    }
    device = kumo_device_find(kumo_vm_machine(vmm->vm), id);
    if (!device || !device->ops->ask_removal) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "%s: cannot be removed from a running machine", id);
        return false;
    }
    if (!device->ops->ask_removal(device, error)) {
        kumo_prefix_error(error, "%s", id);
        return false;
    }
    device->removal_asked = true;
    return true;
}

/* What the guest keeps stays in the next machine, too. While others may still leave, the number
 * that was asked for is the configured one. */
static void finish_vcpus(KumoVmm *vmm)
{
    bool some_refused = kumo_vm_vcpus_were_refused(vmm->vm);

    kumo_vm_finish_vcpu_ejects(vmm->vm);
    if (some_refused && kumo_vm_count_leaving_vcpus(vmm->vm) == 0)
        vmm->config->cpus.boot_vcpus = kumo_vm_count_vcpus(vmm->vm);
}

void kumo_vmm_finish_ejects(KumoVmm *vmm)
{
    GPtrArray *devices;

    /* First the flag: an eject that comes during the walk sets it again. */
    if (!atomic_exchange(&vmm->ejected, false) || !vmm->vm)
        return;
    finish_vcpus(vmm);
    devices = kumo_vm_machine(vmm->vm)->devices;
    for (guint i = devices->len; i-- > 0;) {
        KumoDevice *device = devices->pdata[i];
        json_t *gone;

        if (atomic_exchange(&device->refused, false))
            device->removal_asked = false;
        if (!atomic_load(&device->ejected))
            continue;
        gone = describe(device);
        kumo_device_remove(device);
        remove_entry(vmm, json_string_value(json_object_get(gone, "id")));
        kumo_vmm_event(vmm, "device-removed", gone);
    }
}

static void add_leaving(json_t **leaving, const char *event, json_t *properties)
{
    if (!*leaving)
        *leaving = json_array();
    json_array_append_new(*leaving,
                          json_pack("{s:s, s:o}", "event", event, "properties", properties));
}

json_t *kumo_vmm_take_leaving(KumoVmm *vmm)
{
    const GPtrArray *devices;
    json_t *leaving = NULL;

    if (!vmm->vm)
        return NULL;
    devices = kumo_vm_machine(vmm->vm)->devices;
    for (guint i = 0; i < devices->len; i++) {
        KumoDevice *device = devices->pdata[i];

        if (!device->removal_asked && !atomic_load(&device->ejected))
            continue;
        add_leaving(&leaving, "device-removed", describe(device));
    }
    for (uint32_t i = vmm->config->cpus.max_vcpus; i-- > 1;) {
        g_autofree char *id = g_strdup_printf("vcpu%" PRIu32, i);

        if (kumo_vm_vcpu_is_leaving(vmm->vm, i))
            add_leaving(&leaving, "vcpu-removed", json_pack("{s:s}", "id", id));
    }
    return leaving;
}

void kumo_vmm_drop_leaving(KumoVmm *vmm, json_t *leaving)
{
    size_t i;
    json_t *gone;

    json_array_foreach(leaving, i, gone)
    {
        const char *event = json_string_value(json_object_get(gone, "event"));
        json_t *properties = json_object_get(gone, "properties");

        if (strcmp(event, "device-removed") == 0)
            remove_entry(vmm, json_string_value(json_object_get(properties, "id")));
        kumo_vmm_event(vmm, event, json_incref(properties));
    }
    json_decref(leaving);
}

/* --- disks --- */

bool kumo_vmm_resize_disk(KumoVmm *vmm, const char *id, uint64_t size_bytes, GError **error)
{
    const ConfigList *list;
    KumoDevice *device;
    guint index;

    if (kumo_vmm_is_busy(vmm) || !vmm->config || !vmm->vm)
        return kumo_vmm_refuse(vmm, "resize a disk", error);
    kumo_vmm_finish_ejects(vmm);
    list = find_entry(vmm, id, &index);
    device = kumo_device_find(kumo_vm_machine(vmm->vm), id);
    if (!list || !device || !device->ops->resize) {
        set_not_found(vmm, id, "resized", error);
        return false;
    }
    return device->ops->resize(device, size_bytes, error);
}
