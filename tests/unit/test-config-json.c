/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON: defaults, round trips, what Cloud Hypervisor's vm.info gives, refusals. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"

static const char default_json[] =
    "{\"cpus\": {\"boot_vcpus\": 1, \"max_vcpus\": 1, \"topology\": null, \"max_phys_bits\": 46,"
    "            \"nested\": true, \"kvm_hyperv\": false, \"affinity\": null,"
    "            \"features\": {\"amx\": false}, \"core_scheduling\": \"Vm\", \"cpu_mask\": null},"
    " \"memory\": {\"size\": 536870912, \"mergeable\": false, \"shared\": false,"
    "   \"hugepages\": false, \"hugepage_size\": null, \"prefault\": false, \"reserve\": false,"
    "   \"lock\": false, \"prefault_threads\": 0,"
    "   \"thp\": true, \"hotplug_method\": \"Acpi\", \"hotplug_size\": null, "
    "   \"hotplugged_size\": null, \"pci_device_id\": null, \"zones\": null},"
    " \"payload\": {\"firmware\": null, \"kernel\": null, \"cmdline\": null, \"initramfs\": null},"
    " \"disks\": null, \"net\": null, \"rate_limit_groups\": null,"
    " \"balloon\": null,"
    " \"rng\": {\"id\": null, \"pci_segment\": 0, \"pci_device_id\": null, \"src\": "
    "\"/dev/urandom\"},"
    " \"serial\": {\"mode\": \"Null\", \"file\": null, \"socket\": null,"
    "   \"tcp\": null, \"connect\": false, \"reconnect\": 0, \"append\": false, \"log_file\": "
    "null, \"log_append\": false},"
    " \"console\": {\"id\": null, \"pci_segment\": 0, \"pci_device_id\": null, \"mode\": \"Tty\", "
    "\"tcp\": null, \"connect\": false, \"reconnect\": 0, \"append\": false, \"log_file\": null, "
    "\"log_append\": false,"
    "   \"file\": null, \"socket\": null},"
    " \"debug_console\": {\"mode\": \"Off\", \"file\": null, \"iobase\": 233},"
    " \"numa\": null, \"pci_segments\": null, \"platform\": {\"num_pci_segments\": 1, "
    "\"system_manufacturer\": null, "
    "\"system_product_name\": null,"
    "   \"system_version\": null, \"system_serial_number\": null, \"system_uuid\": null,"
    "   \"system_sku_number\": null, \"system_family\": null, \"oem_strings\": null,"
    "   \"chassis_asset_tag\": null, \"rtc_offset\": 0},"
    " \"landlock_enable\": false, \"landlock_rules\": null}";

static json_t *parse(const char *text)
{
    json_error_t where;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &where);

    if (!json)
        g_error("%s: %s", text, where.text);
    return json;
}

static KumoVmConfig *read_config(const char *text)
{
    json_t *json = parse(text);
    g_autoptr(GError) error = NULL;
    KumoVmConfig *config = kumo_vm_config_from_json(json, &error);

    g_assert_no_error(error);
    g_assert_nonnull(config);
    json_decref(json);
    return config;
}

static void assert_json(const KumoVmConfig *config, const char *expected_text)
{
    json_t *expected = parse(expected_text);
    json_t *json = kumo_vm_config_to_json(config);

    if (!json_equal(json, expected)) {
        g_autofree char *text = json_dumps(json, JSON_INDENT(1));

        g_error("unexpected JSON: %s", text);
    }
    json_decref(json);
    json_decref(expected);
}

static void refused(const char *text, KumoErrorCode code, const char *word_1, const char *word_2)
{
    json_t *json = parse(text);
    g_autoptr(GError) error = NULL;

    g_assert_null(kumo_vm_config_from_json(json, &error));
    json_decref(json);
    g_assert_nonnull(error);
    if (!g_error_matches(error, KUMO_ERROR, (int)code) || !strstr(error->message, word_1) ||
        !strstr(error->message, word_2))
        g_error("%s: \"%s\" (code %d), wanted \"%s\" and \"%s\" (code %d)", text, error->message,
                error->code, word_1, word_2, code);
}

static void test_defaults(void)
{
    g_autoptr(KumoVmConfig) made = kumo_vm_config_new();
    g_autoptr(KumoVmConfig) read = read_config("{}");
    g_autoptr(KumoVmConfig) again = read_config(default_json);

    assert_json(made, default_json);
    assert_json(read, default_json);
    assert_json(again, default_json);
}

