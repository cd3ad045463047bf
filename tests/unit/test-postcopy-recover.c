/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections that break while memory follows a machine, and others in their place: both ends in
 * one process, and what a hostile peer may send to either. */
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fakes/migration_pair.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/receive_recover.h"
#include "vmm-core/migration/stream.h"

#define MIB      MIGRATION_PAIR_MIB
#define PAGE     4096ULL
#define FOR_EVER (30 * G_TIME_SPAN_SECOND)
#define ZSTD     1
#define SHARED   2
#define SUMMED   4
#define AT_GO    8

enum { MAX_PAIRS = 16 };

/* Between the ends: hangs up on all when it has forwarded so much. */
typedef struct {
    char *path, *target;
    int listener, stop_fd;
    struct pollfd fds[2 + 2 * MAX_PAIRS]; /* each pair: source, destination */
    unsigned n_fds;
    _Atomic int64_t left; /* bytes from the source; it hangs up as it becomes negative */
    GThread *thread;
} Relay;

typedef struct {
    MigrationPair pair;
    Relay relay;
    KumoSendRecovery recovery;
    GThread *sender, *toucher, *receiver;
    KumoMigrationCancel cancel; /* of the recovery */
    KumoChannelListener listener;
    KumoReceiveRecovery receive;
    GError *receive_error;
    KumoSendResult result;
    GError *send_error;
    bool cut_at_go; /* the source does not hear that the machine is here */
    GMutex lock;    /* the rest */
    GCond changed;
    unsigned n_finished, n_broken, n_failed, n_recovered; /* the destination */
    unsigned n_source_broken, n_source_recovered, n_ended;
    GError *why; /* the source's last */
} Fixture;

/* --- the relay --- */

static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        kumo_fd_clear(&fd);
    return fd;
}

static void relay_hang_up(Relay *relay)
{
    for (unsigned i = 2; i < relay->n_fds; i++)
        close(relay->fds[i].fd < 0 ? ~relay->fds[i].fd : relay->fds[i].fd);
    relay->n_fds = 2;
}

static void relay_accept(Relay *relay)
{
    int source = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC);
    int destination = connect_to(relay->target);

    g_assert_cmpuint(relay->n_fds + 2, <=, G_N_ELEMENTS(relay->fds));
    if (destination < 0) {
        close(source);
        return;
    }
    relay->fds[relay->n_fds++] = (struct pollfd){ source, POLLIN, 0 };
    relay->fds[relay->n_fds++] = (struct pollfd){ destination, POLLIN, 0 };
}

/* Returns: FALSE: all are to go. */
static bool relay_forward(Relay *relay, unsigned i)
{
    unsigned other = i ^ 1;
    char buf[16384];
    ssize_t n = read(relay->fds[i].fd, buf, sizeof(buf));

    int to = relay->fds[other].fd < 0 ? ~relay->fds[other].fd : relay->fds[other].fd;

    if (n <= 0) {
        shutdown(to, SHUT_WR);
        /* poll() leaves it out. */
        relay->fds[i].fd = ~relay->fds[i].fd;
        return true;
    }
    if (i % 2 == 0 && atomic_fetch_sub(&relay->left, n) <= n)
        return false;
    /* Who has gone needs no more. */
    if (send(to, buf, (size_t)n, MSG_NOSIGNAL) < 0)
        shutdown(relay->fds[i].fd, SHUT_RD);
    return true;
}

static void *relay_thread(void *opaque)
{
    Relay *relay = opaque;

    for (;;) {
        unsigned n = relay->n_fds;

        g_assert_cmpint(poll(relay->fds, n, -1), >, 0);
        if (relay->fds[1].revents)
            break;
        if (relay->fds[0].revents)
            relay_accept(relay);
        for (unsigned i = 2; i < n; i++) {
            if (relay->fds[i].revents && !relay_forward(relay, i)) {
                relay_hang_up(relay);
                break;
            }
        }
    }
    relay_hang_up(relay);
    return NULL;
}

