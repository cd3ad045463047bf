/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/remote/command.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/api/http.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option.h"
#include "vmm-core/config/option_string.h"

/* One "--name VALUE" of a sub-command, and the key it becomes in the body. */
typedef struct {
    const char *option;
    const char *key;
    bool is_text; /* otherwise a number with K, M or G if wanted */
    bool required;
} NamedArgument;

void kumo_remote_request_clear(KumoRemoteRequest *request)
{
    g_clear_pointer(&request->body, free);
    g_clear_pointer(&request->fds, g_array_unref);
}

static bool usage(const KumoRemoteCommand *command, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "usage: kumo-remote --api-socket SOCKET %s%s%s", command->name,
                *command->arguments ? " " : "", command->arguments);
    return false;
}

static void set_body(KumoRemoteRequest *request, json_t *body)
{
    request->body = json_dumps(body, JSON_COMPACT);
    json_decref(body);
}

static bool make_nothing(const KumoRemoteCommand *command, int n_args, char **args,
                         KumoRemoteRequest *request, GError **error)
{
    return n_args == 0 || usage(command, error);
}

/* A JSON file, standard input if none is named or it is "-". */
static bool make_create(const KumoRemoteCommand *command, int n_args, char **args,
                        KumoRemoteRequest *request, GError **error)
{
    const char *path = n_args ? args[0] : "-";
    kumo_auto_fd fd = -1;
    size_t used = 0;
    ssize_t n;

    if (n_args > 1)
        return usage(command, error);
    fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "create: %s", path);
        return false;
    }
    request->body = malloc(KUMO_HTTP_REQUEST_BODY_MAX + 1);
    if (!request->body) {
        kumo_set_error_errno(error, ENOMEM, "create: %s", path);
        return false;
    }
    while (used <= KUMO_HTTP_REQUEST_BODY_MAX &&
           (n = read(fd, request->body + used, KUMO_HTTP_REQUEST_BODY_MAX + 1 - used)) != 0) {
        if (n < 0 && errno != EINTR) {
            kumo_set_error_errno(error, errno, "create: %s", path);
            return false;
        }
        used += n > 0 ? (size_t)n : 0;
    }
    if (used > KUMO_HTTP_REQUEST_BODY_MAX || memchr(request->body, '\0', used)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "create: %s: must be JSON text of at most %d bytes", path,
                    KUMO_HTTP_REQUEST_BODY_MAX);
        return false;
    }
    request->body[used] = '\0';
    return true;
}

static bool make_disk(const KumoRemoteCommand *command, int n_args, char **args,
                      KumoRemoteRequest *request, GError **error)
{
    g_autoptr(KumoDiskConfig) disk = NULL;

    if (n_args != 1)
        return usage(command, error);
    disk = kumo_option_parse_disk(args[0], error);
    if (!disk)
        return false;
    set_body(request, kumo_disk_config_to_json(disk));
    return true;
}

static bool make_net(const KumoRemoteCommand *command, int n_args, char **args,
                     KumoRemoteRequest *request, GError **error)
{
    g_autoptr(KumoNetConfig) net = NULL;

    if (n_args != 1)
        return usage(command, error);
    net = kumo_option_parse_net(args[0], error);
    if (!net)
        return false;
    set_body(request, kumo_net_config_to_json(net));
    /* They go with the request and stay open here until the process ends. */
    request->fds = g_steal_pointer(&net->fds);
    return true;
}

/* A value of an option string whose keys only the server knows: by its look. */
static json_t *guess_value(const char *raw)
{
    g_autofree char *text = kumo_option_unquote(raw);
    uint64_t number = 0;

    if (strcmp(text, "on") == 0 || strcmp(text, "true") == 0)
        return json_true();
    if (strcmp(text, "off") == 0 || strcmp(text, "false") == 0)
        return json_false();
    if (*raw != '"' && kumo_parse_size(text, &number, NULL))
        return json_integer((json_int_t)number);
    return json_string(text);
}

