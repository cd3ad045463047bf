/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The controller by which PCI devices come and go while the guest runs: twenty bytes of registers,
 * the guest's interrupt by way of the ACPI event device, and \_SB_.PHPR, whose methods read them.
 *
 * A guest that ejects a slot does so on a vCPU's thread. Taking a device down there could wait for
 * its workers, and only the main thread may change the machine's list of devices; waiting for the
 * main thread in turn could wait for ever, for that may be waiting for this very vCPU to park. So
 * the write only hides the function, which from then on no config access finds, and posts the rest
 * to the main thread: when the guest's write returns, the slot is as empty as a guest can tell.
 */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/pci/pci-internal.h"

/* Each a dword, and only reached as such: reading the first two clears them. */
enum {
    REG_UP = 0x0,      /* PCIU: slots with a new device */
    REG_DOWN = 0x4,    /* PCID: slots whose device is to be let go */
    REG_EJECT = 0x8,   /* B0EJ: writing a slot's bit lets its device go */
    REG_SEGMENT = 0xc, /* PSEG: the segment that the others are of */
    REG_OST = 0x10,    /* POST, written: what _OST of a slot says, see pci-internal.h */
    REGS_LEN = 0x14,
};

struct KumoPciHotplug {
    KumoDevice device;
    uint64_t gpa;
    KumoLogLimit ost_limit; /* of what the guest may say again and again; under the lock */
};

static KumoPciSegment *selected(KumoPciRoot *root)
{
    return root->hotplug_select < root->n_segments ? &root->segments[root->hotplug_select] : NULL;
}

static void hotplug_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoPciHotplug *hotplug = opaque;
    KumoPciRoot *root = hotplug->device.machine->pci;
    KumoPciSegment *segment;
    uint32_t value = 0;

    memset(data, 0, size);
    if (size != 4 || offset % 4) {
        kumo_warn_guest("%s: read of %u bytes at 0x%x", hotplug->device.id, size, (unsigned)offset);
        return;
    }
    g_mutex_lock(&root->hotplug_lock);
    segment = selected(root);
    if (offset == REG_SEGMENT) {
        value = root->hotplug_select;
    } else if (segment && offset == REG_UP) {
        value = segment->up;
        segment->up = 0;
    } else if (segment && offset == REG_DOWN) {
        value = segment->down;
        segment->down = 0;
    }
    g_mutex_unlock(&root->hotplug_lock);
    pci_put32(data, value);
}

/* The lock is held, and this is inside a bus access: a function that is in its slot now stays until
 * unplugging, which waits for us. */
static void eject(KumoPciHotplug *hotplug, KumoPciSegment *segment, unsigned slot)
{
    KumoPciFunction *function = atomic_load_explicit(&segment->slots[slot], memory_order_acquire);
    KumoMachine *machine = hotplug->device.machine;

    segment->removable &= ~(1U << slot);
    segment->asked &= ~(1U << slot);
    segment->up &= ~(1U << slot);
    segment->down &= ~(1U << slot);
    if (!function)
        return;
    atomic_store_explicit(&function->hidden, true, memory_order_release);
    atomic_store(&function->device->ejected, true);
    if (machine->device_ejected)
        machine->device_ejected(machine->request_opaque);
}

/* Inside a bus access, as eject() is. */
static void write_ost(KumoPciHotplug *hotplug, uint32_t value)
{
    KumoMachine *machine = hotplug->device.machine;
    KumoPciRoot *root = machine->pci;
    unsigned slot = value & KUMO_PCI_OST_SLOT_MASK;
    uint32_t status = value >> KUMO_PCI_OST_STATUS_SHIFT & KUMO_PCI_OST_STATUS_MASK;
    KumoAcpiOst what =
        kumo_acpi_ost(value >> KUMO_PCI_OST_EVENT_SHIFT & KUMO_PCI_OST_EVENT_MASK, status);
    KumoPciFunction *function = NULL;
    g_autofree char *bdf = NULL;
    KumoPciSegment *segment;
    bool is_news = false;

    g_mutex_lock(&root->hotplug_lock);
    segment = selected(root);
    if (segment)
        function = atomic_load_explicit(&segment->slots[slot], memory_order_acquire);
    if (function && what == KUMO_ACPI_OST_NOT_LET_GO && segment->asked & 1U << slot) {
        segment->asked &= ~(1U << slot);
        atomic_store(&function->device->refused, true);
        is_news = true;
    } else if (function && what == KUMO_ACPI_OST_NOT_TAKEN) {
        is_news = kumo_log_limit_pass(&hotplug->ost_limit);
    }
    g_mutex_unlock(&root->hotplug_lock);
    if (!is_news)
        return;
    if (what == KUMO_ACPI_OST_NOT_LET_GO && machine->device_ejected)
        machine->device_ejected(machine->request_opaque);
    bdf = kumo_pci_function_bdf(function);
    kumo_machine_guest_refused(machine, what, function->device->id, bdf, status);
}

