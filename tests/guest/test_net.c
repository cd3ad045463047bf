/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The network card against the host's own network stack: ARP and echo requests of many sizes, by
 * each pair of queues that pairs=N asks for. The words mtu=N, offloads=0, flood=N and take=N say
 * what else to look at.
 */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_MTU = 3,
    F_MAC = 5,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_GUEST_UFO = 10,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_HOST_UFO = 14,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_MQ = 22,
    CONFIG_STATUS = 6, /* offsets in the device's configuration */
    CONFIG_MAX_PAIRS = 8,
    CONFIG_MTU = 10,
    CTRL_MQ = 4, /* a class of the control queue, and its command (5.1.6.5.5) */
    CTRL_MQ_PAIRS_SET = 0,
    MAX_PAIRS = 2,
    HEADER = 12, /* virtio_net_hdr with num_buffers */
    FRAME_ROOM = 2048,
    N_RECEIVE = 16,
    RX_VECTOR = 50, /* of each pair, and the one behind it for what is sent */
    TX_VECTOR = 51,
    ETH_ARP = 0x0806,
    ETH_TEST = 0x88b5, /* for local experiments */
    ETH_IP = 0x0800,
    N_ECHOES = 40,
};

static const uint8_t my_ip[4] = { 192, 168, 77, 2 }, host_ip[4] = { 192, 168, 77, 1 };
static uint8_t my_mac[6], host_mac[6];
static Virtio net;
static Queue receive[MAX_PAIRS], transmit[MAX_PAIRS], control;
static unsigned n_pairs = 1, sends_on, came_on; /* pairs */
static uint8_t *frame, *arp_frame;
static uint8_t *rx_of_head[MAX_PAIRS][MAX_QUEUE_SIZE];

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static uint16_t checksum(const uint8_t *at, unsigned len)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i + 1 < len; i += 2)
        sum += get16(at + i);
    if (len & 1)
        sum += (uint32_t)at[len - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void give_buffer(unsigned pair, uint8_t *buffer)
{
    const Buffer one = { buffer, HEADER + FRAME_ROOM, true };

    rx_of_head[pair][receive[pair].next_desc] = buffer;
    queue_add(&receive[pair], &one, 1);
}

static bool send(uint8_t *buffer, unsigned len)
{
    /* Header and frame in two buffers, as most drivers do it. */
    const Buffer parts[] = { { buffer, HEADER, false }, { buffer + HEADER, len, false } };
    uint32_t used;

    memset(buffer, 0, HEADER);
    queue_add(&transmit[sends_on], parts, 2);
    return queue_run(&transmit[sends_on], &used, 2000000);
}

/* The host asks a neighbour whether it is still there, some seconds after it has last heard of it,
 * and sends nothing more to one that does not answer. */
static bool answer_arp(const uint8_t *request, unsigned len)
{
    uint8_t *reply = arp_frame + HEADER;

    if (len < 42 || get16(request + 12) != ETH_ARP || get16(request + 20) != 1 ||
        memcmp(request + 38, my_ip, 4))
        return false;
    memcpy(reply, request + 6, 6);
    memcpy(reply + 6, my_mac, 6);
    memcpy(reply + 12, request + 12, 8); /* type, and what the addresses are */
    put16(reply + 20, 2);
    memcpy(reply + 22, my_mac, 6);
    memcpy(reply + 28, my_ip, 4);
    memcpy(reply + 32, request + 22, 10);
    send(arp_frame, 42);
    return true;
}

/* The next frame of @type but for what answer_arp() takes. Returns: its length with *@ret at its
 * first byte, 0 after @us. */
static unsigned get_frame(unsigned type, uint8_t **ret, uint64_t us)
{
    uint64_t end = now_us() + us;

    while (now_us() < end) {
        for (unsigned pair = 0; pair < n_pairs; pair++) {
            uint32_t head, len;
            uint8_t *buffer;

            if (!queue_take(&receive[pair], &head, &len))
                continue;
            buffer = rx_of_head[pair][head % MAX_QUEUE_SIZE];
            if (len > HEADER + 14 && !answer_arp(buffer + HEADER, len - HEADER) &&
                get16(buffer + HEADER + 12) == type) {
                *ret = buffer + HEADER;
                came_on = pair;
                return len - HEADER;
            }
            give_buffer(pair, buffer);
            queue_kick(&receive[pair]);
        }
    }
    return 0;
}

static void give_back(uint8_t *got)
{
    give_buffer(came_on, got - HEADER);
    queue_kick(&receive[came_on]);
}

static void ethernet(const uint8_t *to, unsigned type)
{
    memcpy(frame + HEADER, to, 6);
    memcpy(frame + HEADER + 6, my_mac, 6);
    put16(frame + HEADER + 12, type);
}

static bool resolve(void)
{
    static const uint8_t everybody[6] = { 255, 255, 255, 255, 255, 255 };
    static const uint8_t request[8] = { 0, 1, 8, 0, 6, 4, 0, 1 };
    uint8_t *arp = frame + HEADER + 14, *got;

    ethernet(everybody, ETH_ARP);
    memcpy(arp, request, 8);
    memcpy(arp + 8, my_mac, 6);
    memcpy(arp + 14, my_ip, 4);
    memset(arp + 18, 0, 6);
    memcpy(arp + 24, host_ip, 4);
    memset(arp + 28, 0, 18);
    if (!ok(send(frame, 60), "an ARP request is sent"))
        return false;
    if (!ok(get_frame(ETH_ARP, &got, 3000000) >= 42, "and answered"))
        return false;
    ok(get16(got + 14 + 6) == 2 && !memcmp(got + 14 + 14, host_ip, 4) && !memcmp(got, my_mac, 6),
       "by the host, to this card");
    memcpy(host_mac, got + 14 + 8, 6);
    give_back(got);
    return true;
}

static bool echo(unsigned number, unsigned payload)
{
    uint8_t *packet = frame + HEADER + 14, *icmp = packet + 20, *got;
    unsigned len;
    bool ours, good;

    ethernet(host_mac, ETH_IP);
    memset(packet, 0, 28);
    packet[0] = 0x45;
    put16(packet + 2, 28 + payload);
    packet[8] = 64;
    packet[9] = 1;
    memcpy(packet + 12, my_ip, 4);
    memcpy(packet + 16, host_ip, 4);
    put16(packet + 10, checksum(packet, 20));
    icmp[0] = 8;
    put16(icmp + 4, 0x4b55);
    put16(icmp + 6, number);
    for (unsigned i = 0; i < payload; i++)
        icmp[8 + i] = (uint8_t)(i * 3 + number);
    put16(icmp + 2, checksum(icmp, 8 + payload));
    if (!send(frame, 42 + payload))
        return false;
    do {
        len = get_frame(ETH_IP, &got, 3000000);
        if (!len)
            return false;
        /* Others are of other protocols, or answer a request that was given up. */
        ours = got[14 + 9] == 1 && got[14 + 20] == 0 && get16(got + 14 + 26) == number;
        good = ours && len >= 42 + payload && !memcmp(got + 42, icmp + 8, payload) &&
               checksum(got + 34, 8 + payload) == 0;
        give_back(got);
    } while (!ours);
    return good;
}

/* Offloads as they are configured: all of a kind or none. */
static void check_offers(void)
{
    uint64_t offered = virtio_offered(&net);
    const uint64_t checksums = 1ull << F_CSUM | 1ull << F_GUEST_CSUM;
    const uint64_t segments =
        1ull << F_GUEST_TSO4 | 1ull << F_GUEST_TSO6 | 1ull << F_HOST_TSO4 | 1ull << F_HOST_TSO6;
    const uint64_t fragments = 1ull << F_GUEST_UFO | 1ull << F_HOST_UFO;
    uint64_t mtu = option_number("mtu", 0);

    ok((offered & checksums) == (option_number("csum", 1) ? checksums : 0),
       "it offers checksums as configured (%lx)", offered);
    ok((offered & segments) == (option_number("tso", 1) ? segments : 0), "and segmentation of TCP");
    /* Not every kernel of a host has it. */
    ok(option_number("ufo", 1) || !(offered & fragments), "and no fragmentation of UDP");
    if (mtu)
        ok(offered >> F_MTU & 1 && read16(net.device + CONFIG_MTU) == mtu, "its MTU is %u",
           read16(net.device + CONFIG_MTU));
}

/* Returns: the device's answer, 0 for done, 1 for refused, 0xff for none. */
static unsigned set_pairs(unsigned pairs)
{
    static uint8_t *command;
    uint32_t len;

    if (!command)
        command = dma_alloc(64, 64);
    command[0] = CTRL_MQ;
    command[1] = CTRL_MQ_PAIRS_SET;
    command[16] = (uint8_t)pairs;
    command[17] = (uint8_t)(pairs >> 8);
    command[32] = 0xff;
    {
        const Buffer parts[] = { { command, 2, false },
                                 { command + 16, 2, false },
                                 { command + 32, 1, true } };

        queue_add(&control, parts, 3);
    }
    return queue_run(&control, &len, 2000000) ? command[32] : 0xff;
}

static bool set_up_queues(void)
{
    unsigned max_pairs = net.features >> F_MQ & 1 ? read16(net.device + CONFIG_MAX_PAIRS) : 1;

    msix_on(net.slot);
    if (n_pairs > 1 &&
        !ok(max_pairs >= n_pairs && n_pairs <= MAX_PAIRS, "it has %u pairs of queues", max_pairs))
        return false;
    for (unsigned i = 0; i < n_pairs; i++) {
        msix_route(net.slot, 1 + 2 * i, msi_address(apic_id()), RX_VECTOR + 2 * i, false);
        msix_route(net.slot, 2 + 2 * i, msi_address(apic_id()), TX_VECTOR + 2 * i, false);
        if (!virtio_queue(&net, 2 * i, 1 + 2 * i, &receive[i]) ||
            !virtio_queue(&net, 2 * i + 1, 2 + 2 * i, &transmit[i]))
            return false;
        for (unsigned k = 0; k < N_RECEIVE; k++)
            give_buffer(i, dma_alloc(HEADER + FRAME_ROOM, 64));
    }
    return n_pairs == 1 || virtio_queue(&net, 2 * max_pairs, NO_VECTOR, &control);
}

/* The host answers by the pair that a flow came from. */
static void check_pair(unsigned pair)
{
    unsigned rx = interrupt_count[RX_VECTOR + 2 * pair], tx = interrupt_count[TX_VECTOR + 2 * pair];
    unsigned good = 0, there = 0;

    sends_on = pair;
    for (unsigned i = 0; i < N_ECHOES; i++) {
        good += echo(i, i * 37 % 1400);
        there += came_on == pair;
    }
    ok(good == N_ECHOES, "%u of %u echo requests are answered", good, N_ECHOES);
    ok(there >= N_ECHOES - 1, "%u of them by pair %u", there, pair);
    rx = interrupt_count[RX_VECTOR + 2 * pair] - rx;
    tx = interrupt_count[TX_VECTOR + 2 * pair] - tx;
    ok(rx > 0, "with %u interrupts for received frames", rx);
    ok(tx > 0, "and %u for sent ones", tx);
}

static void check_pairs(void)
{
    ok(set_pairs(n_pairs) == 0, "%u pairs are switched on", n_pairs);
    for (unsigned i = n_pairs; i-- > 0;)
        check_pair(i);
    ok(set_pairs(0) == 1 && set_pairs(n_pairs + 1) == 1 && set_pairs(0x8001) == 1,
       "other numbers are refused");
    ok(set_pairs(1) == 0, "one pair is enough again");
    check_pair(0);
}

/* How long it takes to send so many full frames: the host knows how long it should. */
static void flood(unsigned n)
{
    uint64_t start = now_us();
    unsigned sent = 0;

    ethernet(host_mac, ETH_IP);
    memset(frame + HEADER + 14, 0, 1400);
    while (sent < n && send(frame, 1414))
        sent++;
    ok(sent == n, "%u frames are sent", sent);
    print("sent %u bytes in %lu us;\n", sent * 1414, now_us() - start);
}

/* How long it takes until so many full frames have come, from the moment the host may begin. */
static void take(unsigned n)
{
    uint64_t start, bytes = 0;
    unsigned taken = 0, len;
    uint8_t *got;

    print("taking\n");
    start = now_us();
    while (taken < n && (len = get_frame(ETH_TEST, &got, 10000000)) != 0) {
        taken++;
        bytes += len;
        give_back(got);
    }
    ok(taken == n, "%u frames are received", taken);
    print("received %lu bytes in %lu us;\n", bytes, now_us() - start);
}

void test_net(void)
{
    static const uint8_t expected_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
    uint64_t wanted = 1ull << F_MAC | 1ull << F_STATUS | 1ull << F_MTU;
    bool good_features;

    interrupts_on();
    if (!ok(virtio_find(VIRTIO_NET, 0, &net), "there is a network card"))
        return;
    check_offers();
    n_pairs = (unsigned)option_number("pairs", 1);
    if (n_pairs > 1)
        wanted |= 1ull << F_MQ | 1ull << F_CTRL_VQ;
    good_features = virtio_begin(&net, wanted);
    ok(good_features, "it takes the features %lx", net.features);
    for (unsigned i = 0; i < 6; i++)
        my_mac[i] = read8(net.device + i);
    ok(!memcmp(my_mac, expected_mac, 6), "its address is the configured one");
    if (net.features >> F_STATUS & 1)
        ok(read16(net.device + CONFIG_STATUS) & 1, "its link is up");
    if (!ok(set_up_queues(), "its queues can be set up"))
        return;
    frame = dma_alloc(HEADER + FRAME_ROOM, 64);
    arp_frame = dma_alloc(HEADER + FRAME_ROOM, 64);
    virtio_ready(&net);
    for (unsigned i = 0; i < n_pairs; i++)
        queue_kick(&receive[i]);
    if (!resolve())
        return;
    if (n_pairs > 1)
        check_pairs();
    else
        check_pair(0);
    if (option_number("flood", 0))
        flood((unsigned)option_number("flood", 0));
    if (option_number("take", 0))
        take((unsigned)option_number("take", 0));
}
