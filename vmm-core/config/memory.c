/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

#define MEMORY_PAGE_BYTES    ((uint64_t)4096)
#define MEMORY_DEFAULT_BYTES ((uint64_t)512 << 20)
#define MEMORY_MAX_BYTES     ((uint64_t)1 << 52) /* the widest physical address of x86 */
#define HUGEPAGE_MIN_BYTES   ((uint64_t)64 << 10)
#define HUGEPAGE_MAX_BYTES   ((uint64_t)16 << 30)
/* A block of memory as Linux adds it to a small machine, and the reference's alignment. */
#define HOTPLUG_ALIGN ((uint64_t)128 << 20)
/* Of an unknown huge page: none that a host may have by default is larger. */
#define HUGEPAGE_ALIGN   ((uint64_t)1 << 30)
#define VIRTIO_MEM_BLOCK ((uint64_t)2 << 20)

enum { HOST_NODE_MAX = 1023 /* of Linux */, PCI_SLOT_MAX = 31 };

static const KumoField virtio_mem_fields[] = {
    { .cli = "hotplugged_size",
      .json = "hotplugged_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoVirtioMemConfig, plugged_bytes),
      .max = MEMORY_MAX_BYTES,
      .optional = true },
    /* More than Cloud Hypervisor has: a restored guest finds the device where it was. */
    { .cli = "pci_device_id",
      .json = "pci_device_id",
      .chosen = true,
      .type = KUMO_FIELD_SLOT,
      .offset = offsetof(KumoVirtioMemConfig, pci.pci_device_id),
      .min = 1,
      .max = PCI_SLOT_MAX },
    { .type = KUMO_FIELD_STRING, .offset = offsetof(KumoVirtioMemConfig, pci.id) },
};

static const KumoSection virtio_mem_section = {
    .fields = virtio_mem_fields,
    .n_fields = G_N_ELEMENTS(virtio_mem_fields),
    .size = sizeof(KumoVirtioMemConfig),
};

static const KumoEnumName hotplug_method_names[] = {
    { .cli = "acpi", .json = "Acpi", .value = KUMO_HOTPLUG_METHOD_ACPI },
    { .cli = "virtio-mem", .json = "VirtioMem", .value = KUMO_HOTPLUG_METHOD_VIRTIO_MEM },
    { NULL },
};

static const KumoField memory_fields[] = {
    { .cli = "size",
      .json = "size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryConfig, size_bytes),
      .def = MEMORY_DEFAULT_BYTES,
      .max = MEMORY_MAX_BYTES },
    { .cli = "mergeable",
      .json = "mergeable",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, mergeable) },
    { .cli = "shared",
      .json = "shared",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, shared) },
    { .cli = "hugepages",
      .json = "hugepages",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, hugepages) },
    { .cli = "hugepage_size",
      .json = "hugepage_size",
      .host = true,
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryConfig, hugepage_size_bytes),
      .min = HUGEPAGE_MIN_BYTES,
      .max = HUGEPAGE_MAX_BYTES,
      .pow2 = true,
      .optional = true },
    { .cli = "prefault",
      .json = "prefault",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, prefault) },
    { .cli = "reserve",
      .json = "reserve",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, reserve) },
    { .cli = "thp",
      .json = "thp",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, thp),
      .def = true },
    /* More than Cloud Hypervisor has. They hold for all zones, like thp. */
    { .cli = "lock",
      .json = "lock",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryConfig, lock) },
    { .cli = "prefault_threads",
      .json = "prefault_threads",
      .host = true,
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoMemoryConfig, prefault_threads),
      .max = KUMO_PREFAULT_THREADS_MAX },
    { .cli = "hotplug_method",
      .json = "hotplug_method",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoMemoryConfig, hotplug_method),
      .def = KUMO_HOTPLUG_METHOD_ACPI,
      .names = hotplug_method_names },
    { .cli = "hotplug_size",
      .json = "hotplug_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryConfig, hotplug_size_bytes),
      .max = MEMORY_MAX_BYTES,
      .optional = true },
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoMemoryConfig, virtio_mem),
      .section = &virtio_mem_section },
    { .json = "zones",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoMemoryConfig, zones),
      .section = &kumo_memory_zone_section },
};

