/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ACPI says of the PCI segments: PCI Firmware 3.2, chapter 4; ACPI 6.4, 6.2.13 (_PRT). */
#include <stdio.h>

#include "vmm-core/devices/pci/pci-internal.h"

/* Functions of the PCI firmware's _DSM; 5: does the OS have to keep what it finds in BARs? */
#define PCI_DSM_UUID "e5c937d0-3553-4d7a-9117-ea4d19c3434d"
/* What a slot is notified of (ACPI 6.4, table 5.160). */
enum { NOTIFY_DEVICE_CHECK = 1, NOTIFY_EJECT_REQUEST = 3 };

enum { PCI_DSM_FUNCTIONS = 1 << 0 | 1 << 5, PCI_DSM_KEEP_CONFIG = 5 };

void kumo_pci_segment_name(char name[8], unsigned segment)
{
    snprintf(name, 8, "PC%02X", segment & 0xff);
}

static void slot_name(char name[5], unsigned slot)
{
    snprintf(name, 5, "S%03u", slot % 1000);
}

static void add_crs(const KumoPciSegment *segment, KumoAml *aml)
{
    const KumoMachine *machine = segment->root->device.machine;
    const KumoPciWindow low = kumo_pci_segment_window(segment, KUMO_PCI_BAR_MEM32);
    const KumoPciWindow high = kumo_pci_segment_window(segment, KUMO_PCI_BAR_MEM64);
    KumoAmlMark resources;

    kumo_aml_name(aml, "_CRS");
    resources = kumo_aml_open_resources(aml);
    kumo_aml_res_bus_numbers(aml, 0, 0);
    if (segment->number == 0 && machine->pio) {
        kumo_aml_res_io(aml, 0xcf8, 0xcf8, 1, 8);
        kumo_aml_res_word_io(aml, 0, 0xcf7);
        kumo_aml_res_word_io(aml, 0xd00, 0xffff);
    }
    if (low.size)
        kumo_aml_res_dword_memory(aml, false, (uint32_t)low.base,
                                  (uint32_t)(low.base + (low.size - 1)));
    if (high.size)
        kumo_aml_res_qword_memory(aml, false, high.base, high.base + (high.size - 1));
    kumo_aml_close_resources(aml, resources);
}

static void return_buffer(KumoAml *aml, uint8_t byte)
{
    KumoAmlMark buffer;

    kumo_aml_op(aml, KUMO_AML_RETURN);
    buffer = kumo_aml_open_buffer(aml);
    kumo_aml_raw(aml, &byte, 1);
    kumo_aml_close(aml, buffer);
}

static void open_if_equal(KumoAml *aml, unsigned arg, uint64_t value, KumoAmlMark *ret_mark)
{
    *ret_mark = kumo_aml_open_if(aml);
    kumo_aml_op(aml, KUMO_AML_LEQUAL);
    kumo_aml_arg(aml, arg);
    kumo_aml_integer(aml, value);
}

static void add_dsm(KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "_DSM", 4, true);
    KumoAmlMark uuid = kumo_aml_open_if(aml);
    KumoAmlMark function;

    kumo_aml_op(aml, KUMO_AML_LEQUAL);
    kumo_aml_arg(aml, 0);
    kumo_aml_uuid(aml, PCI_DSM_UUID);

    open_if_equal(aml, 2, 0, &function);
    return_buffer(aml, PCI_DSM_FUNCTIONS);
    kumo_aml_close(aml, function);
    open_if_equal(aml, 2, PCI_DSM_KEEP_CONFIG, &function);
    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_integer(aml, 0);
    kumo_aml_close(aml, function);

    kumo_aml_close(aml, uuid);
    return_buffer(aml, 0);
    kumo_aml_close(aml, method);
}

/* The interrupt of each slot's INTA#. It is the same in all segments, whose _PRT gives this one:
 * they are many, and the room for tables is not. */
