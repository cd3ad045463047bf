/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

#define MEMORY_PAGE_BYTES    ((uint64_t)4096)
#define MEMORY_DEFAULT_BYTES ((uint64_t)512 << 20)
#define MEMORY_MAX_BYTES     ((uint64_t)1 << 52) /* the widest physical address of x86 */
#define HUGEPAGE_MIN_BYTES   ((uint64_t)64 << 10)
#define HUGEPAGE_MAX_BYTES   ((uint64_t)16 << 30)

static const KumoField memory_fields[] = {
    { .cli = "size",
      .json = "size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryConfig, size_bytes),
      .def = MEMORY_DEFAULT_BYTES,
      .max = MEMORY_MAX_BYTES },
    { .cli = "mergeable",
      .json = "mergeable",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, mergeable) },
    { .cli = "shared",
      .json = "shared",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, shared) },
    { .cli = "hugepages",
      .json = "hugepages",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, hugepages) },
    { .cli = "hugepage_size",
      .json = "hugepage_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryConfig, hugepage_size_bytes),
      .min = HUGEPAGE_MIN_BYTES,
      .max = HUGEPAGE_MAX_BYTES,
      .pow2 = true,
      .optional = true },
    { .cli = "prefault",
      .json = "prefault",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, prefault) },
    { .cli = "reserve",
      .json = "reserve",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, reserve) },
    { .cli = "thp",
      .json = "thp",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, thp),
      .def = true },
    { .cli = "hotplug_method",
      .json = "hotplug_method",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "\"Acpi\"" },
    { .cli = "hotplug_size", .json = "hotplug_size", .type = KUMO_FIELD_NOT_YET },
    { .cli = "hotplugged_size", .json = "hotplugged_size", .type = KUMO_FIELD_NOT_YET },
    { .json = "zones", .type = KUMO_FIELD_NOT_YET },
};

static bool memory_validate(const void *object, const char *path, GError **error)
{
    const KumoMemoryConfig *memory = object;
    uint64_t page = memory->hugepages && memory->hugepage_size_bytes ? memory->hugepage_size_bytes
                                                                     : MEMORY_PAGE_BYTES;

    if (!memory->size_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "%s.size: 0 leaves the memory to memory zones, which are not supported yet",
                    path);
        return false;
    }
    if (memory->hugepage_size_bytes && !memory->hugepages) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.hugepage_size: %" G_GUINT64_FORMAT " needs hugepages, which is off", path,
                    memory->hugepage_size_bytes);
        return false;
    }
    if (memory->size_bytes % page) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.size: %" G_GUINT64_FORMAT
                    " is not allowed, must be a multiple of the page size, %" G_GUINT64_FORMAT,
                    path, memory->size_bytes, page);
        return false;
    }
    if (memory->shared && memory->mergeable) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: shared and mergeable exclude each other", path);
        return false;
    }
    return true;
}

const KumoSection kumo_memory_section = {
    .option = "memory",
    .fields = memory_fields,
    .n_fields = G_N_ELEMENTS(memory_fields),
    .size = sizeof(KumoMemoryConfig),
    .validate = memory_validate,
};
