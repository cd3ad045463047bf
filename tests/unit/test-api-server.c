/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The API's server with its router and endpoints, over a UNIX socket, with a false VMM behind. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "vmm-core/api/client.h"
#include "vmm-core/api/endpoints.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

struct KumoVmm {
    GString *calls; /* what the endpoints asked for */
    KumoVmConfig *config;
    bool fail;
    bool cold;                /* devices are added to the configuration only */
    size_t info_bytes;        /* makes the answer to vm.info this large */
    KumoVmmReceived received; /* of the vm.receive-migration that waits */
    void *received_opaque;
};

static bool record(KumoVmm *vmm, const char *what, GError **error)
{
    g_string_append_printf(vmm->calls, "%s ", what);
    if (!vmm->fail)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "the VM is \xff");
    return false;
}

bool kumo_vmm_create(KumoVmm *vmm, KumoVmConfig *config, GError **error)
{
    g_clear_pointer(&vmm->config, kumo_vm_config_free);
    vmm->config = config;
    return record(vmm, "create", error) && kumo_vm_config_validate(config, error);
}

bool kumo_vmm_boot(KumoVmm *vmm, GError **error)
{
    return record(vmm, "boot", error);
}

bool kumo_vmm_pause(KumoVmm *vmm, GError **error)
{
    return record(vmm, "pause", error);
}

bool kumo_vmm_resume(KumoVmm *vmm, GError **error)
{
    return record(vmm, "resume", error);
}

bool kumo_vmm_shutdown(KumoVmm *vmm, GError **error)
{
    return record(vmm, "shutdown", error);
}

bool kumo_vmm_reboot(KumoVmm *vmm, GError **error)
{
    return record(vmm, "reboot", error);
}

bool kumo_vmm_delete(KumoVmm *vmm, GError **error)
{
    return record(vmm, "delete", error);
}

bool kumo_vmm_power_button(KumoVmm *vmm, GError **error)
{
    return record(vmm, "power-button", error);
}

bool kumo_vmm_nmi(KumoVmm *vmm, GError **error)
{
    return record(vmm, "nmi", error);
}

void kumo_vmm_quit(KumoVmm *vmm)
{
    g_string_append(vmm->calls, "quit ");
}

json_t *kumo_vmm_info(KumoVmm *vmm, GError **error)
{
    g_autofree char *pad = g_strnfill(vmm->info_bytes, 'x');

    return record(vmm, "info", error) ? json_pack("{s:s, s:s}", "state", "Running", "pad", pad)
                                      : NULL;
}

json_t *kumo_vmm_counters(KumoVmm *vmm, GError **error)
{
    return record(vmm, "counters", error) ? json_object() : NULL;
}

bool kumo_vmm_add_disk(KumoVmm *vmm, KumoDiskConfig *disk, json_t **ret_info, GError **error)
{
    g_autofree char *what = g_strdup_printf("add-disk:%s", disk->path);

    kumo_disk_config_free(disk);
    *ret_info = vmm->cold ? NULL : json_pack("{s:s, s:s}", "id", "_disk0", "bdf", "0000:00:05.0");
    return record(vmm, what, error);
}

bool kumo_vmm_add_net(KumoVmm *vmm, KumoNetConfig *net, json_t **ret_info, GError **error)
{
    g_autofree char *what = g_strdup_printf("add-net:%u", net->fds ? net->fds->len : 0);

    for (guint i = 0; net->fds && i < net->fds->len; i++)
        g_assert_cmpint(fcntl(g_array_index(net->fds, int, i), F_GETFD), ==, FD_CLOEXEC);
    kumo_net_config_free(net);
    *ret_info = vmm->cold ? NULL : json_pack("{s:s, s:s}", "id", "_net0", "bdf", "0000:00:06.0");
    return record(vmm, what, error);
}

bool kumo_vmm_remove_device(KumoVmm *vmm, const char *id, GError **error)
{
    g_autofree char *what = g_strdup_printf("remove-device:%s", id);

    return record(vmm, what, error);
}

bool kumo_vmm_snapshot(KumoVmm *vmm, const char *destination_url, GError **error)
{
    g_autofree char *what = g_strdup_printf("snapshot:%s", destination_url);

    return record(vmm, what, error);
}

bool kumo_vmm_coredump(KumoVmm *vmm, const char *destination_url, bool direct, GError **error)
{
    g_autofree char *call =
        g_strdup_printf("coredump%s %s", direct ? "-direct" : "", destination_url);

    return record(vmm, call, error);
}

