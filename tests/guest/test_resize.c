/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vCPUs that come and go and ACPI memory that comes, on command of the host over the serial port, a
 * letter each: what an operating system's ACPI methods do, and what none would do.
 */
#include "tests/guest/interrupts.h"
#include "tests/guest/tests.h"

enum {
    /* The controller's registers. */
    SELECT = 0x0,
    STATUS = 0x4,
    CPU_OST = 0x8, /* the event, and the status above it */
    MEMORY_OST = 0x4,
    OST_DEVICE_CHECK = 1,
    OST_EJECT_REQUEST = 3,
    OST_FAILURE = 1u << 16,
    OST_BUSY = 0x82u << 16,
    REGS_LEN = 0xc,
    ENABLED = 1 << 0,
    INSERTING = 1 << 1,
    REMOVING = 1 << 2,
    EJECT = 1 << 3,
    MEMORY_STATUS = 0x14,
    MEMORY_SLOTS = 8,

    GED_GSI = 13,
    GED_CPU = 1 << 0,
    GED_MEMORY = 1 << 1,
    VECTOR_GED = 50,
    VECTOR_IPI = 51,
    WAIT_US = 20000000,
};

static uint64_t controller, memory, ged;
static unsigned max_cpus;
static volatile uint32_t ap_id;

/* Where the address map puts the register pages: below 64 KiB at the top. */
static void find_registers(void)
{
    uint64_t top = (1ull << (cpuid(0x80000008, 0).eax & 0xff)) - 0x10000;

    /* The memory controller is the first, where there is one. */
    if (option_number("acpi_memory", 0)) {
        memory = top -= 0x1000;
        map(memory, 0x1000);
    }
    controller = top - 0x2000;
    ged = top - 0x3000;
    map(controller, 0x1000);
    map(ged, 0x1000);
}

static uint8_t status_of(uint32_t cpu)
{
    write32(controller + SELECT, cpu);
    return read8(controller + STATUS);
}

static void write_status(uint32_t cpu, uint8_t value)
{
    write32(controller + SELECT, cpu);
    write8(controller + STATUS, value);
}

/* The event device's interrupt says that there is news of @what. */
static void wait_news(uint8_t what)
{
    static unsigned seen;

    if (!wait_interrupts(VECTOR_GED, seen + 1, WAIT_US))
        give_up("no interrupt of the event device");
    seen = interrupt_count[VECTOR_GED];
    if (!(read8(ged) & what))
        give_up("no news of %u", what);
}

static void wait_status(uint32_t cpu, uint8_t value)
{
    uint64_t end = now_us() + WAIT_US;

    while (status_of(cpu) != value && now_us() < end)
        __asm__ volatile("pause");
}

/* Start-up takes stacks one after the other: here each vCPU has its own, whenever it comes. */
extern uint64_t ap_next;

static bool start_with(uint32_t cpu, void (*job)(unsigned number), uint64_t us)
{
    ap_next = cpu - 1;
    return start_cpu_within(cpu, job, us);
}

static void say_id(unsigned number)
{
    ap_id = apic_id();
}

/* Starts the vCPU, with which all APIC ids are numbers without gaps. */
static bool start(uint32_t cpu)
{
    unsigned sent = interrupt_count[VECTOR_IPI];

    ap_id = ~0u;
    if (!start_with(cpu, say_id, WAIT_US) || ap_id != cpu)
        return false;
    send_ipi(cpu, VECTOR_IPI);
    return wait_interrupts(VECTOR_IPI, sent + 1, 2000000);
}

static void come(void)
{
    unsigned n = 0;

    wait_news(GED_CPU);
    for (uint32_t cpu = 0; cpu < max_cpus; cpu++) {
        if (!(status_of(cpu) & INSERTING))
            continue;
        write_status(cpu, INSERTING);
        if (status_of(cpu) != ENABLED)
            give_up("vCPU %u has status %x", cpu, status_of(cpu));
        if (!start(cpu))
            give_up("vCPU %u does not start", cpu);
        n++;
    }
    print("came %u;\n", n);
}

/* Takes note of those that are new, and leaves them alone. */
static void acknowledge(void)
{
    unsigned n = 0;

    wait_news(GED_CPU);
    for (uint32_t cpu = 0; cpu < max_cpus; cpu++) {
        if (status_of(cpu) & INSERTING) {
            write_status(cpu, INSERTING);
            n++;
        }
    }
    print("noted %u;\n", n);
}

static uint32_t own_number;

static void let_itself_go(unsigned number)
{
    write_status(own_number, EJECT);
}

/* @itself: the vCPU does it, and goes on for as long as it can. */
static void go(bool itself)
{
    unsigned n = 0;

    wait_news(GED_CPU);
    for (uint32_t cpu = 0; cpu < max_cpus; cpu++) {
        if (!(status_of(cpu) & REMOVING))
            continue;
        write_status(cpu, REMOVING);
        if (itself) {
            own_number = cpu;
            start_with(cpu, let_itself_go, 0); /* it never tells that it is up */
            wait_status(cpu, 0);
        } else {
            write_status(cpu, EJECT);
        }
        if (status_of(cpu) != 0)
            give_up("vCPU %u has status %x after it was let go", cpu, status_of(cpu));
        write_status(cpu, EJECT);
        n++;
    }
    print("went %u;\n", n);
}

