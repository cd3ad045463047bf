/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that follows a machine: both ends in one process, and what a hostile peer may send to
 * either. */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/fakes/migration_pair.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/stream.h"

#define MIB       MIGRATION_PAIR_MIB
#define RAM_BYTES (8 * MIB)
#define PAGE      4096ULL
#define TOKEN     "0123456789abcdef"
#define FOR_EVER  (30 * G_TIME_SPAN_SECOND)

typedef struct {
    MigrationPair pair;
    GThread *toucher;
    unsigned switch_round;                /* in which the rest is told to follow */
    bool load_touches;                    /* the state is loaded from memory that is missing */
    bool idle;                            /* the guest touches nothing */
    const char *fail;                     /* the step that does */
    void (*when_followed)(void *fixture); /* what the source does while memory follows */
    unsigned n_load_differs;
    GMutex lock;
    GCond changed;
    unsigned n_finished, n_failed; /* under lock */
    GError *lost;
} Fixture;

static bool called(const Fixture *f, const char *what, GError **error)
{
    if (g_strcmp0(f->fail, what) != 0)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s was told to fail", what);
    return false;
}

/* --- the hosts --- */

static bool host_stop(void *opaque, GError **error)
{
    Fixture *f = opaque;

    migration_pair_guest_writes(&f->pair, 16 * MIB, 0x77, 3 * PAGE);
    migration_pair_guest_writes(&f->pair, MIB, 0, PAGE);
    g_assert_true(kumo_memory_write(f->pair.source, 2 * MIB + 5, "device", 6));
    return called(f, "stop", error);
}

static json_t *host_hand_over(void *opaque, GError **error)
{
    Fixture *f = opaque;

    if (g_strcmp0(f->fail, "cancel") == 0)
        g_assert_true(kumo_migration_cancel_set(&f->pair.send_cancel));
    return called(f, "hand-over", error) ? json_pack("{s:s}", "a", "state") : NULL;
}

static void host_throttle(void *opaque, unsigned percent)
{
}

static void host_iteration(void *opaque, unsigned id)
{
    Fixture *f = opaque;

    migration_pair_guest_writes(&f->pair, 0, (uint8_t)(id + 1), 2 * MIB);
    if (id == f->switch_round)
        atomic_store(&f->pair.sender.start_postcopy, true);
}

static void host_followed(void *opaque)
{
    Fixture *f = opaque;

    g_assert_false(kumo_migration_cancel_set(&f->pair.send_cancel));
    g_assert_cmpint(atomic_load(&f->pair.sender.progress.phase), ==, KUMO_SEND_POSTCOPY);
    if (f->when_followed)
        f->when_followed(f);
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
}

static bool host_build(void *opaque, const json_t *document, KumoMemory **ret_memory,
                       GError **error)
{
    Fixture *f = opaque;

    *ret_memory = f->pair.memory;
    return called(f, "build", error);
}

static bool host_load(void *opaque, const json_t *state, GError **error)
{
    Fixture *f = opaque;

    if (f->load_touches)
        f->n_load_differs += memcmp(f->pair.memory->regions[0].hva + 2 * MIB,
                                    f->pair.source->regions[0].hva + 2 * MIB, PAGE) != 0;
    return called(f, "load", error);
}

static bool host_go(void *opaque, bool paused, GError **error)
{
    Fixture *f = opaque;

    if (!called(f, "go", error))
        return false;
    if (!f->when_followed)
        f->toucher = f->idle ? NULL : migration_pair_touch_all(&f->pair);
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
    Fixture *f = opaque;

    g_mutex_lock(&f->lock);
    f->n_finished++;
    g_cond_broadcast(&f->changed);
    g_mutex_unlock(&f->lock);
}

static void failed(void *opaque, const GError *error)
{
    Fixture *f = opaque;

    g_mutex_lock(&f->lock);
    f->n_failed++;
    f->lost = g_error_copy(error);
    g_cond_broadcast(&f->changed);
    g_mutex_unlock(&f->lock);
}

