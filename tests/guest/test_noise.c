/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Noise from all processors at once on everything that a guest can reach: ports, registers,
 * configuration space, MSI-X tables, BARs moved onto RAM and each other, rings, in all sizes and at
 * all alignments. The VMM has to survive, and after a reset the machine has to be as new: the host
 * asks for the one, then for the other (words n and w; behind n comes a byte
 * that makes this round's noise another). seed=N and seconds=N choose the noise. The word m, with
 * the same byte, is for noise during which the first processor stops the others by INIT and starts
 * them again, wherever they are, and sends NMIs to all.
 *
 * Some bytes are never written, so that the guest stays alive to make noise: what powers off or
 * resets, delivery modes of messages other than "fixed" (INIT would stop a processor), and
 * addresses of rings and buffers in the first 16 MiB, where this program is. A balloon takes pages
 * away whose numbers are in its buffers: it has rings and buffers of its own, where no other device
 * writes.
 */
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    NOISE_VECTOR = 54,
    MAX_BARS = 32,
    MAX_PLACES = 64,
    PLATFORM_PAGES = 6,
    N_DESCRIPTORS = 65536,
    COMMON_BYTES = 0x38,
    USER_STACK_BYTES = 4096,
    COM1_PIN = 4,
    MODE_NMI = 4 << 8,
    MODE_INIT = 5 << 8,
};

#define VICTIM_GPA 0x1000000ull
#define VICTIM_END 0x4000000ull
/* The balloon's; every four bytes are the number of a page that this program can do without. */
#define BALLOON_RINGS_GPA 0x2c00000ull
#define BALLOON_DATA_GPA  0x2d00000ull
#define BALLOON_DATA_END  0x3f00000ull
#define IOAPIC_GPA        0xfec00000ull
#define LAPIC_GPA         0xfee00000ull

typedef struct {
    uint64_t state;
    uint64_t operations;
    bool no_ports;
} Noise;

typedef struct {
    unsigned slot, index;
    bool is_balloon;
    uint64_t size;
    volatile uint64_t address; /* where some processor last moved it */
} NoisyBar;

static Noise noises[MAX_APS + 1];
static NoisyBar bars[MAX_BARS];
static unsigned n_bars;
static unsigned present[PCI_ALL_SLOTS], n_present;
static uint64_t places[MAX_PLACES]; /* pages of registers, and where BARs are moved to */
static unsigned n_places;
static uint64_t end_gpa; /* of what the processor can address */
static volatile bool noisy;
static bool in_kernel_mode; /* all processors, so that an NMI finds a stack */

static uint64_t noise(Noise *self)
{
    self->state ^= self->state << 13;
    self->state ^= self->state >> 7;
    self->state ^= self->state << 17;
    return self->state;
}

/* An address for a device to use. */
static uint64_t bad_address(Noise *self)
{
    switch (noise(self) % 8) {
    case 0:
        return UINT64_MAX - noise(self) % 64;
    case 1:
        return noise(self) | 1ull << 47;
    case 2:
        return VICTIM_END - noise(self) % 64; /* crosses the end of RAM */
    case 3:
        return places[noise(self) % n_places] + noise(self) % 0x1000;
    default:
        return VICTIM_GPA + noise(self) % (VICTIM_END - VICTIM_GPA) / 2;
    }
}

static uint64_t bad_balloon_address(Noise *self)
{
    switch (noise(self) % 8) {
    case 0:
        return UINT64_MAX - noise(self) % 64;
    case 1:
        return noise(self) | 1ull << 47;
    default:
        return BALLOON_DATA_GPA +
               noise(self) % (BALLOON_DATA_END - BALLOON_DATA_GPA - 0x4000) / 4 * 4;
    }
}

static uint64_t bad_value(Noise *self)
{
    switch (noise(self) % 6) {
    case 0:
        return noise(self) % 16;
    case 1:
        return UINT64_MAX;
    case 2:
        return 1ull << noise(self) % 64;
    case 3:
        return bad_address(self);
    default:
        return noise(self);
    }
}