static bool make_options(const KumoRemoteCommand *command, int n_args, char **args,
                         KumoRemoteRequest *request, GError **error)
{
    g_autoptr(GPtrArray) items = NULL;
    json_t *body;

    if (n_args != 1)
        return usage(command, error);
    if (!g_utf8_validate(args[0], -1, NULL)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: the argument is not valid UTF-8",
                    command->name);
        return false;
    }
    items = kumo_option_split(command->name, args[0], error);
    if (!items)
        return false;
    body = json_object();
    for (guint i = 0; i < items->len; i++) {
        const KumoOptionItem *item = items->pdata[i];

        json_object_set_new(body, item->key, item->value ? guess_value(item->value) : json_true());
    }
    set_body(request, body);
    return true;
}

static bool make_restore(const KumoRemoteCommand *command, int n_args, char **args,
                         KumoRemoteRequest *request, GError **error)
{
    g_autoptr(KumoRestoreConfig) restore = NULL;

    if (n_args != 1)
        return usage(command, error);
    restore = kumo_option_parse_restore(args[0], error);
    if (!restore)
        return false;
    set_body(request, kumo_restore_config_to_json(restore));
    /* In the order of the devices; they stay open here until the process ends. */
    for (guint i = 0; i < restore->nets->len; i++) {
        KumoRestoreNet *net = restore->nets->pdata[i];

        if (!request->fds)
            request->fds = g_array_new(FALSE, FALSE, sizeof(int));
        g_array_append_vals(request->fds, net->fds->data, net->fds->len);
        g_array_set_size(net->fds, 0);
    }
    return true;
}

/* Of all that @json says of an object, what the option string names: its keys are those of JSON but
 * for the numbers of the rate limits. */
static bool set_changes(const KumoRemoteCommand *command, const char *text, json_t *json,
                        KumoRemoteRequest *request, GError **error)
{
    g_autoptr(GPtrArray) items = kumo_option_split(command->name, text, error);
    json_t *body = items ? json_object() : NULL;

    for (guint i = 0; items && i < items->len; i++) {
        const KumoOptionItem *item = items->pdata[i];
        bool is_rate = strstr(item->key, "bw_") || strstr(item->key, "ops_") ||
                       strcmp(item->key, "op_size") == 0;
        const char *key = is_rate ? "rate_limiter_config" : item->key;
        json_t *value = json_object_get(json, key);

        json_object_set_new(body, key, value ? json_incref(value) : json_null());
    }
    json_decref(json);
    if (body)
        set_body(request, body);
    return body != NULL;
}

static bool make_update_disk(const KumoRemoteCommand *command, int n_args, char **args,
                             KumoRemoteRequest *request, GError **error)
{
    g_autoptr(KumoDiskConfig) disk = NULL;

    if (n_args != 1)
        return usage(command, error);
    disk = kumo_option_parse_disk(args[0], error);
    return disk && set_changes(command, args[0], kumo_disk_config_to_json(disk), request, error);
}

static bool make_update_net(const KumoRemoteCommand *command, int n_args, char **args,
                            KumoRemoteRequest *request, GError **error)
{
    g_autoptr(KumoNetConfig) net = NULL;

    if (n_args != 1)
        return usage(command, error);
    net = kumo_option_parse_net(args[0], error);
    return net && set_changes(command, args[0], kumo_net_config_to_json(net), request, error);
}

/* For a part of the configuration that has an option: @option's value @text, read and written as
 * JSON. */
static bool make_update(const KumoRemoteCommand *command, int n_args, char **args,
                        const char *option, const char *section, KumoRemoteRequest *request,
                        GError **error)
{
    g_autoptr(KumoVmConfig) config = NULL;
    json_t *all, *part;
    bool ok;

    if (n_args != 1)
        return usage(command, error);
    config = kumo_vm_config_new();
    if (!kumo_option_apply(config, option, args[0], error))
        return false;
    all = kumo_vm_config_to_json(config);
    part = json_object_get(all, section);
    if (json_is_array(part))
        part = json_array_get(part, 0);
    ok = set_changes(command, args[0], json_incref(part), request, error);
    json_decref(all);
    return ok;
}

