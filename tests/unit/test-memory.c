/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fakes/fake_hv.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/memory.h"

#define MIB      (1024ULL * 1024)
#define GPA_HIGH 0x100000000ULL

static void test_edges(void)
{
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0x1000, 0x2000);
    uint8_t buf[16] = { 0 };

    g_assert_null(kumo_memory_at(memory, 0xfff, 1));
    g_assert_nonnull(kumo_memory_at(memory, 0x1000, 0x2000));
    g_assert_null(kumo_memory_at(memory, 0x1000, 0x2001));
    g_assert_nonnull(kumo_memory_at(memory, 0x2fff, 1));
    g_assert_null(kumo_memory_at(memory, 0x2fff, 2));
    g_assert_null(kumo_memory_at(memory, 0x3000, 0));
    g_assert_null(kumo_memory_at(memory, 0x1800, G_MAXUINT64));
    g_assert_null(kumo_memory_at(memory, G_MAXUINT64, 2));

    g_assert_true(kumo_memory_write(memory, 0x2ff0, "0123456789abcdef", 16));
    g_assert_true(kumo_memory_read(memory, 0x2ff0, buf, 16));
    g_assert_cmpmem(buf, 16, "0123456789abcdef", 16);
    g_assert_false(kumo_memory_write(memory, 0x2ff1, buf, 16));
    g_assert_false(kumo_memory_read(memory, 0xff8, buf, 16));
    g_assert_false(kumo_memory_read(memory, G_MAXUINT64 - 3, buf, 16));
    g_assert_true(kumo_memory_read(memory, 0x5000, buf, 0));
}

static void test_regions(void)
{
    const KumoMemoryConfig config = { .size_bytes = 3 * MIB, .thp = true };
    const KumoMemRange ranges[] = { { 0, MIB }, { MIB, MIB }, { GPA_HIGH, MIB } };
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;
    KumoMemory *memory = kumo_memory_new(&config, ranges, 3, 0, &vm->base, &error);
    uint8_t buf[8];

    g_assert_no_error(error);
    g_assert_cmpuint(vm->slots->len, ==, 3);
    g_assert_cmpuint(g_array_index(vm->slots, FakeSlot, 2).gpa, ==, GPA_HIGH);
    g_assert_cmpuint(memory->n_backings, ==, 3);
    g_assert_cmpint(memory->backings[0].fd, ==, -1);

    /* An access may span two regions that touch, not a hole. */
    g_assert_null(kumo_memory_at(memory, MIB - 4, 8));
    g_assert_true(kumo_memory_write(memory, MIB - 4, "abcdefgh", 8));
    g_assert_true(kumo_memory_read(memory, MIB - 4, buf, 8));
    g_assert_cmpmem(buf, 8, "abcdefgh", 8);
    g_assert_cmpmem(memory->regions[1].hva, 4, "efgh", 4);
    g_assert_false(kumo_memory_write(memory, 2 * MIB - 4, "abcdefgh", 8));

    kumo_memory_free(memory);
    g_assert_cmpuint(vm->slots->len, ==, 0);
    vm->base.ops->destroy(&vm->base);
}

static void test_shared(void)
{
    const KumoMemoryConfig config = {
        .size_bytes = 4 * MIB, .shared = true, .prefault = true, .reserve = true
    };
    const KumoMemRange range = { 0, 4 * MIB };
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;
    KumoMemory *memory = kumo_memory_new(&config, &range, 1, 0, &vm->base, &error);
    char text[6] = "";

    g_assert_no_error(error);
    g_assert_true(kumo_memory_write(memory, 0x1234, "hello", 5));
    g_assert_cmpint(pread(memory->backings[0].fd, text, 5, 0x1234), ==, 5);
    g_assert_cmpstr(text, ==, "hello");
    /* Whoever gets the descriptor cannot make us fault. */
    g_assert_cmpint(ftruncate(memory->backings[0].fd, 4096), ==, -1);
    kumo_memory_free(memory);
    vm->base.ops->destroy(&vm->base);
}

static KumoMemoryZoneConfig *add_zone(GPtrArray *zones, const char *id, uint64_t size_bytes)
{
    KumoMemoryZoneConfig *zone = g_new0(KumoMemoryZoneConfig, 1);

    zone->id = (char *)(uintptr_t)id;
    zone->size_bytes = size_bytes;
    zone->host_numa_node = -1;
    zone->mergeable = -1;
    g_ptr_array_add(zones, zone);
    return zone;
}

