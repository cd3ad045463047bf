/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* kumo-remote as a process, against the API's server with a handler that keeps what it was sent. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "vmm-core/api/server.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

typedef struct {
    KumoApiServer *server;
    char *dir;
    char *path;

    /* The last request. */
    char *line;
    json_t *body;
    unsigned n_fds;
    dev_t fd_device;

    /* The answer to give. */
    unsigned status;
    json_t *answer;
    const char *error_code;
} Fixture;

static void handle(void *opaque, const KumoApiRequest *request, KumoApiReply *reply)
{
    Fixture *f = opaque;
    struct stat info;

    g_free(f->line);
    f->line = g_strdup_printf("%s %s", request->method, request->target);
    json_decref(f->body);
    f->body = json_loadb(request->body, request->body_len, 0, NULL);
    f->n_fds = (unsigned)request->n_fds;
    if (request->n_fds && fstat(request->fds[0], &info) == 0)
        f->fd_device = info.st_rdev;
    reply->status = f->status;
    reply->body = json_incref(f->answer);
    reply->error_code = f->error_code;
}

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "api", NULL);
    f->status = 204;
    f->server = kumo_api_server_new(NULL, f->path, handle, f, &error);
    g_assert_no_error(error);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    kumo_api_server_free(f->server);
    g_rmdir(f->dir);
    g_free(f->dir);
    g_free(f->path);
    g_free(f->line);
    json_decref(f->body);
    json_decref(f->answer);
}

typedef struct {
    char **argv;
    char *out, *err;
    int status;
    int done; /* atomic */
} Run;

static void *run_thread(void *opaque)
{
    Run *run = opaque;
    int wait_status = 0;

    g_assert_true(g_spawn_sync(NULL, run->argv, NULL,
                               G_SPAWN_LEAVE_DESCRIPTORS_OPEN | G_SPAWN_CHILD_INHERITS_STDIN, NULL,
                               NULL, &run->out, &run->err, &wait_status, NULL));
    g_assert_true(WIFEXITED(wait_status));
    run->status = WEXITSTATUS(wait_status);
    g_atomic_int_set(&run->done, 1);
    g_main_context_wakeup(NULL);
    return NULL;
}

static void run_clear(Run *run)
{
    g_free(run->out);
    g_free(run->err);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Run, run_clear)

/* @words: the command line after the socket, blanks between. */
static Run run_remote(Fixture *f, const char *words)
{
    g_autofree char *line =
        g_strdup_printf("%s --api-socket=%s %s", g_getenv("KUMO_REMOTE"), f->path, words);
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    Run run = { .argv = argv };
    GThread *thread = g_thread_new("remote", run_thread, &run);

    while (!g_atomic_int_get(&run.done))
        g_main_context_iteration(NULL, TRUE);
    g_thread_join(thread);
    return run;
}

