/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "domain-xml/native.h"

#include <inttypes.h>

#include "domain-xml/xml.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_error.h"
#include "virbuffer.h"
#include "virutil.h"
#include "vmm-core/base/tcp.h"
#include "vmm-core/config/option.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* What a domain that was a VM without a name is called. */
#define NATIVE_NAME "kumo"

/* --- reading --- */

/* The values of one option: "--disk path=a path=b", "--disk=path=a". Returns how many words. */
static size_t apply_option(char **words, KumoVmConfig *config, bool *ret_ok, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(words[0] + strlen("--"), "=", 2);
    bool known = kumo_option_is_vm_config(parts[0]);
    size_t n = 1;

    *ret_ok = true;
    if (parts[1]) {
        *ret_ok = !known || kumo_option_apply(config, parts[0], parts[1], error);
        return n;
    }
    for (; words[n] && !g_str_has_prefix(words[n], "--"); n++) {
        if (known && !kumo_option_apply(config, parts[0], words[n], error)) {
            *ret_ok = false;
            return n;
        }
    }
    return n;
}

static KumoVmConfig *parse_argv(const char *text, GError **error)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_auto(GStrv) words = NULL;
    g_autoptr(GError) wrong = NULL;
    int n_words;

    if (!g_shell_parse_argv(text, &n_words, &words, &wrong)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "command line: %s", wrong->message);
        return NULL;
    }
    for (size_t i = 1; i < (size_t)n_words;) {
        bool ok = true;

        /* Words that belong to no option, as -v, are the process's own. */
        i += g_str_has_prefix(words[i], "--") ? apply_option(words + i, config, &ok, error) : 1;
        if (!ok)
            return NULL;
    }
    return g_steal_pointer(&config);
}

static KumoVmConfig *parse_json(const char *text, GError **error)
{
    json_error_t where;
    json_t *root = json_loads(text, 0, &where);
    KumoVmConfig *config;

    if (!root) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "line %d: %s", where.line, where.text);
        return NULL;
    }
    config = kumo_vm_config_from_json(root, error);
    json_decref(root);
    return config;
}

KumoVmConfig *kumo_native_parse(const char *format, const char *text)
{
    g_autoptr(KumoVmConfig) config = NULL;
    g_autoptr(GError) error = NULL;

    if (STREQ(format, KUMO_NATIVE_JSON)) {
        config = parse_json(text, &error);
    } else if (STREQ(format, KUMO_NATIVE_ARGV)) {
        config = parse_argv(text, &error);
    } else {
        virReportError(VIR_ERR_INVALID_ARG, _("unsupported config type %s, only %s and %s are"),
                       format, KUMO_NATIVE_JSON, KUMO_NATIVE_ARGV);
        return NULL;
    }
    if (!config || !kumo_vm_config_validate(config, &error)) {
        kumoReportGError(error, _("the %s is not a valid VM"), format);
        return NULL;
    }
    return g_steal_pointer(&config);
}

/* --- writing --- */

static void write_memory(virBuffer *buf, const KumoVmConfig *config)
{
    const KumoMemoryConfig *memory = &config->memory;

    virBufferAsprintf(buf, "<memory unit='b'>%" PRIu64 "</memory>\n", memory->size_bytes);
    if (config->has_balloon)
        virBufferAsprintf(buf, "<currentMemory unit='b'>%" PRIu64 "</currentMemory>\n",
                          memory->size_bytes - config->balloon.size_bytes);
    virBufferAddLit(buf, "<memoryBacking>\n");
    if (memory->hugepages && memory->hugepage_size_bytes)
        virBufferAsprintf(buf, "<hugepages><page size='%" PRIu64 "' unit='b'/></hugepages>\n",
                          memory->hugepage_size_bytes);
    else if (memory->hugepages)
        virBufferAddLit(buf, "<hugepages/>\n");
    if (memory->shared)
        virBufferAddLit(buf, "<access mode='shared'/>\n");
    if (memory->prefault)
        virBufferAddLit(buf, "<allocation mode='immediate'/>\n");
    virBufferAddLit(buf, "</memoryBacking>\n");
}

