/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/endpoints.h"

#include <unistd.h>

#include "kumo-build.h"
#include "vmm-core/api/body.h"
#include "vmm-core/api/router.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/build_features.h"
#include "vmm-core/config/config.h"

static bool vmm_ping(void *opaque, const json_t *body, const KumoApiRequest *request,
                     json_t **ret_reply, GError **error)
{
    json_t *features = json_array();

    for (const char *const *name = kumo_features(); *name; name++)
        json_array_append_new(features, json_string(*name));
    *ret_reply = json_pack("{s:s, s:s, s:I, s:o}", "build_version", "kumo " KUMO_VERSION, "version",
                           KUMO_VERSION, "pid", (json_int_t)getpid(), "features", features);
    return true;
}

static bool vmm_shutdown(void *opaque, const json_t *body, const KumoApiRequest *request,
                         json_t **ret_reply, GError **error)
{
    kumo_vmm_quit(opaque);
    return true;
}

static bool vm_create(void *opaque, const json_t *body, const KumoApiRequest *request,
                      json_t **ret_reply, GError **error)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_from_json(body, error);

    if (!config || !kumo_vm_config_take_fds(config, request->fds, request->n_fds, error))
        return false;
    return kumo_vmm_create(opaque, g_steal_pointer(&config), error);
}

static bool vm_info(void *opaque, const json_t *body, const KumoApiRequest *request,
                    json_t **ret_reply, GError **error)
{
    *ret_reply = kumo_vmm_info(opaque, error);
    return *ret_reply != NULL;
}

static bool vm_counters(void *opaque, const json_t *body, const KumoApiRequest *request,
                        json_t **ret_reply, GError **error)
{
    *ret_reply = kumo_vmm_counters(opaque, error);
    return *ret_reply != NULL;
}

static bool vm_boot(void *opaque, const json_t *body, const KumoApiRequest *request,
                    json_t **ret_reply, GError **error)
{
    return kumo_vmm_boot(opaque, error);
}

static bool vm_pause(void *opaque, const json_t *body, const KumoApiRequest *request,
                     json_t **ret_reply, GError **error)
{
    return kumo_vmm_pause(opaque, error);
}

static bool vm_resume(void *opaque, const json_t *body, const KumoApiRequest *request,
                      json_t **ret_reply, GError **error)
{
    return kumo_vmm_resume(opaque, error);
}

static bool vm_shutdown(void *opaque, const json_t *body, const KumoApiRequest *request,
                        json_t **ret_reply, GError **error)
{
    return kumo_vmm_shutdown(opaque, error);
}

static bool vm_reboot(void *opaque, const json_t *body, const KumoApiRequest *request,
                      json_t **ret_reply, GError **error)
{
    return kumo_vmm_reboot(opaque, error);
}

static bool vm_delete(void *opaque, const json_t *body, const KumoApiRequest *request,
                      json_t **ret_reply, GError **error)
{
    return kumo_vmm_delete(opaque, error);
}

static bool vm_power_button(void *opaque, const json_t *body, const KumoApiRequest *request,
                            json_t **ret_reply, GError **error)
{
    return kumo_vmm_power_button(opaque, error);
}

static bool vm_nmi(void *opaque, const json_t *body, const KumoApiRequest *request,
                   json_t **ret_reply, GError **error)
{
    return kumo_vmm_nmi(opaque, error);
}

static bool vm_add_disk(void *opaque, const json_t *body, const KumoApiRequest *request,
                        json_t **ret_reply, GError **error)
{
    KumoDiskConfig *disk = kumo_disk_config_from_json(body, error);

    return disk && kumo_vmm_add_disk(opaque, disk, ret_reply, error);
}

static bool vm_add_net(void *opaque, const json_t *body, const KumoApiRequest *request,
                       json_t **ret_reply, GError **error)
{
    g_autoptr(KumoNetConfig) net = kumo_net_config_from_json(body, error);

    if (!net || !kumo_net_config_take_fds(net, request->fds, request->n_fds, error))
        return false;
    return kumo_vmm_add_net(opaque, g_steal_pointer(&net), ret_reply, error);
}

static bool vm_update_disk(void *opaque, const json_t *body, const KumoApiRequest *request,
                           json_t **ret_reply, GError **error)
{
    return kumo_vmm_update_disk(opaque, body, error);
}

