/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/interrupts.h"

#include "tests/guest/runtime.h"

#define TRAMPOLINE 0x10000ull
#define IOAPIC     0xfec00000ull

enum {
    MSR_APIC_BASE = 0x1b,
    APIC_BASE_X2APIC = 1 << 10,
    APIC_BASE_ENABLE = 1 << 11,
    X2APIC_ID = 0x802,
    X2APIC_TPR = 0x808,
    X2APIC_EOI = 0x80b,
    X2APIC_SPURIOUS = 0x80f,
    X2APIC_IN_SERVICE = 0x810,
    X2APIC_ICR = 0x830,
    X2APIC_TIMER = 0x832,
    X2APIC_TIMER_INITIAL = 0x838,
    X2APIC_TIMER_DIVIDE = 0x83e,
    SPURIOUS_APIC_ON = 1 << 8,
    ICR_INIT = 5 << 8 | 1 << 14,
    ICR_STARTUP = 6 << 8 | 1 << 14,
    TIMER_PERIODIC = 1 << 17,
    TIMER_VECTOR = 62,

    VECTOR_UD = 6,
    ICR_NMI = 4 << 8 | 1 << 14,
    VECTOR_GP = 13,
};

typedef struct {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_mid;
    uint32_t offset_high, zero;
} Gate;

typedef struct {
    uint32_t reserved;
    uint64_t rsp[3];
    uint64_t ist[8];
    uint64_t reserved2;
    uint16_t reserved3, io_map;
} __attribute__((packed)) Tss;

typedef struct {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) TablePointer;

extern uint8_t isr_stubs[], isr_stack_top[], ap_trampoline[], ap_trampoline_end[];
extern uint64_t gdt_tss[2], ap_next;
void isr_dispatch(Frame *frame);
void ap_main(uint32_t number);

volatile unsigned interrupt_count[N_VECTORS];
volatile uint64_t apic_base_found;
static void (*handlers[N_VECTORS])(void);
static Gate idt[N_VECTORS] __attribute__((aligned(16)));
static Tss tss;
static TablePointer idt_pointer;
static volatile uint64_t fault_resume;
static void (*volatile ap_job)(unsigned number);
static volatile unsigned ap_up;

void isr_dispatch(Frame *frame)
{
    uint64_t address;

    if (frame->vector >= FIRST_VECTOR) {
        /* not an increment in place: the compiler may not make it atomic, and need not: 64 bits of
           a counter per vector would be lost only by two processors taking one vector at once */
        __atomic_fetch_add(&interrupt_count[frame->vector], 1, __ATOMIC_SEQ_CST);
        if (handlers[frame->vector])
            handlers[frame->vector]();
        if (frame->vector != SPURIOUS_VECTOR)
            wrmsr(X2APIC_EOI, 0);
        return;
    }
    if (frame->vector == NMI_VECTOR && handlers[NMI_VECTOR]) {
        __atomic_fetch_add(&interrupt_count[NMI_VECTOR], 1, __ATOMIC_SEQ_CST);
        handlers[NMI_VECTOR]();
        return;
    }
    if (frame->vector == VECTOR_UD && (frame->cs & 3) == 3)
        user_return(frame->rax);
    if (frame->vector == VECTOR_GP && fault_resume) {
        frame->rip = fault_resume;
        fault_resume = 0;
        return;
    }
    __asm__ volatile("movq %%cr2, %0" : "=r"(address));
    give_up("exception %lu (error %lx) at %lx:%lx, address %lx", frame->vector, frame->error,
            frame->cs, frame->rip, address);
}

static void apic_on(void)
{
    apic_base_found = rdmsr(MSR_APIC_BASE);
    wrmsr(MSR_APIC_BASE, apic_base_found | APIC_BASE_ENABLE);
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2APIC);
    wrmsr(X2APIC_TPR, 0);
    wrmsr(X2APIC_SPURIOUS, SPURIOUS_APIC_ON | SPURIOUS_VECTOR);
}

static void load_idt(void)
{
    __asm__ volatile("lidt %0" : : "m"(idt_pointer));
}

