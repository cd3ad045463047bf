/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that does anything with the platform devices' registers. An input is a series of accesses
 * of two bytes: the place, as an index into the table below; and a byte whose lowest three bits are
 * the size less one, bit 6 set for an ACPI event that happens before, bit 7 set for a write, which
 * is followed by as many bytes as are written.
 */
#include <string.h>

#include "tests/fakes/fake_machine.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/platform/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CANARY = 0x5a };

static const uint64_t places[] = {
    0x61,  0x62,  0x63,  0x64,  0x70,  0x71,  0x80,  0x402,          0x600,
    0x601, 0x602, 0x603, 0x604, 0x608, 0x609, 0x60b, 0x3ffffffed000, 0x3ffffffed001,
};

static const KumoDeviceType *const types[] = {
    &kumo_device_type_cmos,       &kumo_device_type_i8042, &kumo_device_type_debug_port,
    &kumo_device_type_acpi_power, &kumo_device_type_ged,
};

static void step(FakeMachine *fake, uint64_t place, unsigned len, bool write, uint8_t *buf)
{
    KumoBus *bus = place > 0xffff ? fake->machine.mmio : fake->machine.pio;
    int before = fake->n_resets + fake->n_shutdowns;
    int after;

    if (write) {
        kumo_bus_write(bus, 0, place, buf, len);
    } else {
        kumo_bus_read(bus, 0, place, buf, len);
        g_assert_cmphex(buf[len], ==, CANARY);
    }
    /* Only a write asks for something, and once. */
    after = fake->n_resets + fake->n_shutdowns;
    g_assert_cmpint(after - before, >=, 0);
    g_assert_cmpint(after - before, <=, write ? 1 : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FakeMachine *fake = fake_machine_new();
    size_t at = 0;

    kumo_log_level = KUMO_LOG_ERROR;
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++)
        fake_machine_create(fake, types[i]);
    fake_machine_route(fake, 13, 0x41);
    while (at + 2 <= size) {
        uint64_t place = places[data[at] % G_N_ELEMENTS(places)];
        uint8_t op = data[at + 1];
        unsigned len = (op & 7) + 1;
        uint8_t buf[9];

        at += 2;
        memset(buf, CANARY, sizeof(buf));
        if (op & 0x80) {
            size_t given = MIN(len, size - at);

            memcpy(buf, data + at, given);
            at += given;
        }
        if (op & 0x40)
            fake->machine.acpi_notify(fake->machine.acpi_notify_opaque,
                                      (KumoAcpiNotify)(op & 0x0f));
        step(fake, place, len, op & 0x80, buf);
    }
    fake_machine_free(fake);
    return 0;
}
