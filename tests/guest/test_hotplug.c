/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices that come and go, on command of the host over the serial port, a letter each. What the
 * guest finds is told in a line "VERB slot N;"; what must hold at any time is checked here.
 */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    /* The controller's registers. */
    UP = 0x0,
    DOWN = 0x4,
    EJECT = 0x8,
    SEGMENT = 0xc,
    OST = 0x10, /* slot, event, status */
    OST_EJECT_REQUEST = 3 << 8,
    OST_BUSY = 0x82u << 24,

    GED_GSI = 13,
    GED_PCI = 1 << 2,
    VECTOR_GED = 50,
    VECTOR_CONFIG = 51,
    VECTOR_QUEUE = 52,
    VECTOR_LINK = 53,
    WAIT_US = 20000000,
    SECTOR = 512,
    T_IN = 0,
    T_OUT = 1,
    NET_F_MQ = 22,
    NET_STATUS = 6, /* in the device's configuration */
    NET_S_LINK_UP = 1,
    NET_HEADER = 12,
    ETHERTYPE_TEST = 0xb588, /* 0x88b5, as it lies in memory: for experiments */
    FRAME_BYTES = 2048,
};

typedef struct {
    uint32_t type, reserved;
    uint64_t sector;
    uint8_t status;
} Request;

static uint64_t controller, ged;
static Virtio disk;
static Queue disk_queue;
static Request *request;
static uint8_t *data;

/* Where the address map puts the register pages: below 64 KiB at the top. */
static void find_registers(void)
{
    uint64_t top = (1ull << (cpuid(0x80000008, 0).eax & 0xff)) - 0x10000;

    controller = top - 0x1000;
    ged = top - 0x3000;
    map(controller, 0x1000);
    map(ged, 0x1000);
}

static uint32_t functions(void)
{
    uint32_t slots = 0;

    for (unsigned slot = 0; slot < 32; slot++)
        slots |= (uint32_t)(read32(pci_config(slot, 0)) != 0xffffffff) << slot;
    return slots;
}

/* Waits for the event device's interrupt, then for the slot that @reg names. Returns: -1: none. */
static int wait_slot(unsigned reg)
{
    static unsigned seen;
    uint32_t slots;

    if (!wait_interrupts(VECTOR_GED, seen + 1, WAIT_US))
        return -1;
    seen = interrupt_count[VECTOR_GED];
    if (!(read8(ged) & GED_PCI))
        return -1;
    slots = read32(controller + reg);
    if (!slots || (slots & (slots - 1)) || read32(controller + reg))
        return -1;
    return __builtin_ctz(slots);
}

static void start_transfer(bool write, uint64_t sector, uint32_t len)
{
    Buffer buffers[] = { { request, 16, false },
                         { data, len, !write },
                         { &request->status, 1, true } };

    request->type = write ? T_OUT : T_IN;
    request->sector = sector;
    request->status = 0xff;
    queue_add(&disk_queue, buffers, 3);
    queue_kick(&disk_queue);
}

static void start_read(uint64_t sector, uint32_t len)
{
    start_transfer(false, sector, len);
}

static bool transfer_sectors(bool write, uint64_t sector, uint32_t len)
{
    uint32_t used;

    start_transfer(write, sector, len);
    return queue_run(&disk_queue, &used, 5000000) && request->status == 0;
}

static bool read_sectors(uint64_t sector, uint32_t len)
{
    return transfer_sectors(false, sector, len);
}

static void open_disk(void)
{
    if (!virtio_find(VIRTIO_BLK, 0, &disk) || !virtio_begin(&disk, ~0ull))
        give_up("the disk cannot be set up");
    msix_on(disk.slot);
    msix_route(disk.slot, 0, msi_address(apic_id()), VECTOR_CONFIG, false);
    msix_route(disk.slot, 1, msi_address(apic_id()), VECTOR_QUEUE, false);
    write16(disk.common + COMMON_CONFIG_VECTOR, 0);
    if (!virtio_queue(&disk, 0, 1, &disk_queue))
        give_up("the disk's queue cannot be set up");
    virtio_ready(&disk);
}

static Virtio net;
static Queue net_queues[2];
static uint8_t *frame;

static void offer_frame(void)
{
    Buffer buffer = { frame, FRAME_BYTES, true };

    queue_add(&net_queues[0], &buffer, 1);
    queue_kick(&net_queues[0]);
}

/* A NIC with buffers for frames: its workers run when it is ejected. */
static void open_net(void)
{
    if (!virtio_find(VIRTIO_NET, 0, &net) || !virtio_begin(&net, ~(1ull << NET_F_MQ)))
        give_up("the NIC cannot be set up");
    msix_on(net.slot);
    msix_route(net.slot, 0, msi_address(apic_id()), VECTOR_LINK, false);
    write16(net.common + COMMON_CONFIG_VECTOR, 0);
    if (!virtio_queue(&net, 0, 1, &net_queues[0]) || !virtio_queue(&net, 1, 2, &net_queues[1]))
        give_up("the NIC's queues cannot be set up");
    virtio_ready(&net);
    if (!frame)
        frame = dma_alloc(FRAME_BYTES, 4096);
    offer_frame();
}

/* The configuration interrupt, then what it is about. */
static void link_changed(void)
{
    static unsigned seen;

    if (!wait_interrupts(VECTOR_LINK, seen + 1, WAIT_US))
        give_up("no configuration interrupt of the NIC");
    seen++;
    print("link %u;\n", read16(net.device + NET_STATUS) & NET_S_LINK_UP);
}

