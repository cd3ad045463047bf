/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The register by which a guest powers off and resets: sleep control and status (ACPI 6.4, 4.8.3.7)
 * and the reset register (4.8.3.6) at one address; the power management timer (4.8.3.3), 32 bits
 * wide; and, for guests that want them, PM1a blocks (4.8.3.1, 4.8.3.2) in which nothing ever
 * happens.
 */
#include "vmm-core/devices/platform/platform.h"

#include "vmm-core/base/clock.h"

#include <string.h>

enum {
    POWER_PORTS = 4,
    TIMER_PORTS = 4,
    TIMER_HZ = 3579545,
    SLEEP_TYPE_SHIFT = 2,
    SLEEP_ENABLE = 0x20,
};

typedef struct {
    KumoDevice device;
    uint64_t start_ns;
    bool has_pm1a;
} KumoAcpiPower;

static void zero_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    memset(data, 0, size);
}

static void power_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoAcpiPower *power = opaque;

    if (offset != 0)
        return;
    if (data[0] == KUMO_ACPI_RESET_VALUE)
        kumo_machine_request(power->device.machine, KUMO_MACHINE_REQUEST_RESET);
    else if (data[0] == (KUMO_ACPI_S5_SLEEP_TYPE << SLEEP_TYPE_SHIFT | SLEEP_ENABLE))
        kumo_machine_request(power->device.machine, KUMO_MACHINE_REQUEST_SHUTDOWN);
}

static const KumoBusOps power_bus_ops = {
    .read = zero_read,
    .write = power_write,
};

static void timer_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoAcpiPower *power = opaque;
    uint64_t since_ns = kumo_monotonic_ns() - power->start_ns;
    uint32_t ticks = (uint32_t)(since_ns / 1000000000u * TIMER_HZ +
                                since_ns % 1000000000u * TIMER_HZ / 1000000000u);

    for (unsigned i = 0; i < size; i++)
        data[i] = offset + i < TIMER_PORTS ? (uint8_t)(ticks >> (8 * (offset + i))) : 0xff;
}

static void timer_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
}

static const KumoBusOps timer_bus_ops = {
    .read = timer_read,
    .write = timer_write,
};

static void pm1a_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
}

static const KumoBusOps pm1a_bus_ops = {
    .read = zero_read,
    .write = pm1a_write,
};

/* All but the first two are the PM1a blocks. */
static const struct {
    uint16_t port;
    uint16_t n_ports;
    const KumoBusOps *ops;
    const char *name;
} ranges[] = {
    { KUMO_ACPI_POWER_PORT, POWER_PORTS, &power_bus_ops, "ACPI power" },
    { KUMO_ACPI_PM_TIMER_PORT, TIMER_PORTS, &timer_bus_ops, "ACPI timer" },
    { KUMO_ACPI_PM1A_EVENT_PORT, KUMO_ACPI_PM1A_EVENT_BYTES, &pm1a_bus_ops, "ACPI PM1a event" },
    { KUMO_ACPI_PM1A_CONTROL_PORT, KUMO_ACPI_PM1A_CONTROL_BYTES, &pm1a_bus_ops,
      "ACPI PM1a control" },
};

static void remove_ranges(KumoDevice *device, unsigned n)
{
    KumoBus *pio = device->machine->pio;

    while (n-- > 0)
        kumo_bus_remove(pio, ranges[n].port, device);
    kumo_bus_synchronize(pio);
}

static unsigned count_ranges(const KumoDevice *device)
{
    return ((const KumoAcpiPower *)device)->has_pm1a ? G_N_ELEMENTS(ranges) : 2;
}

static bool acpi_power_realize(KumoDevice *device, GError **error)
{
    for (unsigned i = 0; i < count_ranges(device); i++) {
        if (kumo_bus_add(device->machine->pio, ranges[i].port, ranges[i].n_ports, ranges[i].ops,
                         device, ranges[i].name, error))
            continue;
        remove_ranges(device, i);
        return false;
    }
    return true;
}

static void acpi_power_unrealize(KumoDevice *device)
{
    remove_ranges(device, count_ranges(device));
}

static void acpi_power_free(KumoDevice *device)
{
    g_free(device);
}

typedef struct {
    uint64_t timer_ns; /* since the timer was zero */
} PowerState;

static const KumoStateField power_fields[] = {
    { KUMO_STATE_ROW(U64, PowerState, timer_ns) },
};

static const KumoStateTable power_table = {
    .name = "acpi-power",
    .version = 1,
    .fields = power_fields,
    .n_fields = G_N_ELEMENTS(power_fields),
    .size = sizeof(PowerState),
};

static void acpi_power_save(KumoDevice *device, void *opaque)
{
    const KumoAcpiPower *power = (const KumoAcpiPower *)device;

    ((PowerState *)opaque)->timer_ns = kumo_monotonic_ns() - power->start_ns;
}

/* The timer wraps every twenty minutes: guests live with any value of it. */
static bool acpi_power_load(KumoDevice *device, const void *opaque, GError **error)
{
    KumoAcpiPower *power = (KumoAcpiPower *)device;

    power->start_ns = kumo_monotonic_ns() - ((const PowerState *)opaque)->timer_ns;
    return true;
}

static const KumoDeviceState acpi_power_state = {
    .table = &power_table,
    .save = acpi_power_save,
    .load = acpi_power_load,
};

static const KumoDeviceOps acpi_power_ops = {
    .type = "acpi-power",
    .realize = acpi_power_realize,
    .unrealize = acpi_power_unrealize,
    .free = acpi_power_free,
    .state = &acpi_power_state,
};

static bool acpi_power_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoAcpiPower *power;

    if (!machine->pio)
        return true;
    power = g_new0(KumoAcpiPower, 1);
    kumo_device_init(&power->device, &acpi_power_ops, machine, "__acpi_power");
    power->start_ns = kumo_monotonic_ns();
    power->has_pm1a = kumo_cpus_can_run_hyperv(&config->cpus);
    return kumo_device_add(&power->device, error);
}

const KumoDeviceType kumo_device_type_acpi_power = {
    .name = "acpi-power",
    .create = acpi_power_create,
};
