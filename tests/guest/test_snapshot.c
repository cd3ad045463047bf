/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For snapshots: works with its devices in rounds until the host sends a byte, and finds out
 * whether anything was lost: memory, what a processor holds in registers, ring positions,
 * interrupts by MSI-X and from the local APIC's timer, the clock.
 */
#include "tests/guest/blk.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

enum {
    PATTERN_BYTES = 1 << 20,
    BLK_VECTOR = 50,
    RNG_VECTOR = 51,
    IPI_VECTOR = 52,
    ROUND_US = 30000,
    SECONDS_US = 5000000,
};

/* The other processor halts and answers interrupts. */
static void wait_for_work(unsigned number)
{
    interrupts_on();
}

static bool transfer(Queue *queue, Request *request, uint32_t type, uint64_t sector, void *data)
{
    const Buffer buffers[] = { { &request->header, sizeof(request->header), false },
                               { data, SECTOR, type == T_IN },
                               { &request->status, 1, true } };
    uint32_t len;

    request->header.type = type;
    request->header.sector = sector;
    request->status = 0xff;
    queue_add(queue, buffers, 3);
    return queue_run(queue, &len, SECONDS_US) && request->status == 0;
}

static bool set_up(unsigned type, unsigned vector, Virtio *device, Queue *queue)
{
    if (!ok(virtio_find(type, 0, device) && virtio_begin(device, ~0ull), "device %u is there",
            type))
        return false;
    msix_on(device->slot);
    msix_route(device->slot, 1, msi_address(apic_id()), vector, false);
    if (!ok(virtio_queue(device, 0, 1, queue), "its queue can be set up"))
        return false;
    virtio_ready(device);
    return true;
}

/* Page @page of those that every round writes anew, as round @round leaves it. */
static uint64_t churned(unsigned round, unsigned page)
{
    return (uint64_t)round << 32 | (page + 1);
}

/* Writes all pages at both ends. Returns: how many were not as the round before had left them. */
static unsigned churn(uint8_t *data, unsigned pages, unsigned round)
{
    unsigned bad = 0;

    for (unsigned i = 0; i < pages; i++) {
        volatile uint64_t *page = (volatile uint64_t *)(void *)(data + i * 4096ul);
        uint64_t old = round ? churned(round - 1, i) : 0;

        bad += page[0] != old || page[511] != old;
        page[0] = page[511] = churned(round, i);
    }
    return bad;
}

void test_snapshot(void)
{
    unsigned churn_pages = (unsigned)option_number("churn", 0), bad_churn = 0;
    uint8_t *churn_data = dma_alloc(churn_pages * 4096ul, 4096);
    uint8_t *data = dma_alloc(PATTERN_BYTES, 4096), *sector = dma_alloc(SECTOR, 512);
    uint8_t *random = dma_alloc(64, 64);
    const Buffer buffer = { random, 64, true };
    Request *request = dma_alloc(sizeof(Request), 16);
    unsigned bad_disk = 0, bad_rng = 0, bad_timer = 0, bad_memory = 0, bad_ipi = 0, bad_clock = 0;
    unsigned cpus = (unsigned)option_number("cpus", 1), round = 0;
    uint64_t clock;
    Virtio blk, rng;
    Queue blk_queue, rng_queue;
    uint32_t len;

    if (!set_up(VIRTIO_BLK, BLK_VECTOR, &blk, &blk_queue) ||
        !set_up(VIRTIO_RNG, RNG_VECTOR, &rng, &rng_queue))
        return;
    interrupts_on();
    if (cpus > 1)
        ok(start_cpu(1, wait_for_work), "processor 1 starts");
    fill(data, PATTERN_BYTES, 99);
    clock = now_us();
    while (serial_read(0) < 0) {
        unsigned blk_before = interrupt_count[BLK_VECTOR];
        unsigned rng_before = interrupt_count[RNG_VECTOR];
        unsigned ipi_before = interrupt_count[IPI_VECTOR];

        print("round %u\n", round);
        fill(sector, SECTOR, 1000 + round);
        if (!transfer(&blk_queue, request, T_OUT, 4000 + round % 100, sector))
            bad_disk++;
        memset(sector, 0, SECTOR);
        if (!transfer(&blk_queue, request, T_IN, 4000 + round % 100, sector) ||
            compare(sector, SECTOR, 1000 + round))
            bad_disk++;
        if (!wait_interrupts(BLK_VECTOR, blk_before + 1, SECONDS_US))
            bad_disk++;
        queue_add(&rng_queue, &buffer, 1);
        if (!queue_run(&rng_queue, &len, SECONDS_US) || len == 0 ||
            !wait_interrupts(RNG_VECTOR, rng_before + 1, SECONDS_US))
            bad_rng++;
        if (cpus > 1) {
            send_ipi(1, IPI_VECTOR);
            bad_ipi += !wait_interrupts(IPI_VECTOR, ipi_before + 1, SECONDS_US);
        }
        /* Sleeps, woken by the timer: nothing else comes. */
        bad_timer += wait_interrupts(FIRST_VECTOR, 1, ROUND_US);
        bad_churn += churn(churn_data, churn_pages, round);
        if (round % 4 == 0 && compare(data, PATTERN_BYTES, 99))
            bad_memory++;
        bad_clock += now_us() < clock;
        clock = now_us();
        round++;
    }
    ok(round > 3, "%u rounds", round);
    ok(!bad_disk, "the disk failed %u times", bad_disk);
    ok(!bad_rng, "the random number generator failed %u times", bad_rng);
    ok(!bad_timer, "the timer failed %u times", bad_timer);
    ok(!bad_memory, "memory was wrong %u times", bad_memory);
    ok(!bad_churn, "of what every round writes %u pages were wrong", bad_churn);
    ok(!bad_ipi, "the other processor did not answer %u times", bad_ipi);
    ok(!bad_clock, "the clock went back %u times", bad_clock);
    ok(!compare(data, PATTERN_BYTES, 99), "memory is what it was");
    ok(blk_queue.used[1] == blk_queue.last_used, "nothing came twice");
}