/* In the way of @target. */
static void relay_start(Relay *relay, const char *directory, const char *target)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    relay->path = g_build_filename(directory, "relay", NULL);
    relay->target = g_strdup(target);
    g_strlcpy(address.sun_path, relay->path, sizeof(address.sun_path));
    relay->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(relay->listener, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(relay->listener, 8), ==, 0);
    relay->stop_fd = kumo_eventfd_new(NULL);
    relay->fds[0] = (struct pollfd){ relay->listener, POLLIN, 0 };
    relay->fds[1] = (struct pollfd){ relay->stop_fd, POLLIN, 0 };
    relay->n_fds = 2;
    atomic_store(&relay->left, INT64_MAX);
    relay->thread = g_thread_new("relay", relay_thread, relay);
}

static void relay_stop(Relay *relay)
{
    kumo_eventfd_signal(relay->stop_fd);
    g_thread_join(relay->thread);
    close(relay->listener);
    close(relay->stop_fd);
    g_unlink(relay->path);
    g_free(relay->path);
    g_free(relay->target);
}

/* --- the hosts --- */

static void count(Fixture *f, unsigned *which)
{
    g_mutex_lock(&f->lock);
    (*which)++;
    g_cond_broadcast(&f->changed);
    g_mutex_unlock(&f->lock);
}

static void wait_for(Fixture *f, const unsigned *which, unsigned n)
{
    int64_t end = g_get_monotonic_time() + FOR_EVER;

    g_mutex_lock(&f->lock);
    while (*which < n)
        g_assert_true(g_cond_wait_until(&f->changed, &f->lock, end));
    g_mutex_unlock(&f->lock);
}

static bool host_stop(void *opaque, GError **error)
{
    return true;
}

static json_t *host_hand_over(void *opaque, GError **error)
{
    return json_object();
}

static void host_throttle(void *opaque, unsigned percent)
{
}

static void host_iteration(void *opaque, unsigned id)
{
}

/* Some of what follows comes. */
static void host_followed(void *opaque)
{
    Fixture *f = opaque;

    atomic_store(&f->relay.left, 200 * 1024);
}

static bool host_is_away(void *opaque)
{
    return ((Fixture *)opaque)->cut_at_go;
}

static void host_broken(void *opaque, const GError *error)
{
    Fixture *f = opaque;

    g_assert_cmpint(atomic_load(&f->pair.sender.progress.phase), ==, KUMO_SEND_BROKEN);
    g_mutex_lock(&f->lock);
    g_clear_error(&f->why);
    f->why = g_error_copy(error);
    g_mutex_unlock(&f->lock);
    count(f, &f->n_source_broken);
}

static void host_recovered(void *opaque)
{
    Fixture *f = opaque;

    count(f, &f->n_source_recovered);
}

static const KumoSendHost send_host = {
    .stop = host_stop,
    .hand_over = host_hand_over,
    .throttle = host_throttle,
    .iteration = host_iteration,
    .followed = host_followed,
    .is_away = host_is_away,
    .broken = host_broken,
    .recovered = host_recovered,
};

static void host_started(void *opaque)
{
}

static bool host_build(void *opaque, const json_t *document, KumoMemory **ret_memory,
                       GError **error)
{
    *ret_memory = ((Fixture *)opaque)->pair.memory;
    return true;
}

static bool host_load(void *opaque, const json_t *state, GError **error)
{
    return true;
}

static bool host_go(void *opaque, bool paused, GError **error)
{
    Fixture *f = opaque;

    if (f->cut_at_go) {
        for (unsigned i = 2; i < f->relay.n_fds; i++)
            shutdown(f->relay.fds[i].fd, SHUT_RDWR);
    }
    f->toucher = migration_pair_touch_all(&f->pair);
    return true;
}

