/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/cpuid.h"

#include <string.h>

static void add(GArray *leaves, uint32_t leaf, uint32_t subleaf, bool matters, uint32_t eax,
                uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    KumoHvCpuid entry = { leaf, subleaf, matters, eax, ebx, ecx, edx };

    g_array_append_val(leaves, entry);
}

static void add_vendor(GArray *leaves, uint32_t max, const char *vendor)
{
    uint32_t regs[3];

    memcpy(regs, vendor, 12);
    add(leaves, 0, 0, false, max, regs[0], regs[2], regs[1]);
}

static GArray *intel(void)
{
    GArray *leaves = g_array_new(FALSE, FALSE, sizeof(KumoHvCpuid));

    add_vendor(leaves, 0x20, "GenuineIntel");
    add(leaves, 1, 0, false, 0x806f8, 0x07400800, 1u << 5, 1u << 28);
    add(leaves, 4, 0, true, 0xfc004121, 0, 0, 0); /* L1 data */
    add(leaves, 4, 3, true, 0xfc1fc163, 0, 0, 0); /* L3 */
    add(leaves, 4, 4, true, 0, 0, 0, 0);
    add(leaves, 7, 0, true, 1, 0, 0, 1u << 22 | 1u << 24 | 1u << 25 | 1u << 10);
    add(leaves, 7, 1, true, 1u << 21 | 1u << 4, 0, 0, 0);
    add(leaves, 0xb, 0, true, 1, 2, 0x100, 7);
    add(leaves, 0xb, 1, true, 6, 64, 0x201, 7);
    add(leaves, 0xd, 0, true, 0x602e7, 11008, 11008, 0);
    add(leaves, 0xd, 1, true, 0x1f, 0, 0x1900, 0);
    add(leaves, 0xd, 2, true, 256, 576, 0, 0);
    add(leaves, 0xd, 9, true, 8, 2688, 0, 0);
    add(leaves, 0xd, 17, true, 64, 2752, 2, 0);
    add(leaves, 0xd, 18, true, 8192, 2816, 6, 0);
    add(leaves, 0x1d, 0, true, 1, 0, 0, 0);
    add(leaves, 0x40000000, 0, false, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
    add(leaves, 0x40000001, 0, false, 0x01000000, 0, 0, 0);
    add(leaves, 0x80000000, 0, false, 0x80000008, 0, 0, 0);
    add(leaves, 0x80000001, 0, false, 0, 0, 1, 0);
    add(leaves, 0x80000008, 0, false, 0x00343934, 0, 0, 0);
    return leaves;
}

static GArray *amd(void)
{
    GArray *leaves = g_array_new(FALSE, FALSE, sizeof(KumoHvCpuid));

    add_vendor(leaves, 0x10, "AuthenticAMD");
    add(leaves, 1, 0, false, 0xa10f11, 0x05100800, 0, 0);
    add(leaves, 0x80000000, 0, false, 0x80000028, 0, 0, 0);
    add(leaves, 0x80000001, 0, false, 0, 0, 1u << 22 | 1u << 2, 0);
    add(leaves, 0x80000008, 0, false, 0x3030, 0, 0x700f, 0);
    add(leaves, 0x8000000a, 0, false, 1, 0x8000, 0, 0xff);
    add(leaves, 0x8000001d, 0, true, 0x4121, 0, 0, 0);
    add(leaves, 0x8000001d, 3, true, 0x3c163, 0, 0, 0);
    add(leaves, 0x8000001e, 0, false, 5, 0x102, 3, 0);
    add(leaves, 0x80000026, 0, true, 1, 2, 0x100, 5);
    return leaves;
}

static const KumoHvCpuid *get(const GArray *leaves, uint32_t leaf, uint32_t subleaf)
{
    const KumoHvCpuid *found = NULL;

    for (guint i = 0; i < leaves->len; i++) {
        const KumoHvCpuid *entry = &g_array_index(leaves, KumoHvCpuid, i);

        if (entry->leaf == leaf && (!entry->subleaf_matters || entry->subleaf == subleaf)) {
            g_assert_null(found); /* no leaf twice */
            found = entry;
        }
    }
    return found;
}

static void assert_level(const GArray *leaves, uint32_t leaf, uint32_t subleaf, uint32_t shift,
                         uint32_t count, uint32_t type, uint32_t apic_id)
{
    const KumoHvCpuid *entry = get(leaves, leaf, subleaf);

    g_assert_nonnull(entry);
    g_assert_cmpuint(entry->eax, ==, shift);
    g_assert_cmpuint(entry->ebx, ==, count);
    g_assert_cmphex(entry->ecx, ==, type << 8 | subleaf);
    g_assert_cmpuint(entry->edx, ==, apic_id);
}

static void test_apic_ids(void)
{
    KumoCpusConfig flat = { .max_vcpus = 4 };
    /* 2 threads, 3 cores in 2 bits, 2 dies, 2 packages */
    KumoCpusConfig deep = { .max_vcpus = 24, .has_topology = true, .topology = { 2, 3, 2, 2 } };
    static const uint32_t expected[] = { 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17 };

    for (uint32_t i = 0; i < 4; i++)
        g_assert_cmpuint(kumo_x86_apic_id(&flat, i), ==, i);
    for (uint32_t i = 0; i < G_N_ELEMENTS(expected); i++)
        g_assert_cmpuint(kumo_x86_apic_id(&deep, i), ==, expected[i]);
}

static void test_intel(void)
{
    KumoCpusConfig cpus = {
        .boot_vcpus = 12, .max_vcpus = 12, .has_topology = true, .topology = { 2, 3, 2, 1 }
    };
    KumoX86CpuidParams params = {
        .cpus = &cpus, .phys_bits = 46, .tsc_khz = 2500000, .hv_caps = KUMO_HV_CAP_MSI_EXT_DEST_ID
    };
    g_autoptr(GArray) leaves = intel();
    const KumoHvCpuid *e;

    kumo_x86_cpuid_complete(leaves, &params);
    kumo_x86_cpuid_set_vcpu(leaves, &cpus, 9); /* die 1, core 0, thread 1 */

    e = get(leaves, 1, 0);
    g_assert_cmpuint(e->ebx >> 24, ==, 9);
    g_assert_cmpuint(e->ebx >> 16 & 0xff, ==, 16);
    g_assert_cmphex(e->ecx, ==, 1u << 31 | 1u << 24 | 1u << 21); /* nested off: no VMX */
    g_assert_cmphex(e->edx, ==, 1u << 28 | 1u << 12);
    assert_level(leaves, 0xb, 0, 1, 2, 1, 9);
    assert_level(leaves, 0xb, 1, 4, 12, 2, 9);
    assert_level(leaves, 0xb, 2, 0, 0, 0, 9);
    assert_level(leaves, 0x1f, 0, 1, 2, 1, 9);
    assert_level(leaves, 0x1f, 1, 3, 6, 2, 9);
    assert_level(leaves, 0x1f, 2, 4, 12, 5, 9);
    assert_level(leaves, 0x1f, 3, 0, 0, 0, 9);
    g_assert_cmphex(get(leaves, 4, 0)->eax, ==, 7u << 26 | 1u << 14 | 0x121);
    g_assert_cmphex(get(leaves, 4, 3)->eax, ==, 7u << 26 | 7u << 14 | 0x163);
    g_assert_cmphex(get(leaves, 4, 4)->eax, ==, 0);

    g_assert_cmphex(get(leaves, 7, 0)->edx, ==, 1u << 10);
    g_assert_cmphex(get(leaves, 7, 1)->eax, ==, 1u << 4);
    g_assert_null(get(leaves, 0x1d, 0));
    g_assert_null(get(leaves, 0xd, 17));
    g_assert_null(get(leaves, 0xd, 18));
    g_assert_cmphex(get(leaves, 0xd, 0)->eax, ==, 0x2e7);
    g_assert_cmpuint(get(leaves, 0xd, 0)->ecx, ==, 2696);

    g_assert_cmphex(get(leaves, 0x80000008, 0)->eax, ==, 0x392e);
    g_assert_cmphex(get(leaves, 0x40000000, 0)->eax, ==, 0x40000010);
    g_assert_cmphex(get(leaves, 0x40000001, 0)->eax, ==, 0x01000000 | 1u << 15);
    g_assert_cmpuint(get(leaves, 0x40000010, 0)->eax, ==, 2500000);
    g_assert_cmpuint(get(leaves, 0x40000010, 0)->ebx, ==, 1000000);
}

static void test_amd(void)
{
    KumoCpusConfig cpus = { .boot_vcpus = 8,
                            .max_vcpus = 8,
                            .has_topology = true,
                            .topology = { 2, 2, 2, 1 },
                            .nested = false };
    KumoX86CpuidParams params = { .cpus = &cpus, .phys_bits = 46 };
    g_autoptr(GArray) leaves = amd();

    kumo_x86_cpuid_complete(leaves, &params);
    kumo_x86_cpuid_set_vcpu(leaves, &cpus, 7);
    g_assert_cmphex(get(leaves, 0x80000001, 0)->ecx, ==, 1u << 22 | 1u << 1);
    g_assert_null(get(leaves, 0x8000000a, 0));
    g_assert_null(get(leaves, 0x80000026, 0));
    g_assert_null(get(leaves, 0x1f, 0));
    g_assert_cmphex(get(leaves, 0x80000008, 0)->eax, ==, 0x302e);
    g_assert_cmphex(get(leaves, 0x80000008, 0)->ecx, ==, 0x3007);
    g_assert_cmphex(get(leaves, 0x8000001d, 0)->eax, ==, 1u << 14 | 0x121);
    g_assert_cmphex(get(leaves, 0x8000001d, 3)->eax, ==, 3u << 14 | 0x163);
    g_assert_cmpuint(get(leaves, 0x8000001e, 0)->eax, ==, 7);
    g_assert_cmphex(get(leaves, 0x8000001e, 0)->ebx, ==, 0x103);
    g_assert_cmphex(get(leaves, 0x8000001e, 0)->ecx, ==, 0x101);
    assert_level(leaves, 0xb, 1, 3, 8, 2, 7);
    g_assert_null(get(leaves, 0x40000010, 0));
}

static void test_one_vcpu(void)
{
    KumoCpusConfig cpus = { .boot_vcpus = 1, .max_vcpus = 1, .nested = true };
    KumoX86CpuidParams params = { .cpus = &cpus, .phys_bits = 40 };
    g_autoptr(GArray) leaves = intel();
    g_autoptr(GArray) amd_leaves = amd();

    kumo_x86_cpuid_complete(leaves, &params);
    kumo_x86_cpuid_set_vcpu(leaves, &cpus, 0);
    g_assert_cmphex(get(leaves, 1, 0)->edx & 1u << 28, ==, 0);
    g_assert_cmphex(get(leaves, 1, 0)->ecx & 1u << 5, !=, 0);
    g_assert_cmpuint(get(leaves, 1, 0)->ebx >> 16, ==, 1);
    assert_level(leaves, 0xb, 0, 0, 1, 1, 0);
    assert_level(leaves, 0xb, 1, 0, 1, 2, 0);
    g_assert_cmphex(get(leaves, 0x40000001, 0)->eax, ==, 0x01000000);
    g_assert_cmphex(get(leaves, 0x40000000, 0)->eax, ==, 0x40000001);

    kumo_x86_cpuid_complete(amd_leaves, &params);
    g_assert_nonnull(get(amd_leaves, 0x8000000a, 0));
    g_assert_cmphex(get(amd_leaves, 0x80000001, 0)->ecx, ==, 1u << 22 | 1u << 2);
}

/* Without topology vCPUs are cores of one package. */
static void test_flat(void)
{
    KumoCpusConfig cpus = { .boot_vcpus = 3, .max_vcpus = 5 };
    KumoX86CpuidParams params = { .cpus = &cpus, .phys_bits = 46 };
    g_autoptr(GArray) leaves = intel();

    kumo_x86_cpuid_complete(leaves, &params);
    kumo_x86_cpuid_set_vcpu(leaves, &cpus, 4);
    assert_level(leaves, 0xb, 0, 0, 1, 1, 4);
    assert_level(leaves, 0xb, 1, 3, 5, 2, 4);
    g_assert_cmpuint(get(leaves, 1, 0)->ebx >> 16, ==, 4 << 8 | 8);
}

static void test_phys_bits(void)
{
    g_autoptr(GArray) leaves = intel();
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(KumoHvCpuid));
    KumoCpusConfig cpus = { .boot_vcpus = 1, .max_vcpus = 1 };
    KumoX86CpuidParams params = { .cpus = &cpus, .phys_bits = 46 };

    g_assert_cmpuint(kumo_x86_cpuid_phys_bits(leaves), ==, 52);
    g_assert_cmpuint(kumo_x86_cpuid_phys_bits(none), ==, 36);
    kumo_x86_cpuid_complete(none, &params); /* a hypervisor that offers nothing is survived */
    kumo_x86_cpuid_set_vcpu(none, &cpus, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpuid/apic-ids", test_apic_ids);
    g_test_add_func("/cpuid/intel", test_intel);
    g_test_add_func("/cpuid/amd", test_amd);
    g_test_add_func("/cpuid/one-vcpu", test_one_vcpu);
    g_test_add_func("/cpuid/flat", test_flat);
    g_test_add_func("/cpuid/phys-bits", test_phys_bits);
    return g_test_run();
}
