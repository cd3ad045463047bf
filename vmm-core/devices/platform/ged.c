/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The generic event device (ACPI 6.4, 5.6.9): one interrupt and a byte that says what happened,
 * cleared by reading it. The power button and changes of PCI slots, vCPUs and memory are told
 * through it.
 */
#include "vmm-core/devices/platform/platform.h"

#include <stdatomic.h>
#include <string.h>

enum {
    GED_BYTES = 1,
    GED_PAGE = 0x1000,
    /* From the top down: memory hotplug's page, if there is that; PCI hotplug's, CPU hotplug's,
     * this one; the two may be missing. */
    GED_PAGES_FROM_TOP = 3,
};

typedef struct {
    KumoDevice device;
    uint64_t gpa;
    atomic_uint pending; /* KumoAcpiNotify */
} KumoGed;

static void ged_notify(void *opaque, KumoAcpiNotify what)
{
    KumoGed *ged = opaque;

    atomic_fetch_or(&ged->pending, what);
    kumo_irq_pulse(ged->device.machine->irq, ged->device.machine->layout.ged_gsi);
}

static void ged_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoGed *ged = opaque;

    memset(data, 0, size);
    data[0] = (uint8_t)atomic_exchange(&ged->pending, 0);
}

static void ged_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
}

static const KumoBusOps ged_bus_ops = {
    .read = ged_read,
    .write = ged_write,
};

static bool ged_realize(KumoDevice *device, GError **error)
{
    KumoGed *ged = (KumoGed *)device;
    KumoMachine *machine = device->machine;
    const KumoMachineLayout *layout = &machine->layout;
    unsigned pages = GED_PAGES_FROM_TOP + machine->has_memory_hotplug;
    uint64_t wanted_gpa =
        layout->platform_mmio_base + layout->platform_mmio_size - (uint64_t)pages * GED_PAGE;

    do {
        if (!kumo_machine_alloc_platform_mmio(machine, GED_BYTES, &ged->gpa, error))
            return false;
    } while (ged->gpa > wanted_gpa);
    if (!kumo_bus_add(machine->mmio, ged->gpa, GED_BYTES, &ged_bus_ops, ged, "ged", error))
        return false;
    machine->acpi_notify_opaque = ged;
    machine->acpi_notify = ged_notify;
    return true;
}

static void ged_unrealize(KumoDevice *device)
{
    KumoGed *ged = (KumoGed *)device;

    device->machine->acpi_notify = NULL;
    device->machine->acpi_notify_opaque = NULL;
    kumo_bus_remove(device->machine->mmio, ged->gpa, ged);
    kumo_bus_synchronize(device->machine->mmio);
}

static void ged_free(KumoDevice *device)
{
    g_free(device);
}

/* If @what is among what the register said, that is the affair of @method. */
static void ged_aml_call(KumoAml *aml, KumoAcpiNotify what, const char *method)
{
    KumoAmlMark test = kumo_aml_open_if(aml);

    kumo_aml_op(aml, KUMO_AML_AND);
    kumo_aml_local(aml, 0);
    kumo_aml_integer(aml, what);
    kumo_aml_integer(aml, 0); /* And's target: none */
    kumo_aml_path(aml, method);
    kumo_aml_close(aml, test);
}