static bool make_update_cpus(const KumoRemoteCommand *command, int n_args, char **args,
                             KumoRemoteRequest *request, GError **error)
{
    return make_update(command, n_args, args, "cpus", "cpus", request, error);
}

static bool make_update_balloon(const KumoRemoteCommand *command, int n_args, char **args,
                                KumoRemoteRequest *request, GError **error)
{
    return make_update(command, n_args, args, "balloon", "balloon", request, error);
}

static bool make_rate_limit_group(const KumoRemoteCommand *command, int n_args, char **args,
                                  KumoRemoteRequest *request, GError **error)
{
    return make_update(command, n_args, args, "rate-limit-group", "rate_limit_groups", request,
                       error);
}

static bool make_text(const KumoRemoteCommand *command, int n_args, char **args, const char *key,
                      KumoRemoteRequest *request, GError **error)
{
    json_t *body;

    if (n_args != 1)
        return usage(command, error);
    body = json_pack("{s:s}", key, args[0]);
    if (!body) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: the argument is not valid UTF-8",
                    command->name);
        return false;
    }
    set_body(request, body);
    return true;
}

static bool make_id(const KumoRemoteCommand *command, int n_args, char **args,
                    KumoRemoteRequest *request, GError **error)
{
    return make_text(command, n_args, args, "id", request, error);
}

static bool make_url(const KumoRemoteCommand *command, int n_args, char **args,
                     KumoRemoteRequest *request, GError **error)
{
    return make_text(command, n_args, args, "destination_url", request, error);
}

static bool add_named(const KumoRemoteCommand *command, const NamedArgument *argument,
                      const char *value, json_t *body, GError **error)
{
    uint64_t number = 0;
    json_t *json;

    if (argument->is_text) {
        json = json_string(value);
        if (!json) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s --%s: the value is not valid UTF-8", command->name, argument->option);
            return false;
        }
    } else {
        if (!kumo_parse_size(value, &number, error)) {
            kumo_prefix_error(error, "%s --%s", command->name, argument->option);
            return false;
        }
        json = json_integer((json_int_t)number);
    }
    json_object_set_new(body, argument->key, json);
    return true;
}

/* "--name VALUE" or "--name=VALUE". Returns: the row, with the value in *@ret_value and *@index
 * moved on. */
static const NamedArgument *match_named(const NamedArgument *arguments, size_t n_arguments,
                                        int n_args, char **args, int *index, const char **ret_value)
{
    const char *arg = args[*index];

    if (!g_str_has_prefix(arg, "--"))
        return NULL;
    for (size_t i = 0; i < n_arguments; i++) {
        size_t len = strlen(arguments[i].option);

        if (strncmp(arg + 2, arguments[i].option, len) != 0)
            continue;
        if (arg[2 + len] == '=') {
            *ret_value = arg + 2 + len + 1;
            *index += 1;
            return &arguments[i];
        }
        if (!arg[2 + len] && *index + 1 < n_args) {
            *ret_value = args[*index + 1];
            *index += 2;
            return &arguments[i];
        }
    }
    return NULL;
}

static bool make_send(const KumoRemoteCommand *command, int n_args, char **args,
                      KumoRemoteRequest *request, GError **error)
{
    g_autoptr(KumoSendMigrationConfig) send = NULL;

    if (n_args != 1)
        return usage(command, error);
    send = kumo_option_parse_send_migration(args[0], error);
    if (!send)
        return false;
    set_body(request, kumo_send_migration_config_to_json(send));
    request->fds = g_steal_pointer(&send->stream_fd);
    return true;
}

/* Returns: (transfer full): the JSON object in the file. */
static json_t *read_object(const char *command, const char *path, GError **error)
{
    json_error_t where;
    json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, &where);

    if (json_is_object(json))
        return json;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s: %s", command, path,
                json ? "is not a JSON object" : where.text);
    json_decref(json);
    return NULL;
}

