/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/send.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "kumo-build.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/memory_scan.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/stream.h"

enum {
    PAGE = KUMO_STREAM_PAGE_BYTES,
    WORD_BITS = 64,
    PACE_US = 2000,           /* the least that is worth a wait */
    PACE_MAX_MS = 1000,       /* looks again after that */
    MEASURED_BYTES = 1 << 20, /* what a round has to send at least to tell how fast it goes */
};

typedef struct {
    KumoSender *sender;
    KumoChannel channel;
    KumoPagesWriter *writer;
    uint64_t **bitmaps; /* of each region: pages to be sent */
    unsigned n_regions;
    int64_t stopped_us;   /* when the guest was stopped */
    int64_t paced_us;     /* max_bandwidth counts from here on, */
    uint64_t paced_bytes; /* when so much had been sent */
} Run;

/* --- which pages --- */

static void run_init(Run *run, KumoSender *sender)
{
    uint64_t total = 0;

    *run = (Run){ .sender = sender, .channel.fd = -1, .n_regions = sender->memory->n_regions };
    run->writer = g_new0(KumoPagesWriter, 1);
    run->writer->channel = &run->channel;
    run->writer->memory = sender->memory;
    run->bitmaps = g_new0(uint64_t *, run->n_regions);
    for (unsigned i = 0; i < run->n_regions; i++) {
        run->bitmaps[i] = g_new0(uint64_t, kumo_memory_dirty_words(&sender->memory->regions[i]));
        total += sender->memory->regions[i].size_bytes;
    }
    atomic_store(&sender->progress.total_bytes, total);
}

static void run_clear(Run *run)
{
    for (unsigned i = 0; i < run->n_regions; i++)
        g_free(run->bitmaps[i]);
    g_free(run->bitmaps);
    g_free(run->writer);
    kumo_channel_close(&run->channel);
}

static uint64_t count_pages(const Run *run)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < run->n_regions; i++) {
        size_t n_words = kumo_memory_dirty_words(&run->sender->memory->regions[i]);

        for (size_t word = 0; word < n_words; word++)
            n += (unsigned)__builtin_popcountll(run->bitmaps[i][word]);
    }
    return n;
}

static bool mark_part(void *opaque, const KumoMemBacking *part, uint64_t start, uint64_t end,
                      GError **error)
{
    const Run *run = opaque;

    for (unsigned i = 0; i < run->n_regions; i++) {
        const KumoMemRegion *region = &run->sender->memory->regions[i];
        uint64_t offset = part->gpa - region->gpa;

        if (offset >= region->size_bytes)
            continue;
        for (uint64_t page = (offset + start) / PAGE; page < (offset + end) / PAGE; page++)
            run->bitmaps[i][page / WORD_BITS] |= 1ULL << page % WORD_BITS;
    }
    return true;
}

/* All that may be something else than the zeros that the destination begins with. */
static bool mark_all(Run *run, GError **error)
{
    const KumoMemory *memory = run->sender->memory;

    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (kumo_memory_is_named_file(part))
            mark_part(run, part, 0, part->size_bytes, NULL);
    }
    return kumo_memory_scan(memory, mark_part, run, error);
}

static bool fetch_dirty(Run *run, GError **error)
{
    for (unsigned i = 0; i < run->n_regions; i++) {
        if (!kumo_memory_dirty_fetch(run->sender->memory, i, run->bitmaps[i], error))
            return false;
    }
    atomic_store(&run->sender->progress.dirty_pages, count_pages(run));
    return true;
}

/* --- the other side's answers --- */

/* TRUE at once if nobody answers. */
static bool wait_ack(Run *run, KumoRecordType answered, bool *ret_refused, GError **error)
{
    return run->sender->config->one_way ||
           kumo_stream_wait_ack(&run->channel, answered, ret_refused, error);
}

/* --- sending pages --- */

static void note_progress(Run *run)
{
    KumoSendProgress *progress = &run->sender->progress;

    atomic_store(&progress->sent_bytes, run->channel.sent_bytes);
    atomic_store(&progress->data_pages, run->writer->data_pages);
    atomic_store(&progress->zero_pages, run->writer->zero_pages);
}

/* Waits until what has been sent is no more than max_bandwidth allows. */
static bool keep_pace(Run *run, GError **error)
{
    uint64_t rate = run->sender->config->max_bandwidth;
    uint64_t sent = run->channel.sent_bytes - run->paced_bytes;

    while (rate && !run->stopped_us) {
        int64_t ahead_us =
            (int64_t)((double)sent * 1e6 / (double)rate) - (g_get_monotonic_time() - run->paced_us);

        if (ahead_us < PACE_US)
            break;
        if (!kumo_migration_cancel_sleep(run->sender->cancel,
                                         (int)MIN(ahead_us / 1000, PACE_MAX_MS), error))
            return false;
    }
    return true;
}

