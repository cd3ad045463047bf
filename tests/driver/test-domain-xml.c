/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Domain XML in, the VMM's configuration out. tests/domain-xml/NAME.xml becomes NAME.json, of which
 * only what differs from the VMM's defaults is kept, so that a new default is no change. With
 * KUMO_REGENERATE=1 in the environment the JSON files are written instead of compared.
 */
#include <glib.h>
#include <string.h>
#include <time.h>

#include "domain-xml/offline.h"
#include "domain-xml/xml.h"
#include "domain_conf.h"

static kumoDriver *driver;

static const char host_cpu[] =
    "<cpu><arch>x86_64</arch><model>Westmere</model><vendor>Intel</vendor>"
    "<feature name='vme'/><feature name='vmx'/><feature name='invtsc'/></cpu>";

static void quiet(void *opaque, virErrorPtr error)
{
}

/* Removes from @value what is the same in @base, and empty values. */
static void prune(json_t *value, const json_t *base)
{
    const char *key;
    json_t *member;
    void *next;

    json_object_foreach_safe(value, next, key, member)
    {
        json_t *same = json_object_get(base, key);

        if (json_equal(member, same) || json_is_null(member) ||
            (json_is_array(member) && json_array_size(member) == 0)) {
            json_object_del(value, key);
        } else if (json_is_object(member)) {
            prune(member, same);
            if (json_object_size(member) == 0)
                json_object_del(value, key);
        }
    }
}

static void prune_all(json_t *array, json_t *base)
{
    for (size_t i = 0; i < json_array_size(array); i++)
        prune(json_array_get(array, i), base);
    json_decref(base);
}

static char *difference_from_defaults(const char *text)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(KumoDiskConfig) disk = kumo_disk_config_new();
    g_autoptr(KumoNetConfig) net = kumo_net_config_new();
    json_t *defaults = kumo_vm_config_to_json(config);
    json_t *json = json_loads(text, 0, NULL);
    char *dump;
    char *result;

    g_assert_nonnull(json);
    prune(json, defaults);
    prune_all(json_object_get(json, "disks"), kumo_disk_config_to_json(disk));
    prune_all(json_object_get(json, "net"), kumo_net_config_to_json(net));
    dump = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
    result = g_strdup_printf("%s\n", dump);
    free(dump);
    json_decref(json);
    json_decref(defaults);
    return result;
}

/* What dumpxml shows defines the same domain again. */
static void check_round_trip(const char *xml)
{
    g_autoptr(virDomainDef) first =
        virDomainDefParseString(xml, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE);
    g_autoptr(virDomainDef) second = NULL;
    g_autofree char *first_xml = NULL;
    g_autofree char *second_xml = NULL;

    g_assert_nonnull(first);
    first_xml = virDomainDefFormat(first, driver->xmlopt, VIR_DOMAIN_DEF_FORMAT_SECURE);
    second =
        virDomainDefParseString(first_xml, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE);
    g_assert_nonnull(second);
    second_xml = virDomainDefFormat(second, driver->xmlopt, VIR_DOMAIN_DEF_FORMAT_SECURE);
    g_assert_cmpstr(first_xml, ==, second_xml);
}

/* How far a clock with a start is ahead depends on when that is: the golden file has the start, to
 * ten seconds. */
static char *without_now(const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    json_t *platform = json_object_get(json, "platform");
    json_int_t ahead = json_integer_value(json_object_get(platform, "rtc_offset"));
    char *dump;
    char *result;

    json_object_set_new(platform, "rtc_offset",
                        json_integer((ahead + (json_int_t)time(NULL) + 5) / 10 * 10));
    dump = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
    result = g_strdup_printf("%s\n", dump);
    free(dump);
    json_decref(json);
    return result;
}