static bool vm_update_net(void *opaque, const json_t *body, const KumoApiRequest *request,
                          json_t **ret_reply, GError **error)
{
    return kumo_vmm_update_net(opaque, body, error);
}

static bool vm_update_rate_limit_group(void *opaque, const json_t *body,
                                       const KumoApiRequest *request, json_t **ret_reply,
                                       GError **error)
{
    return kumo_vmm_update_rate_limit_group(opaque, body, error);
}

static bool vm_add_rate_limit_group(void *opaque, const json_t *body, const KumoApiRequest *request,
                                    json_t **ret_reply, GError **error)
{
    return kumo_vmm_add_rate_limit_group(opaque, body, error);
}

static bool vm_update_balloon(void *opaque, const json_t *body, const KumoApiRequest *request,
                              json_t **ret_reply, GError **error)
{
    return kumo_vmm_update_balloon(opaque, body, error);
}

static bool vm_update_cpus(void *opaque, const json_t *body, const KumoApiRequest *request,
                           json_t **ret_reply, GError **error)
{
    return kumo_vmm_update_cpus(opaque, body, error);
}

static bool vm_remove_device(void *opaque, const json_t *body, const KumoApiRequest *request,
                             json_t **ret_reply, GError **error)
{
    const char *id = NULL;
    const KumoApiValue values[] = { { .key = "id", .ret_text = &id } };

    return kumo_api_read_body(body, values, G_N_ELEMENTS(values), error) &&
           kumo_vmm_remove_device(opaque, id, error);
}

static bool vm_resize_disk(void *opaque, const json_t *body, const KumoApiRequest *request,
                           json_t **ret_reply, GError **error)
{
    const char *id = NULL;
    uint64_t size_bytes = 0;
    const KumoApiValue values[] = { { .key = "id", .ret_text = &id },
                                    { .key = "desired_size", .ret_size_bytes = &size_bytes } };

    return kumo_api_read_body(body, values, G_N_ELEMENTS(values), error) &&
           kumo_vmm_resize_disk(opaque, id, size_bytes, error);
}

static bool vm_resize(void *opaque, const json_t *body, const KumoApiRequest *request,
                      json_t **ret_reply, GError **error)
{
    KumoVmResize wanted = { 0 };
    const KumoApiValue values[] = {
        { .key = "desired_vcpus", .ret_number = &wanted.vcpus, .ret_has = &wanted.has_vcpus },
        { .key = "desired_ram", .ret_size_bytes = &wanted.ram_bytes, .ret_has = &wanted.has_ram },
        { .key = "desired_balloon",
          .ret_size_bytes = &wanted.balloon_bytes,
          .ret_has = &wanted.has_balloon },
    };

    return kumo_api_read_body(body, values, G_N_ELEMENTS(values), error) &&
           kumo_vmm_resize(opaque, &wanted, error);
}

static bool vm_resize_zone(void *opaque, const json_t *body, const KumoApiRequest *request,
                           json_t **ret_reply, GError **error)
{
    const char *id = NULL;
    uint64_t bytes = 0;
    const KumoApiValue values[] = { { .key = "id", .ret_text = &id },
                                    { .key = "desired_ram", .ret_size_bytes = &bytes } };

    return kumo_api_read_body(body, values, G_N_ELEMENTS(values), error) &&
           kumo_vmm_resize_zone(opaque, id, bytes, error);
}

static bool read_destination(const json_t *body, const char **ret_url, GError **error)
{
    const KumoApiValue values[] = { { .key = "destination_url", .ret_text = ret_url } };

    return kumo_api_read_body(body, values, G_N_ELEMENTS(values), error);
}

static bool vm_snapshot(void *opaque, const json_t *body, const KumoApiRequest *request,
                        json_t **ret_reply, GError **error)
{
    const char *url = NULL;

    return read_destination(body, &url, error) && kumo_vmm_snapshot(opaque, url, error);
}

static bool vm_coredump(void *opaque, const json_t *body, const KumoApiRequest *request,
                        json_t **ret_reply, GError **error)
{
    const char *url = NULL;
    bool direct = false, has_direct;
    const KumoApiValue values[] = {
        { .key = "destination_url", .ret_text = &url },
        { .key = "direct", .ret_truth = &direct, .ret_has = &has_direct },
    };

    return kumo_api_read_body(body, values, G_N_ELEMENTS(values), error) &&
           kumo_vmm_coredump(opaque, url, direct, error);
}

