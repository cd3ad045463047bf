/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Both halves of a migration in one process, and what a hostile peer may send to either. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fakes/fake_hv.h"
#include "vmm-core/base/error.h"
#include "vmm-core/migration/receive.h"
#include "vmm-core/migration/send.h"
#include "vmm-core/migration/stream.h"

#define MIB       (1ULL << 20)
#define RAM_BYTES (8 * MIB)
#define PAGE      4096ULL

typedef struct {
    char *directory, *url;
    FakeHvVm *source_vm, *vm;
    KumoMemory *source, *memory;
    KumoChannelListener listener;
    KumoMigrationCancel cancel, send_cancel;
    KumoReceiver receiver;
    KumoSender sender;
    KumoSendMigrationConfig config;
    GThread *thread;
    bool received;
    GError *receive_error;
    GString *calls;       /* of both, in their order: the protocol makes them take turns */
    unsigned busy_rounds; /* in which the guest writes 2 MiB */
    const char *fail;
} Fixture;

static KumoMemory *new_memory(FakeHvVm *vm, bool shared)
{
    const KumoMemoryConfig config = { .size_bytes = RAM_BYTES, .shared = shared };
    const KumoMemRange ranges[] = { { 0, 5 * MIB }, { 16 * MIB, 3 * MIB } };
    g_autoptr(GError) error = NULL;
    KumoMemory *memory =
        kumo_memory_new(&config, ranges, G_N_ELEMENTS(ranges), 0, &vm->base, &error);

    g_assert_no_error(error);
    return memory;
}

/* --- the hosts --- */

static bool called(Fixture *f, const char *what, GError **error)
{
    g_string_append_printf(f->calls, "%s ", what);
    if (g_strcmp0(f->fail, what) != 0)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s was told to fail", what);
    return false;
}

static void guest_writes(Fixture *f, uint64_t gpa, uint8_t value, uint64_t len)
{
    g_autofree uint8_t *data = g_malloc(len);

    memset(data, value, len);
    fake_hv_guest_writes(f->source_vm, gpa, data, len);
}

static bool host_stop(void *opaque, GError **error)
{
    Fixture *f = opaque;

    /* The last that the guest does; and a device. */
    if (!f->sender.config->local) {
        guest_writes(f, 16 * MIB, 0x77, 3 * PAGE);
        guest_writes(f, MIB, 0, PAGE);
        g_assert_true(kumo_memory_write(f->source, 2 * MIB + 5, "device", 6));
    }
    return called(f, "stop", error);
}

static json_t *host_hand_over(void *opaque, GError **error)
{
    return called(opaque, "hand-over", error) ? json_pack("{s:s}", "a", "state") : NULL;
}

static void host_iteration(void *opaque, unsigned id)
{
    Fixture *f = opaque;

    g_string_append_printf(f->calls, "round%u ", id);
    if (id < f->busy_rounds)
        guest_writes(f, 0, (uint8_t)(id + 1), 2 * MIB);
}

static void host_throttle(void *opaque, unsigned percent)
{
    g_string_append_printf(((Fixture *)opaque)->calls, "throttle%u ", percent);
}

static void host_followed(void *opaque)
{
    Fixture *f = opaque;

    g_string_append(f->calls, "followed ");
}

static const KumoSendHost send_host = {
    .stop = host_stop,
    .hand_over = host_hand_over,
    .throttle = host_throttle,
    .iteration = host_iteration,
    .followed = host_followed,
};

static void host_started(void *opaque)
{
    called(opaque, "started", NULL);
}

static bool host_build(void *opaque, const json_t *document, KumoMemory **ret_memory,
                       GError **error)
{
    Fixture *f = opaque;

    if (!called(f, "build", error))
        return false;
    g_assert_cmpstr(json_string_value(json_object_get(document, "machine")), ==, "m");
    *ret_memory = f->memory;
    return true;
}

static bool host_load(void *opaque, const json_t *state, GError **error)
{
    g_assert_cmpstr(json_string_value(json_object_get(state, "a")), ==, "state");
    return called(opaque, "load", error);
}

static bool host_go(void *opaque, bool paused, GError **error)
{
    return called(opaque, paused ? "go-paused" : "go", error);
}

static void host_on_main(void *opaque, void (*func)(void *arg), void *arg)
{
    func(arg);
}

static const KumoReceiveHost receive_host = { host_started, host_build, host_load, host_go,
                                              host_on_main };

/* --- one migration --- */

/* With what the configuration says now. */
static KumoSendResult run_sender(Fixture *f, GError **error)
{
    f->sender.downtime_ms = f->config.downtime_ms;
    f->sender.max_bandwidth = f->config.max_bandwidth;
    return kumo_send_run(&f->sender, error);
}

static void *receive_thread(void *opaque)
{
    Fixture *f = opaque;

    f->received = kumo_receive_run(&f->receiver, &f->receive_error);
    return NULL;
}