/* --- single accesses, with the bytes that would end the noise left out --- */

static uint64_t with_byte(uint64_t value, unsigned i, uint8_t byte)
{
    return (value & ~(0xffull << 8 * i)) | (uint64_t)byte << 8 * i;
}

/* No message has a delivery mode other than "fixed"; ring addresses (@far) are above 16 MiB. */
static uint64_t memory_value(uint64_t at, uint64_t value, bool far)
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t byte = (uint8_t)(value >> 8 * i);

        if (((at + i) & 3) == 1)
            byte &= 0xf8;
        if (((at + i) & 3) == 3 && far)
            byte |= 1;
        value = with_byte(value, i, byte);
    }
    return value;
}

static uint64_t port_value(unsigned port, uint64_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        uint8_t byte = (uint8_t)(value >> 8 * i);

        if (port + i >= 0x5f8 && port + i < 0x610)
            byte &= (uint8_t)~0x21; /* sleep, reset */
        if (byte == 0xfe)
            byte = 0xfd; /* the keyboard controller's reset */
        if (port + i == 0x70)
            byte &= 0x7f; /* the index by which CMOS resets */
        if (port + i == 0xcfd)
            byte &= 0xf8;
        if (port + i == 0xcff)
            byte |= 1;
        value = with_byte(value, i, byte);
    }
    return value;
}

static void memory_access(Noise *self, uint64_t at, bool far)
{
    uint64_t value = memory_value(at, bad_value(self), far);

    switch (noise(self) % 12) {
    case 0:
        write8(at, (uint8_t)value);
        break;
    case 1:
        write16(at, (uint16_t)value);
        break;
    case 2:
    case 3:
    case 4:
        write32(at, (uint32_t)value);
        break;
    case 5:
        if (noise(self) % 2)
            at = (at | 0xfff) - noise(self) % 8; /* the VMM sees two parts of odd sizes */
        write64(at, memory_value(at, value, far));
        break;
    case 6:
        (void)read8(at);
        break;
    case 7:
        (void)read16(at);
        break;
    case 8:
    case 9:
        (void)read32(at);
        break;
    case 10:
        (void)read64(at);
        break;
    default:
        (void)read64((at | 0xfff) - noise(self) % 8);
        break;
    }
}

static void port_access(Noise *self)
{
    static const uint16_t known[] = {
        0x61,  0x64,  0x70,  0x71,  0x80,  0xe9,  0x3f8, 0x402, 0x510,
        0x511, 0x514, 0x518, 0x600, 0x608, 0x60c, 0x610, 0xcf8, 0xcfc
    };
    uint16_t port =
        (uint16_t)(noise(self) % 4 ? known[noise(self) % (sizeof(known) / 2)] + noise(self) % 8 - 1
                                   : noise(self));
    uint32_t value = (uint32_t)port_value(port, bad_value(self));

    /* Where a configuration address may name a function that is there. */
    if (port == 0xcf8 && noise(self) % 4)
        value = 1u << 31 | present[noise(self) % n_present] % 32 << 11 | (value & 0xfc);
    switch (noise(self) % 7) {
    case 0:
        outb(port, (uint8_t)value);
        break;
    case 1:
        outw(port, (uint16_t)value);
        break;
    case 2:
    case 3:
        outl(port, value);
        break;
    case 4:
        (void)inb(port);
        break;
    case 5:
        (void)inw(port);
        break;
    default:
        (void)inl(port);
        break;
    }
}

/* --- what the noise is about --- */

