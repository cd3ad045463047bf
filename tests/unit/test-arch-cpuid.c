/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/cpuid.h"

#include <stdlib.h>
#include <string.h>

#include "vmm-core/config/cpu_features.h"

enum { SHOW_XSAVE = 1 << 26 | 1 << 28 }; /* and AVX */

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
    add(leaves, 1, 0, false, 0x806f8, 0x07400800, 1u << 5 | SHOW_XSAVE, 1u << 28);
    add(leaves, 4, 0, true, 0xfc004121, 0, 0, 0); /* L1 data */
    add(leaves, 4, 3, true, 0xfc1fc163, 0, 0, 0); /* L3 */
    add(leaves, 4, 4, true, 0, 0, 0, 0);
    add(leaves, 7, 0, true, 1, 1u << 16, 1u << 3, 1u << 22 | 1u << 24 | 1u << 25 | 1u << 10);
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
    g_assert_cmphex(e->ecx, ==,
                    1u << 31 | 1u << 24 | 1u << 21 | SHOW_XSAVE); /* nested off: no VMX */
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

/* With a mask of @items, NULL-terminated. */
static GArray *masked(GArray *leaves, const char *const *items, bool amx, bool hyperv)
{
    g_autoptr(GPtrArray) mask = g_ptr_array_new();
    KumoCpusConfig cpus = { .boot_vcpus = 2,
                            .max_vcpus = 2,
                            .nested = true,
                            .features.amx = amx,
                            .kvm_hyperv = hyperv,
                            .cpu_mask = mask };
    KumoX86CpuidParams params = { .cpus = &cpus, .phys_bits = 46, .tsc_khz = 1000 };

    for (unsigned i = 0; items[i]; i++)
        g_ptr_array_add(mask, (void *)(uintptr_t)items[i]);
    kumo_x86_cpuid_complete(leaves, &params);
    return leaves;
}

static void test_amx(void)
{
    static const char *const none[] = { NULL };
    static const char *const no_tiles[] = { "-amx-tile", NULL };
    g_autoptr(GArray) with = masked(intel(), none, true, false);
    g_autoptr(GArray) without = masked(intel(), no_tiles, true, false);

    g_assert_true(kumo_x86_cpuid_has(with, "amx-tile"));
    g_assert_cmphex(get(with, 0xd, 0)->eax, ==, 0x602e7);
    g_assert_nonnull(get(with, 0xd, 18));
    g_assert_nonnull(get(with, 0x1d, 0));
    g_assert_cmphex(get(without, 0xd, 0)->eax, ==, 0x2e7);
    g_assert_true(kumo_x86_cpuid_has(without, "amx-int8"));
}

static void test_mask(void)
{
    static const char *const items[] = { "-avx512f",  "-pku",      "+invtsc",     "-arat",
                                         "-rdctl-no", "+md-clear", "-hypervisor", NULL };
    static const char *const fpu[] = { "-fpu", "+svm", NULL };
    static const char *const xsave[] = { "-xsave", NULL };
    g_autoptr(GArray) leaves = masked(intel(), items, false, false);
    g_autoptr(GArray) amd_leaves = amd();
    g_autoptr(GArray) legacy = masked(intel(), xsave, false, false);

    /* Without AVX-512 and protection keys their states go, and the area ends after AVX. */
    g_assert_false(kumo_x86_cpuid_has(leaves, "avx512f"));
    g_assert_cmphex(get(leaves, 0xd, 0)->eax, ==, 7);
    g_assert_cmpuint(get(leaves, 0xd, 0)->ecx, ==, 576 + 256);
    g_assert_null(get(leaves, 0xd, 9));
    g_assert_nonnull(get(leaves, 0xd, 2));
    /* A leaf that the hypervisor did not offer, below the highest one. */
    g_assert_cmphex(get(leaves, 0x80000007, 0)->edx, ==, 1u << 8);
    g_assert_cmphex(get(leaves, 0x80000000, 0)->eax, ==, 0x80000008);
    g_assert_null(get(leaves, 6, 0));
    g_assert_true(kumo_x86_cpuid_has(leaves, "md-clear"));
    /* What is set for every guest can be hidden as well. */
    g_assert_false(kumo_x86_cpuid_has(leaves, "hypervisor"));

    g_array_index(amd_leaves, KumoHvCpuid, 1).edx = 3;
    g_array_index(amd_leaves, KumoHvCpuid, 3).edx = 3;
    masked(amd_leaves, fpu, false, false);
    g_assert_cmphex(get(amd_leaves, 1, 0)->edx & 3, ==, 2);
    g_assert_cmphex(get(amd_leaves, 0x80000001, 0)->edx, ==, 2); /* AMD repeats the bit */
    g_assert_true(kumo_x86_cpuid_has(amd_leaves, "svm"));

    g_assert_null(get(legacy, 0xd, 0));
    g_assert_null(get(legacy, 0xd, 1));
}