static bool vm_read_memory(void *opaque, const json_t *body, const KumoApiRequest *request,
                           json_t **ret_reply, GError **error)
{
    uint64_t gpa = 0, len = 0;
    const KumoApiValue values[] = { { .key = "address", .ret_size_bytes = &gpa },
                                    { .key = "size",
                                      .ret_size_bytes = &len,
                                      .min_bytes = 1,
                                      .max_bytes = KUMO_READ_MEMORY_MAX_BYTES } };
    g_autofree uint8_t *data = NULL;
    g_autofree char *text = NULL;

    if (!kumo_api_read_body(body, values, G_N_ELEMENTS(values), error) ||
        !(data = kumo_vmm_read_memory(opaque, gpa, len, error)))
        return false;
    text = g_base64_encode(data, len);
    *ret_reply = json_pack("{s:s}", "data", text);
    return true;
}

static bool vm_restore(void *opaque, const json_t *body, const KumoApiRequest *request,
                       json_t **ret_reply, GError **error)
{
    g_autoptr(KumoRestoreConfig) restore = kumo_restore_config_from_json(body, error);

    if (!restore || !kumo_restore_config_take_fds(restore, request->fds, request->n_fds, error))
        return false;
    return kumo_vmm_restore(opaque, g_steal_pointer(&restore), error);
}

static bool vm_send_migration(void *opaque, const json_t *body, const KumoApiRequest *request,
                              json_t **ret_reply, GError **error)
{
    g_autoptr(KumoSendMigrationConfig) send = kumo_send_migration_config_from_json(body, error);

    return send && kumo_send_migration_config_take_fds(send, request->fds, request->n_fds, error) &&
           kumo_vmm_send_migration(opaque, g_steal_pointer(&send), error);
}

static void on_received(void *opaque, const GError *error)
{
    kumo_api_later_finish(opaque, "vm.receive-migration", error);
}

/* The answer comes with the VM, unless the client does not want to wait. */
static bool vm_receive_migration(void *opaque, const json_t *body, const KumoApiRequest *request,
                                 json_t **ret_reply, GError **error)
{
    g_autoptr(KumoReceiveMigrationConfig) receive =
        kumo_receive_migration_config_from_json(body, error);
    KumoApiLater *later;

    if (!receive ||
        !kumo_receive_migration_config_take_fds(receive, request->fds, request->n_fds, error))
        return false;
    if (!receive->wait)
        return kumo_vmm_receive_migration(opaque, g_steal_pointer(&receive), NULL, NULL, error);
    later = g_new0(KumoApiLater, 1);
    if (!kumo_vmm_receive_migration(opaque, g_steal_pointer(&receive), on_received, later, error)) {
        g_free(later);
        return false;
    }
    *request->ret_later = later;
    return true;
}

static bool vm_cancel_migration(void *opaque, const json_t *body, const KumoApiRequest *request,
                                json_t **ret_reply, GError **error)
{
    return kumo_vmm_cancel_migration(opaque, error);
}

static bool vm_update_migration(void *opaque, const json_t *body, const KumoApiRequest *request,
                                json_t **ret_reply, GError **error)
{
    KumoUpdateMigrationConfig update;

    return kumo_update_migration_config_from_json(body, &update, error) &&
           kumo_vmm_update_migration(opaque, &update, error);
}

static bool vm_migration_start_postcopy(void *opaque, const json_t *body,
                                        const KumoApiRequest *request, json_t **ret_reply,
                                        GError **error)
{
    return kumo_vmm_start_postcopy(opaque, error);
}

static bool vm_migration_progress(void *opaque, const json_t *body, const KumoApiRequest *request,
                                  json_t **ret_reply, GError **error)
{
    *ret_reply = kumo_vmm_migration_progress(opaque, error);
    return *ret_reply != NULL;
}

