/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Combinations over the sections, and the devices' ids. */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"

enum { OPTIONS_MAX = 3 };

typedef struct {
    const char *options[OPTIONS_MAX][2];
    KumoErrorCode code;
    const char *words[2];
} Refusal;

static KumoVmConfig *make(const char *const options[][2], size_t n_options)
{
    KumoVmConfig *config = kumo_vm_config_new();

    for (size_t i = 0; i < n_options && options[i][0]; i++) {
        g_autoptr(GError) error = NULL;

        kumo_option_apply(config, options[i][0], options[i][1], &error);
        g_assert_no_error(error);
    }
    return config;
}

static void test_refusals(void)
{
    static const Refusal rows[] = {
        { { { "rng", "src=/x" } }, KUMO_ERROR_INVALID, { "payload", "kernel" } },
        { { { "kernel", "/k" }, { "firmware", "/f" } },
          KUMO_ERROR_INVALID,
          { "payload", "exclude" } },
        { { { "kernel", "/k" }, { "cpus", "boot=2,max=1" } },
          KUMO_ERROR_INVALID,
          { "cpus.max_vcpus: 1", "2" } },
        { { { "kernel", "/k" }, { "cpus", "boot=4,topology=1:1:1:2" } },
          KUMO_ERROR_INVALID,
          { "cpus.topology: 1:1:1:2", "max_vcpus, 4" } },
        { { { "kernel", "/k" },
            { "cpus", "boot=1,max=600" },
            { "platform", "num_pci_segments=96" } },
          KUMO_ERROR_INVALID,
          { "cpus.max_vcpus 600", "platform.num_pci_segments 96" } },
        { { { "kernel", "/k" }, { "cpus", "boot=2,affinity=[2@0]" } },
          KUMO_ERROR_INVALID,
          { "cpus.affinity[0].vcpu: 2", "max_vcpus, 2" } },
        { { { "kernel", "/k" }, { "cpus", "boot=2,affinity=[1@0,1@2]" } },
          KUMO_ERROR_INVALID,
          { "cpus.affinity[1].vcpu: 1", "twice" } },
        { { { "kernel", "/k" }, { "cpus", "boot=2,affinity=[1@[]]" } },
          KUMO_ERROR_INVALID,
          { "cpus.affinity[0].host_cpus", "empty" } },
        { { { "kernel", "/k" }, { "cpus", "cpu_mask=[-avx,-avx1024]" } },
          KUMO_ERROR_INVALID,
          { "cpus.cpu_mask[1]: \"-avx1024\"", "no processor feature" } },
        { { { "kernel", "/k" }, { "cpus", "cpu_mask=[avx]" } },
          KUMO_ERROR_INVALID,
          { "cpus.cpu_mask[0]: \"avx\"", "- or +" } },
        { { { "kernel", "/k" }, { "cpus", "cpu_mask=[-avx,+avx]" } },
          KUMO_ERROR_INVALID,
          { "cpus.cpu_mask[1]", "twice" } },
        { { { "kernel", "/k" }, { "memory", "size=0" } },
          KUMO_ERROR_INVALID,
          { "memory.size: 0", "there are none" } },
        { { { "kernel", "/k" }, { "memory", "size=4097" } },
          KUMO_ERROR_INVALID,
          { "memory.size: 4097", "4096" } },
        { { { "kernel", "/k" }, { "memory", "size=3M,hugepages=on,hugepage_size=2M" } },
          KUMO_ERROR_INVALID,
          { "memory.size", "2097152" } },
        { { { "kernel", "/k" }, { "memory", "hugepage_size=2M" } },
          KUMO_ERROR_INVALID,
          { "memory.hugepage_size", "hugepages" } },
        { { { "kernel", "/k" },
            { "memory", "size=0,hotplug_size=1G" },
            { "memory-zone", "id=a,size=1G" } },
          KUMO_ERROR_INVALID,
          { "memory.hotplug_size: 1073741824", "each zone" } },
        { { { "kernel", "/k" }, { "memory", "shared=on,mergeable=on" } },
          KUMO_ERROR_INVALID,
          { "shared", "mergeable" } },
        { { { "kernel", "/k" }, { "disk", "readonly=on" } },
          KUMO_ERROR_INVALID,
          { "disks[0].path", "" } },
        { { { "kernel", "/k" }, { "disk", "path=/a" }, { "disk", "path=/b,num_queues=2" } },
          KUMO_ERROR_INVALID,
          { "disks[1].num_queues: 2", "at most 1" } },
        { { { "kernel", "/k" }, { "cpus", "boot=1,max=4" }, { "disk", "path=/a,num_queues=5" } },
          KUMO_ERROR_INVALID,
          { "disks[0].num_queues: 5", "at most 4" } },
        { { { "kernel", "/k" }, { "cpus", "boot=1,max=4" }, { "net", "num_queues=10" } },
          KUMO_ERROR_INVALID,
          { "net[0].num_queues: 10", "at most 8" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,queue_affinity=[1@[0]]" } },
          KUMO_ERROR_INVALID,
          { "disks[0].queue_affinity[0].queue_index: 1", "below num_queues, 1" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,queue_affinity=[0@[0],0@[1]]" } },
          KUMO_ERROR_INVALID,
          { "disks[0].queue_affinity[1].queue_index: 0", "twice" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,queue_affinity=[0@[]]" } },
          KUMO_ERROR_INVALID,
          { "disks[0].queue_affinity[0].host_cpus", "empty" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,bw_size=1" } },
          KUMO_ERROR_INVALID,
          { "disks[0].rate_limiter_config.bandwidth", "refill_time 0" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,read_ops_size=1" } },
          KUMO_ERROR_INVALID,
          { "disks[0].rate_limiter_config.read_ops", "refill_time 0" } },
        { { { "kernel", "/k" },
            { "disk", "path=/a,write_bw_size=1,write_bw_refill_time=1,op_size=1" } },
          KUMO_ERROR_INVALID,
          { "disks[0].rate_limiter_config.op_size: 1", "operations" } },
        { { { "kernel", "/k" }, { "net", "ops_refill_time=1" } },
          KUMO_ERROR_INVALID,
          { "net[0].rate_limiter_config.ops", "size 0" } },
        { { { "kernel", "/k" }, { "net", "bw_one_time_burst=1" } },
          KUMO_ERROR_INVALID,
          { "net[0].rate_limiter_config.bandwidth", "both" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,rate_limit_group=g" } },
          KUMO_ERROR_INVALID,
          { "disks[0].rate_limit_group: \"g\"", "" } },
        { { { "kernel", "/k" },
            { "rate-limit-group", "id=g,bw_size=1,bw_refill_time=1" },
            { "disk", "path=/a,rate_limit_group=g,ops_size=1,ops_refill_time=1" } },
          KUMO_ERROR_INVALID,
          { "disks[0]", "exclude" } },
        { { { "kernel", "/k" }, { "rate-limit-group", "bw_size=1,bw_refill_time=1" } },
          KUMO_ERROR_INVALID,
          { "rate_limit_groups[0].id", "missing" } },
        { { { "kernel", "/k" },
            { "rate-limit-group", "id=g,bw_size=1,bw_refill_time=1" },
            { "rate-limit-group", "id=g,bw_size=1,bw_refill_time=1" } },
          KUMO_ERROR_CONFLICT,
          { "rate_limit_groups[1].id: \"g\"", "twice" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,id=__rng" } },
          KUMO_ERROR_INVALID,
          { "disks[0].id: \"__rng\"", "__" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,id=a/b" } },
          KUMO_ERROR_INVALID,
          { "\"a/b\"", "'/'" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,id=x" }, { "net", "id=x" } },
          KUMO_ERROR_CONFLICT,
          { "net[0].id: \"x\"", "disks[0]" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,pci_segment=1" } },
          KUMO_ERROR_INVALID,
          { "disks[0].pci_segment: 1", "num_pci_segments, 1" } },
        { { { "kernel", "/k" }, { "pci-segment", "pci_segment=1" } },
          KUMO_ERROR_INVALID,
          { "pci_segments[0].pci_segment: 1", "num_pci_segments" } },
        { { { "kernel", "/k" },
            { "pci-segment", "pci_segment=0" },
            { "pci-segment", "pci_segment=0" } },
          KUMO_ERROR_INVALID,
          { "pci_segments[1].pci_segment: 0", "twice" } },
        { { { "kernel", "/k" }, { "disk", "path=/a,pci_device_id=0" } },
          KUMO_ERROR_INVALID,
          { "disks[0].pci_device_id: 0", "from 1 to 31" } },
        { { { "kernel", "/k" },
            { "disk", "path=/a,pci_device_id=5" },
            { "rng", "pci_device_id=5" } },
          KUMO_ERROR_CONFLICT,
          { "rng.pci_device_id: 5", "disks[0]" } },
        { { { "kernel", "/k" }, { "net", "num_queues=3" } },
          KUMO_ERROR_INVALID,
          { "net[0].num_queues: 3", "even" } },
        { { { "kernel", "/k" }, { "net", "num_queues=4" } },
          KUMO_ERROR_INVALID,
          { "net[0].num_queues: 4", "at most 2" } },
        { { { "kernel", "/k" }, { "net", "ip=10.0.0.1" } },
          KUMO_ERROR_INVALID,
          { "net[0]", "mask" } },
        { { { "kernel", "/k" }, { "net", "ip=10.0.0.256,mask=255.0.0.0" } },
          KUMO_ERROR_INVALID,
          { "net[0].ip: \"10.0.0.256\"", "IPv4" } },
        { { { "kernel", "/k" }, { "net", "ip=fd00::1,mask=255.0.0.0" } },
          KUMO_ERROR_INVALID,
          { "net[0]", "same family" } },
        { { { "kernel", "/k" }, { "net", "mac=53:54:00:00:00:01" } },
          KUMO_ERROR_INVALID,
          { "net[0].mac: \"53:54:00:00:00:01\"", "unicast" } },
        { { { "kernel", "/k" }, { "net", "mac=00:00:00:00:00:00" } },
          KUMO_ERROR_INVALID,
          { "net[0].mac", "" } },
        { { { "kernel", "/k" }, { "net", "mac=52-54-00-00-00-01" } },
          KUMO_ERROR_INVALID,
          { "net[0].mac", "" } },
        { { { "kernel", "/k" }, { "net", "host_mac=52:54" } },
          KUMO_ERROR_INVALID,
          { "net[0].host_mac", "" } },
        { { { "kernel", "/k" }, { "net", "tap=a/b" } },
          KUMO_ERROR_INVALID,
          { "net[0].tap: \"a/b\"", "" } },
        { { { "kernel", "/k" }, { "net", "tap=t,fd=1000" } },
          KUMO_ERROR_INVALID,
          { "tap and fds", "" } },
        { { { "kernel", "/k" }, { "net", "fd=[1000,1001]" } },
          KUMO_ERROR_INVALID,
          { "net[0].num_queues: 2", "must be 4" } },
        { { { "kernel", "/k" }, { "net", "offload_csum=off" } },
          KUMO_ERROR_INVALID,
          { "net[0].offload_csum", "offload_tso" } },
        { { { "kernel", "/k" }, { "serial", "file=" } },
          KUMO_ERROR_INVALID,
          { "serial.file", "File" } },
        { { { "kernel", "/k" }, { "serial", "socket=" } },
          KUMO_ERROR_INVALID,
          { "serial.socket", "Socket" } },
        { { { "kernel", "/k" }, { "serial", "tcp=host" } },
          KUMO_ERROR_INVALID,
          { "serial.tcp: \"host\"", "port" } },
        { { { "kernel", "/k" }, { "serial", "tcp=host:65536" } },
          KUMO_ERROR_INVALID,
          { "serial.tcp: \"host:65536\"", "port" } },
        { { { "kernel", "/k" }, { "console", "pty,connect=on" } },
          KUMO_ERROR_INVALID,
          { "console.connect", "Pty" } },
        { { { "kernel", "/k" }, { "console", "socket=/s,reconnect=3" } },
          KUMO_ERROR_INVALID,
          { "console.reconnect: 3", "connect" } },
        { { { "kernel", "/k" }, { "platform", "uuid=x" } },
          KUMO_ERROR_INVALID,
          { "platform.system_uuid: \"x\"", "" } },
        { { { "kernel", "/k" }, { "platform", "oem_strings=[a,\"\"]" } },
          KUMO_ERROR_INVALID,
          { "platform.oem_strings[1]", "empty" } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(KumoVmConfig) config = make(rows[i].options, OPTIONS_MAX);
        g_autoptr(GError) error = NULL;

        if (kumo_vm_config_validate(config, &error) ||
            !g_error_matches(error, KUMO_ERROR, (int)rows[i].code) ||
            !strstr(error->message, rows[i].words[0]) || !strstr(error->message, rows[i].words[1]))
            g_error("row %zu: \"%s\" (code %d)", i, error ? error->message : "accepted",
                    error ? error->code : -1);
    }
}

/* All consoles may be on the terminal: virtio-console is by default. */
static void test_one_terminal(void)
{
    static const char *const options[][2] = {
        { "kernel", "/k" },
        { "serial", "tty" },
        { "debug-console", "tty" },
    };

    for (size_t n = 1; n <= G_N_ELEMENTS(options); n++) {
        g_autoptr(KumoVmConfig) config = make(options, n);
        g_autoptr(GError) error = NULL;

        g_assert_cmpint(config->console.mode, ==, KUMO_CONSOLE_TTY);
        g_assert_true(kumo_vm_config_validate(config, &error));
        g_assert_no_error(error);
    }
}

/* A configuration that was put together in memory goes through the same range checks. */
static void test_ranges_of_members(void)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    KumoDiskConfig *disk = kumo_disk_config_new();

    config->payload.kernel = g_strdup("/k");
    disk->path = g_strdup("/d");
    disk->queue_size = 100;
    g_ptr_array_add(config->disks, disk);
    g_assert_false(kumo_vm_config_validate(config, &error));
    g_assert_nonnull(strstr(error->message, "disks[0].queue_size: 100"));
    g_clear_error(&error);
    disk->queue_size = 128;
    config->console.mode = (KumoConsoleMode)77;
    g_assert_false(kumo_vm_config_validate(config, &error));
    g_assert_nonnull(strstr(error->message, "console.mode: 77"));
    g_clear_error(&error);
    config->console.mode = KUMO_CONSOLE_SOCKET;
    g_assert_false(kumo_vm_config_validate(config, &error));
    g_clear_error(&error);
    config->console.mode = KUMO_CONSOLE_OFF;
    disk->pci.id = g_strdup("\xff");
    g_assert_false(kumo_vm_config_validate(config, &error));
    g_assert_nonnull(strstr(error->message, "disks[0].id"));
}

static void test_ids(void)
{
    static const char *const options[][2] = {
        { "kernel", "/k" },
        { "disk", "path=/a" },
        { "disk", "path=/b,id=_disk0" },
        { "disk", "path=/c" },
        { "net", "mac=52:54:00:00:00:01" },
    };
    g_autoptr(KumoVmConfig) config = make(options, G_N_ELEMENTS(options));
    g_autoptr(GError) error = NULL;

    for (unsigned round = 0; round < 2; round++) {
        g_assert_true(kumo_vm_config_validate(config, &error));
        g_assert_no_error(error);
        g_assert_cmpstr(((KumoDiskConfig *)config->disks->pdata[0])->pci.id, ==, "_disk1");
        g_assert_cmpstr(((KumoDiskConfig *)config->disks->pdata[1])->pci.id, ==, "_disk0");
        g_assert_cmpstr(((KumoDiskConfig *)config->disks->pdata[2])->pci.id, ==, "_disk2");
        g_assert_cmpstr(((KumoNetConfig *)config->nets->pdata[0])->pci.id, ==, "_net0");
        g_assert_cmpstr(config->rng.pci.id, ==, "__rng");
        g_assert_cmpstr(config->console.pci.id, ==, "__console");
    }
}

static void test_too_many_devices(void)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;

    config->payload.kernel = g_strdup("/k");
    for (unsigned i = 0; i < 29; i++)
        g_assert_true(kumo_option_apply(config, "disk", "path=/d", NULL));
    g_assert_true(kumo_vm_config_validate(config, &error));
    g_assert_true(kumo_option_apply(config, "disk", "path=/d", NULL));
    g_assert_false(kumo_vm_config_validate(config, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/config/validate/refusals", test_refusals);
    g_test_add_func("/config/validate/one-terminal", test_one_terminal);
    g_test_add_func("/config/validate/ranges", test_ranges_of_members);
    g_test_add_func("/config/validate/ids", test_ids);
    g_test_add_func("/config/validate/too-many", test_too_many_devices);
    return g_test_run();
}