void interrupts_init(void)
{
    uint64_t base = (uint64_t)&tss;

    for (unsigned i = 0; i < N_VECTORS; i++) {
        uint64_t stub = (uint64_t)isr_stubs + 16ull * i;

        idt[i] = (Gate){ .offset_low = (uint16_t)stub,
                         .selector = 0x08,
                         .type = 0x8e,
                         .offset_mid = (uint16_t)(stub >> 16),
                         .offset_high = (uint32_t)(stub >> 32) };
    }
    idt_pointer = (TablePointer){ sizeof(idt) - 1, (uint64_t)idt };
    load_idt();

    tss.rsp[0] = (uint64_t)isr_stack_top;
    tss.io_map = sizeof(tss);
    gdt_tss[0] =
        (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt_tss[1] = base >> 32;
    __asm__ volatile("ltr %0" : : "r"((uint16_t)0x28));
    apic_on();
}

uint32_t apic_id(void)
{
    return (uint32_t)rdmsr(X2APIC_ID);
}

void interrupt_handler(unsigned vector, void (*handler)(void))
{
    handlers[vector] = handler;
}

bool interrupt_in_service(unsigned vector)
{
    return rdmsr(X2APIC_IN_SERVICE + vector / 32) >> vector % 32 & 1;
}

/* A periodic tick, so that a sleep for an interrupt that never comes has an end. */
static void tick(bool on)
{
    wrmsr(X2APIC_TIMER_DIVIDE, 0xb);
    wrmsr(X2APIC_TIMER, TIMER_PERIODIC | TIMER_VECTOR);
    wrmsr(X2APIC_TIMER_INITIAL, on ? 2000000 : 0); /* 2 ms */
}

bool wait_interrupts(unsigned vector, unsigned count, uint64_t us)
{
    uint64_t end = now_us() + us;
    bool came;

    tick(true);
    for (;;) {
        interrupts_off();
        came = interrupt_count[vector] >= count;
        if (came || now_us() > end)
            break;
        wait_for_interrupt();
    }
    tick(false);
    interrupts_on();
    return came;
}

uint64_t msi_address(uint32_t destination)
{
    return 0xfee00000ull | (uint64_t)(destination & 0xff) << 12 |
           (uint64_t)(destination >> 8 & 0x7f) << 5;
}

uint32_t ioapic_read(unsigned reg)
{
    write32(IOAPIC, reg);
    return read32(IOAPIC + 0x10);
}

void ioapic_write(unsigned reg, uint32_t value)
{
    write32(IOAPIC, reg);
    write32(IOAPIC + 0x10, value);
}

void ioapic_route_to(unsigned pin, uint32_t destination, unsigned vector, bool level, bool masked)
{
    ioapic_write(0x10 + 2 * pin + 1, (destination & 0xff) << 24 | (destination >> 8 & 0x7f) << 17);
    ioapic_write(0x10 + 2 * pin, vector | (level ? 1u << 15 : 0) | (masked ? 1u << 16 : 0));
}

void ioapic_route(unsigned pin, unsigned vector, bool level, bool masked)
{
    ioapic_route_to(pin, apic_id(), vector, level, masked);
}

void send_ipi(uint32_t destination, unsigned vector)
{
    wrmsr(X2APIC_ICR, (uint64_t)destination << 32 | 1 << 14 | vector);
}

bool try_rdmsr(uint32_t index, uint64_t *ret)
{
    uint32_t low = 0, high = 0;
    uint64_t faulted = 1;

    __asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
                     "movq %%rax, %3\n\t"
                     "rdmsr\n\t"
                     "xorl %%ebx, %%ebx\n\t"
                     "1:"
                     : "+b"(faulted), "+a"(low), "+d"(high), "=m"(fault_resume)
                     : "c"(index)
                     : "memory", "cc");
    if (faulted)
        return false;
    fault_resume = 0;
    *ret = (uint64_t)high << 32 | low;
    return true;
}

bool try_wrmsr(uint32_t index, uint64_t value)
{
    uint64_t faulted = 1;

    __asm__ volatile("leaq 1f(%%rip), %%rsi\n\t"
                     "movq %%rsi, %1\n\t"
                     "wrmsr\n\t"
                     "xorl %%ebx, %%ebx\n\t"
                     "1:"
                     : "+b"(faulted), "=m"(fault_resume)
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory", "cc", "rsi");
    if (!faulted)
        fault_resume = 0;
    return !faulted;
}

void ap_main(uint32_t number)
{
    load_idt();
    apic_on();
    ap_job(number);
    __atomic_fetch_add(&ap_up, 1, __ATOMIC_SEQ_CST);
    for (;;)
        wait_for_interrupt();
}

void send_init(uint32_t destination)
{
    wrmsr(X2APIC_ICR, (uint64_t)destination << 32 | ICR_INIT);
}

void send_nmi(uint32_t destination)
{
    wrmsr(X2APIC_ICR, (uint64_t)destination << 32 | ICR_NMI);
}

bool restart_cpu(uint32_t destination, unsigned number, void (*job)(unsigned number))
{
    uint64_t next = ap_next;
    bool up;

    ap_next = number;
    up = start_cpu(destination, job);
    ap_next = next;
    return up;
}

bool start_cpu(uint32_t destination, void (*job)(unsigned number))
{
    return start_cpu_within(destination, job, 10000000); /* a busy host may let its thread wait */
}

bool start_cpu_within(uint32_t destination, void (*job)(unsigned number), uint64_t us)
{
    unsigned before = ap_up;
    uint64_t end;

    if (ap_next >= MAX_APS)
        return false;
    memcpy((void *)TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    ap_job = job;
    barrier();
    send_init(destination);
    delay_us(200);
    wrmsr(X2APIC_ICR, (uint64_t)destination << 32 | ICR_STARTUP | TRAMPOLINE >> 12);
    end = now_us() + us;
    while (ap_up == before && now_us() < end)
        __asm__ volatile("pause");
    return ap_up != before;
}