uint8_t *kumo_vmm_read_memory(KumoVmm *vmm, uint64_t gpa, uint64_t len, GError **error)
{
    g_autofree char *call =
        g_strdup_printf("read-memory:%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT, gpa, len);

    return record(vmm, call, error) ? (uint8_t *)g_strndup("kumo", len) : NULL;
}

bool kumo_vmm_restore(KumoVmm *vmm, KumoRestoreConfig *restore, GError **error)
{
    g_autofree char *what = g_strdup_printf("restore:%s:%u:%d", restore->source_url,
                                            restore->nets->len, restore->resume);

    kumo_restore_config_free(restore);
    return record(vmm, what, error);
}

bool kumo_vmm_send_migration(KumoVmm *vmm, KumoSendMigrationConfig *send, GError **error)
{
    g_autofree char *what = g_strdup_printf("send:%s:%d", send->destination_url, send->local);

    kumo_send_migration_config_free(send);
    return record(vmm, what, error);
}

bool kumo_vmm_receive_migration(KumoVmm *vmm, KumoReceiveMigrationConfig *receive,
                                KumoVmmReceived received, void *opaque, GError **error)
{
    g_autofree char *what = g_strdup_printf("receive:%s", receive->receiver_url);

    kumo_receive_migration_config_free(receive);
    if (!record(vmm, what, error))
        return false;
    vmm->received = received;
    vmm->received_opaque = opaque;
    return true;
}

bool kumo_vmm_cancel_migration(KumoVmm *vmm, GError **error)
{
    return record(vmm, "cancel", error);
}

bool kumo_vmm_update_migration(KumoVmm *vmm, const KumoUpdateMigrationConfig *update,
                               GError **error)
{
    return record(vmm, "update-migration", error);
}

bool kumo_vmm_start_postcopy(KumoVmm *vmm, GError **error)
{
    return record(vmm, "start-postcopy", error);
}

json_t *kumo_vmm_migration_progress(KumoVmm *vmm, GError **error)
{
    return record(vmm, "progress", error) ? json_pack("{s:s}", "state", "Memory") : NULL;
}

bool kumo_vmm_resize_disk(KumoVmm *vmm, const char *id, uint64_t size_bytes, GError **error)
{
    g_autofree char *what = g_strdup_printf("resize-disk:%s:%" G_GUINT64_FORMAT, id, size_bytes);

    return record(vmm, what, error);
}

bool kumo_vmm_resize_zone(KumoVmm *vmm, const char *id, uint64_t wanted_bytes, GError **error)
{
    g_autofree char *what = g_strdup_printf("resize-zone:%s:%" G_GUINT64_FORMAT, id, wanted_bytes);

    return record(vmm, what, error);
}

bool kumo_vmm_resize(KumoVmm *vmm, const KumoVmResize *wanted, GError **error)
{
    g_autoptr(GString) what = g_string_new("resize");

    if (wanted->has_vcpus)
        g_string_append_printf(what, ":vcpus=%" G_GUINT32_FORMAT, wanted->vcpus);
    if (wanted->has_ram)
        g_string_append_printf(what, ":ram=%" G_GUINT64_FORMAT, wanted->ram_bytes);
    if (wanted->has_balloon)
        g_string_append_printf(what, ":balloon=%" G_GUINT64_FORMAT, wanted->balloon_bytes);
    return record(vmm, what->str, error);
}

static bool record_changes(KumoVmm *vmm, const char *what, const json_t *changes, GError **error)
{
    g_autofree char *call =
        g_strdup_printf("%s:%s", what, json_string_value(json_object_get(changes, "id")));

    return record(vmm, call, error);
}

bool kumo_vmm_update_disk(KumoVmm *vmm, const json_t *changes, GError **error)
{
    return record_changes(vmm, "update-disk", changes, error);
}

bool kumo_vmm_update_rate_limit_group(KumoVmm *vmm, const json_t *changes, GError **error)
{
    return record_changes(vmm, "update-group", changes, error);
}

bool kumo_vmm_add_rate_limit_group(KumoVmm *vmm, const json_t *json, GError **error)
{
    return record_changes(vmm, "add-group", json, error);
}

bool kumo_vmm_update_net(KumoVmm *vmm, const json_t *changes, GError **error)
{
    return record_changes(vmm, "update-net", changes, error);
}

bool kumo_vmm_update_balloon(KumoVmm *vmm, const json_t *changes, GError **error)
{
    return record(vmm, "update-balloon", error);
}

bool kumo_vmm_update_cpus(KumoVmm *vmm, const json_t *changes, GError **error)
{
    g_assert_true(json_is_array(json_object_get(changes, "affinity")));
    return record(vmm, "update-cpus", error);
}

typedef struct {
    KumoVmm vmm;
    KumoApiServer *server;
    char *dir;
    char *path;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->vmm.calls = g_string_new(NULL);
    f->dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "api", NULL);
    f->server = kumo_api_server_new(NULL, f->path, kumo_api_handle, &f->vmm, &error);
    g_assert_no_error(error);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    kumo_api_server_free(f->server);
    while (g_main_context_iteration(NULL, FALSE))
        ;
    /* Nothing stays behind: neither socket nor lock. */
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_string_free(f->vmm.calls, TRUE);
    kumo_vm_config_free(f->vmm.config);
    g_free(f->path);
    g_free(f->dir);
}

typedef struct {
    const char *path, *method, *endpoint, *body;
    const int *fds;
    size_t n_fds;
    KumoApiResponse response;
    bool ok;
    int done; /* atomic */
} Call;