static bool make_receive(const KumoRemoteCommand *command, int n_args, char **args,
                         KumoRemoteRequest *request, GError **error)
{
    g_autoptr(KumoReceiveMigrationConfig) receive = NULL;
    json_t *body;

    if (n_args != 1)
        return usage(command, error);
    receive = kumo_option_parse_receive_migration(args[0], error);
    if (!receive)
        return false;
    body = kumo_receive_migration_config_to_json(receive);
    if (receive->config_file) {
        json_t *config = read_object(command->name, receive->config_file, error);

        if (!config) {
            json_decref(body);
            return false;
        }
        json_object_set_new(body, "config", config);
    }
    set_body(request, body);
    request->fds = g_steal_pointer(&receive->stream_fd);
    return true;
}

static bool make_named(const KumoRemoteCommand *command, const NamedArgument *arguments,
                       size_t n_arguments, int n_args, char **args, KumoRemoteRequest *request,
                       GError **error)
{
    json_t *body = json_object();
    bool ok = true;

    for (int index = 0; ok && index < n_args;) {
        const char *value = NULL;
        const NamedArgument *argument =
            match_named(arguments, n_arguments, n_args, args, &index, &value);

        ok = argument ? add_named(command, argument, value, body, error) : usage(command, error);
    }
    for (size_t i = 0; ok && i < n_arguments; i++) {
        if (arguments[i].required && !json_object_get(body, arguments[i].key))
            ok = usage(command, error);
    }
    if (ok && json_object_size(body) == 0)
        ok = usage(command, error);
    if (!ok) {
        json_decref(body);
        return false;
    }
    set_body(request, body);
    return true;
}

static bool make_resize(const KumoRemoteCommand *command, int n_args, char **args,
                        KumoRemoteRequest *request, GError **error)
{
    static const NamedArgument arguments[] = {
        { .option = "cpus", .key = "desired_vcpus" },
        { .option = "memory", .key = "desired_ram" },
        { .option = "balloon", .key = "desired_balloon" },
    };

    return make_named(command, arguments, G_N_ELEMENTS(arguments), n_args, args, request, error);
}

static bool make_resize_disk(const KumoRemoteCommand *command, int n_args, char **args,
                             KumoRemoteRequest *request, GError **error)
{
    static const NamedArgument arguments[] = {
        { .option = "disk", .key = "id", .is_text = true, .required = true },
        { .option = "size", .key = "desired_size", .required = true },
    };

    return make_named(command, arguments, G_N_ELEMENTS(arguments), n_args, args, request, error);
}

static bool make_resize_zone(const KumoRemoteCommand *command, int n_args, char **args,
                             KumoRemoteRequest *request, GError **error)
{
    static const NamedArgument arguments[] = {
        { .option = "id", .key = "id", .is_text = true, .required = true },
        { .option = "size", .key = "desired_ram", .required = true },
    };

    return make_named(command, arguments, G_N_ELEMENTS(arguments), n_args, args, request, error);
}

