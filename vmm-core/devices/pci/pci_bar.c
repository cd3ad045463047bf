/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Base address registers (PCI 3.0, 6.2.5): first placement, and moves by the guest. A BAR decodes
 * only while it lies wholly inside a window that the machine's address map gives to PCI, which
 * holds no RAM, and touches nothing else on the bus. Elsewhere it is simply not mapped: the guest
 * only hurts itself.
 */
#include <inttypes.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/pci/pci-internal.h"

/* Windows of segments start at such addresses, so that large BARs fit where there is room. */
#define WINDOW32_ALIGN 0x1000ull
#define WINDOW64_ALIGN (4ull << 30)

uint64_t kumo_pci_bar_address(const KumoPciFunction *function, unsigned index)
{
    const uint8_t *config = function->config + PCI_BAR0 + 4 * index;

    switch (function->bars[index].kind) {
    case KUMO_PCI_BAR_IO:
        return pci_get32(config) & ~3U;
    case KUMO_PCI_BAR_MEM32:
        return pci_get32(config) & ~15U;
    case KUMO_PCI_BAR_MEM64:
        return pci_get64(config) & ~15ULL;
    default:
        return 0;
    }
}

static void set_address(KumoPciFunction *function, unsigned index, uint64_t address)
{
    uint8_t *config = function->config + PCI_BAR0 + 4 * index;
    uint32_t type = config[0] & (function->bars[index].kind == KUMO_PCI_BAR_IO ? 3U : 15U);

    pci_put32(config, (uint32_t)address | type);
    if (function->bars[index].kind == KUMO_PCI_BAR_MEM64)
        pci_put32(config + 4, (uint32_t)(address >> 32));
}

static uint64_t weight_of(const KumoPciSegment *segment, bool wide)
{
    return wide ? segment->weight64 : segment->weight32;
}

static KumoPciWindow share_of(const KumoPciSegment *segment, bool wide, uint64_t base,
                              uint64_t size, uint64_t align)
{
    const KumoPciRoot *root = segment->root;
    uint64_t before = 0;
    uint64_t total = 0;
    uint64_t start, end;

    if (root->n_segments == 1)
        return (KumoPciWindow){ base, size };
    for (unsigned i = 0; i < root->n_segments; i++) {
        if (i < segment->number)
            before += weight_of(&root->segments[i], wide);
        total += weight_of(&root->segments[i], wide);
    }
    /* Where the window is too small for that, only for its pages. */
    if (size / total < align)
        align = WINDOW32_ALIGN;
    start = (uint64_t)((__extension__(unsigned __int128) size) * before / total);
    end = (uint64_t)((__extension__(unsigned __int128) size) * (before + weight_of(segment, wide)) /
                     total);
    start = kumo_align_down(start, align);
    /* The last segment gets what is left. */
    if (segment->number + 1 < root->n_segments)
        end = kumo_align_down(end, align);
    return (KumoPciWindow){ base + start, end - start };
}

KumoPciWindow kumo_pci_segment_window(const KumoPciSegment *segment, KumoPciBarKind kind)
{
    const KumoMachine *machine = segment->root->device.machine;
    const KumoMachineLayout *layout = &machine->layout;

    switch (kind) {
    case KUMO_PCI_BAR_IO:
        /* The ports are the first segment's. */
        return (KumoPciWindow){ PCI_FIRST_IO, machine->pio && segment->number == 0
                                                  ? PCI_IO_END - PCI_FIRST_IO
                                                  : 0 };
    case KUMO_PCI_BAR_MEM64:
        return share_of(segment, true, layout->mmio64_base, layout->mmio64_size, WINDOW64_ALIGN);
    default:
        return share_of(segment, false, layout->mmio32_base, layout->mmio32_size, WINDOW32_ALIGN);
    }
}

/* Does another BAR claim a byte of [@address, @address + @size)? Returns: TRUE and where that one
 * ends. */