static void *call_thread(void *opaque)
{
    Call *call = opaque;

    call->ok = kumo_api_request(call->path, call->method, call->endpoint, call->body, call->fds,
                                call->n_fds, 10000, &call->response, NULL);
    g_atomic_int_set(&call->done, 1);
    g_main_context_wakeup(NULL);
    return NULL;
}

static KumoApiResponse call_with_fds(Fixture *f, const char *method, const char *endpoint,
                                     const char *body, const int *fds, size_t n_fds)
{
    Call call = { f->path, method, endpoint, body, fds, n_fds, { 0 }, false, 0 };
    GThread *thread = g_thread_new("client", call_thread, &call);

    while (!g_atomic_int_get(&call.done))
        g_main_context_iteration(NULL, TRUE);
    g_thread_join(thread);
    g_assert_true(call.ok);
    return call.response;
}

/* Makes one call and checks the answer; @word has to be in its body. */
static void expect(Fixture *f, const char *method, const char *endpoint, const char *body,
                   unsigned status, const char *word)
{
    g_auto(KumoApiResponse) response = call_with_fds(f, method, endpoint, body, NULL, 0);

    if (response.status != status || (word && (!response.body || !strstr(response.body, word))) ||
        (!word && response.body))
        g_error("%s %s: %u %s", method, endpoint, response.status, response.body);
}

static void test_endpoints(Fixture *f, gconstpointer data)
{
    expect(f, "GET", "vmm.ping", NULL, 200, "\"version\":\"");
    expect(f, "PUT", "vm.create", "{\"payload\": {\"kernel\": \"/k\"}}", 204, NULL);
    g_assert_cmpstr(f->vmm.config->payload.kernel, ==, "/k");
    expect(f, "PUT", "vm.boot", NULL, 204, NULL);
    expect(f, "GET", "vm.info", NULL, 200, "\"state\":\"Running\"");
    expect(f, "GET", "vm.counters", NULL, 200, "{}");
    expect(f, "PUT", "vm.pause", NULL, 204, NULL);
    expect(f, "PUT", "vm.resume", NULL, 204, NULL);
    expect(f, "PUT", "vm.reboot", NULL, 204, NULL);
    expect(f, "PUT", "vm.power-button", NULL, 204, NULL);
    expect(f, "PUT", "vm.nmi", NULL, 204, NULL);
    expect(f, "PUT", "vm.coredump", "{\"destination_url\": \"file:///c\"}", 204, NULL);
    expect(f, "PUT", "vm.coredump", "{\"destination_url\": \"file:///d\", \"direct\": true}", 204,
           NULL);
    expect(f, "PUT", "vm.read-memory", "{\"address\": 7, \"size\": 4}", 200,
           "{\"data\":\"a3Vtbw==\"}");
    expect(f, "PUT", "vm.update-disk", "{\"id\": \"d\"}", 204, NULL);
    expect(f, "PUT", "vm.update-net", "{\"id\": \"n\"}", 204, NULL);
    expect(f, "PUT", "vm.update-cpus", "{\"affinity\": []}", 204, NULL);
    expect(f, "PUT", "vm.update-balloon", "{\"stats_period\": 1}", 204, NULL);
    expect(f, "PUT", "vm.update-rate-limit-group", "{\"id\": \"g\"}", 204, NULL);
    expect(f, "PUT", "vm.add-rate-limit-group", "{\"id\": \"h\"}", 204, NULL);
    expect(f, "PUT", "vm.shutdown", NULL, 204, NULL);
    expect(f, "PUT", "vm.delete", NULL, 204, NULL);
    expect(f, "PUT", "vmm.shutdown", NULL, 204, NULL);
    g_assert_cmpstr(
        f->vmm.calls->str, ==,
        "create boot info counters pause resume reboot power-button nmi coredump file:///c "
        "coredump-direct file:///d "
        "read-memory:7:4 update-disk:d update-net:n update-cpus update-balloon update-group:g "
        "add-group:h "
        "shutdown delete quit ");
}

