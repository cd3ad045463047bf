/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Output without measure, for a host that does not read it: numbered lines of LINE bytes, a letter
 * from the host for each flood. c floods virtio-console, s the serial port; the other one tells the
 * end. h says hello through virtio-console, w waits until its size changes and tells it.
 */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    F_SIZE = 0,
    LINE = 64,
    LINES_AT_ONCE = 64,
    CONSOLE_LINES = 16384, /* 1 MiB: more than a ring and what a socket holds */
    SERIAL_LINES = 1200,   /* more than a ring */
    COM1 = 0x3f8,
    VECTOR_SIZE = 51,
};

static Virtio console;
static Queue transmit;
static uint8_t *out;

static void make_line(uint8_t *at, unsigned number)
{
    memset(at, 'x', LINE);
    memcpy(at, "line ", 5);
    for (unsigned i = 0; i < 6; i++, number /= 10)
        at[10 - i] = (uint8_t)('0' + number % 10);
    at[11] = ' ';
    at[LINE - 1] = '\n';
}

static void send(uint32_t len)
{
    const Buffer buffer = { out, len, false };
    uint32_t used;

    queue_add(&transmit, &buffer, 1);
    if (!queue_run(&transmit, &used, 20000000))
        give_up("the console takes nothing");
}

static void say(const char *text)
{
    memcpy(out, text, strlen(text));
    send((uint32_t)strlen(text));
}

static void flood_console(void)
{
    for (unsigned number = 0; number < CONSOLE_LINES; number += LINES_AT_ONCE) {
        for (unsigned i = 0; i < LINES_AT_ONCE; i++)
            make_line(out + (size_t)i * LINE, number + i);
        send(LINES_AT_ONCE * LINE);
    }
    print("flooded\n");
}

static void flood_serial(void)
{
    for (unsigned number = 0; number < SERIAL_LINES; number++) {
        const uint8_t *from = out;
        uint64_t left = LINE;

        make_line(out, number);
        /* Without a look at the line status register: the host never makes the guest wait. */
        __asm__ volatile("rep outsb" : "+S"(from), "+c"(left) : "d"((uint16_t)COM1) : "memory");
    }
    say("flooded\n");
}

static void tell_size(void)
{
    static unsigned seen;

    if (!wait_interrupts(VECTOR_SIZE, seen + 1, 20000000))
        give_up("no configuration interrupt of the console");
    seen = interrupt_count[VECTOR_SIZE];
    print("size %u %u\n", read16(console.device), read16(console.device + 2));
}

void test_flood(void)
{
    interrupts_on();
    if (!virtio_find(VIRTIO_CONSOLE, 0, &console) || !virtio_begin(&console, 1 << F_SIZE))
        give_up("there is no console");
    msix_on(console.slot);
    msix_route(console.slot, 0, msi_address(apic_id()), VECTOR_SIZE, false);
    write16(console.common + COMMON_CONFIG_VECTOR, 0);
    if (!virtio_queue(&console, 1, NO_VECTOR, &transmit))
        give_up("the console's queue cannot be set up");
    virtio_ready(&console);
    out = dma_alloc(LINES_AT_ONCE * LINE, 4096);
    print("size %u %u\n", read16(console.device), read16(console.device + 2));
    print("ready\n");
    for (;;) {
        switch (serial_read(120000000)) {
        case 'c':
            flood_console();
            break;
        case 's':
            flood_serial();
            break;
        case 'h':
            say("hello\n");
            break;
        case 'w':
            tell_size();
            break;
        case 'q':
            return;
        default:
            break;
        }
    }
}
