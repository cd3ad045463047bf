/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/cpuid_leaves.h"

#include <string.h>

KumoHvCpuid *kumo_x86_cpuid_find(const GArray *leaves, uint32_t leaf, uint32_t subleaf)
{
    for (guint i = 0; i < leaves->len; i++) {
        KumoHvCpuid *entry = &g_array_index(leaves, KumoHvCpuid, i);

        if (entry->leaf == leaf && (!entry->subleaf_matters || entry->subleaf == subleaf))
            return entry;
    }
    return NULL;
}

void kumo_x86_cpuid_drop(GArray *leaves, uint32_t leaf)
{
    for (guint i = leaves->len; i-- > 0;)
        if (g_array_index(leaves, KumoHvCpuid, i).leaf == leaf)
            g_array_remove_index(leaves, i);
}

void kumo_x86_cpuid_add(GArray *leaves, KumoHvCpuid entry)
{
    g_array_append_val(leaves, entry);
}

bool kumo_x86_cpuid_is_amd(const GArray *leaves)
{
    const KumoHvCpuid *vendor = kumo_x86_cpuid_find(leaves, LEAF_VENDOR, 0);

    return vendor && (memcmp(&vendor->ebx, "Auth", 4) == 0 || memcmp(&vendor->ebx, "Hygo", 4) == 0);
}