/* Until memory is whole or lost. */
static void wait_memory(Fixture *f)
{
    int64_t end = g_get_monotonic_time() + FOR_EVER;

    g_mutex_lock(&f->lock);
    while (f->n_finished + f->n_failed == 0)
        g_assert_true(g_cond_wait_until(&f->changed, &f->lock, end));
    g_mutex_unlock(&f->lock);
}

/* --- one migration --- */

static void set_up(Fixture *f, gconstpointer data)
{
    g_mutex_init(&f->lock);
    g_cond_init(&f->changed);
    f->switch_round = UINT_MAX;
    migration_pair_init(&f->pair, GPOINTER_TO_INT(data), &send_host, &receive_host, f);
    f->pair.receiver.postcopy = true;
    f->pair.receiver.watch = (KumoPostcopyWatch){
        .finished = finished, .failed = failed, .broken = failed, .opaque = f
    };
    f->pair.config.memory_mode = KUMO_MEMORY_POSTCOPY;
    migration_pair_guest_writes(&f->pair, MIB, 0x22, 2 * MIB);
    migration_pair_receive(&f->pair);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    kumo_migration_cancel_set(&f->pair.cancel);
    migration_pair_wait(&f->pair);
    if (f->toucher)
        g_thread_join(f->toucher);
    migration_pair_clear(&f->pair);
    g_clear_error(&f->lost);
    g_mutex_clear(&f->lock);
    g_cond_clear(&f->changed);
}

static void run_sender(Fixture *f, KumoSendResult expected)
{
    g_autoptr(GError) error = NULL;
    KumoSendResult result;

    result = migration_pair_send(&f->pair, &error);
    if (result != expected)
        g_error("ended with %d instead of %d: %s", result, expected,
                error ? error->message : "no error");
}

/* What the guest found is what the source has, and so is the rest. */
static void assert_followed(Fixture *f)
{
    migration_pair_wait(&f->pair);
    g_assert_no_error(f->pair.receive_error);
    g_assert_true(f->pair.received);
    wait_memory(f);
    g_assert_cmpuint(f->n_failed, ==, 0);
    if (f->toucher)
        g_thread_join(g_steal_pointer(&f->toucher));
    g_assert_cmpuint(f->pair.n_differs, ==, 0);
    g_assert_cmpuint(f->n_load_differs, ==, 0);
    migration_pair_assert_same_memory(&f->pair);
    g_assert_false(kumo_memory_is_incomplete(f->pair.memory));
    g_assert_cmpuint(f->pair.sender.progress.remaining_pages, ==, 0);
    g_assert_cmpuint(f->pair.sender.progress.downtime_us, >, 0);
}

static void test_all(Fixture *f, gconstpointer data)
{
    f->load_touches = true;
    run_sender(f, KUMO_SEND_DONE);
    assert_followed(f);
    g_assert_cmpuint(f->pair.sender.progress.iterations, ==, 0);
    g_assert_cmpuint(f->pair.sender.progress.page_requests, >, 0);
    /* Each page goes once. 10 pages, 2 MiB without the page that became zeros, 1 page, 3 pages. */
    g_assert_cmpuint(f->pair.sender.progress.data_pages, <=, 10 + 511 + 1 + 3);
}

/* 2 MiB at 8 MiB/s. */
static void test_bandwidth(Fixture *f, gconstpointer data)
{
    int64_t start_us = g_get_monotonic_time();

    f->idle = true;
    f->pair.sender.max_postcopy_bandwidth = 8 * MIB;
    run_sender(f, KUMO_SEND_DONE);
    assert_followed(f);
    g_assert_cmpint(g_get_monotonic_time() - start_us, >, 100 * 1000);
}

static void *lift_limit(void *opaque)
{
    Fixture *f = opaque;

    g_usleep(50 * 1000);
    atomic_store(&f->pair.sender.max_postcopy_bandwidth, 0);
    return NULL;
}