static void test_device_defaults(void)
{
    g_autoptr(KumoDiskConfig) disk = kumo_disk_config_new();
    g_autoptr(KumoNetConfig) net = kumo_net_config_new();
    json_t *disk_json = kumo_disk_config_to_json(disk);
    json_t *net_json = kumo_net_config_to_json(net);
    json_t *disk_expected =
        parse("{\"id\": null, \"pci_segment\": 0, \"pci_device_id\": null, \"path\": null,"
              " \"readonly\": false, \"direct\": false, \"num_queues\": 1, \"queue_size\": 128,"
              " \"serial\": null, \"image_type\": \"Unknown\", \"rate_limiter_config\": null,"
              " \"rate_limit_group\": null, \"queue_affinity\": null, \"sparse\": true,"
              " \"lock_granularity\": \"ByteRange\", \"disable_io_uring\": false,"
              " \"disable_aio\": false, \"write_threshold\": 0}");
    json_t *net_expected = parse(
        "{\"id\": null, \"pci_segment\": 0, \"pci_device_id\": null, \"tap\": null, \"ip\": null,"
        " \"mask\": null, \"mac\": null, \"host_mac\": null, \"mtu\": null, \"fds\": null,"
        " \"num_queues\": 2, \"queue_size\": 256, \"offload_tso\": true, \"offload_ufo\": true,"
        " \"offload_csum\": true, \"rate_limiter_config\": null, \"link_up\": true,"
        " \"queue_affinity\": null}");

    g_assert_true(json_equal(disk_json, disk_expected));
    g_assert_true(json_equal(net_json, net_expected));
    json_decref(disk_json);
    json_decref(net_json);
    json_decref(disk_expected);
    json_decref(net_expected);
}