static void config_access(Noise *self)
{
    unsigned slot = noise(self) % 8 ? present[noise(self) % n_present]
                                    : (unsigned)(noise(self) % PCI_ALL_SLOTS);
    unsigned offset;

    switch (noise(self) % 4) {
    case 0:
        offset = (unsigned)(noise(self) % 0x40);
        break;
    case 1:
        offset = (unsigned)(noise(self) % 0x1000);
        break;
    default:
        offset = 0x40 + (unsigned)(noise(self) % 0xc0);
        break;
    }
    memory_access(self, pci_config(slot, offset), offset >= 0x3c);
}

static void move_bar(Noise *self)
{
    NoisyBar *bar = &bars[noise(self) % n_bars];
    uint64_t command = pci_config(bar->slot, PCI_COMMAND);
    uint64_t to =
        noise(self) % 2 ? places[noise(self) % n_places] : bars[noise(self) % n_bars].address;

    if (noise(self) % 4 == 0)
        write16(command, 0);
    if (noise(self) % 8 == 0)
        to += (noise(self) % 3 - 1) * bar->size;
    pci_bar_move(bar->slot, bar->index, to);
    write16(command, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    /* Only where this guest has mapped something. */
    for (unsigned i = 0; i < n_places; i++)
        if (places[i] == to)
            bar->address = to;
}

static void register_access(Noise *self)
{
    const NoisyBar *bar = &bars[noise(self) % n_bars];
    uint64_t address = bar->address; /* once: others move it */
    uint64_t offset = noise(self) % bar->size;

    switch (noise(self) % 5) {
    case 0:
        offset = noise(self) % COMMON_BYTES;
        break;
    case 1:
        offset = (noise(self) % 2 ? 0x2000 : 0x4000) + noise(self) % 64; /* ISR, device */
        break;
    case 2:
        offset = 0x6000 + noise(self) % 16 * 4; /* notifications */
        break;
    case 3:
        offset = (noise(self) % 2 ? 0x8000 : 0x48000) + noise(self) % 128; /* MSI-X */
        break;
    default:
        break;
    }
    if (address + offset < end_gpa - 0x2000)
        memory_access(self, address + offset, true);
}

/* A device set up nearly by the book, with rings of nonsense, and notified. */
static void bring_up(Noise *self)
{
    const NoisyBar *bar = &bars[noise(self) % n_bars];
    uint64_t common = bar->address;
    uint64_t rings = bar->is_balloon ? BALLOON_RINGS_GPA : VICTIM_GPA;
    unsigned n_queues = read16(common + COMMON_NUM_QUEUES) % 8;
    uint8_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;

    write8(common + COMMON_STATUS, 0);
    write8(common + COMMON_STATUS, status);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t offered;

        write32(common + COMMON_DEVICE_FEATURE_SELECT, i);
        offered = read32(common + COMMON_DEVICE_FEATURE);
        write32(common + COMMON_DRIVER_FEATURE_SELECT, i);
        write32(common + COMMON_DRIVER_FEATURE, i ? offered | 1 : offered & (uint32_t)noise(self));
    }
    status |= STATUS_FEATURES_OK;
    write8(common + COMMON_STATUS, status);
    for (unsigned i = 0; i < n_queues; i++) {
        uint64_t at = rings + i * 0x10000;
        uint16_t size = (uint16_t)(2u << noise(self) % 8);

        write16(common + COMMON_QUEUE_SELECT, (uint16_t)i);
        write16(common + COMMON_QUEUE_SIZE, size);
        write64(common + COMMON_QUEUE_DESC,
                noise(self) % 8 || bar->is_balloon ? at : bad_address(self) & ~15ull);
        write64(common + COMMON_QUEUE_DRIVER,
                noise(self) % 8 ? at + 0x8000 : bad_address(self) & ~1ull);
        write64(common + COMMON_QUEUE_DEVICE,
                noise(self) % 8 ? at + 0xc000 : bad_address(self) & ~3ull);
        write16(common + COMMON_QUEUE_VECTOR, (uint16_t)(noise(self) % 4));
        write16(common + COMMON_QUEUE_ENABLE, 1);
        write16(at + 0x8000, (uint16_t)(noise(self) % 2));
        write16(at + 0x8002, (uint16_t)(noise(self) % 4 ? noise(self) % (size + 1u) : noise(self)));
        for (unsigned k = 0; k < 8; k++)
            write16(at + 0x8004 + 2 * k, (uint16_t)(noise(self) % (size + 1u)));
    }
    write8(common + COMMON_STATUS, status | STATUS_DRIVER_OK);
    for (unsigned i = 0; i < 2 * n_queues; i++)
        write16(common + 0x6000 + noise(self) % 8 * 4, (uint16_t)(noise(self) % 8));
}

