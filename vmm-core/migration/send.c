/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/send.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>

#include "kumo-build.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/send_pages.h"
#include "vmm-core/migration/send_postcopy.h"
#include "vmm-core/migration/send_recover.h"
#include "vmm-core/migration/stream.h"

enum {
    PAGE = KUMO_STREAM_PAGE_BYTES,
    MEASURED_BYTES = 1 << 20, /* what a round has to send at least to tell how fast it goes */
    TOKEN_BYTES = 16,
    THROTTLE_MAX_PERCENT = 99,
    REFUSAL_PATIENCE_MS = 500,
    THROTTLE_ROUNDS = 2, /* in which the guest has to write too much before it is slowed down */
};

typedef struct {
    KumoSender *sender;
    KumoChannel *channels; /* the first has all records, the others only pages, */
    unsigned n_channels;
    unsigned n_lanes; /* but for what is behind these: over which pages are asked for */
    json_t *units;    /* what the destination's memory is made of; NULL without post-copy */
    bool switching;   /* what has not been sent follows */
    bool summed;      /* pages go with their checksum */
    KumoSendPages *pages;
    char *token;          /* by which the other connections are known */
    int patience_ms;      /* for the other side while the guest runs; 0: for ever */
    int64_t stopped_us;   /* when the guest was stopped */
    unsigned n_diverging; /* rounds in which the guest wrote too much */
} Run;

/* May pages follow the machine? */
static bool may_follow(const Run *run)
{
    return run->sender->config->memory_mode != KUMO_MEMORY_PRECOPY;
}

static bool run_init(Run *run, KumoSender *sender, GError **error)
{
    *run = (Run){ .sender = sender, .n_lanes = MAX(sender->config->connections, 1) };
    /* Whoever reads what is written one way has no guest to run. */
    if (!sender->config->one_way)
        run->patience_ms = (int)sender->config->peer_timeout_s * 1000;
    run->n_channels = run->n_lanes + may_follow(run);
    run->channels = g_new0(KumoChannel, run->n_channels);
    for (unsigned i = 0; i < run->n_channels; i++)
        run->channels[i].fd = -1;
    run->pages = kumo_send_pages_new(sender, run->channels, run->n_lanes, error);
    return run->pages != NULL;
}

static void run_clear(Run *run)
{
    for (unsigned i = 0; i < run->n_channels; i++)
        kumo_channel_hang_up(&run->channels[i]);
    kumo_send_pages_free(run->pages);
    for (unsigned i = 0; i < run->n_channels; i++)
        kumo_channel_close(&run->channels[i]);
    g_free(run->channels);
    json_decref(run->units);
    g_free(run->token);
}

/* --- the other side's answers --- */

/* From now on the other side may let us wait so long, on all connections for memory. No round is
 * under way. */
static void set_patience(Run *run, int most_ms)
{
    int ms = kumo_patience_ms(run->sender->config->peer_timeout_s, most_ms);

    if (run->sender->config->one_way)
        return;
    for (unsigned i = 0; i < run->n_lanes; i++)
        atomic_store(&run->channels[i].patience_ms, ms);
}

/* TRUE at once if nobody answers. */
static bool wait_ack(Run *run, KumoRecordType answered, bool *ret_refused, GError **error)
{
    return run->sender->config->one_way ||
           kumo_stream_wait_ack(&run->channels[0], answered, ret_refused, error);
}

/* --- sending pages --- */