static void test_msr_mask(void)
{
    GPtrArray *mask = g_ptr_array_new();
    KumoCpusConfig cpus = { .cpu_mask = mask };
    KumoX86MsrMask masks[KUMO_X86_MSR_MASKS_MAX];

    g_ptr_array_add(mask, (char[]){ "-taa-no" });
    g_ptr_array_add(mask, (char[]){ "-avx" });
    g_ptr_array_add(mask, (char[]){ "+mds-no" });
    g_ptr_array_add(mask, (char[]){ "-split-lock-detect" });
    g_assert_cmpuint(kumo_x86_msr_masks(&cpus, masks), ==, 2);
    g_assert_cmphex(masks[0].index, ==, 0x10a);
    g_assert_cmphex(masks[0].hidden, ==, 1 << 8);
    g_assert_cmphex(masks[0].shown, ==, 1 << 5);
    g_assert_cmphex(masks[1].index, ==, 0xcf);
    g_assert_cmphex(masks[1].hidden, ==, 1 << 5);
    g_ptr_array_unref(mask);
}

static void test_hyperv(void)
{
    static const char *const none[] = { NULL };
    g_autoptr(GArray) leaves = masked(intel(), none, false, true);
    const KumoHvCpuid *vendor = get(leaves, 0x40000000, 0);

    g_assert_cmphex(vendor->eax, ==, 0x4000000a);
    g_assert_cmpmem(&vendor->ebx, 4, "Linu", 4);
    g_assert_cmpmem(&vendor->ecx, 4, "x KV", 4);
    g_assert_cmpmem(&vendor->edx, 4, "M Hv", 4);
    g_assert_cmpmem(&get(leaves, 0x40000001, 0)->eax, 4, "Hv#1", 4);
    g_assert_cmpuint(get(leaves, 0x40000002, 0)->eax, ==, 14393);
    g_assert_cmphex(get(leaves, 0x40000002, 0)->ebx, ==, 0xa0000);
    g_assert_cmphex(get(leaves, 0x40000003, 0)->eax, ==, 0xa7f);
    g_assert_cmphex(get(leaves, 0x40000003, 0)->edx, ==, 0x4118);
    g_assert_cmphex(get(leaves, 0x40000004, 0)->eax, ==, 0xe2e);
    g_assert_cmphex(get(leaves, 0x40000004, 0)->ebx, ==, 0xfff);
    g_assert_cmpuint(get(leaves, 0x40000005, 0)->eax, ==, 2);
    g_assert_cmpuint(get(leaves, 0x40000005, 0)->ebx, ==, 2);
    for (uint32_t leaf = 0x40000006; leaf <= 0x4000000a; leaf++)
        g_assert_nonnull(get(leaves, leaf, 0));
    /* KVM's own leaves are behind, with the highest of them told right. */
    g_assert_cmphex(get(leaves, 0x40000100, 0)->ebx, ==, 0x4b4d564b);
    g_assert_cmphex(get(leaves, 0x40000100, 0)->eax, ==, 0x40000110);
    g_assert_cmphex(get(leaves, 0x40000101, 0)->eax, ==, 0x01000000);
    g_assert_cmpuint(get(leaves, 0x40000110, 0)->eax, ==, 1000);
}