static void change_rings(Noise *self)
{
    bool balloon = noise(self) % 8 == 0;
    uint64_t at = (balloon ? BALLOON_RINGS_GPA : VICTIM_GPA) + noise(self) % 8 * 0x10000;
    Desc *desc = (Desc *)at + noise(self) % 256;

    desc->address = balloon ? bad_balloon_address(self) : bad_address(self);
    desc->len = (uint32_t)(noise(self) % 4 ? noise(self) % 8192 : noise(self));
    desc->flags = (uint16_t)(noise(self) % 8);
    desc->next = (uint16_t)(noise(self) % 260);
    write16(at + 0x8002, (uint16_t)(read16(at + 0x8002) + noise(self) % 4));
}

static void make_noise(Noise *self)
{
    unsigned turn = noise(self) % 100;

    /* The last two take the VMM a thousand times as long as the others. */
    if (turn < 20 && !self->no_ports)
        port_access(self);
    else if (turn < 40)
        config_access(self);
    else if (turn < 50)
        memory_access(self, places[noise(self) % n_places] + noise(self) % 0x1000, true);
    else if (turn < 58)
        memory_access(self, IOAPIC_GPA + noise(self) % 0x24, false);
    else if (turn < 68)
        change_rings(self);
    else if (turn < 98)
        register_access(self);
    else if (turn < 99)
        move_bar(self);
    else
        bring_up(self);
    self->operations++;
}

/* --- all processors --- */

/* Never returns. No interrupt comes, and a fault ends the machine. */
static void to_user_mode(void (*function)(Noise *self), Noise *self)
{
    uint8_t *stack = dma_alloc(USER_STACK_BYTES, 16);

    __asm__ volatile("pushq $0x1b\n\t"
                     "pushq %0\n\t"
                     "pushq $0x2\n\t"
                     "pushq $0x23\n\t"
                     "pushq %1\n\t"
                     "iretq"
                     :
                     : "r"(stack + USER_STACK_BYTES - 8), "r"(function), "D"(self)
                     : "memory");
    __builtin_unreachable();
}

static void other_noise(Noise *self)
{
    for (;;)
        if (noisy)
            make_noise(self);
}

/* Every other processor is in user mode, where software KVM is many times as quick; ports are for
 * the rest. */
static void on_noise(void)
{
    Noise *self = &noises[apic_id()];

    self->no_ports = apic_id() % 2;
    if (self->no_ports && !in_kernel_mode)
        to_user_mode(other_noise, self);
    other_noise(self);
}

/* Its starter waits for a job's end, so the noise is the work of an interrupt. */
static void idle(unsigned number)
{
}

static void quiet_serial(void)
{
    /* as the loader leaves it */
    outb(0x3fb, 3);
    outb(0x3f9, 0);
    outb(0x3fa, 0);
    outb(0x3fc, 0);
}

static void end_noise(void)
{
    unsigned cpus = (unsigned)option_number("cpus", 1);
    uint64_t operations = 0;

    for (unsigned i = 0; i < cpus; i++)
        operations += noises[i].operations;
    quiet_serial();
    print("\nquiet after %lu operations\n", operations);
    outb(0x600, 1);
    for (;;)
        __asm__ volatile("pause");
}

