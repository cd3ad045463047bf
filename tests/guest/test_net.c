/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The network card against the host's own network stack: ARP and echo requests of many sizes. */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    F_MTU = 3,
    F_MAC = 5,
    F_STATUS = 16,
    HEADER = 12, /* virtio_net_hdr with num_buffers */
    FRAME_ROOM = 2048,
    N_RECEIVE = 16,
    RX_VECTOR = 50,
    TX_VECTOR = 51,
    ETH_ARP = 0x0806,
    ETH_IP = 0x0800,
    N_ECHOES = 40,
};

static const uint8_t my_ip[4] = { 192, 168, 77, 2 }, host_ip[4] = { 192, 168, 77, 1 };
static uint8_t my_mac[6], host_mac[6];
static Virtio net;
static Queue receive, transmit;
static uint8_t *rx_buffers[N_RECEIVE], *frame, *arp_frame;
static uint8_t *rx_of_head[MAX_QUEUE_SIZE];

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

static void give_buffer(uint8_t *buffer)
{
    const Buffer one = { buffer, HEADER + FRAME_ROOM, true };

    rx_of_head[receive.next_desc] = buffer;
    queue_add(&receive, &one, 1);
}

static bool send(uint8_t *buffer, unsigned len)
{
    /* Header and frame in two buffers, as most drivers do it. */
    const Buffer parts[] = { { buffer, HEADER, false }, { buffer + HEADER, len, false } };
    uint32_t used;

    memset(buffer, 0, HEADER);
    queue_add(&transmit, parts, 2);
    return queue_run(&transmit, &used, 2000000);
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
        uint32_t head, len;
        uint8_t *buffer;

        if (!queue_take(&receive, &head, &len))
            continue;
        buffer = rx_of_head[head % MAX_QUEUE_SIZE];
        if (len > HEADER + 14 && !answer_arp(buffer + HEADER, len - HEADER) &&
            get16(buffer + HEADER + 12) == type) {
            *ret = buffer + HEADER;
            return len - HEADER;
        }
        give_buffer(buffer);
        queue_kick(&receive);
    }
    return 0;
}

static void give_back(uint8_t *got)
{
    give_buffer(got - HEADER);
    queue_kick(&receive);
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

void test_net(void)
{
    static const uint8_t expected_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
    unsigned good = 0, before;
    bool good_features;

    interrupts_on();
    if (!ok(virtio_find(VIRTIO_NET, 0, &net), "there is a network card"))
        return;
    good_features = virtio_begin(&net, 1ull << F_MAC | 1ull << F_STATUS | 1ull << F_MTU);
    ok(good_features, "it takes the features %lx", net.features);
    for (unsigned i = 0; i < 6; i++)
        my_mac[i] = read8(net.device + i);
    ok(!memcmp(my_mac, expected_mac, 6), "its address is the configured one");
    if (net.features >> F_STATUS & 1)
        ok(read16(net.device + 6) & 1, "its link is up");
    msix_on(net.slot);
    msix_route(net.slot, 1, msi_address(apic_id()), RX_VECTOR, false);
    msix_route(net.slot, 2, msi_address(apic_id()), TX_VECTOR, false);
    if (!ok(virtio_queue(&net, 0, 1, &receive) && virtio_queue(&net, 1, 2, &transmit),
            "its queues can be set up"))
        return;
    frame = dma_alloc(HEADER + FRAME_ROOM, 64);
    arp_frame = dma_alloc(HEADER + FRAME_ROOM, 64);
    for (unsigned i = 0; i < N_RECEIVE; i++) {
        rx_buffers[i] = dma_alloc(HEADER + FRAME_ROOM, 64);
        give_buffer(rx_buffers[i]);
    }
    virtio_ready(&net);
    queue_kick(&receive);
    if (!resolve())
        return;
    before = interrupt_count[RX_VECTOR];
    for (unsigned i = 0; i < N_ECHOES; i++)
        good += echo(i, i * 37 % 1400);
    ok(good == N_ECHOES, "%u of %u echo requests are answered", good, N_ECHOES);
    ok(interrupt_count[RX_VECTOR] > before, "with %u interrupts for received frames",
       interrupt_count[RX_VECTOR] - before);
    ok(interrupt_count[TX_VECTOR] > 0, "and %u for sent ones", interrupt_count[TX_VECTOR]);
}