/* One round, until the destination has it; measures how fast that goes. */
static bool send_round(Run *run, const KumoSendRound *round, GError **error)
{
    KumoSender *sender = run->sender;
    uint64_t before = kumo_send_pages_sent_bytes(run->pages);
    uint64_t memory_before = kumo_send_pages_memory_bytes(run->pages);
    int64_t start = g_get_monotonic_time();
    uint64_t sent, memory_sent, us;

    atomic_store(&sender->progress.iterations, round->id + 1);
    sender->host->iteration(sender->opaque, round->id);
    if (!kumo_send_pages_send(run->pages, round, error) ||
        !kumo_stream_send(&run->channels[0], KUMO_RECORD_ROUND,
                          json_pack("{s:i}", "id", (int)round->id), -1, error) ||
        !wait_ack(run, KUMO_RECORD_ROUND, NULL, error))
        return false;
    sent = kumo_send_pages_sent_bytes(run->pages) - before;
    memory_sent = kumo_send_pages_memory_bytes(run->pages) - memory_before;
    us = (uint64_t)MAX(g_get_monotonic_time() - start, 1);
    if (memory_sent >= MEASURED_BYTES) {
        atomic_store(&sender->progress.bytes_per_s, sent * 1000000 / us);
        atomic_store(&sender->progress.memory_bytes_per_s, memory_sent * 1000000 / us);
    }
    return true;
}

/* How long it will take to send what is marked. */
static uint64_t expected_ms(const Run *run, uint64_t n_pages)
{
    uint64_t rate = atomic_load(&run->sender->progress.memory_bytes_per_s);

    return rate ? (n_pages * PAGE * 1000 + rate - 1) / rate : 0;
}

static void set_throttle(Run *run, unsigned percent)
{
    KumoSender *sender = run->sender;

    if (atomic_load(&sender->progress.throttle_percent) == percent)
        return;
    atomic_store(&sender->progress.throttle_percent, percent);
    sender->host->throttle(sender->opaque, percent);
}

/* A guest that writes more than half of what was sent meanwhile, again and again, gets less time.
 */
static void converge(Run *run, uint64_t n_dirty, uint64_t sent_bytes)
{
    const KumoSendMigrationConfig *config = run->sender->config;
    unsigned percent = atomic_load(&run->sender->progress.throttle_percent);

    if (!config->auto_converge || n_dirty * PAGE <= sent_bytes / 2 ||
        ++run->n_diverging < THROTTLE_ROUNDS)
        return;
    run->n_diverging = 0;
    percent = percent ? percent + config->auto_converge_increment : config->auto_converge_initial;
    set_throttle(run, MIN(percent, THROTTLE_MAX_PERCENT));
}

/* Rounds until what is left can be sent in the downtime that is allowed. */
static bool send_while_running(Run *run, GError **error)
{
    KumoSender *sender = run->sender;
    const KumoSendMigrationConfig *config = sender->config;
    int64_t end = g_get_monotonic_time() + (int64_t)config->timeout_s * G_TIME_SPAN_SECOND;

    if (!kumo_memory_dirty_start(sender->memory, error) ||
        !kumo_send_pages_mark_all(run->pages, error))
        return false;
    for (unsigned id = 0;; id++) {
        const KumoSendRound round = { .id = id, .paced = true };
        uint64_t before = kumo_send_pages_memory_bytes(run->pages);
        uint64_t n_pages, ms;

        if (!send_round(run, &round, error) || !kumo_send_pages_mark_dirty(run->pages, error))
            return false;
        if (atomic_load(&sender->start_postcopy)) {
            run->switching = true;
            return true;
        }
        if (atomic_load(&sender->stop_guest))
            return true;
        n_pages = kumo_send_pages_count(run->pages);
        ms = expected_ms(run, n_pages);
        atomic_store(&sender->progress.expected_downtime_ms, ms);
        if (n_pages == 0 || ms <= atomic_load(&sender->downtime_ms))
            return true;
        converge(run, n_pages, kumo_send_pages_memory_bytes(run->pages) - before);
        if (g_get_monotonic_time() < end)
            continue;
        if (config->timeout_strategy == KUMO_MIGRATION_IGNORE)
            return true;
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_STATE,
            "timeout_s: after %u s the guest still writes so much that it would stand still "
            "for %" G_GUINT64_FORMAT " ms, downtime_ms allows %u",
            config->timeout_s, ms, atomic_load(&sender->downtime_ms));
        return false;
    }
}

/* --- the other records --- */

/* TLS has its own, and what is handed over is not sent. */
static bool wants_checksum(const Run *run)
{
    const KumoSendMigrationConfig *config = run->sender->config;

    return config->checksum && !config->local && !run->sender->tls;
}

