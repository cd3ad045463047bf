/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum {
    THREADS_PER_CORE_MAX = 2, /* of x86 */
    PHYS_BITS_MIN = 32,
    PHYS_BITS_MAX = 64, /* the host's width bounds it further */
    PHYS_BITS_DEFAULT = 46,
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
    { .json = "amx", .type = KUMO_FIELD_NOT_YET },
};

static const KumoSection features_section = {
    .fields = features_fields,
    .n_fields = G_N_ELEMENTS(features_fields),
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
    { .cli = "kvm_hyperv", .json = "kvm_hyperv", .type = KUMO_FIELD_NOT_YET },
    { .cli = "affinity", .json = "affinity", .type = KUMO_FIELD_NOT_YET },
    { .cli = "features",
      .json = "features",
      .type = KUMO_FIELD_NOT_YET,
      .section = &features_section },
    { .cli = "core_scheduling",
      .json = "core_scheduling",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "\"Vm\"" },
    { .cli = "profile", .json = "profile", .type = KUMO_FIELD_NOT_YET, .json_default = "\"Host\"" },
};

static void cpus_finish(void *object)
{
    KumoCpusConfig *cpus = object;

    if (!cpus->max_vcpus)
        cpus->max_vcpus = cpus->boot_vcpus;
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
    if (!cpus->has_topology)
        return true;
    /* Each factor is at most 254, so nothing overflows. */
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
