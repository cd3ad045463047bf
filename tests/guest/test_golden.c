/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For the snapshots and streams in tests/data/state: sets up every device there is, then works with
 * all of them in rounds until the host sends a byte. What a round prints is the same in every
 * release.
 */
#include "tests/guest/blk.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

enum {
    TYPE_BALLOON = 5,
    TYPE_MEM = 24,
    BLK_VECTOR = 50,
    RNG_VECTOR = 51,
    IPI_VECTOR = 52,
    ROUND_US = 30000,
    SECONDS_US = 5000000,
    PATTERN_BYTES = 16 << 10,
    DISKS = 2,
    /* virtio-mem's configuration and requests (virtio 1.2, 5.15). */
    MEM_BLOCK_SIZE = 0,
    MEM_ADDR = 16,
    MEM_PLUGGED_SIZE = 40,
    MEM_REQUESTED_SIZE = 48,
    MEM_REQ_PLUG = 0,
    BALLOON_PAGES = 5,
    PAGE = 4096,
};

static Virtio blk[DISKS], rng, console, balloon, mem, net;
static Queue blk_queue[DISKS], rng_queue, console_in, console_out, inflate, mem_queue, net_in,
    net_out;
static Request *request;
static uint8_t *sector;
static bool has_mem, has_net;

/* The other processors halt and answer interrupts. */
static void wait_for_work(unsigned number)
{
    interrupts_on();
}

/* A clock that did not stand still while nobody ran the guest, as on software KVM, ends one wait
 * too early. */
static bool came(unsigned vector, unsigned count)
{
    return wait_interrupts(vector, count, SECONDS_US) || wait_interrupts(vector, count, SECONDS_US);
}

static bool served(Queue *queue)
{
    uint32_t len;

    return queue_run(queue, &len, SECONDS_US) || queue_run(queue, &len, SECONDS_US);
}

static bool begin(unsigned type, unsigned nth, Virtio *device, uint64_t features)
{
    if (!ok(virtio_find(type, nth, device) && virtio_begin(device, features),
            "device %u.%u takes part", type, nth))
        return false;
    msix_on(device->slot);
    return true;
}

static bool transfer(unsigned disk, uint32_t type, uint64_t at)
{
    const Buffer buffers[] = { { &request->header, sizeof(request->header), false },
                               { sector, SECTOR, type == T_IN },
                               { &request->status, 1, true } };

    request->header.type = type;
    request->header.sector = at;
    request->status = 0xff;
    queue_add(&blk_queue[disk], buffers, 3);
    return served(&blk_queue[disk]) && request->status == S_OK;
}

static bool set_up_disks(void)
{
    request = dma_alloc(sizeof(*request), 16);
    sector = dma_alloc(SECTOR, 512);
    for (unsigned i = 0; i < DISKS; i++) {
        if (!begin(VIRTIO_BLK, i, &blk[i], ~0ull))
            return false;
        msix_route(blk[i].slot, 1, msi_address(apic_id()), BLK_VECTOR, false);
        if (!ok(virtio_queue(&blk[i], 0, 1, &blk_queue[i]), "disk %u has a queue", i))
            return false;
        virtio_ready(&blk[i]);
    }
    return true;
}

static bool set_up_rng(void)
{
    if (!begin(VIRTIO_RNG, 0, &rng, ~0ull))
        return false;
    msix_route(rng.slot, 1, msi_address(apic_id()), RNG_VECTOR, false);
    virtio_queue(&rng, 0, 1, &rng_queue);
    virtio_ready(&rng);
    return true;
}

static bool set_up_console(void)
{
    if (!begin(VIRTIO_CONSOLE, 0, &console, 1))
        return false;
    virtio_queue(&console, 0, NO_VECTOR, &console_in);
    virtio_queue(&console, 1, NO_VECTOR, &console_out);
    virtio_ready(&console);
    return true;
}

/* Gives five pages away. */
static bool set_up_balloon(void)
{
    uint32_t *pages = dma_alloc(PAGE, PAGE), len;
    uint8_t *given = dma_alloc(BALLOON_PAGES * PAGE, PAGE);
    const Buffer buffer = { pages, BALLOON_PAGES * 4, false };

    /* Without statistics and reporting, whose queues nobody would serve. */
    if (!begin(TYPE_BALLOON, 0, &balloon, 1ull << FEATURE_VERSION_1))
        return false;
    virtio_queue(&balloon, 0, NO_VECTOR, &inflate);
    virtio_ready(&balloon);
    for (uint32_t i = 0; i < BALLOON_PAGES; i++)
        pages[i] = (uint32_t)((uintptr_t)given / PAGE) + i;
    queue_add(&inflate, &buffer, 1);
    if (!ok(queue_run(&inflate, &len, SECONDS_US), "the balloon takes pages"))
        return false;
    write32(balloon.device + 4, BALLOON_PAGES);
    return true;
}

/* Plugs what is wanted and writes to it. */
static bool set_up_mem(void)
{
    struct {
        uint16_t type, padding[3];
        uint64_t address;
        uint16_t n_blocks;
    } *ask = dma_alloc(64, 64);
    uint16_t *answer = dma_alloc(64, 64);
    const Buffer buffers[] = { { ask, 24, false }, { answer, 10, true } };
    uint64_t address, wanted;
    uint32_t len;

    has_mem = option_number("virtio_mem", 0) != 0;
    if (!has_mem)
        return true;
    if (!begin(TYPE_MEM, 0, &mem, 1ull << FEATURE_VERSION_1))
        return false;
    virtio_queue(&mem, 0, NO_VECTOR, &mem_queue);
    virtio_ready(&mem);
    address = read64(mem.device + MEM_ADDR);
    wanted = read64(mem.device + MEM_REQUESTED_SIZE);
    ask->type = MEM_REQ_PLUG;
    ask->address = address;
    ask->n_blocks = (uint16_t)(wanted / read64(mem.device + MEM_BLOCK_SIZE));
    queue_add(&mem_queue, buffers, 2);
    if (!ok(wanted && queue_run(&mem_queue, &len, SECONDS_US) && answer[0] == 0,
            "%lu bytes are plugged", wanted))
        return false;
    map(address, wanted);
    fill((void *)address, PATTERN_BYTES, 7);
    return true;
}