/* The oldest that has what is asked for. */
static int stream_version(const Run *run)
{
    const KumoSendMigrationConfig *config = run->sender->config;

    if (config->one_way && wants_checksum(run))
        return KUMO_STREAM_VERSION_SUMMED;
    if (may_follow(run))
        return KUMO_STREAM_VERSION_POSTCOPY;
    if (config->compression != KUMO_COMPRESSION_NONE)
        return KUMO_STREAM_VERSION_PACKED;
    return config->one_way || run->n_channels > 1 ? KUMO_STREAM_VERSION_LANES
                                                  : KUMO_STREAM_VERSION_PLAIN;
}

static bool send_hello(Run *run, GError **error)
{
    const KumoSender *sender = run->sender;
    const KumoSendMigrationConfig *config = sender->config;
    json_t *hello = json_pack("{s:s, s:i, s:s, s:b, s:b}", "format", "kumo-migration", "version",
                              stream_version(run), "made_by", KUMO_VERSION, "local", config->local,
                              "paused", sender->paused);
    json_t *answer = NULL;

    if (config->one_way)
        json_object_set_new(hello, "one_way", json_true());
    if (config->compression == KUMO_COMPRESSION_ZSTD)
        json_object_set_new(hello, "compression", json_string("zstd"));
    if (may_follow(run))
        json_object_set_new(hello, "postcopy", json_true());
    if (run->n_lanes > 1)
        json_object_set_new(hello, "connections", json_integer(run->n_lanes));
    if (run->n_channels > 1)
        json_object_set_new(hello, "token", json_string(run->token));
    if (wants_checksum(run))
        json_object_set_new(hello, "checksum", json_string(KUMO_PAGES_CHECKSUM));
    if (!kumo_stream_send(&run->channels[0], KUMO_RECORD_HELLO, hello, -1, error))
        return false;
    if (config->one_way) {
        run->summed = wants_checksum(run);
        return true;
    }
    if (!kumo_stream_wait_ack_document(&run->channels[0], KUMO_RECORD_HELLO, &answer, error))
        return false;
    /* An older kumo does not know it. */
    run->summed =
        wants_checksum(run) &&
        g_strcmp0(json_string_value(json_object_get(answer, "checksum")), KUMO_PAGES_CHECKSUM) == 0;
    json_decref(answer);
    return true;
}

/* Pages that have not come from the snapshot yet are holes in the files that the destination gets.
 */
static bool wait_for_memory(Run *run, GError **error)
{
    KumoUserfault *engine = run->sender->memory->userfault;
    g_autoptr(GError) lost = NULL;

    while (engine && !kumo_userfault_wait(engine, 100, &lost)) {
        if (lost) {
            g_propagate_error(error, g_steal_pointer(&lost));
            return false;
        }
        if (!kumo_migration_cancel_check(run->sender->cancel, error))
            return false;
    }
    return true;
}

static bool send_memory_fds(Run *run, GError **error)
{
    const KumoMemory *memory = run->sender->memory;

    if (!wait_for_memory(run, error))
        return false;
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (part->fd < 0 || !part->shared) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "local: the memory at 0x%" G_GINT64_MODIFIER
                        "x is not shared (memory: shared=on), it can only be copied",
                        part->gpa);
            return false;
        }
        if (!kumo_stream_send(&run->channels[0], KUMO_RECORD_MEMORY_FD,
                              json_pack("{s:I, s:I, s:I}", "gpa", (json_int_t)part->gpa, "size",
                                        (json_int_t)part->size_bytes, "offset",
                                        (json_int_t)part->fd_offset),
                              part->fd, error))
            return false;
    }
    return true;
}

static bool connect_channel(Run *run, KumoChannel *channel, GError **error)
{
    const KumoSender *sender = run->sender;
    const char *url = sender->config->destination_url;

    if (!kumo_channel_connect(channel, "destination_url", url, sender->cancel, error))
        return false;
    atomic_store(&channel->patience_ms, run->patience_ms);
    return !sender->tls ||
           kumo_channel_start_tls(channel, sender->tls, url, sender->config->tls_name, error);
}

