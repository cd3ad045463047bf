/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Address map, ACPI tables and SMBIOS of x86-64 machines, read back from guest memory. */
#include <string.h>

#include "vmm-core/acpi/tables.h"
#include "vmm-core/arch/x86_64/acpi.h"
#include "vmm-core/arch/x86_64/cpuid.h"
#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/arch/x86_64/mp_table.h"
#include "vmm-core/arch/x86_64/smbios.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/arch.h"
#include "vmm-core/core/device.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)

static uint64_t get_le(const uint8_t *at, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static void check_layout(uint64_t size, uint32_t bits)
{
    KumoVmConfig config = { .memory.size_bytes = size, .cpus.max_phys_bits = bits };
    KumoMachineLayout layout;
    KumoMemRange ranges[KUMO_ARCH_MAX_RANGES];
    unsigned n = 0;
    uint64_t ram_end;
    uint64_t top = 1ull << bits;
    g_autoptr(GError) error = NULL;

    g_assert_true(kumo_x86_layout_fill(&config, 52, &layout, ranges, &n, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(ranges[0].gpa, ==, 0);
    g_assert_cmpuint(ranges[0].size_bytes, ==, MIN(size, 3 * GIB));
    g_assert_cmpuint(n, ==, size > 3 * GIB ? 2 : 1);
    ram_end = ranges[0].size_bytes;
    if (n == 2) {
        g_assert_cmpuint(ranges[1].gpa, ==, 4 * GIB);
        g_assert_cmpuint(ranges[0].size_bytes + ranges[1].size_bytes, ==, size);
        ram_end = ranges[1].gpa + ranges[1].size_bytes;
    }
    g_assert_cmphex(layout.mmio32_base, ==, 0xc0000000);
    g_assert_cmphex(layout.mmio32_base + layout.mmio32_size, ==, 0xe8000000);
    g_assert_cmphex(layout.ecam_base, ==, 0xe8000000);
    g_assert_cmphex(layout.platform_mmio_base, ==, top - 0x10000 - MIB);
    g_assert_cmphex(layout.platform_mmio_size, ==, MIB);
    g_assert_cmpuint(layout.mmio64_base, >=, MAX(ram_end, 4 * GIB));
    g_assert_cmphex(layout.mmio64_base + layout.mmio64_size, ==, layout.platform_mmio_base);
    g_assert_cmpuint(layout.mmio64_base % (4 * GIB), ==, 0);
    g_assert_cmpuint(layout.pci_intx_gsi_base, ==, 5);
    g_assert_cmpuint(layout.ged_gsi, ==, 13);
    g_assert_cmpuint(layout.serial_gsi, ==, 4);
    g_assert_cmpuint(layout.phys_bits, ==, bits);
}

static void test_layout(void)
{
    static const uint64_t sizes[] = {
        MIB,     2 * MIB, 512 * MIB, 3 * GIB - 4096, 3 * GIB, 3 * GIB + 4096,
        4 * GIB, 5 * GIB, 63 * GIB,  TIB - 4096,     TIB,
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        check_layout(sizes[i], 46);
        check_layout(sizes[i], 52);
    }
    check_layout(32 * GIB, 36);
}

/* Memory that is added later has its addresses between RAM and BARs. */
static void test_layout_hotplug(void)
{
    static const struct {
        uint64_t size, hotplug, hotplug_gpa, mmio64_base;
    } cases[] = {
        { 256 * MIB, 0, 4 * GIB, 4 * GIB },
        { 256 * MIB, 4 * GIB, 4 * GIB, 8 * GIB },
        { 256 * MIB, 4 * GIB + MIB, 4 * GIB, 12 * GIB },
        { 4 * GIB, 3 * GIB, 5 * GIB, 8 * GIB },
        { 4 * GIB + MIB, 3 * GIB - 128 * MIB, 5 * GIB + MIB, 8 * GIB },
        { 4 * GIB + MIB, 3 * GIB, 5 * GIB + MIB, 12 * GIB },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        KumoVmConfig config = { .memory.size_bytes = cases[i].size,
                                .memory.hotplug_size_bytes = cases[i].hotplug,
                                .cpus.max_phys_bits = 46 };
        KumoMachineLayout layout;
        KumoMemRange ranges[KUMO_ARCH_MAX_RANGES];
        unsigned n = 0;
        g_autoptr(GError) error = NULL;

        g_assert_true(kumo_x86_layout_fill(&config, 46, &layout, ranges, &n, &error));
        g_assert_no_error(error);
        g_assert_cmphex(layout.hotplug_gpa, ==, cases[i].hotplug_gpa);
        g_assert_cmphex(layout.mmio64_base, ==, cases[i].mmio64_base);
        config.memory.hotplug_size_bytes = 64 * TIB;
        g_assert_false(kumo_x86_layout_fill(&config, 46, &layout, ranges, &n, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
        g_assert_nonnull(strstr(error->message, "hotplug_size"));
    }
}

static void test_layout_refused(void)
{
    static const struct {
        uint64_t size;
        uint32_t host_bits, max_bits;
    } cases[] = {
        { MIB - 4096, 46, 46 }, { 0, 46, 46 },        { MIB + 1, 46, 46 },
        { TIB, 40, 46 },        { 64 * GIB, 36, 46 }, { UINT64_MAX - 4095, 46, 46 },
        { MIB, 35, 46 },        { MIB, 46, 20 },      { 1ull << 63, 52, 52 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        KumoVmConfig config = { .memory.size_bytes = cases[i].size,
                                .cpus.max_phys_bits = cases[i].max_bits };
        KumoMachineLayout layout;
        KumoMemRange ranges[KUMO_ARCH_MAX_RANGES];
        unsigned n;
        g_autoptr(GError) error = NULL;

        g_assert_false(
            kumo_x86_layout_fill(&config, cases[i].host_bits, &layout, ranges, &n, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    }
}

static void test_memory_map(void)
{
    KumoMemRegion regions[] = { { .gpa = 0, .size_bytes = 3 * GIB },
                                { .gpa = 4 * GIB, .size_bytes = GIB } };
    KumoMemory memory = { .regions = regions, .n_regions = 2 };
    KumoX86MapEntry map[KUMO_X86_MAP_MAX];

    g_assert_cmpuint(kumo_x86_memory_map(&memory, map), ==, 4);
    g_assert_cmphex(map[0].gpa, ==, 0);
    g_assert_cmphex(map[0].size_bytes, ==, 0xa0000);
    g_assert_cmphex(map[1].gpa, ==, MIB);
    g_assert_cmphex(map[1].size_bytes, ==, 3 * GIB - MIB);
    g_assert_cmphex(map[2].gpa, ==, 0xe8000000);
    g_assert_cmphex(map[2].size_bytes, ==, 0x10000000);
    g_assert_cmpuint(map[2].type, ==, KUMO_X86_MAP_RESERVED);
    g_assert_cmphex(map[3].gpa, ==, 4 * GIB);
    g_assert_cmphex(map[3].size_bytes, ==, GIB);
    g_assert_cmpuint(map[3].type, ==, KUMO_X86_MAP_RAM);

    regions[0].size_bytes = MIB;
    memory.n_regions = 1;
    g_assert_cmpuint(kumo_x86_memory_map(&memory, map), ==, 2);
}

static const uint8_t *table_at(KumoMemory *memory, uint64_t gpa, const char *signature)
{
    const uint8_t *table = kumo_memory_at(memory, gpa, 36);
    uint32_t len;

    g_assert_nonnull(table);
    len = (uint32_t)get_le(table + 4, 4);
    g_assert_cmpuint(len, >=, 36);
    g_assert_nonnull(kumo_memory_at(memory, gpa, len));
    g_assert_cmpmem(table, 4, signature, 4);
    g_assert_cmpuint(kumo_acpi_checksum(table, len), ==, 0);
    return table;
}

static void add_test_aml(KumoDevice *device, KumoAml *aml)
{
    kumo_aml_name(aml, "TEST");
    kumo_aml_integer(aml, 0x1234);
}

static void test_acpi(void)
{
    static const KumoDeviceOps with_aml = { .type = "test", .aml = add_test_aml };
    static const KumoDeviceOps without_aml = { .type = "plain" };
    static const uint8_t name[] = { 0x08, 'T', 'E', 'S', 'T', 0x0b, 0x34, 0x12 };
    static const uint8_t s5[] = {
        0x08, '\\', '_', 'S', '5', '_', 0x12, 8, 4, 0x0a, 5, 0x0a, 5, 0, 0
    };
    KumoDevice devices[] = { { .ops = &without_aml }, { .ops = &with_aml } };
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, 2 * MIB);
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    const uint8_t *rsdp, *xsdt, *fadt, *madt, *mcfg, *dsdt;

    config->cpus.boot_vcpus = 3;
    config->cpus.max_vcpus = 4;
    g_ptr_array_add(list, &devices[0]);
    g_ptr_array_add(list, &devices[1]);
    g_assert_true(kumo_x86_acpi_write(memory, config, list, &error));
    g_assert_no_error(error);

    rsdp = kumo_memory_at(memory, 0xa0000, 36);
    g_assert_cmpmem(rsdp, 8, "RSD PTR ", 8);
    g_assert_cmpuint(kumo_acpi_checksum(rsdp, 20), ==, 0);
    g_assert_cmpuint(kumo_acpi_checksum(rsdp, 36), ==, 0);
    g_assert_cmpuint(rsdp[15], ==, 2);
    xsdt = table_at(memory, get_le(rsdp + 24, 8), "XSDT");
    g_assert_cmpuint(get_le(xsdt + 4, 4), ==, 36 + 3 * 8);

    fadt = table_at(memory, get_le(xsdt + 36, 8), "FACP");
    g_assert_cmpuint(get_le(fadt + 4, 4), ==, 276);
    g_assert_cmpuint(fadt[8], ==, 6);
    g_assert_cmpuint(fadt[131], ==, 3);
    g_assert_cmphex(get_le(fadt + 112, 4), ==, 1 << 20 | 1 << 10 | 1 << 8);
    g_assert_cmphex(get_le(fadt + 116 + 4, 8), ==, 0x600);
    g_assert_cmpuint(fadt[116], ==, 1);
    g_assert_cmpuint(fadt[128], ==, 1);
    g_assert_cmphex(get_le(fadt + 208 + 4, 8), ==, 0x608);
    g_assert_cmpuint(fadt[208 + 1], ==, 32);
    g_assert_cmphex(get_le(fadt + 244 + 4, 8), ==, 0x600);
    g_assert_cmphex(get_le(fadt + 256 + 4, 8), ==, 0x600);
    dsdt = table_at(memory, get_le(fadt + 140, 8), "DSDT");
    g_assert_nonnull(memmem(dsdt, get_le(dsdt + 4, 4), name, sizeof(name)));
    /* All four elements: some guests do not power off without. */
    g_assert_nonnull(memmem(dsdt, get_le(dsdt + 4, 4), s5, sizeof(s5)));

    madt = table_at(memory, get_le(xsdt + 44, 8), "APIC");
    g_assert_cmpuint(get_le(madt + 4, 4), ==, 44 + 4 * 16 + 12 + 10);
    g_assert_cmphex(get_le(madt + 36, 4), ==, 0xfee00000);
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *entry = madt + 44 + 16 * i;

        g_assert_cmpuint(entry[0], ==, 9);
        g_assert_cmpuint(get_le(entry + 4, 4), ==, i);
        g_assert_cmpuint(get_le(entry + 8, 4), ==, i < 3 ? 3 : 2);
        g_assert_cmpuint(get_le(entry + 12, 4), ==, i);
    }
    mcfg = table_at(memory, get_le(xsdt + 52, 8), "MCFG");
    g_assert_cmpuint(get_le(mcfg + 4, 4), ==, 60);
    g_assert_cmphex(get_le(mcfg + 44, 8), ==, 0xe8000000);
    g_assert_cmpuint(mcfg[55], ==, 0); /* last bus: one bus a segment */
    g_assert_cmphex(get_le(kumo_memory_at(memory, 0x40e, 2), 2), ==, 0xa000);
}

static void test_fadt_pm1a(void)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();

    for (unsigned i = 0; i < 4; i++) {
        g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, 2 * MIB);
        g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
        g_autoptr(GError) error = NULL;
        const uint8_t *fadt;

        config->cpus.nested = i & 1;
        config->cpus.kvm_hyperv = i & 2;
        config->cpus.boot_vcpus = config->cpus.max_vcpus = 1;
        g_assert_true(kumo_x86_acpi_write(memory, config, list, &error));
        g_assert_no_error(error);
        fadt = kumo_memory_at(memory, 0xa0000, 36);
        fadt = table_at(memory, get_le(fadt + 24, 8), "XSDT");
        fadt = table_at(memory, get_le(fadt + 36, 8), "FACP");
        /* PM1a event and control block: I/O space, 32 and 16 bits, accessed by words. */
        g_assert_cmphex(get_le(fadt + 148, 4), ==, i == 3 ? 0x02002001 : 0);
        g_assert_cmphex(get_le(fadt + 152, 8), ==, i == 3 ? 0x60c : 0);
        g_assert_cmphex(get_le(fadt + 172, 4), ==, i == 3 ? 0x02001001 : 0);
        g_assert_cmphex(get_le(fadt + 176, 8), ==, i == 3 ? 0x610 : 0);
        g_assert_cmphex(get_le(fadt + 112, 4) & 1 << 20, ==, 1 << 20);
    }
}

static void add_much_aml(KumoDevice *device, KumoAml *aml)
{
    g_autofree uint8_t *zeros = g_malloc0(0x50000);

    kumo_aml_raw(aml, zeros, 0x50000);
}

static void test_acpi_too_long(void)
{
    static const KumoDeviceOps ops = { .type = "test", .aml = add_much_aml };
    KumoDevice device = { .ops = &ops };
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, 2 * MIB);
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    static const uint8_t zeros[16];

    g_ptr_array_add(list, &device);
    g_assert_false(kumo_x86_acpi_write(memory, config, list, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE);
    g_assert_cmpmem(kumo_memory_at(memory, 0xf0000, 16), 16, zeros, 16);
}

/* Strings of the structure at @at. Returns: where the next structure starts. */
static const uint8_t *parse_structure(const uint8_t *at, const uint8_t *limit, GPtrArray *strings)
{
    const uint8_t *s = at + at[1];

    g_ptr_array_set_size(strings, 0);
    g_assert_true(s + 2 <= limit);
    if (*s == 0) {
        g_assert_cmpuint(s[1], ==, 0);
        return s + 2;
    }
    while (*s) {
        size_t len = strnlen((const char *)s, (size_t)(limit - s));

        g_assert_true(s + len + 1 < limit);
        g_ptr_array_add(strings, (gpointer)(uintptr_t)s);
        s += len + 1;
    }
    return s + 1;
}

static const char *string_at(const GPtrArray *strings, unsigned number)
{
    return number == 0 ? "" : g_ptr_array_index(strings, number - 1);
}

static void test_smbios(void)
{
    static const uint8_t uuid[16] = { 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
                                      0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };
    g_autoptr(GPtrArray) oem = g_ptr_array_new();
    g_autoptr(GPtrArray) strings = g_ptr_array_new();
    KumoPlatformConfig platform = {
        .system_serial_number = (char *)(uintptr_t) "serial-1",
        .system_uuid = (char *)(uintptr_t) "00112233-4455-6677-8899-aabbccddeeff",
        .system_family = (char *)(uintptr_t) "family",
        .chassis_asset_tag = (char *)(uintptr_t) "tag",
        .oem_strings = oem,
    };
    g_autoptr(GByteArray) area = NULL;
    g_autoptr(GError) error = NULL;
    const uint8_t *at, *limit;
    unsigned types[8];
    unsigned n = 0;

    g_ptr_array_add(oem, (gpointer)(uintptr_t) "one");
    g_ptr_array_add(oem, (gpointer)(uintptr_t) "two");
    area = kumo_x86_smbios_new(&platform, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(area->data, 5, "_SM3_", 5);
    g_assert_cmpuint(kumo_acpi_checksum(area->data, 24), ==, 0);
    g_assert_cmphex(get_le(area->data + 16, 8), ==, 0xf0020);
    g_assert_cmpuint(get_le(area->data + 12, 4), ==, area->len - 0x20);
    at = area->data + 0x20;
    limit = area->data + area->len;
    do {
        const uint8_t *structure = at;

        g_assert_cmpuint(n, <, 8);
        g_assert_cmpuint(get_le(at + 2, 2), ==, n); /* handles are unique */
        types[n] = structure[0];
        at = parse_structure(structure, limit, strings);
        switch (structure[0]) {
        case 0:
            g_assert_cmpuint(structure[1], ==, 0x1a);
            g_assert_cmpstr(string_at(strings, structure[4]), ==, "cloud-hypervisor");
            g_assert_cmphex(get_le(structure + 0xa, 8), ==, 0x80);
            g_assert_cmphex(structure[0x13], ==, 0x10);
            break;
        case 1:
            g_assert_cmpuint(structure[1], ==, 0x1b);
            g_assert_cmpstr(string_at(strings, structure[4]), ==, "Cloud Hypervisor");
            g_assert_cmpstr(string_at(strings, structure[5]), ==, "cloud-hypervisor");
            g_assert_cmpstr(string_at(strings, structure[6]), ==, "");
            g_assert_cmpstr(string_at(strings, structure[7]), ==, "serial-1");
            g_assert_cmpmem(structure + 8, 16, uuid, 16);
            g_assert_cmpstr(string_at(strings, structure[0x1a]), ==, "family");
            break;
        case 3:
            g_assert_cmpuint(structure[1], ==, 0x16);
            g_assert_cmpstr(string_at(strings, structure[8]), ==, "tag");
            break;
        case 11:
            g_assert_cmpuint(structure[4], ==, 2);
            g_assert_cmpstr(string_at(strings, 2), ==, "two");
            break;
        default:
            g_assert_cmpuint(structure[0], ==, 127);
            break;
        }
    } while (types[n++] != 127);
    g_assert_true(at == limit);
    g_assert_cmpuint(n, ==, 5);
}

static void test_smbios_refused(void)
{
    g_autoptr(GPtrArray) oem = g_ptr_array_new();
    g_autofree char *longest = g_strnfill(0x10000, 'x');
    KumoPlatformConfig platform = { .oem_strings = oem };
    GByteArray *area;
    g_autoptr(GError) error = NULL;

    platform.system_uuid = (char *)(uintptr_t) "00112233-4455-6677-8899-aabbccddeefg";
    area = kumo_x86_smbios_new(&platform, &error);
    g_assert_null(area);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_clear_error(&error);
    platform.system_uuid = NULL;
    platform.system_version = longest;
    area = kumo_x86_smbios_new(&platform, &error);
    g_assert_null(area);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_clear_error(&error);
    platform.system_version = NULL;
    for (unsigned i = 0; i < 256; i++)
        g_ptr_array_add(oem, (gpointer)(uintptr_t) "s");
    area = kumo_x86_smbios_new(&platform, &error);
    g_assert_null(area);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
}

/* Every entry of an MP table, as a guest without ACPI reads them. */
static void check_mp_table(KumoMemory *memory, uint64_t gpa, const KumoCpusConfig *cpus)
{
    static const unsigned entry_bytes[] = { 20, 8, 8, 8, 8 };
    const uint8_t *pointer = kumo_memory_at(memory, gpa, 16);
    const uint8_t *table, *at, *end;
    unsigned seen[5] = { 0 };
    uint32_t io_apic_id = 0;

    g_assert_cmpmem(pointer, 4, "_MP_", 4);
    g_assert_cmpuint(pointer[8], ==, 1);
    g_assert_cmpuint(pointer[9], ==, 4);
    g_assert_cmpuint(kumo_acpi_checksum(pointer, 16), ==, 0);
    g_assert_cmpuint(get_le(pointer + 11, 5), ==, 0);
    table = kumo_memory_at(memory, get_le(pointer + 4, 4), 44);
    g_assert_cmpmem(table, 4, "PCMP", 4);
    end = table + get_le(table + 4, 2);
    g_assert_nonnull(kumo_memory_at(memory, get_le(pointer + 4, 4), (uint64_t)(end - table)));
    g_assert_cmpuint(kumo_acpi_checksum(table, (size_t)(end - table)), ==, 0);
    g_assert_cmphex(get_le(table + 36, 4), ==, 0xfee00000);
    for (at = table + 44; at < end; at += entry_bytes[at[0]]) {
        g_assert_cmpuint(at[0], <, G_N_ELEMENTS(entry_bytes));
        switch (at[0]) {
        case 0:
            g_assert_cmpuint(at[1], ==, kumo_x86_apic_id(cpus, seen[0]));
            g_assert_cmpuint(at[3], ==, seen[0] == 0 ? 3 : 1);
            io_apic_id = at[1] + 1u;
            break;
        case 1:
            g_assert_cmpuint(at[1], ==, 0);
            g_assert_cmpmem(at + 2, 6, "ISA   ", 6);
            break;
        case 2:
            g_assert_cmpuint(at[1], ==, io_apic_id);
            g_assert_cmpuint(at[3], ==, 1);
            g_assert_cmphex(get_le(at + 4, 4), ==, 0xfec00000);
            break;
        case 3: /* vectored, as ISA has it, interrupt n at pin n */
            g_assert_cmpuint(get_le(at + 1, 4), ==, 0);
            g_assert_cmpuint(at[5], ==, seen[3]);
            g_assert_cmpuint(at[6], ==, io_apic_id);
            g_assert_cmpuint(at[7], ==, seen[3]);
            break;
        default: /* LINT0 of the first takes the external interrupt, LINT1 of all the NMI */
            g_assert_cmpuint(at[1], ==, seen[4] == 0 ? 3 : 1);
            g_assert_cmpuint(at[6], ==, seen[4] == 0 ? 0 : 255);
            g_assert_cmpuint(at[7], ==, seen[4]);
            break;
        }
        seen[at[0]]++;
    }
    g_assert_true(at == end);
    g_assert_cmpuint(seen[0], ==, cpus->boot_vcpus);
    g_assert_cmpuint(seen[1], ==, 1);
    g_assert_cmpuint(seen[2], ==, 1);
    g_assert_cmpuint(seen[3], ==, 16);
    g_assert_cmpuint(seen[4], ==, 2);
    g_assert_cmpuint(get_le(table + 34, 2), ==, cpus->boot_vcpus + 20);
}

static void test_mp_table(void)
{
    static const KumoCpusConfig cases[] = {
        { .boot_vcpus = 1, .max_vcpus = 1 },
        { .boot_vcpus = 3, .max_vcpus = 300 },
        { .boot_vcpus = 254, .max_vcpus = 254 },
        { .boot_vcpus = 6,
          .max_vcpus = 12,
          .has_topology = true,
          .topology = { .threads_per_core = 1,
                        .cores_per_die = 3,
                        .dies_per_package = 2,
                        .packages = 2 } },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, 2 * MIB);
        g_autoptr(GError) error = NULL;

        g_assert_true(kumo_x86_mp_table_write(memory, &cases[i], 0xf0123, &error));
        g_assert_no_error(error);
        check_mp_table(memory, 0xf0130, &cases[i]);
    }
}

/* No table rather than a wrong one, and never one over what is above. */
static void test_mp_table_absent(void)
{
    static const KumoCpusConfig many = { .boot_vcpus = 255, .max_vcpus = 255 };
    static const KumoCpusConfig one = { .boot_vcpus = 1, .max_vcpus = 1 };
    static const uint8_t zeros[0x100];
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, 2 * MIB);
    g_autoptr(GByteArray) table = kumo_x86_mp_table_new(&one, 0xf0000);
    g_autoptr(GError) error = NULL;
    uint64_t last_gpa = (0x100000 - table->len) & ~15ull;

    g_assert_true(kumo_x86_mp_table_write(memory, &many, 0xf0000, &error));
    g_assert_cmpmem(kumo_memory_at(memory, 0xf0000, sizeof(zeros)), sizeof(zeros), zeros,
                    sizeof(zeros));
    g_assert_true(kumo_x86_mp_table_write(memory, &one, last_gpa + 1, &error));
    g_assert_cmpmem(kumo_memory_at(memory, last_gpa, 0x100), 0x100, zeros, 0x100);
    g_assert_true(kumo_x86_mp_table_write(memory, &one, last_gpa - 15, &error));
    check_mp_table(memory, last_gpa, &one);
    g_assert_no_error(error);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/layout/sizes", test_layout);
    g_test_add_func("/layout/refused", test_layout_refused);
    g_test_add_func("/layout/hotplug", test_layout_hotplug);
    g_test_add_func("/layout/memory-map", test_memory_map);
    g_test_add_func("/acpi/tables", test_acpi);
    g_test_add_func("/acpi/pm1a", test_fadt_pm1a);
    g_test_add_func("/acpi/too-long", test_acpi_too_long);
    g_test_add_func("/smbios/parse-back", test_smbios);
    g_test_add_func("/smbios/refused", test_smbios_refused);
    g_test_add_func("/mp-table/parse-back", test_mp_table);
    g_test_add_func("/mp-table/absent", test_mp_table_absent);
    return g_test_run();
}
