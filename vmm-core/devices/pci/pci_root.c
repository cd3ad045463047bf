/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host bridge: config access mechanisms (PCI 3.0, 3.2.2.3.2; PCI Express 3.0, 7.2.2), and the
 * slots. */
#include <inttypes.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/devices/pci/pci-internal.h"

enum {
    CONFIG_PORTS = 0xcf8,
    CONFIG_PORTS_LEN = 8,
    CONFIG_DATA = 4, /* relative to CONFIG_PORTS */
};
#define CONFIG_ENABLE (1U << 31)

static const char root_id[] = "__pci_root";

/* Bus 0 is all that a segment has, and a slot's function 0 all that a slot has. */
static KumoPciFunction *find_function(KumoPciSegment *segment, unsigned bus, unsigned slot,
                                      unsigned fn)
{
    KumoPciFunction *function;

    if (bus != 0 || fn != 0 || slot >= KUMO_PCI_SLOTS)
        return NULL;
    function = atomic_load_explicit(&segment->slots[slot], memory_order_acquire);
    if (function && atomic_load_explicit(&function->hidden, memory_order_acquire))
        return NULL;
    return function;
}

static void segment_access(KumoPciSegment *segment, unsigned bus, unsigned devfn, unsigned offset,
                           uint8_t *data, unsigned len, bool write)
{
    KumoPciFunction *function = find_function(segment, bus, devfn >> 3, devfn & 7);

    if (!function) {
        if (!write)
            memset(data, 0xff, len);
    } else if (write) {
        kumo_pci_config_write(function, offset, data, len);
    } else {
        kumo_pci_config_read(function, offset, data, len);
    }
}

static void ports_access(KumoPciRoot *root, uint64_t offset, uint8_t *data, unsigned len,
                         bool write)
{
    uint32_t address;

    if (!write)
        memset(data, 0xff, len);
    if (offset == 0 && len == 4) {
        g_mutex_lock(&root->address_lock);
        if (write)
            root->address = pci_get32(data) & ~0x7f000003U;
        else
            pci_put32(data, root->address);
        g_mutex_unlock(&root->address_lock);
        return;
    }
    /* Shorter accesses to the address port are not for the host bridge. */
    if (offset < CONFIG_DATA)
        return;

    g_mutex_lock(&root->address_lock);
    address = root->address;
    g_mutex_unlock(&root->address_lock);
    if (address & CONFIG_ENABLE)
        segment_access(&root->segments[0], (address >> 16) & 0xff, (address >> 8) & 0xff,
                       (address & 0xfc) + (unsigned)(offset - CONFIG_DATA), data, len, write);
}

static void ports_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    ports_access(opaque, offset, data, size, false);
}

static void ports_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    ports_access(opaque, offset, (uint8_t *)data, size, true);
}

static const KumoBusOps ports_ops = { .read = ports_read, .write = ports_write };

static void ecam_access(KumoPciSegment *segment, uint64_t offset, uint8_t *data, unsigned len,
                        bool write)
{
    segment_access(segment, (unsigned)(offset >> 20), (unsigned)(offset >> 12) & 0xff,
                   (unsigned)offset & (KUMO_PCI_CONFIG_SIZE - 1), data, len, write);
}

static void ecam_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    ecam_access(opaque, offset, data, size, false);
}

static void ecam_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    ecam_access(opaque, offset, (uint8_t *)data, size, true);
}

static const KumoBusOps ecam_ops = { .read = ecam_read, .write = ecam_write };

static bool choose_slot(KumoPciSegment *segment, KumoPciFunction *function, GError **error)
{
    if (function->slot >= KUMO_PCI_SLOTS) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "PCI slot %d: a segment has slots 0 to %d", function->slot, KUMO_PCI_SLOTS - 1);
        return false;
    }
    if (function->slot >= 0) {
        const KumoPciFunction *other = atomic_load(&segment->slots[function->slot]);

        if (other)
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                        "PCI slot %d of segment %u is taken by %s", function->slot, segment->number,
                        other->device->id);
        return other == NULL;
    }
    for (int slot = 0; slot < KUMO_PCI_SLOTS; slot++) {
        if (!atomic_load(&segment->slots[slot]) && !(segment->reserved & 1U << slot)) {
            function->slot = slot;
            return true;
        }
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE, "PCI segment %u has no free slot",
                segment->number);
    return false;
}

bool kumo_pci_plug(KumoMachine *machine, KumoPciFunction *function, GError **error)
{
    KumoPciRoot *root = machine->pci;
    int wanted = function->slot;
    KumoPciSegment *segment;

    if (function->segment >= root->n_segments) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "PCI segment %u: this machine has %u",
                    function->segment, root->n_segments);
        return false;
    }
    segment = &root->segments[function->segment];
    if (!choose_slot(segment, function, error) || !kumo_pci_place_bars(root, function, error)) {
        function->slot = wanted;
        return false;
    }

    g_mutex_lock(&function->lock);
    function->intx_gsi =
        machine->layout.pci_intx_gsi_base + (unsigned)function->slot % PCI_INTX_PINS;
    for (unsigned i = 0; i < KUMO_PCI_BARS; i++) {
        /* As firmware leaves it: payloads that boot without firmware find the device decoding. */
        if (function->bars[i].kind == KUMO_PCI_BAR_IO)
            function->config[PCI_COMMAND] |= PCI_COMMAND_IO;
        else if (function->bars[i].kind != KUMO_PCI_BAR_NONE)
            function->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
    }
    function->plugged = true;
    kumo_pci_update_bars(function);
    kumo_pci_update_intx(function);
    g_mutex_unlock(&function->lock);
    atomic_store_explicit(&segment->slots[function->slot], function, memory_order_release);
    return true;
}

