/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory zones and NUMA nodes from the option to the tables that a guest reads. */
#include <glib/gstdio.h>
#include <string.h>

#include "vmm-core/acpi/tables.h"
#include "vmm-core/arch/x86_64/acpi.h"
#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

enum { OPTIONS_MAX = 6 };

static KumoVmConfig *make(const char *const options[][2])
{
    KumoVmConfig *config = kumo_vm_config_new();

    for (unsigned i = 0; i < OPTIONS_MAX && options[i][0]; i++) {
        g_autoptr(GError) error = NULL;

        kumo_option_apply(config, options[i][0], options[i][1], &error);
        g_assert_no_error(error);
    }
    kumo_option_apply(config, "kernel", "/k", NULL);
    return config;
}

/* Zone a ends beyond the hole below 4 GiB; node 2 leaves number 1 out. */
static const char *const two_nodes[OPTIONS_MAX][2] = {
    { "cpus", "boot=3,max=4,topology=1:2:1:2" },
    { "memory-zone", "id=a,size=4G,host_numa_node=0,mergeable=on" },
    { "memory-zone", "id=b,size=2G,shared=on" },
    { "memory", "size=0" },
    { "numa", "guest_numa_id=0,cpus=[0-1],memory_zones=a,distances=[2@31],pci_segments=[0]" },
    { "numa", "guest_numa_id=2,cpus=[2,3],memory_zones=[b]" },
};

static const KumoMemBacking backings[] = {
    { .gpa = 0, .size_bytes = 3 * GIB, .zone = 0 },
    { .gpa = 4 * GIB, .size_bytes = GIB, .zone = 0 },
    { .gpa = 5 * GIB, .size_bytes = 2 * GIB, .zone = 1 },
    { .gpa = 7 * GIB, .size_bytes = GIB, .zone = 1, .hotplug = true },
};

