/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is in a function's config space, and which of its bits the guest may change. */
#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/devices/pci/pci-internal.h"

/* Bits of the type 0 header that any function lets the guest change; BARs add theirs. */
static const struct {
    uint8_t offset;
    uint8_t mask;
} header_masks[] = {
    { PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY },
    { PCI_COMMAND + 1, (PCI_COMMAND_SERR | PCI_COMMAND_INTX_OFF) >> 8 },
    { PCI_CACHE_LINE, 0xff },
    { PCI_INTERRUPT_LINE, 0xff },
};

void kumo_pci_function_init(KumoPciFunction *function, KumoDevice *device, const KumoPciIds *ids,
                            int slot)
{
    memset(function, 0, sizeof(*function));
    g_mutex_init(&function->lock);
    function->device = device;
    function->slot = slot;
    function->next_cap = PCI_FIRST_CAP;

    pci_put16(function->config + PCI_VENDOR_ID, ids->vendor);
    pci_put16(function->config + PCI_DEVICE_ID, ids->device);
    pci_put16(function->config + PCI_SUBSYSTEM_VENDOR, ids->subsystem_vendor);
    pci_put16(function->config + PCI_SUBSYSTEM, ids->subsystem);
    function->config[PCI_REVISION] = ids->revision;
    function->config[PCI_PROG_IF] = ids->prog_if;
    function->config[PCI_SUBCLASS] = ids->subclass;
    function->config[PCI_CLASS] = ids->class_code;

    for (unsigned i = 0; i < G_N_ELEMENTS(header_masks); i++)
        function->write_mask[header_masks[i].offset] = header_masks[i].mask;
}

void kumo_pci_function_clear(KumoPciFunction *function)
{
    g_assert(!function->plugged);
    g_mutex_clear(&function->lock);
}

void kumo_pci_function_set_bar(KumoPciFunction *function, unsigned index, const KumoPciBar *bar)
{
    bool is64 = bar->kind == KUMO_PCI_BAR_MEM64;
    uint8_t *config = function->config + PCI_BAR0 + 4 * index;
    uint8_t *mask = function->write_mask + PCI_BAR0 + 4 * index;
    uint64_t bits = ~(bar->size - 1);

    g_assert(index + is64 < KUMO_PCI_BARS && kumo_is_pow2(bar->size) && bar->size >= 4);
    g_assert(bar->kind == KUMO_PCI_BAR_IO || bar->size >= 16);

    function->bars[index] = *bar;
    function->bars[index].gpa = 0;
    function->bars[index].mapped = false;
    pci_put32(mask, (uint32_t)bits);
    if (bar->kind == KUMO_PCI_BAR_IO) {
        pci_put32(config, PCI_BAR_IO_SPACE);
    } else if (is64) {
        pci_put32(config, PCI_BAR_TYPE_64);
        pci_put32(mask + 4, (uint32_t)(bits >> 32));
    }
}

unsigned kumo_pci_add_cap(KumoPciFunction *function, uint8_t id, const void *body, size_t len)
{
    unsigned at = function->next_cap;

    g_assert(at + 2 + len <= PCI_CAPS_END);
    function->config[at] = id;
    /* The newest comes first: that way the list needs no walk to its end. */
    function->config[at + 1] = function->config[PCI_CAP_POINTER];
    memcpy(function->config + at + 2, body, len);
    function->config[PCI_CAP_POINTER] = (uint8_t)at;
    function->config[PCI_STATUS] |= PCI_STATUS_CAPS;
    function->next_cap = (unsigned)kumo_align_up(at + 2 + len, 4);
    return at;
}

char *kumo_pci_function_bdf(const KumoPciFunction *function)
{
    return g_strdup_printf("%04x:00:%02x.0", function->segment, (unsigned)function->slot);
}
