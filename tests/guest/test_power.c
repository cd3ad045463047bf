/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ends of the machine, on command of the host over the serial port: a letter says what to do. A
 * reset has to come back here with the start state again; the host counts.
 */
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

static volatile uint64_t not_zero_after_first_boot;

static void triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = { 0, 0 };

    __asm__ volatile("lidt %0\n\tud2" : : "m"(none));
}

/* A device that the last boot left in the middle of its work is there anew. */
static bool rng_works(bool leave_running)
{
    static uint8_t data[64];
    const Buffer one = { data, sizeof(data), true };
    Virtio rng;
    Queue queue;
    uint32_t len;

    if (!virtio_find(VIRTIO_RNG, 0, &rng) || virtio_status(&rng) != 0 || !virtio_begin(&rng, 0) ||
        !virtio_queue(&rng, 0, NO_VECTOR, &queue))
        return false;
    virtio_ready(&rng);
    queue_add(&queue, &one, 1);
    if (!queue_run(&queue, &len, 3000000))
        return false;
    for (unsigned i = 0; leave_running && i < 100; i++)
        queue_add(&queue, &one, 1);
    queue_kick(&queue);
    return true;
}

void test_power(void)
{
    int command;

    ok(not_zero_after_first_boot == 0, "boot with fresh memory");
    not_zero_after_first_boot = 1;
    ok(rng_works(true), "a device works from its start state");
    print("ready\n");
    do {
        command = serial_read(30000000);
    } while (command == '\r' || command == '\n');
    switch (command) {
    case 'a': /* the ACPI reset register */
        outb(0x600, 1);
        break;
    case 'k': /* the keyboard controller's reset line */
        outb(0x64, 0xfe);
        break;
    case 't':
        triple_fault();
        break;
    case 'c': /* register 0x8f of the CMOS */
        outb(0x70, 0x8f);
        outb(0x71, 0);
        break;
    case 'h': /* halt with interrupts off: only the host can end it */
        print("halted\n");
        __asm__ volatile("cli; hlt");
        break;
    default:
        return;
    }
    delay_us(5000000);
    give_up("still running after command %c", command);
}