static void test_bandwidth_changed(Fixture *f, gconstpointer data)
{
    int64_t start_us = g_get_monotonic_time();
    GThread *thread;

    f->idle = true;
    f->pair.sender.max_postcopy_bandwidth = 1; /* a piece each second */
    thread = g_thread_new("lift", lift_limit, f);
    run_sender(f, KUMO_SEND_DONE);
    g_thread_join(thread);
    assert_followed(f);
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 5 * G_USEC_PER_SEC);
}

static void test_paused(Fixture *f, gconstpointer data)
{
    f->pair.sender.paused = true;
    f->pair.sender.progress.downtime_us = 1;
    run_sender(f, KUMO_SEND_DONE);
    assert_followed(f);
}

static void test_compressed(Fixture *f, gconstpointer data)
{
    f->pair.config.compression = KUMO_COMPRESSION_ZSTD;
    f->pair.config.connections = 3;
    run_sender(f, KUMO_SEND_DONE);
    assert_followed(f);
}

/* First rounds, then the rest, of which the destination has an older content. */
static void test_switched(Fixture *f, gconstpointer data)
{
    f->pair.config.memory_mode = KUMO_MEMORY_HYBRID;
    f->pair.config.connections = GPOINTER_TO_UINT(data) ? 4 : 1;
    f->pair.config.downtime_ms = 0;
    f->switch_round = 2;
    f->load_touches = true;
    run_sender(f, KUMO_SEND_DONE);
    assert_followed(f);
    g_assert_cmpuint(f->pair.sender.progress.iterations, ==, 3);
}

/* It is soon enough without: no memory follows. */
static void test_not_switched(Fixture *f, gconstpointer data)
{
    f->pair.config.memory_mode = KUMO_MEMORY_HYBRID;
    f->pair.config.downtime_ms = 10000;
    run_sender(f, KUMO_SEND_DONE);
    migration_pair_wait(&f->pair);
    g_assert_true(f->pair.received);
    g_thread_join(g_steal_pointer(&f->toucher));
    g_assert_cmpuint(f->pair.n_differs, ==, 0);
    g_assert_null(f->pair.memory->userfault);
    g_assert_cmpuint(f->n_finished + f->n_failed, ==, 0);
}

/* Until GO, a failure leaves the machine with the source. */
static void test_failures(void)
{
    static const char *const steps[] = { "build", "stop", "hand-over", "cancel", "load", "go" };

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        Fixture f = { .fail = steps[i], .load_touches = true };

        set_up(&f, NULL);
        run_sender(&f, KUMO_SEND_FAILED);
        migration_pair_wait(&f.pair);
        g_assert_false(f.pair.received);
        g_assert_nonnull(f.pair.receive_error);
        g_assert_cmpuint(f.n_finished + f.n_failed, ==, 0);
        tear_down(&f, NULL);
    }
}

static void source_dies(void *fixture)
{
    kumo_migration_cancel_force(&((Fixture *)fixture)->pair.send_cancel);
}

/* The source ends while memory follows: both know, and nobody takes pages for zeros. */
static void test_source_dies(Fixture *f, gconstpointer data)
{
    f->when_followed = source_dies;
    run_sender(f, KUMO_SEND_CUT_OFF);
    migration_pair_wait(&f->pair);
    g_assert_true(f->pair.received);
    wait_memory(f);
    g_assert_cmpuint(f->n_failed, ==, 1);
    g_assert_cmpuint(f->n_finished, ==, 0);
    g_assert_true(kumo_memory_is_incomplete(f->pair.memory));
}

static void machine_ends(void *fixture)
{
    Fixture *f = fixture;

    migration_pair_wait(&f->pair);
    kumo_memory_free(g_steal_pointer(&f->pair.memory));
}

/* The destination's machine ends, as by a reset, before all has come: the source may go. */
static void test_machine_ends(Fixture *f, gconstpointer data)
{
    f->when_followed = machine_ends;
    run_sender(f, KUMO_SEND_DONE);
    g_assert_true(f->pair.received);
    g_assert_cmpuint(f->n_failed, ==, 0);
    f->pair.memory = migration_pair_new_memory(f->pair.vm, false);
}