static void test_requests(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *words, *line, *body;
    } rows[] = {
        { "boot", "PUT /api/v1/vm.boot", NULL },
        { "delete", "PUT /api/v1/vm.delete", NULL },
        { "nmi", "PUT /api/v1/vm.nmi", NULL },
        { "pause", "PUT /api/v1/vm.pause", NULL },
        { "power-button", "PUT /api/v1/vm.power-button", NULL },
        { "reboot", "PUT /api/v1/vm.reboot", NULL },
        { "resume", "PUT /api/v1/vm.resume", NULL },
        { "shutdown", "PUT /api/v1/vm.shutdown", NULL },
        { "shutdown-vmm", "PUT /api/v1/vmm.shutdown", NULL },
        { "info", "GET /api/v1/vm.info", NULL },
        { "counters", "GET /api/v1/vm.counters", NULL },
        { "ping", "GET /api/v1/vmm.ping", NULL },
        { "snapshot file:///s", "PUT /api/v1/vm.snapshot", "{\"destination_url\": \"file:///s\"}" },
        { "coredump file:///c", "PUT /api/v1/vm.coredump", "{\"destination_url\": \"file:///c\"}" },
        { "remove-device _disk0", "PUT /api/v1/vm.remove-device", "{\"id\": \"_disk0\"}" },
        { "resize --cpus 2 --memory=1G", "PUT /api/v1/vm.resize",
          "{\"desired_vcpus\": 2, \"desired_ram\": 1073741824}" },
        { "resize --balloon 0", "PUT /api/v1/vm.resize", "{\"desired_balloon\": 0}" },
        { "resize-disk --disk d --size 2M", "PUT /api/v1/vm.resize-disk",
          "{\"id\": \"d\", \"desired_size\": 2097152}" },
        { "resize-zone --size 4096 --id z", "PUT /api/v1/vm.resize-zone",
          "{\"id\": \"z\", \"desired_ram\": 4096}" },
        { "add-fs tag=t,socket=/s,num_queues=1", "PUT /api/v1/vm.add-fs",
          "{\"tag\": \"t\", \"socket\": \"/s\", \"num_queues\": 1}" },
        { "add-vsock cid=3,socket=/s", "PUT /api/v1/vm.add-vsock",
          "{\"cid\": 3, \"socket\": \"/s\"}" },
        { "send-migration destination_url=unix:/p,local=on", "PUT /api/v1/vm.send-migration",
          "{\"destination_url\": \"unix:/p\", \"local\": true, \"downtime_ms\": 300, "
          "\"timeout_s\": "
          "3600, \"timeout_strategy\": \"Cancel\", \"peer_timeout_s\": 120, \"max_bandwidth\": 0, "
          "\"max_postcopy_bandwidth\": 0, "
          "\"connections\": 1, "
          "\"compression\": \"None\", \"compression_level\": 0, "
          "\"memory_mode\": "
          "\"Precopy\", \"auto_converge\": false, "
          "\"auto_converge_initial\": 20, \"auto_converge_increment\": 10, \"checksum\": true, "
          "\"keep_process\": "
          "false, "
          "\"one_way\": false, "
          "\"tls_dir\": null, \"tls_name\": null, \"recover\": false}" },
        { "send-migration destination_url=unix:/p,one_way=on,compression=zstd,compression_level=9",
          "PUT /api/v1/vm.send-migration",
          "{\"destination_url\": \"unix:/p\", \"local\": false, \"downtime_ms\": 300, "
          "\"timeout_s\": "
          "3600, \"timeout_strategy\": \"Cancel\", \"peer_timeout_s\": 120, \"max_bandwidth\": 0, "
          "\"max_postcopy_bandwidth\": 0, "
          "\"connections\": 1, "
          "\"compression\": \"Zstd\", \"compression_level\": 9, "
          "\"memory_mode\": "
          "\"Precopy\", \"auto_converge\": false, "
          "\"auto_converge_initial\": 20, \"auto_converge_increment\": 10, \"checksum\": true, "
          "\"keep_process\": "
          "false, "
          "\"one_way\": true, "
          "\"tls_dir\": null, \"tls_name\": null, \"recover\": false}" },
        { "cancel-migration", "PUT /api/v1/vm.cancel-migration", NULL },
        { "migration-start-postcopy", "PUT /api/v1/vm.migration-start-postcopy", NULL },
        { "receive-migration receiver_url=unix:/p", "PUT /api/v1/vm.receive-migration",
          "{\"receiver_url\": \"unix:/p\", \"wait\": true, \"memory_mode\": \"Precopy\", "
          "\"paused\": false, \"peer_timeout_s\": 120, \"config\": null, \"tls_dir\": null, "
          "\"recover\": false}" },
        { "restore source_url=file:///s,prefault=off", "PUT /api/v1/vm.restore",
          "{\"source_url\": \"file:///s\", \"prefault\": false, \"memory_restore_mode\": "
          "\"Copy\", \"resume\": false, \"net_fds\": null, \"zone_updates\": null}" },
        { "restore source_url=file:///s,memory_restore_mode=ondemand,zone_updates=[a@1,b@0]",
          "PUT /api/v1/vm.restore",
          "{\"source_url\": \"file:///s\", \"prefault\": false, \"memory_restore_mode\": "
          "\"OnDemand\", \"resume\": false, \"net_fds\": null, \"zone_updates\": "
          "[{\"id\": \"a\", \"host_numa_node\": 1}, {\"id\": \"b\", \"host_numa_node\": 0}]}" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_auto(Run) run = run_remote(f, rows[i].words);
        json_t *body = rows[i].body ? json_loads(rows[i].body, 0, NULL) : NULL;

        g_assert_cmpstr(run.err, ==, "");
        g_assert_cmpstr(run.out, ==, "");
        g_assert_cmpint(run.status, ==, 0);
        g_assert_cmpstr(f->line, ==, rows[i].line);
        g_assert_true(json_equal(f->body, body) || (!f->body && !body));
        json_decref(body);
    }
}