static void write_cpus(virBuffer *buf, const KumoCpusConfig *cpus)
{
    const KumoCpuTopology *topology = &cpus->topology;

    virBufferAsprintf(buf, "<vcpu current='%u'>%u</vcpu>\n", cpus->boot_vcpus, cpus->max_vcpus);
    virBufferAddLit(buf, "<cputune>\n");
    for (unsigned i = 0; i < cpus->affinity->len; i++) {
        const KumoCpuAffinity *affinity = cpus->affinity->pdata[i];

        virBufferAsprintf(buf, "<vcpupin vcpu='%u' cpuset='", affinity->vcpu);
        for (unsigned n = 0; n < affinity->host_cpus->len; n++)
            virBufferAsprintf(buf, "%s%u", n ? "," : "",
                              g_array_index(affinity->host_cpus, uint32_t, n));
        virBufferAddLit(buf, "'/>\n");
    }
    virBufferAddLit(buf, "</cputune>\n<cpu mode='host-passthrough'>\n");
    if (cpus->has_topology)
        virBufferAsprintf(buf, "<topology sockets='%u' dies='%u' cores='%u' threads='%u'/>\n",
                          topology->packages, topology->dies_per_package, topology->cores_per_die,
                          topology->threads_per_core);
    for (unsigned i = 0; i < cpus->cpu_mask->len; i++) {
        const char *item = cpus->cpu_mask->pdata[i];

        virBufferAsprintf(buf, "<feature policy='%s' name='%s'/>\n",
                          *item == '-' ? "disable" : "force", item + 1);
    }
    virBufferAsprintf(buf, "<maxphysaddr mode='emulate' bits='%u'/>\n</cpu>\n",
                      cpus->max_phys_bits);
}

static void write_entry(virBuffer *buf, const char *name, const char *value)
{
    if (!value)
        return;
    virBufferAsprintf(buf, "<entry name='%s'>", name);
    virBufferEscapeString(buf, "%s</entry>\n", value);
}

static void write_platform(virBuffer *buf, const KumoPlatformConfig *platform)
{
    virBufferAddLit(buf, "<sysinfo type='smbios'>\n<system>\n");
    write_entry(buf, "manufacturer", platform->system_manufacturer);
    write_entry(buf, "product", platform->system_product_name);
    write_entry(buf, "version", platform->system_version);
    write_entry(buf, "serial", platform->system_serial_number);
    write_entry(buf, "sku", platform->system_sku_number);
    write_entry(buf, "family", platform->system_family);
    virBufferAddLit(buf, "</system>\n");
    if (platform->chassis_asset_tag) {
        virBufferAddLit(buf, "<chassis>\n");
        write_entry(buf, "asset", platform->chassis_asset_tag);
        virBufferAddLit(buf, "</chassis>\n");
    }
    if (platform->oem_strings->len) {
        virBufferAddLit(buf, "<oemStrings>\n");
        for (unsigned i = 0; i < platform->oem_strings->len; i++)
            virBufferEscapeString(buf, "<entry>%s</entry>\n",
                                  (const char *)platform->oem_strings->pdata[i]);
        virBufferAddLit(buf, "</oemStrings>\n");
    }
    virBufferAddLit(buf, "</sysinfo>\n");
}

static void write_os(virBuffer *buf, const KumoPayloadConfig *payload)
{
    virBufferAddLit(buf, "<os>\n<type>hvm</type>\n");
    virBufferEscapeString(buf, "<loader type='rom'>%s</loader>\n", payload->firmware);
    virBufferEscapeString(buf, "<kernel>%s</kernel>\n", payload->kernel);
    virBufferEscapeString(buf, "<initrd>%s</initrd>\n", payload->initramfs);
    virBufferEscapeString(buf, "<cmdline>%s</cmdline>\n", payload->cmdline);
    virBufferAddLit(buf, "<smbios mode='sysinfo'/>\n</os>\n");
}

/* @group: whose limits they are, or NULL. */
static void write_iotune(virBuffer *buf, const KumoRateLimit *limit, const char *group)
{
    if (!limit->bandwidth.size && !limit->ops.size)
        return;
    virBufferAddLit(buf, "<iotune>\n");
    if (limit->bandwidth.size)
        virBufferAsprintf(buf, "<total_bytes_sec>%" PRIu64 "</total_bytes_sec>\n",
                          limit->bandwidth.size);
    if (limit->ops.size)
        virBufferAsprintf(buf, "<total_iops_sec>%" PRIu64 "</total_iops_sec>\n", limit->ops.size);
    virBufferEscapeString(buf, "<group_name>%s</group_name>\n", group);
    virBufferAddLit(buf, "</iotune>\n");
}

