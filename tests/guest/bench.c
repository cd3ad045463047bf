/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/bench.h"

#include "tests/guest/pci.h"

extern const GuestTest guest_tests[];

const GuestTest guest_tests[] = {
    { "exits", bench_exits },     { "blk", bench_blk },     { "net", bench_net },
    { "devices", bench_devices }, { "state", bench_state }, { NULL, NULL },
};

uint64_t bench_ticks(void)
{
    return us_to_tsc(1000 * option_number("ms", 300));
}

void report(const char *name, uint64_t count, uint64_t ticks)
{
    print("result %s %lu %lu\n", name, count, ticks * 1000000 / us_to_tsc(1000));
}

bool bench_find(unsigned type, unsigned nth, Virtio *ret)
{
    static bool placed;

    if (!placed)
        for (unsigned slot = 0; slot < PCI_ALL_SLOTS; slot++)
            if (read16(pci_config(slot, PCI_VENDOR)) == VIRTIO_VENDOR)
                pci_place_bars(slot);
    placed = true;
    return virtio_find(type, nth, ret) || ok(false, "device %u of type %u is there", nth, type);
}

/* Brings all disks and network cards into use, and stays. */
void bench_devices(void)
{
    static const unsigned types[] = { VIRTIO_BLK, VIRTIO_NET };
    static const char *const options[] = { "disks", "nics" };
    Virtio device;

    for (unsigned i = 0; i < 2; i++)
        for (unsigned nth = 0; nth < option_number(options[i], 0); nth++)
            if (!bench_find(types[i], nth, &device) ||
                !ok(virtio_works(&device, types[i]), "device %u of type %u works", nth, types[i]))
                return;
    print("in use\n");
    for (;;)
        wait_for_interrupt();
}