static void test_not_allowed(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->pair.receiver.postcopy = false;
    g_assert_cmpint(kumo_send_run(&f->pair.sender, &error), ==, KUMO_SEND_FAILED);
    g_assert_nonnull(strstr(error->message, "was not told that it may"));
}

/* --- a destination that lies --- */

typedef struct {
    Fixture *f;
    const char *units; /* of its memory, in JSON */
    const char *fault; /* what it asks for, in JSON; NULL: something that is no request */
    bool acknowledges; /* up to GO */
} Liar;

static void answer(KumoChannel *channel, KumoRecordType expected, json_t *more)
{
    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        if (!kumo_stream_receive(channel, &record, NULL))
            break;
        if (record.type == KUMO_RECORD_PAGES) {
            g_autofree void *payload = g_malloc(record.length);

            kumo_channel_read(channel, payload, record.length, NULL, NULL);
            continue;
        }
        g_assert_cmpint(record.type, ==, expected);
        kumo_stream_acknowledge_with(channel, expected, more, NULL);
        return;
    }
    json_decref(more);
}

static void *liar_thread(void *opaque)
{
    Liar *liar = opaque;
    Fixture *f = liar->f;
    KumoChannel channel, faults;
    json_t *units = json_pack("{s:o}", "units", json_loads(liar->units, JSON_DECODE_ANY, NULL));

    g_assert_true(kumo_channel_accept(&channel, &f->pair.listener, &f->pair.cancel, NULL));
    answer(&channel, KUMO_RECORD_HELLO, json_object());
    g_assert_true(kumo_channel_accept(&faults, &f->pair.listener, &f->pair.cancel, NULL));
    answer(&faults, KUMO_RECORD_HELLO, json_object());
    answer(&channel, KUMO_RECORD_CONFIG, units);
    if (liar->acknowledges) {
        answer(&channel, KUMO_RECORD_POSTCOPY, json_object());
        answer(&channel, KUMO_RECORD_STATE, json_object());
        answer(&channel, KUMO_RECORD_GO, json_object());
        if (liar->fault)
            kumo_stream_send(&faults, KUMO_RECORD_FAULT, json_loads(liar->fault, 0, NULL), -1,
                             NULL);
        else
            kumo_stream_send(&faults, KUMO_RECORD_GO, json_object(), -1, NULL);
    }
    answer(&channel, KUMO_RECORD_GO, json_object()); /* until it hangs up */
    kumo_channel_close(&channel);
    kumo_channel_close(&faults);
    return NULL;
}

static void test_liar(void)
{
    static const Liar rows[] = {
        { .units = "null" },
        { .units = "[7]" },
        { .units = "[[0, 8388608]]" },
        { .units = "[[0, 8388608, 0]]" },
        { .units = "[[0, 8388608, 12288]]" },
        { .units = "[[0, 8388608, 4294967296]]" },
        { .units = "[[-4096, 8388608, 4096]]" },
        { .units = "[[0, 4096, 8192]]" },
        { .units = "[]", .acknowledges = true },
        { .units = "[[0, 8388608, 2097152], [4096, 1073741824, 1073741824]]",
          .fault = "{\"gpa\": 0, \"len\": 0}",
          .acknowledges = true },
        { .units = "[]", .fault = "{\"gpa\": 0, \"len\": -4096}", .acknowledges = true },
        { .units = "[]", .fault = "{\"gpa\": 1, \"len\": 4096}", .acknowledges = true },
        { .units = "[]", .fault = "{\"gpa\": 8388608, \"len\": 4096}", .acknowledges = true },
        { .units = "[]",
          .fault = "{\"gpa\": 4096, \"len\": 9223372036854771712}",
          .acknowledges = true },
        { .units = "[]", .fault = "{\"gpa\": \"0\"}", .acknowledges = true },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        Fixture f = { 0 };
        Liar liar = rows[i];
        GThread *thread;

        set_up(&f, NULL);
        migration_pair_take_over(&f.pair);
        liar.f = &f;
        thread = g_thread_new("liar", liar_thread, &liar);
        run_sender(&f, liar.acknowledges ? KUMO_SEND_CUT_OFF : KUMO_SEND_FAILED);
        g_thread_join(thread);
        tear_down(&f, NULL);
    }
}

