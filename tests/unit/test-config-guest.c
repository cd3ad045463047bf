/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which differences between two configurations a guest would see. */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"

static const char *const base[][2] = {
    { "kernel", "/k" },
    { "cpus", "boot=2,max=4" },
    { "disk", "id=a,path=/a,serial=s,pci_device_id=5" },
    { "disk", "id=b,path=/b,pci_device_id=6" },
    { "net", "id=n,tap=t,mac=52:54:00:12:34:56,pci_device_id=7" },
    { "serial", "socket=/s" },
    { "balloon", "size=1M" },
};

/* The options of the base, of which @options take the places of those of the same kind. */
static KumoVmConfig *make(const char *const *options)
{
    KumoVmConfig *config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(base); i++) {
        bool replaced = false;

        for (size_t n = 0; options && options[n]; n += 2)
            replaced = replaced || strcmp(options[n], base[i][0]) == 0;
        if (!replaced)
            kumo_option_apply(config, base[i][0], base[i][1], &error);
        g_assert_no_error(error);
    }
    for (size_t n = 0; options && options[n]; n += 2) {
        if (options[n + 1])
            kumo_option_apply(config, options[n], options[n + 1], &error);
        g_assert_no_error(error);
    }
    kumo_vm_config_validate(config, &error);
    g_assert_no_error(error);
    return config;
}

static void test_host_side(void)
{
    static const char *const options[] = {
        "kernel",  "/other",
        "cpus",    "boot=2,max=4,affinity=[0@0],core_scheduling=off",
        "memory",  "shared=on,prefault=on,thp=off",
        "disk",    "id=b,path=/other-b,direct=on,bw_size=1M,bw_refill_time=100",
        "disk",    "id=a,path=/other-a",
        "net",     "id=n,tap=u",
        "serial",  "pty",
        "balloon", "size=1M,stats_period=1",
        NULL,
    };
    static const char *const given[] = { "balloon", "size=1M,statistics=on", NULL };
    g_autoptr(KumoVmConfig) theirs = make(given);
    g_autoptr(KumoVmConfig) own = make(options);
    g_autoptr(GError) error = NULL;
    const KumoDiskConfig *disk;
    const KumoNetConfig *net;

    g_assert_true(kumo_vm_config_check_same_guest(theirs, own, &error));
    g_assert_no_error(error);
    /* What is left to be chosen is taken over, the rest stays. */
    disk = own->disks->pdata[1];
    g_assert_cmpstr(disk->path, ==, "/other-a");
    g_assert_cmpstr(disk->serial, ==, "s");
    g_assert_cmpint(disk->pci.pci_device_id, ==, 5);
    net = own->nets->pdata[0];
    g_assert_cmpstr(net->tap, ==, "u");
    g_assert_cmpstr(net->mac, ==, "52:54:00:12:34:56");
    g_assert_cmpint(net->pci.pci_device_id, ==, 7);
    g_assert_cmpint(own->serial.mode, ==, KUMO_CONSOLE_PTY);
    g_assert_true(own->balloon.statistics);
}

/* Whether a balloon gives statistics is the older machine's to say. */
static void test_statistics(void)
{
    static const char *const could[] = { "balloon", "size=1M,statistics=on", NULL };
    static const char *const asks[] = { "balloon", "size=1M,stats_period=5", NULL };
    g_autoptr(KumoVmConfig) theirs = make(NULL);
    g_autoptr(KumoVmConfig) own = make(could);
    g_autoptr(KumoVmConfig) asking = make(asks);
    g_autoptr(GError) error = NULL;

    g_assert_true(kumo_vm_config_check_same_guest(theirs, own, &error));
    g_assert_no_error(error);
    g_assert_false(own->balloon.statistics);
    g_assert_false(kumo_vm_config_check_same_guest(theirs, asking, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, "balloon.stats_period"));
    g_clear_error(&error);
    g_assert_true(kumo_vm_config_check_same_guest(asking, own, &error));
    g_assert_true(own->balloon.statistics);
    g_assert_cmpuint(own->balloon.stats_period_s, ==, 0);
}

static void test_seen(void)
{
    static const struct {
        const char *options[5];
        const char *words[2];
    } rows[] = {
        { { "cpus", "boot=1,max=4" }, { "cpus.boot_vcpus: the VM has 2", "1;" } },
        { { "cpus", "boot=2,max=4,topology=1:4:1:1" }, { "cpus.topology: the VM has null", "" } },
        { { "cpus", "boot=2,max=4,cpu_mask=[-avx]" }, { "cpus.cpu_mask", "-avx" } },
        { { "memory", "size=1G" }, { "memory.size: the VM has 536870912", "1073741824" } },
        { { "disk", "id=a,path=/a" }, { "disks: \"b\" is only in the VM", "" } },
        { { "disk", "id=a,path=/a,num_queues=2", "disk", "id=b,path=/b" },
          { "disks[0].num_queues: the VM has 1", "2;" } },
        { { "disk", "id=a,path=/a,serial=t", "disk", "id=b,path=/b" },
          { "disks[0].serial: the VM has \"s\"", "\"t\"" } },
        { { "disk", "id=a,path=/a,pci_device_id=9", "disk", "id=b,path=/b" },
          { "disks[0].pci_device_id: the VM has 5", "9;" } },
        { { "disk", "id=b,path=/b", "disk", "id=a,path=/a,readonly=on" },
          { "disks[1].readonly: the VM has false", "true" } },
        { { "net", "id=m,tap=t" }, { "net: \"m\" is only in this configuration", "" } },
        { { "net", "id=n,tap=t,mac=52:54:00:00:00:01" }, { "net[0].mac", "52:54:00:00:00:01" } },
        { { "serial", "off" }, { "serial.mode: the VM has \"Socket\"", "\"Off\"" } },
        { { "balloon", NULL }, { "balloon: the VM has", "null" } },
        { { "balloon", "size=2M" }, { "balloon.size: the VM has 1048576", "2097152" } },
        { { "platform", "uuid=01234567-89ab-cdef-0123-456789abcdef" }, { "platform.", "uuid" } },
        { { "numa", "guest_numa_id=0" }, { "numa: the VM has 0", "1;" } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(KumoVmConfig) theirs = make(NULL);
        g_autoptr(KumoVmConfig) own = make(rows[i].options);
        g_autoptr(GError) error = NULL;

        g_assert_false(kumo_vm_config_check_same_guest(theirs, own, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
        if (!strstr(error->message, rows[i].words[0]) || !strstr(error->message, rows[i].words[1]))
            g_error("row %zu: %s", i, error->message);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/config-guest/host-side", test_host_side);
    g_test_add_func("/config-guest/statistics", test_statistics);
    g_test_add_func("/config-guest/seen", test_seen);
    return g_test_run();
}
