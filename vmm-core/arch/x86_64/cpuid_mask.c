/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Features that the configuration hides or shows, and the processor states that go with them. */
#include "vmm-core/arch/x86_64/cpuid_leaves.h"
#include "vmm-core/config/cpu_features.h"

enum {
    XSAVE_LEGACY_END = 512 + 64, /* legacy area and header */
    SUBLEAF_SUPERVISOR = 1,      /* of LEAF_XSAVE: its ECX has the supervisor's states */
    FIRST_STATE = 2,             /* x87 and SSE have no subleaf */
};

/* Bits of 0x80000001 EDX that AMD's processors repeat from leaf 1 EDX (AMD APM volume 3, E.4.2). */
#define AMD_REPEATED 0x0183f3ffu

/* State components (Intel SDM volume 1, 13.1) and the feature without which a guest has no use for
 * them. */
static const struct {
    unsigned component;
    const char *feature;
} xstates[] = {
    { 2, "avx" },       { 3, "mpx" },       { 4, "mpx" },       { 5, "avx512f" }, { 6, "avx512f" },
    { 7, "avx512f" },   { 9, "pku" },       { 11, "shstk" },    { 12, "shstk" },  { 14, "uintr" },
    { 15, "arch-lbr" }, { 17, "amx-tile" }, { 18, "amx-tile" },
};

static uint32_t *register_of(KumoHvCpuid *entry, KumoCpuidRegister reg)
{
    switch (reg) {
    case KUMO_CPUID_EAX:
        return &entry->eax;
    case KUMO_CPUID_EBX:
        return &entry->ebx;
    case KUMO_CPUID_ECX:
        return &entry->ecx;
    case KUMO_CPUID_EDX:
        return &entry->edx;
    case KUMO_CPUID_MSR:
        break;
    }
    return NULL;
}

static KumoHvCpuid *entry_of(const GArray *leaves, const KumoCpuFeatureWord *word)
{
    return kumo_x86_cpuid_find(leaves, word->leaf, word->subleaf);
}

bool kumo_x86_cpuid_has(const GArray *leaves, const char *name)
{
    unsigned bit = 0;
    const KumoCpuFeatureWord *word = kumo_cpu_feature_find(name, &bit);
    KumoHvCpuid *entry = word && word->reg != KUMO_CPUID_MSR ? entry_of(leaves, word) : NULL;

    return entry && (*register_of(entry, word->reg) & BIT(bit));
}

static void hide(GArray *leaves, const KumoCpuFeatureWord *word, unsigned bit)
{
    KumoHvCpuid *entry = entry_of(leaves, word);

    if (entry)
        *register_of(entry, word->reg) &= ~BIT(bit);
    if (word->leaf == LEAF_FEATURES && word->reg == KUMO_CPUID_EDX && (AMD_REPEATED & BIT(bit)) &&
        kumo_x86_cpuid_is_amd(leaves)) {
        entry = kumo_x86_cpuid_find(leaves, LEAF_AMD_FEATURES, 0);
        if (entry)
            entry->edx &= ~BIT(bit);
    }
}

static void show(GArray *leaves, const KumoCpuFeatureWord *word, unsigned bit)
{
    KumoHvCpuid *entry = entry_of(leaves, word);
    KumoHvCpuid *max;

    if (!entry) {
        kumo_x86_cpuid_add(leaves, (KumoHvCpuid){ .leaf = word->leaf,
                                                  .subleaf = word->subleaf,
                                                  .subleaf_matters = word->subleaf_matters });
        entry = entry_of(leaves, word);
        /* A guest looks no further than the highest leaf that it is told of. */
        max = kumo_x86_cpuid_find(leaves, word->leaf & LEAF_AMD_MAX, 0);
        if (max)
            max->eax = MAX(max->eax, word->leaf);
    }
    *register_of(entry, word->reg) |= BIT(bit);
}