/* --- a source that lies --- */

static json_t *new_hello(void)
{
    return json_pack("{s:s, s:i, s:b, s:s}", "format", "kumo-migration", "version",
                     KUMO_STREAM_VERSION, "postcopy", 1, "token", TOKEN);
}

static bool send_runs(KumoChannel *channel, KumoMemory *memory, uint64_t gpa, unsigned n,
                      KumoPagesKind kind)
{
    g_autofree KumoPagesWriter *writer = g_new0(KumoPagesWriter, 1);

    writer->channel = channel;
    writer->memory = memory;
    for (unsigned i = 0; i < n; i++) {
        if (!kumo_pages_add(writer, gpa + i * PAGE, kind, NULL))
            return false;
    }
    return kumo_pages_flush(writer, NULL);
}

/* Brings @f's destination to where memory follows; then the source of @channel and @faults lies. */
static void begin_raw(Fixture *f, KumoChannel *channel, KumoChannel *faults, bool postcopy)
{
    json_t *lane = json_pack("{s:s, s:i, s:i, s:s}", "format", "kumo-migration", "version",
                             KUMO_STREAM_VERSION, "lane", 1, "token", TOKEN);

    g_assert_true(kumo_channel_connect(channel, "url", f->pair.url, &f->pair.send_cancel, NULL));
    g_assert_true(kumo_stream_send(channel, KUMO_RECORD_HELLO, new_hello(), -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, KUMO_RECORD_HELLO, NULL, NULL));
    g_assert_true(kumo_channel_connect(faults, "url", f->pair.url, &f->pair.send_cancel, NULL));
    g_assert_true(kumo_stream_send(faults, KUMO_RECORD_HELLO, lane, -1, NULL));
    g_assert_true(kumo_stream_wait_ack(faults, KUMO_RECORD_HELLO, NULL, NULL));
    g_assert_true(kumo_stream_send(channel, KUMO_RECORD_CONFIG, json_object(), -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, KUMO_RECORD_CONFIG, NULL, NULL));
    g_assert_true(send_runs(channel, f->pair.source, MIB, 16, KUMO_PAGES_MISSING));
    if (!postcopy)
        return;
    g_assert_true(kumo_stream_send(channel, KUMO_RECORD_POSTCOPY, json_object(), -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, KUMO_RECORD_POSTCOPY, NULL, NULL));
}

static void tell(KumoChannel *channel, KumoRecordType type, json_t *document)
{
    g_assert_true(kumo_stream_send(channel, type, document, -1, NULL));
    g_assert_true(kumo_stream_wait_ack(channel, type, NULL, NULL));
}

static void end_raw(Fixture *f, KumoChannel *channel, KumoChannel *faults)
{
    kumo_channel_close(channel);
    kumo_channel_close(faults);
    migration_pair_wait(&f->pair);
}

static void nothing(void *fixture)
{
}