static void test_output(Fixture *f, gconstpointer data)
{
    g_auto(Run) run = { 0 };

    f->status = 200;
    f->answer = json_pack("{s:s, s:i}", "state", "Running", "n", 1);
    run = run_remote(f, "info");
    g_assert_cmpint(run.status, ==, 0);
    g_assert_cmpstr(run.out, ==, "{\n  \"state\": \"Running\",\n  \"n\": 1\n}\n");
}

static void test_errors(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *words, *word;
    } rows[] = {
        { "bogus", "unknown command bogus" },
        { "boot now", "usage: kumo-remote --api-socket SOCKET boot" },
        { "snapshot", "usage: kumo-remote --api-socket SOCKET snapshot URL" },
        { "resize", "usage: " },
        { "resize --cpus", "usage: " },
        { "resize --cpus x", "resize --cpus: \"x\" is not a size" },
        { "resize --bogus 1", "usage: " },
        { "resize-disk --disk d", "usage: " },
        { "add-disk path=/d,queue_size=3", "--disk queue_size: 3 is not allowed" },
        { "add-net bogus=1", "--net: unknown key \"bogus\"" },
        { "add-fs tag=\"t", "closing double quote" },
        { "create /nonexistent", "create: /nonexistent: " },
    };
    g_auto(Run) refused = { 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_auto(Run) run = run_remote(f, rows[i].words);

        g_assert_cmpint(run.status, ==, 2);
        g_assert_cmpstr(run.out, ==, "");
        g_assert_true(g_str_has_prefix(run.err, "kumo-remote: "));
        if (!strstr(run.err, rows[i].word))
            g_error("%s: %s", rows[i].words, run.err);
    }
    g_assert_null(f->line);
    f->status = 400;
    f->answer = json_pack("[s, s]", "vm.nmi", "not supported yet");
    refused = run_remote(f, "nmi");
    g_assert_cmpint(refused.status, ==, 1);
    g_assert_cmpstr(refused.err, ==, "kumo-remote: vm.nmi: not supported yet\n");
}

static void test_devices(Fixture *f, gconstpointer data)
{
    g_auto(Run) disk = run_remote(f, "add-disk path=/d,id=d,readonly=on");
    int fd;
    g_autofree char *words = NULL;
    g_auto(Run) net = { 0 };
    struct stat info;

    g_assert_cmpint(disk.status, ==, 0);
    g_assert_cmpstr(f->line, ==, "PUT /api/v1/vm.add-disk");
    g_assert_cmpstr(json_string_value(json_object_get(f->body, "id")), ==, "d");
    g_assert_true(json_is_true(json_object_get(f->body, "readonly")));
    g_assert_cmpuint(f->n_fds, ==, 0);
    /* Inherited by the child, which passes it on. */
    fd = open("/dev/zero", O_RDONLY);
    g_assert_cmpint(fstat(fd, &info), ==, 0);
    words = g_strdup_printf("add-net fd=[%d],mac=52:54:00:00:00:01", fd);
    net = run_remote(f, words);
    g_assert_cmpstr(net.err, ==, "");
    g_assert_cmpstr(f->line, ==, "PUT /api/v1/vm.add-net");
    g_assert_cmpuint(f->n_fds, ==, 1);
    g_assert_cmpuint(f->fd_device, ==, info.st_rdev);
    g_assert_cmpint(json_integer_value(json_array_get(json_object_get(f->body, "fds"), 0)), ==, -1);
    close(fd);
}

