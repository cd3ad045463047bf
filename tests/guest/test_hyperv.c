/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest that knows Hyper-V uses of it (Hypervisor Top Level Functional Specification,
 * chapters 3, 4, 7, 11 and 12). */
#include "tests/guest/interrupts.h"
#include "tests/guest/tests.h"

enum {
    MSR_GUEST_OS_ID = 0x40000000,
    MSR_HYPERCALL = 0x40000001,
    MSR_VP_INDEX = 0x40000002,
    MSR_TIME_REF_COUNT = 0x40000020,
    MSR_REFERENCE_TSC = 0x40000021,
    MSR_TSC_FREQUENCY = 0x40000022,
    MSR_SIMP = 0x40000083,
    MSR_SCONTROL = 0x40000080,
    MSR_SINT1 = 0x40000091,
    MSR_STIMER0_CONFIG = 0x400000b0,
    MSR_STIMER0_COUNT = 0x400000b1,

    LEAF_HYPERV = 0x40000000,
    ENABLE = 1,
    SINT = 1,
    TIMER_VECTOR = 55,
    TIMER_ENABLE = 1 << 0,
    TIMER_SINT_SHIFT = 16,
    TICKS_PER_US = 10, /* of the reference counter */
};
#define OS_ID 0x8100000000000000ull /* an open source system without a name */

typedef struct {
    volatile uint32_t sequence;
    uint32_t reserved;
    volatile uint64_t scale;
    volatile int64_t offset;
} ReferencePage;

static uint64_t reference_count(void)
{
    return rdmsr(MSR_TIME_REF_COUNT);
}

static uint64_t count_of_page(const ReferencePage *page)
{
    return (uint64_t)((unsigned __int128)rdtsc() * page->scale >> 64) + (uint64_t)page->offset;
}

/* The counter of the page is between two of the register: they are one clock. */
static void check_reference_page(void)
{
    ReferencePage *page = dma_alloc(4096, 4096);
    uint64_t began = reference_count(), ended;
    unsigned wrong = 0;

    delay_us(20000);
    ended = reference_count();
    ok(ended - began >= 15000 * TICKS_PER_US && ended - began < 200000 * TICKS_PER_US,
       "the reference counter counts %lu in 20 ms", ended - began);
    memset(page, 0xff, 4096);
    wrmsr(MSR_REFERENCE_TSC, (uint64_t)page | ENABLE);
    ok(rdmsr(MSR_REFERENCE_TSC) == ((uint64_t)page | ENABLE),
       "the reference TSC page is switched on");
    ok(page->sequence != 0xffffffff, "the hypervisor has filled it (sequence %u)", page->sequence);
    if (!page->sequence) {
        /* 12.7.3: the guest has to take the register instead. */
        print("# the host's clock is none that the page could tell\n");
        return;
    }
    for (unsigned i = 0; i < 50; i++) {
        uint64_t before = reference_count(), count = count_of_page(page), after = reference_count();

        wrong += count + 10 * TICKS_PER_US < before || count > after + 10 * TICKS_PER_US;
        delay_us(200);
    }
    ok(!wrong, "it tells the same time as the register, but for %u of 50 times", wrong);
}

/* A synthetic timer sends its message, and with it an interrupt. */
static void check_synthetic_timer(void)
{
    uint8_t *messages = dma_alloc(4096, 4096);
    unsigned before = interrupt_count[TIMER_VECTOR];

    wrmsr(MSR_SCONTROL, ENABLE);
    wrmsr(MSR_SIMP, (uint64_t)messages | ENABLE);
    wrmsr(MSR_SINT1, TIMER_VECTOR);
    wrmsr(MSR_STIMER0_CONFIG, TIMER_ENABLE | SINT << TIMER_SINT_SHIFT);
    wrmsr(MSR_STIMER0_COUNT, reference_count() + 5000 * TICKS_PER_US);
    ok(wait_interrupts(TIMER_VECTOR, before + 1, 2000000), "a synthetic timer interrupts");
    ok(read32((uint64_t)messages + 256 * SINT) == 0x80000010, "and its message is there (%x)",
       read32((uint64_t)messages + 256 * SINT));
}

void test_hyperv(void)
{
    Cpuid r = cpuid(LEAF_HYPERV, 0);
    uint8_t *hypercalls = dma_alloc(4096, 4096);
    uint64_t hz;

    interrupts_on();
    ok(r.ebx == 0x756e694c && r.eax >= 0x4000000a, "Hyper-V's leaves up to %x", r.eax);
    ok(cpuid(LEAF_HYPERV + 1, 0).eax == 0x31237648, "its interface is Hv#1");
    wrmsr(MSR_GUEST_OS_ID, OS_ID);
    wrmsr(MSR_HYPERCALL, (uint64_t)hypercalls | ENABLE);
    ok(hypercalls[0] || hypercalls[1], "the hypercall page is filled (%x %x %x %x)", hypercalls[0],
       hypercalls[1], hypercalls[2], hypercalls[3]);
    ok(rdmsr(MSR_VP_INDEX) == 0, "this is virtual processor 0");
    hz = rdmsr(MSR_TSC_FREQUENCY);
    ok(hz / 100 * 90 < us_to_tsc(1000000) && hz / 100 * 110 > us_to_tsc(1000000),
       "the TSC runs at %lu Hz (measured %lu)", hz, us_to_tsc(1000000));
    check_reference_page();
    check_synthetic_timer();
}
