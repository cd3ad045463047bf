/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest-physical address map of x86-64 machines. It is what guests and snapshots see: it never
 * changes. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/config/config.h"
#include "vmm-core/core/machine.h"

/* Below 1 MiB: what the loader leaves for the payload. */
#define KUMO_X86_GDT_GPA        0x500ull
#define KUMO_X86_IDT_GPA        0x520ull
#define KUMO_X86_START_INFO_GPA 0x6000ull
#define KUMO_X86_MODLIST_GPA    0x6040ull
#define KUMO_X86_MEMMAP_GPA     0x7000ull
#define KUMO_X86_ZERO_PAGE_GPA  0x7000ull
#define KUMO_X86_STACK_GPA      0x8ff0ull
#define KUMO_X86_CMDLINE_GPA    0x20000ull
#define KUMO_X86_LOW_USED_END   0x30000ull /* the end of the command line's room */
#define KUMO_X86_EBDA_GPA       0xa0000ull /* the end of low RAM in memory maps; RSDP and ACPI tables */
#define KUMO_X86_SMBIOS_GPA     0xf0000ull
#define KUMO_X86_HIGH_RAM_GPA   0x100000ull
#define KUMO_X86_EBDA_POINTER   0x40eull

/* Between 3 and 4 GiB. */
#define KUMO_X86_HOLE_GPA     0xc0000000ull
#define KUMO_X86_MMIO32_GPA   0xc0000000ull
#define KUMO_X86_MMIO32_SIZE  0x28000000ull
#define KUMO_X86_ECAM_GPA     0xe8000000ull
#define KUMO_X86_ECAM_SIZE    0x10000000ull
#define KUMO_X86_ECAM_SEGMENT 0x100000ull /* one bus */
#define KUMO_X86_IOAPIC_GPA   0xfec00000ull
#define KUMO_X86_LAPIC_GPA    0xfee00000ull
#define KUMO_X86_RAM_ABOVE_4G 0x100000000ull

/* At the top of the address space: a megabyte of register blocks below 64 KiB that stay free. */
#define KUMO_X86_TOP_FREE      0x10000ull
#define KUMO_X86_PLATFORM_SIZE 0x100000ull

enum {
    KUMO_X86_SERIAL_GSI = 4,
    KUMO_X86_INTX_GSI_BASE = 5,
    KUMO_X86_INTX_GSIS = 8,
    KUMO_X86_GED_GSI = KUMO_X86_INTX_GSI_BASE + KUMO_X86_INTX_GSIS,
    KUMO_X86_MIN_PHYS_BITS = 36,
    KUMO_X86_MAX_XAPIC_ID = 254,    /* 255 is the xAPIC's broadcast */
    KUMO_X86_MAX_X2APIC_ID = 32767, /* what an MSI address has bits for */
};

/**
 * kumo_x86_layout_fill:
 * @host_phys_bits: width of the host's physical addresses
 * @ret_ranges: room for two
 *
 * Returns: TRUE, or FALSE with @error (INVALID) if the memory does not fit the address width.
 */
bool kumo_x86_layout_fill(const KumoVmConfig *config, uint32_t host_phys_bits,
                          KumoMachineLayout *ret_layout, KumoMemRange *ret_ranges,
                          unsigned *ret_n_ranges, GError **error);

/* One entry of the memory map that a guest is given. */
typedef struct {
    uint64_t gpa;
    uint64_t size_bytes;
    uint32_t type;
} KumoX86MapEntry;

/* Address range types (ACPI 6.4, table 15.4); PVH and the zero page use the same numbers. */
enum { KUMO_X86_MAP_RAM = 1, KUMO_X86_MAP_RESERVED = 2, KUMO_X86_MAP_MAX = 8 };

/**
 * kumo_x86_memory_map:
 * @ret: room for KUMO_X86_MAP_MAX, filled in ascending order
 *
 * Returns: how many entries there are.
 */
unsigned kumo_x86_memory_map(const KumoMemory *memory, KumoX86MapEntry ret[KUMO_X86_MAP_MAX]);

/* Returns: the end of the RAM that starts at address 0. */
uint64_t kumo_x86_low_ram_end(const KumoMemory *memory);