static void hotplug_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoPciHotplug *hotplug = opaque;
    KumoPciRoot *root = hotplug->device.machine->pci;
    KumoPciSegment *segment;
    uint32_t value, refused = 0;

    if (size != 4 || (offset != REG_EJECT && offset != REG_SEGMENT && offset != REG_OST)) {
        kumo_warn_guest("%s: write of %u bytes at 0x%x", hotplug->device.id, size,
                        (unsigned)offset);
        return;
    }
    value = pci_get32(data);
    if (offset == REG_OST) {
        write_ost(hotplug, value);
        return;
    }
    g_mutex_lock(&root->hotplug_lock);
    if (offset == REG_SEGMENT) {
        root->hotplug_select = value;
    } else {
        segment = selected(root);
        refused = segment ? value & ~segment->removable : value;
        for (unsigned slot = 0; segment && slot < KUMO_PCI_SLOTS; slot++) {
            if (value & ~refused & 1U << slot)
                eject(hotplug, segment, slot);
        }
    }
    g_mutex_unlock(&root->hotplug_lock);
    if (refused)
        kumo_warn_guest("%s: slots 0x%08x ejected without having been asked for: they stay",
                        hotplug->device.id, refused);
}

static const KumoBusOps hotplug_bus_ops = { .read = hotplug_read, .write = hotplug_write };

/* --- for the rest of the PCI code; main thread --- */

static void notify(KumoMachine *machine)
{
    if (machine->acpi_notify)
        machine->acpi_notify(machine->acpi_notify_opaque, KUMO_ACPI_NOTIFY_PCI);
}

void kumo_pci_announce(KumoPciFunction *function)
{
    KumoMachine *machine = function->device->machine;
    KumoPciRoot *root = machine->pci;

    if (!root->hotplug || !function->plugged)
        return;
    g_mutex_lock(&root->hotplug_lock);
    root->segments[function->segment].up |= 1U << function->slot;
    g_mutex_unlock(&root->hotplug_lock);
    notify(machine);
}

bool kumo_pci_ask_removal(KumoPciFunction *function, GError **error)
{
    KumoMachine *machine = function->device->machine;
    KumoPciRoot *root = machine->pci;
    KumoPciSegment *segment;

    if (!root->hotplug || !function->plugged) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "this machine has no PCI hotplug controller");
        return false;
    }
    segment = &root->segments[function->segment];
    g_mutex_lock(&root->hotplug_lock);
    if (!atomic_load(&function->hidden)) {
        segment->removable |= 1U << function->slot;
        segment->asked |= 1U << function->slot;
        atomic_store(&function->device->refused, false);
        segment->down |= 1U << function->slot;
    }
    g_mutex_unlock(&root->hotplug_lock);
    notify(machine);
    return true;
}

void kumo_pci_hotplug_forget(KumoPciRoot *root, const KumoPciFunction *function)
{
    KumoPciSegment *segment = &root->segments[function->segment];

    g_mutex_lock(&root->hotplug_lock);
    segment->up &= ~(1U << function->slot);
    segment->down &= ~(1U << function->slot);
    segment->removable &= ~(1U << function->slot);
    segment->asked &= ~(1U << function->slot);
    g_mutex_unlock(&root->hotplug_lock);
}

/* --- the device --- */