static void write_disk(virBuffer *buf, const KumoVmConfig *config, const KumoDiskConfig *disk,
                       unsigned number)
{
    bool block = disk->path && g_str_has_prefix(disk->path, "/dev/");
    g_autofree char *target = virIndexToDiskName(number, "vd");
    const KumoRateLimitGroupConfig *group =
        kumo_vm_config_find_rate_limit_group(config, disk->rate_limit_group);

    virBufferAsprintf(buf, "<disk type='%s' device='disk'>\n", block ? "block" : "file");
    virBufferAsprintf(buf, "<driver type='raw'%s queues='%u' queue_size='%u'/>\n",
                      disk->direct ? " cache='none'" : "", disk->num_queues, disk->queue_size);
    virBufferEscapeString(buf, block ? "<source dev='%s'/>\n" : "<source file='%s'/>\n",
                          disk->path);
    virBufferAsprintf(buf, "<target dev='%s' bus='virtio'/>\n", target);
    write_iotune(buf, group ? &group->rate.limit : &disk->rate.limit, disk->rate_limit_group);
    if (disk->readonly)
        virBufferAddLit(buf, "<readonly/>\n");
    virBufferEscapeString(buf, "<serial>%s</serial>\n", disk->serial);
    virBufferAddLit(buf, "</disk>\n");
}

/* The tap is the driver's to make. */
static void write_net(virBuffer *buf, const KumoNetConfig *net)
{
    virBufferAddLit(buf, "<interface type='ethernet'>\n");
    virBufferEscapeString(buf, "<mac address='%s'/>\n", net->mac);
    virBufferEscapeString(buf, "<target dev='%s'/>\n", net->tap);
    virBufferAddLit(buf, "<model type='virtio'/>\n");
    virBufferAsprintf(buf, "<driver queues='%u' rx_queue_size='%u' tx_queue_size='%u'/>\n",
                      net->num_queues / 2, net->queue_size, net->queue_size);
    if (net->mtu)
        virBufferAsprintf(buf, "<mtu size='%u'/>\n", net->mtu);
    if (!net->link_up)
        virBufferAddLit(buf, "<link state='down'/>\n");
    virBufferAddLit(buf, "</interface>\n");
}

static void write_socket(virBuffer *buf, const KumoConsoleConfig *config)
{
    g_autofree char *host = NULL;
    const char *port;

    if (config->mode == KUMO_CONSOLE_SOCKET) {
        virBufferAsprintf(buf, "<source mode='%s'", config->connect ? "connect" : "bind");
        virBufferEscapeString(buf, " path='%s'>", config->socket);
    } else if (config->mode == KUMO_CONSOLE_TCP &&
               kumo_tcp_address_split(config->tcp, &host, &port)) {
        virBufferAsprintf(buf, "<source mode='%s'", config->connect ? "connect" : "bind");
        virBufferEscapeString(buf, " host='%s'", host);
        virBufferAsprintf(buf, " service='%s'>", port);
    } else {
        return;
    }
    if (config->reconnect_s)
        virBufferAsprintf(buf, "<reconnect enabled='yes' timeout='%u'/>", config->reconnect_s);
    virBufferAddLit(buf, "</source>\n");
}

static void write_chardev(virBuffer *buf, const char *element, const char *target,
                          const KumoConsoleConfig *config)
{
    const char *type = NULL;

    switch (config->mode) {
    case KUMO_CONSOLE_OFF:
        return;
    case KUMO_CONSOLE_NULL:
        type = "null";
        break;
    case KUMO_CONSOLE_FILE:
        type = "file";
        break;
    case KUMO_CONSOLE_SOCKET:
        type = "unix";
        break;
    case KUMO_CONSOLE_TCP:
        type = "tcp";
        break;
    case KUMO_CONSOLE_TTY: /* a daemon has no terminal: the comparison finds it */
    case KUMO_CONSOLE_PTY:
        type = "pty";
        break;
    }
    virBufferAsprintf(buf, "<%s type='%s'>\n", element, type);
    if (config->mode == KUMO_CONSOLE_FILE)
        virBufferEscapeString(
            buf, config->append ? "<source path='%s' append='on'/>\n" : "<source path='%s'/>\n",
            config->file);
    virBufferEscapeString(
        buf, config->log_append ? "<log file='%s' append='on'/>\n" : "<log file='%s'/>\n",
        config->log_file);
    write_socket(buf, config);
    virBufferAsprintf(buf, "%s</%s>\n", target, element);
}

