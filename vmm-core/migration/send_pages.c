/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/send_pages.h"

#include <stdatomic.h>

#include "vmm-core/base/error.h"
#include "vmm-core/core/memory_scan.h"

enum {
    PAGE = KUMO_STREAM_PAGE_BYTES,
    WORD_BITS = 64,
    CHUNK_WORDS = 16,   /* that a lane takes at a time: 4 MiB */
    PACE_US = 2000,     /* the least that is worth a wait */
    PACE_MAX_MS = 1000, /* looks again after that */
};

/* One connection, and who sends over it. */
typedef struct {
    KumoSendPages *pages;
    KumoChannel *channel;
    KumoPagesWriter *writer;
    GThread *thread; /* NULL: the caller's */
    unsigned round;  /* the number of the last that it has taken part in */
} Lane;

struct KumoSendPages {
    KumoSender *sender;
    uint64_t **bitmaps; /* of each region: pages to be sent */
    unsigned n_regions;
    Lane *lanes;
    unsigned n_lanes;

    /* Set before a round begins. */
    KumoSendRound round;
    size_t n_chunks; /* of all regions */
    _Atomic size_t next_chunk;

    GMutex lock;
    GCond changed;
    int64_t paced_us;     /* under lock, like the rest: max_bandwidth counts from here on, */
    uint64_t paced_bytes; /* when so much had been sent, */
    uint64_t paced_rate;  /* at this value */
    unsigned n_rounds;    /* that were begun */
    unsigned n_busy;      /* other lanes that are at it */
    bool ending;
    GError *error; /* the first lane's that failed */
};

/* --- which pages --- */

static size_t chunks_of(const KumoMemRegion *region)
{
    return (kumo_memory_dirty_words(region) + CHUNK_WORDS - 1) / CHUNK_WORDS;
}

uint64_t kumo_send_pages_count(const KumoSendPages *pages)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < pages->n_regions; i++) {
        size_t n_words = kumo_memory_dirty_words(&pages->sender->memory->regions[i]);

        for (size_t word = 0; word < n_words; word++)
            n += (unsigned)__builtin_popcountll(pages->bitmaps[i][word]);
    }
    return n;
}

static bool mark_part(void *opaque, const KumoMemBacking *part, uint64_t start, uint64_t end,
                      GError **error)
{
    const KumoSendPages *pages = opaque;

    for (unsigned i = 0; i < pages->n_regions; i++) {
        const KumoMemRegion *region = &pages->sender->memory->regions[i];
        uint64_t offset = part->gpa - region->gpa;

        if (offset >= region->size_bytes)
            continue;
        for (uint64_t page = (offset + start) / PAGE; page < (offset + end) / PAGE; page++)
            pages->bitmaps[i][page / WORD_BITS] |= 1ULL << page % WORD_BITS;
    }
    return true;
}

bool kumo_send_pages_mark_all(KumoSendPages *pages, GError **error)
{
    const KumoMemory *memory = pages->sender->memory;

    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (kumo_memory_is_named_file(part))
            mark_part(pages, part, 0, part->size_bytes, NULL);
    }
    return kumo_memory_scan(memory, mark_part, pages, error);
}

bool kumo_send_pages_mark_dirty(KumoSendPages *pages, GError **error)
{
    for (unsigned i = 0; i < pages->n_regions; i++) {
        if (!kumo_memory_dirty_fetch(pages->sender->memory, i, pages->bitmaps[i], error))
            return false;
    }
    atomic_store(&pages->sender->progress.dirty_pages, kumo_send_pages_count(pages));
    return true;
}

/* --- one lane --- */

uint64_t kumo_send_pages_sent_bytes(const KumoSendPages *pages)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < pages->n_lanes; i++)
        sum += atomic_load_explicit(&pages->lanes[i].channel->sent_bytes, memory_order_relaxed);
    return sum;
}

uint64_t kumo_send_pages_memory_bytes(const KumoSendPages *pages)
{
    uint64_t sum = kumo_send_pages_sent_bytes(pages);

    for (unsigned i = 0; i < pages->n_lanes; i++) {
        const KumoPagesWriter *writer = pages->lanes[i].writer;

        sum += atomic_load_explicit(&writer->packed_pages, memory_order_relaxed) * PAGE -
               atomic_load_explicit(&writer->packed_bytes, memory_order_relaxed);
    }
    return sum;
}