const KumoRemoteCommand kumo_remote_commands[] = {
    { "add-device", "OPTIONS", "add a VFIO device", "PUT", "vm.add-device", make_options },
    { "add-disk", "OPTIONS", "add a disk", "PUT", "vm.add-disk", make_disk },
    { "add-fs", "OPTIONS", "add a virtio-fs device", "PUT", "vm.add-fs", make_options },
    { "add-generic-vhost-user", "OPTIONS", "add a vhost-user device of any type", "PUT",
      "vm.add-generic-vhost-user", make_options },
    { "add-net", "OPTIONS", "add a network device", "PUT", "vm.add-net", make_net },
    { "add-pmem", "OPTIONS", "add a persistent memory device", "PUT", "vm.add-pmem", make_options },
    { "add-rate-limit-group", "OPTIONS", "add a group of disks with limits together", "PUT",
      "vm.add-rate-limit-group", make_rate_limit_group },
    { "add-user-device", "OPTIONS", "add a vfio-user device", "PUT", "vm.add-user-device",
      make_options },
    { "add-vdpa", "OPTIONS", "add a vDPA device", "PUT", "vm.add-vdpa", make_options },
    { "add-vsock", "OPTIONS", "add a vsock device", "PUT", "vm.add-vsock", make_options },
    { "boot", "", "start the created VM", "PUT", "vm.boot", make_nothing },
    { "cancel-migration", "", "call the migration off", "PUT", "vm.cancel-migration",
      make_nothing },
    { "coredump", "URL", "write a core dump to file://PATH", "PUT", "vm.coredump", make_url },
    { "counters", "", "show the devices' counters", "GET", "vm.counters", make_nothing },
    { "create", "[FILE|-]", "create a VM from JSON", "PUT", "vm.create", make_create },
    { "delete", "", "delete the VM", "PUT", "vm.delete", make_nothing },
    { "info", "", "show the VM's configuration and state", "GET", "vm.info", make_nothing },
    { "migration-progress", "", "show how far the migration is", "GET", "vm.migration-progress",
      make_nothing },
    { "migration-start-postcopy", "", "let the rest of the memory follow the VM", "PUT",
      "vm.migration-start-postcopy", make_nothing },
    { "nmi", "", "send a non-maskable interrupt", "PUT", "vm.nmi", make_nothing },
    { "pause", "", "pause the VM", "PUT", "vm.pause", make_nothing },
    { "ping", "", "show the VMM's version", "GET", "vmm.ping", make_nothing },
    { "power-button", "", "press the power button", "PUT", "vm.power-button", make_nothing },
    { "reboot", "", "reboot the VM", "PUT", "vm.reboot", make_nothing },
    { "receive-migration", "OPTIONS", "wait for a VM to arrive", "PUT", "vm.receive-migration",
      make_receive },
    { "remove-device", "ID", "remove a device", "PUT", "vm.remove-device", make_id },
    { "resize", "[--cpus N] [--memory SIZE] [--balloon SIZE]", "change vCPUs or memory", "PUT",
      "vm.resize", make_resize },
    { "resize-disk", "--disk ID --size SIZE", "change the size of a disk", "PUT", "vm.resize-disk",
      make_resize_disk },
    { "resize-zone", "--id ID --size SIZE", "change the size of a memory zone", "PUT",
      "vm.resize-zone", make_resize_zone },
    { "restore", "OPTIONS", "restore a VM from a snapshot", "PUT", "vm.restore", make_restore },
    { "resume", "", "let the paused VM go on", "PUT", "vm.resume", make_nothing },
    { "send-migration", "OPTIONS", "migrate the VM away", "PUT", "vm.send-migration", make_send },
    { "shutdown", "", "stop the VM hard", "PUT", "vm.shutdown", make_nothing },
    { "shutdown-vmm", "", "end the VMM", "PUT", "vmm.shutdown", make_nothing },
    { "snapshot", "URL", "write a snapshot to file://DIRECTORY", "PUT", "vm.snapshot", make_url },
    { "update-balloon", "OPTIONS", "change how often the guest tells statistics", "PUT",
      "vm.update-balloon", make_update_balloon },
    { "update-cpus", "OPTIONS", "change where vCPUs run", "PUT", "vm.update-cpus",
      make_update_cpus },
    { "update-disk", "OPTIONS", "change a disk's rate limits, affinity or threshold", "PUT",
      "vm.update-disk", make_update_disk },
    { "update-net", "OPTIONS", "change a network device's rate limits, affinity or link", "PUT",
      "vm.update-net", make_update_net },
    { "update-rate-limit-group", "OPTIONS", "change the limits of a group of disks", "PUT",
      "vm.update-rate-limit-group", make_rate_limit_group },
};

const size_t kumo_remote_n_commands = G_N_ELEMENTS(kumo_remote_commands);

const KumoRemoteCommand *kumo_remote_find(const char *name)
{
    for (size_t i = 0; i < kumo_remote_n_commands; i++) {
        if (strcmp(kumo_remote_commands[i].name, name) == 0)
            return &kumo_remote_commands[i];
    }
    return NULL;
}