void kumo_x86_cpuid_apply_mask(GArray *leaves, const KumoCpusConfig *cpus)
{
    for (guint i = 0; cpus->cpu_mask && i < cpus->cpu_mask->len; i++) {
        const char *item = cpus->cpu_mask->pdata[i];
        unsigned bit = 0;
        const KumoCpuFeatureWord *word = kumo_cpu_feature_find(item + 1, &bit);

        if (!word || word->reg == KUMO_CPUID_MSR)
            continue;
        if (*item == '-')
            hide(leaves, word, bit);
        else
            show(leaves, word, bit);
    }
}

unsigned kumo_x86_msr_masks(const KumoCpusConfig *cpus, KumoX86MsrMask ret[KUMO_X86_MSR_MASKS_MAX])
{
    unsigned n = 0;

    for (guint i = 0; cpus->cpu_mask && i < cpus->cpu_mask->len; i++) {
        const char *item = cpus->cpu_mask->pdata[i];
        unsigned bit = 0;
        unsigned at = 0;
        const KumoCpuFeatureWord *word = kumo_cpu_feature_find(item + 1, &bit);

        if (!word || word->reg != KUMO_CPUID_MSR)
            continue;
        while (at < n && ret[at].index != word->leaf)
            at++;
        if (at == KUMO_X86_MSR_MASKS_MAX)
            continue;
        if (at == n)
            ret[n++] = (KumoX86MsrMask){ .index = word->leaf };
        *(*item == '-' ? &ret[at].hidden : &ret[at].shown) |= 1ull << bit;
    }
    return n;
}

void kumo_x86_cpuid_hide_amx(GArray *leaves)
{
    static const char *const features[] = { "amx-bf16", "amx-tile", "amx-int8", "amx-fp16",
                                            "amx-complex" };

    for (unsigned i = 0; i < G_N_ELEMENTS(features); i++) {
        unsigned bit = 0;
        const KumoCpuFeatureWord *word = kumo_cpu_feature_find(features[i], &bit);

        hide(leaves, word, bit);
    }
    kumo_x86_cpuid_drop(leaves, LEAF_TILE);
    kumo_x86_cpuid_drop(leaves, LEAF_TMUL);
}

static uint64_t unwanted_states(const GArray *leaves)
{
    uint64_t unwanted = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(xstates); i++) {
        /* Indirect branch tracking and shadow stacks have their states in common. */
        if (!kumo_x86_cpuid_has(leaves, xstates[i].feature) &&
            !(xstates[i].component == 11 && kumo_x86_cpuid_has(leaves, "ibt")))
            unwanted |= 1ull << xstates[i].component;
    }
    return unwanted;
}

void kumo_x86_cpuid_trim_xstates(GArray *leaves)
{
    KumoHvCpuid *user = kumo_x86_cpuid_find(leaves, LEAF_XSAVE, 0);
    KumoHvCpuid *supervisor = kumo_x86_cpuid_find(leaves, LEAF_XSAVE, SUBLEAF_SUPERVISOR);
    uint64_t unwanted = unwanted_states(leaves);
    uint64_t present;
    uint32_t end = XSAVE_LEGACY_END;

    if (!user)
        return;
    if (!kumo_x86_cpuid_has(leaves, "xsave")) {
        kumo_x86_cpuid_drop(leaves, LEAF_XSAVE);
        return;
    }
    present = user->eax | (uint64_t)user->edx << 32;
    if (supervisor)
        present |= supervisor->ecx | (uint64_t)supervisor->edx << 32;
    if (!(present & unwanted))
        return;
    user->eax &= ~(uint32_t)unwanted;
    if (supervisor)
        supervisor->ecx &= ~(uint32_t)unwanted;
    for (guint i = leaves->len; i-- > 0;) {
        const KumoHvCpuid *entry = &g_array_index(leaves, KumoHvCpuid, i);

        if (entry->leaf != LEAF_XSAVE || entry->subleaf < FIRST_STATE)
            continue;
        if (entry->subleaf < 64 && (unwanted & 1ull << entry->subleaf))
            g_array_remove_index(leaves, i);
        else if (!(entry->ecx & 1)) /* of XCR0, not of the supervisor's states */
            end = MAX(end, entry->ebx + entry->eax);
    }
    kumo_x86_cpuid_find(leaves, LEAF_XSAVE, 0)->ecx = end;
}
