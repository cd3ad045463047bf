/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tables for the host's compiler, and what the event device tells: the power button, PCI
 * devices that come and go. */
#include "tests/guest/acpi.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    GED_PIN = 13,
    VECTOR = 53,
    GED_PCI = 1 << 2,
    GED_POWER_BUTTON = 1 << 3,
    AML_EXT = 0x5b,
    AML_REGION = 0x80,

    /* The PCI hotplug controller. */
    HOTPLUG_UP = 0x0,
    HOTPLUG_DOWN = 0x4,
    HOTPLUG_EJECT = 0x8,
    HOTPLUG_SEGMENT = 0xc,
    HOTPLUG_BYTES = 16,
    PLUGS = 3,
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

/* Reads the first sector of the disk in @slot, whose host made it a pattern of seed 1. */
static bool disk_reads(unsigned slot)
{
    uint8_t *data = dma_alloc(1024, 64);
    const Buffer buffers[] = { { data, 16, false },
                               { data + 64, 512, true },
                               { data + 16, 1, true } };
    Virtio disk;
    Queue queue;
    uint32_t len;

    memset(data, 0, 64);
    data[16] = 0xff;
    if (!virtio_find(VIRTIO_BLK, 0, &disk) || disk.slot != slot || !virtio_begin(&disk, 0) ||
        !virtio_queue(&disk, 0, NO_VECTOR, &queue))
        return false;
    virtio_ready(&disk);
    queue_add(&queue, buffers, 3);
    return queue_run(&queue, &len, 3000000) && data[16] == 0 && !compare(data + 64, 512, 1);
}

static int only_bit(uint32_t bits)
{
    return bits && !(bits & (bits - 1)) ? __builtin_ctz(bits) : -1;
}

/* The host adds a disk at each "plug" and wants it back at each "unplug". */
void test_hotplug(void)
{
    uint64_t ged = region_of(1), hotplug = region_of(HOTPLUG_BYTES);
    unsigned events = 0;
    int slot;

    if (!ok(ged && hotplug, "the hotplug controller is at %lx", hotplug))
        return;
    map(ged, 1);
    map(hotplug, HOTPLUG_BYTES);
    ioapic_route(GED_PIN, VECTOR, false, false);
    interrupts_on();
    for (unsigned i = 0; i < PLUGS; i++) {
        print("plug\n");
        ok(wait_interrupts(VECTOR, ++events, 10000000) && read8(ged) == GED_PCI,
           "an event tells of PCI");
        write32(hotplug + HOTPLUG_SEGMENT, 0);
        slot = only_bit(read32(hotplug + HOTPLUG_UP));
        if (!ok(slot > 0 && slot < 32, "a device came into slot %d", slot))
            return;
        ok(read32(hotplug + HOTPLUG_UP) == 0 && read32(hotplug + HOTPLUG_DOWN) == 0,
           "it is told once");
        ok(disk_reads((unsigned)slot), "it is a disk that can be read");
        write32(hotplug + HOTPLUG_EJECT, 1u << slot);
        ok(disk_reads((unsigned)slot), "it stays when it is ejected unasked");
        print("unplug\n");
        ok(wait_interrupts(VECTOR, ++events, 10000000) && read8(ged) == GED_PCI, "another event");
        ok(only_bit(read32(hotplug + HOTPLUG_DOWN)) == slot, "it wants slot %d empty", slot);
        ok(disk_reads((unsigned)slot), "until then the disk works");
        write32(hotplug + HOTPLUG_EJECT, 1u << slot);
        ok(read32(pci_config((unsigned)slot, PCI_VENDOR)) == 0xffffffff, "slot %d is empty", slot);
        print("gone\n");
        ok(serial_read(20000000) >= 0, "the host has seen it");
    }
}