static void host_on_main(void *opaque, void (*func)(void *arg), void *arg)
{
    func(arg);
}

static const KumoReceiveHost receive_host = { host_started, host_build, host_load, host_go,
                                              host_on_main };

static void finished(void *opaque)
{
    count(opaque, &((Fixture *)opaque)->n_finished);
}

static void failed(void *opaque, const GError *error)
{
    count(opaque, &((Fixture *)opaque)->n_failed);
}

static void broken(void *opaque, const GError *error)
{
    count(opaque, &((Fixture *)opaque)->n_broken);
}

static void recovered(void *opaque)
{
    count(opaque, &((Fixture *)opaque)->n_recovered);
}

/* --- one migration --- */

static void *send_thread(void *opaque)
{
    Fixture *f = opaque;

    f->result = migration_pair_send(&f->pair, &f->send_error);
    count(f, &f->n_ended);
    return NULL;
}

/* Up to where the first connections have broken. */
static void set_up(Fixture *f, gconstpointer data)
{
    int how = GPOINTER_TO_INT(data);

    g_mutex_init(&f->lock);
    g_cond_init(&f->changed);
    migration_pair_init(&f->pair, how & SHARED, &send_host, &receive_host, f);
    relay_start(&f->relay, f->pair.directory, f->pair.url + strlen("unix:"));
    f->pair.receiver.postcopy = true;
    f->pair.receiver.watch = (KumoPostcopyWatch){
        .finished = finished, .failed = failed, .broken = broken, .opaque = f
    };
    f->pair.config.memory_mode = KUMO_MEMORY_POSTCOPY;
    f->pair.config.checksum = how & SUMMED;
    f->cut_at_go = how & AT_GO;
    f->pair.config.destination_url = g_strdup_printf("unix:%s", f->relay.path);
    if (how & ZSTD)
        f->pair.config.compression = KUMO_COMPRESSION_ZSTD;
    f->recovery.fd = kumo_eventfd_new(NULL);
    f->pair.sender.recovery = &f->recovery;
    for (uint64_t at = 0; at < 4 * MIB; at += PAGE) {
        uint64_t content[PAGE / sizeof(uint64_t)];

        for (unsigned i = 0; i < G_N_ELEMENTS(content); i++)
            content[i] = (at + i) * 0x9e3779b97f4a7c15ULL;
        g_assert_true(kumo_memory_write(f->pair.source, at, content, sizeof(content)));
    }
    migration_pair_receive(&f->pair);
    f->sender = g_thread_new("send", send_thread, f);
    wait_for(f, &f->n_source_broken, 1);
    migration_pair_wait(&f->pair);
    wait_for(f, &f->n_broken, 1);
    g_assert_true(f->pair.received);
    g_assert_true(kumo_memory_is_incomplete(f->pair.memory));
}

static KumoReceivePostcopy *postcopy_of(Fixture *f)
{
    return kumo_receive_postcopy_of(f->pair.memory);
}

static void *receive_thread(void *opaque)
{
    Fixture *f = opaque;
    bool ok = kumo_receive_recover(&f->receive, &f->receive_error);

    g_assert_true(ok == (f->receive_error == NULL));
    return NULL;
}

static void listen_again(Fixture *f)
{
    g_assert_true(kumo_migration_cancel_init(&f->cancel, NULL));
    g_assert_true(kumo_channel_listen(&f->listener, "url", f->pair.url, NULL));
    f->receive = (KumoReceiveRecovery){ .postcopy = postcopy_of(f),
                                        .listener = &f->listener,
                                        .cancel = &f->cancel,
                                        .on_main = host_on_main,
                                        .recovered = recovered,
                                        .opaque = f };
    f->receiver = g_thread_new("recover", receive_thread, f);
}

static void join_receiver(Fixture *f)
{
    if (!f->receiver)
        return;
    g_thread_join(g_steal_pointer(&f->receiver));
    kumo_channel_listener_close(&f->listener);
    kumo_migration_cancel_clear(&f->cancel);
}