/* The first frame of the test's; the host's own ones come in between. */
static void receive(void)
{
    uint32_t len;

    while (queue_run(&net_queues[0], &len, WAIT_US)) {
        const uint8_t *type = frame + NET_HEADER + 12;
        bool is_ours = len > NET_HEADER + 14 && (type[0] | type[1] << 8) == ETHERTYPE_TEST;
        uint8_t number = frame[NET_HEADER + 14];

        offer_frame();
        if (is_ours) {
            print("frame %u;\n", number);
            return;
        }
    }
    give_up("no frame came");
}

/* 640 KiB, for the host to take the time. */
static void move_much(bool write)
{
    bool good = true;

    for (unsigned i = 0; i < 20; i++)
        good = transfer_sectors(write, 0, 64 * SECTOR) && good;
    ok(good, "640 KiB can be %s", write ? "written" : "read");
    print("%s all;\n", write ? "wrote" : "read");
}

static void come(void)
{
    int slot = wait_slot(UP);
    uint32_t id;

    if (slot < 0)
        give_up("no device came");
    id = read32(pci_config((unsigned)slot, 0));
    if (id == 0x10421af4) {
        open_disk();
        ok(read_sectors(0, 8 * SECTOR) && !compare(data, 8 * SECTOR, 1),
           "the disk has what the host wrote");
    } else if (id == 0x10411af4) {
        open_net();
    } else {
        give_up("slot %d has the ids %x", slot, id);
    }
    print("came slot %d;\n", slot);
}

/* @busy: with requests under way, as no driver would. */
static void go(bool busy)
{
    int slot = wait_slot(DOWN);
    uint32_t before, gone;

    if (slot < 0)
        give_up("no device is to go");
    if (busy && disk.slot == (unsigned)slot)
        for (unsigned i = 0; i < 4; i++)
            start_read(i, 64 * SECTOR);
    else if (disk.slot == (unsigned)slot)
        virtio_set_status(&disk, 0);
    before = functions();
    gone = 1u << slot;
    write32(controller + EJECT, ~gone);
    ok(functions() == before, "slots that nobody asked for stay");
    write32(controller + EJECT, gone);
    /* Now, not some time later: an OS that looks again must not find it. */
    ok(functions() == (before & ~gone), "slot %d is empty when the write is done", slot);
    write32(controller + EJECT, ~0u);
    ok(functions() == (before & ~gone) && !read32(controller + UP) && !read32(controller + DOWN),
       "and nothing else changes");
    print("went slot %d;\n", slot);
}

static void ignore(void)
{
    int slot = wait_slot(DOWN);

    ok(slot >= 0 && functions() & 1u << slot, "what is asked to go stays until it is ejected");
    print("ignored slot %d;\n", slot);
}

static void refuse(void)
{
    int slot = wait_slot(DOWN);

    ok(slot >= 0 && functions() & 1u << slot, "what is asked to go stays when that is refused");
    for (unsigned i = 0; i < 3; i++)
        write32(controller + OST, (unsigned)slot | OST_EJECT_REQUEST | OST_BUSY);
    print("refused slot %d;\n", slot);
}

static void noise(void)
{
    uint32_t before = functions();

    for (unsigned i = 0; i < 32; i++) {
        write32(controller + SEGMENT, i ? 1u << i : 0xffffffff);
        write32(controller + EJECT, 0xffffffff);
        if (read32(controller + UP) || read32(controller + DOWN))
            give_up("segment %x says something", 1u << i);
    }
    write32(controller + SEGMENT, 0);
    for (unsigned at = 0; at < 20; at++) {
        write8(controller + at, 0xff);
        if (at <= 18)
            write16(controller + at, 0xffff);
        if (at <= 16)
            write32(controller + at, at == SEGMENT ? 0 : 0xffffffff);
        if (at <= 12)
            write64(controller + at, ~0ull);
    }
    ok(functions() == before && read32(controller + SEGMENT) == 0, "noise removes nothing (%x, %x)",
       before, functions());
    print("quiet;\n");
}

static void resized(void)
{
    static unsigned seen;
    uint64_t sectors;

    if (!wait_interrupts(VECTOR_CONFIG, seen + 1, WAIT_US))
        give_up("no configuration interrupt");
    seen++;
    sectors = read64(disk.device);
    ok(read_sectors(sectors - 1, SECTOR), "the new last sector can be read");
    ok(!read_sectors(sectors, SECTOR), "the one behind cannot");
    print("sectors %lu;\n", sectors);
}

void test_hotplug(void)
{
    interrupts_init();
    find_registers();
    ioapic_route(GED_GSI, VECTOR_GED, false, false);
    request = dma_alloc(sizeof(*request), 4096);
    data = dma_alloc(64 * SECTOR, 4096);
    ok(!read32(controller + UP) && !read32(controller + DOWN), "no news at the start");
    print("ready\n");
    for (;;) {
        switch (serial_read(60000000)) {
        case 'c':
            come();
            break;
        case 'g':
            go(false);
            break;
        case 'b':
            go(true);
            break;
        case 'i':
            ignore();
            break;
        case 'o':
            refuse();
            break;
        case 'l':
            link_changed();
            break;
        case 'f':
            receive();
            break;
        case 't':
            move_much(false);
            break;
        case 'w':
            move_much(true);
            break;
        case 'n':
            noise();
            break;
        case 'r':
            resized();
            break;
        case 'q':
            return;
        default:
            break;
        }
    }
}