static void first_noise(void)
{
    uint64_t end = now_us() + option_number("seconds", 3) * 1000000;

    while (now_us() < end)
        make_noise(&noises[0]);
    noisy = false;
    delay_us(20000);
    end_noise();
}

static void count_only(void)
{
}

/* A message of delivery mode @mode by the IOAPIC: the serial port has an edge for it when its
 * interrupt is switched on. */
static void send_by_pin(unsigned mode, uint32_t cpu)
{
    ioapic_write(0x10 + 2 * COM1_PIN + 1, cpu << 24);
    ioapic_write(0x10 + 2 * COM1_PIN, mode | NOISE_VECTOR);
    quiet_serial();
    outb(0x3fc, 8);
    outb(0x3f9, 2);
    outb(0x3f9, 0);
}

/* Stops another processor in the middle of what it does. Returns: whether it starts again. */
static bool stop_and_start(uint32_t cpu, bool by_pin)
{
    if (by_pin)
        send_by_pin(MODE_INIT, cpu);
    else
        send_init(cpu);
    return restart_cpu(cpu, cpu - 1, idle);
}

static void disturb(void)
{
    unsigned cpus = (unsigned)option_number("cpus", 1);
    uint64_t end = now_us() + option_number("seconds", 3) * 1000000;
    unsigned inits = 0, lost = 0, nmis = 0;
    Noise *self = &noises[0];

    while (now_us() < end) {
        uint32_t cpu = 1 + (uint32_t)(noise(self) % (cpus - 1));

        if (noise(self) % 4 == 0) {
            inits++;
            if (stop_and_start(cpu, noise(self) % 2))
                send_ipi(cpu, NOISE_VECTOR);
            else
                lost++;
        } else if (noise(self) % 4 == 0) {
            send_by_pin(MODE_NMI, cpu);
        } else {
            send_nmi(noise(self) % 8 ? cpu : 0);
            nmis++;
        }
        for (unsigned i = 0; i < 10; i++)
            make_noise(self);
    }
    noisy = false;
    for (uint32_t cpu = 1; cpu < cpus; cpu++)
        lost += !stop_and_start(cpu, false);
    quiet_serial();
    ok(inits > 0 && !lost, "every processor starts again after an INIT, %u of them did not", lost);
    ok(interrupt_count[NMI_VECTOR] > 0, "NMIs come while they make noise");
    print("%u INITs, %u of %u NMIs\n", inits, interrupt_count[NMI_VECTOR], nmis);
    end_noise();
}

static uint64_t fill_victim(uint64_t seed, uint64_t b, uint64_t c)
{
    Noise self = { .state = seed };

    for (unsigned i = 0; i < N_DESCRIPTORS; i++)
        ((Desc *)VICTIM_GPA)[i] = (Desc){ .address = bad_address(&self),
                                          .len = (uint32_t)(noise(&self) % 8192),
                                          .flags = (uint16_t)(noise(&self) % 8),
                                          .next = (uint16_t)(noise(&self) % 260) };
    for (unsigned i = 0; i < N_DESCRIPTORS; i++)
        ((Desc *)BALLOON_RINGS_GPA)[i] = (Desc){ .address = bad_balloon_address(&self),
                                                 .len = (uint32_t)(noise(&self) % 512 * 4),
                                                 .flags = (uint16_t)(noise(&self) % 8),
                                                 .next = (uint16_t)(noise(&self) % 260) };
    /* Bytes that are 0 or 0x30: pages 0, 0x30, 0x3000, 0x3030, or none. */
    for (uint64_t at = BALLOON_DATA_GPA; at < BALLOON_DATA_END; at += 8)
        *(volatile uint64_t *)at = (noise(&self) & 0x0000010000000101) * 0x30;
    return 0;
}

static void add_place(uint64_t at)
{
    if (n_places == MAX_PLACES)
        return;
    map(at, 0x80000);
    places[n_places++] = at;
}

