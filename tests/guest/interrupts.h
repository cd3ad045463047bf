/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Interrupt descriptor table, local APIC (in x2APIC mode), IOAPIC and the other processors. */
#pragma once

#include "tests/guest/machine.h"

/* What a stub leaves on the stack. */
typedef struct {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
} Frame;

enum { NMI_VECTOR = 2, FIRST_VECTOR = 32, SPURIOUS_VECTOR = 63, N_VECTORS = 64, MAX_APS = 63 };

/* How often each vector came, on all processors together. */
extern volatile unsigned interrupt_count[N_VECTORS];

/* IA32_APIC_BASE as the processor that started last had it before it switched x2APIC mode on. */
extern volatile uint64_t apic_base_found;

void interrupts_init(void);
uint32_t apic_id(void);

/* Called from the stub of a vector, interrupts off; the end of interrupt follows. NULL: only
 * counted. NMIs count and go on only if they have a handler. */
void interrupt_handler(unsigned vector, void (*handler)(void));

/* Whether the local APIC has @vector in service, as it has from delivery to the end of interrupt.
 */
bool interrupt_in_service(unsigned vector);

/* Waits, sleeping, until @vector came @count times in all or @us have passed. Returns: whether it
 * came. */
bool wait_interrupts(unsigned vector, unsigned count, uint64_t us);

/* Address of a message to the processor @destination; ids have 15 bits, those above the eighth
 * where KVM's MSI_EXT_DEST_ID has them. The data is the vector. */
uint64_t msi_address(uint32_t destination);

/* To the processor that calls, or to @destination, an id as in msi_address(). */
void ioapic_route(unsigned pin, unsigned vector, bool level, bool masked);
void ioapic_route_to(unsigned pin, uint32_t destination, unsigned vector, bool level, bool masked);
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t value);

void send_ipi(uint32_t destination, unsigned vector);

/* Read or write an MSR that may not be there, or not take that. Returns: FALSE if it faulted. */
bool try_rdmsr(uint32_t index, uint64_t *ret);
bool try_wrmsr(uint32_t index, uint64_t value);

/* Starts the processor with APIC id @destination; it runs @job(number), then halts. Returns:
 * whether it came up. */
bool start_cpu(uint32_t destination, void (*job)(unsigned number));

/* The same, and it has so long for it: for one that may not come up. */
bool start_cpu_within(uint32_t destination, void (*job)(unsigned number), uint64_t us);

/* The same for one that start_cpu() has started with @number, whatever it is doing: it has the same
 * stack again. */
bool restart_cpu(uint32_t destination, unsigned number, void (*job)(unsigned number));

void send_init(uint32_t destination);
void send_nmi(uint32_t destination);