static bool send_word(Run *run, unsigned region, size_t word, bool first, GError **error)
{
    const KumoMemory *memory = run->sender->memory;
    uint64_t bits = run->bitmaps[region][word];

    run->bitmaps[region][word] = 0;
    while (bits) {
        uint64_t page = word * WORD_BITS + (unsigned)__builtin_ctzll(bits);
        uint64_t gpa = memory->regions[region].gpa + page * PAGE;
        bool zero = kumo_memory_page_is_zero(memory->regions[region].hva + page * PAGE);

        bits &= bits - 1;
        atomic_fetch_sub_explicit(&run->sender->progress.remaining_pages, 1, memory_order_relaxed);
        if (zero && first)
            continue;
        if (!kumo_pages_add(run->writer, gpa, zero ? KUMO_PAGES_ZERO : KUMO_PAGES_DATA, error))
            return false;
    }
    note_progress(run);
    return keep_pace(run, error);
}

/* Is a page of zeros no news to a destination that has been sent nothing of @region yet? */
static bool begins_zero(const KumoMemory *memory, unsigned region)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (part->gpa - memory->regions[region].gpa < memory->regions[region].size_bytes &&
            kumo_memory_is_named_file(part))
            return false;
    }
    return true;
}

/* Sends the pages that are marked, which unmarks them. */
static bool send_marked(Run *run, bool first, GError **error)
{
    const KumoMemory *memory = run->sender->memory;

    atomic_store(&run->sender->progress.remaining_pages, count_pages(run));
    for (unsigned i = 0; i < run->n_regions; i++) {
        size_t n_words = kumo_memory_dirty_words(&memory->regions[i]);
        bool skip_zeros = first && begins_zero(memory, i);

        for (size_t word = 0; word < n_words; word++) {
            if (run->bitmaps[i][word] && !send_word(run, i, word, skip_zeros, error))
                return false;
        }
    }
    if (!kumo_pages_flush(run->writer, error))
        return false;
    note_progress(run);
    return keep_pace(run, error);
}

/* One round, until the destination has it; measures how fast that goes. */
static bool send_round(Run *run, unsigned id, GError **error)
{
    KumoSender *sender = run->sender;
    uint64_t before = run->paced_bytes = run->channel.sent_bytes;
    int64_t start = run->paced_us = g_get_monotonic_time();
    uint64_t sent, us;

    atomic_store(&sender->progress.iterations, id + 1);
    sender->host->iteration(sender->opaque, id);
    if (!send_marked(run, id == 0, error) ||
        !kumo_stream_send(&run->channel, KUMO_RECORD_ROUND, json_pack("{s:i}", "id", (int)id), -1,
                          error) ||
        !wait_ack(run, KUMO_RECORD_ROUND, NULL, error))
        return false;
    sent = run->channel.sent_bytes - before;
    us = (uint64_t)MAX(g_get_monotonic_time() - start, 1);
    if (sent >= MEASURED_BYTES)
        atomic_store(&sender->progress.bytes_per_s, sent * 1000000 / us);
    return true;
}

/* How long it will take to send what is marked. */
static uint64_t expected_ms(const Run *run, uint64_t n_pages)
{
    uint64_t rate = atomic_load(&run->sender->progress.bytes_per_s);

    return rate ? (n_pages * PAGE * 1000 + rate - 1) / rate : 0;
}

/* Rounds until what is left can be sent in the downtime that is allowed. */
static bool send_while_running(Run *run, GError **error)
{
    KumoSender *sender = run->sender;
    const KumoSendMigrationConfig *config = sender->config;
    int64_t end = g_get_monotonic_time() + (int64_t)config->timeout_s * G_TIME_SPAN_SECOND;

    if (!kumo_memory_dirty_start(sender->memory, error) || !mark_all(run, error))
        return false;
    for (unsigned id = 0;; id++) {
        uint64_t n_pages, ms;

        if (!send_round(run, id, error) || !fetch_dirty(run, error))
            return false;
        n_pages = count_pages(run);
        ms = expected_ms(run, n_pages);
        atomic_store(&sender->progress.expected_downtime_ms, ms);
        if (n_pages == 0 || ms <= config->downtime_ms)
            return true;
        if (g_get_monotonic_time() < end)
            continue;
        if (config->timeout_strategy == KUMO_MIGRATION_IGNORE)
            return true;
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_STATE,
            "timeout_s: after %u s the guest still writes so much that it would stand still "
            "for %" G_GUINT64_FORMAT " ms, downtime_ms allows %u",
            config->timeout_s, ms, config->downtime_ms);
        return false;
    }
}

/* --- the other records --- */