static void test_errors(Fixture *f, gconstpointer data)
{
    static const char *const not_yet[] = {
        "vm.add-device", "vm.add-fs",    "vm.add-generic-vhost-user", "vm.add-pmem",
        "vm.add-vdpa",   "vm.add-vsock", "vm.add-user-device",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(not_yet); i++) {
        g_autofree char *text = g_strdup_printf("[\"%s\",\"not supported yet\"]", not_yet[i]);

        expect(f, "PUT", not_yet[i], "{}", 400, text);
    }
    expect(f, "GET", "vm.bogus", NULL, 404, "no such endpoint");
    expect(f, "GET", "", NULL, 404, "no such endpoint");
    expect(f, "GET", "vm.info?x", NULL, 404, "no such endpoint");
    expect(f, "GET", "vm.boot", NULL, 400, "must be PUT");
    expect(f, "PUT", "vm.info", NULL, 400, "must be GET");
    expect(f, "POST", "vm.boot", NULL, 400, "must be PUT");
    expect(f, "PUT", "vm.boot", "{}", 400, "takes no body");
    expect(f, "PUT", "vm.create", NULL, 400, "body is missing");
    expect(f, "PUT", "vm.create", "{", 400, "not JSON\",\"line 1");
    expect(f, "PUT", "vm.create", "{\"cpus\": {}, \"cpus\": {}}", 400, "not JSON");
    expect(f, "PUT", "vm.create", "{} {}", 400, "not JSON");
    expect(f, "PUT", "vm.create", "{\"\xff\": 1}", 400, "not JSON");
    expect(f, "PUT", "vm.create", "[]", 400, "[\"vm.create\",\"");
    expect(f, "PUT", "vm.create", "{\"bogus\": 1}", 400, "unknown field");
    expect(f, "PUT", "vm.create", "{\"fs\": [{}]}", 400, "fs is not supported yet");
    g_assert_cmpstr(f->vmm.calls->str, ==, "");
    f->vmm.fail = true;
    expect(f, "PUT", "vm.boot", NULL, 409, "[\"vm.boot\",\"the VM is ");
    expect(f, "GET", "vm.info", NULL, 409, "[\"vm.info\",\"the VM is ");
}

typedef struct {
    Call call;
    GThread *thread;
} Later;

/* A client that has asked for a migration to come in, and waits for the answer. */
static void ask_later(Fixture *f, Later *later)
{
    *later = (Later){ .call = { f->path,
                                "PUT",
                                "vm.receive-migration",
                                "{\"receiver_url\": \"unix:/m\"}",
                                NULL,
                                0,
                                { 0 },
                                false,
                                0 } };
    f->vmm.received = NULL;
    later->thread = g_thread_new("client", call_thread, &later->call);
    while (!f->vmm.received)
        g_main_context_iteration(NULL, TRUE);
}

static KumoApiResponse wait_later(Later *later)
{
    while (!g_atomic_int_get(&later->call.done))
        g_main_context_iteration(NULL, TRUE);
    g_thread_join(later->thread);
    g_assert_true(later->call.ok);
    return later->call.response;
}

static void expect_no_wait(Fixture *f)
{
    KumoVmmReceived received = f->vmm.received;
    void *opaque = f->vmm.received_opaque;

    expect(f, "PUT", "vm.receive-migration", "{\"receiver_url\": \"unix:/n\", \"wait\": false}",
           204, NULL);
    g_assert_null(f->vmm.received);
    f->vmm.received = received;
    f->vmm.received_opaque = opaque;
}

static void test_later(Fixture *f, gconstpointer data)
{
    Later later;

    ask_later(f, &later);
    /* Others are served meanwhile. */
    expect(f, "GET", "vm.migration-progress", NULL, 200, "{\"state\":\"Memory\"}");
    expect(f, "PUT", "vm.update-migration", "{\"downtime_ms\":5}", 204, NULL);
    expect(f, "PUT", "vm.migration-start-postcopy", NULL, 204, NULL);
    expect(f, "PUT", "vm.cancel-migration", NULL, 204, NULL);
    expect(f, "PUT", "vm.send-migration",
           "{\"destination_url\": \"unix:/m\", \"local\": true, \"downtime_ms\": 20}", 204, NULL);
    expect(f, "PUT", "vm.send-migration", "{\"destination_url\": \"tcp:a:1\", \"local\": true}",
           400, "local");
    expect(f, "PUT", "vm.send-migration", "{\"local\": true}", 400, "destination_url");
    expect(f, "PUT", "vm.send-migration",
           "{\"destination_url\": \"unix:/m\", \"connections\": 129}", 400, "connections");
    expect(f, "PUT", "vm.send-migration",
           "{\"destination_url\": \"unix:/m\", \"local\": true, \"connections\": 2}", 400,
           "connections");
    expect(f, "PUT", "vm.send-migration", "{\"destination_url\": \"fd:\"}", 400, "descriptor");
    expect(f, "PUT", "vm.receive-migration", "{\"receiver_url\": \"fd:\"}", 400, "descriptor");
    expect(f, "PUT", "vm.send-migration",
           "{\"destination_url\": \"unix:/m\", \"local\": true, \"one_way\": true}", 400,
           "one_way");
    expect(f, "PUT", "vm.send-migration",
           "{\"destination_url\": \"unix:/m\", \"local\": true, \"memory_mode\": \"Postcopy\"}",
           400, "memory_mode");
    expect(f, "PUT", "vm.receive-migration",
           "{\"receiver_url\": \"fd:\", \"memory_mode\": \"Hybrid\"}", 400, "memory_mode");
    expect(f, "PUT", "vm.receive-migration",
           "{\"receiver_url\": \"unix:/m\", \"config\": {\"cpus\": {\"boot_vcpus\": 0}}}", 400,
           "config.cpus.boot_vcpus");
    expect(f, "PUT", "vm.receive-migration", "{}", 400, "receiver_url");
    expect_no_wait(f);
    g_assert_false(later.call.done);
    f->vmm.received(f->vmm.received_opaque, NULL);
    {
        g_auto(KumoApiResponse) response = wait_later(&later);

        g_assert_cmpuint(response.status, ==, 204);
    }
    ask_later(f, &later);
    {
        g_autoptr(GError) error = g_error_new(KUMO_ERROR, KUMO_ERROR_IO, "it broke");
        g_auto(KumoApiResponse) response = { 0 };

        f->vmm.received(f->vmm.received_opaque, error);
        response = wait_later(&later);
        g_assert_cmpuint(response.status, ==, 500);
        g_assert_cmpstr(response.body, ==, "[\"vm.receive-migration\",\"it broke\"]");
    }
    g_assert_cmpstr(
        f->vmm.calls->str, ==,
        "receive:unix:/m progress update-migration start-postcopy cancel send:unix:/m:1 "
        "receive:unix:/n receive:unix:/m ");
}