static void set_up_as(Fixture *f, bool shared)
{
    g_autoptr(GError) error = NULL;

    f->directory = g_dir_make_tmp("kumo-migration-XXXXXX", NULL);
    f->url = g_strdup_printf("unix:%s/socket", f->directory);
    f->source_vm = fake_hv_vm_new();
    f->vm = fake_hv_vm_new();
    f->source = new_memory(f->source_vm, shared);
    f->memory = new_memory(f->vm, shared);
    f->calls = g_string_new(NULL);
    g_assert_true(kumo_migration_cancel_init(&f->cancel, NULL));
    g_assert_true(kumo_migration_cancel_init(&f->send_cancel, NULL));
    g_assert_true(kumo_channel_listen(&f->listener, "url", f->url, &error));
    g_assert_no_error(error);
    f->receiver = (KumoReceiver){
        .listener = &f->listener, .host = &receive_host, .opaque = f, .cancel = &f->cancel
    };
    f->config = (KumoSendMigrationConfig){ .destination_url = f->url,
                                           .downtime_ms = 300,
                                           .timeout_s = 3600 };
    f->sender = (KumoSender){ .config = &f->config,
                              .document = json_pack("{s:s}", "machine", "m"),
                              .memory = f->source,
                              .host = &send_host,
                              .opaque = f,
                              .cancel = &f->send_cancel };
    guest_writes(f, 3 * PAGE, 0x11, 10 * PAGE);
    guest_writes(f, MIB, 0x22, MIB);
    guest_writes(f, 18 * MIB, 0x33, 5);
    f->thread = g_thread_new("receive", receive_thread, f);
}

static void set_up(Fixture *f, gconstpointer data)
{
    set_up_as(f, false);
}

static void wait_receiver(Fixture *f)
{
    if (f->thread)
        g_thread_join(f->thread);
    f->thread = NULL;
}

static void tear_down(Fixture *f, gconstpointer data)
{
    kumo_migration_cancel_set(&f->cancel);
    wait_receiver(f);
    kumo_channel_listener_close(&f->listener);
    kumo_migration_cancel_clear(&f->cancel);
    kumo_migration_cancel_clear(&f->send_cancel);
    json_decref(f->sender.document);
    kumo_memory_free(f->source);
    kumo_memory_free(f->memory);
    f->source_vm->base.ops->destroy(&f->source_vm->base);
    f->vm->base.ops->destroy(&f->vm->base);
    g_clear_error(&f->receive_error);
    g_string_free(f->calls, TRUE);
    g_rmdir(f->directory);
    g_free(f->directory);
    g_free(f->url);
}

static void assert_same_memory(Fixture *f)
{
    for (unsigned i = 0; i < f->memory->n_regions; i++)
        g_assert_cmpmem(f->memory->regions[i].hva, f->memory->regions[i].size_bytes,
                        f->source->regions[i].hva, f->source->regions[i].size_bytes);
}

/* Is nothing logged any more? */
static void assert_log_off(Fixture *f)
{
    g_assert_null(f->source->dirty_log);
    for (unsigned i = 0; i < f->source_vm->slots->len; i++)
        g_assert_cmpuint(g_array_index(f->source_vm->slots, FakeSlot, i).flags, ==, 0);
}

static void test_running(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    /* Has been there before: the source's zeros do not come in the first round. */
    g_assert_cmpint(run_sender(f, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    wait_receiver(f);
    g_assert_no_error(f->receive_error);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==, "started build round0 stop hand-over load go ");
    assert_same_memory(f);
    assert_log_off(f);
    g_assert_cmpuint(f->sender.progress.total_bytes, ==, RAM_BYTES);
    /* 10 pages, 1 MiB, 1 page; then 4 and a page that became zero. */
    g_assert_cmpuint(f->sender.progress.data_pages, ==, 10 + 256 + 1 + 4);
    g_assert_cmpuint(f->sender.progress.zero_pages, ==, 1);
    g_assert_cmpuint(f->sender.progress.downtime_us, >, 0);
}

/* The guest writes on: rounds until the rest would be sent soon enough. */
static void test_rounds(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->config.downtime_ms = 0;
    f->busy_rounds = 3;
    g_assert_cmpint(run_sender(f, &error), ==, KUMO_SEND_DONE);
    wait_receiver(f);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==,
                    "started build round0 round1 round2 round3 stop hand-over load go ");
    assert_same_memory(f);
}

/* A guest that writes as much as is sent gets less time with each second round, and all of it in
 * the end. */
static void test_auto_converge(Fixture *f, gconstpointer data)
{
    f->config.downtime_ms = 0;
    f->config.auto_converge = true;
    f->config.auto_converge_initial = 60;
    f->config.auto_converge_increment = 30;
    f->busy_rounds = 8;
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_DONE);
    wait_receiver(f);
    g_assert_cmpstr(f->calls->str, ==,
                    "started build round0 round1 throttle60 round2 round3 throttle90 round4 round5 "
                    "throttle99 round6 round7 round8 throttle0 stop hand-over load go ");
    assert_same_memory(f);
}

static void test_auto_converge_fails(Fixture *f, gconstpointer data)
{
    f->config.auto_converge = true;
    f->config.auto_converge_initial = 20;
    f->config.downtime_ms = 0;
    f->busy_rounds = 4;
    f->fail = "stop";
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_FAILED);
    wait_receiver(f);
    g_assert_nonnull(strstr(f->calls->str, "throttle20"));
    g_assert_nonnull(strstr(f->calls->str, "throttle0"));
}