/* No name twice, and each found in its place. */
static void test_feature_names(void)
{
    unsigned bit;

    for (unsigned i = 0; i < kumo_n_cpu_feature_words; i++) {
        const KumoCpuFeatureWord *word = &kumo_cpu_feature_words[i];

        for (unsigned n = 0; n < G_N_ELEMENTS(word->names); n++) {
            if (!word->names[n])
                continue;
            bit = 99;
            if (kumo_cpu_feature_find(word->names[n], &bit) != word || bit != n)
                g_error("%s stands twice", word->names[n]);
        }
    }
    g_assert_null(kumo_cpu_feature_find("", &bit));
    g_assert_null(kumo_cpu_feature_find("AVX", &bit));
}

typedef struct {
    char *name;
    unsigned n_checked;
} MapReader;

static unsigned long attribute(const char **names, const char **values, const char *name)
{
    for (unsigned i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return strtoul(values[i], NULL, 0);
    return 0;
}

static void map_element(GMarkupParseContext *context, const char *element, const char **names,
                        const char **values, void *opaque, GError **error)
{
    static const char *const registers[] = { "eax", "ebx", "ecx", "edx" };
    MapReader *reader = opaque;
    bool msr = strcmp(element, "msr") == 0;

    if (strcmp(element, "feature") == 0) {
        for (unsigned i = 0; names[i]; i++) {
            if (strcmp(names[i], "name") == 0) {
                g_free(reader->name);
                reader->name = g_strdup(values[i]);
            }
        }
        return;
    }
    if (!msr && strcmp(element, "cpuid") != 0)
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(registers); i++) {
        unsigned long bits = attribute(names, values, registers[i]);
        unsigned bit = 0;
        const KumoCpuFeatureWord *word;

        /* Not of a fixed bit, or of a register that no guest of ours has (VMX capabilities). */
        if (!bits || (msr && attribute(names, values, "index") >= 0x480))
            continue;
        word = kumo_cpu_feature_find(reader->name, &bit);
        if (!word || bits != 1ul << bit ||
            word->leaf != attribute(names, values, msr ? "index" : "eax_in") ||
            word->subleaf != attribute(names, values, "ecx_in") ||
            word->reg != (msr ? KUMO_CPUID_MSR : (KumoCpuidRegister)i))
            g_error("%s is elsewhere in libvirt's map", reader->name);
        reader->n_checked++;
    }
}

/* The installed libvirt's names mean the same bits here. */
static void test_libvirt_names(void)
{
    static const GMarkupParser parser = { .start_element = map_element };
    g_autofree char *text = NULL;
    MapReader reader = { 0 };
    GMarkupParseContext *context;
    g_autoptr(GError) error = NULL;
    gsize len = 0;

    if (!g_file_get_contents("/usr/share/libvirt/cpu_map/x86_features.xml", &text, &len, NULL)) {
        g_test_skip("libvirt's CPU map is not installed");
        return;
    }
    context = g_markup_parse_context_new(&parser, 0, &reader, NULL);
    g_assert_true(g_markup_parse_context_parse(context, text, (gssize)len, &error));
    g_markup_parse_context_free(context);
    g_free(reader.name);
    g_assert_cmpuint(reader.n_checked, >, 200);
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
    g_test_add_func("/cpuid/amx", test_amx);
    g_test_add_func("/cpuid/mask", test_mask);
    g_test_add_func("/cpuid/msr-mask", test_msr_mask);
    g_test_add_func("/cpuid/hyperv", test_hyperv);
    g_test_add_func("/cpuid/feature-names", test_feature_names);
    g_test_add_func("/cpuid/libvirt-names", test_libvirt_names);
    return g_test_run();
}