static bool open_channel(Run *run, GError **error)
{
    const KumoSender *sender = run->sender;
    const KumoSendMigrationConfig *config = sender->config;
    int fd;

    if (!config->stream_fd)
        return connect_channel(run, &run->channels[0], error);
    fd = fcntl(g_array_index(config->stream_fd, int, 0), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "destination_url: the descriptor");
        return false;
    }
    if (!kumo_channel_open_fd(&run->channels[0], fd, sender->cancel, error))
        return false;
    atomic_store(&run->channels[0].patience_ms, run->patience_ms);
    return true;
}

/* What nobody else can know. */
static bool make_token(Run *run, GError **error)
{
    uint8_t random[TOKEN_BYTES];
    GString *text = g_string_new(NULL);

    if (getrandom(random, sizeof(random), 0) != sizeof(random)) {
        kumo_set_error_errno(error, errno, "getrandom");
        g_string_free(text, TRUE);
        return false;
    }
    for (unsigned i = 0; i < sizeof(random); i++)
        g_string_append_printf(text, "%02x", random[i]);
    run->token = g_string_free(text, FALSE);
    return true;
}

/* The connections for pages, which the destination knows by the token. */
static bool open_lanes(Run *run, GError **error)
{
    for (unsigned i = 1; i < run->n_channels; i++) {
        KumoChannel *channel = &run->channels[i];
        json_t *hello = json_pack("{s:s, s:i, s:i, s:s}", "format", "kumo-migration", "version",
                                  stream_version(run), "lane", (int)i, "token", run->token);

        if (!connect_channel(run, channel, error)) {
            json_decref(hello);
            kumo_prefix_error(error, "connection %u", i);
            return false;
        }
        if (!kumo_stream_send(channel, KUMO_RECORD_HELLO, hello, -1, error) ||
            !kumo_stream_wait_ack(channel, KUMO_RECORD_HELLO, NULL, error)) {
            kumo_prefix_error(error, "connection %u", i);
            return false;
        }
    }
    return true;
}

static void sum_pages(Run *run)
{
    for (unsigned i = 0; i < run->n_channels; i++)
        run->channels[i].pages_summed = run->summed;
}

/* The destination has built the machine. */
static bool wait_built(Run *run, GError **error)
{
    json_t *answer = NULL;

    if (!may_follow(run))
        return wait_ack(run, KUMO_RECORD_CONFIG, NULL, error);
    if (!kumo_stream_wait_ack_document(&run->channels[0], KUMO_RECORD_CONFIG, &answer, error))
        return false;
    run->units = json_incref(json_object_get(answer, "units"));
    json_decref(answer);
    return true;
}

static bool begin(Run *run, GError **error)
{
    const KumoSender *sender = run->sender;

    if (!make_token(run, error) || !open_channel(run, error) || !send_hello(run, error) ||
        !open_lanes(run, error))
        return false;
    sum_pages(run);
    return (!sender->config->local || send_memory_fds(run, error)) &&
           kumo_stream_send(&run->channels[0], KUMO_RECORD_CONFIG, json_incref(sender->document),
                            -1, error) &&
           wait_built(run, error);
}

/* What the guest wrote before it was stopped. */
static bool send_rest(Run *run, GError **error)
{
    const KumoSendRound round = { .id = atomic_load(&run->sender->progress.iterations),
                                  .last = true };

    return kumo_send_pages_mark_dirty(run->pages, error) &&
           kumo_send_pages_send(run->pages, &round, error);
}

static bool stop(Run *run, GError **error)
{
    KumoSender *sender = run->sender;

    atomic_store(&sender->progress.phase, KUMO_SEND_HANDOVER);
    run->stopped_us = g_get_monotonic_time();
    set_patience(run, KUMO_PATIENCE_STILL_MS);
    set_throttle(run, 0);
    return sender->paused || sender->host->stop(sender->opaque, error);
}