static void test_create(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(f->dir, "vm.json", NULL);
    g_autofree char *words = g_strconcat("create ", path, NULL);
    kumo_auto_fd saved = dup(STDIN_FILENO);
    kumo_auto_fd file = -1;

    g_assert_true(g_file_set_contents(path, "{\"payload\": {}}", -1, NULL));
    {
        g_auto(Run) run = run_remote(f, words);

        g_assert_cmpint(run.status, ==, 0);
        g_assert_cmpstr(f->line, ==, "PUT /api/v1/vm.create");
        g_assert_true(json_is_object(json_object_get(f->body, "payload")));
    }
    /* From standard input. */
    g_assert_true(g_file_set_contents(path, "{\"cpus\": {}}", -1, NULL));
    file = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(dup2(file, STDIN_FILENO), ==, STDIN_FILENO);
    {
        g_auto(Run) run = run_remote(f, "create");

        g_assert_cmpint(run.status, ==, 0);
        g_assert_true(json_is_object(json_object_get(f->body, "cpus")));
    }
    g_assert_cmpint(dup2(saved, STDIN_FILENO), ==, STDIN_FILENO);
    g_unlink(path);
}

static void assert_short_lines(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; *line; line++)
        g_assert_cmpuint(strlen(*line), <=, 90);
}

static void test_help(Fixture *f, gconstpointer data)
{
    static const char *const commands[] = {
        "add-device",
        "add-disk",
        "add-fs",
        "add-generic-vhost-user",
        "add-net",
        "add-pmem",
        "add-user-device",
        "add-vdpa",
        "add-vsock",
        "boot",
        "cancel-migration",
        "coredump",
        "counters",
        "create",
        "delete",
        "info",
        "migration-progress",
        "migration-start-postcopy",
        "nmi",
        "pause",
        "ping",
        "power-button",
        "reboot",
        "receive-migration",
        "remove-device",
        "resize",
        "resize-disk",
        "resize-zone",
        "restore",
        "resume",
        "send-migration",
        "shutdown",
        "shutdown-vmm",
        "snapshot",
    };
    g_auto(Run) run = run_remote(f, "--help");
    g_auto(Run) version = run_remote(f, "--version");
    g_auto(Run) missing = run_remote(f, "--api-socket= info");

    g_assert_cmpint(run.status, ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autofree char *word = g_strdup_printf("\n  %s", commands[i]);

        g_assert_nonnull(strstr(run.out, word));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autofree char *words = g_strdup_printf("%s --help", commands[i]);
        g_autofree char *usage =
            g_strdup_printf("Usage: kumo-remote --api-socket SOCKET %s", commands[i]);
        g_auto(Run) help = run_remote(f, words);

        g_assert_cmpint(help.status, ==, 0);
        g_assert_true(g_str_has_prefix(help.out, usage));
        g_assert_nonnull(strstr(help.out, "/api/v1/vm"));
        assert_short_lines(help.out);
    }
    g_assert_null(f->line);
    g_assert_true(g_str_has_prefix(version.out, "kumo-remote 2"));
    g_assert_cmpint(missing.status, ==, 2);
    g_assert_nonnull(strstr(missing.err, "--api-socket SOCKET is missing"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/remote/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("requests", test_requests);
    ADD("output", test_output);
    ADD("errors", test_errors);
    ADD("devices", test_devices);
    ADD("create", test_create);
    ADD("help", test_help);
#undef ADD
    return g_test_run();
}