static const KumoField zone_fields[] = {
    { .cli = "id",
      .json = "id",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoMemoryZoneConfig, id),
      .max = KUMO_ID_MAX },
    { .cli = "size",
      .json = "size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryZoneConfig, size_bytes),
      .def = MEMORY_DEFAULT_BYTES,
      .min = MEMORY_PAGE_BYTES,
      .max = MEMORY_MAX_BYTES },
    { .cli = "file",
      .json = "file",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoMemoryZoneConfig, file) },
    { .cli = "shared",
      .json = "shared",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryZoneConfig, shared) },
    { .cli = "hugepages",
      .json = "hugepages",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryZoneConfig, hugepages) },
    { .cli = "hugepage_size",
      .json = "hugepage_size",
      .host = true,
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryZoneConfig, hugepage_size_bytes),
      .min = HUGEPAGE_MIN_BYTES,
      .max = HUGEPAGE_MAX_BYTES,
      .pow2 = true,
      .optional = true },
    { .cli = "host_numa_node",
      .json = "host_numa_node",
      .host = true,
      .type = KUMO_FIELD_SLOT,
      .offset = offsetof(KumoMemoryZoneConfig, host_numa_node),
      .max = HOST_NODE_MAX },
    { .cli = "prefault",
      .json = "prefault",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryZoneConfig, prefault) },
    { .cli = "reserve",
      .json = "reserve",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoMemoryZoneConfig, reserve) },
    { .cli = "mergeable",
      .json = "mergeable",
      .host = true,
      .type = KUMO_FIELD_TOGGLE,
      .offset = offsetof(KumoMemoryZoneConfig, mergeable) },
    { .cli = "hotplug_size",
      .json = "hotplug_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoMemoryZoneConfig, hotplug_size_bytes),
      .max = MEMORY_MAX_BYTES,
      .optional = true },
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoMemoryZoneConfig, virtio_mem),
      .section = &virtio_mem_section },
};

/* What one mapping has to fulfil: all memory, or one zone. */
static bool check_mapping(const char *path, uint64_t size, bool hugepages, uint64_t hugepage_size,
                          bool shared, bool mergeable, GError **error)
{
    uint64_t page = hugepages && hugepage_size ? hugepage_size : MEMORY_PAGE_BYTES;

    if (hugepage_size && !hugepages) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.hugepage_size: %" G_GUINT64_FORMAT " needs hugepages, which is off", path,
                    hugepage_size);
        return false;
    }
    if (size % page) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.size: %" G_GUINT64_FORMAT
                    " is not allowed, must be a multiple of the page size, %" G_GUINT64_FORMAT,
                    path, size, page);
        return false;
    }
    if (shared && mergeable) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: shared and mergeable exclude each other", path);
        return false;
    }
    return true;
}

/* How one zone, or all memory, may grow. */
typedef struct {
    uint64_t size_bytes, plugged_bytes;
    bool hugepages;
    uint64_t hugepage_size;
} Growth;

static Growth zone_growth(const KumoMemoryZoneConfig *zone)
{
    return (Growth){ zone->hotplug_size_bytes, zone->virtio_mem.plugged_bytes, zone->hugepages,
                     zone->hugepage_size_bytes };
}

static Growth memory_growth(const KumoMemoryConfig *memory)
{
    return (Growth){ memory->hotplug_size_bytes, memory->virtio_mem.plugged_bytes,
                     memory->hugepages, memory->hugepage_size_bytes };
}

static bool bad_hotplug(GError **error, const char *path, const char *field, uint64_t value,
                        const char *why)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s.%s: %" G_GUINT64_FORMAT " %s", path,
                field, value, why);
    return false;
}