/* A dirty log that forgets one page: what looks at the memory here would see that. */
static void test_lost_page(Fixture *f, gconstpointer data)
{
    unsigned n_wrong = 0;

    f->source_vm->lost_dirty = 1;
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_DONE);
    wait_receiver(f);
    g_assert_true(f->received);
    for (unsigned i = 0; i < f->memory->n_regions; i++) {
        const KumoMemRegion *here = &f->memory->regions[i], *there = &f->source->regions[i];

        for (uint64_t at = 0; at < here->size_bytes; at += PAGE)
            n_wrong += memcmp(here->hva + at, there->hva + at, PAGE) != 0;
    }
    g_assert_cmpuint(n_wrong, ==, 1);
}

/* 1 MiB at 8 MiB/s; the end with the guest stopped is not held up. */
static void test_bandwidth(Fixture *f, gconstpointer data)
{
    int64_t start = g_get_monotonic_time();

    f->config.max_bandwidth = 8 * MIB;
    g_assert_cmpint(run_sender(f, NULL), ==, KUMO_SEND_DONE);
    g_assert_cmpint(g_get_monotonic_time() - start, >, 100000);
    wait_receiver(f);
    assert_same_memory(f);
}

static void *lift_limit(void *opaque)
{
    Fixture *f = opaque;

    g_usleep(50000);
    atomic_store(&f->sender.max_bandwidth, 0);
    return NULL;
}

/* With what it begins it would take days. */
static void test_bandwidth_changed(Fixture *f, gconstpointer data)
{
    GThread *thread;

    f->sender.downtime_ms = f->config.downtime_ms;
    f->sender.max_bandwidth = 1;
    thread = g_thread_new("lift-limit", lift_limit, f);
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_DONE);
    g_thread_join(thread);
    wait_receiver(f);
    assert_same_memory(f);
}

static void test_timeout(Fixture *f, gconstpointer data)
{
    bool ignore = GPOINTER_TO_INT(data);
    g_autoptr(GError) error = NULL;

    f->config.downtime_ms = 0;
    f->config.timeout_s = 0;
    f->busy_rounds = UINT_MAX;
    f->config.timeout_strategy = ignore ? KUMO_MIGRATION_IGNORE : KUMO_MIGRATION_CANCEL;
    if (ignore) {
        g_assert_cmpint(run_sender(f, &error), ==, KUMO_SEND_DONE);
        wait_receiver(f);
        assert_same_memory(f);
        return;
    }
    g_assert_cmpint(run_sender(f, &error), ==, KUMO_SEND_FAILED);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "timeout_s"));
    wait_receiver(f);
    g_assert_false(f->received);
    g_assert_null(strstr(f->calls->str, "stop"));
    assert_log_off(f);
}

static void test_paused(Fixture *f, gconstpointer data)
{
    f->sender.paused = true;
    g_assert_cmpint(run_sender(f, NULL), ==, KUMO_SEND_DONE);
    wait_receiver(f);
    g_assert_cmpstr(f->calls->str, ==, "started build round0 hand-over load go-paused ");
    assert_same_memory(f);
}

static void test_local(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->config.local = true;
    g_assert_cmpint(run_sender(f, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    wait_receiver(f);
    g_assert_cmpstr(f->calls->str, ==, "started build stop hand-over load go ");
    assert_same_memory(f);
    /* It is the same memory, not a copy. */
    f->source->regions[1].hva[5] = 0x99;
    g_assert_cmpuint(f->memory->regions[1].hva[5], ==, 0x99);
    g_assert_cmpuint(f->sender.progress.data_pages, ==, 0);
}

static void set_up_shared(Fixture *f, gconstpointer data)
{
    set_up_as(f, true);
}

/* Whatever fails, before GO or at it: the source knows that the machine is its own. */
static void test_failures(void)
{
    static const char *const steps[] = { "build", "stop", "hand-over", "load", "go" };

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        Fixture f = { .fail = steps[i] };
        g_autofree char *text = g_strdup_printf("%s was told to fail", steps[i]);
        g_autoptr(GError) error = NULL;

        set_up(&f, NULL);
        g_assert_cmpint(run_sender(&f, &error), ==, KUMO_SEND_FAILED);
        g_assert_nonnull(strstr(error->message, text));
        wait_receiver(&f);
        g_assert_false(f.received);
        g_assert_nonnull(f.receive_error);
        assert_log_off(&f);
        tear_down(&f, NULL);
    }
}

static void test_cancel(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    kumo_migration_cancel_set(&f->send_cancel);
    g_assert_cmpint(run_sender(f, &error), ==, KUMO_SEND_FAILED);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_STATE);
    kumo_migration_cancel_set(&f->cancel);
    wait_receiver(f);
    g_assert_error(f->receive_error, KUMO_ERROR, KUMO_ERROR_STATE);
}

/* --- compression --- */

static bool connect_raw(Fixture *f, KumoChannel *channel)
{
    return kumo_channel_connect(channel, "url", f->url, &f->send_cancel, NULL);
}