static bool set_up_net(void)
{
    has_net = option_number("net", 0) != 0;
    if (!has_net)
        return true;
    if (!begin(VIRTIO_NET, 0, &net, 1ull << FEATURE_VERSION_1 | 1ull << 5))
        return false;
    virtio_queue(&net, 0, NO_VECTOR, &net_in);
    virtio_queue(&net, 1, NO_VECTOR, &net_out);
    virtio_ready(&net);
    return true;
}

static bool disk_works(unsigned disk, unsigned round)
{
    unsigned before = interrupt_count[BLK_VECTOR];

    fill(sector, SECTOR, 1000 + round);
    if (!transfer(disk, T_OUT, 100 + round % 100))
        return false;
    memset(sector, 0, SECTOR);
    return transfer(disk, T_IN, 100 + round % 100) && !compare(sector, SECTOR, 1000 + round) &&
           came(BLK_VECTOR, before + 1);
}

static bool disks_work(unsigned round)
{
    for (unsigned i = 0; i < DISKS; i++) {
        /* Between writing and reading the disk may have become another one, which is empty. */
        if (!disk_works(i, round) && !disk_works(i, round))
            return false;
    }
    return true;
}

static bool rng_works(uint8_t *room)
{
    const Buffer buffer = { room, 64, true };
    unsigned before = interrupt_count[RNG_VECTOR];

    queue_add(&rng_queue, &buffer, 1);
    return served(&rng_queue) && came(RNG_VECTOR, before + 1);
}

static bool console_works(uint8_t *room)
{
    const Buffer buffer = { room, 6, false };

    memcpy(room, "golden", 6);
    queue_add(&console_out, &buffer, 1);
    return served(&console_out);
}

/* A frame that nobody answers. */
static bool net_works(uint8_t *room)
{
    const Buffer buffers[] = { { room, 12, false }, { room + 12, 60, false } };

    if (!has_net)
        return true;
    memset(room, 0, 72);
    memset(room + 12, 0xff, 6);
    for (unsigned i = 0; i < 6; i++)
        room[18 + i] = read8(net.device + i);
    room[24] = 0x88;
    room[25] = 0xb5;
    queue_add(&net_out, buffers, 2);
    return served(&net_out);
}

static bool memory_is_whole(const uint8_t *pattern)
{
    return !compare(pattern, PATTERN_BYTES, 99) &&
           (!has_mem || (read64(mem.device + MEM_PLUGGED_SIZE) > 0 &&
                         !compare((void *)read64(mem.device + MEM_ADDR), PATTERN_BYTES, 7))) &&
           read32(balloon.device + 4) == BALLOON_PAGES;
}

void test_golden(void)
{
    unsigned cpus = (unsigned)option_number("cpus", 1), round = 0;
    uint8_t *pattern = dma_alloc(PATTERN_BYTES, PAGE), *room = dma_alloc(128, 64);
    unsigned bad_disk = 0, bad_rng = 0, bad_console = 0, bad_net = 0, bad_memory = 0, bad_ipi = 0;
    unsigned bad_timer = 0, bad_clock = 0;
    uint64_t clock = now_us();

    if (!set_up_disks() || !set_up_rng() || !set_up_console() || !set_up_balloon() ||
        !set_up_mem() || !set_up_net())
        return;
    interrupts_on();
    for (unsigned cpu = 1; cpu < cpus; cpu++)
        ok(start_cpu(cpu, wait_for_work), "processor %u starts", cpu);
    fill(pattern, PATTERN_BYTES, 99);
    while (serial_read(0) < 0) {
        print("round %u\n", round);
        bad_disk += !disks_work(round);
        bad_rng += !rng_works(room);
        bad_console += !console_works(room);
        bad_net += !net_works(room);
        bad_memory += !memory_is_whole(pattern);
        for (unsigned cpu = 1; cpu < cpus; cpu++) {
            unsigned before = interrupt_count[IPI_VECTOR];

            send_ipi(cpu, IPI_VECTOR);
            bad_ipi += !came(IPI_VECTOR, before + 1);
        }
        /* Sleeps, woken by the timer: nothing else comes. */
        bad_timer += wait_interrupts(FIRST_VECTOR, 1, ROUND_US);
        bad_clock += now_us() < clock;
        clock = now_us();
        round++;
    }
    ok(round > 3, "%u rounds", round);
    ok(!bad_disk, "the disks failed %u times", bad_disk);
    ok(!bad_rng, "the random number generator failed %u times", bad_rng);
    ok(!bad_console, "the console failed %u times", bad_console);
    ok(!bad_net, "the network card failed %u times", bad_net);
    ok(!bad_memory, "memory was wrong %u times", bad_memory);
    ok(!bad_ipi, "the other processors did not answer %u times", bad_ipi);
    ok(!bad_timer, "the timer failed %u times", bad_timer);
    ok(!bad_clock, "the clock went back %u times", bad_clock);
}