static bool hotplug_realize(KumoDevice *device, GError **error)
{
    KumoPciHotplug *hotplug = (KumoPciHotplug *)device;
    KumoMachine *machine = device->machine;

    if (!kumo_machine_alloc_platform_mmio(machine, REGS_LEN, &hotplug->gpa, error) ||
        !kumo_bus_add(machine->mmio, hotplug->gpa, REGS_LEN, &hotplug_bus_ops, hotplug, device->id,
                      error))
        return false;
    machine->pci->hotplug = hotplug;
    machine->has_pci_hotplug = true;
    return true;
}

static void hotplug_unrealize(KumoDevice *device)
{
    KumoPciHotplug *hotplug = (KumoPciHotplug *)device;

    device->machine->has_pci_hotplug = false;
    device->machine->pci->hotplug = NULL;
    kumo_bus_remove(device->machine->mmio, hotplug->gpa, hotplug);
    kumo_bus_synchronize(device->machine->mmio);
}

static void hotplug_free(KumoDevice *device)
{
    g_free(device);
}

/* PCEJ(slot, segment): lets the device in a slot go. */
static void add_eject_method(KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "PCEJ", 2, true);

    kumo_aml_acquire(aml, "BLCK", 0xffff);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_arg(aml, 1);
    kumo_aml_path(aml, "PSEG");
    kumo_aml_op(aml, KUMO_AML_SHIFT_LEFT);
    kumo_aml_integer(aml, 1);
    kumo_aml_arg(aml, 0);
    kumo_aml_path(aml, "B0EJ");
    kumo_aml_release(aml, "BLCK");
    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_integer(aml, 0);
    kumo_aml_close(aml, method);
}

/* PSCN: what the event device's method calls. */
static void add_scan_method(const KumoPciRoot *root, KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "PSCN", 0, true);

    for (unsigned i = 0; i < root->n_segments; i++) {
        char name[8];
        g_autofree char *path = NULL;

        kumo_pci_segment_name(name, i);
        path = g_strdup_printf("\\_SB_.%s.PCNT", name);
        kumo_aml_path(aml, path);
    }
    kumo_aml_close(aml, method);
}

static void hotplug_aml(KumoDevice *device, KumoAml *aml)
{
    static const KumoAmlField fields[] = {
        { "PCIU", 32 }, { "PCID", 32 }, { "B0EJ", 32 }, { "PSEG", 32 }, { "POST", 32 }
    };
    const KumoPciHotplug *hotplug = (const KumoPciHotplug *)device;
    KumoAmlMark controller = kumo_aml_open_device(aml, "PHPR");
    KumoAmlMark resources;

    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0A06");
    kumo_aml_name(aml, "_STA");
    kumo_aml_integer(aml, 0x0b); /* present, decoding, working, not to be shown */
    kumo_aml_name(aml, "_UID");
    kumo_aml_string(aml, "PCI Hotplug Controller");
    kumo_aml_mutex(aml, "BLCK");
    kumo_aml_name(aml, "_CRS");
    resources = kumo_aml_open_resources(aml);
    kumo_aml_res_qword_memory(aml, false, hotplug->gpa, hotplug->gpa + REGS_LEN - 1);
    kumo_aml_close_resources(aml, resources);
    kumo_aml_operation_region(aml, "PCST", 0, hotplug->gpa, REGS_LEN);
    kumo_aml_field(aml, "PCST", 3, false, 2, fields, G_N_ELEMENTS(fields));
    add_eject_method(aml);
    add_scan_method(device->machine->pci, aml);
    kumo_aml_close(aml, controller);
}

static const KumoDeviceOps hotplug_ops = {
    .type = "pci-hotplug",
    .realize = hotplug_realize,
    .unrealize = hotplug_unrealize,
    .free = hotplug_free,
    .aml = hotplug_aml,
};

static bool hotplug_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoPciHotplug *hotplug = g_new0(KumoPciHotplug, 1);

    kumo_device_init(&hotplug->device, &hotplug_ops, machine, "__pci_hotplug");
    return kumo_device_add(&hotplug->device, error);
}

const KumoDeviceType kumo_device_type_pci_hotplug = {
    .name = "pci-hotplug",
    .create = hotplug_create,
};
