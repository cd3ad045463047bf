/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the other side of a migration may send, to either end, or not send at all. */
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

static void set_up(Fixture *f, gconstpointer data)
{
    migration_pair_init(f, false, NULL, NULL, NULL);
    migration_pair_receive(f);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    migration_pair_clear(f);
}

static bool connect_raw(Fixture *f, KumoChannel *channel)
{
    return kumo_channel_connect(channel, "url", f->url, &f->send_cancel, NULL);
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
    migration_pair_wait(f);
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
    g_assert_cmpint(migration_pair_send(f, NULL), ==, KUMO_SEND_DONE);
    migration_pair_wait(f);
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
        g_assert_cmpint(migration_pair_send(&f, &error), ==,
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
    g_assert_cmpint(migration_pair_send(&f, &error), ==, KUMO_SEND_FAILED);
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
    migration_pair_wait(f);
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
    migration_pair_wait(f);
    kumo_stream_send(&channel, KUMO_RECORD_GO, json_object(), -1, NULL);
    g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_GO, &refused, &error));
    g_assert_true(refused);
    g_assert_nonnull(strstr(error->message, "called off"));
    kumo_channel_close(&channel);
}

/* Behind GO the destination has the machine. */
static void test_cancel_behind_go(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(migration_pair_send(f, NULL), ==, KUMO_SEND_DONE);
    migration_pair_wait(f);
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
    migration_pair_wait(f);
    g_assert_no_error(f->receive_error);
    g_assert_cmpstr(
        f->calls->str, ==,
        "started build round0 round1 round2 round3 round4 round5 stop hand-over load go ");
    migration_pair_assert_same_memory(f);
    migration_pair_assert_log_off(f);
    g_assert_cmpuint(f->sender.progress.data_pages, >=, 5 * (2 * MIB / PAGE));
}

static void test_lanes_paused(Fixture *f, gconstpointer data)
{
    f->config.connections = 3;
    f->sender.paused = true;
    g_assert_cmpint(kumo_send_run(&f->sender, NULL), ==, KUMO_SEND_DONE);
    migration_pair_wait(f);
    g_assert_true(f->received);
    migration_pair_assert_same_memory(f);
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
        migration_pair_wait(&f);
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
    ADD("lanes/2", GUINT_TO_POINTER(2), set_up, test_lanes);
    ADD("lanes/16", GUINT_TO_POINTER(16), set_up, test_lanes);
    ADD("lanes/paused", NULL, set_up, test_lanes_paused);
    ADD("stranger", NULL, set_up, test_stranger);
    ADD("silent/source", NULL, set_up, test_silent_source);
    ADD("cancel/before-go", NULL, set_up, test_cancel_before_go);
    ADD("cancel/behind-go", NULL, set_up, test_cancel_behind_go);
#undef ADD
    g_test_add_func("/migration/silent/destination", test_silent_destination);
    g_test_add_func("/migration/silent/refused", test_refused_before_go);
    g_test_add_func("/migration/hostile/pages", test_hostile_pages);
    g_test_add_func("/migration/hostile/connections", test_hostile_connections);
    g_test_add_func("/migration/hostile/lanes", test_hostile_lanes);
    g_test_add_func("/migration/hostile/records", test_hostile_records);
    return g_test_run();
}