static void add_routing(const KumoPciRoot *root, KumoAml *aml)
{
    const KumoMachineLayout *layout = &root->device.machine->layout;
    KumoAmlMark table;

    kumo_aml_name(aml, "PPRT");
    table = kumo_aml_open_package(aml, KUMO_PCI_SLOTS);
    for (unsigned slot = 0; slot < KUMO_PCI_SLOTS; slot++) {
        KumoAmlMark entry = kumo_aml_open_package(aml, 4);

        kumo_aml_integer(aml, slot << 16 | 0xffff);
        kumo_aml_integer(aml, 0); /* INTA# */
        kumo_aml_integer(aml, 0); /* a GSI, not a link device */
        kumo_aml_integer(aml, layout->pci_intx_gsi_base + slot % PCI_INTX_PINS);
        kumo_aml_close(aml, entry);
    }
    kumo_aml_close(aml, table);
}

static void add_prt(KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "_PRT", 0, false);

    kumo_aml_op(aml, KUMO_AML_RETURN);
    kumo_aml_path(aml, "PPRT");
    kumo_aml_close(aml, method);
}

static void add_slots(const KumoPciSegment *segment, KumoAml *aml)
{
    for (unsigned slot = segment->number == 0; slot < KUMO_PCI_SLOTS; slot++) {
        char name[5];
        KumoAmlMark device;

        slot_name(name, slot);
        device = kumo_aml_open_device(aml, name);
        kumo_aml_name(aml, "_SUN");
        kumo_aml_integer(aml, slot);
        kumo_aml_name(aml, "_ADR");
        kumo_aml_integer(aml, slot << 16);
        if (segment->root->hotplug) {
            KumoAmlMark method = kumo_aml_open_method(aml, "_EJ0", 1, true);

            kumo_aml_path(aml, "DEJ0");
            kumo_aml_integer(aml, slot);
            kumo_aml_close(aml, method);
            method = kumo_aml_open_method(aml, "_OST", 3, true);
            kumo_aml_path(aml, "DOST");
            kumo_aml_integer(aml, slot);
            kumo_aml_arg(aml, 0);
            kumo_aml_arg(aml, 1);
            kumo_aml_close(aml, method);
        }
        kumo_aml_close(aml, device);
    }
}

/* DEJ0(slot): what a slot's _EJ0 does. To save room each calls a method of its segment. */
static void add_eject_method(const KumoPciSegment *segment, KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "DEJ0", 1, true);

    kumo_aml_path(aml, "\\_SB_.PHPR.PCEJ");
    kumo_aml_arg(aml, 0);
    kumo_aml_integer(aml, segment->number);
    kumo_aml_close(aml, method);
}

/* @arg & @mask << @shift */
static void packed_arg(KumoAml *aml, unsigned arg, uint64_t mask, unsigned shift)
{
    kumo_aml_op(aml, KUMO_AML_SHIFT_LEFT);
    kumo_aml_op(aml, KUMO_AML_AND);
    kumo_aml_arg(aml, arg);
    kumo_aml_integer(aml, mask);
    kumo_aml_integer(aml, 0); /* And's target: none */
    kumo_aml_integer(aml, shift);
    kumo_aml_integer(aml, 0); /* ShiftLeft's target: none */
}

/* DOST(slot, event, status): what a slot's _OST does (ACPI 6.4, 6.3.5). */
static void add_ost_method(const KumoPciSegment *segment, KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "DOST", 3, true);

    kumo_aml_acquire(aml, "\\_SB_.PHPR.BLCK", 0xffff);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_integer(aml, segment->number);
    kumo_aml_path(aml, "\\_SB_.PHPR.PSEG");
    kumo_aml_op(aml, KUMO_AML_OR);
    kumo_aml_op(aml, KUMO_AML_OR);
    kumo_aml_arg(aml, 0);
    packed_arg(aml, 1, KUMO_PCI_OST_EVENT_MASK, KUMO_PCI_OST_EVENT_SHIFT);
    kumo_aml_integer(aml, 0); /* Or's target: none */
    packed_arg(aml, 2, KUMO_PCI_OST_STATUS_MASK, KUMO_PCI_OST_STATUS_SHIFT);
    kumo_aml_path(aml, "\\_SB_.PHPR.POST");
    kumo_aml_release(aml, "\\_SB_.PHPR.BLCK");
    kumo_aml_close(aml, method);
}