static int raw_connect(Fixture *f);

/* Who asked is gone before the answer comes; or the server is. */
static void test_later_gone(Fixture *f, gconstpointer data)
{
    const char request[] = "PUT /api/v1/vm.receive-migration HTTP/1.1\r\nContent-Length: 26\r\n\r\n"
                           "{\"receiver_url\":\"unix:/m\"}";

    for (unsigned i = 0; i < 2; i++) {
        int fd = raw_connect(f);

        f->vmm.received = NULL;
        g_assert_cmpint(write(fd, request, strlen(request)), ==, (ssize_t)strlen(request));
        while (!f->vmm.received)
            g_main_context_iteration(NULL, TRUE);
        if (i == 1)
            g_clear_pointer(&f->server, kumo_api_server_free);
        close(fd);
        while (g_main_context_iteration(NULL, FALSE))
            ;
        f->vmm.received(f->vmm.received_opaque, NULL);
    }
}

static void test_error_code(Fixture *f, gconstpointer data)
{
    g_auto(KumoApiResponse) response = call_with_fds(f, "PUT", "vm.add-fs", NULL, NULL, 0);
    g_autoptr(GError) error = NULL;

    kumo_api_set_error(&response, &error);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED);
    g_assert_cmpstr(error->message, ==, "vm.add-fs: not supported yet");
}

static unsigned open_fds(void)
{
    unsigned count = 0;
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);

    while (g_dir_read_name(dir))
        count++;
    return count;
}

static void test_fds(Fixture *f, gconstpointer data)
{
    const char body[] = "{\"payload\": {\"kernel\": \"/k\"}, \"net\": [{\"fds\": [-1]}]}";
    int fds[2] = { open("/dev/null", O_RDONLY | O_CLOEXEC),
                   open("/dev/zero", O_RDONLY | O_CLOEXEC) };
    unsigned before;
    const KumoNetConfig *net;
    struct stat given, kept;

    {
        g_auto(KumoApiResponse) response = call_with_fds(f, "PUT", "vm.create", body, fds + 1, 1);
        g_assert_cmpuint(response.status, ==, 204);
    }
    net = f->vmm.config->nets->pdata[0];
    g_assert_cmpint(fstat(fds[1], &given), ==, 0);
    g_assert_cmpint(fstat(g_array_index(net->fds, int, 0), &kept), ==, 0);
    g_assert_cmpuint(given.st_rdev, ==, kept.st_rdev);
    before = open_fds();
    for (unsigned i = 0; i < 10; i++) {
        g_auto(KumoApiResponse) many = call_with_fds(f, "PUT", "vm.create", body, fds, 2);
        g_auto(KumoApiResponse) none = call_with_fds(f, "PUT", "vm.create", body, NULL, 0);
        g_auto(KumoApiResponse) wrong = call_with_fds(f, "PUT", "vm.boot", NULL, fds, 2);

        g_assert_cmpuint(many.status, ==, 400);
        g_assert_nonnull(strstr(many.body, "2 descriptors"));
        g_assert_cmpuint(none.status, ==, 400);
        g_assert_cmpuint(wrong.status, ==, 400);
        g_assert_nonnull(strstr(wrong.body, "takes no descriptors"));
    }
    while (g_main_context_iteration(NULL, FALSE))
        ;
    g_assert_cmpuint(open_fds(), ==, before);
    close(fds[0]);
    close(fds[1]);
}

