/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-console: what the host sends comes back in capitals, until it sends a dot. */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum { ROOM = 64, VECTOR = 50 };

void test_console(void)
{
    Virtio console;
    Queue receive, transmit;
    uint8_t *in = dma_alloc(ROOM, 64), *out = dma_alloc(ROOM, 64);
    const Buffer from_host = { in, ROOM, true };
    unsigned total = 0, interrupts = 0;
    bool ended = false, sent = true, good_features;
    uint32_t head, len;

    interrupts_on();
    if (!ok(virtio_find(VIRTIO_CONSOLE, 0, &console), "there is a console"))
        return;
    good_features = virtio_begin(&console, 1);
    ok(good_features, "it takes the features %lx", console.features);
    msix_on(console.slot);
    msix_route(console.slot, 1, msi_address(apic_id()), VECTOR, false);
    if (!ok(virtio_queue(&console, 0, 1, &receive) &&
                virtio_queue(&console, 1, NO_VECTOR, &transmit),
            "its queues can be set up"))
        return;
    virtio_ready(&console);
    queue_add(&receive, &from_host, 1);
    queue_kick(&receive);
    print("ready\n");
    while (!ended && sent && wait_interrupts(VECTOR, interrupts + 1, 10000000)) {
        interrupts = interrupt_count[VECTOR];
        while (queue_take(&receive, &head, &len)) {
            const Buffer to_host = { out, len, false };
            uint32_t used;

            for (unsigned i = 0; i < len && i < ROOM; i++) {
                out[i] = in[i] >= 'a' && in[i] <= 'z' ? in[i] - 32 : in[i];
                ended |= in[i] == '.';
            }
            total += len;
            queue_add(&transmit, &to_host, 1);
            sent &= queue_run(&transmit, &used, 2000000);
            queue_add(&receive, &from_host, 1);
            queue_kick(&receive);
        }
    }
    ok(sent, "everything could be sent");
    ok(ended, "%u bytes came, a dot at last", total);
}
