/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The UART: registers, loopback, transmit and receive interrupts through the IOAPIC. */
#include "tests/guest/interrupts.h"
#include "tests/guest/tests.h"

enum {
    COM1 = 0x3f8,
    IER = COM1 + 1,
    IIR = COM1 + 2,
    LCR = COM1 + 3,
    MCR = COM1 + 4,
    LSR = COM1 + 5,
    SCR = COM1 + 7,
    PIN = 4,
    VECTOR = 48,
};

static volatile unsigned n_received, last_iir;
static volatile uint8_t received[16];

static void on_interrupt(void)
{
    uint8_t iir = inb(IIR);

    last_iir = iir;
    while (inb(LSR) & 1) {
        uint8_t byte = inb(COM1);

        if (n_received < sizeof(received))
            received[n_received++] = byte;
    }
}

void test_serial(void)
{
    uint16_t debug_port = (uint16_t)option_number("debug_port", 0);
    unsigned before, divisor;

    ok(inb(0xe9) == (debug_port == 0xe9 ? 0xe9 : 0xff), "port 0xe9 reads as %x", inb(0xe9));
    for (const char *c = "early words\n"; debug_port && *c; c++)
        outb(debug_port, (uint8_t)*c);
    if (debug_port)
        outl(debug_port, 0x21212121); /* the port is one byte wide */

    outb(SCR, 0x5a);
    ok(inb(SCR) == 0x5a, "scratch register");
    outb(LCR, 0x83);
    divisor = inb(COM1) | (unsigned)inb(IER) << 8;
    outb(LCR, 3);
    ok(divisor == 12, "divisor is %u: 9600 baud", divisor);
    ok((inb(LSR) & 0x60) == 0x60, "transmitter is empty");
    ok((ioapic_read(1) & 0xff00ff) == 0x170011, "IOAPIC has 24 pins (%x)", ioapic_read(1));

    ioapic_route(PIN, VECTOR, false, false);
    interrupt_handler(VECTOR, on_interrupt);
    interrupts_on();
    before = interrupt_count[VECTOR];
    outb(MCR, 0x08);
    outb(IER, 2);
    ok(wait_interrupts(VECTOR, before + 1, 2000000), "transmitter empty interrupts");
    ok((last_iir & 0xf) == 2, "its identification is 2 (%x)", last_iir);
    outb(IER, 0);
    ioapic_route(PIN, VECTOR, false, true);
    before = interrupt_count[VECTOR];
    outb(IER, 2);
    ok(!wait_interrupts(VECTOR, before + 1, 20000), "a masked pin does not interrupt");
    outb(IER, 0);
    ioapic_route(PIN, VECTOR, false, false);
    before = interrupt_count[VECTOR];

    outb(IER, 1);
    print("send\n"); /* the host answers with four bytes */
    for (unsigned i = 0; i < 50 && n_received < 4; i++)
        wait_interrupts(VECTOR, before + i + 1, 100000);
    ok(n_received == 4 && !memcmp((const void *)received, "kumo", 4),
       "%u bytes received by interrupt", n_received);
    ok(interrupt_count[VECTOR] > before, "%u interrupts", interrupt_count[VECTOR] - before);
    outb(IER, 0);
}