static const char full_json[] =
    "{\"cpus\": {\"boot_vcpus\": 4, \"max_vcpus\": 8, \"topology\": {\"threads_per_core\": 2,"
    "   \"cores_per_die\": 2, \"dies_per_package\": 1, \"packages\": 2}, \"max_phys_bits\": 39,"
    "   \"nested\": false, \"kvm_hyperv\": true,"
    "   \"affinity\": [{\"vcpu\": 0, \"host_cpus\": [0, 1]}, {\"vcpu\": 7, \"host_cpus\": [3]}],"
    "   \"features\": {\"amx\": true}, \"core_scheduling\": \"Off\","
    "   \"cpu_mask\": [\"-avx2\", \"+invtsc\"]},"
    " \"memory\": {\"size\": 4294967296, \"mergeable\": false, \"shared\": true, \"hugepages\": "
    "true,"
    "   \"hugepage_size\": 2097152, \"prefault\": true, \"reserve\": true, \"thp\": false, "
    "   \"lock\": true, \"prefault_threads\": 3,"
    "\"hotplug_method\": \"VirtioMem\", \"hotplug_size\": 2147483648, "
    "   \"hotplugged_size\": 1073741824, \"pci_device_id\": 5, \"zones\": null},"
    " \"payload\": {\"firmware\": null, \"kernel\": \"/k\", \"cmdline\": \"a b\", \"initramfs\": "
    "\"/i\"},"
    " \"disks\": [{\"id\": \"d\", \"pci_segment\": 0, \"pci_device_id\": 7, \"path\": \"/d\","
    "   \"readonly\": true, \"direct\": true, \"num_queues\": 4, \"queue_size\": 256,"
    "   \"serial\": \"s\", \"image_type\": \"Raw\", \"rate_limiter_config\": null,"
    "   \"rate_limit_group\": \"g\", \"queue_affinity\": [{\"queue_index\": 0, \"host_cpus\": [1, "
    "2]},"
    "     {\"queue_index\": 3, \"host_cpus\": [5]}], \"sparse\": false,"
    "   \"lock_granularity\": \"Full\", \"disable_io_uring\": true, \"disable_aio\": true,"
    "   \"write_threshold\": 5368709120}],"
    " \"net\": [{\"id\": null, \"pci_segment\": 0, \"pci_device_id\": null, \"tap\": \"tap0\","
    "   \"ip\": \"10.0.0.1\", \"mask\": \"255.0.0.0\", \"mac\": \"52:54:00:00:00:01\","
    "   \"host_mac\": \"52:54:00:00:00:02\", \"mtu\": 1500, \"fds\": null, \"num_queues\": 4,"
    "   \"queue_size\": 512, \"offload_tso\": false, \"offload_ufo\": false, \"offload_csum\": "
    "false, \"rate_limiter_config\": {\"bandwidth\": {\"size\": 1048576, \"one_time_burst\": 2000,"
    "   \"refill_time\": 100}, \"ops\": null}, \"link_up\": false,"
    "   \"queue_affinity\": [{\"queue_index\": 1, \"host_cpus\": [0]}]}],"
    " \"rate_limit_groups\": [{\"id\": \"g\", \"rate_limiter_config\": {"
    "   \"bandwidth\": {\"size\": 10, \"one_time_burst\": null, \"refill_time\": 20},"
    "   \"ops\": {\"size\": 30, \"one_time_burst\": 40, \"refill_time\": 50},"
    "   \"read_bandwidth\": {\"size\": 1048576, \"one_time_burst\": 2, \"refill_time\": 3},"
    "   \"read_ops\": {\"size\": 4, \"one_time_burst\": 5, \"refill_time\": 6},"
    "   \"write_bandwidth\": {\"size\": 7, \"one_time_burst\": 8, \"refill_time\": 9},"
    "   \"write_ops\": {\"size\": 10, \"one_time_burst\": 11, \"refill_time\": 12},"
    "   \"op_size\": 4096}}],"
    " \"balloon\": {\"id\": null, \"pci_segment\": 0, \"pci_device_id\": null, \"size\": 268435456,"
    "   \"deflate_on_oom\": true, \"free_page_reporting\": true, \"statistics\": true,"
    "   \"stats_period\": 5},"
    " \"rng\": {\"id\": \"r\", \"pci_segment\": 0, \"pci_device_id\": 3, \"src\": \"/dev/random\"},"
    " \"serial\": {\"mode\": \"Socket\", \"file\": null, \"socket\": \"/s\","
    "   \"tcp\": null, \"connect\": false, \"reconnect\": 0, \"append\": false, \"log_file\": "
    "null, \"log_append\": false},"
    " \"console\": {\"id\": \"c\", \"pci_segment\": 0, \"pci_device_id\": null, \"mode\": "
    "\"File\", \"tcp\": null, \"connect\": false, \"reconnect\": 0, \"append\": false, "
    "\"log_file\": null, \"log_append\": false,"
    "   \"file\": \"/f\", \"socket\": null},"
    " \"debug_console\": {\"mode\": \"File\", \"file\": \"/g\", \"iobase\": 1026},"
    " \"numa\": null, \"pci_segments\": null, \"platform\": {\"num_pci_segments\": 1, "
    "\"system_manufacturer\": \"m\", "
    "\"system_product_name\": \"p\","
    "   \"system_version\": \"v\", \"system_serial_number\": \"sn\","
    "   \"system_uuid\": \"00112233-4455-6677-8899-aabbccddeeff\","
    "   \"system_sku_number\": \"k\", \"system_family\": \"f\", \"oem_strings\": [\"a\", \"b\"],"
    "   \"chassis_asset_tag\": \"t\", \"rtc_offset\": -3600},"
    " \"landlock_enable\": true, \"landlock_rules\": [{\"path\": \"/l\", \"access\": \"rw\"}]}";

static void test_round_trip(void)
{
    g_autoptr(KumoVmConfig) config = read_config(full_json);
    g_autoptr(KumoVmConfig) copy = kumo_vm_config_copy(config);
    g_autoptr(GError) error = NULL;

    assert_json(config, full_json);
    g_clear_pointer(&config, kumo_vm_config_free);
    assert_json(copy, full_json);
    g_assert_true(kumo_vm_config_validate(copy, &error));
    g_assert_no_error(error);
}