static void synchronize(KumoMachine *machine)
{
    if (machine->pio)
        kumo_bus_synchronize(machine->pio);
    kumo_bus_synchronize(machine->mmio);
}

void kumo_pci_unplug(KumoMachine *machine, KumoPciFunction *function)
{
    KumoPciRoot *root = machine->pci;

    if (!function->plugged)
        return;
    atomic_store(&root->segments[function->segment].slots[function->slot], NULL);
    synchronize(machine);
    kumo_pci_hotplug_forget(root, function);
    kumo_pci_set_intx(function, false);
    g_mutex_lock(&function->lock);
    kumo_pci_unmap_bars(function);
    function->plugged = false;
    g_mutex_unlock(&function->lock);
    synchronize(machine);
}

/* --- the device --- */

static void reserve(KumoPciRoot *root, const KumoPciCommon *pci)
{
    if (pci->pci_segment < root->n_segments && pci->pci_device_id >= 0 &&
        pci->pci_device_id < KUMO_PCI_SLOTS)
        root->segments[pci->pci_segment].reserved |= 1U << pci->pci_device_id;
}

static void reserve_configured(KumoPciRoot *root, const KumoVmConfig *config)
{
    for (unsigned i = 0; i < config->disks->len; i++)
        reserve(root, &((const KumoDiskConfig *)g_ptr_array_index(config->disks, i))->pci);
    for (unsigned i = 0; i < config->nets->len; i++)
        reserve(root, &((const KumoNetConfig *)g_ptr_array_index(config->nets, i))->pci);
    reserve(root, &config->rng.pci);
    if (config->console.mode != KUMO_CONSOLE_OFF)
        reserve(root, &config->console.pci);
}

static void root_unrealize(KumoDevice *device)
{
    KumoPciRoot *root = (KumoPciRoot *)device;
    KumoMachine *machine = device->machine;

    kumo_pci_unplug(machine, &root->bridge);
    if (machine->pio)
        kumo_bus_remove(machine->pio, CONFIG_PORTS, root);
    for (unsigned i = 0; i < root->n_segments; i++)
        kumo_bus_remove(machine->mmio, machine->layout.ecam_base + (uint64_t)i * PCI_SEGMENT_SIZE,
                        &root->segments[i]);
    synchronize(machine);
    machine->pci = NULL;
}

static bool root_realize(KumoDevice *device, GError **error)
{
    KumoPciRoot *root = (KumoPciRoot *)device;
    KumoMachine *machine = device->machine;
    unsigned mapped = 0;

    machine->pci = root;
    if (!kumo_pci_plug(machine, &root->bridge, error)) {
        machine->pci = NULL;
        return false;
    }
    while (mapped < root->n_segments) {
        KumoPciSegment *segment = &root->segments[mapped];

        if (!kumo_bus_add(machine->mmio,
                          machine->layout.ecam_base + (uint64_t)mapped * PCI_SEGMENT_SIZE,
                          PCI_SEGMENT_SIZE, &ecam_ops, segment, root_id, error))
            goto fail;
        mapped++;
    }
    if (machine->pio && !kumo_bus_add(machine->pio, CONFIG_PORTS, CONFIG_PORTS_LEN, &ports_ops,
                                      root, root_id, error))
        goto fail;
    return true;

fail:
    while (mapped-- > 0)
        kumo_bus_remove(machine->mmio,
                        machine->layout.ecam_base + (uint64_t)mapped * PCI_SEGMENT_SIZE,
                        &root->segments[mapped]);
    kumo_pci_unplug(machine, &root->bridge);
    machine->pci = NULL;
    return false;
}

static void root_free(KumoDevice *device)
{
    KumoPciRoot *root = (KumoPciRoot *)device;

    kumo_pci_function_clear(&root->bridge);
    g_mutex_clear(&root->address_lock);
    g_mutex_clear(&root->intx_lock);
    g_mutex_clear(&root->hotplug_lock);
    g_free(root->segments);
    g_free(root);
}

static void root_aml(KumoDevice *device, KumoAml *aml)
{
    kumo_pci_aml((KumoPciRoot *)device, aml);
}

static const KumoDeviceOps root_ops = {
    .type = "pci-root",
    .realize = root_realize,
    .unrealize = root_unrealize,
    .free = root_free,
    .aml = root_aml,
    .state = &kumo_pci_root_state,
};

static bool root_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    static const KumoPciIds ids = { .vendor = 0x8086, .device = 0x0d57, .class_code = 0x06 };
    KumoPciRoot *root = g_new0(KumoPciRoot, 1);

    kumo_device_init(&root->device, &root_ops, machine, root_id);
    kumo_pci_function_init(&root->bridge, &root->device, &ids, 0);
    g_mutex_init(&root->address_lock);
    g_mutex_init(&root->intx_lock);
    g_mutex_init(&root->hotplug_lock);
    root->n_segments = config->platform.num_pci_segments;
    root->segments = g_new0(KumoPciSegment, root->n_segments);
    for (unsigned i = 0; i < root->n_segments; i++) {
        root->segments[i].number = i;
        root->segments[i].root = root;
        root->segments[i].weight32 = 1;
        root->segments[i].weight64 = 1;
        root->segments[i].numa_node = kumo_numa_node_of_segment(config, i);
    }
    for (guint i = 0; i < config->pci_segments->len; i++) {
        const KumoPciSegmentConfig *segment = config->pci_segments->pdata[i];

        root->segments[segment->pci_segment].weight32 = segment->mmio32_aperture_weight;
        root->segments[segment->pci_segment].weight64 = segment->mmio64_aperture_weight;
    }
    reserve_configured(root, config);
    return kumo_device_add(&root->device, error);
}

const KumoDeviceType kumo_device_type_pci_root = { .name = "pci-root", .create = root_create };
