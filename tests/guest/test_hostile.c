/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A driver that does everything wrong: noise on registers, configuration space, rings and
 * descriptors of every virtio device. The VMM must survive, and each device must work again after a
 * reset. The noise is the same in each run, and moves with seed=N.
 */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    ROUNDS = 20,
    OPERATIONS = 50,
    COMMON_BYTES = 0x38,
    BAR_BYTES = 0x80000,
    RACE_VECTOR = 54,
};

/* Devices are only ever given addresses in here or outside RAM: noise must not hit this program. */
#define VICTIM_GPA 0x1000000ull
#define VICTIM_END 0x4000000ull
/* A balloon takes pages away whose numbers are in buffers. Its buffers are in here, where every
 * four bytes are the number of a page that this program can do without. */
#define HARMLESS_GPA (VICTIM_GPA + 0x100000)

static uint64_t state;
static bool is_balloon;

static uint64_t noise(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* An address with a taste for edges. */
static uint64_t bad_address(void)
{
    switch (noise() % 8) {
    case 0:
        return UINT64_MAX - noise() % 64;
    case 1:
        return noise() | 1ull << 47;
    case 2:
        return VICTIM_END - noise() % 64; /* crosses the end of RAM */
    case 3:
        return 0xe8000000 + noise() % 0x1000;
    case 4:
        return 0xfee00000 + noise() % 0x1000;
    default:
        if (is_balloon)
            return HARMLESS_GPA + (noise() % (VICTIM_END - HARMLESS_GPA) & ~(noise() % 16));
        return VICTIM_GPA + (noise() % (VICTIM_END - VICTIM_GPA) & ~(noise() % 16));
    }
}

/* Page numbers of bytes that are 0 or 0x30, at all alignments: 0, 0x30, 0x3000, 0x3030 or none. */
static uint64_t fill_harmless(uint64_t seed, uint64_t b, uint64_t c)
{
    uint64_t x = seed | 1;

    for (uint64_t at = HARMLESS_GPA; at < VICTIM_END; at += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *(volatile uint64_t *)at =
            (x & 3 ? x >> 8 & 0x0101000001010000 : x >> 16 & 0x0000010000000100) * 0x30;
    }
    return 0;
}

static uint32_t bad_length(void)
{
    switch (noise() % 6) {
    case 0:
        return UINT32_MAX - (uint32_t)(noise() % 16);
    case 1:
        return 0;
    case 2:
        return 1u << (noise() % 32);
    default:
        return (uint32_t)(noise() % 8192);
    }
}

static void write_any(uint64_t at, uint64_t value)
{
    switch (noise() % 4) {
    case 0:
        write8(at, (uint8_t)value);
        break;
    case 1:
        write16(at & ~1ull, (uint16_t)value);
        break;
    case 2:
        write32(at & ~3ull, (uint32_t)value);
        break;
    default:
        write64(at & ~7ull, value);
        break;
    }
}

static void noise_on_registers(const Virtio *device, uint64_t bar)
{
    for (unsigned i = 0; i < OPERATIONS; i++) {
        uint64_t value = noise() % 3 ? bad_address() : noise();
        unsigned offset = (unsigned)(noise() % COMMON_BYTES);

        switch (noise() % 8) {
        case 0:
            /* The queue addresses again, but only harmless ones. */
            if (is_balloon)
                break;
            write32(device->common + COMMON_QUEUE_DESC + noise() % 6 * 4, (uint32_t)bad_address());
            break;
        case 1:
            (void)read32(bar + (noise() % BAR_BYTES & ~3ull));
            break;
        case 2:
            write16(device->notify + noise() % 0x1000 * device->notify_multiplier,
                    (uint16_t)noise());
            break;
        case 3:
            write_any(device->device + noise() % 256, value);
            break;
        case 4:
            write_any(bar + 0x40000 + noise() % 0x9000, value);
            break;
        default:
            /* all but the addresses of the rings, which must stay harmless */
            if (offset < COMMON_QUEUE_DESC)
                write_any(device->common + (offset & 0x18), noise() % 4 ? noise() % 16 : value);
            break;
        }
    }
}

/* A device made ready by the book, then given rings full of nonsense. */
static void noise_on_rings(Virtio *device)
{
    static Queue queues[4];
    unsigned n_queues = read16(device->common + COMMON_NUM_QUEUES), n = 0;

    if (!virtio_begin(device, noise() | 1ull << FEATURE_INDIRECT))
        return;
    for (unsigned i = 0; i < n_queues && i < 4; i++) {
        Queue *queue = &queues[i];
        uint64_t at = VICTIM_GPA + i * 0x10000;

        *queue = (Queue){ .index = (uint16_t)i };
        write16(device->common + COMMON_QUEUE_SELECT, (uint16_t)i);
        queue->size = read16(device->common + COMMON_QUEUE_SIZE);
        if (!queue->size)
            continue;
        queue->desc = (Desc *)at;
        queue->avail = (volatile uint16_t *)(at + 0x4000);
        queue->used = (volatile uint16_t *)(at + 0x8000);
        if (noise() % 4 == 0)
            queue->size = (uint16_t)(1u << noise() % 8);
        write16(device->common + COMMON_QUEUE_SIZE, queue->size);
        write64(device->common + COMMON_QUEUE_DESC,
                noise() % 8 || is_balloon ? at : bad_address() & ~15ull);
        write64(device->common + COMMON_QUEUE_DRIVER,
                noise() % 8 ? at + 0x4000 : bad_address() & ~1ull);
        write64(device->common + COMMON_QUEUE_DEVICE,
                noise() % 8 ? at + 0x8000 : bad_address() & ~3ull);
        write16(device->common + COMMON_QUEUE_ENABLE, 1);
        queue->notify = device->notify + read16(device->common + COMMON_QUEUE_NOTIFY_OFF) *
                                             (uint64_t)device->notify_multiplier;
        n++;
        for (unsigned k = 0; k < queue->size && k < 64; k++) {
            queue->desc[k] = (Desc){ .address = bad_address(),
                                     .len = bad_length(),
                                     .flags = (uint16_t)(noise() % 8),
                                     .next = (uint16_t)(noise() % (queue->size + 2u)) };
            queue->avail[2 + k] = (uint16_t)(noise() % (queue->size + (noise() % 16 ? 0u : 9u)));
        }
        queue->avail[0] = (uint16_t)(noise() % 2);
        queue->avail[1] = (uint16_t)(noise() % 4 ? noise() % 8 : noise());
    }
    virtio_ready(device);
    for (unsigned i = 0; i < n * 4; i++) {
        Queue *queue = &queues[noise() % 4];

        if (!queue->size)
            continue;
        write16(queue->notify, queue->index);
        queue->avail[1] = (uint16_t)(queue->avail[1] + noise() % 3);
        /* change what the device may be looking at */
        queue->desc[noise() % queue->size].address = bad_address();
        queue->desc[noise() % queue->size].len = bad_length();
    }
}

/* Another processor changes rings and descriptors all the time, while the device looks at them. */
static volatile bool race_on;

static void race(unsigned number)
{
    uint64_t x = 0x1234567 + number;

    while (race_on) {
        uint64_t at;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        /* descriptors keep their addresses: noise on these has to stay harmless */
        at = VICTIM_GPA + (x >> 8) % 4 * 0x10000;
        if (x & 1)
            *(volatile uint32_t *)(at + (x >> 16) % 64 * sizeof(Desc) + 8) =
                (uint32_t)(x >> 32) & 0xffff;
        else if (x & 2)
            *(volatile uint32_t *)(at + (x >> 16) % 64 * sizeof(Desc) + 12) =
                (uint32_t)(x >> 32) & 0x3f0007;
        else
            *(volatile uint16_t *)(at + 0x4000 + (x >> 16) % 66 * 2) = (uint16_t)(x >> 32) & 0x3f;
    }
}

static void racer(unsigned number)
{
    /* The starter waits for the job's end, so the race is the job of an interrupt. */
}

static void on_race(void)
{
    race(1);
}

static void noise_on_config(unsigned slot)
{
    for (unsigned i = 0; i < OPERATIONS; i++) {
        uint64_t at = pci_config(slot, (unsigned)(noise() % 0x1000));

        /* BARs may only move where nothing else is: not at all here, test_pci does it. */
        if ((at & 0xfff) >= PCI_BAR0 - 8 && (at & 0xfff) < PCI_BAR0 + 24)
            continue;
        write_any(at, noise() % 2 ? noise() : UINT64_MAX);
        outl(0xcf8, (uint32_t)noise());
        (void)inl(0xcfc);
    }
}

/* The registers by which ACPI memory comes: they must say that there is none, whatever is written.
 */
static void noise_on_memory_controller(void)
{
    uint64_t at = (1ull << (cpuid(0x80000008, 0).eax & 0xff)) - 0x10000 - 0x1000;
    bool quiet = true;

    map(at, 0x1000);
    for (unsigned i = 0; i < 20 * OPERATIONS; i++) {
        uint64_t value = noise() % 2 ? noise() % 16 : noise();

        write_any(at + noise() % 0x20, value);
        (void)read64(at + noise() % 0x20);
        (void)read16(at + noise() % 0x1000);
    }
    for (unsigned slot = 0; slot < 8; slot++) {
        write32(at, slot);
        quiet &= read8(at + 0x14) == 0;
    }
    ok(quiet, "the memory controller has nothing after noise");
}

void test_hostile(void)
{
    static const struct {
        unsigned type;
        const char *name;
    } kinds[] = { { VIRTIO_RNG, "rng" }, { VIRTIO_BLK, "block" },
                  { VIRTIO_NET, "net" }, { VIRTIO_CONSOLE, "console" },
                  { VIRTIO_MEM, "mem" }, { VIRTIO_BALLOON, "balloon" } };
    uint64_t pages = option_number("acpi_memory", 0);

    if (option_number("cpus", 1) > 1) {
        interrupt_handler(RACE_VECTOR, on_race);
        race_on = ok(start_cpu(1, racer), "a second processor starts");
        send_ipi(1, RACE_VECTOR);
    }
    for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        Virtio device;
        Bar bar;
        unsigned confused = 0;

        /* A machine has one kind of memory that comes later. */
        if (kinds[k].type == VIRTIO_MEM && pages)
            continue;
        state = option_number("seed", 1) * 0x9e3779b97f4a7c15 + k;
        is_balloon = kinds[k].type == VIRTIO_BALLOON;
        if (is_balloon)
            user_call(fill_harmless, state, 0, 0);
        if (!ok(virtio_find(kinds[k].type, 0, &device) && pci_bar(device.slot, 0, &bar),
                "%s: is there", kinds[k].name))
            continue;
        map(bar.address, bar.size);
        ok(virtio_works(&device, kinds[k].type), "%s: works at first", kinds[k].name);
        for (unsigned round = 0; round < ROUNDS; round++) {
            noise_on_rings(&device);
            delay_us(100);
            confused += (virtio_status(&device) & STATUS_NEEDS_RESET) != 0;
            if (round % 4 == 3) {
                virtio_set_status(&device, 0);
                noise_on_registers(&device, bar.address);
            }
        }
        ok(confused > 0, "%s: asked for a reset in %u of %u rounds", kinds[k].name, confused,
           ROUNDS);
        noise_on_config(device.slot);
        virtio_find(kinds[k].type, 0, &device); /* memory decoding and bus mastering on again */
        ok(virtio_works(&device, kinds[k].type), "%s: works after all that", kinds[k].name);
    }
    race_on = false;
    is_balloon = false;
    if (pages)
        noise_on_memory_controller();
    for (unsigned i = 0; i < 1000; i++) {
        /* Ports: all but those that end the machine, and COM1. */
        uint16_t port = (uint16_t)noise();

        if ((port >= 0x3f8 && port < 0x400) || (port >= 0x5f8 && port < 0x610) ||
            (port >= 0x60 && port < 0x72))
            continue;
        switch (noise() % 4) {
        case 0:
            outb(port, (uint8_t)noise());
            break;
        case 1:
            if (port < 0xcf4 || port > 0xcff) /* a BAR could move, decoding stop */
                outl(port, (uint32_t)noise());
            break;
        case 2:
            (void)inl(port);
            break;
        default:
            (void)inw(port);
            break;
        }
    }
    for (unsigned i = 0; i < 500; i++)
        (void)read32(0xfec00000 + (noise() % 0x1000 & ~3ull));
    ok(true, "ports and holes survive noise");
}