/* Option strings give the same description as JSON. */
static void test_options_give_json(void)
{
    static const char *const options[][2] = {
        { "cpus", "boot=4,max=8,topology=2:2:1:2,max_phys_bits=39,nested=off,kvm_hyperv=on,"
                  "affinity=[0@[0-1],7@[3]],features=amx,core_scheduling=off,"
                  "cpu_mask=[-avx2,+invtsc]" },
        { "memory",
          "size=4G,shared=on,hugepages=on,hugepage_size=2M,prefault=on,reserve=on,thp=off,"
          "lock=on,prefault_threads=3,"
          "hotplug_method=virtio-mem,hotplug_size=2G,hotplugged_size=1G,pci_device_id=5" },
        { "balloon",
          "size=256M,deflate_on_oom=on,free_page_reporting=on,statistics=on,stats_period=5" },
        { "kernel", "/k" },
        { "cmdline", "a b" },
        { "initramfs", "/i" },
        { "disk", "path=/d,id=d,pci_device_id=7,readonly=on,direct=on,num_queues=4,queue_size=256,"
                  "serial=s,image_type=raw,rate_limit_group=g,"
                  "queue_affinity=[0@[1-2],3@[5]],sparse=off,lock_granularity=full,"
                  "_disable_io_uring=on,_disable_aio=on,write_threshold=5G" },
        { "net", "tap=tap0,ip=10.0.0.1,mask=255.0.0.0,mac=52:54:00:00:00:01,"
                 "host_mac=52:54:00:00:00:02,mtu=1500,num_queues=4,queue_size=512,offload_tso=off,"
                 "offload_ufo=off,offload_csum=off,bw_size=1M,bw_one_time_burst=2000,"
                 "bw_refill_time=100,link_up=off,queue_affinity=[1@[0]]" },
        { "rate-limit-group",
          "id=g,bw_size=10,bw_refill_time=20,ops_size=30,ops_one_time_burst=40,"
          "ops_refill_time=50,read_bw_size=1M,read_bw_one_time_burst=2,"
          "read_bw_refill_time=3,read_ops_size=4,read_ops_one_time_burst=5,"
          "read_ops_refill_time=6,write_bw_size=7,write_bw_one_time_burst=8,"
          "write_bw_refill_time=9,write_ops_size=10,write_ops_one_time_burst=11,"
          "write_ops_refill_time=12,op_size=4K" },
        { "rng", "src=/dev/random,id=r,pci_device_id=3" },
        { "serial", "socket=/s" },
        { "console", "file=/f,id=c" },
        { "landlock", "" },
        { "landlock-rules", "path=/l,access=rw" },
        { "debug-console", "file=/g,iobase=0x402" },
        { "platform", "system_manufacturer=m,system_product_name=p,system_version=v,"
                      "system_serial_number=sn,system_uuid=00112233-4455-6677-8899-aabbccddeeff,"
                      "system_sku_number=k,system_family=f,oem_strings=[a,b],chassis_asset_tag=t,"
                      "rtc_offset=-3600" },
    };
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autoptr(GError) error = NULL;

        kumo_option_apply(config, options[i][0], options[i][1], &error);
        g_assert_no_error(error);
    }
    assert_json(config, full_json);
}