static void test_golden(gconstpointer data)
{
    const char *path = data;
    g_autofree char *stem = g_strndup(path, strlen(path) - strlen(".xml"));
    g_autofree char *golden = g_strconcat(stem, ".json", NULL);
    g_autofree char *xml = NULL;
    g_autofree char *json = NULL;
    g_autofree char *found = NULL;
    g_autofree char *expected = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(g_file_get_contents(path, &xml, NULL, &error));
    if (!(json = kumo_offline_convert(driver, xml))) {
        g_test_fail_printf("%s", virGetLastErrorMessage());
        return;
    }
    found = difference_from_defaults(json);
    if (strstr(path, "clock-absolute")) {
        char *relative = found;

        found = without_now(relative);
        g_free(relative);
    }
    if (g_getenv("KUMO_REGENERATE")) {
        g_file_set_contents(golden, found, -1, &error);
        g_assert_no_error(error);
    }
    g_file_get_contents(golden, &expected, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(found, ==, expected);
    check_round_trip(xml);
}

typedef struct {
    const char *name;
    const char *domain;  /* inside <domain> */
    const char *os;      /* inside <os> */
    const char *devices; /* inside <devices> */
    const char *message; /* has to be part of the error's message */
    int code;            /* 0: VIR_ERR_CONFIG_UNSUPPORTED */
} Refusal;

#define DISK(attributes, inside)                                                                   \
    "<disk type='file' device='disk'>" attributes "<source file='/d'/>"                            \
    "<target dev='vda' bus='virtio'/>" inside "</disk>"
#define DRIVER(attributes) DISK("<driver name='qemu' type='raw' " attributes "/>", "")
#define DIRECT_NET(attributes, more)                                                               \
    "<interface type='direct'" attributes "><mac address='52:54:00:00:00:01'/>"                    \
    "<source dev='eth0' mode='passthrough'/>" more "</interface>"
#define NET(inside)                                                                                \
    "<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='b'/>" inside       \
    "</interface>"
#define MAX_MEMORY "<maxMemory slots='2' unit='MiB'>1024</maxMemory><memory unit='MiB'>512</memory>"
#define DIMM       "<memory model='dimm'><target><size unit='MiB'>128</size></target></memory>"
#define VIRTIO_MEM(size, block)                                                                    \
    "<memory model='virtio-mem'><target><size unit='MiB'>" size "</size><block unit='MiB'>" block  \
    "</block><requested unit='MiB'>0</requested></target></memory>"
#define KUMO_VM(inside) "<kumo:vm xmlns:kumo='urn:kumo:domain:1.0'>" inside "</kumo:vm>"
#define IN_DISK         "/domain/devices/disk[target/@dev='vda']"
#define IN_NET          "/domain/devices/interface[mac/@address='52:54:00:00:00:01']"

/* One line each: what is asked for, and where the message says that it was. */
/* One line each, however long. */
/* clang-format off */
static const Refusal refusals[] = {
    { "genid", .domain = "<genid/>", .message = "/domain/genid " },
    { "memory-pmem", .domain = MAX_MEMORY, .devices = "<memory model='virtio-pmem' access='shared'><source><path>/p</path></source><target><size unit='MiB'>128</size></target></memory>", .message = "/domain/devices/memory/@model" },
    { "memory-source", .domain = MAX_MEMORY, .devices = "<memory model='dimm'><source><pagesize unit='MiB'>2</pagesize></source><target><size unit='MiB'>128</size></target></memory>", .message = "/domain/devices/memory/source" },
    { "memory-access", .domain = MAX_MEMORY, .devices = "<memory model='dimm' access='shared'><target><size unit='MiB'>128</size></target></memory>", .message = "/domain/devices/memory/@access" },
    { "memory-base", .domain = MAX_MEMORY, .devices = "<memory model='dimm'><target><size unit='MiB'>128</size></target><address type='dimm' slot='0' base='0x100000000'/></memory>", .message = "/domain/devices/memory/address/@base" },
    { "memory-slots", .domain = MAX_MEMORY, .devices = DIMM DIMM DIMM, .message = "/domain/maxMemory/@slots" },
    { "memory-slot-twice", .domain = MAX_MEMORY, .devices = "<memory model='dimm'><target><size unit='MiB'>128</size></target><address type='dimm' slot='1'/></memory><memory model='dimm'><target><size unit='MiB'>128</size></target><address type='dimm' slot='1'/></memory>", .message = "slot 1 is used twice", .code = VIR_ERR_XML_ERROR },
    { "virtio-mem-size", .domain = MAX_MEMORY, .devices = VIRTIO_MEM("192", "2"), .message = "/domain/devices/memory/target/size" },
    { "virtio-mem-second", .domain = MAX_MEMORY, .devices = VIRTIO_MEM("128", "2") VIRTIO_MEM("128", "2"), .message = "/domain/devices/memory[2]" },
    { "virtio-mem-block", .domain = MAX_MEMORY "<memoryBacking><hugepages><page size='1' unit='GiB'/></hugepages></memoryBacking>", .devices = VIRTIO_MEM("128", "2"), .message = "/domain/devices/memory[1]/target/block" },
    { "memnode-mode", .domain = "<numatune><memory mode='strict' nodeset='0'/><memnode cellid='0' mode='preferred' nodeset='0'/></numatune><cpu><numa><cell id='0' cpus='0' memory='262144'/></numa></cpu>", .message = "/domain/numatune/memnode/@mode: 'preferred'" },
    { "memnode-nodes", .domain = "<numatune><memory mode='strict' nodeset='0'/><memnode cellid='0' mode='strict' nodeset='0-1'/></numatune><cpu><numa><cell id='0' cpus='0' memory='262144'/></numa></cpu>", .message = "/domain/numatune/memnode/@nodeset: '0-1'" },
    { "numa-without-memory", .domain = "<vcpu>2</vcpu><cpu><numa><cell id='0' cpus='0' memory='262144'/><cell id='1' cpus='1' memory='0'/></numa></cpu>", .message = "/domain/cpu/numa/cell[@id='1']/@memory" },
    { "numa-interconnects", .domain = "<vcpu>2</vcpu><cpu><numa><cell id='0' cpus='0' memory='131072'/><cell id='1' cpus='1' memory='131072'/><interconnects><latency initiator='0' target='0' type='access' value='5'/></interconnects></numa></cpu>", .message = "/domain/cpu/numa/interconnects" },
    { "hugepages-nodes", .domain = "<memoryBacking><hugepages><page size='2' unit='MiB' nodeset='1'/></hugepages></memoryBacking>", .message = "/domain/memoryBacking/hugepages/page/@nodeset" },
    { "hugepages-twice", .domain = "<cpu><numa><cell id='0' cpus='0' memory='262144'/></numa></cpu><memoryBacking><hugepages><page size='2' unit='MiB' nodeset='0'/><page size='1' unit='GiB' nodeset='0'/></hugepages></memoryBacking>", .message = "/domain/memoryBacking/hugepages/page/@nodeset" },
    { "hugepages-two-sizes", .domain = "<memoryBacking><hugepages><page size='2' unit='MiB'/><page size='1' unit='GiB'/></hugepages></memoryBacking>", .message = "/domain/memoryBacking/hugepages/page" },
    { "current-memory", .domain = "<currentMemory unit='MiB'>128</currentMemory>", .message = "/domain/currentMemory" },
    { "vcpu-hole", .domain = "<vcpu current='2'>3</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='no' hotpluggable='yes'/><vcpu id='2' enabled='yes' hotpluggable='yes'/></vcpus>", .message = "/domain/vcpus/vcpu[@id='1']" },
    { "vcpu-auto", .domain = "<vcpu placement='auto'>2</vcpu>", .message = "/domain/vcpu/@placement" },
    { "vcpu-too-many", .domain = "<vcpu>4000</vcpu>", .message = "/domain/vcpu: 4000" },
    { "iothread-pool", .domain = "<iothreadids><iothread id='1' thread_pool_min='1'/></iothreadids>", .message = "/domain/iothreadids/iothread/@thread_pool_min" },
    { "iothread-pool-max", .domain = "<iothreadids><iothread id='1' thread_pool_max='1'/></iothreadids>", .message = "/domain/iothreadids/iothread/@thread_pool_max" },
    { "fibrechannel", .domain = "<resource><partition>/machine</partition><fibrechannel appid='app'/></resource>", .message = "/domain/resource/fibrechannel" },
    { "suspend-to-mem", .domain = "<pm><suspend-to-mem enabled='yes'/></pm>", .message = "/domain/pm/suspend-to-mem" },
    { "allocation-threads", .domain = "<memoryBacking><allocation mode='immediate' threads='17'/></memoryBacking>", .message = "/domain/memoryBacking/allocation/@threads: 17" },
    { "dump-core", .domain = "<memory unit='MiB' dumpCore='on'>256</memory>", .message = "/domain/memory/@dumpCore" },
    { "cpu-vendor-id", .domain = "<cpu mode='custom' match='exact'><model vendor_id='AuthenticAMD'>qemu64</model></cpu>", .message = "/domain/cpu/model/@vendor_id" },
    { "cpu-feature", .domain = "<cpu mode='host-passthrough'><feature policy='disable' name='nonsense'/></cpu>", .message = "/domain/cpu/feature[@name='nonsense']" },
    { "cpu-missing", .domain = "<cpu mode='custom' match='exact'><model>Penryn</model><feature policy='require' name='avx512f'/></cpu>", .message = "avx512f", .code = VIR_ERR_CPU_INCOMPATIBLE },
    { "cpu-forbidden", .domain = "<cpu mode='host-passthrough'><feature policy='forbid' name='sse4.2'/></cpu>", .message = "sse4.2", .code = VIR_ERR_CPU_INCOMPATIBLE },
    { "cpu-required", .domain = "<cpu mode='host-passthrough'><feature policy='require' name='avx512f'/></cpu>", .message = "avx512f", .code = VIR_ERR_CPU_INCOMPATIBLE },
    { "cpu-strict", .domain = "<cpu mode='custom' match='strict'><model>Penryn</model></cpu>", .message = "", .code = VIR_ERR_CPU_INCOMPATIBLE },
    { "cpu-cache", .domain = "<cpu mode='host-passthrough'><cache mode='disable'/></cpu>", .message = "/domain/cpu/cache" },
    { "cpu-threads", .domain = "<vcpu>4</vcpu><cpu><topology sockets='1' cores='1' threads='4'/></cpu>", .message = "/domain/cpu/topology/@threads" },
    { "apic-eoi", .domain = "<features><apic eoi='on'/></features>", .message = "/domain/features/apic" },
    { "kvm-hidden", .domain = "<features><kvm><hidden state='on'/></kvm></features>", .message = "/domain/features/kvm/hidden" },
    { "hyperv-reset", .domain = "<features><hyperv><reset state='on'/></hyperv></features>", .message = "/domain/features/hyperv/reset" },
    { "hyperv-stimer-direct", .domain = "<features><hyperv><synic state='on'/><stimer state='on'><direct state='on'/></stimer></hyperv></features>", .message = "/domain/features/hyperv/stimer/direct" },
    { "timer-hypervclock", .domain = "<clock offset='utc'><timer name='hypervclock' present='yes'/></clock>", .message = "/domain/clock/timer[@name='hypervclock']" },
    { "pmu", .domain = "<features><pmu state='off'/></features>", .message = "/domain/features/pmu" },
    { "smm", .domain = "<features><smm state='on'/></features>", .message = "/domain/features/smm" },
    { "clock-absolute", .domain = "<clock offset='absolute' start='99999999999'/>", .message = "/domain/clock/@start: 99999999999" },
    { "clock-adjustment", .domain = "<clock offset='variable' basis='utc' adjustment='-2000000000'/>", .message = "/domain/clock/@adjustment: -2000000000" },
    { "clock-timezone", .domain = "<clock offset='timezone' timezone='Nowhere/Atall'/>", .message = "/domain/clock/@timezone: 'Nowhere/Atall'" },
    { "timer-hpet", .domain = "<clock offset='utc'><timer name='hpet' present='yes'/></clock>", .message = "/domain/clock/timer[@name='hpet']" },
    { "timer-kvmclock-off", .domain = "<clock offset='utc'><timer name='kvmclock' present='no'/></clock>", .message = "/domain/clock/timer[@name='kvmclock']" },
    { "timer-tsc", .domain = "<clock offset='utc'><timer name='tsc' frequency='1000000000'/></clock>", .message = "/domain/clock/timer[@name='tsc']" },
    { "on-poweroff", .domain = "<on_poweroff>preserve</on_poweroff>", .message = "/domain/on_poweroff" },
    { "on-reboot", .domain = "<on_reboot>preserve</on_reboot>", .message = "/domain/on_reboot" },
    { "on-crash", .domain = "<on_crash>coredump-destroy</on_crash>", .message = "/domain/on_crash" },
    { "launch-security", .domain = "<launchSecurity type='sev'><policy>0x1</policy></launchSecurity>", .message = "/domain/launchSecurity" },
    { "sysinfo-fwcfg", .domain = "<sysinfo type='fwcfg'><entry name='opt/a/b'>x</entry></sysinfo>", .message = "/domain/sysinfo[@type='fwcfg']" },
    { "sysinfo-bios", .domain = "<sysinfo type='smbios'><bios><entry name='vendor'>x</entry></bios></sysinfo>", .message = "/domain/sysinfo/bios" },
    { "sysinfo-board", .domain = "<sysinfo type='smbios'><baseBoard><entry name='product'>x</entry></baseBoard></sysinfo>", .message = "/domain/sysinfo/baseBoard" },
    { "sysinfo-chassis", .domain = "<sysinfo type='smbios'><chassis><entry name='serial'>x</entry></chassis></sysinfo>", .message = "/domain/sysinfo/chassis" },
    { "machine", .os = "<type machine='virt'>hvm</type>", .message = "/domain/os/type/@machine: 'virt'" },
    { "firmware-secure", .os = "<firmware><feature enabled='yes' name='secure-boot'/></firmware>", .message = "/domain/os/firmware/feature" },
    { "loader-pflash", .os = "<loader readonly='yes' type='pflash'>/f</loader>", .message = "/domain/os/loader" },
    { "loader-secure", .os = "<loader readonly='yes' secure='yes' type='rom'>/f</loader>", .message = "/domain/os/loader" },
    { "loader-and-kernel", .os = "<loader>/f</loader><kernel>/k</kernel>", .message = "/domain/os/loader with /domain/os/kernel" },
    { "initrd-alone", .os = "<initrd>/i</initrd>", .message = "/domain/os/initrd" },
    { "boot-network", .os = "<boot dev='network'/>", .message = "/domain/os/boot[@dev='network']" },
    { "bootmenu", .os = "<bootmenu enable='yes'/>", .message = "/domain/os/bootmenu" },
    { "bios-serial", .os = "<bios useserial='yes'/>", .devices = "<serial type='null'/>", .message = "/domain/os/bios/@useserial" },
    { "smbios-host", .os = "<smbios mode='host'/>", .message = "/domain/os/smbios" },
    { "dtb", .os = "<kernel>/k</kernel><dtb>/d</dtb>", .message = "/domain/os/dtb" },
    { "channel", .devices = "<channel type='unix'><target type='virtio' name='other.0'/></channel>", .message = "/domain/devices/channel" },
    { "net-boot", .os = " ", .devices = DISK("", "<boot order='2'/>") NET("<boot order='1'/>"), .message = "/domain/devices/interface[1]/boot/@order" },
    { "iotune-burst", .devices = DISK("", "<iotune><total_bytes_sec>1000</total_bytes_sec><total_bytes_sec_max>10</total_bytes_sec_max></iotune>"), .message = IN_DISK "/iotune/total_bytes_sec_max" },
    { "iotune-burst-alone", .devices = DISK("", "<iotune><total_iops_sec_max>10</total_iops_sec_max></iotune>"), .message = IN_DISK "/iotune/total_iops_sec_max" },
    { "iotune-read-burst", .devices = DISK("", "<iotune><read_iops_sec>10</read_iops_sec><read_iops_sec_max>5</read_iops_sec_max></iotune>"), .message = IN_DISK "/iotune/read_iops_sec_max" },
    { "iotune-size", .devices = DISK("", "<iotune><read_bytes_sec>10</read_bytes_sec><size_iops_sec>4096</size_iops_sec></iotune>"), .message = IN_DISK "/iotune/size_iops_sec" },
    { "disk-order", .os = " ", .devices = DISK("", "<boot order='2'/><address type='pci' slot='4'/>") "<disk type='file'><source file='/e'/><target dev='vdb' bus='virtio'/><boot order='1'/><address type='pci' slot='5'/></disk>", .message = "/domain/devices/disk[2]/boot/@order" },
    { "sound", .devices = "<sound model='ich9'/>", .message = "/domain/devices/sound" },
    { "filesystem", .devices = "<filesystem type='mount'><source dir='/s'/><target dir='t'/></filesystem>", .message = "/domain/devices/filesystem" },
    { "hostdev", .devices = "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>", .message = "/domain/devices/hostdev" },
    { "parallel", .devices = "<parallel type='pty'/>", .message = "/domain/devices/parallel" },
    { "smartcard", .devices = "<smartcard mode='host'/>", .message = "/domain/devices/smartcard" },
    { "redirdev", .devices = "<redirdev bus='usb' type='spicevmc'/>", .message = "/domain/devices/redirdev" },
    { "hub", .devices = "<hub type='usb'/>", .message = "/domain/devices/hub" },
    { "shmem", .devices = "<shmem name='s'/>", .message = "/domain/devices/shmem" },
    { "panic", .devices = "<panic model='isa'/>", .message = "/domain/devices/panic" },
    { "tpm", .devices = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", .message = "/domain/devices/tpm" },
    { "watchdog", .devices = "<watchdog model='i6300esb'/>", .message = "/domain/devices/watchdog" },
    { "vsock", .devices = "<vsock model='virtio'><cid auto='yes'/></vsock>", .message = "/domain/devices/vsock" },
    { "iommu", .devices = "<iommu model='virtio'/>", .message = "/domain/devices/iommu" },
    { "memballoon-xen", .devices = "<memballoon model='xen'/>", .message = "/domain/devices/memballoon/@model" },
    { "memballoon-period", .devices = "<memballoon model='virtio'><stats period='100000'/></memballoon>", .message = "/domain/devices/memballoon/stats/@period" },
    { "disk-address-ccw", .devices = DISK("", "<address type='ccw' cssid='0xfe' ssid='0' devno='0x1'/>"), .message = "/domain/devices/disk/address/@type: 'ccw'" },
    { "disk-multifunction", .devices = DISK("", "<address type='pci' slot='4' multifunction='on'/>"), .message = "/domain/devices/disk/address/@multifunction" },
    { "disk-zpci", .devices = DISK("", "<address type='pci' slot='4'><zpci uid='0x1' fid='0x2'/></address>"), .message = "/domain/devices/disk/address/zpci" },
    { "interface-address-ccw", .devices = NET("<address type='ccw' cssid='0xfe' ssid='0' devno='0x1'/>"), .message = "/domain/devices/interface/address/@type: 'ccw'" },
    { "interface-multifunction", .devices = NET("<address type='pci' slot='4' multifunction='on'/>"), .message = "/domain/devices/interface/address/@multifunction" },
    { "rng-acpi", .devices = "<rng model='virtio'><backend model='random'/><acpi index='1'/></rng>", .message = "/domain/devices/rng/acpi" },
    { "memballoon-acpi", .devices = "<memballoon model='virtio'><acpi index='1'/></memballoon>", .message = "/domain/devices/memballoon/acpi" },
    { "controller-acpi", .devices = "<controller type='usb' index='0'><acpi index='1'/></controller>", .message = "/domain/devices/controller/acpi" },
    { "pcihole64", .devices = "<controller type='pci' index='0' model='pcie-root'><pcihole64 unit='KiB'>1</pcihole64></controller>", .message = "/domain/devices/controller/pcihole64" },
    { "disk-acpi", .devices = DISK("", "<acpi index='3'/>"), .message = IN_DISK "/acpi" },
    { "disk-auth", .devices = DISK("", "<auth username='u'><secret type='ceph' usage='x'/></auth>"), .message = IN_DISK "/auth" },
    { "disk-backenddomain", .devices = DISK("", "<backenddomain name='x'/>"), .message = IN_DISK "/backenddomain" },
    { "disk-loadparm", .devices = DISK("", "<boot order='1' loadparm='x'/>"), .message = IN_DISK "/boot/@loadparm" },
    { "disk-product", .devices = DISK("", "<product>p</product>"), .message = IN_DISK "/product" },
    { "disk-vendor", .devices = DISK("", "<vendor>p</vendor>"), .message = IN_DISK "/vendor" },
    { "disk-rotation", .devices = "<disk type='file'><source file='/d'/><target dev='vda' bus='virtio' rotation_rate='5000'/></disk>", .message = IN_DISK "/target/@rotation_rate" },
    { "disk-tray", .devices = "<disk type='file' device='cdrom'><source file='/d'/><target dev='vda' bus='sata' tray='open'/></disk>", .message = IN_DISK "/target/@tray" },
    { "disk-startup-policy", .devices = "<disk type='file'><source file='/d' startupPolicy='optional'/><target dev='vda' bus='virtio'/></disk>", .message = IN_DISK "/source/@startupPolicy" },
    { "disk-slices", .devices = "<disk type='file'><source file='/d'><slices><slice type='storage' offset='1' size='2'/></slices></source><target dev='vda' bus='virtio'/></disk>", .message = IN_DISK "/source/slices" },
    { "disk-metadata-cache", .devices = "<disk type='file'><driver name='qemu' type='raw'><metadata_cache><max_size>1</max_size></metadata_cache></driver><source file='/d'/><target dev='vda' bus='virtio'/></disk>", .message = IN_DISK "/driver/metadata_cache" },
    { "interface-acpi", .devices = NET("<acpi index='3'/>"), .message = IN_NET "/acpi" },
    { "interface-virtualport", .devices = NET("<virtualport type='802.1Qbg'><parameters managerid='1' typeid='2' typeidversion='3'/></virtualport>"), .message = IN_NET "/virtualport/@type" },
    { "interface-vlan", .devices = NET("<vlan><tag id='42'/></vlan>"), .message = IN_NET "/vlan" },
    { "interface-trust", .devices = "<interface type='bridge' trustGuestRxFilters='yes'><mac address='52:54:00:00:00:01'/><source bridge='b'/></interface>", .message = IN_NET "/@trustGuestRxFilters" },
    { "interface-ip", .devices = "<interface type='ethernet'><mac address='52:54:00:00:00:01'/><ip address='1.2.3.4' prefix='24'/></interface>", .message = IN_NET "/ip" },
    { "device-nvram", .devices = "<nvram/>", .message = "/domain/devices/nvram" },
    { "redirfilter", .devices = "<redirfilter><usbdev allow='no'/></redirfilter>", .message = "/domain/devices/redirdev" },
    { "slic-table", .os = "<kernel>/k</kernel><acpi><table type='slic'>/t</table></acpi>", .message = "/domain/os/acpi/table" },
    { "reboot-timeout", .os = "<bios rebootTimeout='0'/><kernel>/k</kernel>", .message = "/domain/os/bios/@rebootTimeout" },
    { "os-root", .os = "<kernel>/k</kernel><root>/r</root>", .message = "/domain/os/root" },
    { "bootloader", .domain = "<bootloader>/b</bootloader>", .message = "/domain/bootloader" },
    { "idmap", .domain = "<idmap><uid start='0' target='1000' count='10'/><gid start='0' target='1000' count='10'/></idmap>", .message = "/domain/idmap" },
    { "keywrap", .domain = "<keywrap><cipher name='aes' state='on'/></keywrap>", .message = "/domain/keywrap" },
    { "cachetune", .domain = "<cputune><cachetune vcpus='0'><cache id='0' level='3' type='both' size='3' unit='MiB'/></cachetune></cputune>", .message = "/domain/cputune/cachetune" },
    { "memorytune", .domain = "<cputune><memorytune vcpus='0'><node id='0' bandwidth='60'/></memorytune></cputune>", .message = "/domain/cputune/cachetune" },
    { "emulatorsched", .domain = "<cputune><emulatorsched scheduler='fifo' priority='1'/></cputune>", .message = "/domain/cputune/emulatorsched" },
    { "defaultiothread", .domain = "<defaultiothread thread_pool_min='1'/>", .message = "/domain/defaultiothread" },
    { "min-guarantee", .domain = "<memtune><min_guarantee>1000</min_guarantee></memtune>", .message = "/domain/memtune/min_guarantee" },
    { "capabilities-feature", .domain = "<features><capabilities policy='deny'/></features>", .message = "/domain/features/capabilities" },
    { "xen-feature", .domain = "<features><xen><e820_host state='on'/></xen></features>", .message = "/domain/features/xen" },
    { "tcg-feature", .domain = "<features><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>", .message = "/domain/features/tcg" },
    { "pvspinlock", .domain = "<features><pvspinlock state='on'/></features>", .message = "/domain/features/pvspinlock" },
    { "vmport", .domain = "<features><vmport state='on'/></features>", .message = "/domain/features/vmport" },
    { "feature-hpt", .domain = "<features><hpt resizing='disabled'/></features>", .message = "/domain/features/hpt" },
    { "feature-privnet", .domain = "<features><privnet/></features>", .message = "/domain/features/privnet" },
    { "feature-hap", .domain = "<features><hap/></features>", .message = "/domain/features/hap" },
    { "feature-viridian", .domain = "<features><viridian/></features>", .message = "/domain/features/viridian" },
    { "feature-gic", .domain = "<features><gic version='3'/></features>", .message = "/domain/features/gic" },
    { "feature-ioapic", .domain = "<features><ioapic driver='kvm'/></features>", .message = "/domain/features/ioapic" },
    { "feature-msrs", .domain = "<features><msrs unknown='ignore'/></features>", .message = "/domain/features/msrs" },
    { "feature-htm", .domain = "<features><htm state='on'/></features>", .message = "/domain/features/htm" },
    { "feature-nested-hv", .domain = "<features><nested-hv state='on'/></features>", .message = "/domain/features/nested-hv" },
    { "feature-ibs", .domain = "<features><ibs value='broken'/></features>", .message = "/domain/features/ibs" },
    { "feature-cfpc", .domain = "<features><cfpc value='broken'/></features>", .message = "/domain/features/cfpc" },
    { "feature-ccf-assist", .domain = "<features><ccf-assist state='on'/></features>", .message = "/domain/features/ccf-assist" },
    { "feature-sbbc", .domain = "<features><sbbc value='broken'/></features>", .message = "/domain/features/sbbc" },
    { "suspend-to-disk", .domain = "<pm><suspend-to-disk enabled='yes'/></pm>", .message = "/domain/pm/suspend-to-disk" },
    { "memballoon-driver", .devices = "<memballoon model='virtio'><driver iommu='on'/></memballoon>", .message = "/domain/devices/memballoon/driver" },
    { "interface-ioeventfd", .devices = NET("<model type='virtio'/><driver ioeventfd='off'/>"), .message = IN_NET "/driver[@ioeventfd='off']" },
    { "interface-event-idx", .devices = NET("<model type='virtio'/><driver event_idx='off'/>"), .message = IN_NET "/driver[@event_idx='off']" },
    { "interface-backend", .devices = NET("<backend tap='/dev/x'/>"), .message = IN_NET "/backend" },
    { "interface-backenddomain", .devices = NET("<backenddomain name='x'/>"), .message = IN_NET "/backenddomain" },
    { "interface-guest", .devices = NET("<guest dev='eth0'/>"), .message = IN_NET "/guest" },
    { "interface-teaming", .devices = NET("<teaming type='persistent'/>"), .message = IN_NET "/teaming" },
    { "interface-downscript", .devices = "<interface type='ethernet'><mac address='52:54:00:00:00:01'/><downscript path='/s'/></interface>", .message = IN_NET "/downscript" },
    { "second-serial", .devices = "<serial type='null'/><serial type='null'/>", .message = "/domain/devices/serial[2]" },
    { "second-rng", .devices = "<rng model='virtio'><backend model='random'/></rng><rng model='virtio'><backend model='random'/></rng>", .message = "/domain/devices/rng[2]" },
    { "second-virtio-console", .devices = "<serial type='null'/><console type='null'/><console type='pty'><target type='virtio'/></console><console type='pty'><target type='virtio'/></console>", .message = "/domain/devices/console" },
    { "disk-lun", .devices = "<disk type='block' device='lun'><source dev='/dev/d'/><target dev='sda' bus='scsi'/></disk>", .message = "/@device is" },
    { "disk-floppy", .devices = "<disk type='file' device='floppy'><source file='/d'/><target dev='fda' bus='fdc'/></disk>", .message = "/@device is" },
    { "disk-bus", .devices = "<disk type='file'><source file='/d'/><target dev='sda' bus='sd'/></disk>", .message = "/target/@bus" },
    { "disk-qcow2", .devices = DISK("<driver name='qemu' type='qcow2'/>", ""), .message = IN_DISK "/driver/@type" },
    { "disk-network", .devices = "<disk type='network'><source protocol='nbd' name='x'><host name='h'/></source><target dev='vda' bus='virtio'/></disk>", .message = IN_DISK "/@type" },
    { "disk-driver", .devices = DISK("<driver name='tap2'/>", ""), .message = IN_DISK "/driver/@name" },
    { "disk-model", .devices = "<disk type='file' model='virtio-transitional'><source file='/d'/><target dev='vda' bus='virtio'/></disk>", .message = IN_DISK "/@model" },
    { "disk-cache-unsafe", .devices = DRIVER("cache='unsafe'"), .message = IN_DISK "/driver/@cache" },
    { "disk-cache-writethrough", .devices = DRIVER("cache='writethrough'"), .message = IN_DISK "/driver/@cache" },
    { "disk-error-policy", .devices = DRIVER("error_policy='stop'"), .message = IN_DISK "/driver/@error_policy" },
    { "disk-rerror-policy", .devices = DRIVER("rerror_policy='ignore'"), .message = IN_DISK "/driver/@rerror_policy" },
    { "disk-ioeventfd", .devices = DRIVER("ioeventfd='off'"), .message = IN_DISK "/driver[@ioeventfd='off']" },
    { "disk-event-idx", .devices = DRIVER("event_idx='off'"), .message = IN_DISK "/driver[@event_idx='off']" },
    { "disk-copy-on-read", .devices = DRIVER("copy_on_read='on'"), .message = IN_DISK "/driver/@copy_on_read" },
    { "disk-discard", .devices = DRIVER("discard='ignore'"), .message = IN_DISK "/driver[@discard='ignore']" },
    { "disk-detect-zeroes", .devices = DRIVER("detect_zeroes='on'"), .message = IN_DISK "/driver/@detect_zeroes" },
    { "disk-iothread", .domain = "<iothreads>1</iothreads>", .devices = DRIVER("iothread='2'"), .message = IN_DISK "/driver/@iothread: there is no I/O thread 2" },
    { "disk-packed", .devices = DRIVER("packed='on'"), .message = IN_DISK "/driver" },
    { "disk-queues", .devices = DRIVER("queues='2'"), .message = IN_DISK "/driver/@queues: 2" },
    { "disk-queue-size", .devices = DRIVER("queue_size='100'"), .message = IN_DISK "/driver/@queue_size: 100" },
    { "disk-geometry", .devices = DISK("", "<geometry cyls='1' heads='1' secs='1'/>"), .message = IN_DISK "/geometry" },
    { "disk-blockio", .devices = DISK("", "<blockio logical_block_size='4096'/>"), .message = IN_DISK "/blockio" },
    { "disk-iotune-group", .devices = DISK("", "<iotune><group_name>g</group_name></iotune>"), .message = IN_DISK "/iotune/group_name (without a limit)" },
    { "disk-iotune-group-limits", .devices = DISK("", "<iotune><total_iops_sec>1000</total_iops_sec><group_name>g</group_name></iotune>") "<disk type='file' device='disk'><source file='/e'/><target dev='vdb' bus='virtio'/><iotune><total_iops_sec>1</total_iops_sec><group_name>g</group_name></iotune></disk>", .message = IN_DISK "/iotune/group_name: 'g' has other limits" },
    { "disk-wwn", .devices = "<disk type='file' device='cdrom'><source file='/d'/><target dev='vda' bus='scsi'/><wwn>5000c50015ea71aa</wwn></disk>", .message = IN_DISK "/wwn" },
    { "disk-shareable", .devices = DISK("", "<shareable/>"), .message = IN_DISK "/shareable" },
    { "disk-transient", .devices = DISK("", "<transient/>"), .message = IN_DISK "/transient" },
    { "disk-encryption", .devices = DISK("", "<encryption format='luks'><secret type='passphrase' uuid='0e2a5e26-1a2b-4c3d-8e4f-5a6b7c8d9e0f'/></encryption>"), .message = IN_DISK "/encryption" },
    { "disk-backing", .devices = DISK("", "<backingStore type='file'><format type='raw'/><source file='/b'/></backingStore>"), .message = IN_DISK "/backingStore" },
    { "net-user", .devices = "<interface type='user'/>", .message = "/@type" },
    { "net-direct-trust", .devices = DIRECT_NET(" trustGuestRxFilters='yes'", ""), .message = IN_NET "/@trustGuestRxFilters" },
    { "net-direct-virtualport", .devices = DIRECT_NET("", "<virtualport type='802.1Qbh'><parameters profileid='x'/></virtualport>"), .message = IN_NET "/virtualport" },
    { "net-direct-vlan", .devices = DIRECT_NET("", "<vlan><tag id='42'/></vlan>"), .message = IN_NET "/vlan" },
    { "net-vhostuser", .devices = "<interface type='vhostuser'><source type='unix' path='/s' mode='client'/></interface>", .message = "/@type" },
    { "net-model", .devices = NET("<model type='e1000'/>"), .message = IN_NET "/model/@type" },
    { "net-unknown-model", .devices = NET("<model type='ne2k_isa'/>"), .message = IN_NET "/model/@type" },
    { "net-txmode", .devices = NET("<model type='virtio'/><driver txmode='timer'/>"), .message = IN_NET "/driver/@txmode" },
    { "net-queues", .devices = NET("<model type='virtio'/><driver queues='2'/>"), .message = IN_NET "/driver/@queues: 2" },
    { "net-queue-size", .devices = NET("<model type='virtio'/><driver rx_queue_size='256' tx_queue_size='512'/>"), .message = IN_NET "/driver/@tx_queue_size" },
    { "net-offload", .devices = NET("<model type='virtio'/><driver><host tso4='off'/></driver>"), .message = IN_NET "/driver/host" },
    { "net-sndbuf", .devices = NET("<tune><sndbuf>1600</sndbuf></tune>"), .message = IN_NET "/tune/sndbuf" },
    { "net-script", .devices = "<interface type='ethernet'><mac address='52:54:00:00:00:01'/><script path='/s'/></interface>", .message = IN_NET "/script" },
    { "net-coalesce", .devices = NET("<coalesce><rx><frames max='7'/></rx></coalesce>"), .message = IN_NET "/coalesce" },
    { "net-mtu", .devices = NET("<mtu size='576'/>"), .message = IN_NET "/mtu/@size: 576" },
    { "net-rom", .devices = NET("<rom bar='on'/>"), .message = IN_NET "/rom" },
    { "net-guest-ip", .devices = NET("<ip address='10.0.0.1'/>"), .message = IN_NET "/ip" },
    { "serial-udp", .devices = "<serial type='udp'><source mode='bind' host='127.0.0.1' service='1'/><source mode='connect' host='127.0.0.1' service='2'/></serial>", .message = "/domain/devices/serial/@type" },
    { "serial-telnet", .devices = "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='1'/><protocol type='telnet'/></serial>", .message = "/domain/devices/serial/protocol/@type" },
    { "serial-tls", .devices = "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='1' tls='yes'/></serial>", .message = "/domain/devices/serial/source/@tls" },
    { "serial-host", .devices = "<serial type='tcp'><source mode='bind' host='' service='1'/></serial>", .message = "/domain/devices/serial/source/@host: not a name" },
    { "serial-service", .devices = "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='http'/></serial>", .message = "/domain/devices/serial/source/@service: 'http'" },
    { "serial-reconnect", .devices = "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='1'><reconnect enabled='yes' timeout='0'/></source></serial>", .message = "/domain/devices/serial/source/reconnect/@timeout: 0" },
    { "serial-reconnect-unix", .devices = "<serial type='unix'><source mode='connect' path='/s'><reconnect enabled='yes' timeout='86401'/></source></serial>", .message = "/domain/devices/serial/source/reconnect/@timeout: 86401" },
    { "serial-log", .devices = "<serial type='null'><log file='/l'/></serial>", .message = "/domain/devices/serial/log" },
    { "serial-pci", .devices = "<serial type='pty'><target type='pci-serial'/></serial>", .message = "/domain/devices/serial/target/@type" },
    { "serial-port", .devices = "<serial type='pty'><target port='1'/></serial>", .message = "/domain/devices/serial/target/@port" },
    { "console-udp", .devices = "<console type='udp'><source mode='connect' host='h' service='1'/><target type='virtio'/></console>", .message = "/domain/devices/console/@type" },
    { "console-target", .devices = "<serial type='null'/><console type='null'/><console type='pty'><target type='xen'/></console>", .message = "/domain/devices/console/target/@type" },
    { "rng-egd", .devices = "<rng model='virtio'><backend model='egd' type='tcp'><source mode='connect' host='h' service='1'/></backend></rng>", .message = "/domain/devices/rng/backend" },
    { "rng-rate", .devices = "<rng model='virtio'><rate bytes='10'/><backend model='random'>/dev/random</backend></rng>", .message = "/domain/devices/rng/rate" },
    { "controller-scsi", .devices = "<controller type='fdc'/>", .message = "controller[@type='fdc']" },
    { "controller-bridge", .devices = "<controller type='pci' index='1' model='pci-bridge'/>", .message = "controller[@type='pci'][@index='1']" },
    { "controller-second-vioserial", .devices = "<controller type='virtio-serial' index='1'/>", .message = "controller[@type='virtio-serial'][@index='1']" },
    { "namespace-device", .domain = KUMO_VM("<kumo:disk target='vdz'/>"), .message = "kumo:disk: the domain has no 'vdz'", .code = VIR_ERR_XML_ERROR },
    { "namespace-device-of-none", .domain = KUMO_VM("<kumo:disk target='vdz'/>"), .devices = "<disk type='file' device='disk'><source file='/d'/></disk>", .message = "kumo:disk: the domain has no 'vdz'", .code = VIR_ERR_XML_ERROR },
    { "namespace-element", .domain = KUMO_VM("<kumo:nonsense/>"), .message = "'nonsense'", .code = VIR_ERR_XML_ERROR },
    { "namespace-attribute", .domain = KUMO_VM("<kumo:cpu speed='fast'/>"), .message = "'speed'", .code = VIR_ERR_XML_ERROR },
    { "namespace-value", .domain = KUMO_VM("<kumo:cpu coreScheduling='x'/>"), .message = "kumo:cpu/@coreScheduling: 'x'", .code = VIR_ERR_XML_ERROR },
    { "namespace-queue", .domain = KUMO_VM("<kumo:disk target='vda'><kumo:queue number='0' cpuset=''/></kumo:disk>"), .message = "kumo:queue/@cpuset", .code = VIR_ERR_XML_ERROR },
    { "address-bus", .devices = DISK("", "<address type='pci' domain='0' bus='1' slot='1' function='0'/>"), .message = "0000:01:01.0" },
    { "address-function", .devices = DISK("", "<address type='pci' domain='0' bus='0' slot='1' function='1'/>"), .message = "0000:00:01.1" },
    { "address-host-bridge", .devices = NET("<address type='pci' domain='0' bus='0' slot='0' function='1'/>"), .message = "0000:00:00.1" },
    { "address-twice", .devices = DISK("", "<address type='pci' domain='0' bus='0' slot='9' function='0'/>") NET("<address type='pci' domain='0' bus='0' slot='9' function='0'/>"), .message = "0000:00:09.0 is used twice", .code = VIR_ERR_XML_ERROR },
};
/* clang-format on */

static void test_refusal(gconstpointer data)
{
    const Refusal *refusal = data;
    const char *domain = refusal->domain ? refusal->domain : "";
    g_autofree char *json = NULL;
    g_autofree char *xml = g_strdup_printf(
        "<domain type='kvm'><name>r</name>%s%s%s<os%s>%s%s</os><devices>%s</devices></domain>",
        strstr(domain, "<memory unit") ? "" : "<memory unit='MiB'>256</memory>",
        strstr(domain, "<vcpu") ? "" : "<vcpu>1</vcpu>", domain,
        refusal->os && strstr(refusal->os, "<firmware") ? " firmware='efi'" : "",
        refusal->os && strstr(refusal->os, "<type") ? "" : "<type>hvm</type>",
        refusal->os ? refusal->os : "<kernel>/k</kernel>",
        refusal->devices ? refusal->devices : "");

    json = kumo_offline_convert(driver, xml);
    if (json) {
        g_test_fail_printf("accepted");
        return;
    }
    if (!strstr(virGetLastErrorMessage(), refusal->message))
        g_test_fail_printf("'%s' is not in '%s'", refusal->message, virGetLastErrorMessage());
    if (virGetLastErrorCode() != (refusal->code ? refusal->code : VIR_ERR_CONFIG_UNSUPPORTED))
        g_test_fail_printf("code %d: %s", virGetLastErrorCode(), virGetLastErrorMessage());
}

/* Slots are given out once and stay; there are 31 of them. */
static void test_slots(void)
{
    g_autoptr(GString) devices = g_string_new(NULL);
    g_autofree char *json = NULL;

    for (int i = 0; i < 32; i++) {
        g_autofree char *xml = NULL;

        g_free(json);
        xml = g_strdup_printf("<domain type='kvm'><name>s</name><memory>262144</memory><os>"
                              "<type>hvm</type><kernel>/k</kernel></os><devices>%s</devices>"
                              "</domain>",
                              devices->str);
        json = kumo_offline_convert(driver, xml);
        /* One slot is the random number generator's. */
        g_assert_true((json != NULL) == (i <= 30));
        g_string_append_printf(devices,
                               "<interface type='bridge'><mac address='52:54:00:00:00:%02x'/>"
                               "<source bridge='b'/></interface>",
                               i);
    }
    g_assert_nonnull(strstr(virGetLastErrorMessage(), "no free slot"));
}

int main(int argc, char **argv)
{
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = NULL;
    const char *directory = g_getenv("KUMO_DOMAIN_XML");
    const char *name;
    int status;

    g_test_init(&argc, &argv, NULL);
    g_setenv("TZ", "KUMO-3:30", TRUE); /* ahead of UTC, wherever the host is */
    tzset();
    virSetErrorFunc(NULL, quiet);
    driver = kumo_offline_driver_new();
    g_assert_nonnull(driver);
    /* Golden models are those of a host that is always the same. */
    virCPUDefFree(driver->caps->host.cpu);
    virCPUDefParseXMLString(host_cpu, VIR_CPU_TYPE_HOST, &driver->caps->host.cpu, false);
    g_assert_nonnull(driver->caps->host.cpu);
    g_assert_nonnull(directory);

    dir = g_dir_open(directory, 0, NULL);
    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        if (g_str_has_suffix(name, ".xml")) {
            g_autofree char *test = g_strdup_printf("/domain-xml/golden/%s", name);
            char *path = g_build_filename(directory, name, NULL);

            g_ptr_array_add(paths, path);
            g_test_add_data_func(test, path, test_golden);
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(refusals); i++) {
        g_autofree char *test = g_strdup_printf("/domain-xml/refusal/%s", refusals[i].name);

        g_test_add_data_func(test, &refusals[i], test_refusal);
    }
    g_test_add_func("/domain-xml/slots", test_slots);

    status = g_test_run();
    kumo_offline_driver_free(driver);
    return status;
}