/* Three zones over a hole: the second is on both sides of it, in one file. */
static void test_zones(void)
{
    g_autoptr(GPtrArray) zones = g_ptr_array_new_with_free_func(g_free);
    const KumoMemoryConfig config = { .zones = zones };
    const KumoMemRange ranges[] = { { 0, 3 * MIB }, { GPA_HIGH, 3 * MIB } };
    g_autofree char *path = g_strdup_printf("%s/kumo-zone-%d", g_get_tmp_dir(), getpid());
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;
    KumoMemory *memory;
    char text[10] = "";
    int fd;

    add_zone(zones, "a", MIB)->prefault = true;
    add_zone(zones, "b", 4 * MIB)->file = path;
    ((KumoMemoryZoneConfig *)zones->pdata[1])->shared = true;
    add_zone(zones, "c", MIB)->shared = true;
    g_assert_true(g_file_set_contents(path, "old", 3, NULL));
    memory = kumo_memory_new(&config, ranges, 2, 0, &vm->base, &error);
    g_assert_no_error(error);

    /* The hypervisor and the devices see two ranges, zones or not. */
    g_assert_cmpuint(vm->slots->len, ==, 2);
    g_assert_cmpuint(memory->n_regions, ==, 2);
    g_assert_nonnull(kumo_memory_at(memory, MIB - 4, 8));
    g_assert_cmpuint(memory->n_backings, ==, 4);
    g_assert_cmpint(memory->backings[0].zone, ==, 0);
    g_assert_cmpint(memory->backings[2].zone, ==, 1);
    g_assert_cmphex(memory->backings[2].gpa, ==, GPA_HIGH);
    g_assert_cmphex(memory->backings[2].fd_offset, ==, 2 * MIB);
    g_assert_cmphex(memory->backings[3].fd_offset, ==, 0);

    g_assert_cmpmem(kumo_memory_at(memory, MIB, 3), 3, "old", 3);
    g_assert_true(kumo_memory_write(memory, MIB - 4, "zoneZONE", 8));
    g_assert_true(kumo_memory_write(memory, GPA_HIGH, "high", 4));
    fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, 4 * MIB);
    g_assert_cmpint(pread(fd, text, 4, 0), ==, 4);
    g_assert_cmpstr(text, ==, "ZONE");
    g_assert_cmpint(pread(fd, text, 4, 2 * MIB), ==, 4);
    g_assert_cmpstr(text, ==, "high");
    close(fd);
    kumo_memory_free(memory);
    g_assert_cmpuint(vm->slots->len, ==, 0);
    g_assert_cmpint(unlink(path), ==, 0);
    vm->base.ops->destroy(&vm->base);
}

static void test_zone_failures(void)
{
    g_autoptr(GPtrArray) zones = g_ptr_array_new_with_free_func(g_free);
    const KumoMemoryConfig config = { .zones = zones };
    const KumoMemRange range = { 0, MIB };
    KumoMemoryZoneConfig *zone = add_zone(zones, "a", MIB);
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;
    KumoMemory *memory;

    zone->file = (char[]){ "/nonexistent/file" };
    g_assert_null(kumo_memory_new(&config, &range, 1, 0, &vm->base, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, "memory.zones[0] (a)"));
    g_clear_error(&error);

    zone->file = (char[]){ "/tmp" }; /* a directory: a file without a name */
    memory = kumo_memory_new(&config, &range, 1, 0, &vm->base, &error);
    g_assert_no_error(error);
    g_assert_cmpint(memory->backings[0].fd, >=, 0);
    kumo_memory_free(memory);

    zone->hugepages = true;
    g_assert_null(kumo_memory_new(&config, &range, 1, 0, &vm->base, &error));
    g_assert_nonnull(strstr(error->message, "huge pages"));
    g_clear_error(&error);

    zone->hugepages = false;
    zone->file = NULL;
    zone->host_numa_node = 900;
    g_assert_null(kumo_memory_new(&config, &range, 1, 0, &vm->base, &error));
    g_assert_nonnull(strstr(error->message, "host_numa_node 900"));
    vm->base.ops->destroy(&vm->base);
}

/* More than one thread has something to do. */
static bool is_resident(const uint8_t *hva)
{
    unsigned char there = 0;

    g_assert_cmpint(mincore((void *)(uintptr_t)hva, 4096, &there), ==, 0);
    return there & 1;
}

