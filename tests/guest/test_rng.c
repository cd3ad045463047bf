/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum { BYTES = 256, VECTOR = 50 };

void test_rng(void)
{
    Virtio rng;
    Queue queue;
    uint8_t *a = dma_alloc(BYTES, 64), *b = dma_alloc(BYTES, 64);
    const Buffer first = { a, BYTES, true };
    const Buffer second[] = { { b, 1, true }, { b + 1, BYTES - 1, true } };
    unsigned ones = 0, before;
    uint32_t head, len = 0;
    bool good_features;

    if (!ok(virtio_find(VIRTIO_RNG, 0, &rng), "there is an rng device"))
        return;
    ok(virtio_status(&rng) == 0, "its status is 0");
    ok(read16(rng.common + COMMON_NUM_QUEUES) == 1, "it has one queue");
    ok(virtio_offered(&rng) >> FEATURE_VERSION_1 & 1, "it offers version 1");
    good_features = virtio_begin(&rng, ~0ull);
    ok(good_features, "it takes the features %lx", rng.features);
    ok(msix_on(rng.slot) == 2, "it has two MSI-X vectors");
    msix_route(rng.slot, 1, msi_address(apic_id()), VECTOR, false);
    if (!ok(virtio_queue(&rng, 0, 1, &queue), "its queue of %u can be set up", queue.size))
        return;
    virtio_ready(&rng);
    interrupts_on();

    queue_add(&queue, &first, 1);
    queue_kick(&queue);
    ok(wait_interrupts(VECTOR, 1, 2000000), "a buffer comes back with an interrupt");
    ok(queue_take(&queue, &head, &len) && head == 0 && len > 0 && len <= BYTES, "%u bytes", len);
    for (unsigned i = 0; i < len; i++)
        for (unsigned bit = 0; bit < 8; bit++)
            ones += a[i] >> bit & 1;
    ok(ones > len * 3 && ones < len * 5, "%u of their %u bits are set", ones, len * 8);

    queue_add(&queue, second, 2);
    ok(queue_run(&queue, &len, 2000000) && len > 1, "a chain of two comes back with %u bytes", len);
    ok(memcmp(a, b, len < 16 ? len : 16) != 0, "they are others");

    msix_route(rng.slot, 1, msi_address(apic_id()), VECTOR, true);
    before = interrupt_count[VECTOR];
    queue_add(&queue, &first, 1);
    ok(queue_run(&queue, &len, 2000000), "a third, with the vector masked");
    ok(!wait_interrupts(VECTOR, before + 1, 20000) && msix_pending(rng.slot, 1),
       "its interrupt is pending");
    msix_route(rng.slot, 1, msi_address(apic_id()), VECTOR, false);
    ok(wait_interrupts(VECTOR, before + 1, 2000000) && !msix_pending(rng.slot, 1),
       "and comes when it is unmasked");

    for (unsigned i = 0; i < 3 * queue.size; i++) {
        queue_add(&queue, &first, 1);
        if (!queue_run(&queue, &len, 2000000))
            give_up("buffer %u does not come back", i);
    }
    ok(true, "%u buffers go round the ring", 3 * queue.size);

    ok(virtio_begin(&rng, 0) && virtio_queue(&rng, 0, NO_VECTOR, &queue), "it works after a reset");
    virtio_ready(&rng);
    queue_add(&queue, &first, 1);
    ok(queue_run(&queue, &len, 2000000), "without an interrupt too");
}