static void test_devices(Fixture *f, gconstpointer data)
{
    int fds[2] = { open("/dev/null", O_RDONLY | O_CLOEXEC),
                   open("/dev/null", O_RDONLY | O_CLOEXEC) };
    unsigned before = open_fds();

    expect(f, "PUT", "vm.add-disk", "{\"path\": \"/d\"}", 200,
           "{\"id\":\"_disk0\",\"bdf\":\"0000:00:05.0\"}");
    expect(f, "PUT", "vm.add-net", "{}", 200, "{\"id\":\"_net0\",\"bdf\":\"0000:00:06.0\"}");
    {
        g_auto(KumoApiResponse) two =
            call_with_fds(f, "PUT", "vm.add-net", "{\"fds\": [3, 4], \"num_queues\": 4}", fds, 2);
        g_auto(KumoApiResponse) one =
            call_with_fds(f, "PUT", "vm.add-net", "{\"fds\": [3, 4]}", fds, 1);
        g_auto(KumoApiResponse) disk =
            call_with_fds(f, "PUT", "vm.add-disk", "{\"path\": \"/d\"}", fds, 1);

        g_assert_cmpuint(two.status, ==, 200);
        g_assert_cmpuint(one.status, ==, 400);
        g_assert_cmpuint(disk.status, ==, 400);
    }
    f->vmm.cold = true;
    expect(f, "PUT", "vm.add-disk", "{\"path\": \"/d\"}", 204, NULL);
    expect(f, "PUT", "vm.remove-device", "{\"id\": \"_disk0\"}", 204, NULL);
    expect(f, "PUT", "vm.resize-disk", "{\"id\": \"a\", \"desired_size\": 1048576}", 204, NULL);
    expect(f, "PUT", "vm.resize-zone", "{\"id\": \"z\", \"desired_ram\": 2097152}", 204, NULL);
    expect(f, "PUT", "vm.resize", "{\"desired_vcpus\": 3, \"desired_ram\": null}", 204, NULL);
    expect(f, "PUT", "vm.resize", "{\"desired_ram\": 4096, \"desired_balloon\": 0}", 204, NULL);
    expect(f, "PUT", "vm.resize", "{}", 204, NULL);
    g_assert_cmpstr(f->vmm.calls->str, ==,
                    "add-disk:/d add-net:0 add-net:2 add-disk:/d remove-device:_disk0 "
                    "resize-disk:a:1048576 resize-zone:z:2097152 resize:vcpus=3 "
                    "resize:ram=4096:balloon=0 resize ");
    g_string_truncate(f->vmm.calls, 0);

    expect(f, "PUT", "vm.add-disk", "[]", 400, "");
    expect(f, "PUT", "vm.add-disk", "{\"path\": 1}", 400, "path");
    expect(f, "PUT", "vm.add-disk", "{\"path\": \"/d\", \"bogus\": 1}", 400, "bogus");
    expect(f, "PUT", "vm.add-net", "{\"mac\": true}", 400, "mac");
    expect(f, "PUT", "vm.remove-device", NULL, 400, "body is missing");
    expect(f, "PUT", "vm.remove-device", "{}", 400, "id");
    expect(f, "PUT", "vm.remove-device", "[\"id\"]", 400, "is not allowed, must be an object");
    expect(f, "PUT", "vm.remove-device", "{\"id\": null}", 400,
           "id: null is not allowed, must be a string");
    expect(f, "PUT", "vm.remove-device", "{\"id\": \"a\", \"force\": true}", 400, "force");
    expect(f, "PUT", "vm.resize-disk", "{\"id\": \"a\"}", 400, "desired_size");
    expect(f, "PUT", "vm.resize-disk", "{\"id\": \"a\", \"desired_size\": -1}", 400, "-1");
    expect(f, "PUT", "vm.resize-disk", "{\"id\": \"a\", \"desired_size\": 1.5}", 400,
           "desired_size: 1.5");
    expect(f, "PUT", "vm.resize-zone", "{\"id\": \"z\"}", 400, "desired_ram");
    expect(f, "PUT", "vm.resize-zone", "{\"id\": \"z\", \"desired_ram\": null}", 400,
           "desired_ram");
    expect(f, "PUT", "vm.resize-zone", "{\"id\": \"z\", \"desired_ram\": -1}", 400, "-1");
    expect(f, "PUT", "vm.resize-zone", "{\"desired_ram\": 1}", 400, "id");
    expect(f, "PUT", "vm.resize", NULL, 400, "body is missing");
    expect(f, "PUT", "vm.resize", "[]", 400, "the body: [] is not allowed");
    expect(f, "PUT", "vm.resize", "{\"desired_vcpu\": 1}", 400, "desired_vcpu");
    expect(f, "PUT", "vm.resize", "{\"desired_vcpus\": -1}", 400, "desired_vcpus: -1");
    expect(f, "PUT", "vm.resize", "{\"desired_vcpus\": 4294967296}", 400,
           "desired_vcpus: 4294967296");
    expect(f, "PUT", "vm.resize", "{\"desired_ram\": 1.5}", 400, "desired_ram: 1.5");
    expect(f, "PUT", "vm.resize", "{\"desired_balloon\": \"0\"}", 400, "desired_balloon: ");
    g_assert_cmpstr(f->vmm.calls->str, ==, "");
    while (g_main_context_iteration(NULL, FALSE))
        ;
    g_assert_cmpuint(open_fds(), ==, before);
    close(fds[0]);
    close(fds[1]);
}