/* Over one connection and several: less on the wire, the same in memory. */
static void test_compressed(Fixture *f, gconstpointer data)
{
    const KumoSendProgress *progress = &f->sender.progress;
    g_autoptr(GError) error = NULL;

    f->config.compression = KUMO_COMPRESSION_ZSTD;
    f->config.compression_level = 9;
    f->config.connections = GPOINTER_TO_UINT(data);
    f->config.downtime_ms = 0;
    f->busy_rounds = 3;
    g_assert_cmpint(kumo_send_run(&f->sender, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    wait_receiver(f);
    g_assert_no_error(f->receive_error);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==,
                    "started build round0 round1 round2 round3 stop hand-over load go ");
    assert_same_memory(f);
    g_assert_cmpuint(progress->data_pages, >=, 3 * (2 * MIB / PAGE));
    g_assert_cmpuint(progress->packed_pages, ==, progress->data_pages);
    g_assert_cmpuint(progress->packed_bytes, <, progress->sent_bytes);
    g_assert_cmpuint(progress->sent_bytes, <, progress->data_pages * PAGE / 10);
    /* How long the guest would stand still goes by memory, not by what is left of it. */
    g_assert_cmpuint(progress->memory_bytes_per_s, >, 10 * progress->bytes_per_s);
}

/* A destination that does not know that compression says which it is. */
static void test_compression_refused(void)
{
    static const struct {
        const char *given, *word;
        bool local;
    } rows[] = {
        { "\"lz4\"", "compression: lz4 is not known here", false },
        { "\"\"", "compression:  is not known here", false },
        { "7", "compression: what is given is not known here", false },
        { "null", "compression: what is given is not known here", false },
        { "\"zstd\"", "compression: there is none", true },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        Fixture f = { 0 };
        KumoChannel channel;
        json_t *hello_document = json_pack("{s:s, s:i, s:b}", "format", "kumo-migration", "version",
                                           KUMO_STREAM_VERSION, "local", rows[i].local);

        set_up(&f, NULL);
        json_object_set_new(hello_document, "compression",
                            json_loads(rows[i].given, JSON_DECODE_ANY, NULL));
        g_assert_true(connect_raw(&f, &channel));
        g_assert_true(kumo_stream_send(&channel, KUMO_RECORD_HELLO, hello_document, -1, NULL));
        g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_HELLO, NULL, &error));
        if (!strstr(error->message, rows[i].word))
            g_error("%s: %s", rows[i].given, error->message);
        kumo_channel_close(&channel);
        tear_down(&f, NULL);
    }
}

/* --- one way --- */

/* Written to a file, which is read back. */
static void test_file(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(f->directory, "stream", NULL);
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_autoptr(GError) error = NULL;
    int fd = g_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    /* Not the one that waits at the socket. */
    kumo_migration_cancel_set(&f->cancel);
    wait_receiver(f);
    g_clear_error(&f->receive_error);
    kumo_migration_cancel_clear(&f->cancel);
    g_assert_true(kumo_migration_cancel_init(&f->cancel, NULL));
    kumo_channel_listener_close(&f->listener);

    g_array_append_val(fds, fd);
    f->config.one_way = true;
    f->config.compression = GPOINTER_TO_INT(data);
    f->config.stream_fd = fds;
    f->sender.paused = true;
    g_assert_cmpint(run_sender(f, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    g_assert_cmpstr(f->calls->str, ==, "round0 hand-over ");
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    kumo_channel_listen_fd(&f->listener, fd);
    f->thread = g_thread_new("receive", receive_thread, f);
    wait_receiver(f);
    g_assert_no_error(f->receive_error);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==, "round0 hand-over started build load go-paused ");
    assert_same_memory(f);
    g_unlink(path);
}

/* Who waits for answers cannot be read from a file; a file that ends too soon is told as that. */
static void test_file_refused(void)
{
    for (unsigned i = 0; i < 2; i++) {
        Fixture f = { 0 };
        g_autofree char *path = NULL;
        KumoMigrationCancel never;
        KumoChannel channel;
        int fd;

        g_assert_true(kumo_migration_cancel_init(&never, NULL));
        set_up(&f, NULL);
        kumo_migration_cancel_set(&f.cancel);
        wait_receiver(&f);
        g_clear_error(&f.receive_error);
        kumo_channel_listener_close(&f.listener);
        path = g_build_filename(f.directory, "stream", NULL);
        fd = g_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        g_assert_true(kumo_channel_open_fd(&channel, dup(fd), &never, NULL));
        g_assert_true(kumo_stream_send(&channel, KUMO_RECORD_HELLO,
                                       json_pack("{s:s, s:i, s:b}", "format", "kumo-migration",
                                                 "version", KUMO_STREAM_VERSION, "one_way", i > 0),
                                       -1, NULL));
        kumo_channel_close(&channel);
        g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
        kumo_channel_listen_fd(&f.listener, fd);
        f.receiver.cancel = &never;
        g_assert_false(kumo_receive_run(&f.receiver, &f.receive_error));
        g_assert_nonnull(
            strstr(f.receive_error->message, i ? "ends before it is complete" : "one_way"));
        kumo_migration_cancel_clear(&never);
        g_unlink(path);
        tear_down(&f, NULL);
    }
}

/* A socket that a killed receiver has left is replaced; one that somebody listens at is not. */
static void test_stale_socket(Fixture *f, gconstpointer data)
{
    g_autofree char *url = g_strdup_printf("unix:%s/stale", f->directory);
    g_autoptr(GError) error = NULL;
    KumoChannelListener killed, next;

    g_assert_true(kumo_channel_listen(&killed, "url", url, NULL));
    g_assert_false(kumo_channel_listen(&next, "url", url, &error));
    g_assert_nonnull(strstr(error->message, "in use"));
    close(killed.fd);
    g_assert_true(kumo_channel_listen(&next, "url", url, NULL));
    kumo_channel_listener_close(&next);
    g_free(killed.path);
}

/* --- a hostile source --- */

typedef struct {
    uint32_t magic, type;
    uint64_t length, check;
} RawHeader;

static void hello(KumoChannel *channel, bool local)
{
    g_assert_true(kumo_stream_send(channel, KUMO_RECORD_HELLO,
                                   json_pack("{s:s, s:i, s:b}", "format", "kumo-migration",
                                             "version", KUMO_STREAM_VERSION, "local", local),
                                   -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, KUMO_RECORD_HELLO, NULL, NULL));
}

static void build_machine(KumoChannel *channel)
{
    hello(channel, false);
    g_assert_true(kumo_stream_send(channel, KUMO_RECORD_CONFIG, json_pack("{s:s}", "machine", "m"),
                                   -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, KUMO_RECORD_CONFIG, NULL, NULL));
}

/* One run of pages, whatever it says, with the right checksum. */
static void send_pages(KumoChannel *channel, uint64_t n_runs, KumoPagesRun run, uint64_t length)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize digest_len = sizeof(digest);
    RawHeader header = { GUINT32_TO_LE(0x6f6d756b), GUINT32_TO_LE(KUMO_RECORD_PAGES),
                         GUINT64_TO_LE(length), 0 };
    struct iovec iov[] = { { &header, sizeof(header) }, { &n_runs, 8 }, { &run, sizeof(run) } };

    g_checksum_update(sum, (const guchar *)&run, sizeof(run));
    g_checksum_get_digest(sum, digest, &digest_len);
    memcpy(&header.check, digest, 8);
    n_runs = GUINT64_TO_LE(n_runs);
    kumo_channel_write(channel, iov, G_N_ELEMENTS(iov), -1, NULL);
}