/* The source connects to @path. */
static void connect_again(Fixture *f, const char *url)
{
    KumoSendAttempt *attempt = g_new0(KumoSendAttempt, 1);
    g_autofree char *text = g_strdup_printf("destination_url=%s,recover=on", url);

    attempt->config = kumo_option_parse_send_migration(text, NULL);
    g_assert_nonnull(attempt->config);
    g_assert_null(atomic_exchange(&f->recovery.attempt, attempt));
    atomic_store(&f->pair.sender.progress.phase, KUMO_SEND_RECOVER);
    kumo_eventfd_signal(f->recovery.fd);
}

/* All has come, and is what the source has. */
static void assert_followed(Fixture *f)
{
    wait_for(f, &f->n_finished, 1);
    wait_for(f, &f->n_ended, 1);
    g_thread_join(g_steal_pointer(&f->sender));
    g_assert_no_error(f->send_error);
    g_assert_cmpint(f->result, ==, KUMO_SEND_DONE);
    g_thread_join(g_steal_pointer(&f->toucher));
    g_assert_cmpuint(f->pair.n_differs, ==, 0);
    g_assert_cmpuint(f->n_failed, ==, 0);
    migration_pair_assert_same_memory(&f->pair);
    g_assert_false(kumo_memory_is_incomplete(f->pair.memory));
    g_assert_cmpuint(f->pair.sender.progress.remaining_pages, ==, 0);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    kumo_migration_cancel_force(&f->pair.send_cancel);
    if (f->sender)
        g_thread_join(f->sender);
    if (f->receiver)
        kumo_migration_cancel_force(&f->cancel);
    join_receiver(f);
    if (f->toucher) {
        /* The guest's thread still waits. */
        kumo_userfault_abandon(f->pair.memory->userfault);
        g_thread_join(f->toucher);
    }
    relay_stop(&f->relay);
    g_free(f->pair.config.destination_url);
    migration_pair_clear(&f->pair);
    kumo_fd_clear(&f->recovery.fd);
    g_clear_error(&f->why);
    g_clear_error(&f->send_error);
    g_clear_error(&f->receive_error);
    g_mutex_clear(&f->lock);
    g_cond_clear(&f->changed);
}

static void recover(Fixture *f)
{
    listen_again(f);
    connect_again(f, f->pair.config.destination_url);
    join_receiver(f);
    g_assert_no_error(f->receive_error);
}

/* Twice over the relay, which breaks the second, too; and then to the end. */
static void test_twice(Fixture *f, gconstpointer data)
{
    atomic_store(&f->relay.left, 300 * 1024);
    recover(f);
    wait_for(f, &f->n_source_recovered, 1);
    wait_for(f, &f->n_source_broken, 2);
    wait_for(f, &f->n_broken, 2);
    g_assert_cmpuint(f->n_finished, ==, 0);
    atomic_store(&f->relay.left, INT64_MAX);
    recover(f);
    assert_followed(f);
    g_assert_cmpuint(f->n_recovered, ==, 2);
    g_assert_cmpuint(f->n_broken, ==, 2);
    g_assert_cmpuint(f->n_source_broken, ==, 2);
    g_assert_cmpuint(f->pair.sender.progress.sent_bytes, >, 2 * MIB / (data ? 100 : 1));
}

/* The answer to GO is lost: nevertheless. */
static void test_at_go(Fixture *f, gconstpointer data)
{
    atomic_store(&f->relay.left, INT64_MAX);
    g_assert_nonnull(strstr(f->why->message, "waiting for the answer to GO"));
    recover(f);
    assert_followed(f);
}

