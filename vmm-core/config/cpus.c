/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"
#include "vmm-core/config/cpu_features.h"
#include "vmm-core/config/field.h"

enum {
    THREADS_PER_CORE_MAX = 2, /* of x86 */
    PHYS_BITS_MIN = 32,
    PHYS_BITS_MAX = 64, /* the host's width bounds it further */
    PHYS_BITS_DEFAULT = 46,
    HOST_CPU_MAX = 65535,
    FEATURE_NAME_MAX = 64,
};

static const KumoField topology_fields[] = {
    { .json = "threads_per_core",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpuTopology, threads_per_core),
      .def = 1,
      .min = 1,
      .max = THREADS_PER_CORE_MAX },
    { .json = "cores_per_die",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpuTopology, cores_per_die),
      .def = 1,
      .min = 1,
      .max = KUMO_MAX_VCPUS },
    { .json = "dies_per_package",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpuTopology, dies_per_package),
      .def = 1,
      .min = 1,
      .max = KUMO_MAX_VCPUS },
    { .json = "packages",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpuTopology, packages),
      .def = 1,
      .min = 1,
      .max = KUMO_MAX_VCPUS },
};

static const KumoSection topology_section = {
    .fields = topology_fields,
    .n_fields = G_N_ELEMENTS(topology_fields),
    .size = sizeof(KumoCpuTopology),
};

static const KumoField features_fields[] = {
    { .cli = "amx",
      .json = "amx",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoCpuFeatures, amx) },
};

static const KumoSection features_section = {
    .fields = features_fields,
    .n_fields = G_N_ELEMENTS(features_fields),
    .size = sizeof(KumoCpuFeatures),
};

static const KumoField affinity_fields[] = {
    { .json = "vcpu",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpuAffinity, vcpu),
      .max = KUMO_MAX_VCPUS - 1 },
    { .json = "host_cpus",
      .type = KUMO_FIELD_NUMBERS,
      .offset = offsetof(KumoCpuAffinity, host_cpus),
      .max = HOST_CPU_MAX },
};

static const KumoSection affinity_section = {
    .fields = affinity_fields,
    .n_fields = G_N_ELEMENTS(affinity_fields),
    .size = sizeof(KumoCpuAffinity),
};

static const KumoEnumName core_scheduling_names[] = {
    { .cli = "vm", .json = "Vm", .value = KUMO_CORE_SCHEDULING_VM },
    { .cli = "vcpu", .json = "Vcpu", .value = KUMO_CORE_SCHEDULING_VCPU },
    { .cli = "off", .json = "Off", .value = KUMO_CORE_SCHEDULING_OFF },
    { 0 },
};

static const KumoField cpus_fields[] = {
    { .cli = "boot",
      .json = "boot_vcpus",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpusConfig, boot_vcpus),
      .def = 1,
      .min = 1,
      .max = KUMO_MAX_VCPUS },
    { .cli = "max",
      .json = "max_vcpus",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpusConfig, max_vcpus),
      .min = 1,
      .max = KUMO_MAX_VCPUS },
    { .cli = "topology",
      .json = "topology",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoCpusConfig, topology),
      .present_offset = offsetof(KumoCpusConfig, has_topology),
      .section = &topology_section },
    { .cli = "max_phys_bits",
      .json = "max_phys_bits",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoCpusConfig, max_phys_bits),
      .def = PHYS_BITS_DEFAULT,
      .min = PHYS_BITS_MIN,
      .max = PHYS_BITS_MAX },
    { .cli = "nested",
      .json = "nested",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoCpusConfig, nested),
      .def = true },
    { .cli = "kvm_hyperv",
      .json = "kvm_hyperv",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoCpusConfig, kvm_hyperv) },
    { .cli = "affinity",
      .json = "affinity",
      .host = true,
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoCpusConfig, affinity),
      .section = &affinity_section },
    { .cli = "features",
      .json = "features",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoCpusConfig, features),
      .flags = true,
      .optional = true,
      .section = &features_section },
    { .cli = "core_scheduling",
      .json = "core_scheduling",
      .host = true,
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoCpusConfig, core_scheduling),
      .def = KUMO_CORE_SCHEDULING_VM,
      .names = core_scheduling_names },
    { .cli = "cpu_mask",
      .json = "cpu_mask",
      .type = KUMO_FIELD_STRINGS,
      .offset = offsetof(KumoCpusConfig, cpu_mask),
      .max = FEATURE_NAME_MAX },
    { .cli = "profile", .json = "profile", .type = KUMO_FIELD_NOT_YET, .json_default = "\"Host\"" },
};

