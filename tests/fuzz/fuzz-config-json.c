/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM's configuration from JSON. An input that begins with '{' is the text. Others change a
 * complete configuration: each instruction of four bytes goes to one of its values and puts
 * something else there, so that even noise gets past the JSON parser.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INSTRUCTIONS = 16, MAX_TEXT_BYTES = 1 << 16 };

static const char complete[] =
    "{'cpus':{'boot_vcpus':2,'max_vcpus':4,'topology':{'threads_per_core':1,'cores_per_die':2,"
    "'dies_per_package':1,'packages':2},'max_phys_bits':46,'nested':true,'kvm_hyperv':false,"
    "'affinity':[{'vcpu':0,'host_cpus':[0,1]}],'features':{'amx':false},"
    "'core_scheduling':'Vm','cpu_mask':['-avx']},"
    "'memory':{'size':0,'zones':[{'id':'low','size':268435456,'shared':true},"
    "{'id':'high','size':268435456,'hugepages':false,'host_numa_node':0}]},"
    "'payload':{'kernel':'/kernel','cmdline':'quiet','initramfs':'/initramfs'},"
    "'rate_limit_groups':[{'id':'group','rate_limiter_config':{'ops':{'size':10,"
    "'one_time_burst':0,'refill_time':100}}}],"
    "'disks':[{'id':'disk','path':'/disk','readonly':true,'num_queues':2,'queue_size':128,"
    "'rate_limit_group':'group','queue_affinity':[{'queue_index':1,'host_cpus':[1]}]},"
    "{'path':'/other','image_type':'Raw','serial':'abc','pci_segment':1,'pci_device_id':7}],"
    "'net':[{'id':'net','tap':'tap0','mac':'52:54:00:00:00:01','num_queues':2,'queue_size':256,"
    "'mtu':1500,'offload_tso':true},{'ip':'192.168.1.1','mask':'255.255.255.0'}],"
    "'rng':{'src':'/dev/urandom'},'serial':{'mode':'File','file':'/serial'},"
    "'console':{'mode':'Socket','socket':'/console'},"
    "'platform':{'num_pci_segments':2,'system_uuid':'00112233-4455-6677-8899-aabbccddeeff',"
    "'oem_strings':['one','two']},"
    "'numa':[{'guest_numa_id':0,'cpus':[0,1],'distances':[{'destination':1,'distance':20}],"
    "'memory_zones':['low'],'pci_segments':[0]},"
    "{'guest_numa_id':1,'cpus':[2,3],'memory_zones':['high'],'pci_segments':[1]}],"
    "'pci_segments':[{'pci_segment':1,'mmio32_aperture_weight':2,'mmio64_aperture_weight':3}]}";

static void check(bool good)
{
    if (!good)
        abort();
}

static json_t *make_value(uint8_t kind, uint8_t argument)
{
    static const json_int_t numbers[] = { 0,        1,         2,         3,
                                          31,       32,        96,        255,
                                          256,      65535,     INT32_MAX, UINT32_MAX,
                                          1L << 32, 1LL << 52, INT64_MAX, INT64_MIN };
    static const char *const strings[] = { "",    "Vm",   "Off", "/path",
                                           "low", "disk", "x/y", "__console",
                                           "raw", "-avx", "Tty", "52:54:00:00:00:02" };

    switch (kind % 8) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(argument & 1);
    case 2:
        return json_integer(numbers[argument % G_N_ELEMENTS(numbers)]);
    case 3:
        return json_integer(argument);
    case 4:
        return json_string(strings[argument % G_N_ELEMENTS(strings)]);
    case 5:
        return json_array();
    case 6:
        return json_object();
    default:
        return json_real(argument / 2.0);
    }
}

/* Goes down from @value by @path, one digit per level, and changes what it comes to. */
static void change(json_t *value, unsigned path, uint8_t kind, uint8_t argument)
{
    size_t size = json_is_array(value) ? json_array_size(value) : json_object_size(value);
    size_t which = size ? path % size : 0;
    const char *key = NULL;
    json_t *child = NULL;
    size_t i = 0;

    if (!size)
        return;
    if (json_is_array(value)) {
        child = json_array_get(value, which);
    } else {
        json_object_foreach(value, key, child)
        {
            if (i++ == which)
                break;
        }
    }
    path /= (unsigned)size;
    if (path && (json_is_array(child) || json_is_object(child)) &&
        json_object_size(child) + json_array_size(child)) {
        change(child, path - 1, kind, argument);
    } else if (json_is_array(value)) {
        if (kind & 0x40)
            json_array_append_new(value, json_deep_copy(child));
        else
            json_array_set_new(value, which, make_value(kind, argument));
    } else if (kind & 0x80) {
        json_object_del(value, key);
    } else {
        json_object_set_new(value, key, make_value(kind, argument));
    }
}

static json_t *read_input(const uint8_t *data, size_t size)
{
    g_autofree char *template = NULL;
    json_t *root;

    if (size && data[0] == '{')
        return json_loadb((const char *)data, MIN(size, MAX_TEXT_BYTES), JSON_REJECT_DUPLICATES,
                          NULL);
    template = g_strdup(complete);
    g_strdelimit(template, "'", '"');
    root = json_loads(template, 0, NULL);
    check(root != NULL);
    for (size_t i = 0; i + 4 <= size && i < 4 * MAX_INSTRUCTIONS; i += 4)
        change(root, data[i] | (unsigned)data[i + 1] << 8, data[i + 2], data[i + 3]);
    return root;
}

/* What was accepted and is shown is accepted again, and shown alike. */
static void check_again(const KumoVmConfig *config)
{
    json_t *shown = kumo_vm_config_to_json(config);
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoVmConfig) again = kumo_vm_config_from_json(shown, &error);
    g_autoptr(KumoVmConfig) copy = kumo_vm_config_copy(config);
    json_t *shown_again, *shown_copy;

    check(again && !error);
    check(kumo_vm_config_validate(again, &error));
    shown_again = kumo_vm_config_to_json(again);
    shown_copy = kumo_vm_config_to_json(copy);
    check(json_equal(shown, shown_again) && json_equal(shown, shown_copy));
    json_decref(shown);
    json_decref(shown_again);
    json_decref(shown_copy);
}

static void check_error(const GError *error)
{
    check(error && error->domain == KUMO_ERROR && *error->message &&
          kumo_error_http_status(error) < 500 && g_utf8_validate(error->message, -1, NULL));
}

static void read_devices(const json_t *root)
{
    g_autoptr(GError) disk_error = NULL;
    g_autoptr(GError) net_error = NULL;
    g_autoptr(GError) restore_error = NULL;
    g_autoptr(KumoDiskConfig) disk = kumo_disk_config_from_json(root, &disk_error);
    g_autoptr(KumoNetConfig) net = kumo_net_config_from_json(root, &net_error);
    g_autoptr(KumoRestoreConfig) restore = kumo_restore_config_from_json(root, &restore_error);

    check((disk != NULL) == (disk_error == NULL));
    check((net != NULL) == (net_error == NULL));
    check((restore != NULL) == (restore_error == NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *root = read_input(data, size);
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoVmConfig) config = NULL;

    if (!root)
        return 0;
    config = kumo_vm_config_from_json(root, &error);
    if (!config)
        check_error(error);
    else if (!kumo_vm_config_validate(config, &error))
        check_error(error);
    else
        check_again(config);
    /* Nothing changed: the template itself has to stay good. */
    check(size || !error);
    read_devices(root);
    json_decref(root);
    return 0;
}