/* DVNT(slots, code): notifies each of the slots. */
static void add_notify_method(const KumoPciSegment *segment, KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "DVNT", 2, true);

    for (unsigned slot = segment->number == 0; slot < KUMO_PCI_SLOTS; slot++) {
        KumoAmlMark test = kumo_aml_open_if(aml);
        char name[5];

        slot_name(name, slot);
        kumo_aml_op(aml, KUMO_AML_AND);
        kumo_aml_arg(aml, 0);
        kumo_aml_integer(aml, 1U << slot);
        kumo_aml_integer(aml, 0); /* And's target: none */
        kumo_aml_op(aml, KUMO_AML_NOTIFY);
        kumo_aml_path(aml, name);
        kumo_aml_arg(aml, 1);
        kumo_aml_close(aml, test);
    }
    kumo_aml_close(aml, method);
}

/* Each register is read once, for that clears it; then the guest is told of what it said. */
static void notify_slots(KumoAml *aml, unsigned local, const char *reg, unsigned code)
{
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_path(aml, reg);
    kumo_aml_local(aml, local);
    kumo_aml_path(aml, "DVNT");
    kumo_aml_local(aml, local);
    kumo_aml_integer(aml, code);
}

static void add_scan_method(const KumoPciSegment *segment, KumoAml *aml)
{
    KumoAmlMark method = kumo_aml_open_method(aml, "PCNT", 0, true);

    kumo_aml_acquire(aml, "\\_SB_.PHPR.BLCK", 0xffff);
    kumo_aml_op(aml, KUMO_AML_STORE);
    kumo_aml_integer(aml, segment->number);
    kumo_aml_path(aml, "\\_SB_.PHPR.PSEG");
    notify_slots(aml, 0, "\\_SB_.PHPR.PCIU", NOTIFY_DEVICE_CHECK);
    notify_slots(aml, 1, "\\_SB_.PHPR.PCID", NOTIFY_EJECT_REQUEST);
    kumo_aml_release(aml, "\\_SB_.PHPR.BLCK");
    kumo_aml_close(aml, method);
}

static void add_segment(const KumoPciSegment *segment, KumoAml *aml)
{
    char name[8];
    KumoAmlMark device;

    kumo_pci_segment_name(name, segment->number);
    device = kumo_aml_open_device(aml, name);
    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0A08");
    kumo_aml_name(aml, "_CID");
    kumo_aml_eisaid(aml, "PNP0A03");
    kumo_aml_name(aml, "_SEG");
    kumo_aml_integer(aml, segment->number);
    kumo_aml_name(aml, "_UID");
    kumo_aml_integer(aml, segment->number);
    if (segment->numa_node != KUMO_NUMA_NONE) {
        kumo_aml_name(aml, "_PXM");
        kumo_aml_integer(aml, segment->numa_node);
    }
    add_crs(segment, aml);
    add_dsm(aml);
    add_slots(segment, aml);
    if (segment->root->hotplug) {
        add_eject_method(segment, aml);
        add_ost_method(segment, aml);
        add_notify_method(segment, aml);
        add_scan_method(segment, aml);
    }
    add_prt(aml);
    kumo_aml_close(aml, device);
}

/* The OS uses ECAM only if something besides MCFG says that the range is taken (PCI
 * Firmware 3.2, 4.1.2). */
static void add_motherboard(const KumoPciRoot *root, KumoAml *aml)
{
    KumoAmlMark device = kumo_aml_open_device(aml, "MBRD");
    KumoAmlMark resources;

    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0C02");
    kumo_aml_name(aml, "_UID");
    kumo_aml_integer(aml, 0);
    kumo_aml_name(aml, "_CRS");
    resources = kumo_aml_open_resources(aml);
    kumo_aml_res_memory32_fixed(aml, true, (uint32_t)root->device.machine->layout.ecam_base,
                                root->n_segments * PCI_SEGMENT_SIZE);
    kumo_aml_close_resources(aml, resources);
    kumo_aml_close(aml, device);
}

void kumo_pci_aml(KumoPciRoot *root, KumoAml *aml)
{
    add_motherboard(root, aml);
    add_routing(root, aml);
    for (unsigned i = 0; i < root->n_segments; i++)
        add_segment(&root->segments[i], aml);
}