static int raw_connect(Fixture *f)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    g_strlcpy(address.sun_path, f->path, sizeof(address.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

static void settle(void)
{
    while (g_main_context_iteration(NULL, FALSE))
        ;
}

static void raw_send(int fd, const char *text, size_t len)
{
    while (len) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

        g_assert_true(n > 0 || errno == EAGAIN);
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
        settle();
    }
}

/* All that can be had. @ret_closed: whether the server ended the connection. */
static char *raw_receive(int fd, bool *ret_closed)
{
    GString *text = g_string_new(NULL);
    char buf[65536];
    ssize_t n;

    do {
        settle();
        n = recv(fd, buf, sizeof(buf), 0);
        if (n > 0)
            g_string_append_len(text, buf, n);
    } while (n > 0);
    *ret_closed = n == 0 || errno == ECONNRESET;
    return g_string_free(text, FALSE);
}

static unsigned count(const char *text, const char *word)
{
    unsigned n = 0;

    for (const char *at = text; (at = strstr(at, word)); at++)
        n++;
    return n;
}

static void test_keep_alive_and_pipeline(Fixture *f, gconstpointer data)
{
    const char request[] = "PUT /api/v1/vm.boot HTTP/1.1\r\nHost: x\r\n\r\n"
                           "GET /api/v1/vm.info HTTP/1.1\r\nHost: x\r\n\r\n";
    const char last[] = "PUT /api/v1/vm.pause HTTP/1.1\r\nConnection: close\r\n\r\n"
                        "PUT /api/v1/vm.delete HTTP/1.1\r\n\r\n";
    kumo_auto_fd fd = raw_connect(f);
    bool closed = false;

    for (unsigned round = 0; round < 3; round++) {
        g_autofree char *answer = NULL;

        raw_send(fd, request, strlen(request));
        answer = raw_receive(fd, &closed);
        g_assert_false(closed);
        g_assert_cmpuint(count(answer, "HTTP/1.1 204 No Content\r\n"), ==, 1);
        g_assert_cmpuint(count(answer, "HTTP/1.1 200 OK\r\n"), ==, 1);
        g_assert_cmpuint(count(answer, "Connection: keep-alive\r\n"), ==, 2);
    }
    raw_send(fd, last, strlen(last));
    g_free(raw_receive(fd, &closed));
    g_assert_true(closed);
    g_assert_cmpstr(f->vmm.calls->str, ==, "boot info boot info boot info pause ");
}

static void test_byte_by_byte(Fixture *f, gconstpointer data)
{
    const char request[] = "PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\n"
                           "Content-Length: 31\r\n\r\n";
    const char body[] = "{\"payload\":{\"kernel\": \"/boot\"}}";
    kumo_auto_fd fd = raw_connect(f);
    bool closed = false;
    g_autofree char *interim = NULL;
    g_autofree char *answer = NULL;

    for (size_t i = 0; i < strlen(request); i++)
        raw_send(fd, request + i, 1);
    interim = raw_receive(fd, &closed);
    g_assert_cmpstr(interim, ==, "HTTP/1.1 100 Continue\r\n\r\n");
    for (size_t i = 0; i < strlen(body); i++)
        raw_send(fd, body + i, 1);
    answer = raw_receive(fd, &closed);
    g_assert_true(g_str_has_prefix(answer, "HTTP/1.1 204 "));
    g_assert_false(closed);
    g_assert_cmpstr(f->vmm.config->payload.kernel, ==, "/boot");
}

static void test_garbage(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *text;
        const char *status;
    } rows[] = {
        { "hello\r\n\r\n", "HTTP/1.1 400 " },
        { "GET / HTTP/1.1\n\n", "HTTP/1.1 400 " },
        { "GET / HTTP/3.0\r\n\r\n", "HTTP/1.1 505 " },
        { "PUT / HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n", "HTTP/1.1 413 " },
        { "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400 " },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        kumo_auto_fd fd = raw_connect(f);
        bool closed = false;
        g_autofree char *answer = NULL;

        raw_send(fd, rows[i].text, strlen(rows[i].text));
        answer = raw_receive(fd, &closed);
        g_assert_true(g_str_has_prefix(answer, rows[i].status));
        g_assert_cmpuint(count(answer, "\r\nServer: kumo\r\n"), ==, 1);
        g_assert_true(closed);
    }
    expect(f, "GET", "vmm.ping", NULL, 200, "pid");
}

/* Clients that say nothing, say half, or do not read: the next one is served all the same. */
static void test_bad_clients(Fixture *f, gconstpointer data)
{
    const char half[] = "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 100\r\n\r\n{";
    const char info[] = "GET /api/v1/vm.info HTTP/1.1\r\n\r\n";
    int fds[100];
    kumo_auto_fd deaf = -1;
    bool closed = false;
    g_autofree char *answers = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        fds[i] = raw_connect(f);
        if (i % 2)
            raw_send(fds[i], half, strlen(half));
        settle();
    }
    f->vmm.info_bytes = 1 << 20;
    deaf = raw_connect(f);
    for (unsigned i = 0; i < 20; i++)
        raw_send(deaf, info, strlen(info));
    /* One answer waits; the others have not been asked for. */
    g_assert_cmpstr(f->vmm.calls->str, ==, "info ");
    expect(f, "PUT", "vm.boot", NULL, 204, NULL);
    /* When it reads at last it gets everything, in order. */
    answers = raw_receive(deaf, &closed);
    g_assert_cmpuint(count(answers, "HTTP/1.1 200 OK\r\n"), ==, 20);
    g_assert_cmpuint(strlen(answers), >, 20 << 20);
    g_assert_false(closed);
    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
        close(fds[i]);
    settle();
}