/* The guest gives back all that has not come, so that nothing is missing: the source hears that. */
static void test_nothing_missing(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine = f->pair.memory->userfault;
    uint64_t gpa = 0, len;

    atomic_store(&f->relay.left, INT64_MAX);
    for (; kumo_userfault_next_missing(engine, &gpa, &len); gpa += len)
        g_assert_cmpint(kumo_memory_discard(f->pair.memory, gpa, len), ==, 0);
    wait_for(f, &f->n_finished, 1);
    g_assert_true(kumo_receive_postcopy_is_broken(postcopy_of(f)));
    recover(f);
    wait_for(f, &f->n_ended, 1);
    g_assert_cmpint(f->result, ==, KUMO_SEND_DONE);
    g_thread_join(g_steal_pointer(&f->toucher));
}

/* Nobody listens, or somebody else: the source keeps all, and says why. */
static void test_no_destination(Fixture *f, gconstpointer data)
{
    atomic_store(&f->relay.left, INT64_MAX);
    connect_again(f, "unix:/nowhere/socket");
    wait_for(f, &f->n_source_broken, 2);
    g_assert_nonnull(strstr(f->why->message, "/nowhere/socket"));
    /* A destination that waits for a whole machine. */
    f->pair.receiver.listener = &f->listener;
    g_assert_true(kumo_channel_listen(&f->listener, "url", f->pair.url, NULL));
    migration_pair_receive(&f->pair);
    connect_again(f, f->pair.config.destination_url);
    wait_for(f, &f->n_source_broken, 3);
    g_assert_nonnull(strstr(f->why->message, "waits for a VM, not for the memory of one"));
    kumo_migration_cancel_force(&f->pair.cancel);
    migration_pair_wait(&f->pair);
    kumo_channel_listener_close(&f->listener);
    g_clear_error(&f->pair.receive_error);
    recover(f);
    assert_followed(f);
}

/* The migration is ended by force at the source; the destination can still be. */
static void test_given_up(Fixture *f, gconstpointer data)
{
    kumo_migration_cancel_force(&f->pair.send_cancel);
    wait_for(f, &f->n_ended, 1);
    g_assert_cmpint(f->result, ==, KUMO_SEND_CUT_OFF);
    g_assert_nonnull(f->send_error);
    listen_again(f);
    kumo_migration_cancel_set(&f->cancel);
    join_receiver(f);
    g_assert_error(f->receive_error, KUMO_ERROR, KUMO_ERROR_STATE);
    g_assert_true(kumo_receive_postcopy_is_broken(postcopy_of(f)));
}

/* --- hostile peers --- */

static bool open_raw(Fixture *f, KumoChannel *channel)
{
    return kumo_channel_connect(channel, "url", f->pair.url, &f->pair.send_cancel, NULL);
}

/* Says @hello to the destination. Returns: what it answers, or NULL: nothing. */
static GError *say_hello(Fixture *f, KumoChannel *channel, KumoRecordType type, json_t *hello)
{
    GError *error = NULL;

    g_assert_true(open_raw(f, channel));
    g_assert_true(kumo_stream_send(channel, type, hello, -1, NULL));
    kumo_stream_wait_ack(channel, type, NULL, &error);
    return error;
}

static json_t *hello_of(int version, const char *token)
{
    return json_pack("{s:s, s:i, s:b, s:s}", "format", "kumo-migration", "version", version,
                     "recover", true, "token", token);
}

