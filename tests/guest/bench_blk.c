/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of one kind, so many at once on each queue, taken back by polling. For a profile
 * load=NAME chooses one kind. */
#include "tests/guest/bench.h"
#include "tests/guest/blk.h"

enum {
    MAX_DEPTH = 32,
    MAX_QUEUES = 2,
    DESCS = 3, /* of each request: header, data, status */
    SMALL = 4 << 10,
    LARGE = 128 << 10,
    DATA_BYTES = 1 << 20, /* of each queue: all its requests' */
};

typedef struct {
    const char *name;
    uint32_t type, block_bytes;
    uint16_t depth, n_queues;
    bool random;
} Load;

typedef struct {
    Queue queue;
    uint8_t *data;
    Request *requests;
    uint64_t next_block;
} Worker;

static const Load loads[] = {
    { "read-1", T_IN, SMALL, 1, 1, true },
    { "read", T_IN, SMALL, 32, 1, true },
    { "write", T_OUT, SMALL, 32, 1, true },
    { "read-sequential", T_IN, LARGE, 8, 1, false },
    { "write-sequential", T_OUT, LARGE, 8, 1, false },
    { "read-2q", T_IN, SMALL, 32, 2, true },
    { "write-2q", T_OUT, SMALL, 32, 2, true },
    { "read-sequential-2q", T_IN, LARGE, 8, 2, false },
    { "write-sequential-2q", T_OUT, LARGE, 8, 2, false },
};

static Virtio disk;
static Worker workers[MAX_QUEUES];
static const Load *load;
static uint64_t n_blocks, n_errors, random_state = 88172645463325252;

static void submit(Worker *worker, uint16_t slot)
{
    Request *request = &worker->requests[slot];
    uint64_t block = worker->next_block++;

    if (load->random) {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        block = random_state;
    }
    request->header.sector = block % n_blocks * (load->block_bytes / SECTOR);
    request->status = 0xff;
    queue_offer(&worker->queue, (uint16_t)(slot * DESCS));
}

/* In user mode. Returns: how many requests were done; after @ticks no new ones are made. */
static uint64_t drive(uint64_t ticks, uint64_t unused, uint64_t unused_too)
{
    uint64_t end = rdtsc() + ticks, done = 0;
    unsigned under_way = 0;

    (void)unused;
    (void)unused_too;
    for (unsigned i = 0; i < load->n_queues; i++) {
        for (uint16_t slot = 0; slot < load->depth; slot++, under_way++)
            submit(&workers[i], slot);
        queue_kick(&workers[i].queue);
    }
    while (under_way)
        for (unsigned i = 0; i < load->n_queues; i++) {
            Queue *queue = &workers[i].queue;
            uint16_t before = queue->avail[1];
            uint32_t head, len;

            while (queue_take(queue, &head, &len)) {
                uint16_t slot = (uint16_t)(head / DESCS);

                done++;
                under_way--;
                n_errors += slot >= load->depth || workers[i].requests[slot].status != S_OK;
                if (rdtsc() < end && slot < load->depth) {
                    submit(&workers[i], slot);
                    under_way++;
                }
            }
            if (queue->avail[1] != before)
                queue_kick_if_wanted(queue, before);
        }
    return done;
}

static void prepare(Worker *worker)
{
    for (uint16_t slot = 0; slot < load->depth; slot++) {
        uint16_t at = (uint16_t)(slot * DESCS);
        Request *request = &worker->requests[slot];
        Desc *desc = &worker->queue.desc[at];

        request->header.type = load->type;
        desc[0] = (Desc){ (uint64_t)&request->header, sizeof(request->header), DESC_NEXT,
                          (uint16_t)(at + 1) };
        desc[1] =
            (Desc){ (uint64_t)worker->data + (uint64_t)slot * load->block_bytes, load->block_bytes,
                    DESC_NEXT | (load->type == T_IN ? DESC_WRITE : 0), (uint16_t)(at + 2) };
        desc[2] = (Desc){ (uint64_t)&request->status, 1, DESC_WRITE, 0 };
    }
    worker->queue.quiet = true;
    queue_want(&worker->queue);
}

void bench_blk(void)
{
    const uint64_t wanted = 1ull << FEATURE_EVENT_IDX | 1ull << F_MQ | 1ull << F_FLUSH;
    char chosen[32];
    size_t chosen_len = option("load", chosen, sizeof(chosen));
    uint64_t sectors;
    unsigned n_queues;

    if (!bench_find(VIRTIO_BLK, 0, &disk) ||
        !ok(virtio_begin(&disk, wanted) && disk.features >> FEATURE_EVENT_IDX & 1, "a disk"))
        return;
    n_queues = disk.features >> F_MQ & 1 ? read16(disk.device + BLK_NUM_QUEUES) : 1;
    sectors = read64(disk.device);
    for (unsigned i = 0; i < n_queues && i < MAX_QUEUES; i++) {
        if (!ok(virtio_queue(&disk, i, NO_VECTOR, &workers[i].queue) &&
                    workers[i].queue.size >= MAX_DEPTH * DESCS,
                "queue %u", i))
            return;
        workers[i].data = dma_alloc(DATA_BYTES, 4096);
        workers[i].requests = dma_alloc(MAX_DEPTH * sizeof(Request), 64);
    }
    virtio_ready(&disk);
    for (load = loads; load < loads + sizeof(loads) / sizeof(*loads); load++) {
        uint64_t begin, done;

        if (load->n_queues > n_queues ||
            (chosen_len &&
             (strlen(load->name) != chosen_len || memcmp(load->name, chosen, chosen_len) != 0)))
            continue;
        n_blocks = sectors / (load->block_bytes / SECTOR);
        for (unsigned i = 0; i < load->n_queues; i++) {
            workers[i].next_block = n_blocks / load->n_queues * i;
            prepare(&workers[i]);
        }
        begin = rdtsc();
        done = user_call(drive, bench_ticks(), 0, 0);
        report(load->name, done, rdtsc() - begin);
    }
    ok(n_errors == 0, "%lu requests failed", n_errors);
}