const KumoApiEndpoint kumo_api_endpoints[] = {
    { .name = "vmm.ping", .method = "GET", .func = vmm_ping },
    { .name = "vmm.shutdown", .method = "PUT", .func = vmm_shutdown },
    { .name = "vm.create",
      .method = "PUT",
      .takes_body = true,
      .takes_fds = true,
      .func = vm_create },
    { .name = "vm.boot", .method = "PUT", .func = vm_boot },
    { .name = "vm.info", .method = "GET", .func = vm_info },
    { .name = "vm.counters", .method = "GET", .func = vm_counters },
    { .name = "vm.pause", .method = "PUT", .func = vm_pause },
    { .name = "vm.resume", .method = "PUT", .func = vm_resume },
    { .name = "vm.shutdown", .method = "PUT", .func = vm_shutdown },
    { .name = "vm.reboot", .method = "PUT", .func = vm_reboot },
    { .name = "vm.power-button", .method = "PUT", .func = vm_power_button },
    { .name = "vm.delete", .method = "PUT", .func = vm_delete },
    { .name = "vm.resize", .method = "PUT", .takes_body = true, .func = vm_resize },
    { .name = "vm.resize-zone", .method = "PUT", .takes_body = true, .func = vm_resize_zone },
    { .name = "vm.resize-disk", .method = "PUT", .takes_body = true, .func = vm_resize_disk },
    { .name = "vm.add-device", .method = "PUT" },
    { .name = "vm.add-disk", .method = "PUT", .takes_body = true, .func = vm_add_disk },
    { .name = "vm.add-fs", .method = "PUT" },
    { .name = "vm.add-generic-vhost-user", .method = "PUT" },
    { .name = "vm.add-net",
      .method = "PUT",
      .takes_body = true,
      .takes_fds = true,
      .func = vm_add_net },
    { .name = "vm.add-pmem", .method = "PUT" },
    { .name = "vm.add-vdpa", .method = "PUT" },
    { .name = "vm.add-vsock", .method = "PUT" },
    { .name = "vm.add-user-device", .method = "PUT" },
    { .name = "vm.add-rate-limit-group",
      .method = "PUT",
      .takes_body = true,
      .func = vm_add_rate_limit_group },
    { .name = "vm.update-disk", .method = "PUT", .takes_body = true, .func = vm_update_disk },
    { .name = "vm.update-net", .method = "PUT", .takes_body = true, .func = vm_update_net },
    { .name = "vm.update-balloon", .method = "PUT", .takes_body = true, .func = vm_update_balloon },
    { .name = "vm.update-cpus", .method = "PUT", .takes_body = true, .func = vm_update_cpus },
    { .name = "vm.update-rate-limit-group",
      .method = "PUT",
      .takes_body = true,
      .func = vm_update_rate_limit_group },
    { .name = "vm.remove-device", .method = "PUT", .takes_body = true, .func = vm_remove_device },
    { .name = "vm.snapshot", .method = "PUT", .takes_body = true, .func = vm_snapshot },
    { .name = "vm.restore",
      .method = "PUT",
      .takes_body = true,
      .takes_fds = true,
      .func = vm_restore },
    { .name = "vm.send-migration",
      .method = "PUT",
      .takes_body = true,
      .takes_fds = true,
      .func = vm_send_migration },
    { .name = "vm.receive-migration",
      .method = "PUT",
      .takes_body = true,
      .takes_fds = true,
      .func = vm_receive_migration },
    { .name = "vm.cancel-migration", .method = "PUT", .func = vm_cancel_migration },
    { .name = "vm.update-migration",
      .method = "PUT",
      .takes_body = true,
      .func = vm_update_migration },
    { .name = "vm.migration-start-postcopy", .method = "PUT", .func = vm_migration_start_postcopy },
    { .name = "vm.migration-progress", .method = "GET", .func = vm_migration_progress },
    { .name = "vm.coredump", .method = "PUT", .takes_body = true, .func = vm_coredump },
    { .name = "vm.read-memory", .method = "PUT", .takes_body = true, .func = vm_read_memory },
    { .name = "vm.nmi", .method = "PUT", .func = vm_nmi },
};

const size_t kumo_api_n_endpoints = G_N_ELEMENTS(kumo_api_endpoints);

void kumo_api_handle(void *opaque, const KumoApiRequest *request, KumoApiReply *reply)
{
    kumo_api_route(kumo_api_endpoints, kumo_api_n_endpoints, opaque, request, reply);
}