/* What virtio-mem asks of one zone, or of all memory. */
static bool check_virtio_mem(const char *path, const Growth *growth, GError **error)
{
    uint64_t page =
        growth->hugepages && growth->hugepage_size ? growth->hugepage_size : MEMORY_PAGE_BYTES;

    if (growth->size_bytes % HOTPLUG_ALIGN)
        return bad_hotplug(error, path, "hotplug_size", growth->size_bytes,
                           "is not allowed, must be a multiple of 128 MiB");
    if (growth->size_bytes % page)
        return bad_hotplug(error, path, "hotplug_size", growth->size_bytes,
                           "is not allowed, must be a multiple of the page size");
    if (growth->plugged_bytes > growth->size_bytes)
        return bad_hotplug(error, path, "hotplugged_size", growth->plugged_bytes,
                           "is not allowed, must not be more than hotplug_size");
    if (growth->plugged_bytes % MAX(page, VIRTIO_MEM_BLOCK))
        return bad_hotplug(error, path, "hotplugged_size", growth->plugged_bytes,
                           "is not allowed, must be a multiple of 2 MiB and of the page size");
    return true;
}

static bool zone_validate(const void *object, const char *path, GError **error)
{
    const KumoMemoryZoneConfig *zone = object;

    if (!zone->id) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s.id is missing", path);
        return false;
    }
    return check_mapping(path, zone->size_bytes, zone->hugepages, zone->hugepage_size_bytes,
                         zone->shared, zone->mergeable > 0, error);
}

const KumoSection kumo_memory_zone_section = {
    .option = "memory-zone",
    .fields = zone_fields,
    .n_fields = G_N_ELEMENTS(zone_fields),
    .size = sizeof(KumoMemoryZoneConfig),
    .validate = zone_validate,
};

KumoMemoryZoneConfig *kumo_memory_config_find_zone(const KumoMemoryConfig *memory, const char *id)
{
    for (guint i = 0; memory->zones && i < memory->zones->len; i++) {
        KumoMemoryZoneConfig *zone = memory->zones->pdata[i];

        if (g_strcmp0(zone->id, id) == 0)
            return zone;
    }
    return NULL;
}

/* Behind *@next, which moves on. */
static bool add_range(GArray *ranges, int zone, Growth growth, uint64_t *next)
{
    uint64_t page = growth.hugepage_size ? growth.hugepage_size : HUGEPAGE_ALIGN;
    uint64_t align = growth.hugepages ? MAX(HOTPLUG_ALIGN, page) : HOTPLUG_ALIGN;
    KumoHotplugRange range = { .zone = zone, .size_bytes = growth.size_bytes };

    if (!range.size_bytes)
        return true;
    if (*next > INT64_MAX - align)
        return false;
    range.gpa = kumo_align_up(*next, align);
    if (!kumo_add_u64(range.gpa, range.size_bytes, next) || *next > INT64_MAX)
        return false;
    g_array_append_val(ranges, range);
    return true;
}

GArray *kumo_memory_config_hotplug_ranges(const KumoMemoryConfig *memory, uint64_t from_gpa)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(KumoHotplugRange));

    if (!add_range(ranges, -1, memory_growth(memory), &from_gpa))
        return NULL;
    for (guint i = 0; memory->zones && i < memory->zones->len; i++) {
        const KumoMemoryZoneConfig *zone = memory->zones->pdata[i];

        if (!add_range(ranges, (int)i, zone_growth(zone), &from_gpa))
            return NULL;
    }
    return g_steal_pointer(&ranges);
}

bool kumo_memory_zone_is_mergeable(const KumoMemoryConfig *memory, const KumoMemoryZoneConfig *zone)
{
    /* Shared memory cannot be merged: there the default does not reach. */
    return zone->mergeable < 0 ? memory->mergeable && !zone->shared : zone->mergeable > 0;
}

uint64_t kumo_memory_config_total(const KumoMemoryConfig *memory)
{
    uint64_t total = memory->size_bytes;

    for (guint i = 0; memory->zones && i < memory->zones->len; i++) {
        const KumoMemoryZoneConfig *zone = memory->zones->pdata[i];

        if (!kumo_add_u64(total, zone->size_bytes, &total))
            return 0;
    }
    return total;
}