/* Strangers are turned away, and the one who is waited for still gets through. */
static void test_strangers(Fixture *f, gconstpointer data)
{
    const char *token = kumo_receive_postcopy_token(postcopy_of(f));
    g_autofree char *other = g_strdup(token);
    const struct {
        json_t *hello;
        const char *why;
    } rows[] = {
        { json_object(), "does not begin with HELLO" },
        { json_pack("{s:s, s:i, s:s}", "format", "kumo-migration", "version", 1, "token", token),
          "only the rest of the memory" },
        { hello_of(5, token), "version 5" },
        { hello_of(KUMO_STREAM_VERSION + 1, token), "version" },
        { hello_of(KUMO_STREAM_VERSION_RECOVER, ""), "not the source" },
        { hello_of(KUMO_STREAM_VERSION_RECOVER, (other[0] ^= 1, other)), "not the source" },
        { json_pack("{s:s, s:i, s:b}", "format", "kumo-migration", "version",
                    KUMO_STREAM_VERSION_RECOVER, "recover", true),
          "not the source" },
        { json_pack("{s:s, s:i, s:b, s:s, s:s}", "format", "kumo-migration", "version",
                    KUMO_STREAM_VERSION_RECOVER, "recover", true, "token", token, "compression",
                    "lzo"),
          "compression" },
    };
    KumoChannel channel, faults;

    atomic_store(&f->relay.left, INT64_MAX);
    listen_again(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = say_hello(f, &channel, KUMO_RECORD_HELLO, rows[i].hello);

        g_assert_nonnull(error);
        if (!strstr(error->message, rows[i].why))
            g_error("%u: %s", i, error->message);
        kumo_channel_close(&channel);
    }
    g_test_message("no HELLO at all");
    {
        g_autoptr(GError) error = say_hello(f, &channel, KUMO_RECORD_FAULT, json_object());

        g_assert_nonnull(error);
        kumo_channel_close(&channel);
    }
    g_test_message("one who knows the token, and sends nonsense then: it is broken once more");
    {
        g_autoptr(GError) error =
            say_hello(f, &channel, KUMO_RECORD_HELLO, hello_of(KUMO_STREAM_VERSION_RECOVER, token));
        g_autoptr(GError) stranger = NULL;

        g_assert_no_error(error);
        stranger = say_hello(f, &faults, KUMO_RECORD_HELLO,
                             json_pack("{s:i, s:s}", "lane", 1, "token", "another"));
        g_assert_nonnull(stranger);
        kumo_channel_close(&faults);
        error = say_hello(f, &faults, KUMO_RECORD_HELLO,
                          json_pack("{s:i, s:s}", "lane", 1, "token", token));
        g_assert_no_error(error);
        join_receiver(f);
        g_assert_no_error(f->receive_error);
        kumo_stream_send(&faults, KUMO_RECORD_GO, json_object(), -1, NULL);
        wait_for(f, &f->n_broken, 2);
        kumo_channel_close(&channel);
        kumo_channel_close(&faults);
    }
    recover(f);
    assert_followed(f);
}

typedef enum {
    SAYS_NO,
    SENDS_DATA,
    SENDS_ZEROS,
    NAMES_NO_RAM,
    NAMES_TOO_MUCH,
    SENDS_ANOTHER,
    GOES,
    LIES,
} Lie;

static void send_run(KumoChannel *channel, KumoMemory *memory, uint64_t gpa, uint32_t n,
                     KumoPagesKind kind)
{
    g_autofree KumoPagesWriter *writer = g_new0(KumoPagesWriter, 1);

    writer->channel = channel;
    writer->memory = memory;
    writer->runs[writer->n_runs++] = (KumoPagesRun){ gpa, n, kind };
    writer->n_data = kind == KUMO_PAGES_DATA ? n : 0;
    kumo_pages_flush(writer, NULL);
}

static void take_hello(KumoChannel *channel, const char *what)
{
    g_auto(KumoRecord) record = KUMO_RECORD_INIT;

    g_assert_true(kumo_stream_receive(channel, &record, NULL));
    g_assert_cmpint(record.type, ==, KUMO_RECORD_HELLO);
    g_assert_nonnull(json_object_get(record.document, what));
    g_assert_true(kumo_stream_acknowledge(channel, KUMO_RECORD_HELLO, NULL, NULL));
}

