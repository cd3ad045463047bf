/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/pci.h"

#include "tests/guest/acpi.h"
#include "tests/guest/runtime.h"

enum {
    CONFIG_ADDRESS = 0xcf8,
    CONFIG_DATA = 0xcfc,
    N_BARS = 6,
};

#define PLACED_BARS 0xc0000000ull

static uint64_t ecam_base;

uint64_t pci_config(unsigned slot, unsigned offset)
{
    if (!ecam_base) {
        const uint8_t *mcfg = acpi_find("MCFG");

        if (!mcfg)
            give_up("no MCFG table");
        ecam_base = field(mcfg, 44, 8);
    }
    return ecam_base + slot * 0x8000ull + offset;
}

uint32_t pci_port_read(unsigned slot, unsigned offset)
{
    outl(CONFIG_ADDRESS, 1u << 31 | slot << 11 | (offset & 0xfc));
    return inl(CONFIG_DATA);
}

void pci_port_write(unsigned slot, unsigned offset, uint32_t value)
{
    outl(CONFIG_ADDRESS, 1u << 31 | slot << 11 | (offset & 0xfc));
    outl(CONFIG_DATA, value);
}

unsigned pci_capability(unsigned slot, unsigned id, unsigned from)
{
    unsigned at =
        from ? read8(pci_config(slot, from + 1)) : read8(pci_config(slot, PCI_CAPABILITIES));

    for (unsigned i = 0; at >= 0x40 && i < 48; i++) {
        if (read8(pci_config(slot, at)) == id)
            return at;
        at = read8(pci_config(slot, at + 1));
    }
    return 0;
}

int pci_find(unsigned vendor, unsigned device, unsigned nth)
{
    for (unsigned slot = 0; slot < PCI_ALL_SLOTS; slot++)
        if (read32(pci_config(slot, PCI_VENDOR)) == (vendor | device << 16) && nth-- == 0)
            return (int)slot;
    return -1;
}

bool pci_bar(unsigned slot, unsigned index, Bar *ret)
{
    uint64_t at = pci_config(slot, PCI_BAR0 + 4 * index);
    uint16_t command = read16(pci_config(slot, PCI_COMMAND));
    uint32_t low = read32(at), high = 0;
    uint64_t mask;

    write16(pci_config(slot, PCI_COMMAND), command & (uint16_t)~3);
    ret->is_io = low & 1;
    ret->is_64 = !ret->is_io && (low & 6) == 4;
    write32(at, 0xffffffff);
    mask = read32(at);
    write32(at, low);
    if (ret->is_64) {
        high = read32(at + 4);
        write32(at + 4, 0xffffffff);
        mask |= (uint64_t)read32(at + 4) << 32;
        write32(at + 4, high);
    } else if (mask) {
        mask |= 0xffffffff00000000;
    }
    write16(pci_config(slot, PCI_COMMAND), command);
    mask &= ret->is_io ? ~3ull : ~0xfull;
    ret->address = (low & (ret->is_io ? ~3u : ~0xfu)) | (uint64_t)high << 32;
    ret->size = ~mask + 1;
    return mask != 0;
}

void pci_bar_move(unsigned slot, unsigned index, uint64_t address)
{
    uint64_t at = pci_config(slot, PCI_BAR0 + 4 * index);
    bool is_64 = (read32(at) & 7) == 4;

    write32(at, (uint32_t)address);
    if (is_64)
        write32(at + 4, (uint32_t)(address >> 32));
}

void pci_place_bars(unsigned slot)
{
    static uint64_t next = PLACED_BARS;
    Bar bar;

    for (unsigned i = 0; i < N_BARS; i++) {
        if (!pci_bar(slot, i, &bar))
            continue;
        if (!bar.is_io && !bar.address) {
            next = (next + bar.size - 1) & ~(bar.size - 1);
            pci_bar_move(slot, i, next);
            next += bar.size;
        }
        i += bar.is_64;
    }
}

static uint64_t msix_structure(unsigned slot, unsigned offset)
{
    unsigned cap = pci_capability(slot, PCI_CAP_MSIX, 0);
    uint32_t where = cap ? read32(pci_config(slot, cap + offset)) : 0;
    Bar bar;

    if (!cap || !pci_bar(slot, where & 7, &bar))
        give_up("slot %u has no MSI-X", slot);
    map(bar.address + (where & ~7u), 0x1000);
    return bar.address + (where & ~7u);
}

uint64_t msix_entry(unsigned slot, unsigned entry)
{
    return msix_structure(slot, 4) + 16ull * entry;
}

unsigned msix_on(unsigned slot)
{
    unsigned cap = pci_capability(slot, PCI_CAP_MSIX, 0);
    uint16_t control;
    uint16_t command = read16(pci_config(slot, PCI_COMMAND));

    if (!cap)
        return 0;
    write16(pci_config(slot, PCI_COMMAND), command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    control = read16(pci_config(slot, cap + 2));
    write16(pci_config(slot, cap + 2), (uint16_t)((control | MSIX_ENABLE) & ~MSIX_FUNCTION_MASK));
    return (control & 0x7ff) + 1u;
}

void msix_route(unsigned slot, unsigned entry, uint64_t address, uint32_t data, bool masked)
{
    uint64_t at = msix_entry(slot, entry);

    write32(at, (uint32_t)address);
    write32(at + 4, (uint32_t)(address >> 32));
    write32(at + 8, data);
    write32(at + 12, masked);
}

bool msix_pending(unsigned slot, unsigned entry)
{
    return read32(msix_structure(slot, 8) + entry / 32 * 4) >> entry % 32 & 1;
}