/* A region for what each zone may get, of the zone's kind, aligned to 128 MiB. */
static void test_hotplug(void)
{
    KumoMemoryZoneConfig private = { .id = (char *)"a",
                                     .size_bytes = 2 * MIB,
                                     .hotplug_size_bytes = 128 * MIB,
                                     .prefault = true,
                                     .host_numa_node = -1 };
    KumoMemoryZoneConfig shared = { .id = (char *)"b",
                                    .size_bytes = 2 * MIB,
                                    .shared = true,
                                    .hotplug_size_bytes = 256 * MIB,
                                    .host_numa_node = -1 };
    void *zones[] = { &private, &shared };
    GPtrArray list = { .pdata = zones, .len = 2 };
    KumoMemoryConfig config = { .zones = &list, .hotplug_method = KUMO_HOTPLUG_METHOD_VIRTIO_MEM };
    const KumoMemRange range = { 0, 4 * MIB };
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;
    KumoMemory *memory = kumo_memory_new(&config, &range, 1, GPA_HIGH + 4096, &vm->base, &error);
    uint64_t gpa_a = GPA_HIGH + 128 * MIB;

    g_assert_no_error(error);
    g_assert_cmpuint(memory->n_regions, ==, 3);
    g_assert_cmpuint(memory->n_backings, ==, 4);
    g_assert_cmpuint(vm->slots->len, ==, 3);
    g_assert_false(memory->regions[0].hotplug);
    for (unsigned i = 1; i < 3; i++) {
        g_assert_true(memory->regions[i].hotplug && memory->backings[i + 1].hotplug);
        g_assert_cmpint(memory->backings[i + 1].zone, ==, (int)i - 1);
        g_assert_cmphex(memory->regions[i].gpa, ==, i == 1 ? gpa_a : gpa_a + 128 * MIB);
    }
    g_assert_false(memory->backings[2].shared);
    g_assert_true(memory->backings[3].shared && memory->backings[3].fd >= 0);
    /* Nothing is taken before it is plugged. */
    g_assert_false(is_resident(memory->regions[1].hva));
    g_assert_cmpint(kumo_memory_populate(memory, gpa_a, 2 * MIB), ==, 0);
    g_assert_true(is_resident(memory->regions[1].hva + 2 * MIB - 4096));
    g_assert_false(is_resident(memory->regions[1].hva + 2 * MIB));
    g_assert_cmpint(kumo_memory_populate(memory, gpa_a - 4096, 8192), ==, EFAULT);
    kumo_memory_free(memory);

    config.hotplug_method = KUMO_HOTPLUG_METHOD_ACPI;
    memory = kumo_memory_new(&config, &range, 1, GPA_HIGH, &vm->base, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(memory->n_regions, ==, 1);
    kumo_memory_free(memory);
    vm->base.ops->destroy(&vm->base);
}

static void test_discard(void)
{
    KumoMemoryConfig config = { .size_bytes = 4 * MIB };
    const KumoMemRange ranges[] = { { 0, 2 * MIB }, { 2 * MIB, 2 * MIB } };

    for (unsigned kind = 0; kind < 4; kind++) {
        FakeHvVm *vm = fake_hv_vm_new();
        g_autoptr(GError) error = NULL;
        uint64_t dirty[2 * MIB / 4096 / 64] = { 0 };
        KumoMemory *memory;
        const uint8_t *first, *second;

        config.shared = kind & 1;
        config.lock = kind & 2;
        memory = kumo_memory_new(&config, ranges, 2, 0, &vm->base, &error);
        g_assert_no_error(error);
        first = memory->regions[0].hva;
        second = memory->regions[1].hva;
        memset(memory->regions[0].hva, 0x11, 2 * MIB);
        memset(memory->regions[1].hva, 0x22, 2 * MIB);
        g_assert_true(kumo_memory_dirty_start(memory, NULL));
        /* From the middle of a page over a region's border to the middle of another. */
        g_assert_cmpint(kumo_memory_discard(memory, MIB + 100, 2 * MIB), ==, 0);
        g_assert_cmpuint(first[MIB], ==, 0x11);
        g_assert_cmpuint(first[MIB + 4095], ==, 0x11);
        g_assert_cmpuint(first[MIB + 4096], ==, 0);
        g_assert_cmpuint(first[2 * MIB - 1], ==, 0);
        g_assert_cmpuint(second[0], ==, 0);
        g_assert_cmpuint(second[MIB - 1], ==, 0);
        g_assert_cmpuint(second[MIB], ==, 0x22);
        g_assert_true(kumo_memory_dirty_fetch(memory, 0, dirty, NULL));
        g_assert_cmphex(dirty[0], ==, 0);
        g_assert_cmphex(dirty[MIB / 4096 / 64], ==, ~1ULL);
        /* Not all of it is RAM: nothing goes. */
        g_assert_cmpint(kumo_memory_discard(memory, 3 * MIB, 2 * MIB), ==, EFAULT);
        g_assert_cmpint(kumo_memory_discard(memory, UINT64_MAX - 4095, 8192), ==, EFAULT);
        g_assert_cmpuint(second[MIB], ==, 0x22);
        g_assert_cmphex(kumo_memory_gpa_of(memory, second + 5), ==, 2 * MIB + 5);
        kumo_memory_free(memory);
        vm->base.ops->destroy(&vm->base);
    }
}

static void test_prefault(void)
{
    const KumoMemoryConfig config = { .size_bytes = 200 * MIB, .prefault = true };
    const KumoMemRange range = { 0, 200 * MIB };
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;
    KumoMemory *memory = kumo_memory_new(&config, &range, 1, 0, &vm->base, &error);
    g_autofree unsigned char *resident = g_malloc0(200 * MIB / 4096);

    g_assert_no_error(error);
    g_assert_cmpint(mincore(memory->regions[0].hva, 200 * MIB, resident), ==, 0);
    for (unsigned i = 0; i < 200 * MIB / 4096; i++)
        g_assert_cmpuint(resident[i] & 1, ==, 1);
    kumo_memory_free(memory);
    vm->base.ops->destroy(&vm->base);
}

/* Returns: (transfer full): what /proc/self/@file says of the mapping at @hva, up to the next one.
 */
static char *proc_says(const char *file, const void *hva)
{
    g_autofree char *path = g_strdup_printf("/proc/self/%s", file);
    g_autofree char *first = g_strdup_printf("%lx", (unsigned long)(uintptr_t)hva);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    GString *said = g_string_new(NULL);
    bool here = false;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return g_string_free(said, FALSE);
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        /* The names of values begin with a capital. */
        bool starts = g_ascii_isxdigit(lines[i][0]) && !g_ascii_isupper(lines[i][0]);

        if (starts)
            here = g_str_has_prefix(lines[i], first);
        if (here)
            g_string_append_printf(said, "%s\n", lines[i]);
    }
    return g_string_free(said, FALSE);
}

