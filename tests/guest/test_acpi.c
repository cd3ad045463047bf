/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tables for the host's compiler, and what the event device tells: the power button, PCI
 * devices that come and go. */
#include "tests/guest/acpi.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/tests.h"

enum {
    GED_PIN = 13,
    VECTOR = 53,
    GED_POWER_BUTTON = 1 << 3,
    AML_EXT = 0x5b,
    AML_REGION = 0x80,
};

static void dump(const uint8_t *table)
{
    char name[5] = { (char)table[0], (char)table[1], (char)table[2], (char)table[3], 0 };

    print("table %s ", name);
    for (uint64_t i = 0; i < field(table, 4, 4); i++)
        print("%02x", table[i]);
    print("\n");
}

void test_acpi(void)
{
    dump((const uint8_t *)field(acpi_find("FACP"), 140, 8));
    for (unsigned i = 0; i < acpi_count(); i++)
        dump(acpi_table(i));
    ok(acpi_count() >= 3, "%u tables", acpi_count() + 1);
}

/* The address of the region of memory with @len bytes, below 128, that the DSDT describes. */
static uint64_t region_of(unsigned len)
{
    const uint8_t *dsdt = (const uint8_t *)field(acpi_find("FACP"), 140, 8);

    for (const uint8_t *at = dsdt + 36; at < dsdt + field(dsdt, 4, 4) - 20; at++) {
        /* operation region, name, system memory, a quadword or doubleword address, the length */
        unsigned address_bytes = at[7] == 0x0e ? 8 : at[7] == 0x0c ? 4 : 0;
        const uint8_t *length = at + 8 + address_bytes;

        if (at[0] == AML_EXT && at[1] == AML_REGION && at[6] == 0 && address_bytes &&
            (len == 1 ? length[0] == 1 : length[0] == 0x0a && length[1] == len))
            return field(at, 8, address_bytes);
    }
    return 0;
}

void test_events(void)
{
    uint64_t ged = region_of(1);
    unsigned before;

    if (!ok(ged != 0, "the event device's register is at %lx", ged))
        return;
    map(ged, 1);
    ok(read8(ged) == 0, "nothing has happened yet");
    ioapic_route(GED_PIN, VECTOR, false, false);
    interrupts_on();
    for (unsigned i = 0; i < 2; i++) {
        before = interrupt_count[VECTOR];
        print("press\n");
        ok(wait_interrupts(VECTOR, before + 1, 10000000), "the power button interrupts");
        ok(read8(ged) == GED_POWER_BUTTON, "the register tells the power button");
        ok(read8(ged) == 0, "and is cleared by reading");
    }
}
