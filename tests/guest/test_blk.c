/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disks. The host made each of 4 MiB; the first MiB holds the pattern of fill() with seed 1. What
 * is written here is checked by the host afterwards: seed 2 from 1 MiB, seed 100 + i in the i-th
 * block of 64 KiB from 2 MiB, nothing else.
 */
#include "tests/guest/blk.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

enum {
    MIB = 1 << 20,
    BLOCK = 64 << 10,
    N_BLOCKS = 8,
    VECTOR = 50,
    MAX_QUEUES = 4,
};

typedef struct {
    Virtio virtio;
    Queue queues[MAX_QUEUES];
    unsigned n_queues;
} Disk;

static Request *request_new(void)
{
    return dma_alloc(sizeof(Request), 16);
}

static void add(Queue *queue, Request *request, uint32_t type, uint64_t sector, void *data,
                uint32_t len)
{
    Buffer buffers[] = { { &request->header, sizeof(request->header), false },
                         { data, len, type == T_IN || type == T_GET_ID },
                         { &request->status, 1, true } };

    request->header.type = type;
    request->header.reserved = 0;
    request->header.sector = sector;
    request->status = 0xff;
    if (!len)
        buffers[1] = buffers[2];
    queue_add(queue, buffers, len ? 3 : 2);
}

/* One request, polled. Returns: its status, 0xff if it did not come back. */
static unsigned run(Queue *queue, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
    static Request *request;
    uint32_t used;

    if (!request)
        request = request_new();
    add(queue, request, type, sector, data, len);
    return queue_run(queue, &used, 5000000) ? request->status : 0xff;
}

static bool open_disk(unsigned nth, Disk *disk)
{
    bool good;

    if (!ok(virtio_find(VIRTIO_BLK, nth, &disk->virtio), "disk %u is there", nth))
        return false;
    good = virtio_begin(&disk->virtio, ~0ull);
    if (!ok(good, "it takes the features %lx", disk->virtio.features))
        return false;
    msix_on(disk->virtio.slot);
    disk->n_queues =
        disk->virtio.features >> F_MQ & 1 ? read16(disk->virtio.device + BLK_NUM_QUEUES) : 1;
    /* A driver need not use all. */
    disk->n_queues = (unsigned)option_number("use_queues", disk->n_queues);
    for (unsigned i = 0; i < disk->n_queues && i < MAX_QUEUES; i++) {
        msix_route(disk->virtio.slot, i + 1, msi_address(apic_id()), VECTOR + i, false);
        if (!virtio_queue(&disk->virtio, i, i + 1, &disk->queues[i]))
            give_up("queue %u cannot be set up", i);
    }
    virtio_ready(&disk->virtio);
    return ok(read64(disk->virtio.device) == 4 * MIB / SECTOR, "it has %lu sectors",
              read64(disk->virtio.device));
}

static void check_data(Disk *disk, uint8_t *data)
{
    Queue *queue = &disk->queues[0];
    size_t wrong;

    ok(run(queue, T_IN, 0, data, MIB) == S_OK, "1 MiB can be read");
    wrong = compare(data, MIB, 1);
    ok(!wrong, "it is what the host wrote (%lu)", wrong);
    ok(run(queue, T_IN, 1, data, SECTOR) == S_OK && compare(data, SECTOR, 1),
       "sector 1 is another one");
    fill(data, MIB / 2, 2);
    ok(run(queue, T_OUT, MIB / SECTOR, data, MIB / 2) == S_OK, "512 KiB can be written");
    ok(run(queue, T_FLUSH, 0, NULL, 0) == S_OK, "and flushed");
    fill(data, MIB / 2, 3);
    ok(run(queue, T_IN, MIB / SECTOR, data, MIB / 2) == S_OK && !compare(data, MIB / 2, 2),
       "and read back");
}

static void check_errors(Disk *disk, uint8_t *data)
{
    Queue *queue = &disk->queues[0];
    char serial[21] = { 0 };

    ok(run(queue, T_GET_ID, 0, serial, 20) == S_OK && !memcmp(serial, "kumo-disk", 10),
       "serial number '%s'", serial);
    ok(run(queue, T_IN, 4 * MIB / SECTOR, data, SECTOR) == S_IOERR, "no reading behind the end");
    ok(run(queue, T_OUT, 4 * MIB / SECTOR - 1, data, 2 * SECTOR) == S_IOERR,
       "no writing across the end");
    ok(run(queue, T_IN, UINT64_MAX, data, SECTOR) == S_IOERR,
       "no reading of the last sector there could be");
    ok(run(queue, T_IN, UINT64_MAX / SECTOR + 1, data, SECTOR) == S_IOERR,
       "nor where its offset wraps");
    ok(run(queue, 99, 0, data, SECTOR) == S_UNSUPP, "an unknown request is not supported");
    ok(run(queue, T_IN, 0, data, SECTOR) == S_OK && !compare(data, SECTOR, 1),
       "the disk works after them");
}

