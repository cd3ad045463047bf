/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/layout.h"

#include <inttypes.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"

#define PAGE_BYTES 4096ull
#define MIB        (1ull << 20)
#define GIB        (1ull << 30)

bool kumo_x86_layout_fill(const KumoVmConfig *config, uint32_t host_phys_bits,
                          KumoMachineLayout *ret_layout, KumoMemRange *ret_ranges,
                          unsigned *ret_n_ranges, GError **error)
{
    uint64_t size = kumo_memory_config_total(&config->memory);
    uint32_t phys_bits = MIN(host_phys_bits, config->cpus.max_phys_bits);
    uint64_t low = MIN(size, KUMO_X86_HOLE_GPA);
    uint64_t high = size - low;
    uint64_t mmio64_base, hotplug_gpa, end;
    uint64_t platform_base;
    g_autoptr(GArray) hotplug = NULL;

    if (phys_bits < KUMO_X86_MIN_PHYS_BITS || phys_bits > 52) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "cpus: %u physical address bits (host %u, max_phys_bits %u), allowed are 36 to 52",
            phys_bits, host_phys_bits, config->cpus.max_phys_bits);
        return false;
    }
    if (size < MIB || size % PAGE_BYTES != 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "memory: size %" PRIu64 " is not a multiple of 4 KiB of at least 1 MiB", size);
        return false;
    }

    platform_base = (1ull << phys_bits) - KUMO_X86_TOP_FREE - KUMO_X86_PLATFORM_SIZE;
    /* At least 1 GiB must stay for 64-bit BARs; the first test keeps the sum from wrapping. */
    hotplug_gpa = KUMO_X86_RAM_ABOVE_4G + MIN(high, platform_base);
    end = hotplug_gpa;
    hotplug = kumo_memory_config_hotplug_ranges(&config->memory, hotplug_gpa);
    if (hotplug && hotplug->len) {
        const KumoHotplugRange *last = &g_array_index(hotplug, KumoHotplugRange, hotplug->len - 1);

        end = last->gpa + last->size_bytes;
    }
    if (high > platform_base || !hotplug || end > platform_base ||
        kumo_align_up(end, 4 * GIB) + GIB > platform_base) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "memory: size %" PRIu64 "%s does not fit into %u physical address bits", size,
                    end > hotplug_gpa || !hotplug ? " with hotplug_size" : "", phys_bits);
        return false;
    }
    mmio64_base = kumo_align_up(end, 4 * GIB);

    *ret_layout = (KumoMachineLayout){
        .mmio32_base = KUMO_X86_MMIO32_GPA,
        .mmio32_size = KUMO_X86_MMIO32_SIZE,
        .mmio64_base = mmio64_base,
        .mmio64_size = platform_base - mmio64_base,
        .ecam_base = KUMO_X86_ECAM_GPA,
        .hotplug_gpa = hotplug_gpa,
        .platform_mmio_base = platform_base,
        .platform_mmio_size = KUMO_X86_PLATFORM_SIZE,
        .pci_intx_gsi_base = KUMO_X86_INTX_GSI_BASE,
        .ged_gsi = KUMO_X86_GED_GSI,
        .serial_gsi = KUMO_X86_SERIAL_GSI,
        .phys_bits = phys_bits,
    };
    ret_ranges[0] = (KumoMemRange){ .gpa = 0, .size_bytes = low };
    *ret_n_ranges = 1;
    if (high) {
        ret_ranges[1] = (KumoMemRange){ .gpa = KUMO_X86_RAM_ABOVE_4G, .size_bytes = high };
        *ret_n_ranges = 2;
    }
    return true;
}

uint64_t kumo_x86_low_ram_end(const KumoMemory *memory)
{
    const KumoMemRegion *region = kumo_memory_find(memory, 0);

    return region ? region->gpa + region->size_bytes : 0;
}

unsigned kumo_x86_memory_map(const KumoMemory *memory, KumoX86MapEntry ret[KUMO_X86_MAP_MAX])
{
    uint64_t low_end = kumo_x86_low_ram_end(memory);
    unsigned n = 0;

    ret[n++] = (KumoX86MapEntry){ 0, KUMO_X86_EBDA_GPA, KUMO_X86_MAP_RAM };
    if (low_end > KUMO_X86_HIGH_RAM_GPA)
        ret[n++] = (KumoX86MapEntry){ KUMO_X86_HIGH_RAM_GPA, low_end - KUMO_X86_HIGH_RAM_GPA,
                                      KUMO_X86_MAP_RAM };
    ret[n++] = (KumoX86MapEntry){ KUMO_X86_ECAM_GPA, KUMO_X86_ECAM_SIZE, KUMO_X86_MAP_RESERVED };
    for (unsigned i = 0; i < memory->n_regions && n < KUMO_X86_MAP_MAX; i++) {
        const KumoMemRegion *region = &memory->regions[i];

        if (region->gpa >= KUMO_X86_RAM_ABOVE_4G && !region->hotplug)
            ret[n++] = (KumoX86MapEntry){ region->gpa, region->size_bytes, KUMO_X86_MAP_RAM };
    }
    return n;
}