static void note_progress(KumoSendPages *pages)
{
    KumoSendProgress *progress = &pages->sender->progress;
    uint64_t data = 0, zeros = 0, packed = 0, packed_bytes = 0;

    for (unsigned i = 0; i < pages->n_lanes; i++) {
        const KumoPagesWriter *writer = pages->lanes[i].writer;

        data += atomic_load_explicit(&writer->data_pages, memory_order_relaxed);
        zeros += atomic_load_explicit(&writer->zero_pages, memory_order_relaxed);
        packed += atomic_load_explicit(&writer->packed_pages, memory_order_relaxed);
        packed_bytes += atomic_load_explicit(&writer->packed_bytes, memory_order_relaxed);
    }
    atomic_store(&progress->sent_bytes, kumo_send_pages_sent_bytes(pages));
    atomic_store(&progress->data_pages, data);
    atomic_store(&progress->zero_pages, zeros);
    atomic_store(&progress->packed_pages, packed);
    atomic_store(&progress->packed_bytes, packed_bytes);
}

/* @rate holds from here on: what was sent before, under another one, does not count. */
static void begin_pace(KumoSendPages *pages, uint64_t rate)
{
    pages->paced_rate = rate;
    pages->paced_bytes = kumo_send_pages_sent_bytes(pages);
    pages->paced_us = g_get_monotonic_time();
}

/* Returns: how long it takes until what has been sent is no more than max_bandwidth allows. */
static int64_t pages_ahead_us(KumoSendPages *pages)
{
    uint64_t rate = atomic_load(&pages->sender->max_bandwidth);
    int64_t ahead_us = 0;

    g_mutex_lock(&pages->lock);
    if (rate != pages->paced_rate)
        begin_pace(pages, rate);
    if (rate) {
        uint64_t sent = kumo_send_pages_sent_bytes(pages) - pages->paced_bytes;

        ahead_us = (int64_t)((double)sent * 1e6 / (double)rate) -
                   (g_get_monotonic_time() - pages->paced_us);
    }
    g_mutex_unlock(&pages->lock);
    return ahead_us;
}

/* The rest goes when the guest has been stopped, or follows it. */
static bool is_to_switch(const KumoSendPages *pages)
{
    const KumoSender *sender = pages->sender;

    return pages->round.paced && !sender->paused &&
           (atomic_load(&sender->start_postcopy) || atomic_load(&sender->stop_guest));
}