static void find_all(void)
{
    end_gpa = 1ull << (cpuid(0x80000008, 0).eax & 0xff);
    for (unsigned slot = 0; slot < PCI_ALL_SLOTS; slot++) {
        if (read32(pci_config(slot, PCI_VENDOR)) == 0xffffffff)
            continue;
        present[n_present++] = slot;
        for (unsigned i = 0; i < 6 && n_bars < MAX_BARS; i++) {
            Bar bar;

            if (!pci_bar(slot, i, &bar) || bar.is_io)
                continue;
            bars[n_bars++] = (NoisyBar){ .slot = slot,
                                         .index = i,
                                         .is_balloon = read16(pci_config(slot, PCI_DEVICE)) ==
                                                       0x1040 + VIRTIO_BALLOON,
                                         .size = bar.size,
                                         .address = bar.address };
            add_place(bar.address);
            write16(pci_config(slot, PCI_COMMAND), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
            msix_on(slot);
            i += bar.is_64;
        }
    }
    for (unsigned i = 1; i <= PLATFORM_PAGES; i++)
        add_place(end_gpa - 0x10000 - i * 0x1000);
    add_place(VICTIM_GPA);
    add_place(VICTIM_END - 0x1000);
    add_place(0xc0000000);
    add_place(0xd8000000);
    add_place(0xe7ff0000);
    add_place(0xf8000000); /* KVM's own pages */
    add_place(IOAPIC_GPA);
    add_place(0xfed40000);
    add_place(LAPIC_GPA);
    add_place(0xfffff000);
}

static void run_noise(unsigned round, void (*first)(void))
{
    unsigned cpus = (unsigned)option_number("cpus", 1);

    find_all();
    ok(n_bars > 0, "%u functions, %u BARs, %u places", n_present, n_bars, n_places);
    for (unsigned i = 0; i < cpus; i++)
        noises[i].state =
            (option_number("seed", 1) + i + ((uint64_t)round << 32)) * 0x9e3779b97f4a7c15;
    user_call(fill_victim, noises[0].state, 0, 0);
    interrupt_handler(NOISE_VECTOR, on_noise);
    for (unsigned i = 1; i < cpus; i++) {
        ok(start_cpu(i, idle), "processor %u makes noise", i);
        send_ipi(i, NOISE_VECTOR);
    }
    noisy = true;
    interrupts_off();
    first();
}

static void check_all(void)
{
    static const unsigned types[] = { VIRTIO_RNG,     VIRTIO_BLK,     VIRTIO_NET,
                                      VIRTIO_CONSOLE, VIRTIO_BALLOON, VIRTIO_MEM };
    uint64_t memory = (1ull << (cpuid(0x80000008, 0).eax & 0xff)) - 0x10000 - 0x1000;
    bool quiet = true;

    for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        Virtio device;

        for (unsigned nth = 0; virtio_find(types[i], nth, &device); nth++)
            ok(virtio_works(&device, types[i]), "device %u of type %u works after the noise", nth,
               types[i]);
    }
    ok(option_number("cpus", 1) < 2 || start_cpu(1, idle), "a second processor starts");
    if (!option_number("acpi_memory", 0))
        return;
    /* What came during the noise belongs to the RAM that the machine began with. */
    map(memory, 0x1000);
    for (unsigned slot = 0; slot < 8; slot++) {
        write32(memory, slot);
        quiet &= read8(memory + 0x14) == 0;
    }
    ok(quiet, "the memory controller has nothing after the noise");
}

void test_noise(void)
{
    print("ready\n");
    switch (serial_read(60000000)) {
    case 'n':
        run_noise((unsigned)serial_read(10000000), first_noise);
        break;
    case 'm':
        in_kernel_mode = true;
        interrupt_handler(NMI_VECTOR, count_only);
        run_noise((unsigned)serial_read(10000000), disturb);
        break;
    case 'w':
        check_all();
        break;
    default:
        give_up("the host said nothing");
    }
}