static bool send_paused(Run *run, GError **error)
{
    const KumoSendRound only_round = { .paced = true, .last = true };

    if (run->sender->config->local)
        return true;
    if (!kumo_send_pages_mark_all(run->pages, error) || !send_round(run, &only_round, error))
        return false;
    run->switching = atomic_load(&run->sender->start_postcopy);
    return true;
}

/* All memory but what local hand-over makes superfluous, or what follows; afterwards the guest is
 * stopped. */
static bool send_memory(Run *run, GError **error)
{
    KumoSender *sender = run->sender;
    bool local = sender->config->local;

    if (sender->config->memory_mode == KUMO_MEMORY_POSTCOPY) {
        run->switching = true;
        return stop(run, error);
    }
    if (sender->paused)
        return send_paused(run, error);
    if (!local && !send_while_running(run, error))
        return false;
    return stop(run, error) && (local || run->switching || send_rest(run, error));
}

static bool send_state(Run *run, GError **error)
{
    KumoSender *sender = run->sender;
    json_t *state = sender->host->hand_over(sender->opaque, error);

    return state && kumo_stream_send(&run->channels[0], KUMO_RECORD_STATE, state, -1, error) &&
           wait_ack(run, KUMO_RECORD_STATE, NULL, error);
}

/* The machine stays: what was written only has to be complete. */
static KumoSendResult finish_one_way(Run *run, GError **error)
{
    return kumo_stream_send(&run->channels[0], KUMO_RECORD_GO, json_pack("{s:b}", "paused", true),
                            -1, error) &&
                   kumo_channel_sync(&run->channels[0], error)
               ? KUMO_SEND_DONE
               : KUMO_SEND_FAILED;
}

/* What could not be said may have been refused before, which is the better reason. */
static void prefer_refusal(Run *run, GError **error)
{
    g_autoptr(GError) why = NULL;
    bool refused = false;

    kumo_channel_take_leave(&run->channels[0], REFUSAL_PATIENCE_MS);
    if (kumo_stream_wait_ack(&run->channels[0], KUMO_RECORD_GO, &refused, &why) || !refused)
        return;
    g_clear_error(error);
    g_propagate_error(error, g_steal_pointer(&why));
}

/* The rest of the memory goes to the destination, which has the machine; @error: (inout): why the
 * connection is of no use, if it is not. */
static KumoSendResult follow(Run *run, KumoSendPostcopy *postcopy, GError **error)
{
    KumoSender *sender = run->sender;
    const KumoSendLines lines = { sender, postcopy, &run->channels[0], &run->channels[run->n_lanes],
                                  run->token };
    g_autoptr(GError) broken = g_steal_pointer(error);

    if (broken) {
        kumo_channel_hang_up(lines.main);
        kumo_channel_hang_up(lines.faults);
    }
    atomic_store(&sender->progress.phase, KUMO_SEND_POSTCOPY);
    sender->host->followed(sender->opaque);
    while (!kumo_send_postcopy_finish(postcopy, broken ? NULL : &broken)) {
        if (!sender->recovery || !kumo_send_recover(&lines, &broken)) {
            g_propagate_error(error, g_steal_pointer(&broken));
            return KUMO_SEND_CUT_OFF;
        }
    }
    return KUMO_SEND_DONE;
}

/* The machine is the destination's, whose memory is complete unless @postcopy. */
static KumoSendResult go(Run *run, KumoSendPostcopy *postcopy, GError **error)
{
    KumoSender *sender = run->sender;
    KumoSendProgress *progress = &sender->progress;
    bool refused = false;

    /* With its last byte the machine may be the destination's. */
    set_patience(run, KUMO_PATIENCE_ANSWER_MS);
    if (!kumo_stream_send(&run->channels[0], KUMO_RECORD_GO,
                          json_pack("{s:b}", "paused", sender->paused), -1, error)) {
        prefer_refusal(run, error);
        return KUMO_SEND_FAILED;
    }
    if (!wait_ack(run, KUMO_RECORD_GO, &refused, error)) {
        if (refused)
            return KUMO_SEND_FAILED;
        return postcopy && sender->recovery && sender->host->is_away(sender->opaque)
                   ? follow(run, postcopy, error)
                   : KUMO_SEND_UNKNOWN;
    }
    if (!sender->paused)
        atomic_store(&progress->downtime_us, (uint64_t)(g_get_monotonic_time() - run->stopped_us));
    return postcopy ? follow(run, postcopy, error) : KUMO_SEND_DONE;
}

