/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Option strings: grammar, values, refusals. */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"

static KumoVmConfig *apply(const char *option, const char *value)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    bool ok = kumo_option_apply(config, option, value, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
    return g_steal_pointer(&config);
}

/* The option is refused with @code, the message holds each of the words, and nothing was changed.
 */
static void refused(const char *option, const char *value, KumoErrorCode code, const char *word_1,
                    const char *word_2)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    json_t *before = kumo_vm_config_to_json(config);
    json_t *after;

    g_assert_false(kumo_option_apply(config, option, value, &error));
    g_assert_nonnull(error);
    if (!g_error_matches(error, KUMO_ERROR, (int)code) || !strstr(error->message, word_1) ||
        !strstr(error->message, word_2))
        g_error("%s %s: \"%s\" (code %d), wanted \"%s\" and \"%s\" (code %d)", option, value,
                error->message, error->code, word_1, word_2, code);
    after = kumo_vm_config_to_json(config);
    g_assert_true(json_equal(before, after));
    json_decref(before);
    json_decref(after);
}

static void test_cpus(void)
{
    g_autoptr(KumoVmConfig) config =
        apply("cpus", "boot=4,topology=2:1:1:2,max_phys_bits=40,nested=off");
    g_autoptr(KumoVmConfig) max = apply("cpus", "max=8");

    g_assert_cmpuint(config->cpus.boot_vcpus, ==, 4);
    g_assert_cmpuint(config->cpus.max_vcpus, ==, 4);
    g_assert_true(config->cpus.has_topology);
    g_assert_cmpuint(config->cpus.topology.threads_per_core, ==, 2);
    g_assert_cmpuint(config->cpus.topology.cores_per_die, ==, 1);
    g_assert_cmpuint(config->cpus.topology.dies_per_package, ==, 1);
    g_assert_cmpuint(config->cpus.topology.packages, ==, 2);
    g_assert_cmpuint(config->cpus.max_phys_bits, ==, 40);
    g_assert_false(config->cpus.nested);
    g_assert_cmpuint(max->cpus.boot_vcpus, ==, 1);
    g_assert_cmpuint(max->cpus.max_vcpus, ==, 8);
}

static void test_cpu_lists(void)
{
    g_autoptr(KumoVmConfig) config =
        apply("cpus", "boot=4,affinity=[0@[2-4,7],3@1],features=amx,core_scheduling=vcpu,"
                      "kvm_hyperv=on,cpu_mask=[-avx512f,+x2apic]");
    g_autoptr(KumoVmConfig) copy = kumo_vm_config_copy(config);
    const KumoCpuAffinity *first = copy->cpus.affinity->pdata[0];
    const KumoCpuAffinity *last = copy->cpus.affinity->pdata[1];
    const uint32_t host_cpus[] = { 2, 3, 4, 7 };

    g_assert_cmpuint(copy->cpus.affinity->len, ==, 2);
    g_assert_cmpuint(first->vcpu, ==, 0);
    g_assert_cmpmem(first->host_cpus->data, first->host_cpus->len * sizeof(uint32_t), host_cpus,
                    sizeof(host_cpus));
    g_assert_cmpuint(last->vcpu, ==, 3);
    g_assert_cmpuint(last->host_cpus->len, ==, 1);
    g_assert_cmpuint(g_array_index(last->host_cpus, uint32_t, 0), ==, 1);
    g_assert_true(copy->cpus.features.amx);
    g_assert_true(copy->cpus.kvm_hyperv);
    g_assert_cmpint(copy->cpus.core_scheduling, ==, KUMO_CORE_SCHEDULING_VCPU);
    g_assert_cmpuint(copy->cpus.cpu_mask->len, ==, 2);
    g_assert_cmpstr(copy->cpus.cpu_mask->pdata[1], ==, "+x2apic");
}