static bool claimed(KumoPciRoot *root, const KumoPciFunction *self, unsigned self_bars, bool io,
                    uint64_t address, uint64_t size, uint64_t *ret_end)
{
    for (unsigned s = 0; s < root->n_segments; s++) {
        for (unsigned slot = 0; slot <= KUMO_PCI_SLOTS; slot++) {
            /* After the slots comes the function itself, which is not in its slot yet. */
            KumoPciFunction *other = slot < KUMO_PCI_SLOTS
                                         ? atomic_load(&root->segments[s].slots[slot])
                                         : (KumoPciFunction *)self;
            unsigned n_bars = slot < KUMO_PCI_SLOTS ? KUMO_PCI_BARS : self_bars;
            bool found = false;

            if (!other)
                continue;
            g_mutex_lock(&other->lock);
            for (unsigned i = 0; i < n_bars && !found; i++) {
                const KumoPciBar *bar = &other->bars[i];
                uint64_t at = kumo_pci_bar_address(other, i);

                if (bar->kind == KUMO_PCI_BAR_NONE || (bar->kind == KUMO_PCI_BAR_IO) != io ||
                    at + (bar->size - 1) < at)
                    continue;
                found = kumo_range_overlap(address, size, at, bar->size);
                *ret_end = at + (bar->size - 1);
            }
            g_mutex_unlock(&other->lock);
            if (found)
                return true;
        }
    }
    return false;
}

static bool find_room(KumoPciRoot *root, const KumoPciFunction *function, unsigned index,
                      uint64_t *ret_address)
{
    const KumoPciBar *bar = &function->bars[index];
    KumoPciWindow window = kumo_pci_segment_window(&root->segments[function->segment], bar->kind);
    uint64_t align = MAX(bar->size, bar->align);
    uint64_t address = window.base;
    uint64_t end = 0;

    for (;;) {
        /* The windows of the address map end far below 2^64: only a guest's BAR can be near the
         * top. */
        if (!kumo_add_u64(address, align - 1, &address))
            return false;
        address = kumo_align_down(address, align);
        if (!kumo_range_inside(address, bar->size, window.base, window.size))
            return false;
        if (!claimed(root, function, index, bar->kind == KUMO_PCI_BAR_IO, address, bar->size,
                     &end)) {
            *ret_address = address;
            return true;
        }
        if (!kumo_add_u64(end, 1, &address))
            return false;
    }
}

bool kumo_pci_place_bars(KumoPciRoot *root, KumoPciFunction *function, GError **error)
{
    for (unsigned i = 0; i < KUMO_PCI_BARS; i++) {
        uint64_t address = 0;

        if (function->bars[i].kind == KUMO_PCI_BAR_NONE)
            continue;
        if (!find_room(root, function, i, &address)) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE,
                        "BAR %u: no room for 0x%" PRIx64 " bytes in the PCI address windows", i,
                        function->bars[i].size);
            return false;
        }
        set_address(function, i, address);
    }
    return true;
}

/* May a BAR of this kind decode [@address, @address + @size)? */
static bool allowed(const KumoMachine *machine, const KumoPciBar *bar, uint64_t address)
{
    const KumoMachineLayout *layout = &machine->layout;

    if (bar->kind == KUMO_PCI_BAR_IO)
        return kumo_range_inside(address, bar->size, PCI_FIRST_IO, PCI_IO_END - PCI_FIRST_IO);
    if (!kumo_range_inside(address, bar->size, layout->mmio32_base, layout->mmio32_size) &&
        !kumo_range_inside(address, bar->size, layout->mmio64_base, layout->mmio64_size))
        return false;
    for (unsigned i = 0; machine->memory && i < machine->memory->n_regions; i++) {
        const KumoMemRegion *region = &machine->memory->regions[i];

        if (kumo_range_overlap(address, bar->size, region->gpa, region->size_bytes))
            return false;
    }
    return true;
}