/* What vm.info of Cloud Hypervisor gives: keys that kumo does not have yet, at their defaults. */
static void test_cloud_hypervisor_info(void)
{
    g_autoptr(KumoVmConfig) config = read_config(
        "{\"cpus\": {\"boot_vcpus\": 2, \"max_vcpus\": 2, \"topology\": null, \"kvm_hyperv\": "
        "false,"
        "  \"max_phys_bits\": 46, \"affinity\": null, \"features\": {\"amx\": false}, \"nested\": "
        "true,"
        "  \"core_scheduling\": \"Vm\", \"profile\": \"Host\"},"
        " \"memory\": {\"size\": 536870912, \"mergeable\": false, \"hotplug_method\": \"Acpi\","
        "  \"hotplug_size\": null, \"hotplugged_size\": null, \"shared\": false, \"hugepages\": "
        "false,"
        "  \"hugepage_size\": null, \"prefault\": false, \"reserve\": false, \"zones\": null,"
        "  \"thp\": true},"
        " \"payload\": {\"firmware\": null, \"kernel\": \"/k\", \"cmdline\": null, \"initramfs\": "
        "null,"
        "  \"igvm\": null, \"host_data\": null, \"fw_cfg_config\": null},"
        " \"rate_limit_groups\": null,"
        " \"disks\": [{\"path\": \"/d\", \"readonly\": false, \"direct\": false, \"iommu\": false,"
        "  \"num_queues\": 1, \"queue_size\": 128, \"vhost_user\": false, \"vhost_socket\": null,"
        "  \"rate_limit_group\": null, \"rate_limiter_config\": null, \"id\": \"_disk0\","
        "  \"disable_io_uring\": false, \"disable_aio\": false, \"pci_segment\": 0, \"serial\": "
        "null,"
        "  \"queue_affinity\": null, \"backing_files\": false, \"sparse\": true,"
        "  \"image_type\": \"Unknown\", \"lock_granularity\": \"ByteRange\"}],"
        " \"net\": [{\"tap\": null, \"ip\": null, \"mask\": null, \"mac\": \"52:54:00:00:00:01\","
        "  \"host_mac\": null, \"mtu\": null, \"iommu\": false, \"num_queues\": 2,"
        "  \"queue_size\": 256, \"vhost_user\": false, \"vhost_socket\": null,"
        "  \"vhost_mode\": \"Client\", \"id\": \"_net1\", \"fds\": null, \"rate_limiter_config\": "
        "null,"
        "  \"pci_segment\": 0, \"offload_tso\": true, \"offload_ufo\": true, \"offload_csum\": "
        "true}],"
        " \"rng\": {\"src\": \"/dev/urandom\", \"iommu\": false, \"id\": \"__rng\"}, \"balloon\": "
        "null,"
        " \"fs\": null, \"pmem\": [], \"generic_vhost_user\": null,"
        " \"serial\": {\"file\": null, \"mode\": \"Null\", \"iommu\": false, \"socket\": null},"
        " \"console\": {\"file\": null, \"mode\": \"Tty\", \"iommu\": false, \"socket\": null,"
        "  \"id\": \"__console\"},"
        " \"debug_console\": {\"file\": null, \"mode\": \"Off\", \"iobase\": 233},"
        " \"devices\": null, \"user_devices\": null, \"vdpa\": null, \"vsock\": null,"
        " \"pvmemcontrol\": null, \"pvpanic\": false, \"iommu\": false, \"numa\": null,"
        " \"watchdog\": false, \"rtc\": null, \"gdb\": false, \"pci_segments\": null,"
        " \"platform\": {\"num_pci_segments\": 1, \"iommu_segments\": null,"
        "  \"iommu_address_width_bits\": 64, \"serial_number\": \"x\", \"uuid\": null,"
        "  \"oem_strings\": null, \"tdx\": false, \"sev_snp\": false, \"iommufd\": false,"
        "  \"vfio_p2p_dma\": true}, \"tpm\": null, \"landlock_enable\": false,"
        " \"landlock_rules\": null, \"ivshmem\": null}");
    g_autoptr(GError) error = NULL;

    g_assert_true(kumo_vm_config_validate(config, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(config->cpus.boot_vcpus, ==, 2);
    g_assert_cmpstr(config->platform.system_serial_number, ==, "x");
    g_assert_cmpstr(((KumoNetConfig *)config->nets->pdata[0])->pci.id, ==, "_net1");
}

static void test_max_vcpus_follows(void)
{
    g_autoptr(KumoVmConfig) config = read_config("{\"cpus\": {\"boot_vcpus\": 3}}");

    g_assert_cmpuint(config->cpus.max_vcpus, ==, 3);
}

static void test_refusals(void)
{
    static const struct {
        const char *text;
        KumoErrorCode code;
        const char *word_1, *word_2;
    } rows[] = {
        { "[]", KUMO_ERROR_INVALID, "the configuration: a list", "an object" },
        { "{\"bogus\": 1}", KUMO_ERROR_INVALID, "\"bogus\"", "cpus, memory, payload, disks, net" },
        { "{\"cpus\": {\"boot\": 1}}", KUMO_ERROR_INVALID, "cpus: unknown field \"boot\"",
          "boot_vcpus" },
        { "{\"cpus\": null}", KUMO_ERROR_INVALID, "cpus: null", "object" },
        { "{\"cpus\": 1}", KUMO_ERROR_INVALID, "cpus: a number", "object" },
        { "{\"cpus\": {\"boot_vcpus\": \"1\"}}", KUMO_ERROR_INVALID, "cpus.boot_vcpus: a string",
          "from 1 to 8192" },
        { "{\"cpus\": {\"boot_vcpus\": 1.0}}", KUMO_ERROR_INVALID, "cpus.boot_vcpus", "fraction" },
        { "{\"cpus\": {\"boot_vcpus\": null}}", KUMO_ERROR_INVALID, "cpus.boot_vcpus", "null" },
        { "{\"cpus\": {\"boot_vcpus\": -1}}", KUMO_ERROR_INVALID, "cpus.boot_vcpus: -1", "from 1" },
        { "{\"cpus\": {\"boot_vcpus\": 8193}}", KUMO_ERROR_INVALID, "cpus.boot_vcpus: 8193",
          "8192" },
        { "{\"cpus\": {\"boot_vcpus\": 4294967297}}", KUMO_ERROR_INVALID, "4294967297", "8192" },
        { "{\"cpus\": {\"boot_vcpus\": 9223372036854775807}}", KUMO_ERROR_INVALID, "922337",
          "8192" },
        { "{\"cpus\": {\"nested\": 1}}", KUMO_ERROR_INVALID, "cpus.nested: a number",
          "true or false" },
        { "{\"cpus\": {\"affinity\": [{\"vcpu\": 0, \"host_cpus\": [-1]}]}}", KUMO_ERROR_INVALID,
          "cpus.affinity[0].host_cpus[0]: -1", "from 0 to 65535" },
        { "{\"cpus\": {\"affinity\": [{\"vcpu\": 0, \"host_cpus\": 3}]}}", KUMO_ERROR_INVALID,
          "cpus.affinity[0].host_cpus: a number", "a list of numbers" },
        { "{\"cpus\": {\"features\": {\"x\": true}}}", KUMO_ERROR_INVALID,
          "cpus.features: unknown field \"x\"", "" },
        { "{\"cpus\": {\"core_scheduling\": \"off\"}}", KUMO_ERROR_INVALID,
          "cpus.core_scheduling: \"off\"", "one of Vm, Vcpu, Off" },
        { "{\"cpus\": {\"core_scheduling\": false}}", KUMO_ERROR_INVALID,
          "cpus.core_scheduling: true or false", "" },
        { "{\"cpus\": {\"profile\": \"x\"}}", KUMO_ERROR_NOT_SUPPORTED,
          "cpus.profile is not supported yet", "" },
        { "{\"cpus\": {\"topology\": {\"threads_per_core\": 3}}}", KUMO_ERROR_INVALID,
          "cpus.topology.threads_per_core: 3", "from 1 to 2" },
        { "{\"memory\": {\"size\": -4096}}", KUMO_ERROR_INVALID, "memory.size: -4096", "bytes" },
        { "{\"memory\": {\"zones\": [{\"host_numa_node\": 1024}]}}", KUMO_ERROR_INVALID,
          "memory.zones[0].host_numa_node: 1024", "1023" },
        { "{\"memory\": {\"zones\": [{\"mergeable\": 1}]}}", KUMO_ERROR_INVALID,
          "memory.zones[0].mergeable: a number", "true or false" },
        { "{\"memory\": {\"hotplug_method\": \"virtio-mem\"}}", KUMO_ERROR_INVALID,
          "memory.hotplug_method: \"virtio-mem\"", "Acpi, VirtioMem" },
        { "{\"payload\": {\"kernel\": 1}}", KUMO_ERROR_INVALID, "payload.kernel: a number",
          "a string" },
        { "{\"payload\": {\"igvm\": \"/x\"}}", KUMO_ERROR_NOT_SUPPORTED, "payload.igvm", "yet" },
        { "{\"disks\": {}}", KUMO_ERROR_INVALID, "disks: an object", "a list of objects" },
        { "{\"disks\": [null]}", KUMO_ERROR_INVALID, "disks[0]: null", "object" },
        { "{\"disks\": [{\"path\": \"/a\"}, {\"queue_size\": 100}]}", KUMO_ERROR_INVALID,
          "disks[1].queue_size: 100", "power of two from 4 to 32768" },
        { "{\"disks\": [{\"rate_limiter_config\": {\"bandwidth\": {\"size\": -1}}}]}",
          KUMO_ERROR_INVALID, "disks[0].rate_limiter_config.bandwidth.size: -1", "" },
        { "{\"net\": [{\"rate_limiter_config\": {\"ops\": {\"refill_time\": 86400001}}}]}",
          KUMO_ERROR_INVALID, "net[0].rate_limiter_config.ops.refill_time: 86400001", "86400000" },
        { "{\"net\": [{\"rate_limiter_config\": {\"bw\": {}}}]}", KUMO_ERROR_INVALID,
          "net[0].rate_limiter_config: unknown field \"bw\"", "bandwidth, ops" },
        { "{\"net\": [{\"bw_size\": 1}]}", KUMO_ERROR_INVALID, "\"bw_size\"", "" },
        { "{\"disks\": [{\"queue_affinity\": [{\"host_cpus\": [-1]}]}]}", KUMO_ERROR_INVALID,
          "disks[0].queue_affinity[0].host_cpus[0]: -1", "to 65535" },
        { "{\"disks\": [{\"queue_affinity\": [{\"host_cpus\": 1}]}]}", KUMO_ERROR_INVALID,
          "disks[0].queue_affinity[0].host_cpus: a number", "a list of numbers" },
        { "{\"disks\": [{\"lock_granularity\": \"full\"}]}", KUMO_ERROR_INVALID,
          "disks[0].lock_granularity: \"full\"", "ByteRange, Full" },
        { "{\"disks\": [{\"image_type\": \"Qcow2\"}]}", KUMO_ERROR_NOT_SUPPORTED,
          "disks[0].image_type: \"Qcow2\" is not supported yet", "" },
        { "{\"disks\": [{\"image_type\": \"raw\"}]}", KUMO_ERROR_INVALID,
          "disks[0].image_type: \"raw\"", "Unknown, Raw" },
        { "{\"disks\": [{\"pci_device_id\": 32}]}", KUMO_ERROR_INVALID,
          "disks[0].pci_device_id: 32", "31" },
        { "{\"disks\": [{\"iommu\": true}]}", KUMO_ERROR_NOT_SUPPORTED, "disks[0].iommu", "yet" },
        { "{\"net\": [{\"fds\": [\"3\"]}]}", KUMO_ERROR_INVALID, "net[0].fds: a string",
          "descriptors" },
        { "{\"net\": [{\"fds\": 3}]}", KUMO_ERROR_INVALID, "net[0].fds: a number", "descriptors" },
        { "{\"net\": [{\"mtu\": 100}]}", KUMO_ERROR_INVALID, "net[0].mtu: 100", "1280" },
        { "{\"net\": [{\"vhost_mode\": \"Server\"}]}", KUMO_ERROR_NOT_SUPPORTED,
          "net[0].vhost_mode", "yet" },
        { "{\"serial\": {\"mode\": \"tty\"}}", KUMO_ERROR_INVALID, "serial.mode: \"tty\"",
          "Off, Null, Pty, Tty, File, Socket" },
        { "{\"debug_console\": {\"mode\": \"Socket\"}}", KUMO_ERROR_INVALID,
          "debug_console.mode: \"Socket\"", "Off, Null, Pty, Tty, File" },
        { "{\"debug_console\": {\"iobase\": 65536}}", KUMO_ERROR_INVALID,
          "debug_console.iobase: 65536", "65535" },
        { "{\"platform\": {\"num_pci_segments\": 97}}", KUMO_ERROR_INVALID,
          "platform.num_pci_segments: 97", "96" },
        { "{\"platform\": {\"rtc_offset\": -2000000001}}", KUMO_ERROR_INVALID,
          "platform.rtc_offset: -2000000001", "from -2000000000 to 2000000000" },
        { "{\"platform\": {\"rtc_offset\": \"1\"}}", KUMO_ERROR_INVALID, "platform.rtc_offset",
          "from -2000000000 to 2000000000" },
        { "{\"platform\": {\"oem_strings\": [1]}}", KUMO_ERROR_INVALID,
          "platform.oem_strings[0]: a number", "a string" },
        { "{\"balloon\": {\"size\": -1}}", KUMO_ERROR_INVALID, "balloon.size: -1", "bytes" },
        { "{\"fs\": [{}]}", KUMO_ERROR_NOT_SUPPORTED, "fs is not supported yet", "" },
        { "{\"watchdog\": true}", KUMO_ERROR_NOT_SUPPORTED, "watchdog is not supported yet", "" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        refused(rows[i].text, rows[i].code, rows[i].word_1, rows[i].word_2);
}

static void test_long_and_zero_strings(void)
{
    g_autofree char *path = g_strnfill(5000, 'x');
    g_autofree char *text = g_strdup_printf("{\"payload\": {\"kernel\": \"%s\"}}", path);
    g_autoptr(GError) error = NULL;
    json_t *json;

    refused(text, KUMO_ERROR_INVALID, "payload.kernel", "at most 4095 bytes");
    json = json_loads("{\"payload\": {\"kernel\": \"a\\u0000b\"}}", JSON_ALLOW_NUL, NULL);
    g_assert_null(kumo_vm_config_from_json(json, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, "payload.kernel"));
    json_decref(json);
    g_assert_null(kumo_vm_config_from_json(NULL, NULL));
}

static void test_fds(void)
{
    g_autoptr(KumoVmConfig) config =
        read_config("{\"payload\": {\"kernel\": \"/k\"}, \"cpus\": {\"boot_vcpus\": 2},"
                    " \"net\": [{\"fds\": [3, 4], \"num_queues\": 4}, {}, {\"fds\": [-1]}]}");
    g_autoptr(KumoVmConfig) copy = NULL;
    g_autoptr(GError) error = NULL;
    int fds[3];
    int fd;
    json_t *json;

    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
        fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
    fd = fds[2];
    g_assert_false(kumo_vm_config_validate(config, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, "net[0].fds[0]"));
    g_clear_error(&error);
    g_assert_false(kumo_vm_config_take_fds(config, fds, 2, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_cmpint(fds[0], !=, -1);
    g_assert_true(kumo_vm_config_take_fds(config, fds, 3, &error));
    g_assert_cmpint(fds[0], ==, -1);
    g_assert_true(kumo_vm_config_validate(config, &error));
    g_assert_no_error(error);
    json = kumo_vm_config_to_json(config);
    g_assert_cmpint(
        json_integer_value(json_array_get(
            json_object_get(json_array_get(json_object_get(json, "net"), 0), "fds"), 0)),
        ==, -1);
    json_decref(json);
    copy = kumo_vm_config_copy(config);
    g_clear_pointer(&config, kumo_vm_config_free);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, -1);
    fd = g_array_index(((KumoNetConfig *)copy->nets->pdata[2])->fds, int, 0);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, FD_CLOEXEC);
}

/* A full description with bytes changed: whatever still is JSON is read, checked and written. */
static void test_garbage(void)
{
    static const char alphabet[] = "0123456789-e.,:[]{}\"ntfax \\";
    g_autoptr(GRand) random = g_rand_new_with_seed(42);
    size_t len = strlen(full_json);
    unsigned read = 0;

    for (unsigned i = 0; i < 20000; i++) {
        g_autofree char *text = g_strdup(full_json);
        g_autoptr(KumoVmConfig) config = NULL;
        g_autoptr(GError) error = NULL;
        json_t *json;

        for (int n = g_rand_int_range(random, 1, 4); n > 0; n--)
            text[g_rand_int_range(random, 0, (int)len)] =
                alphabet[g_rand_int_range(random, 0, (int)sizeof(alphabet) - 1)];
        json = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
        if (!json)
            continue;
        config = kumo_vm_config_from_json(json, &error);
        g_assert_true((config != NULL) == (error == NULL));
        json_decref(json);
        if (!config) {
            g_assert_true(g_utf8_validate(error->message, -1, NULL));
            continue;
        }
        read++;
        kumo_vm_config_validate(config, NULL);
        json = kumo_vm_config_to_json(config);
        g_clear_pointer(&config, kumo_vm_config_free);
        config = kumo_vm_config_from_json(json, &error);
        g_assert_no_error(error);
        json_decref(json);
    }
    g_assert_cmpuint(read, >, 100);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/config/json/defaults", test_defaults);
    g_test_add_func("/config/json/device-defaults", test_device_defaults);
    g_test_add_func("/config/json/round-trip", test_round_trip);
    g_test_add_func("/config/json/options-give-json", test_options_give_json);
    g_test_add_func("/config/json/cloud-hypervisor-info", test_cloud_hypervisor_info);
    g_test_add_func("/config/json/max-vcpus", test_max_vcpus_follows);
    g_test_add_func("/config/json/refusals", test_refusals);
    g_test_add_func("/config/json/strings", test_long_and_zero_strings);
    g_test_add_func("/config/json/fds", test_fds);
    g_test_add_func("/config/json/garbage", test_garbage);
    return g_test_run();
}