static void test_overwrite_and_append(void)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();

    g_assert_true(kumo_option_apply(config, "memory", "size=1G,shared=on", NULL));
    g_assert_true(kumo_option_apply(config, "memory", "size=2G", NULL));
    g_assert_cmpuint(config->memory.size_bytes, ==, (uint64_t)2 << 30);
    g_assert_false(config->memory.shared);
    g_assert_true(kumo_option_apply(config, "disk", "path=/a", NULL));
    g_assert_true(kumo_option_apply(config, "disk", "path=/b,readonly=on", NULL));
    g_assert_cmpuint(config->disks->len, ==, 2);
    g_assert_cmpstr(((KumoDiskConfig *)config->disks->pdata[0])->path, ==, "/a");
    g_assert_true(((KumoDiskConfig *)config->disks->pdata[1])->readonly);
}

static void test_payload_is_no_option_string(void)
{
    g_autoptr(KumoVmConfig) config = apply("cmdline", "console=hvc0 a=\"b,c\" root=[x");
    g_autoptr(KumoVmConfig) kernel = apply("kernel", "/boot/a,b=c");

    g_assert_cmpstr(config->payload.cmdline, ==, "console=hvc0 a=\"b,c\" root=[x");
    g_assert_cmpstr(kernel->payload.kernel, ==, "/boot/a,b=c");
}

static void test_quoting(void)
{
    g_autoptr(KumoVmConfig) quoted = apply("disk", "path=\"/a,b\"\"c]\",readonly=true");
    g_autoptr(KumoVmConfig) brackets = apply("disk", "path=/dev/x[1,2],direct=");
    g_autoptr(KumoVmConfig) list = apply("platform", "oem_strings=[a,\"b,c\",\"d\"\"]\"],uuid="
                                                     "00112233-4455-6677-8899-aabbccddeeff");
    const KumoDiskConfig *disk = quoted->disks->pdata[0];

    g_assert_cmpstr(disk->path, ==, "/a,b\"c]");
    g_assert_true(disk->readonly);
    disk = brackets->disks->pdata[0];
    g_assert_cmpstr(disk->path, ==, "/dev/x[1,2]");
    g_assert_false(disk->direct);
    g_assert_cmpuint(list->platform.oem_strings->len, ==, 3);
    g_assert_cmpstr(list->platform.oem_strings->pdata[0], ==, "a");
    g_assert_cmpstr(list->platform.oem_strings->pdata[1], ==, "b,c");
    g_assert_cmpstr(list->platform.oem_strings->pdata[2], ==, "d\"]");
    g_assert_cmpstr(list->platform.system_uuid, ==, "00112233-4455-6677-8899-aabbccddeeff");
}

static void test_toggles(void)
{
    static const struct {
        const char *text;
        bool value;
    } rows[] = { { "reserve=on", true },   { "reserve=true", true }, { "reserve=ON", true },
                 { "reserve=off", false }, { "reserve=", false },    { "reserve=False", false } };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(KumoVmConfig) config = apply("memory", rows[i].text);

        g_assert_cmpint(config->memory.reserve, ==, rows[i].value);
    }
}

static void test_net(void)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoNetConfig) net =
        kumo_option_parse_net("fd=[1000-1001,1005],num_queues=6,mtu=1400,"
                              "offload_tso=off",
                              &error);

    g_assert_no_error(error);
    g_assert_cmpuint(net->fds->len, ==, 3);
    g_assert_cmpint(g_array_index(net->fds, int, 0), ==, 1000);
    g_assert_cmpint(g_array_index(net->fds, int, 1), ==, 1001);
    g_assert_cmpint(g_array_index(net->fds, int, 2), ==, 1005);
    g_assert_cmpuint(net->mtu, ==, 1400);
    g_assert_false(net->offload_tso);
    g_assert_true(net->offload_csum);
    g_assert_true(kumo_option_apply(config, "net", "tap=,mac=52:54:00:00:00:01", NULL));
    g_assert_null(((KumoNetConfig *)config->nets->pdata[0])->tap);
}