static bool send_hello(Run *run, GError **error)
{
    const KumoSender *sender = run->sender;
    const KumoSendMigrationConfig *config = sender->config;
    int version = config->one_way ? KUMO_STREAM_VERSION : KUMO_STREAM_VERSION_PLAIN;
    json_t *hello =
        json_pack("{s:s, s:i, s:s, s:b, s:b}", "format", "kumo-migration", "version", version,
                  "made_by", KUMO_VERSION, "local", config->local, "paused", sender->paused);

    if (config->one_way)
        json_object_set_new(hello, "one_way", json_true());
    return kumo_stream_send(&run->channel, KUMO_RECORD_HELLO, hello, -1, error) &&
           wait_ack(run, KUMO_RECORD_HELLO, NULL, error);
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
        if (!kumo_stream_send(&run->channel, KUMO_RECORD_MEMORY_FD,
                              json_pack("{s:I, s:I, s:I}", "gpa", (json_int_t)part->gpa, "size",
                                        (json_int_t)part->size_bytes, "offset",
                                        (json_int_t)part->fd_offset),
                              part->fd, error))
            return false;
    }
    return true;
}

static bool open_channel(Run *run, GError **error)
{
    const KumoSender *sender = run->sender;
    const KumoSendMigrationConfig *config = sender->config;
    int fd;

    if (!config->stream_fd)
        return kumo_channel_connect(&run->channel, "destination_url", config->destination_url,
                                    sender->cancel, error);
    fd = fcntl(g_array_index(config->stream_fd, int, 0), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "destination_url: the descriptor");
        return false;
    }
    return kumo_channel_open_fd(&run->channel, fd, sender->cancel, error);
}

static bool begin(Run *run, GError **error)
{
    const KumoSender *sender = run->sender;

    return open_channel(run, error) && send_hello(run, error) &&
           (!sender->config->local || send_memory_fds(run, error)) &&
           kumo_stream_send(&run->channel, KUMO_RECORD_CONFIG, json_incref(sender->document), -1,
                            error) &&
           wait_ack(run, KUMO_RECORD_CONFIG, NULL, error);
}

/* All memory but what local hand-over makes superfluous; afterwards the guest is stopped. */
static bool send_memory(Run *run, GError **error)
{
    KumoSender *sender = run->sender;
    bool local = sender->config->local;

    if (sender->paused)
        return local || (mark_all(run, error) && send_round(run, 0, error));
    if (!local && !send_while_running(run, error))
        return false;
    atomic_store(&sender->progress.phase, KUMO_SEND_HANDOVER);
    run->stopped_us = g_get_monotonic_time();
    return sender->host->stop(sender->opaque, error) &&
           (local || (fetch_dirty(run, error) && send_marked(run, false, error)));
}

static bool send_state(Run *run, GError **error)
{
    KumoSender *sender = run->sender;
    json_t *state = sender->host->hand_over(sender->opaque, error);

    return state && kumo_stream_send(&run->channel, KUMO_RECORD_STATE, state, -1, error) &&
           wait_ack(run, KUMO_RECORD_STATE, NULL, error);
}

/* The machine stays: what was written only has to be complete. */
static KumoSendResult finish_one_way(Run *run, GError **error)
{
    return kumo_stream_send(&run->channel, KUMO_RECORD_GO, json_pack("{s:b}", "paused", true), -1,
                            error) &&
                   kumo_channel_sync(&run->channel, error)
               ? KUMO_SEND_DONE
               : KUMO_SEND_FAILED;
}

static KumoSendResult hand_over(Run *run, GError **error)
{
    KumoSendProgress *progress = &run->sender->progress;
    bool refused = false;

    if (!send_memory(run, error))
        return KUMO_SEND_FAILED;
    atomic_store(&progress->phase, KUMO_SEND_HANDOVER);
    if (!send_state(run, error) || !kumo_migration_cancel_check(run->sender->cancel, error))
        return KUMO_SEND_FAILED;
    if (run->sender->config->one_way)
        return finish_one_way(run, error);
    /* From the first byte on the machine may be the destination's. */
    if (!kumo_stream_send(&run->channel, KUMO_RECORD_GO,
                          json_pack("{s:b}", "paused", run->sender->paused), -1, error))
        return KUMO_SEND_UNKNOWN;
    if (!wait_ack(run, KUMO_RECORD_GO, &refused, error))
        return refused ? KUMO_SEND_FAILED : KUMO_SEND_UNKNOWN;
    if (!run->sender->paused)
        atomic_store(&progress->downtime_us, (uint64_t)(g_get_monotonic_time() - run->stopped_us));
    return KUMO_SEND_DONE;
}

KumoSendResult kumo_send_run(KumoSender *sender, GError **error)
{
    KumoSendResult result = KUMO_SEND_FAILED;
    Run run;

    run_init(&run, sender);
    if (begin(&run, error)) {
        atomic_store(&sender->progress.phase, KUMO_SEND_MEMORY);
        result = hand_over(&run, error);
    }
    note_progress(&run);
    kumo_memory_dirty_stop(sender->memory);
    run_clear(&run);
    return result;
}