static void test_config(void)
{
    g_autoptr(KumoVmConfig) config = make(two_nodes);
    g_autoptr(GError) error = NULL;
    const KumoMemoryZoneConfig *a, *b;

    g_assert_true(kumo_vm_config_validate(config, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(config->memory.zones->len, ==, 2);
    a = config->memory.zones->pdata[0];
    b = config->memory.zones->pdata[1];
    g_assert_cmpuint(kumo_memory_config_total(&config->memory), ==, 6 * GIB);
    g_assert_cmpint(a->host_numa_node, ==, 0);
    g_assert_cmpint(b->host_numa_node, ==, -1);
    g_assert_true(kumo_memory_zone_is_mergeable(&config->memory, a));
    g_assert_false(kumo_memory_zone_is_mergeable(&config->memory, b));
    g_assert_cmpuint(kumo_numa_node_of_zone(config, "b"), ==, 2);
    g_assert_cmpuint(kumo_numa_node_of_zone(config, "c"), ==, KUMO_NUMA_NONE);
    g_assert_cmpuint(kumo_numa_node_of_cpu(config, 3), ==, 2);
    g_assert_cmpuint(kumo_numa_node_of_segment(config, 0), ==, 0);
    g_assert_cmpuint(kumo_numa_distance(config, 0, 2), ==, 31);
    g_assert_cmpuint(kumo_numa_distance(config, 2, 0), ==, 31);
    g_assert_cmpuint(kumo_numa_distance(config, 0, 1), ==, 20);
    g_assert_cmpuint(kumo_numa_distance(config, 2, 2), ==, 10);
}

/* JSON says the same, there and back. */
static void test_json(void)
{
    g_autoptr(KumoVmConfig) config = make(two_nodes);
    json_t *json = kumo_vm_config_to_json(config);
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoVmConfig) read = kumo_vm_config_from_json(json, &error);
    json_t *again, *zones;

    g_assert_no_error(error);
    again = kumo_vm_config_to_json(read);
    g_assert_true(json_equal(json, again));
    zones = json_object_get(json_object_get(json, "memory"), "zones");
    g_assert_cmpuint(json_array_size(zones), ==, 2);
    g_assert_true(json_is_true(json_object_get(json_array_get(zones, 0), "mergeable")));
    g_assert_true(json_is_null(json_object_get(json_array_get(zones, 1), "mergeable")));
    g_assert_null(json_object_get(json, "memory-zone"));
    json_decref(json);
    json_decref(again);
}

static void test_refusals(void)
{
    static const struct {
        const char *options[OPTIONS_MAX][2];
        const char *words[2];
    } rows[] = {
        { { { "memory", "size=0" } }, { "memory.size: 0", "there are none" } },
        { { { "memory-zone", "id=a" } }, { "memory.size: 536870912", "must be 0" } },
        { { { "memory", "size=0,shared=on" }, { "memory-zone", "id=a" } },
          { "memory.shared", "each zone" } },
        { { { "memory", "size=0" }, { "memory-zone", "size=1G" } },
          { "memory.zones[0].id", "missing" } },
        { { { "memory", "size=0" }, { "memory-zone", "id=a" }, { "memory-zone", "id=a" } },
          { "memory.zones[1].id: \"a\"", "another zone" } },
        { { { "memory", "size=0" }, { "memory-zone", "id=a,size=5000" } },
          { "memory.zones[0].size: 5000", "4096" } },
        { { { "memory", "size=0" }, { "memory-zone", "id=a,shared=on,mergeable=on" } },
          { "memory.zones[0]: shared", "exclude" } },
        { { { "memory", "size=0" }, { "memory-zone", "id=a,hotplug_size=128M" } },
          { "memory.zones[0].hotplug_size: 134217728", "VirtioMem" } },
        { { { "memory", "size=0,hotplug_method=virtio-mem" },
            { "memory-zone", "id=a,hotplug_size=130M" } },
          { "memory.zones[0].hotplug_size", "128 MiB" } },
        { { { "memory", "size=0,hotplug_method=virtio-mem" },
            { "memory-zone", "id=a,hotplug_size=128M,hotplugged_size=130M" } },
          { "memory.zones[0].hotplugged_size", "more than hotplug_size" } },
        { { { "memory", "hotplug_method=virtio-mem,hotplug_size=128M,hotplugged_size=1M" } },
          { "memory.hotplugged_size", "2 MiB" } },
        { { { "memory", "hotplug_size=128M,hotplugged_size=2M" } },
          { "memory.hotplugged_size", "VirtioMem" } },
        { { { "memory", "size=0,hotplug_method=virtio-mem,hotplugged_size=2M" },
            { "memory-zone", "id=a" } },
          { "memory.hotplugged_size", "each zone" } },
        { { { "memory", "hotplug_method=virtio-mem,hotplug_size=128M" },
            { "disk", "path=/d,id=mem0" } },
          { "\"mem0\"", "taken" } },
        { { { "memory", "hotplug_method=virtio-mem,hotplug_size=128M,pci_device_id=3" },
            { "balloon", "size=0,pci_device_id=3" } },
          { "pci_device_id: 3", "taken" } },
        { { { "balloon", "size=512M" } }, { "balloon.size: 536870912", "less than" } },
        { { { "numa", "guest_numa_id=0" }, { "numa", "guest_numa_id=0" } },
          { "numa[1].guest_numa_id: 0", "another node" } },
        { { { "numa", "guest_numa_id=0,cpus=[0-1]" } },
          { "numa[0].cpus[1]: 1", "cpus.max_vcpus, 1" } },
        { { { "cpus", "boot=2" }, { "numa", "cpus=[0-1]" }, { "numa", "guest_numa_id=1,cpus=1" } },
          { "numa[1].cpus[0]: 1", "in a node already" } },
        { { { "numa", "memory_zones=x" } }, { "numa[0].memory_zones[0]", "\"x\"" } },
        { { { "numa", "pci_segments=[0,1]" } },
          { "numa[0].pci_segments[1]: 1", "num_pci_segments, 1" } },
        { { { "numa", "distances=[1@20]" } },
          { "numa[0].distances[0].destination: 1", "no node" } },
        { { { "numa", "distances=[0@20]" } }, { "distance: 20", "must be 10" } },
        { { { "numa", "distances=[1@10]" }, { "numa", "guest_numa_id=1" } },
          { "distance: 10", "above 10" } },
        { { { "numa", "distances=[1@20,1@21]" }, { "numa", "guest_numa_id=1" } },
          { "numa[0].distances[1].destination: 1", "twice" } },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(KumoVmConfig) config = make(rows[i].options);
        g_autoptr(GError) error = NULL;

        if (kumo_vm_config_validate(config, &error))
            g_error("row %u is taken", i);
        for (unsigned n = 0; n < 2; n++)
            if (!strstr(error->message, rows[i].words[n]))
                g_error("row %u: \"%s\" lacks \"%s\"", i, error->message, rows[i].words[n]);
    }
}

static uint64_t get_le(const uint8_t *at, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static void test_tables(void)
{
    g_autoptr(KumoVmConfig) config = make(two_nodes);
    const KumoMemory memory = { .backings = backings, .n_backings = G_N_ELEMENTS(backings) };
    g_autoptr(GByteArray) srat = kumo_x86_acpi_srat_new(config, &memory);
    g_autoptr(GByteArray) slit = kumo_x86_acpi_slit_new(config);
    static const uint8_t distances[] = { 10, 20, 31, 20, 10, 20, 31, 20, 10 };
    static const uint32_t nodes[] = { 0, 0, 2, 2 };
    const uint8_t *at = srat->data + 48;

    g_assert_cmpmem(srat->data, 4, "SRAT", 4);
    g_assert_cmpuint(srat->data[8], ==, 3);
    g_assert_cmpuint(srat->len, ==, 48 + 4 * 40 + 4 * 24);
    g_assert_cmpuint(kumo_acpi_checksum(srat->data, srat->len), ==, 0);
    for (unsigned i = 0; i < 4; i++, at += 40) {
        g_assert_cmpuint(get_le(at, 2), ==, 1 | 40 << 8);
        g_assert_cmpuint(get_le(at + 2, 4), ==, i < 2 ? 0 : 2);
        g_assert_cmphex(get_le(at + 8, 8), ==, backings[i].gpa);
        g_assert_cmphex(get_le(at + 16, 8), ==, backings[i].size_bytes);
        g_assert_cmphex(get_le(at + 28, 4), ==, i < 3 ? 1 : 3); /* hotpluggable */
    }
    for (unsigned i = 0; i < 4; i++, at += 24) {
        g_assert_cmpuint(get_le(at, 2), ==, 2 | 24 << 8);
        g_assert_cmpuint(get_le(at + 4, 4), ==, nodes[i]);
        g_assert_cmpuint(get_le(at + 8, 4), ==, i); /* APIC ids of 1:2:1:2 */
        g_assert_cmphex(get_le(at + 12, 4), ==, 1);
    }
    g_assert_cmpuint(get_le(slit->data + 36, 8), ==, 3);
    g_assert_cmpmem(slit->data + 44, slit->len - 44, distances, sizeof(distances));
}

/* Returns: what iasl makes of @table. */
static char *disassemble(const char *dir, const char *name, const GByteArray *table)
{
    g_autofree char *aml = g_strdup_printf("%s/%s.aml", dir, name);
    g_autofree char *dsl = g_strdup_printf("%s/%s.dsl", dir, name);
    const char *const argv[] = { "iasl", "-d", aml, NULL };
    g_autofree char *out = NULL;
    g_autofree char *err = NULL;
    char *text = NULL;
    int status = -1;

    g_assert_true(g_file_set_contents(aml, (const char *)table->data, table->len, NULL));
    g_assert_true(g_spawn_sync(dir, (char **)(uintptr_t)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL,
                               &out, &err, &status, NULL));
    g_assert_true(g_spawn_check_wait_status(status, NULL));
    g_assert_null(strstr(out, "rror"));
    g_assert_null(strstr(err, "rror"));
    g_assert_true(g_file_get_contents(dsl, &text, NULL, NULL));
    g_assert_cmpint(g_unlink(aml), ==, 0);
    g_assert_cmpint(g_unlink(dsl), ==, 0);
    return text;
}

static void test_iasl(void)
{
    g_autoptr(KumoVmConfig) config = make(two_nodes);
    const KumoMemory memory = { .backings = backings, .n_backings = G_N_ELEMENTS(backings) };
    g_autoptr(GByteArray) srat = kumo_x86_acpi_srat_new(config, &memory);
    g_autoptr(GByteArray) slit = kumo_x86_acpi_slit_new(config);
    g_autofree char *iasl = g_find_program_in_path("iasl");
    g_autofree char *dir = NULL;
    g_autofree char *srat_text = NULL;
    g_autofree char *slit_text = NULL;

    if (!iasl) {
        g_test_skip("iasl (package acpica-tools) is not installed");
        return;
    }
    dir = g_dir_make_tmp("kumo-numa-XXXXXX", NULL);
    srat_text = disassemble(dir, "srat", srat);
    slit_text = disassemble(dir, "slit", slit);
    g_assert_nonnull(strstr(srat_text, "[Processor Local x2APIC Affinity]"));
    g_assert_nonnull(strstr(srat_text, "Base Address : 0000000140000000"));
    g_assert_nonnull(strstr(srat_text, "Address Length : 0000000080000000"));
    g_assert_nonnull(strstr(slit_text, "Localities : 0000000000000003"));
    g_assert_null(strstr(srat_text, "Invalid"));
    g_assert_null(strstr(slit_text, "Invalid"));
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa/config", test_config);
    g_test_add_func("/numa/json", test_json);
    g_test_add_func("/numa/refusals", test_refusals);
    g_test_add_func("/numa/tables", test_tables);
    g_test_add_func("/numa/iasl", test_iasl);
    return g_test_run();
}