static void test_consoles(void)
{
    static const struct {
        const char *option, *text;
        KumoConsoleMode mode;
    } rows[] = {
        { "serial", "off", KUMO_CONSOLE_OFF },
        { "serial", "null", KUMO_CONSOLE_NULL },
        { "serial", "pty", KUMO_CONSOLE_PTY },
        { "serial", "tty", KUMO_CONSOLE_TTY },
        { "serial", "file=/f", KUMO_CONSOLE_FILE },
        { "serial", "socket=/s", KUMO_CONSOLE_SOCKET },
        { "console", "off", KUMO_CONSOLE_OFF },
        { "console", "null", KUMO_CONSOLE_NULL },
        { "console", "pty,id=c", KUMO_CONSOLE_PTY },
        { "console", "tty", KUMO_CONSOLE_TTY },
        { "console", "file=/f", KUMO_CONSOLE_FILE },
        { "console", "socket=/s", KUMO_CONSOLE_SOCKET },
        { "serial", "socket=/s,connect=on,reconnect=5", KUMO_CONSOLE_SOCKET },
        { "serial", "tcp=[::1]:9,connect=on", KUMO_CONSOLE_TCP },
        { "console", "tcp=[::1]:9", KUMO_CONSOLE_TCP },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(KumoVmConfig) config = apply(rows[i].option, rows[i].text);
        const KumoConsoleConfig *console =
            strcmp(rows[i].option, "serial") == 0 ? &config->serial : &config->console;

        g_assert_cmpint(console->mode, ==, rows[i].mode);
        if (console->mode == KUMO_CONSOLE_FILE)
            g_assert_cmpstr(console->file, ==, "/f");
        if (console->mode == KUMO_CONSOLE_SOCKET)
            g_assert_cmpstr(console->socket, ==, "/s");
        if (console->mode == KUMO_CONSOLE_TCP)
            g_assert_cmpstr(console->tcp, ==, "[::1]:9");
        g_assert_cmpint(console->connect, ==, strstr(rows[i].text, "connect") != NULL);
        g_assert_cmpuint(console->reconnect_s, ==, strstr(rows[i].text, "reconnect") ? 5 : 0);
    }
}

static void test_debug_console(void)
{
    g_autoptr(KumoVmConfig) none = apply("debug-console", "off");
    g_autoptr(KumoVmConfig) file = apply("debug-console", "file=/f,iobase=0x402");
    g_autoptr(KumoVmConfig) tty = apply("debug-console", "tty,iobase=234");

    g_assert_cmpint(none->debug_console.console.mode, ==, KUMO_CONSOLE_OFF);
    g_assert_cmphex(none->debug_console.iobase, ==, 0xe9);
    g_assert_cmpint(file->debug_console.console.mode, ==, KUMO_CONSOLE_FILE);
    g_assert_cmpstr(file->debug_console.console.file, ==, "/f");
    g_assert_cmphex(file->debug_console.iobase, ==, 0x402);
    g_assert_cmpint(tty->debug_console.console.mode, ==, KUMO_CONSOLE_TTY);
    g_assert_cmphex(tty->debug_console.iobase, ==, 234);
}