/* A client that vanishes in the middle of its answer. */
static void test_vanishing_client(Fixture *f, gconstpointer data)
{
    const char info[] = "GET /api/v1/vm.info HTTP/1.1\r\n\r\n";

    f->vmm.info_bytes = 4 << 20;
    for (unsigned i = 0; i < 5; i++) {
        int fd = raw_connect(f);

        raw_send(fd, info, strlen(info));
        close(fd);
        settle();
    }
    expect(f, "PUT", "vm.boot", NULL, 204, NULL);
}

static void test_socket(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *lock = g_strconcat(f->path, ".lock", NULL);
    g_autofree char *spec = g_strconcat("path=", f->path, NULL);
    struct stat info;

    g_assert_cmpint(stat(f->path, &info), ==, 0);
    g_assert_cmpuint(info.st_mode & 0777, ==, 0600);
    g_assert_cmpint(stat(lock, &info), ==, 0);
    g_assert_null(kumo_api_server_new(NULL, spec, kumo_api_handle, &f->vmm, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    /* The first is not disturbed by the attempt. */
    expect(f, "GET", "vmm.ping", NULL, 200, "pid");
}

/* Leaves a bound socket at @path that nobody listens on. */
static void make_stale(const char *path, bool listening, int *ret_fd)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    *ret_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(bind(*ret_fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    if (listening)
        g_assert_cmpint(listen(*ret_fd, 4), ==, 0);
}

static void test_stale_socket(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "api", NULL);
    g_autofree char *lock = g_strconcat(path, ".lock", NULL);
    g_autoptr(GError) error = NULL;
    KumoApiServer *server;
    kumo_auto_fd fd = -1;

    /* The process that made it is gone, its lock file is left. */
    make_stale(path, false, &fd);
    kumo_fd_clear(&fd);
    g_assert_true(g_file_set_contents(lock, "", 0, NULL));
    server = kumo_api_server_new(NULL, path, kumo_api_handle, NULL, &error);
    g_assert_no_error(error);
    kumo_api_server_free(server);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(lock, G_FILE_TEST_EXISTS));
    /* Something else listens, and knows nothing of locks. */
    make_stale(path, true, &fd);
    g_assert_null(kumo_api_server_new(NULL, path, kumo_api_handle, NULL, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    g_unlink(path);
    /* No socket at all. */
    g_assert_true(g_file_set_contents(path, "precious", -1, NULL));
    g_assert_null(kumo_api_server_new(NULL, path, kumo_api_handle, NULL, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    g_unlink(path);
    g_rmdir(dir);
}

static void test_listening_fd(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    Fixture f = { .dir = dir, .path = g_build_filename(dir, "api", NULL) };
    g_autofree char *spec = NULL;
    static const char *const bad[] = {
        "fd=", "fd=x", "fd=-1", "fd=0x5", "fd=999", "fd=99999999999"
    };
    int fd = -1;

    make_stale(f.path, true, &fd);
    spec = g_strdup_printf("fd=%d", fd);
    f.vmm.calls = g_string_new(NULL);
    f.server = kumo_api_server_new(NULL, spec, kumo_api_handle, &f.vmm, NULL);
    g_assert_nonnull(f.server);
    expect(&f, "PUT", "vm.boot", NULL, 204, NULL);
    kumo_api_server_free(f.server);
    /* The name is its maker's. */
    g_assert_true(g_file_test(f.path, G_FILE_TEST_EXISTS));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(kumo_api_server_new(NULL, bad[i], kumo_api_handle, NULL, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    }
    g_unlink(f.path);
    g_rmdir(dir);
    g_free(f.path);
    g_string_free(f.vmm.calls, TRUE);
}

static void test_bad_path(void)
{
    g_autofree char *long_path = g_strnfill(300, 'x');
    const char *const bad[] = { "", "path=", long_path, "/nonexistent-dir/api" };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(kumo_api_server_new(NULL, bad[i], kumo_api_handle, NULL, &error));
        g_assert_nonnull(error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/api/server/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("endpoints", test_endpoints);
    ADD("errors", test_errors);
    ADD("error-code", test_error_code);
    ADD("fds", test_fds);
    ADD("devices", test_devices);
    ADD("keep-alive", test_keep_alive_and_pipeline);
    ADD("byte-by-byte", test_byte_by_byte);
    ADD("garbage", test_garbage);
    ADD("bad-clients", test_bad_clients);
    ADD("vanishing-client", test_vanishing_client);
    ADD("socket", test_socket);
    ADD("later", test_later);
    ADD("later-gone", test_later_gone);
#undef ADD
    g_test_add_func("/api/server/stale-socket", test_stale_socket);
    g_test_add_func("/api/server/listening-fd", test_listening_fd);
    g_test_add_func("/api/server/bad-path", test_bad_path);
    return g_test_run();
}