/* The register, and the method that reads it and passes on what it says. */
static void ged_aml_controller(const KumoGed *ged, KumoAml *aml)
{
    static const KumoAmlField fields[] = { { "GDAT", 8 } };
    const KumoMachine *machine = ged->device.machine;
    KumoAmlMark controller = kumo_aml_open_device(aml, "GEC_");
    KumoAmlMark mark;

    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0A06");
    kumo_aml_name(aml, "_UID");
    kumo_aml_string(aml, "Generic Event Controller");
    kumo_aml_name(aml, "_CRS");
    mark = kumo_aml_open_resources(aml);
    kumo_aml_res_qword_memory(aml, false, ged->gpa, ged->gpa + GED_BYTES - 1);
    kumo_aml_close_resources(aml, mark);
    kumo_aml_operation_region(aml, "GDST", 0, ged->gpa, GED_BYTES);
    kumo_aml_field(aml, "GDST", 1, false, 2, fields, G_N_ELEMENTS(fields));

    mark = kumo_aml_open_method(aml, "ESCN", 0, true);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_path(aml, "GDAT");
    kumo_aml_local(aml, 0);
    {
        KumoAmlMark test = kumo_aml_open_if(aml);

        kumo_aml_op(aml, KUMO_AML_AND);
        kumo_aml_local(aml, 0);
        kumo_aml_integer(aml, KUMO_ACPI_NOTIFY_POWER_BUTTON);
        kumo_aml_integer(aml, 0); /* And's target: none */
        kumo_aml_op(aml, KUMO_AML_NOTIFY);
        kumo_aml_path(aml, "\\_SB_.PWRB");
        kumo_aml_integer(aml, 0x80);
        kumo_aml_close(aml, test);
    }
    if (machine->has_cpu_hotplug)
        ged_aml_call(aml, KUMO_ACPI_NOTIFY_CPU, "\\_SB_.CPUS.CSCN");
    if (machine->has_memory_hotplug)
        ged_aml_call(aml, KUMO_ACPI_NOTIFY_MEMORY, "\\_SB_.MHPC.MSCN");
    if (machine->has_pci_hotplug)
        ged_aml_call(aml, KUMO_ACPI_NOTIFY_PCI, "\\_SB_.PHPR.PSCN");
    kumo_aml_close(aml, mark);
    kumo_aml_close(aml, controller);
}

static void ged_aml(KumoDevice *device, KumoAml *aml)
{
    const KumoGed *ged = (const KumoGed *)device;
    KumoAmlMark mark, inner;

    mark = kumo_aml_open_device(aml, "PWRB");
    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0C0C");
    kumo_aml_name(aml, "_UID");
    kumo_aml_integer(aml, 0);
    kumo_aml_close(aml, mark);

    ged_aml_controller(ged, aml);

    mark = kumo_aml_open_device(aml, "GED_");
    kumo_aml_name(aml, "_HID");
    kumo_aml_string(aml, "ACPI0013");
    kumo_aml_name(aml, "_UID");
    kumo_aml_integer(aml, 0);
    kumo_aml_name(aml, "_CRS");
    inner = kumo_aml_open_resources(aml);
    kumo_aml_res_irq(aml, device->machine->layout.ged_gsi, false, false, false);
    kumo_aml_close_resources(aml, inner);
    inner = kumo_aml_open_method(aml, "_EVT", 1, true);
    kumo_aml_path(aml, "\\_SB_.GEC_.ESCN");
    kumo_aml_close(aml, inner);
    kumo_aml_close(aml, mark);
}

typedef struct {
    uint32_t pending; /* of KumoAcpiNotify */
    uint64_t gpa;     /* where the guest's tables say it is */
} GedState;

static const KumoStateField ged_fields[] = {
    { KUMO_STATE_ROW(U32, GedState, pending) },
    { KUMO_STATE_ROW(U64, GedState, gpa) },
};

static const KumoStateTable ged_table = {
    .name = "ged",
    .version = 1,
    .fields = ged_fields,
    .n_fields = G_N_ELEMENTS(ged_fields),
    .size = sizeof(GedState),
};

static void ged_save(KumoDevice *device, void *opaque)
{
    KumoGed *ged = (KumoGed *)device;
    GedState *state = opaque;

    state->pending = atomic_load(&ged->pending);
    state->gpa = ged->gpa;
}

static bool ged_load(KumoDevice *device, const void *opaque, GError **error)
{
    KumoGed *ged = (KumoGed *)device;
    const GedState *state = opaque;

    if (!kumo_state_check_u64("gpa", state->gpa, ged->gpa, error))
        return false;
    atomic_store(&ged->pending, state->pending);
    return true;
}

static const KumoDeviceState ged_state = {
    .table = &ged_table,
    .save = ged_save,
    .load = ged_load,
};

static const KumoDeviceOps ged_ops = {
    .type = "ged",
    .realize = ged_realize,
    .unrealize = ged_unrealize,
    .free = ged_free,
    .aml = ged_aml,
    .state = &ged_state,
};

static bool ged_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoGed *ged = g_new0(KumoGed, 1);

    kumo_device_init(&ged->device, &ged_ops, machine, "__ged");
    return kumo_device_add(&ged->device, error);
}

const KumoDeviceType kumo_device_type_ged = {
    .name = "ged",
    .create = ged_create,
};