/* The guest has written all ones to learn the size: such an address is nothing to warn about. */
static bool is_sizing(const KumoPciFunction *function, unsigned index)
{
    const uint8_t *config = function->config + PCI_BAR0 + 4 * index;
    const uint8_t *mask = function->write_mask + PCI_BAR0 + 4 * index;
    bool is64 = function->bars[index].kind == KUMO_PCI_BAR_MEM64;

    return (pci_get32(config) & pci_get32(mask)) == pci_get32(mask) ||
           (is64 && pci_get32(config + 4) == pci_get32(mask + 4));
}

static KumoBus *bar_bus(const KumoPciFunction *function, const KumoPciBar *bar)
{
    KumoMachine *machine = function->device->machine;

    return bar->kind == KUMO_PCI_BAR_IO ? machine->pio : machine->mmio;
}

static void unmap(KumoPciFunction *function, KumoPciBar *bar)
{
    if (!bar->mapped)
        return;
    kumo_bus_remove(bar_bus(function, bar), bar->gpa, bar->opaque);
    bar->mapped = false;
    if (bar->moved)
        bar->moved(bar->opaque, false, bar->gpa);
}

static void map(KumoPciFunction *function, unsigned index, uint64_t address)
{
    g_autoptr(GError) error = NULL;
    KumoPciBar *bar = &function->bars[index];

    if (!allowed(function->device->machine, bar, address)) {
        if (!is_sizing(function, index))
            kumo_warn_guest("%s: BAR %u at 0x%" PRIx64 " is outside the PCI windows: not mapped",
                            function->device->id, index, address);
        return;
    }
    if (!kumo_bus_add(bar_bus(function, bar), address, bar->size, bar->ops, bar->opaque,
                      function->device->id, &error)) {
        kumo_warn_guest("%s: BAR %u not mapped: %s", function->device->id, index, error->message);
        return;
    }
    bar->gpa = address;
    bar->mapped = true;
    if (bar->moved)
        bar->moved(bar->opaque, true, address);
}

void kumo_pci_update_bars(KumoPciFunction *function)
{
    uint16_t command = pci_get16(function->config + PCI_COMMAND);

    if (!function->plugged)
        return;
    for (unsigned i = 0; i < KUMO_PCI_BARS; i++) {
        KumoPciBar *bar = &function->bars[i];
        uint16_t bit = bar->kind == KUMO_PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
        uint64_t address = kumo_pci_bar_address(function, i);
        bool decode = (command & bit) != 0;

        if (bar->kind == KUMO_PCI_BAR_NONE)
            continue;
        if (bar->mapped && (!decode || bar->gpa != address))
            unmap(function, bar);
        if (decode && !bar->mapped)
            map(function, i, address);
    }
}

void kumo_pci_unmap_bars(KumoPciFunction *function)
{
    for (unsigned i = 0; i < KUMO_PCI_BARS; i++)
        unmap(function, &function->bars[i]);
}

json_t *kumo_pci_function_resources(KumoPciFunction *function)
{
    static const char *const types[] = {
        [KUMO_PCI_BAR_IO] = "Io",
        [KUMO_PCI_BAR_MEM32] = "Mmio32",
        [KUMO_PCI_BAR_MEM64] = "Mmio64",
    };
    json_t *resources = json_array();

    g_mutex_lock(&function->lock);
    for (unsigned i = 0; i < KUMO_PCI_BARS; i++) {
        const KumoPciBar *bar = &function->bars[i];
        const uint8_t *config = function->config + PCI_BAR0 + 4 * i;
        bool is_memory = bar->kind != KUMO_PCI_BAR_IO;

        if (bar->kind == KUMO_PCI_BAR_NONE)
            continue;
        json_array_append_new(
            resources,
            json_pack("{s:{s:i, s:I, s:I, s:s, s:b}}", "PciBar", "index", (int)i, "base",
                      (json_int_t)(bar->mapped ? bar->gpa : kumo_pci_bar_address(function, i)),
                      "size", (json_int_t)bar->size, "type_", types[bar->kind], "prefetchable",
                      is_memory && (config[0] & PCI_BAR_PREFETCHABLE)));
    }
    g_mutex_unlock(&function->lock);
    return resources;
}