/* All queues, many requests under way, completion by interrupt. */
static void check_parallel(Disk *disk, uint8_t *data)
{
    static Request *requests[N_BLOCKS];
    uint32_t head, len;
    unsigned done = 0;
    uint64_t end;

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        requests[i] = request_new();
        fill(data + i * BLOCK, BLOCK, 100 + i);
        add(&disk->queues[i % disk->n_queues], requests[i], T_OUT, (2 * MIB + i * BLOCK) / SECTOR,
            data + i * BLOCK, BLOCK);
    }
    for (unsigned i = 0; i < disk->n_queues; i++)
        queue_kick(&disk->queues[i]);
    for (unsigned i = 0; i < disk->n_queues; i++)
        ok(wait_interrupts(VECTOR + i, 1, 5000000), "queue %u interrupts", i);
    end = now_us() + 5000000;
    while (done < N_BLOCKS && now_us() < end)
        for (unsigned i = 0; i < disk->n_queues; i++)
            done += queue_take(&disk->queues[i], &head, &len);
    for (unsigned i = 0; i < N_BLOCKS; i++)
        done -= requests[i]->status != S_OK;
    ok(done == N_BLOCKS, "%u blocks written at once on %u queues", done, disk->n_queues);
    ok(run(&disk->queues[0], T_IN, 2 * MIB / SECTOR, data, BLOCK) == S_OK &&
           !compare(data, BLOCK, 100),
       "the first is there");
    ok(run(&disk->queues[disk->n_queues - 1], T_FLUSH, 0, NULL, 0) == S_OK,
       "the last queue flushes");
}

static void check_event_index(Disk *disk, uint8_t *data)
{
    Queue *queue = &disk->queues[0];
    unsigned before;

    if (!ok(disk->virtio.features >> FEATURE_EVENT_IDX & 1, "it offers the event index"))
        return;
    delay_us(20000); /* the last interrupts come after the requests that were polled */
    before = interrupt_count[VECTOR];
    queue->quiet = true;
    queue_want(queue);
    ok(run(queue, T_IN, 0, data, SECTOR) == S_OK && !wait_interrupts(VECTOR, before + 1, 20000),
       "no interrupt before the event index");
    queue->quiet = false;
    queue_want(queue);
    ok(run(queue, T_IN, 0, data, SECTOR) == S_OK && wait_interrupts(VECTOR, before + 1, 2000000),
       "one at the event index");
}

static void check_indirect(Disk *disk, uint8_t *data)
{
    Queue *queue = &disk->queues[0];
    Request *request = request_new();
    Desc *table = dma_alloc(sizeof(Desc) * 3, 16);
    Buffer one = { table, sizeof(Desc) * 3, false };
    uint16_t at = queue->next_desc;
    uint32_t len;

    if (!(disk->virtio.features >> FEATURE_INDIRECT & 1))
        return;
    request->header.type = T_IN;
    request->header.sector = 0;
    request->status = 0xff;
    table[0] = (Desc){ (uint64_t)&request->header, sizeof(request->header), DESC_NEXT, 1 };
    table[1] = (Desc){ (uint64_t)data, BLOCK, DESC_NEXT | DESC_WRITE, 2 };
    table[2] = (Desc){ (uint64_t)&request->status, 1, DESC_WRITE, 0 };
    queue_add(queue, &one, 1);
    queue->desc[at].flags = DESC_INDIRECT; /* the device looks at it when it is kicked */
    ok(queue_run(queue, &len, 5000000) && request->status == S_OK && len == BLOCK + 1 &&
           !compare(data, BLOCK, 1),
       "an indirect chain is read");
}

static void check_write_zeroes(Disk *disk, uint8_t *data)
{
    struct {
        uint64_t sector;
        uint32_t n_sectors, flags;
    } *range = dma_alloc(16, 16);
    bool zero = true;

    if (!(disk->virtio.features >> F_WRITE_ZEROES & 1))
        return;
    fill(data, BLOCK, 5);
    ok(run(&disk->queues[0], T_OUT, 3 * MIB / SECTOR, data, BLOCK) == S_OK, "a block to be zeroed");
    range->sector = 3 * MIB / SECTOR;
    range->n_sectors = BLOCK / SECTOR;
    ok(run(&disk->queues[0], T_WRITE_ZEROES, 0, range, 16) == S_OK, "zeroes are written");
    ok(run(&disk->queues[0], T_IN, 3 * MIB / SECTOR, data, BLOCK) == S_OK, "and read");
    for (unsigned i = 0; i < BLOCK; i += 64)
        zero &= *(uint64_t *)(data + i) == 0;
    ok(zero, "they are zero");
    range->sector = UINT64_MAX - 1;
    ok(run(&disk->queues[0], T_WRITE_ZEROES, 0, range, 16) == S_IOERR, "not behind the end");
}

