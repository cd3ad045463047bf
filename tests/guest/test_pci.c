/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"

static void check_config_space(unsigned slot)
{
    uint64_t config = pci_config(slot, 0);
    uint32_t id = read32(config), class = read32(config + PCI_REVISION);
    uint16_t command = read16(config + PCI_COMMAND);

    write32(config, 0x12345678);
    ok(read32(config) == id, "slot %u: ids are read-only", slot);
    write32(config + PCI_REVISION, 0);
    ok(read32(config + PCI_REVISION) == class, "slot %u: class is read-only", slot);
    ok(read16(config) == (id & 0xffff) && read8(config + 1) == (id >> 8 & 0xff) &&
           read16(config + 2) == id >> 16,
       "slot %u: narrow reads agree", slot);
    write16(config + PCI_COMMAND, 0xffff);
    ok((read16(config + PCI_COMMAND) & 0xf800) == 0, "slot %u: reserved command bits stay 0 (%x)",
       slot, read16(config + PCI_COMMAND));
    write16(config + PCI_COMMAND, command);
    ok((read8(config + PCI_HEADER_TYPE) & 0x7f) == 0, "slot %u: plain header", slot);
    ok(pci_port_read(slot, 0) == id, "slot %u: ports 0xcf8 and 0xcfc agree with the window", slot);
    pci_port_write(slot, PCI_INTERRUPT_LINE,
                   0x5a | (pci_port_read(slot, PCI_INTERRUPT_LINE) & ~0xffu));
    ok(read8(config + PCI_INTERRUPT_LINE) == 0x5a || slot == 0, "slot %u: writes by ports arrive",
       slot);
}

static void check_bars(unsigned slot)
{
    for (unsigned i = 0; i < 6; i++) {
        Bar bar, again;

        if (!pci_bar(slot, i, &bar))
            continue;
        ok(bar.size && !(bar.size & (bar.size - 1)) && !(bar.address & (bar.size - 1)),
           "slot %u: BAR %u at %lx has %lx bytes", slot, i, bar.address, bar.size);
        pci_bar(slot, i, &again);
        ok(again.address == bar.address && again.size == bar.size,
           "slot %u: sizing BAR %u leaves it", slot, i);
        if (bar.is_64)
            i++;
    }
}

/* A virtio device's common configuration answers at the BAR's new place and not at the old one. */
static void check_move(unsigned slot)
{
    uint16_t command = read16(pci_config(slot, PCI_COMMAND));
    uint64_t table, to;
    uint32_t before;
    Bar bar;

    if (!pci_bar(slot, 0, &bar) || bar.is_io)
        return;
    table = msix_entry(slot, 0) - bar.address;
    to = bar.is_64 ? bar.address + (64ull << 30) : 0xd8000000;
    map(bar.address, bar.size);
    map(to, bar.size);
    write16(pci_config(slot, PCI_COMMAND), command | PCI_COMMAND_MEMORY);
    write32(bar.address + table, 0xabcd000);
    before = read32(bar.address + table);
    ok(before == 0xabcd000, "slot %u: MSI-X table keeps %x", slot, before);
    write16(pci_config(slot, PCI_COMMAND), command & (uint16_t)~PCI_COMMAND_MEMORY);
    ok(read32(bar.address + table) == 0xffffffff,
       "slot %u: nothing answers with memory decoding off", slot);
    pci_bar_move(slot, 0, to);
    write16(pci_config(slot, PCI_COMMAND), command | PCI_COMMAND_MEMORY);
    ok(read32(to + table) == before, "slot %u: BAR answers at %lx", slot, to);
    ok(read32(bar.address + table) == 0xffffffff, "slot %u: the old place is free", slot);
    if (option_number("ask", 0)) {
        print("moved slot %u to %lx;\n", slot, to);
        serial_read(60000000);
    }
    pci_bar_move(slot, 0, bar.address);
    ok(read32(bar.address + table) == before, "slot %u: BAR moved back with decoding on", slot);
    write32(bar.address + table, 0);
    write16(pci_config(slot, PCI_COMMAND), command);
}

static void check_msix(unsigned slot)
{
    unsigned n = msix_on(slot);
    uint64_t entry;

    if (!ok(n > 0 && n <= 2048, "slot %u: MSI-X with %u vectors", slot, n))
        return;
    entry = msix_entry(slot, n - 1);
    write32(entry + 12, 0xffffffff);
    ok((read32(entry + 12) & 1) == 1, "slot %u: the last vector can be masked", slot);
    write64(entry, 0xfee01000);
    ok(read32(entry) == 0xfee01000 && read32(entry + 4) == 0, "slot %u: MSI-X takes 64-bit writes",
       slot);
    write64(entry, 0);
}

void test_pci(void)
{
    unsigned found = 0, virtio = 0;

    ok(read32(pci_config(0, 0)) == 0x0d578086, "host bridge in slot 0: %x",
       read32(pci_config(0, 0)));
    ok(read8(pci_config(0, PCI_CLASS)) == 6, "its class is bridge");
    for (unsigned slot = 0; slot < 32; slot++) {
        uint32_t id = read32(pci_config(slot, 0));

        if (id == 0xffffffff)
            continue;
        found++;
        print("# slot %u: %04x:%04x class %x\n", slot, id & 0xffff, id >> 16,
              read32(pci_config(slot, PCI_REVISION)) >> 8);
        ok(read32(pci_config(slot, 0x1000)) == 0xffffffff, "slot %u: one function", slot);
        check_config_space(slot);
        check_bars(slot);
        if ((id & 0xffff) == 0x1af4) {
            virtio++;
            ok(read8(pci_config(slot, PCI_REVISION)) == 1 && id >> 16 >= 0x1040,
               "slot %u: modern virtio only", slot);
            check_move(slot);
            check_msix(slot);
        }
    }
    ok(virtio == option_number("virtio", 1), "%u functions, %u of them virtio", found, virtio);
    ok(pci_port_read(31, 0) == 0xffffffff || read32(pci_config(31, 0)) != 0xffffffff,
       "an empty slot reads as all ones by ports");
    outl(0xcf8, 0);
    ok(inl(0xcfc) == 0xffffffff, "data port without the enable bit reads as all ones");
}