static bool kernel_merges_pages(void)
{
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool merges = madvise(page, 4096, MADV_MERGEABLE) == 0;

    munmap(page, 4096);
    return merges;
}

/* What the kernel says of the mapping is what was asked for. */
static void test_mapping(void)
{
    static const struct {
        KumoMemoryConfig config;
        const char *has, *has_not;
    } rows[] = {
        { { .thp = true }, " hg", " mg" },
        { { .thp = false }, " nr", " hg" },
        { { .reserve = true }, " dd", " nr" },
        { { .mergeable = true }, " mg", " hg" },
        { { .shared = true }, " sh", " mg" },
        { { .shared = true, .reserve = true }, " sh", " nr" },
        { { .lock = true }, " lo", " sh" },
        { { .lock = true, .shared = true }, " lo", " mg" },
        { { .lock = true, .prefault = true, .prefault_threads = 3 }, " lo", " sh" },
    };
    const KumoMemRange range = { 0, 4 * MIB };
    FakeHvVm *vm = fake_hv_vm_new();

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        KumoMemoryConfig config = rows[i].config;
        g_autoptr(GError) error = NULL;
        g_autofree char *said = NULL;
        const char *flags;
        KumoMemory *memory;

        if (config.mergeable && !kernel_merges_pages())
            continue;
        config.size_bytes = 4 * MIB;
        memory = kumo_memory_new(&config, &range, 1, 0, &vm->base, &error);
        g_assert_no_error(error);
        said = proc_says("smaps", memory->regions[0].hva);
        flags = strstr(said, "VmFlags:");
        g_assert_nonnull(flags);
        if (!strstr(flags, rows[i].has) || strstr(flags, rows[i].has_not) || !strstr(flags, " dd"))
            g_error("row %u: %s", i, flags);
        kumo_memory_free(memory);
    }
    vm->base.ops->destroy(&vm->base);
}