static bool keep_pace(KumoSendPages *pages, GError **error)
{
    int64_t ahead_us;

    while (pages->round.paced && !is_to_switch(pages) &&
           (ahead_us = pages_ahead_us(pages)) >= PACE_US) {
        if (!kumo_migration_cancel_sleep(pages->sender->cancel,
                                         (int)MIN(ahead_us / 1000, PACE_MAX_MS), error))
            return false;
    }
    return true;
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

static bool send_word(Lane *lane, unsigned region, size_t word, bool skip_zeros, GError **error)
{
    KumoSendPages *pages = lane->pages;
    const KumoMemRegion *where = &pages->sender->memory->regions[region];
    uint64_t bits = pages->bitmaps[region][word];

    pages->bitmaps[region][word] = 0;
    atomic_fetch_sub_explicit(&pages->sender->progress.remaining_pages,
                              (unsigned)__builtin_popcountll(bits), memory_order_relaxed);
    while (bits) {
        uint64_t page = word * WORD_BITS + (unsigned)__builtin_ctzll(bits);
        bool zero = kumo_memory_page_is_zero(where->hva + page * PAGE);

        bits &= bits - 1;
        if (zero && skip_zeros)
            continue;
        if (!kumo_pages_add(lane->writer, where->gpa + page * PAGE,
                            zero ? KUMO_PAGES_ZERO : KUMO_PAGES_DATA, error))
            return false;
    }
    return true;
}

/* A chunk is one lane's alone, and so are the words of its bitmap. */
static bool send_chunk(Lane *lane, size_t chunk, GError **error)
{
    KumoSendPages *pages = lane->pages;
    const KumoMemory *memory = pages->sender->memory;
    unsigned region = 0;
    bool skip_zeros, any = false;
    size_t end;

    while (chunk >= chunks_of(&memory->regions[region]))
        chunk -= chunks_of(&memory->regions[region++]);
    skip_zeros = pages->round.id == 0 && begins_zero(memory, region);
    end = MIN((chunk + 1) * CHUNK_WORDS, kumo_memory_dirty_words(&memory->regions[region]));
    for (size_t word = chunk * CHUNK_WORDS; word < end; word++) {
        if (!pages->bitmaps[region][word])
            continue;
        any = true;
        if (!send_word(lane, region, word, skip_zeros, error) || !keep_pace(pages, error))
            return false;
    }
    if (any)
        note_progress(pages);
    return true;
}

static bool send_chunks(Lane *lane, GError **error)
{
    KumoSendPages *pages = lane->pages;
    size_t chunk;

    while (!is_to_switch(pages) &&
           (chunk = atomic_fetch_add(&pages->next_chunk, 1)) < pages->n_chunks) {
        if (!send_chunk(lane, chunk, error))
            return false;
    }
    return kumo_pages_flush(lane->writer, error) && keep_pace(pages, error);
}

/* The other side has all that went over @lane. */
static bool end_lane_round(Lane *lane, GError **error)
{
    const KumoSendRound *round = &lane->pages->round;

    return kumo_stream_send(lane->channel, KUMO_RECORD_ROUND,
                            json_pack("{s:i, s:b}", "id", (int)round->id, "last", round->last), -1,
                            error) &&
           kumo_stream_wait_ack(lane->channel, KUMO_RECORD_ROUND, NULL, error);
}

/* With @error, which it takes, all other lanes are to give up as well. */
static void lane_failed(KumoSendPages *pages, GError *error)
{
    g_mutex_lock(&pages->lock);
    if (pages->error)
        g_error_free(error);
    else
        pages->error = error;
    g_mutex_unlock(&pages->lock);
    atomic_store(&pages->next_chunk, pages->n_chunks);
    for (unsigned i = 0; i < pages->n_lanes; i++)
        kumo_channel_hang_up(pages->lanes[i].channel);
}

/* --- the threads of the other lanes --- */

/* Waits for the next round. Returns: FALSE when there is none. */
static bool next_round(Lane *lane)
{
    KumoSendPages *pages = lane->pages;
    bool ending;

    g_mutex_lock(&pages->lock);
    while (!(ending = pages->ending) && pages->n_rounds == lane->round)
        g_cond_wait(&pages->changed, &pages->lock);
    lane->round = pages->n_rounds;
    g_mutex_unlock(&pages->lock);
    return !ending;
}

static void *lane_thread(void *opaque)
{
    Lane *lane = opaque;
    KumoSendPages *pages = lane->pages;

    while (next_round(lane)) {
        GError *error = NULL;

        if (!send_chunks(lane, &error) || !end_lane_round(lane, &error))
            lane_failed(pages, error);
        g_mutex_lock(&pages->lock);
        pages->n_busy--;
        g_cond_broadcast(&pages->changed);
        g_mutex_unlock(&pages->lock);
    }
    return NULL;
}

static void begin_round(KumoSendPages *pages)
{
    atomic_store(&pages->sender->progress.remaining_pages, kumo_send_pages_count(pages));
    atomic_store(&pages->next_chunk, pages->round.empty ? pages->n_chunks : 0);
    g_mutex_lock(&pages->lock);
    begin_pace(pages, atomic_load(&pages->sender->max_bandwidth));
    pages->n_rounds++;
    pages->n_busy = pages->n_lanes - 1;
    g_cond_broadcast(&pages->changed);
    g_mutex_unlock(&pages->lock);
}

static bool end_round(KumoSendPages *pages, GError **error)
{
    g_mutex_lock(&pages->lock);
    while (pages->n_busy)
        g_cond_wait(&pages->changed, &pages->lock);
    if (pages->error)
        g_propagate_error(error, g_error_copy(pages->error));
    g_mutex_unlock(&pages->lock);
    note_progress(pages);
    return !pages->error;
}

bool kumo_send_pages_send(KumoSendPages *pages, const KumoSendRound *round, GError **error)
{
    GError *own = NULL;

    pages->round = *round;
    begin_round(pages);
    if (!send_chunks(&pages->lanes[0], &own))
        lane_failed(pages, own);
    return end_round(pages, error);
}

/* --- post-copy --- */

uint64_t *kumo_send_pages_bitmap(KumoSendPages *pages, unsigned region)
{
    return pages->bitmaps[region];
}

KumoPagesWriter *kumo_send_pages_writer(KumoSendPages *pages)
{
    return pages->lanes[0].writer;
}

void kumo_send_pages_note_progress(KumoSendPages *pages)
{
    note_progress(pages);
}

bool kumo_send_pages_tell_missing(KumoSendPages *pages, GError **error)
{
    const KumoMemory *memory = pages->sender->memory;
    KumoPagesWriter *writer = pages->lanes[0].writer;

    for (unsigned i = 0; i < pages->n_regions; i++) {
        size_t n_words = kumo_memory_dirty_words(&memory->regions[i]);

        for (size_t word = 0; word < n_words; word++) {
            for (uint64_t bits = pages->bitmaps[i][word]; bits; bits &= bits - 1) {
                uint64_t page = word * WORD_BITS + (unsigned)__builtin_ctzll(bits);

                if (!kumo_pages_add(writer, memory->regions[i].gpa + page * PAGE,
                                    KUMO_PAGES_MISSING, error))
                    return false;
            }
        }
    }
    return kumo_pages_flush(writer, error);
}

/* --- beginning and end --- */

static bool new_lane(Lane *lane, KumoSendPages *pages, KumoChannel *channel, GError **error)
{
    const KumoSendMigrationConfig *config = pages->sender->config;

    lane->pages = pages;
    lane->channel = channel;
    lane->writer = g_new0(KumoPagesWriter, 1);
    lane->writer->channel = channel;
    lane->writer->memory = pages->sender->memory;
    if (config->compression == KUMO_COMPRESSION_NONE)
        return true;
    lane->writer->compressor =
        kumo_compressor_new(config->compression_level, KUMO_PAGES_MAX_BYTES, error);
    return lane->writer->compressor != NULL;
}

KumoSendPages *kumo_send_pages_new(KumoSender *sender, KumoChannel *channels, unsigned n_channels,
                                   GError **error)
{
    KumoSendPages *pages = g_new0(KumoSendPages, 1);
    uint64_t total = 0;

    pages->sender = sender;
    pages->n_regions = sender->memory->n_regions;
    pages->bitmaps = g_new0(uint64_t *, pages->n_regions);
    for (unsigned i = 0; i < pages->n_regions; i++) {
        const KumoMemRegion *region = &sender->memory->regions[i];

        pages->bitmaps[i] = g_new0(uint64_t, kumo_memory_dirty_words(region));
        pages->n_chunks += chunks_of(region);
        total += region->size_bytes;
    }
    atomic_store(&sender->progress.total_bytes, total);
    g_mutex_init(&pages->lock);
    g_cond_init(&pages->changed);
    pages->n_lanes = n_channels;
    pages->lanes = g_new0(Lane, n_channels);
    for (unsigned i = 0; i < n_channels; i++) {
        if (!new_lane(&pages->lanes[i], pages, &channels[i], error)) {
            kumo_send_pages_free(pages);
            return NULL;
        }
    }
    for (unsigned i = 1; i < n_channels; i++)
        pages->lanes[i].thread = g_thread_new("migrate-lane", lane_thread, &pages->lanes[i]);
    return pages;
}

void kumo_send_pages_free(KumoSendPages *pages)
{
    if (!pages)
        return;
    g_mutex_lock(&pages->lock);
    pages->ending = true;
    g_cond_broadcast(&pages->changed);
    g_mutex_unlock(&pages->lock);
    for (unsigned i = 0; i < pages->n_lanes; i++) {
        if (pages->lanes[i].thread)
            g_thread_join(pages->lanes[i].thread);
        if (pages->lanes[i].writer)
            kumo_compressor_free(pages->lanes[i].writer->compressor);
        g_free(pages->lanes[i].writer);
    }
    for (unsigned i = 0; i < pages->n_regions; i++)
        g_free(pages->bitmaps[i]);
    g_free(pages->bitmaps);
    g_free(pages->lanes);
    g_clear_error(&pages->error);
    g_mutex_clear(&pages->lock);
    g_cond_clear(&pages->changed);
    g_free(pages);
}