bool kumo_cpus_can_run_hyperv(const KumoCpusConfig *cpus)
{
    return cpus->nested && cpus->kvm_hyperv;
}

static void cpus_finish(void *object)
{
    KumoCpusConfig *cpus = object;

    if (!cpus->max_vcpus)
        cpus->max_vcpus = cpus->boot_vcpus;
}

static bool check_affinity(const KumoCpusConfig *cpus, const char *path, GError **error)
{
    g_autofree bool *seen = g_new0(bool, cpus->max_vcpus);

    for (guint i = 0; i < cpus->affinity->len; i++) {
        const KumoCpuAffinity *affinity = cpus->affinity->pdata[i];

        if (affinity->vcpu >= cpus->max_vcpus) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.affinity[%u].vcpu: %u is not allowed, must be below max_vcpus, %u",
                        path, i, affinity->vcpu, cpus->max_vcpus);
            return false;
        }
        if (seen[affinity->vcpu]) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.affinity[%u].vcpu: %u is given twice", path, i, affinity->vcpu);
            return false;
        }
        if (!affinity->host_cpus->len) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.affinity[%u].host_cpus: [] is not allowed, must not be empty", path, i);
            return false;
        }
        seen[affinity->vcpu] = true;
    }
    return true;
}

static bool check_mask(const KumoCpusConfig *cpus, const char *path, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < cpus->cpu_mask->len; i++) {
        char *item = cpus->cpu_mask->pdata[i];
        bool sign = *item == '-' || *item == '+';
        unsigned bit;
        g_autofree char *shown = NULL;

        if (sign && kumo_cpu_feature_find(item + 1, &bit) && g_hash_table_add(seen, item + 1))
            continue;
        shown = kumo_quote_value(item);
        if (!sign)
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.cpu_mask[%u]: %s is not allowed, must be - or + and the name of a "
                        "feature",
                        path, i, shown);
        else if (g_hash_table_contains(seen, item + 1))
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.cpu_mask[%u]: %s: the feature is given twice", path, i, shown);
        else
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.cpu_mask[%u]: %s: no processor feature has this name", path, i, shown);
        return false;
    }
    return true;
}

static bool cpus_validate(const void *object, const char *path, GError **error)
{
    const KumoCpusConfig *cpus = object;
    const KumoCpuTopology *topology = &cpus->topology;
    uint64_t product;

    if (cpus->max_vcpus < cpus->boot_vcpus) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.max_vcpus: %u is not allowed, must be at least boot_vcpus, %u", path,
                    cpus->max_vcpus, cpus->boot_vcpus);
        return false;
    }
    if (!check_affinity(cpus, path, error) || !check_mask(cpus, path, error))
        return false;
    if (!cpus->has_topology)
        return true;
    /* Each factor is at most 8192 = 2^13, so nothing overflows. */
    product = (uint64_t)topology->threads_per_core * topology->cores_per_die *
              topology->dies_per_package * topology->packages;
    if (product != cpus->max_vcpus) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.topology: %u:%u:%u:%u makes %" G_GUINT64_FORMAT
                    " vCPUs, must make max_vcpus, %u",
                    path, topology->threads_per_core, topology->cores_per_die,
                    topology->dies_per_package, topology->packages, product, cpus->max_vcpus);
        return false;
    }
    return true;
}

const KumoSection kumo_cpus_section = {
    .option = "cpus",
    .fields = cpus_fields,
    .n_fields = G_N_ELEMENTS(cpus_fields),
    .size = sizeof(KumoCpusConfig),
    .finish = cpus_finish,
    .validate = cpus_validate,
};