static void test_node(void)
{
    g_autoptr(GPtrArray) zones = g_ptr_array_new_with_free_func(g_free);
    const KumoMemoryConfig config = { .zones = zones };
    const KumoMemRange range = { 0, 4 * MIB };
    KumoMemoryZoneConfig *zone = add_zone(zones, "a", 4 * MIB);
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;
    g_autofree char *said = NULL;
    KumoMemory *memory;

    if (!g_file_test("/proc/self/numa_maps", G_FILE_TEST_EXISTS)) {
        g_test_skip("this kernel knows no NUMA nodes");
        vm->base.ops->destroy(&vm->base);
        return;
    }
    zone->host_numa_node = 0;
    zone->prefault = true;
    memory = kumo_memory_new(&config, &range, 1, 0, &vm->base, &error);
    g_assert_no_error(error);
    said = proc_says("numa_maps", memory->regions[0].hva);
    g_assert_nonnull(strstr(said, "bind:0"));
    g_assert_nonnull(strstr(said, "N0="));
    kumo_memory_free(memory);
    vm->base.ops->destroy(&vm->base);
}

static void test_failures(void)
{
    KumoMemoryConfig config = { .size_bytes = MIB + 1 };
    KumoMemRange range = { 0, MIB + 1 };
    FakeHvVm *vm = fake_hv_vm_new();
    g_autoptr(GError) error = NULL;

    g_assert_null(kumo_memory_new(&config, &range, 1, 0, &vm->base, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_clear_error(&error);

    config.size_bytes = range.size_bytes = MIB;
    vm->fail = "set_memory";
    g_assert_null(kumo_memory_new(&config, &range, 1, 0, &vm->base, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR);
    g_clear_error(&error);
    vm->fail = NULL;

    config.hugepages = true;
    config.hugepage_size_bytes = 3 * 4096;
    g_assert_null(kumo_memory_new(&config, &range, 1, 0, &vm->base, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED);
    g_clear_error(&error);

    /* More than there can be: an error, not a signal. */
    config = (KumoMemoryConfig){ .size_bytes = 1ULL << 62 };
    range.size_bytes = 1ULL << 62;
    g_assert_null(kumo_memory_new(&config, &range, 1, 0, &vm->base, &error));
    g_assert_nonnull(error);
    vm->base.ops->destroy(&vm->base);
}

static void test_dirty(void)
{
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0x100000, 100 * 4096);
    uint64_t bits[2] = { 0 };

    g_assert_true(kumo_memory_write(memory, 0x100000, "x", 1)); /* not tracked yet */
    g_assert_true(kumo_memory_dirty_start(memory, NULL));
    g_assert_true(kumo_memory_write(memory, 0x100000 + 2 * 4096 - 1, "xy", 2));
    kumo_memory_mark_dirty(memory, 0x100000 + 99 * 4096, 4096);
    kumo_memory_mark_dirty(memory, 0x100000 + 99 * 4096, 1 << 20); /* beyond the end */
    g_assert_true(kumo_memory_dirty_fetch(memory, 0, bits, NULL));
    g_assert_cmphex(bits[0], ==, 6);
    g_assert_cmphex(bits[1], ==, 1ULL << (99 - 64));
    memset(bits, 0, sizeof(bits));
    g_assert_true(kumo_memory_dirty_fetch(memory, 0, bits, NULL));
    g_assert_cmphex(bits[0] | bits[1], ==, 0);
    kumo_memory_dirty_stop(memory);
    g_assert_true(kumo_memory_write(memory, 0x100000, "x", 1));
    g_assert_true(kumo_memory_dirty_start(memory, NULL));
    g_assert_true(kumo_memory_dirty_fetch(memory, 0, bits, NULL));
    g_assert_cmphex(bits[0], ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory/edges", test_edges);
    g_test_add_func("/memory/regions", test_regions);
    g_test_add_func("/memory/shared", test_shared);
    g_test_add_func("/memory/zones", test_zones);
    g_test_add_func("/memory/zone-failures", test_zone_failures);
    g_test_add_func("/memory/hotplug", test_hotplug);
    g_test_add_func("/memory/discard", test_discard);
    g_test_add_func("/memory/prefault", test_prefault);
    g_test_add_func("/memory/mapping", test_mapping);
    g_test_add_func("/memory/node", test_node);
    g_test_add_func("/memory/failures", test_failures);
    g_test_add_func("/memory/dirty", test_dirty);
    return g_test_run();
}
