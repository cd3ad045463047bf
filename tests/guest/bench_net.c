/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames out as fast as they are taken, which nobody answers, and echo requests so many of which
 * are under way. The host gives them in hexadecimal digits, without the zeroes at their end:
 * small=, large=, mute-small= and mute-large= on the command line.
 */
#include "tests/guest/bench.h"

enum {
    F_MAC = 5,
    HEADER = 12, /* virtio_net_hdr with num_buffers */
    ROOM = 2048,
    RING = 256,
    SMALL = 60,
    LARGE = 1514,
    LOST_US = 20000, /* nothing came for so long: what is under way is lost */
};

static Virtio net;
static Queue receive, transmit;
static uint8_t *tx_frames, *rx_frames;
static uint16_t free_slots[RING], n_free;
static uint64_t n_lost;

static void kick_both(uint16_t rx_before, uint16_t tx_before)
{
    if (receive.avail[1] != rx_before)
        queue_kick_if_wanted(&receive, rx_before);
    if (transmit.avail[1] != tx_before)
        queue_kick_if_wanted(&transmit, tx_before);
}

static uint64_t take_sent(void)
{
    uint64_t n = 0;
    uint32_t head, len;

    for (; queue_take(&transmit, &head, &len); n++)
        free_slots[n_free++] = (uint16_t)head;
    return n;
}

static uint64_t take_received(void)
{
    uint64_t n = 0;
    uint32_t head, len;

    for (; queue_take(&receive, &head, &len); n++)
        queue_offer(&receive, (uint16_t)head);
    return n;
}

/* In user mode, as echo(). Returns: the number of frames that were sent. */
static uint64_t flood(uint64_t ticks, uint64_t len, uint64_t unused)
{
    uint64_t end = rdtsc() + ticks, sent = 0;

    (void)unused;
    while (rdtsc() < end) {
        uint16_t rx_before = receive.avail[1], tx_before = transmit.avail[1];

        take_received();
        sent += take_sent();
        while (n_free) {
            uint16_t slot = free_slots[--n_free];

            transmit.desc[slot].len = (uint32_t)(HEADER + len);
            queue_offer(&transmit, slot);
        }
        kick_both(rx_before, tx_before);
    }
    while (n_free < transmit.size)
        sent += take_sent();
    return sent;
}

/* Returns: the number of answers. */
static uint64_t echo(uint64_t ticks, uint64_t len, uint64_t depth)
{
    uint64_t now = rdtsc(), end = now + ticks, lost = us_to_tsc(LOST_US), last = now;
    uint64_t answers = 0, under_way = 0;

    while ((now = rdtsc()) < end) {
        uint16_t rx_before = receive.avail[1], tx_before = transmit.avail[1];
        uint64_t got = take_received();

        if (got)
            last = now;
        answers += got;
        under_way -= got < under_way ? got : under_way;
        if (now - last > lost) {
            n_lost += under_way;
            under_way = 0;
            last = now;
        }
        take_sent();
        for (; under_way < depth && n_free; under_way++) {
            uint16_t slot = free_slots[--n_free];

            transmit.desc[slot].len = (uint32_t)(HEADER + len);
            queue_offer(&transmit, slot);
        }
        kick_both(rx_before, tx_before);
    }
    for (end = now + lost; now < end; now = rdtsc()) {
        uint16_t before = receive.avail[1];

        take_received();
        take_sent();
        kick_both(before, transmit.avail[1]);
    }
    return answers;
}

static unsigned digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* Puts the frame of option @name behind the header of all buffers. */
static void load_frame(const char *name)
{
    char text[256];
    size_t len = option(name, text, sizeof(text)) / 2;

    for (uint16_t slot = 0; slot < transmit.size; slot++)
        for (size_t i = 0; i < len; i++)
            tx_frames[slot * ROOM + HEADER + i] =
                (uint8_t)(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
}

static void run(const char *name, void *function, const char *frame, uint64_t len, uint64_t depth)
{
    load_frame(frame);
    report(name, user_call(function, bench_ticks(), len, depth), bench_ticks());
}

static void prepare(void)
{
    tx_frames = dma_alloc(RING * ROOM, 64);
    rx_frames = dma_alloc(RING * ROOM, 64);
    for (uint16_t slot = 0; slot < transmit.size; slot++) {
        transmit.desc[slot] = (Desc){ .address = (uint64_t)(tx_frames + slot * ROOM) };
        free_slots[n_free++] = slot;
    }
    for (uint16_t slot = 0; slot < receive.size; slot++) {
        receive.desc[slot] = (Desc){ .address = (uint64_t)(rx_frames + slot * ROOM),
                                     .len = ROOM,
                                     .flags = DESC_WRITE };
        queue_offer(&receive, slot);
    }
    receive.quiet = transmit.quiet = true;
    queue_want(&receive);
    queue_want(&transmit);
}

void bench_net(void)
{
    const uint64_t wanted = 1ull << FEATURE_EVENT_IDX | 1ull << F_MAC;

    if (!bench_find(VIRTIO_NET, 0, &net) ||
        !ok(virtio_begin(&net, wanted) && net.features >> FEATURE_EVENT_IDX & 1, "a card") ||
        !ok(virtio_queue(&net, 0, NO_VECTOR, &receive) &&
                virtio_queue(&net, 1, NO_VECTOR, &transmit),
            "its queues"))
        return;
    prepare();
    virtio_ready(&net);
    queue_kick(&receive);
    run("echo-1", echo, "small", SMALL, 1);
    run("echo", echo, "small", SMALL, 64);
    run("echo-large", echo, "large", LARGE, 64);
    run("send", flood, "mute-small", SMALL, 0);
    run("send-large", flood, "mute-large", LARGE, 0);
    print("lost %lu\n", n_lost);
}