static void test_lying_source(Fixture *f, gconstpointer data)
{
    enum { TWICE, PAGES_EARLY, MISSING_LATE, OTHER_RECORD, HANGS_UP, LIES } how;
    KumoChannel channel, faults;

    for (how = TWICE; how < LIES; how++) {
        Fixture own = { .when_followed = nothing };
        bool gone = how >= MISSING_LATE;

        set_up(&own, NULL);
        begin_raw(&own, &channel, &faults, how != PAGES_EARLY);
        if (how == TWICE)
            kumo_stream_send(&channel, KUMO_RECORD_POSTCOPY, json_object(), -1, NULL);
        else if (how == PAGES_EARLY) /* the connection for faults is not for the first pages */
            send_runs(&faults, own.pair.source, MIB, 1, KUMO_PAGES_DATA);
        if (gone) {
            tell(&channel, KUMO_RECORD_STATE, json_object());
            tell(&channel, KUMO_RECORD_GO, json_object());
            migration_pair_wait(&own.pair);
        }
        if (how == MISSING_LATE)
            send_runs(&channel, own.pair.source, 2 * MIB, 1, KUMO_PAGES_MISSING);
        else if (how == OTHER_RECORD)
            kumo_stream_send(&faults, KUMO_RECORD_GO, json_object(), -1, NULL);
        if (how == MISSING_LATE || how == OTHER_RECORD)
            wait_memory(&own);
        end_raw(&own, &channel, &faults);
        g_assert_true(own.pair.received == gone);
        if (gone)
            wait_memory(&own);
        g_assert_cmpuint(own.n_failed, ==, gone);
        tear_down(&own, NULL);
    }
}

/* A page that the state is loaded from does not come: whoever waits for it goes on, and the source
 * is told that there is no machine. */
static void test_silent_in_load(Fixture *f, gconstpointer data)
{
    KumoChannel channel, faults;
    g_autoptr(GError) error = NULL;
    bool refused = false;

    f->when_followed = nothing;
    f->load_touches = true;
    f->pair.receiver.watch.timeout_s = 1;
    begin_raw(f, &channel, &faults, false);
    g_assert_true(send_runs(&channel, f->pair.source, 2 * MIB, 16, KUMO_PAGES_MISSING));
    g_assert_true(kumo_stream_send(&channel, KUMO_RECORD_POSTCOPY, json_object(), -1, NULL));
    g_assert_true(kumo_stream_wait_ack(&channel, KUMO_RECORD_POSTCOPY, NULL, NULL));
    g_assert_true(kumo_stream_send(&channel, KUMO_RECORD_STATE, json_object(), -1, NULL));
    g_assert_false(kumo_stream_wait_ack(&channel, KUMO_RECORD_STATE, &refused, &error));
    g_assert_true(refused);
    g_assert_nonnull(strstr(error->message, "waiting for pages that follow"));
    migration_pair_wait(&f->pair);
    g_assert_false(f->pair.received);
    g_assert_cmpuint(f->n_failed, ==, 0);
    end_raw(f, &channel, &faults);
}

/* The source is waited for as long as nobody needs a page, and given up when somebody does. */
static void test_silent_behind_go(Fixture *f, gconstpointer data)
{
    KumoChannel channel, faults;

    f->when_followed = nothing;
    f->pair.receiver.watch.timeout_s = 1;
    begin_raw(f, &channel, &faults, true);
    tell(&channel, KUMO_RECORD_STATE, json_object());
    tell(&channel, KUMO_RECORD_GO, json_object());
    migration_pair_wait(&f->pair);
    g_usleep(2500000);
    g_mutex_lock(&f->lock);
    g_assert_cmpuint(f->n_failed, ==, 0);
    g_mutex_unlock(&f->lock);
    f->toucher = migration_pair_touch_all(&f->pair);
    wait_memory(f);
    g_assert_cmpuint(f->n_failed, ==, 1);
    g_assert_nonnull(strstr(f->lost->message, "waiting for pages that follow"));
    /* The guest's thread still waits. */
    kumo_userfault_abandon(f->pair.memory->userfault);
    end_raw(f, &channel, &faults);
}

typedef struct {
    Fixture *f;
    GThread *thread;
} Stopped;

