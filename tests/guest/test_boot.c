/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the loader promised: entry state, memory map, command line, initramfs, ACPI and SMBIOS
 * tables, MSRs. */
#include "tests/guest/acpi.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/tests.h"

static void check_entry(void)
{
    ok(entry_cr0 == 0x11 || entry_cr0 == 0x1, "entered with paging off (cr0 %lx)", entry_cr0);
    ok(entry_cr4 == 0, "entered with cr4 %lx", entry_cr4);
    ok((entry_eflags & 0x200) == 0, "entered with interrupts off");
    ok(entry_ebx == 0x6000, "start info at %lx", entry_ebx);
    ok(start_info->magic == 0x336ec578 && start_info->version == 1, "start info magic and version");
    ok(start_info->rsdp_paddr == 0xa0000, "RSDP at %lx", start_info->rsdp_paddr);
}

static void check_memory_map(void)
{
    const MapEntry *map = (const MapEntry *)start_info->memmap_paddr;
    uint64_t ram = 0, previous_end = 0, expected = option_number("memory_mib", 0) << 20;
    bool ordered = true, ecam = false;

    for (unsigned i = 0; i < start_info->memmap_entries; i++) {
        print("# map %lx size %lx type %u\n", map[i].addr, map[i].size, map[i].type);
        ordered &= map[i].addr >= previous_end && map[i].size;
        previous_end = map[i].addr + map[i].size;
        if (map[i].type == 1)
            ram += map[i].size;
        if (map[i].addr == 0xe8000000)
            ecam = map[i].type == 2;
    }
    ok(ordered, "memory map ascends and does not overlap");
    ok(ram == expected - 0x60000, "memory map has %lx bytes of RAM, all but 384 KiB", ram);
    ok(ecam, "configuration space is reserved");
    ok(map[0].addr == 0 && map[0].size == 0xa0000, "low RAM is 640 KiB");
    for (unsigned i = 0; i < start_info->memmap_entries; i++)
        if (map[i].type == 1) {
            volatile uint64_t *last;

            if (map[i].addr + map[i].size > 1ull << 32)
                continue;
            last = (volatile uint64_t *)(map[i].addr + map[i].size - 8);
            *last = 0x1122334455667788;
            ok(*last == 0x1122334455667788, "the end of RAM at %lx can be written", map[i].addr);
        }
}

static void check_payload(void)
{
    const Module *module = (const Module *)start_info->modlist_paddr;
    char expected[64];
    uint64_t size = option_number("initramfs", 0);

    ok(option("word", expected, sizeof(expected)) == 5 && !memcmp(expected, "a=b,c", 5),
       "command line '%s'", cmdline);
    if (!size) {
        ok(start_info->nr_modules == 0, "no initramfs");
        return;
    }
    ok(start_info->nr_modules == 1 && module->size == size, "initramfs of %lu bytes", module->size);
    ok((module->paddr & 0xfff) == 0 && module->paddr >= (uint64_t)guest_end, "initramfs at %lx",
       module->paddr);
    {
        bool same = true;

        /* the host wrote byte i as i * 7 + i / 256 */
        for (uint64_t i = 0; i < size; i++)
            same &= *(const uint8_t *)(module->paddr + i) == (uint8_t)(i * 7 + i / 256);
        ok(same, "initramfs has its contents");
    }
}

static void check_acpi(void)
{
    const uint8_t *rsdp = (const uint8_t *)start_info->rsdp_paddr;
    const uint8_t *fadt, *dsdt, *madt;
    unsigned enabled = 0, processors = 0, ioapics = 0;

    ok(!memcmp(rsdp, "RSD PTR ", 8) && !byte_sum(rsdp, 20) && !byte_sum(rsdp, 36), "RSDP");
    for (unsigned i = 0; i < acpi_count(); i++) {
        const uint8_t *table = acpi_table(i);
        char name[5] = { (char)table[0], (char)table[1], (char)table[2], (char)table[3], 0 };

        ok(!byte_sum(table, field(table, 4, 4)), "table %s, %lu bytes", name, field(table, 4, 4));
    }
    fadt = acpi_find("FACP");
    madt = acpi_find("APIC");
    if (!ok(fadt && madt && acpi_find("MCFG"), "FADT, MADT and MCFG are there"))
        return;
    dsdt = (const uint8_t *)field(fadt, 140, 8);
    ok(!memcmp(dsdt, "DSDT", 4) && !byte_sum(dsdt, field(dsdt, 4, 4)), "DSDT, %lu bytes",
       field(dsdt, 4, 4));
    ok(field(fadt, 4, 4) == 276 && field(fadt, 112, 4) & 1 << 20, "FADT says reduced hardware");
    for (const uint8_t *at = madt + 44; at < madt + field(madt, 4, 4) && at[1]; at += at[1]) {
        processors += at[0] == 9;
        enabled += at[0] == 9 && field(at, 8, 4) & 1;
        ioapics += at[0] == 1;
    }
    ok(enabled == option_number("cpus", 1) && processors == option_number("max_cpus", 1),
       "MADT has %u processors, %u enabled", processors, enabled);
    ok(ioapics == 1, "MADT has one IOAPIC");
}