static void expect_refusal(Fixture *f, KumoChannel *channel, const char *word)
{
    wait_receiver(f);
    g_assert_false(f->received);
    g_assert_error(f->receive_error, KUMO_ERROR, KUMO_ERROR_INVALID);
    if (!strstr(f->receive_error->message, word))
        g_error("%s: %s", word, f->receive_error->message);
    kumo_channel_close(channel);
}

static void test_hostile_pages(void)
{
    static const struct {
        uint64_t n_runs, gpa;
        uint32_t n_pages, kind;
        uint64_t length;
        const char *word;
    } rows[] = {
        { 1, 5 * MIB, 1, 0, 24 + PAGE, "no RAM" },            /* behind RAM */
        { 1, 5 * MIB - PAGE, 2, 0, 24 + 2 * PAGE, "no RAM" }, /* over its end */
        { 1, UINT64_MAX - PAGE + 1, 2, 1, 24, "no RAM" },     /* round the corner */
        { 1, 0, UINT32_MAX, 1, 24, "no RAM" },
        { 1, 100, 1, 0, 24 + PAGE, "no RAM" }, /* not at a page */
        { 1, 0, 0, 0, 24, "no RAM" },
        { 1, 0, 1, 2, 24, "no RAM" }, /* no such kind */
        { 1, 0, 1, 0, 24, "do not fit" },
        { 1, 0, 1, 1, 24 + PAGE, "do not fit" },
        { 1, 0, KUMO_PAGES_MAX_DATA + 1, 0, 24 + (KUMO_PAGES_MAX_DATA + 1) * PAGE, "do not fit" },
        { 0, 0, 1, 0, 24, "runs" },
        { UINT64_MAX, 0, 1, 0, 24, "runs" },
        { KUMO_PAGES_MAX_RUNS + 1, 0, 1, 0, 24, "runs" },
        { 1, 0, 1, 0, 7, "too few" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        Fixture f = { 0 };
        KumoChannel channel;

        set_up(&f, NULL);
        g_assert_true(connect_raw(&f, &channel));
        build_machine(&channel);
        send_pages(&channel, rows[i].n_runs,
                   (KumoPagesRun){ rows[i].gpa, rows[i].n_pages, rows[i].kind }, rows[i].length);
        expect_refusal(&f, &channel, rows[i].word);
        tear_down(&f, NULL);
    }
}

/* Records where they have no place, and heads that promise nonsense. */
static void test_hostile_records(void)
{
    static const struct {
        KumoRecordType type;
        bool built;
        const char *word;
    } rows[] = {
        { KUMO_RECORD_ROUND, false, "before CONFIG" },
        { KUMO_RECORD_STATE, false, "before CONFIG" },
        { KUMO_RECORD_GO, false, "GO" },
        { KUMO_RECORD_GO, true, "GO" },
        { KUMO_RECORD_HELLO, true, "HELLO" },
        { KUMO_RECORD_ACK, true, "ACK" },
        { KUMO_RECORD_CONFIG, true, "twice" },
        { KUMO_RECORD_MEMORY_FD, false, "no place" },
        { KUMO_RECORD_MEMORY_FD, true, "no place" },
    };
    static const RawHeader heads[] = {
        { 0x12345678, KUMO_RECORD_CONFIG, 0, 0 },          { 0x6f6d756b, 0, 0, 0 },
        { 0x6f6d756b, KUMO_RECORD_ACK + 1, 0, 0 },         { 0x6f6d756b, UINT32_MAX, 0, 0 },
        { 0x6f6d756b, KUMO_RECORD_CONFIG, UINT64_MAX, 0 }, { 0x6f6d756b, KUMO_RECORD_CONFIG, 0, 5 },
        { 0x6f6d756b, KUMO_RECORD_PAGES, 1 << 20, 0 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        Fixture f = { 0 };
        KumoChannel channel;

        set_up(&f, NULL);
        g_assert_true(connect_raw(&f, &channel));
        if (rows[i].built)
            build_machine(&channel);
        else
            hello(&channel, false);
        kumo_stream_send(&channel, rows[i].type, json_pack("{s:s}", "machine", "m"), -1, NULL);
        expect_refusal(&f, &channel, rows[i].word);
        tear_down(&f, NULL);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(heads); i++) {
        Fixture f = { 0 };
        KumoChannel channel;
        RawHeader head = heads[i];
        struct iovec iov = { &head, sizeof(head) };

        set_up(&f, NULL);
        g_assert_true(connect_raw(&f, &channel));
        hello(&channel, false);
        kumo_channel_write(&channel, &iov, 1, -1, NULL);
        expect_refusal(&f, &channel, "migration stream");
        tear_down(&f, NULL);
    }
}

/* A stranger is turned away, and the wait goes on. */
static void test_stranger(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    KumoChannel channel;
    char text[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct iovec iov = { text, sizeof(text) };

    g_assert_true(connect_raw(f, &channel));
    kumo_channel_write(&channel, &iov, 1, -1, NULL);
    kumo_channel_close(&channel);
    g_assert_true(connect_raw(f, &channel));
    kumo_stream_send(&channel, KUMO_RECORD_HELLO,
                     json_pack("{s:s, s:i}", "format", "kumo-migration", "version", 99), -1, NULL);
    g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_HELLO, NULL, &error));
    g_assert_nonnull(strstr(error->message, "version 99"));
    kumo_channel_close(&channel);
    g_assert_cmpint(run_sender(f, NULL), ==, KUMO_SEND_DONE);
    wait_receiver(f);
    g_assert_true(f->received);
}

/* --- a peer that says nothing --- */

typedef struct {
    Fixture *f;
    KumoChannel channel;
    unsigned n_answers; /* then it says nothing more */
    bool refuses;       /* GO, before it is said */
    GThread *thread;
} Silent;

static bool skip_pages(KumoChannel *channel, const KumoRecord *record)
{
    g_autofree void *payload = g_malloc(record->length);

    return kumo_channel_read(channel, payload, record->length, NULL, NULL);
}

/* Reads all that comes, until the source hangs up. */
static void *silent_thread(void *opaque)
{
    Silent *silent = opaque;
    KumoChannel *channel = &silent->channel;
    bool ok = true;

    while (ok) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        ok = kumo_stream_receive(channel, &record, NULL) &&
             (record.type != KUMO_RECORD_PAGES || skip_pages(channel, &record));
        if (!ok || record.type == KUMO_RECORD_PAGES || silent->n_answers == 0)
            continue;
        silent->n_answers--;
        kumo_stream_acknowledge(channel, record.type, NULL, NULL);
        if (silent->n_answers == 0 && silent->refuses) {
            g_autoptr(GError) why =
                g_error_new(KUMO_ERROR, KUMO_ERROR_IO, "it has waited too long");

            kumo_stream_acknowledge(channel, KUMO_RECORD_GO, why, NULL);
            ok = false;
        }
    }
    kumo_channel_close(channel);
    return NULL;
}

