/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Both halves of a migration in one process. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fakes/migration_pair.h"
#include "vmm-core/base/error.h"
#include "vmm-core/migration/stream.h"

#define MIB       MIGRATION_PAIR_MIB
#define RAM_BYTES (8 * MIB)
#define PAGE      4096ULL

typedef MigrationPair Fixture;

static void set_up_as(Fixture *f, bool shared)
{
    const char *fail = f->fail;

    migration_pair_init(f, shared, NULL, NULL, NULL);
    f->fail = fail;
    migration_pair_receive(f);
}

static void set_up(Fixture *f, gconstpointer data)
{
    set_up_as(f, false);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    migration_pair_clear(f);
}

static void test_running(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    /* Has been there before: the source's zeros do not come in the first round. */
    g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    migration_pair_wait(f);
    g_assert_no_error(f->receive_error);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==, "started build round0 stop hand-over load go ");
    migration_pair_assert_same_memory(f);
    migration_pair_assert_log_off(f);
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
    g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_DONE);
    migration_pair_wait(f);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==,
                    "started build round0 round1 round2 round3 stop hand-over load go ");
    migration_pair_assert_same_memory(f);
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
    migration_pair_wait(f);
    g_assert_cmpstr(f->calls->str, ==,
                    "started build round0 round1 throttle60 round2 round3 throttle90 round4 round5 "
                    "throttle99 round6 round7 round8 throttle0 stop hand-over load go ");
    migration_pair_assert_same_memory(f);
}

static void test_auto_converge_fails(Fixture *f, gconstpointer data)
{
    f->config.auto_converge = true;
    f->config.auto_converge_initial = 20;
    f->config.downtime_ms = 0;
    f->busy_rounds = 4;
    f->fail = "stop";
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_FAILED);
    migration_pair_wait(f);
    g_assert_nonnull(strstr(f->calls->str, "throttle20"));
    g_assert_nonnull(strstr(f->calls->str, "throttle0"));
}

/* A dirty log that forgets one page: what looks at the memory here would see that. */
static void test_lost_page(Fixture *f, gconstpointer data)
{
    unsigned n_wrong = 0;

    f->source_vm->lost_dirty = 1;
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_DONE);
    migration_pair_wait(f);
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
    g_assert_cmpint(migration_pair_send(f, NULL), ==, KUMO_SEND_DONE);
    g_assert_cmpint(g_get_monotonic_time() - start, >, 100000);
    migration_pair_wait(f);
    migration_pair_assert_same_memory(f);
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
    migration_pair_wait(f);
    migration_pair_assert_same_memory(f);
}

static void *stop_guest(void *opaque)
{
    Fixture *f = opaque;

    g_usleep(50000);
    atomic_store(&f->sender.stop_guest, true);
    return NULL;
}

/* The guest writes on for ever, and its memory would take days: stopped at once, all that is left
 * goes while it stands still. */
static void test_stop_guest(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    GThread *thread;

    f->config.downtime_ms = 0;
    f->config.max_bandwidth = 1;
    f->busy_rounds = UINT_MAX;
    f->config.connections = GPOINTER_TO_UINT(data);
    thread = g_thread_new("stop-guest", stop_guest, f);
    g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    g_thread_join(thread);
    migration_pair_wait(f);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==, "started build round0 stop hand-over load go ");
    migration_pair_assert_same_memory(f);
    migration_pair_assert_log_off(f);
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
        g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_DONE);
        migration_pair_wait(f);
        migration_pair_assert_same_memory(f);
        return;
    }
    g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_FAILED);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "timeout_s"));
    migration_pair_wait(f);
    g_assert_false(f->received);
    g_assert_null(strstr(f->calls->str, "stop"));
    migration_pair_assert_log_off(f);
}

static void test_paused(Fixture *f, gconstpointer data)
{
    f->sender.paused = true;
    g_assert_cmpint(migration_pair_send(f, NULL), ==, KUMO_SEND_DONE);
    migration_pair_wait(f);
    g_assert_cmpstr(f->calls->str, ==, "started build round0 hand-over load go-paused ");
    migration_pair_assert_same_memory(f);
}

static void test_local(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->config.local = true;
    g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    migration_pair_wait(f);
    g_assert_cmpstr(f->calls->str, ==, "started build stop hand-over load go ");
    migration_pair_assert_same_memory(f);
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
        g_assert_cmpint(migration_pair_send(&f, &error), ==, KUMO_SEND_FAILED);
        g_assert_nonnull(strstr(error->message, text));
        migration_pair_wait(&f);
        g_assert_false(f.received);
        g_assert_nonnull(f.receive_error);
        migration_pair_assert_log_off(&f);
        tear_down(&f, NULL);
    }
}

static void test_cancel(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    kumo_migration_cancel_set(&f->send_cancel);
    g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_FAILED);
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_STATE);
    kumo_migration_cancel_set(&f->cancel);
    migration_pair_wait(f);
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
    migration_pair_wait(f);
    g_assert_no_error(f->receive_error);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==,
                    "started build round0 round1 round2 round3 stop hand-over load go ");
    migration_pair_assert_same_memory(f);
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
    migration_pair_wait(f);
    g_clear_error(&f->receive_error);
    kumo_migration_cancel_clear(&f->cancel);
    g_assert_true(kumo_migration_cancel_init(&f->cancel, NULL));
    kumo_channel_listener_close(&f->listener);

    g_array_append_val(fds, fd);
    f->config.one_way = true;
    f->config.compression = GPOINTER_TO_INT(data);
    f->config.stream_fd = fds;
    f->sender.paused = true;
    g_assert_cmpint(migration_pair_send(f, &error), ==, KUMO_SEND_DONE);
    g_assert_no_error(error);
    g_assert_cmpstr(f->calls->str, ==, "round0 hand-over ");
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    kumo_channel_listen_fd(&f->listener, fd);
    migration_pair_receive(f);
    migration_pair_wait(f);
    g_assert_no_error(f->receive_error);
    g_assert_true(f->received);
    g_assert_cmpstr(f->calls->str, ==, "round0 hand-over started build load go-paused ");
    migration_pair_assert_same_memory(f);
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
        migration_pair_wait(&f);
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
    ADD("stop-guest", GUINT_TO_POINTER(1), set_up, test_stop_guest);
    ADD("stop-guest/connections", GUINT_TO_POINTER(3), set_up, test_stop_guest);
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
#undef ADD
    g_test_add_func("/migration/failures", test_failures);
    g_test_add_func("/migration/compressed/refused", test_compression_refused);
    g_test_add_func("/migration/file/refused", test_file_refused);
    return g_test_run();
}