/* What the loader of a Hyper-V inside wants, where there may be one; else nobody answers. */
static void check_pm1a(void)
{
    bool wanted = option_number("pm1a", 0) != 0;
    const uint8_t *fadt = acpi_find("FACP");
    uint64_t event, control;

    if (!ok(fadt != NULL, "the FADT is there"))
        return;
    event = field(fadt, 152, 8);
    control = field(fadt, 176, 8);
    ok(event == (wanted ? 0x60c : 0) && control == (wanted ? 0x610 : 0),
       "PM1a blocks at %lx and %lx", event, control);
    ok(inw(0x60c) == (wanted ? 0 : 0xffff) && inw(0x60e) == (wanted ? 0 : 0xffff) &&
           inw(0x610) == (wanted ? 0 : 0xffff),
       "PM1a ports read as %x, %x, %x", inw(0x60c), inw(0x60e), inw(0x610));
    outw(0x610, 5 << 10 | 1 << 13);
    outw(0x60e, 0x100);
    ok(inw(0x610) == (wanted ? 0 : 0xffff), "sleep in the PM1a control block does nothing");
}

static void check_smbios(void)
{
    const uint8_t *entry = (const uint8_t *)0xf0000;
    const uint8_t *at, *end;
    unsigned seen = 0;
    char serial[32];
    bool found_serial = false;

    if (!ok(!memcmp(entry, "_SM3_", 5) && !byte_sum(entry, entry[6]), "SMBIOS entry point"))
        return;
    at = (const uint8_t *)field(entry, 16, 8);
    end = at + field(entry, 12, 4);
    option("smbios_serial", serial, sizeof(serial));
    while (at + 4 <= end) {
        const uint8_t *next = at + at[1];

        if (at[0] < 32)
            seen |= 1u << at[0];
        if (at[0] == 127)
            break;
        while (next + 1 < end && (next[0] || next[1])) {
            if (at[0] == 1 && !memcmp(next, serial, strlen(serial) + 1))
                found_serial = true;
            next++;
        }
        at = next + 2;
    }
    ok(at[0] == 127 && at < end, "SMBIOS structures end with type 127");
    ok((seen & 0xb) == 0xb, "SMBIOS has types 0, 1 and 3");
    ok(found_serial || !serial[0], "SMBIOS has the serial number '%s'", serial);
}

static unsigned rtc_register(unsigned reg)
{
    unsigned bcd;

    outb(0x70, (uint8_t)reg);
    bcd = inb(0x71);
    return (bcd >> 4) * 10 + (bcd & 15);
}

/* Seconds since 1970 by the real-time clock, which counts in BCD and 24 hours. */
static uint64_t rtc_seconds(void)
{
    static const uint16_t days_before[] = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 };
    uint64_t year, month, days, seconds;

    do {
        seconds = rtc_register(0);
        year = rtc_register(0x32) * 100 + rtc_register(9);
        month = rtc_register(8);
        days = (year - 1970) * 365 + (year - 1969) / 4 + rtc_register(7) - 1;
        days += days_before[(month - 1) % 12] + (month > 2 && year % 4 == 0);
    } while (seconds != rtc_register(0)); /* no second began meanwhile */
    return days * 86400 + rtc_register(4) * 3600 + rtc_register(2) * 60 + seconds;
}

/* "epoch=" is the time that the clock is to show, or a little before. */
static void check_rtc(void)
{
    uint64_t expected = option_number("epoch", 0);
    uint64_t found = rtc_seconds();

    ok(!expected || (found >= expected && found < expected + 300),
       "the real-time clock shows %lu, expected %lu", found, expected);
}

static void check_msrs(void)
{
    uint64_t value = 0;
    bool there;

    there = try_rdmsr(0x2ff, &value);
    ok(there && value == 0x806, "memory type is write-back (%lx)", value);
    there = try_rdmsr(0x277, &value);
    ok(there && value == 0x0007040600070406, "PAT %lx", value);
    there = try_rdmsr(0x1b, &value);
    ok(there && value & 1 << 8, "this is the boot processor (%lx)", value);
    ok(!try_rdmsr(0x7fffffff, &value), "an unknown MSR faults");
    ok((rdmsr(0x835) & 0x10700) == 0x700, "LINT0 takes external interrupts (%lx)", rdmsr(0x835));
    ok((rdmsr(0x836) & 0x10700) == 0x400, "LINT1 is the NMI (%lx)", rdmsr(0x836));
}

void test_boot(void)
{
    check_entry();
    check_memory_map();
    check_payload();
    check_acpi();
    check_pm1a();
    check_smbios();
    check_rtc();
    check_msrs();
}