static void silent_begin(Silent *silent, Fixture *f, GArray *fds)
{
    int sockets[2];

    set_up(f, NULL);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), ==, 0);
    g_assert_true(kumo_channel_open_fd(&silent->channel, sockets[1], &f->cancel, NULL));
    g_array_append_val(fds, sockets[0]);
    f->config.stream_fd = fds;
    f->config.peer_timeout_s = 1;
    silent->f = f;
    silent->thread = g_thread_new("silent", silent_thread, silent);
}

static void silent_end(Silent *silent, Fixture *f, GArray *fds)
{
    close(g_array_index(fds, int, 0));
    g_thread_join(silent->thread);
    tear_down(f, NULL);
}

/* The source gives up whatever it waits for. Before GO it knows that the machine is its own. */
static void test_silent_destination(void)
{
    enum { N_ANSWERS = 5 };

    for (unsigned n = 0; n < N_ANSWERS; n++) {
        g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
        g_autoptr(GError) error = NULL;
        int64_t start = g_get_monotonic_time();
        Silent silent = { .n_answers = n };
        Fixture f = { 0 };

        silent_begin(&silent, &f, fds);
        g_assert_cmpint(run_sender(&f, &error), ==,
                        n < N_ANSWERS - 1 ? KUMO_SEND_FAILED : KUMO_SEND_UNKNOWN);
        g_assert_nonnull(strstr(error->message, "has said nothing for 1.0 s"));
        g_assert_cmpint(g_get_monotonic_time() - start, <, 10 * G_TIME_SPAN_SECOND);
        /* From GO on it is not for us to say. */
        g_assert_true(kumo_migration_cancel_set(&f.send_cancel) == (n < N_ANSWERS - 1));
        silent_end(&silent, &f, fds);
    }
}