/* A destination that lies to a source that comes again. */
static void lie(Fixture *f, Lie how)
{
    g_autoptr(GError) no = g_error_new(KUMO_ERROR, KUMO_ERROR_IO, "a lie");
    KumoChannel channel, faults;

    g_assert_true(kumo_channel_accept(&channel, &f->listener, &f->cancel, NULL));
    if (how == SAYS_NO) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        g_assert_true(kumo_stream_receive(&channel, &record, NULL));
        kumo_stream_acknowledge(&channel, KUMO_RECORD_HELLO, no, NULL);
        kumo_channel_close(&channel);
        return;
    }
    take_hello(&channel, "recover");
    g_assert_true(kumo_channel_accept(&faults, &f->listener, &f->cancel, NULL));
    take_hello(&faults, "lane");
    if (how == SENDS_DATA)
        send_run(&channel, f->pair.source, 0, 1, KUMO_PAGES_DATA);
    else if (how == SENDS_ZEROS)
        send_run(&channel, f->pair.source, 0, 1, KUMO_PAGES_ZERO);
    else if (how == NAMES_NO_RAM)
        send_run(&channel, f->pair.source, 8 * MIB, 1, KUMO_PAGES_MISSING);
    else if (how == SENDS_ANOTHER)
        kumo_stream_send(&channel, KUMO_RECORD_WHOLE, json_object(), -1, NULL);
    for (unsigned i = 0; how == NAMES_TOO_MUCH && i < 3; i++)
        send_run(&channel, f->pair.source, 0, 5 * MIB / PAGE, KUMO_PAGES_MISSING);
    if (how != GOES) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        g_assert_false(kumo_stream_receive(&channel, &record, NULL));
    }
    kumo_channel_close(&channel);
    kumo_channel_close(&faults);
}

static void test_liars(Fixture *f, gconstpointer data)
{
    static const char *const why[LIES] = {
        [SAYS_NO] = "a lie",
        [SENDS_DATA] = "has none for the source",
        [SENDS_ZEROS] = "has none for the source",
        [NAMES_NO_RAM] = "are no RAM",
        [NAMES_TOO_MUCH] = "more than all of its memory",
        [SENDS_ANOTHER] = "WHOLE: has no place",
        [GOES] = "closed the connection",
    };

    atomic_store(&f->relay.left, INT64_MAX);
    for (Lie how = 0; how < LIES; how++) {
        g_test_message("%d", how);
        g_assert_true(kumo_migration_cancel_init(&f->cancel, NULL));
        g_assert_true(kumo_channel_listen(&f->listener, "url", f->pair.url, NULL));
        connect_again(f, f->pair.url);
        lie(f, how);
        wait_for(f, &f->n_source_broken, 2 + how);
        if (!strstr(f->why->message, why[how]))
            g_error("%u: %s", how, f->why->message);
        kumo_channel_listener_close(&f->listener);
        kumo_migration_cancel_clear(&f->cancel);
    }
    g_assert_cmpuint(f->n_source_recovered, ==, 0);
    recover(f);
    assert_followed(f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!kumo_userfault_check(NULL)) {
        g_test_message("this host has no userfaultfd");
        return 77;
    }
#define ADD(name, data, func)                                                                      \
    g_test_add("/postcopy-recover/" name, Fixture, GINT_TO_POINTER(data), set_up, func, tear_down)
    ADD("twice", 0, test_twice);
    ADD("twice/shared", SHARED, test_twice);
    ADD("twice/compressed", ZSTD, test_twice);
    ADD("twice/summed", SUMMED, test_twice);
    ADD("twice/summed-compressed", SUMMED | ZSTD, test_twice);
    ADD("at-go", AT_GO, test_at_go);
    ADD("nothing-missing", 0, test_nothing_missing);
    ADD("no-destination", 0, test_no_destination);
    ADD("given-up", 0, test_given_up);
    ADD("hostile/source", 0, test_strangers);
    ADD("hostile/destination", 0, test_liars);
#undef ADD
    return g_test_run();
}