uint64_t kumo_memory_config_wanted(const KumoMemoryConfig *memory)
{
    uint64_t total = kumo_memory_config_total(memory) + memory->virtio_mem.plugged_bytes;

    for (guint i = 0; memory->zones && i < memory->zones->len; i++)
        total += ((const KumoMemoryZoneConfig *)memory->zones->pdata[i])->virtio_mem.plugged_bytes;
    return total;
}

static bool check_zone_hotplug(const KumoMemoryConfig *memory, guint index, const char *path,
                               GError **error)
{
    g_autofree char *name = g_strdup_printf("%s.zones[%u]", path, index);
    Growth growth = zone_growth(memory->zones->pdata[index]);

    if (growth.size_bytes && memory->hotplug_method == KUMO_HOTPLUG_METHOD_ACPI)
        return bad_hotplug(error, name, "hotplug_size", growth.size_bytes,
                           "is not allowed, needs memory.hotplug_method VirtioMem");
    return check_virtio_mem(name, &growth, error);
}

static bool check_zones(const KumoMemoryConfig *memory, const char *path, GError **error)
{
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);
    const char *of_zone = memory->shared      ? "shared"
                          : memory->hugepages ? "hugepages"
                          : memory->prefault  ? "prefault"
                          : memory->reserve   ? "reserve"
                                              : NULL;

    if (memory->size_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.size: %" G_GUINT64_FORMAT
                    " is not allowed, must be 0: the memory zones have all memory",
                    path, memory->size_bytes);
        return false;
    }
    if (of_zone) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.%s: true is not allowed, with memory zones it belongs to each zone", path,
                    of_zone);
        return false;
    }
    if (memory->hotplug_size_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.hotplug_size: %" G_GUINT64_FORMAT
                    " is not allowed, with memory zones it belongs to each zone",
                    path, memory->hotplug_size_bytes);
        return false;
    }
    if (memory->virtio_mem.plugged_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.hotplugged_size: %" G_GUINT64_FORMAT
                    " is not allowed, with memory zones it belongs to each zone",
                    path, memory->virtio_mem.plugged_bytes);
        return false;
    }
    for (guint i = 0; i < memory->zones->len; i++) {
        const KumoMemoryZoneConfig *zone = memory->zones->pdata[i];
        g_autofree char *shown = NULL;

        if (g_hash_table_add(ids, zone->id)) {
            if (!check_zone_hotplug(memory, i, path, error))
                return false;
            continue;
        }
        shown = kumo_quote_value(zone->id);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT, "%s.zones[%u].id: %s is another zone's",
                    path, i, shown);
        return false;
    }
    return true;
}

/* Of memory without zones. */
static bool check_hotplug(const KumoMemoryConfig *memory, const char *path, GError **error)
{
    Growth growth = memory_growth(memory);

    if (memory->hotplug_method == KUMO_HOTPLUG_METHOD_VIRTIO_MEM)
        return check_virtio_mem(path, &growth, error);
    if (growth.plugged_bytes)
        return bad_hotplug(error, path, "hotplugged_size", growth.plugged_bytes,
                           "is not allowed, needs hotplug_method VirtioMem");
    return true;
}

static bool memory_validate(const void *object, const char *path, GError **error)
{
    const KumoMemoryConfig *memory = object;

    if (memory->zones->len)
        return check_zones(memory, path, error);
    if (!memory->size_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.size: 0 leaves the memory to memory zones, and there are none", path);
        return false;
    }
    return check_mapping(path, memory->size_bytes, memory->hugepages, memory->hugepage_size_bytes,
                         memory->shared, memory->mergeable, error) &&
           check_hotplug(memory, path, error);
}

const KumoSection kumo_memory_section = {
    .option = "memory",
    .fields = memory_fields,
    .n_fields = G_N_ELEMENTS(memory_fields),
    .size = sizeof(KumoMemoryConfig),
    .validate = memory_validate,
};
