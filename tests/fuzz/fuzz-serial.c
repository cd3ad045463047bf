/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that does anything with the serial port's registers. An input is a series of accesses: a
 * byte whose lowest three bits are the register, the next three the size less one and the highest
 * one set for a write, which is followed by as many bytes as are written.
 */
#include <string.h>

#include "tests/fakes/fake_machine.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/platform/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COM1 = 0x3f8, CANARY = 0x5a };

/* What holds whatever a guest did. */
static void check(FakeMachine *fake)
{
    uint8_t line_control = fake_machine_inb(fake, COM1 + 3);
    uint8_t id = fake_machine_inb(fake, COM1 + 2);
    uint8_t status = fake_machine_inb(fake, COM1 + 5);

    g_assert_true((id & 0xf0) == 0xc0 || (id & 0xf0) == 0x00);
    g_assert_cmphex(status & 0x60, ==, 0x60);
    if (!(line_control & 0x80) && fake_machine_inb(fake, COM1 + 1) == 0)
        g_assert_cmphex(id & 0x0f, ==, 0x01);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FakeMachine *fake = fake_machine_new();
    size_t at = 0;

    kumo_log_level = KUMO_LOG_ERROR;
    fake->config->serial.mode = KUMO_CONSOLE_NULL;
    fake_machine_create(fake, &kumo_device_type_serial);
    fake_machine_route(fake, 4, 0x34);
    while (at < size) {
        uint8_t op = data[at++];
        uint64_t port = COM1 + (op & 7);
        unsigned len = (op >> 3 & 7) + 1;
        uint8_t buf[9];

        memset(buf, CANARY, sizeof(buf));
        if (op & 0x80) {
            size_t given = MIN(len, size - at);

            memcpy(buf, data + at, given);
            at += given;
            kumo_bus_write(fake->machine.pio, 0, port, buf, len);
        } else {
            kumo_bus_read(fake->machine.pio, 0, port, buf, len);
            g_assert_cmphex(buf[len], ==, CANARY);
        }
        if (op & 0x40)
            check(fake);
    }
    check(fake);
    fake_machine_free(fake);
    return 0;
}