static char *write_domain(const KumoVmConfig *config)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;

    virBufferAddLit(&buf, "<domain type='kvm'>\n<name>" NATIVE_NAME "</name>\n");
    virBufferEscapeString(&buf, "<uuid>%s</uuid>\n", config->platform.system_uuid);
    write_memory(&buf, config);
    write_cpus(&buf, &config->cpus);
    write_platform(&buf, &config->platform);
    if (config->platform.rtc_offset_s)
        virBufferAsprintf(&buf, "<clock offset='variable' basis='utc' adjustment='%d'/>\n",
                          config->platform.rtc_offset_s);
    write_os(&buf, &config->payload);
    virBufferAddLit(&buf, "<devices>\n");
    for (unsigned i = 0; i < config->disks->len; i++)
        write_disk(&buf, config, config->disks->pdata[i], i);
    for (unsigned i = 0; i < config->nets->len; i++)
        write_net(&buf, config->nets->pdata[i]);
    write_chardev(&buf, "serial", "", &config->serial);
    write_chardev(&buf, "console", "<target type='virtio'/>", &config->console);
    virBufferEscapeString(&buf, "<rng model='virtio'><backend model='random'>%s</backend></rng>\n",
                          config->rng.src);
    if (config->has_balloon)
        virBufferAsprintf(&buf,
                          "<memballoon model='virtio' autodeflate='%s' freePageReporting='%s'>"
                          "<stats period='%u'/></memballoon>\n",
                          config->balloon.deflate_on_oom ? "on" : "off",
                          config->balloon.free_page_reporting ? "on" : "off",
                          config->balloon.stats_period_s);
    virBufferAddLit(&buf, "</devices>\n</domain>\n");
    return virBufferContentAndReset(&buf);
}

/* --- nothing may be lost on the way --- */

/* What a domain has of its own: names, places, and who makes the tap. */
static bool is_the_domains(const char *key, const json_t *value)
{
    static const char *const own[] = { "id",  "pci_device_id", "tap",
                                       "fds", "image_type",    "statistics" };
    static const char *const made_up[] = { "system_uuid", "mac", "affinity" };

    for (size_t i = 0; i < G_N_ELEMENTS(own); i++) {
        if (STREQ(key, own[i]))
            return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(made_up); i++) {
        if (STREQ(key, made_up[i]) && (!value || json_is_null(value)))
            return true;
    }
    return false;
}

/* Returns: (transfer full): the path of what differs, or NULL. */
static char *find_difference(const json_t *before, const json_t *after, const char *path)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_object(before) && json_is_object(after)) {
        json_object_foreach((json_t *)before, key, value)
        {
            g_autofree char *below = g_strdup_printf("%s%s%s", path, *path ? "." : "", key);
            char *found = is_the_domains(key, value)
                              ? NULL
                              : find_difference(value, json_object_get(after, key), below);

            if (found)
                return found;
        }
        return NULL;
    }
    if (json_is_array(before) && json_array_size(before) == json_array_size(after)) {
        json_array_foreach((json_t *)before, i, value)
        {
            g_autofree char *below = g_strdup_printf("%s[%zu]", path, i);
            char *found = find_difference(value, json_array_get(after, i), below);

            if (found)
                return found;
        }
        return NULL;
    }
    if (json_equal(before, after) || (json_is_null(before) && !after))
        return NULL;
    return g_strdup(path);
}

static bool check_same(const KumoVmConfig *config, const virDomainDef *def)
{
    g_autoptr(KumoVmConfig) again = kumo_xml_to_config(def, NULL, NULL);
    g_autofree char *difference = NULL;
    json_t *before, *after;

    if (!again)
        return false;
    before = kumo_vm_config_to_json(config);
    after = kumo_vm_config_to_json(again);
    difference = find_difference(before, after, "");
    json_decref(before);
    json_decref(after);
    if (!difference)
        return true;
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("%s: there is no word for it in the domain XML"),
                   difference);
    return false;
}

char *kumo_native_to_xml(kumoDriver *driver, const KumoVmConfig *config)
{
    g_autofree char *xml = write_domain(config);
    g_autoptr(virDomainDef) def = NULL;

    if (!(def = virDomainDefParseString(xml, driver->xmlopt, NULL,
                                        VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                            VIR_DOMAIN_DEF_PARSE_ABI_UPDATE)) ||
        kumoAssignAliases(def) < 0 || !check_same(config, def))
        return NULL;
    return virDomainDefFormat(def, driver->xmlopt, VIR_DOMAIN_DEF_FORMAT_INACTIVE);
}