/* A destination that has given up says so, which counts whether GO still gets there or not. */
static void test_refused_before_go(void)
{
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_autoptr(GError) error = NULL;
    Silent silent = { .n_answers = 4, .refuses = true };
    Fixture f = { 0 };

    silent_begin(&silent, &f, fds);
    g_assert_cmpint(run_sender(&f, &error), ==, KUMO_SEND_FAILED);
    g_assert_nonnull(strstr(error->message, "it has waited too long"));
    silent_end(&silent, &f, fds);
}

/* The destination does not wait for GO for ever, and a source that comes back learns it. */
static void test_silent_source(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    KumoChannel channel;
    bool refused = false;

    f->receiver.watch.timeout_s = 1;
    g_assert_true(connect_raw(f, &channel));
    build_machine(&channel);
    g_assert_true(
        kumo_stream_send(&channel, KUMO_RECORD_STATE, json_pack("{s:s}", "a", "state"), -1, NULL));
    g_assert_true(kumo_stream_wait_ack(&channel, KUMO_RECORD_STATE, NULL, NULL));
    wait_receiver(f);
    g_assert_false(f->received);
    g_assert_nonnull(strstr(f->receive_error->message, "waiting for GO"));
    kumo_stream_send(&channel, KUMO_RECORD_GO, json_object(), -1, NULL);
    g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_GO, &refused, &error));
    g_assert_true(refused);
    g_assert_nonnull(strstr(error->message, "has said nothing for 1.0 s"));
    g_assert_null(strstr(f->calls->str, "go"));
    kumo_channel_close(&channel);
}

/* What is called off at the destination while a source may come to GO is refused, not left open. */
static void test_cancel_before_go(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    KumoChannel channel;
    bool refused = false;

    g_assert_true(connect_raw(f, &channel));
    build_machine(&channel);
    g_assert_true(
        kumo_stream_send(&channel, KUMO_RECORD_STATE, json_pack("{s:s}", "a", "state"), -1, NULL));
    g_assert_true(kumo_stream_wait_ack(&channel, KUMO_RECORD_STATE, NULL, NULL));
    g_assert_true(kumo_migration_cancel_set(&f->cancel));
    wait_receiver(f);
    kumo_stream_send(&channel, KUMO_RECORD_GO, json_object(), -1, NULL);
    g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_GO, &refused, &error));
    g_assert_true(refused);
    g_assert_nonnull(strstr(error->message, "called off"));
    kumo_channel_close(&channel);
}

/* Behind GO the destination has the machine. */
static void test_cancel_behind_go(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(run_sender(f, NULL), ==, KUMO_SEND_DONE);
    wait_receiver(f);
    g_assert_false(kumo_migration_cancel_set(&f->cancel));
    g_assert_false(kumo_migration_cancel_set(&f->send_cancel));
}

/* --- several connections --- */

/* Pages go over all lanes, and each round's replace those of the one before. */
static void test_lanes(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->config.connections = GPOINTER_TO_UINT(data);
    f->config.downtime_ms = 0;
    f->busy_rounds = 5;
    g_assert_cmpint(kumo_send_run(&f->sender, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    wait_receiver(f);
    g_assert_no_error(f->receive_error);
    g_assert_cmpstr(
        f->calls->str, ==,
        "started build round0 round1 round2 round3 round4 round5 stop hand-over load go ");
    assert_same_memory(f);
    assert_log_off(f);
    g_assert_cmpuint(f->sender.progress.data_pages, >=, 5 * (2 * MIB / PAGE));
}

static void test_lanes_paused(Fixture *f, gconstpointer data)
{
    f->config.connections = 3;
    f->sender.paused = true;
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_DONE);
    wait_receiver(f);
    g_assert_true(f->received);
    assert_same_memory(f);
}

#define TOKEN "0123456789abcdef"

/* Another connection of a source whose token is @token. */
static void connect_lane(Fixture *f, KumoChannel *lane, const char *token)
{
    g_assert_true(connect_raw(f, lane));
    g_assert_true(
        kumo_stream_send(lane, KUMO_RECORD_HELLO,
                         json_pack("{s:s, s:i, s:i, s:s}", "format", "kumo-migration", "version",
                                   KUMO_STREAM_VERSION, "lane", 1, "token", token),
                         -1, NULL));
}

static void connect_two(Fixture *f, KumoChannel *channel, KumoChannel *lane)
{
    KumoChannel stranger;

    g_assert_true(connect_raw(f, channel));
    g_assert_true(
        kumo_stream_send(channel, KUMO_RECORD_HELLO,
                         json_pack("{s:s, s:i, s:i, s:s}", "format", "kumo-migration", "version",
                                   KUMO_STREAM_VERSION, "connections", 2, "token", TOKEN),
                         -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, KUMO_RECORD_HELLO, NULL, NULL));
    /* Turned away without an answer, and the wait goes on. */
    connect_lane(f, &stranger, "0123456789abcdeX");
    g_assert_false(kumo_stream_wait_ack(&stranger, KUMO_RECORD_HELLO, NULL, NULL));
    kumo_channel_close(&stranger);
    connect_lane(f, lane, TOKEN);
    g_assert_true(kumo_stream_wait_ack(lane, KUMO_RECORD_HELLO, NULL, NULL));
    g_assert_true(kumo_stream_send(channel, KUMO_RECORD_CONFIG, json_pack("{s:s}", "machine", "m"),
                                   -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, KUMO_RECORD_CONFIG, NULL, NULL));
}

static void test_hostile_lanes(void)
{
    static const struct {
        KumoRecordType type; /* that comes on the lane; ACK: none, it is closed */
        const char *word;
    } rows[] = {
        { KUMO_RECORD_STATE, "has no place on a connection for pages" },
        { KUMO_RECORD_GO, "has no place on a connection for pages" },
        { KUMO_RECORD_HELLO, "has no place on a connection for pages" },
        { KUMO_RECORD_ACK, "closed the connection" },
        { KUMO_RECORD_PAGES, "no RAM" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        Fixture f = { 0 };
        KumoChannel channel, lane;
        g_autoptr(GError) error = NULL;

        set_up(&f, NULL);
        connect_two(&f, &channel, &lane);
        if (rows[i].type == KUMO_RECORD_PAGES)
            send_pages(&lane, 1, (KumoPagesRun){ 5 * MIB, 1, 0 }, 24 + PAGE);
        else if (rows[i].type != KUMO_RECORD_ACK)
            kumo_stream_send(&lane, rows[i].type, json_object(), -1, NULL);
        else
            kumo_channel_close(&lane);
        /* The first connection tells of it. */
        g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_ROUND, NULL, &error));
        g_assert_nonnull(strstr(error->message, rows[i].word));
        wait_receiver(&f);
        g_assert_nonnull(strstr(f.receive_error->message, rows[i].word));
        kumo_channel_close(&channel);
        kumo_channel_close(&lane);
        tear_down(&f, NULL);
    }
}

