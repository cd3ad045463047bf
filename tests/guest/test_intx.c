/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Level-triggered interrupts: the rng device without MSI-X, through the IOAPIC and its end of
 * interrupt. */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum { VECTOR = 52, FIRST_PIN = 5, N_PINS = 8, BYTES = 64, REMOTE_IRR = 1 << 14 };

static Virtio rng;
static volatile unsigned ignore, last_isr, n_causeless;
static volatile bool ended_early;

static void on_interrupt(void)
{
    unsigned isr;

    if (!interrupt_in_service(VECTOR))
        ended_early = true;
    if (ignore) {
        ignore--;
        return;
    }
    isr = read8(rng.isr); /* clears it, and so the line */
    if (isr)
        last_isr = isr;
    else
        n_causeless++;
}

/* The interrupts that came. There are local APICs, software KVM's, that end an interrupt when they
   deliver it; the line is still high then if the handler is slow, and one more comes that has no
   cause. It is not counted there. */
static unsigned n_came(void)
{
    return interrupt_count[VECTOR] - (ended_early ? n_causeless : 0);
}

/* Whether COUNT come within two seconds. */
static bool came(unsigned count)
{
    while (n_came() < count)
        if (!wait_interrupts(VECTOR, interrupt_count[VECTOR] + count - n_came(), 2000000))
            return false;
    return true;
}

/* Whether COUNT came and in 20 ms there is none more. */
static bool no_more_than(unsigned count)
{
    wait_interrupts(VECTOR, interrupt_count[VECTOR] + 1, 20000);
    return n_came() == count;
}

void test_intx(void)
{
    Queue queue;
    uint8_t *data = dma_alloc(BYTES, 64);
    const Buffer one = { data, BYTES, true };
    uint32_t head, len;
    unsigned pin, before;
    uint16_t command;

    if (!ok(virtio_find(VIRTIO_RNG, 0, &rng) && virtio_begin(&rng, 0), "there is an rng device"))
        return;
    ok(read8(pci_config(rng.slot, PCI_INTERRUPT_PIN)) == 1, "it has interrupt pin A");
    pin = FIRST_PIN + rng.slot % N_PINS;
    interrupt_handler(VECTOR, on_interrupt);
    ioapic_route(pin, VECTOR, true, false);
    interrupts_on();
    if (!ok(virtio_queue(&rng, 0, NO_VECTOR, &queue), "its queue can be set up"))
        return;
    virtio_ready(&rng);

    queue_add(&queue, &one, 1);
    queue_kick(&queue);
    ok(came(1), "a buffer comes back with an interrupt on pin %u", pin);
    ok(last_isr == 1 && queue_take(&queue, &head, &len), "its cause is the queue");
    ok(no_more_than(1) && !(ioapic_read(0x10 + 2 * pin) & REMOTE_IRR),
       "one interrupt, its end has arrived");
    ok(read8(rng.isr) == 0, "the cause is cleared by reading it");

    before = n_came();
    ignore = 3;
    queue_add(&queue, &one, 1);
    queue_kick(&queue);
    ok(came(before + 4), "it comes again until the cause is read");
    ok(no_more_than(before + 4), "and then no more (%u)", n_came() - before);

    command = read16(pci_config(rng.slot, PCI_COMMAND));
    write16(pci_config(rng.slot, PCI_COMMAND), command | PCI_COMMAND_INTX_OFF);
    before = n_came();
    queue_add(&queue, &one, 1);
    ok(queue_run(&queue, &len, 2000000) && no_more_than(before), "not with the interrupt disabled");
    ok(read16(pci_config(rng.slot, PCI_STATUS)) & 1 << 3, "but the status register tells it");
    write16(pci_config(rng.slot, PCI_COMMAND), command);
    ok(came(before + 1), "it comes when it is enabled");

    queue_take(&queue, &head, &len);
    queue.avail[0] = 1; /* VIRTQ_AVAIL_F_NO_INTERRUPT */
    before = n_came();
    queue_add(&queue, &one, 1);
    ok(queue_run(&queue, &len, 2000000) && no_more_than(before), "not when the driver wants none");
    queue.avail[0] = 0;

    ioapic_route(pin, VECTOR, true, true);
    before = n_came();
    queue_add(&queue, &one, 1);
    ok(queue_run(&queue, &len, 2000000) && no_more_than(before), "not from a masked pin");
    ioapic_route(pin, VECTOR, true, false);
    ok(came(before + 1), "it comes when the pin is unmasked");
    virtio_set_status(&rng, 0);
    ok(no_more_than(before + 1), "none after a reset");
}