/* A destination that takes what comes and never says that it has all. */
static void *stopped_thread(void *opaque)
{
    Fixture *f = ((Stopped *)opaque)->f;
    KumoChannel channel, faults;
    json_t *units = json_pack("{s:[]}", "units");

    g_assert_true(kumo_channel_accept(&channel, &f->pair.listener, &f->pair.cancel, NULL));
    answer(&channel, KUMO_RECORD_HELLO, json_object());
    g_assert_true(kumo_channel_accept(&faults, &f->pair.listener, &f->pair.cancel, NULL));
    answer(&faults, KUMO_RECORD_HELLO, json_object());
    answer(&channel, KUMO_RECORD_CONFIG, units);
    answer(&channel, KUMO_RECORD_POSTCOPY, json_object());
    answer(&channel, KUMO_RECORD_STATE, json_object());
    answer(&channel, KUMO_RECORD_GO, json_object());
    answer(&channel, KUMO_RECORD_GO, json_object()); /* until it hangs up */
    kumo_channel_close(&channel);
    kumo_channel_close(&faults);
    return NULL;
}

static void test_silent_destination(void)
{
    Fixture f = { 0 };
    Stopped stopped = { .f = &f };
    g_autoptr(GError) error = NULL;

    set_up(&f, NULL);
    migration_pair_take_over(&f.pair);
    f.pair.config.peer_timeout_s = 1;
    stopped.thread = g_thread_new("stopped", stopped_thread, &stopped);
    g_assert_cmpint(kumo_send_run(&f.pair.sender, &error), ==, KUMO_SEND_CUT_OFF);
    g_assert_nonnull(strstr(error->message, "has said nothing for"));
    g_thread_join(stopped.thread);
    tear_down(&f, NULL);
}

/* What has come is never written again. */
static void test_page_twice(Fixture *f, gconstpointer data)
{
    KumoChannel channel, faults;
    uint8_t *page = f->pair.memory->regions[0].hva + MIB;

    f->when_followed = nothing;
    begin_raw(f, &channel, &faults, true);
    tell(&channel, KUMO_RECORD_STATE, json_object());
    tell(&channel, KUMO_RECORD_GO, json_object());
    migration_pair_wait(&f->pair);
    g_assert_true(send_runs(&channel, f->pair.source, MIB, 1, KUMO_PAGES_DATA));
    g_assert_cmpuint(*(volatile uint8_t *)page, ==, 0x22);
    *page = 0x99; /* the guest */
    g_assert_true(send_runs(&channel, f->pair.source, MIB, 1, KUMO_PAGES_DATA));
    g_assert_true(send_runs(&faults, f->pair.source, MIB, 1, KUMO_PAGES_ZERO));
    g_assert_true(send_runs(&channel, f->pair.source, MIB + PAGE, 15, KUMO_PAGES_DATA));
    wait_memory(f);
    g_assert_cmpuint(f->n_finished, ==, 1);
    g_assert_cmpuint(*page, ==, 0x99);
    end_raw(f, &channel, &faults);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!kumo_userfault_check(NULL)) {
        g_test_message("this host has no userfaultfd");
        return 77;
    }
#define ADD(name, data, func) g_test_add("/postcopy/" name, Fixture, data, set_up, func, tear_down)
    ADD("all", GINT_TO_POINTER(0), test_all);
    ADD("all/shared", GINT_TO_POINTER(1), test_all);
    ADD("bandwidth", NULL, test_bandwidth);
    ADD("bandwidth-changed", NULL, test_bandwidth_changed);
    ADD("paused", NULL, test_paused);
    ADD("compressed", NULL, test_compressed);
    ADD("switched", NULL, test_switched);
    ADD("switched/connections", GINT_TO_POINTER(1), test_switched);
    ADD("not-switched", NULL, test_not_switched);
    ADD("source-dies", NULL, test_source_dies);
    ADD("machine-ends", NULL, test_machine_ends);
    ADD("not-allowed", NULL, test_not_allowed);
    ADD("hostile/source", NULL, test_lying_source);
    ADD("hostile/page-twice", NULL, test_page_twice);
    ADD("silent/source/load", NULL, test_silent_in_load);
    ADD("silent/source/behind-go", NULL, test_silent_behind_go);
#undef ADD
    g_test_add_func("/postcopy/failures", test_failures);
    g_test_add_func("/postcopy/hostile/destination", test_liar);
    g_test_add_func("/postcopy/silent/destination", test_silent_destination);
    return g_test_run();
}