/* --- post-copy --- */

/* What the destination does not have: after the guest has been stopped, all that has been written
 * since it was sent, or, if nothing was sent, all there is. */
static bool mark_missing(Run *run, GError **error)
{
    const KumoSender *sender = run->sender;
    const KumoSendRound last_round = { .id = atomic_load(&sender->progress.iterations),
                                       .last = true,
                                       .empty = true };

    if (sender->config->memory_mode == KUMO_MEMORY_POSTCOPY) {
        if (!kumo_send_pages_mark_all(run->pages, error))
            return false;
    } else if (!sender->paused && !kumo_send_pages_mark_dirty(run->pages, error)) {
        return false;
    }
    /* The other connections are not needed any more. */
    return kumo_send_pages_send(run->pages, &last_round, error);
}

static bool tell_missing(Run *run, GError **error)
{
    json_int_t n_bytes = (json_int_t)(kumo_send_pages_count(run->pages) * PAGE);

    return kumo_send_pages_tell_missing(run->pages, error) &&
           kumo_stream_send(&run->channels[0], KUMO_RECORD_POSTCOPY,
                            json_pack("{s:I}", "bytes", n_bytes), -1, error) &&
           wait_ack(run, KUMO_RECORD_POSTCOPY, NULL, error);
}

/* Loading the state may touch what is missing, so that is served before. */
static KumoSendResult hand_over_early(Run *run, GError **error)
{
    KumoSender *sender = run->sender;
    json_t *state = sender->host->hand_over(sender->opaque, error);
    KumoSendPostcopy *postcopy = NULL;
    KumoSendResult result = KUMO_SEND_FAILED;

    if (!state)
        return result;
    if (mark_missing(run, error))
        postcopy = kumo_send_postcopy_new(sender, run->pages, &run->channels[0],
                                          &run->channels[run->n_lanes], run->units, error);
    if (postcopy && tell_missing(run, error)) {
        kumo_send_postcopy_serve(postcopy);
        if (kumo_stream_send(&run->channels[0], KUMO_RECORD_STATE, g_steal_pointer(&state), -1,
                             error) &&
            wait_ack(run, KUMO_RECORD_STATE, NULL, error) &&
            kumo_migration_cancel_commit(sender->cancel, error)) {
            sender->switched = true;
            result = go(run, postcopy, error);
        }
    }
    kumo_send_postcopy_free(postcopy);
    json_decref(state);
    return result;
}

static KumoSendResult hand_over(Run *run, GError **error)
{
    if (!send_memory(run, error))
        return KUMO_SEND_FAILED;
    atomic_store(&run->sender->progress.phase, KUMO_SEND_HANDOVER);
    if (run->switching)
        return hand_over_early(run, error);
    set_patience(run, KUMO_PATIENCE_STILL_MS);
    if (!send_state(run, error))
        return KUMO_SEND_FAILED;
    if (run->sender->config->one_way)
        return finish_one_way(run, error);
    /* Behind it nothing calls it off any more: it is the destination that decides. */
    return kumo_migration_cancel_commit(run->sender->cancel, error) ? go(run, NULL, error)
                                                                    : KUMO_SEND_FAILED;
}

KumoSendResult kumo_send_run(KumoSender *sender, GError **error)
{
    KumoSendResult result = KUMO_SEND_FAILED;
    Run run;

    if (run_init(&run, sender, error) && begin(&run, error)) {
        atomic_store(&sender->progress.phase, KUMO_SEND_MEMORY);
        result = hand_over(&run, error);
    }
    set_throttle(&run, 0);
    kumo_memory_dirty_stop(sender->memory);
    run_clear(&run);
    return result;
}