/* What the host sees of it is a file with a hole. */
static void check_discard(Disk *disk, uint8_t *data)
{
    struct {
        uint64_t sector;
        uint32_t n_sectors, flags;
    } *range = dma_alloc(16, 16);

    if (!ok(disk->virtio.features >> F_DISCARD & 1, "it can discard"))
        return;
    fill(data, BLOCK, 6);
    ok(run(&disk->queues[0], T_OUT, 3 * MIB / SECTOR, data, BLOCK) == S_OK,
       "a block to be discarded");
    range->sector = 3 * MIB / SECTOR;
    range->n_sectors = MIB / SECTOR;
    ok(run(&disk->queues[0], T_DISCARD, 0, range, 16) == S_OK, "1 MiB is discarded");
    ok(run(&disk->queues[0], T_IN, 3 * MIB / SECTOR, data, BLOCK) == S_OK && data[0] == 0 &&
           !memcmp(data, data + 1, BLOCK - 1),
       "it reads as zero");
    range->n_sectors++;
    ok(run(&disk->queues[0], T_DISCARD, 0, range, 16) == S_IOERR, "not beyond the end");
    range->n_sectors = 8;
    range->flags = 1; /* unmap is for write zeroes only (5.2.6.2) */
    ok(run(&disk->queues[0], T_DISCARD, 0, range, 16) == S_UNSUPP, "not with a flag");
}

static void check_cache_mode(Disk *disk, uint8_t *data)
{
    uint64_t mode = disk->virtio.device + BLK_WRITEBACK;

    if (!ok(disk->virtio.features >> F_CONFIG_WCE & 1, "its cache mode can be changed"))
        return;
    ok(read8(mode) == 1, "it is write-back");
    fill(data, MIB / 2, 2);
    for (unsigned i = 0; i < 2; i++) {
        write8(mode, 0);
        ok(read8(mode) == 0, "it is write-through");
        ok(run(&disk->queues[0], T_OUT, MIB / SECTOR, data, MIB / 2) == S_OK, "and written to");
        write8(mode, 1);
        ok(read8(mode) == 1, "it is write-back again");
    }
}

/* On disk 0: all of it; on a second one, which is read-only: that it is. */
void test_blk(void)
{
    uint8_t *data = dma_alloc(MIB, 4096);
    Disk disk;

    interrupts_on();
    if (!open_disk(0, &disk))
        return;
    ok(disk.n_queues == option_number("queues", 1), "it has %u queues", disk.n_queues);
    check_data(&disk, data);
    check_errors(&disk, data);
    check_parallel(&disk, data);
    check_event_index(&disk, data);
    check_indirect(&disk, data);
    check_write_zeroes(&disk, data);
    check_discard(&disk, data);
    check_cache_mode(&disk, data);

    if (!open_disk(1, &disk))
        return;
    ok(disk.virtio.features >> F_RO & 1, "it says that it is read-only");
    ok(run(&disk.queues[0], T_IN, 0, data, BLOCK) == S_OK && !compare(data, BLOCK, 1),
       "it can be read");
    ok(run(&disk.queues[0], T_OUT, 0, data + BLOCK, SECTOR) == S_IOERR, "it cannot be written");
}

/* What the host makes of the image meanwhile: a letter asks for a request, the answer is its
 * status. */
void test_blk_errors(void)
{
    uint8_t *data = dma_alloc(BLOCK, 4096);
    Disk disk;

    if (!open_disk(0, &disk))
        return;
    for (;;) {
        unsigned status = 99;

        print("ask\n");
        switch (serial_read(30000000)) {
        case 'r':
            status = run(&disk.queues[0], T_IN, 3 * MIB / SECTOR, data, BLOCK);
            break;
        case 'w':
            fill(data, BLOCK, 7);
            status = run(&disk.queues[0], T_OUT, 3 * MIB / SECTOR, data, BLOCK);
            break;
        case 'f':
            status = run(&disk.queues[0], T_FLUSH, 0, NULL, 0);
            break;
        case '0':
            status = run(&disk.queues[0], T_IN, 0, data, BLOCK);
            status = status == S_OK && compare(data, BLOCK, 1) ? 98 : status;
            break;
        case 'q':
            ok(!(virtio_status(&disk.virtio) & STATUS_NEEDS_RESET), "the device needs no reset");
            return;
        default:
            break;
        }
        print("status %u;\n", status);
    }
}