/* Whoever asks for connections that there cannot be is turned away. */
static void test_hostile_connections(void)
{
    static const struct {
        int connections;
        bool local;
        const char *token, *word;
    } rows[] = {
        { 0, false, TOKEN, "connections: 0" },
        { -1, false, TOKEN, "connections: -1" },
        { 129, false, TOKEN, "connections: 129" },
        { 2, false, "x", "token" },
        { 2, true, TOKEN, "only one" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        Fixture f = { 0 };
        KumoChannel channel;
        g_autoptr(GError) error = NULL;

        set_up(&f, NULL);
        g_assert_true(connect_raw(&f, &channel));
        g_assert_true(kumo_stream_send(&channel, KUMO_RECORD_HELLO,
                                       json_pack("{s:s, s:i, s:i, s:b, s:s}", "format",
                                                 "kumo-migration", "version", KUMO_STREAM_VERSION,
                                                 "connections", rows[i].connections, "local",
                                                 rows[i].local, "token", rows[i].token),
                                       -1, NULL));
        g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_HELLO, NULL, &error));
        if (!strstr(error->message, rows[i].word))
            g_error("row %u: %s", i, error->message);
        kumo_channel_close(&channel);
        tear_down(&f, NULL);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, data, begin, func)                                                               \
    g_test_add("/migration/" name, Fixture, data, begin, func, tear_down)
    ADD("running", NULL, set_up, test_running);
    ADD("auto-converge", NULL, set_up, test_auto_converge);
    ADD("auto-converge/fails", NULL, set_up, test_auto_converge_fails);
    ADD("lost-page", NULL, set_up, test_lost_page);
    ADD("bandwidth", NULL, set_up, test_bandwidth);
    ADD("bandwidth-changed", NULL, set_up, test_bandwidth_changed);
    ADD("rounds", NULL, set_up, test_rounds);
    ADD("timeout/cancel", GINT_TO_POINTER(0), set_up, test_timeout);
    ADD("timeout/ignore", GINT_TO_POINTER(1), set_up, test_timeout);
    ADD("paused", NULL, set_up, test_paused);
    ADD("local", NULL, set_up_shared, test_local);
    ADD("cancel", NULL, set_up, test_cancel);
    ADD("file", GINT_TO_POINTER(KUMO_COMPRESSION_NONE), set_up, test_file);
    ADD("file/compressed", GINT_TO_POINTER(KUMO_COMPRESSION_ZSTD), set_up, test_file);
    ADD("compressed/1", GUINT_TO_POINTER(1), set_up, test_compressed);
    ADD("compressed/4", GUINT_TO_POINTER(4), set_up, test_compressed);
    ADD("stale-socket", NULL, set_up, test_stale_socket);
    ADD("lanes/2", GUINT_TO_POINTER(2), set_up, test_lanes);
    ADD("lanes/16", GUINT_TO_POINTER(16), set_up, test_lanes);
    ADD("lanes/paused", NULL, set_up, test_lanes_paused);
    ADD("stranger", NULL, set_up, test_stranger);
    ADD("silent/source", NULL, set_up, test_silent_source);
    ADD("cancel/before-go", NULL, set_up, test_cancel_before_go);
    ADD("cancel/behind-go", NULL, set_up, test_cancel_behind_go);
#undef ADD
    g_test_add_func("/migration/failures", test_failures);
    g_test_add_func("/migration/silent/destination", test_silent_destination);
    g_test_add_func("/migration/silent/refused", test_refused_before_go);
    g_test_add_func("/migration/compressed/refused", test_compression_refused);
    g_test_add_func("/migration/file/refused", test_file_refused);
    g_test_add_func("/migration/hostile/pages", test_hostile_pages);
    g_test_add_func("/migration/hostile/connections", test_hostile_connections);
    g_test_add_func("/migration/hostile/lanes", test_hostile_lanes);
    g_test_add_func("/migration/hostile/records", test_hostile_records);
    return g_test_run();
}
