/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every test has: TAP output on COM1, memory, user mode, the end of the machine. */
#pragma once

#include "tests/guest/machine.h"

/* What the loader promised (struct hvm_start_info, version 1). */
typedef struct {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
} StartInfo;

typedef struct {
    uint64_t paddr, size, cmdline_paddr, reserved;
} Module;

typedef struct {
    uint64_t addr, size;
    uint32_t type, reserved;
} MapEntry;

extern uint64_t entry_ebx, entry_cr0, entry_cr4, entry_eflags;
extern char guest_end[];
extern const StartInfo *start_info;
extern const char *cmdline;

/* A test of the guest: reports with ok() and returns. Chosen by test=NAME on the command line. */
typedef struct {
    const char *name;
    void (*run)(void);
} GuestTest;

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One TAP line; @condition decides which. Returns: @condition. */
bool ok(bool condition, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints why and powers off: nothing can go on. */
void give_up(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* The value behind "NAME=" on the command line. Returns: its length, 0 if there is none. */
size_t option(const char *name, char *ret, size_t room);
uint64_t option_number(const char *name, uint64_t otherwise);

/* Memory for devices: zeroed, below 4 GiB, never given back. */
void *dma_alloc(size_t size, size_t align);

/* Makes [@gpa, @gpa + @size) accessible at its own address; a no-op below 4 GiB. */
void map(uint64_t gpa, uint64_t size);

/* Runs function(a, b, c) in user mode, natively on software KVM. It must not touch ports or
 * interrupts. */
uint64_t user_call(void *function, uint64_t a, uint64_t b, uint64_t c);
void user_return(uint64_t value) __attribute__((noreturn));

/* In user mode: fills and compares a pattern made from @seed. Returns: 0 or 1 + the first wrong
 * offset. */
void fill(void *at, size_t len, uint64_t seed);
size_t compare(const void *at, size_t len, uint64_t seed);

/* Calibrated with the ACPI timer. */
void delay_us(uint64_t us);
uint64_t now_us(void);
uint64_t us_to_tsc(uint64_t us);

/* A byte from COM1, waiting for it at most @us; -1: none. */
int serial_read(uint64_t us);

void power_off(void) __attribute__((noreturn));

void *memset(void *to, int value, size_t len);
void *memcpy(void *to, const void *from, size_t len);
int memcmp(const void *a, const void *b, size_t len);
size_t strlen(const char *text);
int strncmp(const char *a, const char *b, size_t len);