static void test_refusals(void)
{
    static const struct {
        const char *option, *value;
        KumoErrorCode code;
        const char *word_1, *word_2;
    } rows[] = {
        { "cpus", "", KUMO_ERROR_INVALID, "--cpus", "boot, max" },
        { "cpus", "4", KUMO_ERROR_INVALID, "\"4\"", "boot, max" },
        { "cpus", "boot", KUMO_ERROR_INVALID, "--cpus boot", "from 1 to 8192" },
        { "cpus", "boot=", KUMO_ERROR_INVALID, "--cpus boot", "\"\"" },
        { "cpus", "boot=0", KUMO_ERROR_INVALID, "--cpus boot: 0", "from 1 to 8192" },
        { "cpus", "boot=8193", KUMO_ERROR_INVALID, "8193", "from 1 to 8192" },
        { "cpus", "boot=-1", KUMO_ERROR_INVALID, "\"-1\"", "from 1 to 8192" },
        { "cpus", "boot=+1", KUMO_ERROR_INVALID, "\"+1\"", "--cpus boot" },
        { "cpus", "boot= 1", KUMO_ERROR_INVALID, "\" 1\"", "--cpus boot" },
        { "cpus", "boot=0x1", KUMO_ERROR_INVALID, "\"0x1\"", "--cpus boot" },
        { "debug-console", "tty,iobase=0x", KUMO_ERROR_INVALID, "\"0x\"",
          "--debug-console iobase" },
        { "debug-console", "tty,iobase=0x-1", KUMO_ERROR_INVALID, "\"0x-1\"", "65535" },
        { "debug-console", "tty,iobase=0x10000", KUMO_ERROR_INVALID, "65536", "65535" },
        { "debug-console", "socket=/s", KUMO_ERROR_INVALID, "socket", "--debug-console" },
        { "cpus", "boot=4294967297", KUMO_ERROR_INVALID, "4294967297", "from 1 to 8192" },
        { "cpus", "boot=99999999999999999999999", KUMO_ERROR_INVALID, "9999", "from 1 to 8192" },
        { "cpus", "boot=1,boot=1", KUMO_ERROR_INVALID, "--cpus boot", "twice" },
        { "cpus", "boot=1,", KUMO_ERROR_INVALID, "--cpus", "without a key" },
        { "cpus", "=1", KUMO_ERROR_INVALID, "--cpus", "without a key" },
        { "cpus", "max=0", KUMO_ERROR_INVALID, "--cpus max: 0", "from 1 to 8192" },
        { "cpus", "topology=1:1:1", KUMO_ERROR_INVALID, "--cpus topology", "4 numbers" },
        { "cpus", "topology=1:1:1:1:1", KUMO_ERROR_INVALID, "--cpus topology", "4 numbers" },
        { "cpus", "topology=3:1:1:1", KUMO_ERROR_INVALID, "--cpus topology: 3", "from 1 to 2" },
        { "cpus", "topology=1::1:1", KUMO_ERROR_INVALID, "--cpus topology", "\"\"" },
        { "cpus", "nested=maybe", KUMO_ERROR_INVALID, "\"maybe\"", "on or off" },
        { "cpus", "bogus=1", KUMO_ERROR_INVALID, "\"bogus\"", "max_phys_bits" },
        { "cpus", "boot_vcpus=1", KUMO_ERROR_INVALID, "\"boot_vcpus\"", "boot, max" },
        { "cpus", "affinity=[0]", KUMO_ERROR_INVALID, "--cpus affinity: \"0\"", "[0@1" },
        { "cpus", "affinity=[0@[1-x]]", KUMO_ERROR_INVALID, "--cpus affinity", "[0-3,7]" },
        { "cpus", "affinity=[x@[1]]", KUMO_ERROR_INVALID, "--cpus affinity", "\"x\"" },
        { "cpus", "affinity=[0@[70000]]", KUMO_ERROR_INVALID, "--cpus affinity: 70000", "65535" },
        { "cpus", "features=avx", KUMO_ERROR_INVALID, "--cpus features: \"avx\"", "amx" },
        { "cpus", "core_scheduling=no", KUMO_ERROR_INVALID, "\"no\"", "one of vm, vcpu, off" },
        { "memory", "size=1T", KUMO_ERROR_INVALID, "\"1T\"", "--memory size" },
        { "memory", "size=K", KUMO_ERROR_INVALID, "\"K\"", "--memory size" },
        { "memory", "size=1k", KUMO_ERROR_INVALID, "\"1k\"", "--memory size" },
        { "memory", "size=1MM", KUMO_ERROR_INVALID, "\"1MM\"", "--memory size" },
        { "memory", "size=17179869184G", KUMO_ERROR_INVALID, "17179869184G", "--memory size" },
        { "memory", "size=8589934592G", KUMO_ERROR_INVALID, "8589934592G", "--memory size" },
        { "memory", "size=4194305G", KUMO_ERROR_INVALID, "--memory size", "to 4503599627370496" },
        { "memory", "hugepage_size=3M", KUMO_ERROR_INVALID, "--memory hugepage_size",
          "power of two" },
        { "memory", "hotplug_method=pci", KUMO_ERROR_INVALID, "\"pci\"", "acpi, virtio-mem" },
        { "memory", "hotplugged_size=1T", KUMO_ERROR_INVALID, "--memory hotplugged_size",
          "size in bytes" },
        { "disk", "path=/a,queue_size=3", KUMO_ERROR_INVALID, "--disk queue_size: 3",
          "power of two" },
        { "disk", "path=/a,queue_size=2", KUMO_ERROR_INVALID, "--disk queue_size: 2", "from 4" },
        { "disk", "path=/a,queue_size=65536", KUMO_ERROR_INVALID, "65536", "to 32768" },
        { "disk", "path=/a,num_queues=0", KUMO_ERROR_INVALID, "--disk num_queues: 0", "from 1" },
        { "disk", "path=/a,serial=123456789012345678901", KUMO_ERROR_INVALID, "--disk serial",
          "20" },
        { "disk", "path=/a,bw_size=x", KUMO_ERROR_INVALID, "--disk bw_size", "\"x\"" },
        { "disk", "path=/a,ops_refill_time=86400001", KUMO_ERROR_INVALID,
          "--disk ops_refill_time: 86400001", "86400000" },
        { "disk", "path=/a,queue_affinity=[0]", KUMO_ERROR_INVALID, "--disk queue_affinity",
          "list like" },
        { "disk", "path=/a,queue_affinity=[0@[1]@2]", KUMO_ERROR_INVALID, "--disk queue_affinity",
          "not allowed" },
        { "disk", "path=/a,queue_affinity=[x@[1]]", KUMO_ERROR_INVALID, "--disk queue_affinity",
          "\"x\"" },
        { "disk", "path=/a,queue_affinity=[0@[65536]]", KUMO_ERROR_INVALID, "--disk queue_affinity",
          "65535" },
        { "disk", "path=/a,queue_affinity=[0@[1]", KUMO_ERROR_INVALID, "--disk", "closing ']'" },
        { "disk", "path=/a,lock_granularity=some", KUMO_ERROR_INVALID, "--disk lock_granularity",
          "byte-range, full" },
        { "rate-limit-group", "id=g,rate_limiter_config=1", KUMO_ERROR_INVALID, "unknown key",
          "ops_refill_time" },
        { "disk", "path=/a,image_type=qcow2", KUMO_ERROR_NOT_SUPPORTED, "--disk image_type=qcow2",
          "not supported yet" },
        { "disk", "path=/a,image_type=Raw", KUMO_ERROR_INVALID, "\"Raw\"", "one of raw" },
        { "disk", "path=/a,pci_device_id=32", KUMO_ERROR_INVALID, "--disk pci_device_id: 32",
          "31" },
        { "disk", "path=\"/a", KUMO_ERROR_INVALID, "--disk", "closing double quote" },
        { "disk", "path=[/a", KUMO_ERROR_INVALID, "--disk", "closing ']'" },
        { "disk", "path=/a]", KUMO_ERROR_INVALID, "--disk", "']' without '['" },
        { "disk", "path=/\xff", KUMO_ERROR_INVALID, "--disk path", "UTF-8" },
        { "disk", "path", KUMO_ERROR_INVALID, "--disk path", "value is missing" },
        { "net", "mtu=1279", KUMO_ERROR_INVALID, "--net mtu: 1279", "from 1280 to 65535" },
        { "net", "tap=sixteencharacter", KUMO_ERROR_INVALID, "--net tap", "15 bytes" },
        { "net", "fd=[3,x]", KUMO_ERROR_INVALID, "--net fd", "[0-3,7]" },
        { "net", "fd=[5-3]", KUMO_ERROR_INVALID, "--net fd", "[0-3,7]" },
        { "net", "fd=2", KUMO_ERROR_INVALID, "--net fd", "above 2" },
        { "net", "fd=[1000,1000]", KUMO_ERROR_INVALID, "--net fd", "different" },
        { "net", "fd=0-4294967295", KUMO_ERROR_INVALID, "--net fd", "0-4294967295" },
        { "net", "fd=3-2147483647", KUMO_ERROR_INVALID, "--net fd", "more than 8192" },
        { "net", "fds=[3]", KUMO_ERROR_INVALID, "\"fds\"", "fd, num_queues" },
        { "serial", "on", KUMO_ERROR_INVALID, "--serial", "off, null, pty, tty, file, socket" },
        { "serial", "off,tty", KUMO_ERROR_INVALID, "--serial", "twice" },
        { "serial", "tty,file=/x", KUMO_ERROR_INVALID, "--serial", "twice" },
        { "serial", "file", KUMO_ERROR_INVALID, "--serial file", "value is missing" },
        { "serial", "id=x", KUMO_ERROR_INVALID, "--serial", "\"id\"" },
        { "serial", "off=1", KUMO_ERROR_INVALID, "--serial", "\"off\"" },
        { "platform", "rtc_offset=2000000001", KUMO_ERROR_INVALID, "--platform rtc_offset",
          "from -2000000000 to 2000000000" },
        { "platform", "rtc_offset=1h", KUMO_ERROR_INVALID, "--platform rtc_offset", "1h" },
        { "platform", "num_pci_segments=97", KUMO_ERROR_INVALID, "--platform num_pci_segments",
          "97" },
        { "igvm", "/x", KUMO_ERROR_NOT_SUPPORTED, "--igvm", "not supported yet" },
        { "bogus", "x", KUMO_ERROR_INVALID, "unknown option", "\"bogus\"" },
        { "payload", "kernel=/x", KUMO_ERROR_INVALID, "unknown option", "\"payload\"" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        refused(rows[i].option, rows[i].value, rows[i].code, rows[i].word_1, rows[i].word_2);
}

/* A key that is not there yet: its default is taken, another value and none refused by name. */
static void test_defaults_of_keys_not_there_yet(void)
{
    static const struct {
        const char *option, *key;
        const char *defaults[3], *others[3];
    } rows[] = {
        { "cpus", "profile", { "Host", "host" }, { "x", "hos", "" } },
        { "disk", "iommu", { "off", "false", "" }, { "on", "true", "x" } },
        { "disk", "vhost_user", { "off", "false", "" }, { "on", "true", "x" } },
        { "disk", "socket", { "", "\"\"" }, { "/s", "off" } },
        { "disk", "backing_files", { "off", "false", "" }, { "on", "true", "x" } },
        { "net", "iommu", { "off", "false", "" }, { "on", "true", "x" } },
        { "net", "vhost_user", { "off", "false", "" }, { "on", "true", "x" } },
        { "net", "socket", { "", "\"\"" }, { "/s", "off" } },
        { "net", "vhost_mode", { "client", "Client", "\"client\"" }, { "server", "x", "" } },
        { "rng", "iommu", { "off", "false", "" }, { "on", "true", "x" } },
        { "numa", "device_id", { "" }, { "gpu", "off" } },
        { "platform", "iommu_segments", { "[]", "" }, { "[1]", "1", "off" } },
        { "platform", "iommu_address_width", { "64" }, { "48", "640", "off" } },
        { "platform", "iommufd", { "off", "false", "" }, { "on", "true", "x" } },
        { "platform", "iommufd_fd", { "" }, { "3", "off" } },
        { "platform", "vfio_p2p_dma", { "on", "true", "ON" }, { "off", "false", "x" } },
        { "platform", "sev_snp", { "off", "false", "" }, { "on", "true", "x" } },
        { "platform", "tdx", { "off", "false", "" }, { "on", "true", "x" } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name =
            g_strdup_printf("--%s %s is not supported yet", rows[i].option, rows[i].key);

        for (size_t n = 0; n < G_N_ELEMENTS(rows[i].defaults) && rows[i].defaults[n]; n++) {
            g_autofree char *text = g_strdup_printf("%s=%s", rows[i].key, rows[i].defaults[n]);
            g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
            g_autoptr(GError) error = NULL;

            if (!kumo_option_apply(config, rows[i].option, text, &error))
                g_error("--%s %s: %s", rows[i].option, text, error->message);
        }
        for (size_t n = 0; n < G_N_ELEMENTS(rows[i].others) && rows[i].others[n]; n++) {
            g_autofree char *text = g_strdup_printf("%s=%s", rows[i].key, rows[i].others[n]);

            refused(rows[i].option, text, KUMO_ERROR_NOT_SUPPORTED, name, "");
        }
        refused(rows[i].option, rows[i].key, KUMO_ERROR_NOT_SUPPORTED, name, "");
    }
}

static void test_options_not_there_yet(void)
{
    static const char *const options[] = {
        "pmem",         "fs",   "generic-vhost-user", "vsock",         "vdpa", "device",
        "user-device",  "rtc",  "watchdog",           "pvpanic",       "tpm",  "ivshmem",
        "pvmemcontrol", "igvm", "host-data",          "fw-cfg-config", "gdb",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autofree char *name = g_strdup_printf("--%s is not supported yet", options[i]);

        g_assert_true(kumo_option_is_vm_config(options[i]));
        refused(options[i], "x=y", KUMO_ERROR_NOT_SUPPORTED, name, "");
        refused(options[i], "", KUMO_ERROR_NOT_SUPPORTED, name, "");
    }
    g_assert_true(kumo_option_is_vm_config("disk"));
    g_assert_true(kumo_option_is_vm_config("kernel"));
    g_assert_false(kumo_option_is_vm_config("api-socket"));
    g_assert_false(kumo_option_is_vm_config("disks"));
    g_assert_false(kumo_option_is_vm_config(""));
}

/* Descriptors named by an option that fails stay open. */
static void test_failure_keeps_fds(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(kumo_option_parse_net("fd=1000,bogus=1", &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } rows[] = {
        { "0", 0 },
        { "1", 1 },
        { "1K", 1024 },
        { "3M", 3145728 },
        { "2G", 2147483648 },
        { "9223372036854775807", INT64_MAX },
        { "8589934591G", (uint64_t)8589934591 << 30 },
    };
    static const char *const bad[] = { "",
                                       "G",
                                       "-1",
                                       "1.5G",
                                       "1 G",
                                       "1GB",
                                       "9223372036854775808",
                                       "18446744073709551616",
                                       "8589934592G",
                                       "0x10",
                                       "1g" };
    uint64_t bytes = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_assert_true(kumo_parse_size(rows[i].text, &bytes, NULL));
        g_assert_cmpuint(bytes, ==, rows[i].bytes);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(kumo_parse_size(bad[i], &bytes, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    }
}

/* Strings made of the grammar's own characters: no crash, and a message with every failure. */
static void test_garbage(void)
{
    static const char alphabet[] = ",=\"[]:-@0a\xff\n";
    static const char *const options[] = { "cpus",     "disk",   "net", "serial",
                                           "platform", "memory", "x" };
    static const char *const prefixes[] = {
        "", "path=", "fd=", "oem_strings=[", "topology=1:", "affinity=[", "id="
    };
    g_autoptr(GRand) random = g_rand_new_with_seed(4711);

    for (unsigned i = 0; i < 20000; i++) {
        g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
        g_autoptr(GError) error = NULL;
        g_autoptr(GString) text =
            g_string_new(prefixes[g_rand_int_range(random, 0, G_N_ELEMENTS(prefixes))]);
        int len = g_rand_int_range(random, 0, 12);

        for (int n = 0; n < len; n++)
            g_string_append_c(text,
                              alphabet[g_rand_int_range(random, 0, (int)sizeof(alphabet) - 1)]);
        if (!kumo_option_apply(config, options[g_rand_int_range(random, 0, G_N_ELEMENTS(options))],
                               text->str, &error)) {
            g_assert_nonnull(error);
            g_assert_true(g_utf8_validate(error->message, -1, NULL));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/config/option/cpus", test_cpus);
    g_test_add_func("/config/option/cpu-lists", test_cpu_lists);
    g_test_add_func("/config/option/overwrite-append", test_overwrite_and_append);
    g_test_add_func("/config/option/payload", test_payload_is_no_option_string);
    g_test_add_func("/config/option/quoting", test_quoting);
    g_test_add_func("/config/option/toggles", test_toggles);
    g_test_add_func("/config/option/net", test_net);
    g_test_add_func("/config/option/consoles", test_consoles);
    g_test_add_func("/config/option/debug-console", test_debug_console);
    g_test_add_func("/config/option/refusals", test_refusals);
    g_test_add_func("/config/option/not-yet", test_options_not_there_yet);
    g_test_add_func("/config/option/not-yet-defaults", test_defaults_of_keys_not_there_yet);
    g_test_add_func("/config/option/failure-keeps-fds", test_failure_keeps_fds);
    g_test_add_func("/config/option/sizes", test_sizes);
    g_test_add_func("/config/option/garbage", test_garbage);
    return g_test_run();
}