static void ignore(void)
{
    unsigned n = 0;

    wait_news(GED_CPU);
    for (uint32_t cpu = 0; cpu < max_cpus; cpu++) {
        if (status_of(cpu) & REMOVING) {
            write_status(cpu, REMOVING);
            n++;
        }
    }
    print("ignored %u;\n", n);
}

/* Says no to all that is asked for. */
static void refuse(void)
{
    unsigned n = 0;

    wait_news(GED_CPU);
    for (uint32_t cpu = 0; cpu < max_cpus; cpu++) {
        if (status_of(cpu) & REMOVING) {
            write_status(cpu, REMOVING);
            n++;
        }
        write32(controller + CPU_OST, OST_EJECT_REQUEST | OST_BUSY);
        write32(controller + CPU_OST, OST_EJECT_REQUEST | OST_BUSY);
    }
    print("refused %u;\n", n);
}

/* Ejects what it was asked for before, without having been asked again. */
static void go_late(uint32_t cpu)
{
    write_status(cpu, EJECT);
    print("late %u;\n", status_of(cpu));
}

static uint32_t present(void)
{
    uint32_t cpus = 0;

    for (uint32_t cpu = 0; cpu < max_cpus; cpu++)
        cpus |= (uint32_t)(status_of(cpu) & ENABLED) << cpu;
    return cpus;
}

static void noise(void)
{
    uint32_t before = present();

    for (uint32_t cpu = 0; cpu < 64; cpu++) {
        write_status(cpu, 0xff);
        write_status(1u << (cpu & 31), 0xff);
    }
    for (unsigned at = 0; at < REGS_LEN; at++) {
        write8(controller + at, 0xff);
        write16(controller + at, 0xffff);
        write32(controller + at, at ? 0xffffffff : 0);
        write64(controller + at, ~0ull);
        if (!memory)
            continue;
        write8(memory + at, 0xff);
        write32(memory + at, at ? 0xffffffff : 0);
        write64(memory + 2 * at, ~0ull);
    }
    ok(present() == before, "noise removes nothing (%x, %x)", before, present());
    print("quiet;\n");
}

static void refuse_memory(void)
{
    for (uint32_t slot = 0; slot < 2 * MEMORY_SLOTS; slot++) {
        write32(memory + SELECT, slot);
        write32(memory + MEMORY_OST, OST_DEVICE_CHECK | OST_FAILURE);
    }
    print("memory refused;\n");
}

static uint64_t read_pair(unsigned offset)
{
    return read32(memory + offset) | (uint64_t)read32(memory + offset + 4) << 32;
}

/* Uses both ends of the new memory. */
static void more_memory(void)
{
    static uint64_t last_end;
    unsigned n = 0;

    wait_news(GED_MEMORY);
    for (uint32_t slot = 0; slot < MEMORY_SLOTS; slot++) {
        uint64_t gpa, len;

        write32(memory + SELECT, slot);
        if (!(read8(memory + MEMORY_STATUS) & INSERTING))
            continue;
        gpa = read_pair(0);
        len = read_pair(8);
        write8(memory + MEMORY_STATUS, INSERTING);
        if (read8(memory + MEMORY_STATUS) != ENABLED || gpa < last_end)
            give_up("slot %u has status %x, address %lx", slot, read8(memory + MEMORY_STATUS), gpa);
        last_end = gpa + len;
        map(gpa, 4096);
        map(last_end - 4096, 4096);
        if (read64(gpa) || read64(last_end - 8))
            give_up("the new memory is not empty");
        write64(gpa, ~gpa);
        write64(last_end - 8, len);
        if (read64(gpa) != ~gpa || read64(last_end - 8) != len)
            give_up("the new memory does not keep what is written");
        print("memory %lx %lx;\n", gpa, len);
        n++;
    }
    if (n != 1)
        give_up("%u slots are new", n);
}

/* What more_memory() wrote is there. */
static void check_memory(void)
{
    unsigned n = 0;

    for (uint32_t slot = 0; slot < MEMORY_SLOTS; slot++) {
        uint64_t gpa, len;

        write32(memory + SELECT, slot);
        if (!(read8(memory + MEMORY_STATUS) & ENABLED))
            continue;
        gpa = read_pair(0);
        len = read_pair(8);
        n += read64(gpa) == ~gpa && read64(gpa + len - 8) == len;
    }
    print("kept %u;\n", n);
}

void test_resize(void)
{
    interrupts_init();
    find_registers();
    max_cpus = (unsigned)option_number("max_cpus", 1);
    ioapic_route(GED_GSI, VECTOR_GED, false, false);
    ok(present() == (1u << option_number("cpus", 1)) - 1, "at the start there are vCPUs %x",
       present());
    print("ready\n");
    for (;;) {
        switch (serial_read(60000000)) {
        case 'c':
            come();
            break;
        case 'a':
            acknowledge();
            break;
        case 'g':
            go(false);
            break;
        case 's':
            go(true);
            break;
        case 'i':
            ignore();
            break;
        case 'o':
            refuse();
            break;
        case 'l':
            go_late(max_cpus - 1);
            break;
        case 'e':
            refuse_memory();
            break;
        case 'm':
            more_memory();
            break;
        case 'k':
            check_memory();
            break;
        case 'n':
            noise();
            break;
        case 'p':
            print("present %x;\n", present());
            break;
        case 'q':
            return;
        default:
            break;
        }
    }
}
