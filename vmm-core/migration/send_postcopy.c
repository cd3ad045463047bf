/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/send_postcopy.h"

#include <stdatomic.h>
#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/core/memory_scan.h"

enum {
    PAGE = KUMO_STREAM_PAGE_BYTES,
    WORD_BITS = 64,
    MAX_UNITS = 4096,
    MAX_PAGE_BYTES = 1 << 30,
    TICK_MS = 500,                /* looks that often whether the destination is to be given up */
    PACE_MS = 50,                 /* looks that often whether another bandwidth is wanted */
    PACE_MAX_US = G_USEC_PER_SEC, /* so long at most until a piece goes: it may be large, and the
                                     destination waits for some sign */
};

/* A part of the destination's memory. */
typedef struct {
    uint64_t gpa, size_bytes, page_size;
} Unit;

/* Pages that are one thread's to send. */
typedef struct {
    uint64_t gpa;
    uint64_t n_pages;
    uint64_t bits; /* which of them, if there are no more than WORD_BITS; else all */
} Claim;

struct KumoSendPostcopy {
    KumoSender *sender;
    KumoSendPages *pages;
    KumoChannel *main, *faults;
    GArray *units;           /* of Unit, of pages that are larger than ours */
    KumoPagesWriter *writer; /* the thread's */
    GThread *thread;
    unsigned region; /* where the rest goes on */
    uint64_t next_page;

    int64_t
        limit_us; /* how long the destination may say nothing when it is its turn; 0: for ever */
    _Atomic int64_t its_turn_us; /* since when it is; 0: it is not */

    GMutex lock; /* the marks, and the rest */
    bool whole;  /* the destination needs nothing more */
    GError *error;
};

#define wrong(error, ...) kumo_refuse(error, "migration stream", __VA_ARGS__)

/* --- what goes in one piece --- */

static bool read_unit(const json_t *value, Unit *ret)
{
    json_int_t numbers[3];

    for (unsigned i = 0; i < G_N_ELEMENTS(numbers); i++) {
        const json_t *number = json_array_get(value, i);

        numbers[i] = json_integer_value(number);
        if (!json_is_integer(number) || numbers[i] < 0)
            return false;
    }
    *ret = (Unit){ (uint64_t)numbers[0], (uint64_t)numbers[1], (uint64_t)numbers[2] };
    return ret->page_size >= PAGE && ret->page_size <= MAX_PAGE_BYTES &&
           (ret->page_size & (ret->page_size - 1)) == 0 && ret->gpa % PAGE == 0 &&
           ret->size_bytes % ret->page_size == 0;
}

static bool read_units(KumoSendPostcopy *postcopy, const json_t *units, GError **error)
{
    size_t i;
    const json_t *value;

    if (!json_is_array(units) || json_array_size(units) > MAX_UNITS)
        return wrong(error, "units: the destination does not say what its memory is made of");
    json_array_foreach(units, i, value)
    {
        Unit unit;

        if (!read_unit(value, &unit))
            return wrong(error, "units: number %zu is wrong", i);
        if (unit.page_size > PAGE)
            g_array_append_val(postcopy->units, unit);
    }
    return true;
}

/* The pages of @region that the destination takes as one with page @page, or the word that it is
 * in. Returns: whether it is the former. */
static bool piece_of(const KumoSendPostcopy *postcopy, const KumoMemRegion *region, uint64_t page,
                     uint64_t *ret_first, uint64_t *ret_end)
{
    uint64_t n_pages = region->size_bytes / PAGE;
    uint64_t gpa = region->gpa + page * PAGE;

    for (guint i = 0; i < postcopy->units->len; i++) {
        const Unit *unit = &g_array_index(postcopy->units, Unit, i);
        uint64_t start;

        if (gpa - unit->gpa >= unit->size_bytes)
            continue;
        start = unit->gpa + kumo_align_down(gpa - unit->gpa, unit->page_size);
        if (start < region->gpa)
            break;
        *ret_first = (start - region->gpa) / PAGE;
        *ret_end = MIN(*ret_first + unit->page_size / PAGE, n_pages);
        return true;
    }
    *ret_first = kumo_align_down(page, WORD_BITS);
    *ret_end = MIN(*ret_first + WORD_BITS, n_pages);
    return false;
}

static bool is_marked(const uint64_t *bitmap, uint64_t page)
{
    return bitmap[page / WORD_BITS] >> page % WORD_BITS & 1;
}

/* Returns: the first page from @page on that is marked; the region's number of pages: none is. */
static uint64_t next_marked(const uint64_t *bitmap, uint64_t page, uint64_t n_pages)
{
    while (page < n_pages) {
        uint64_t bits = bitmap[page / WORD_BITS] >> page % WORD_BITS;

        if (bits)
            return MIN(page + (unsigned)__builtin_ctzll(bits), n_pages);
        page = kumo_align_down(page, WORD_BITS) + WORD_BITS;
    }
    return n_pages;
}

/* A page of the destination's of which some is marked is marked as a whole. */
static void round_out(KumoSendPostcopy *postcopy)
{
    const KumoMemory *memory = postcopy->sender->memory;

    for (unsigned i = 0; i < memory->n_regions; i++) {
        const KumoMemRegion *region = &memory->regions[i];
        uint64_t *bitmap = kumo_send_pages_bitmap(postcopy->pages, i);
        uint64_t n_pages = region->size_bytes / PAGE;

        for (uint64_t page = 0; (page = next_marked(bitmap, page, n_pages)) < n_pages;) {
            uint64_t first, end;

            if (piece_of(postcopy, region, page, &first, &end)) {
                for (uint64_t at = first; at < end; at++)
                    bitmap[at / WORD_BITS] |= 1ULL << at % WORD_BITS;
            }
            page = end;
        }
    }
}

/* --- sending --- */

/* Takes what is marked of the piece that @page of region @number is in, or of its word what lies in
 * [@page, @end). Returns: the page behind. */
static uint64_t claim(KumoSendPostcopy *postcopy, unsigned number, uint64_t page, uint64_t end,
                      Claim *ret)
{
    const KumoMemRegion *region = &postcopy->sender->memory->regions[number];
    uint64_t *bitmap = kumo_send_pages_bitmap(postcopy->pages, number);
    uint64_t first, behind, n_taken = 0;
    bool whole = piece_of(postcopy, region, page, &first, &behind);

    *ret = (Claim){ 0 };
    if (!whole) {
        first = page;
        behind = MIN(behind, end);
    }
    g_mutex_lock(&postcopy->lock);
    for (uint64_t at = first; at < behind; at++) {
        if (!is_marked(bitmap, at))
            continue;
        bitmap[at / WORD_BITS] &= ~(1ULL << at % WORD_BITS);
        if (at - first < WORD_BITS)
            ret->bits |= 1ULL << (at - first);
        n_taken++;
    }
    g_mutex_unlock(&postcopy->lock);
    if (n_taken) {
        ret->gpa = region->gpa + first * PAGE;
        ret->n_pages = behind - first;
        atomic_fetch_sub_explicit(&postcopy->sender->progress.remaining_pages, n_taken,
                                  memory_order_relaxed);
    }
    return behind;
}

static bool send_claim(KumoSendPostcopy *postcopy, KumoPagesWriter *writer, const Claim *claimed,
                       GError **error)
{
    for (uint64_t i = 0; i < claimed->n_pages; i++) {
        uint64_t gpa = claimed->gpa + i * PAGE;

        if (claimed->n_pages <= WORD_BITS && !(claimed->bits >> i & 1))
            continue;
        if (!kumo_pages_add(
                writer, gpa,
                kumo_memory_page_is_zero(kumo_memory_at(postcopy->sender->memory, gpa, PAGE))
                    ? KUMO_PAGES_ZERO
                    : KUMO_PAGES_DATA,
                error))
            return false;
    }
    return kumo_pages_flush(writer, error);
}

/* --- what somebody waits for --- */

static bool serve(KumoSendPostcopy *postcopy, const json_t *document, GError **error)
{
    const KumoMemory *memory = postcopy->sender->memory;
    const json_t *gpa_value = json_object_get(document, "gpa");
    const json_t *len_value = json_object_get(document, "len");
    uint64_t gpa = (uint64_t)json_integer_value(gpa_value);
    uint64_t len = (uint64_t)json_integer_value(len_value);
    unsigned number = 0;
    uint64_t page, end;

    if (!json_is_integer(gpa_value) || !json_is_integer(len_value) ||
        json_integer_value(gpa_value) < 0 || json_integer_value(len_value) <= 0 ||
        (gpa | len) % PAGE || !kumo_memory_at(memory, gpa, len))
        return wrong(error, "FAULT: what the destination asks for is no memory");
    atomic_fetch_add(&postcopy->sender->progress.page_requests, 1);
    while (gpa - memory->regions[number].gpa >= memory->regions[number].size_bytes)
        number++;
    page = (gpa - memory->regions[number].gpa) / PAGE;
    end = page + len / PAGE;
    /* What is not marked any more is on its way. */
    while (page < end) {
        Claim claimed;

        page = claim(postcopy, number, page, end, &claimed);
        if (!send_claim(postcopy, postcopy->writer, &claimed, error))
            return false;
    }
    return true;
}

/* Until the destination has all. */
static bool serve_all(KumoSendPostcopy *postcopy, GError **error)
{
    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        if (!kumo_stream_receive(postcopy->faults, &record, error))
            return false;
        if (atomic_load(&postcopy->its_turn_us))
            atomic_store(&postcopy->its_turn_us, g_get_monotonic_time());
        switch (record.type) {
        case KUMO_RECORD_FAULT:
            if (!serve(postcopy, record.document, error))
                return false;
            break;
        case KUMO_RECORD_WHOLE:
            return true;
        default:
            return wrong(error, "%s: has no place among requests for pages",
                         kumo_record_name(record.type));
        }
    }
}

/* The destination has all, and has only to say so; before, it may be content with what it has. */
static bool may_wait_on(void *opaque)
{
    const KumoSendPostcopy *postcopy = opaque;
    int64_t since_us = atomic_load(&postcopy->its_turn_us);

    return !since_us || !postcopy->limit_us ||
           g_get_monotonic_time() - since_us < postcopy->limit_us;
}

static void *serve_thread(void *opaque)
{
    KumoSendPostcopy *postcopy = opaque;
    GError *error = NULL;
    bool whole = serve_all(postcopy, &error);

    g_mutex_lock(&postcopy->lock);
    postcopy->whole = whole;
    postcopy->error = error;
    g_mutex_unlock(&postcopy->lock);
    /* Whoever still sends what nobody needs, or to nobody. */
    if (!whole || atomic_load(&postcopy->sender->progress.remaining_pages) > 0)
        kumo_channel_hang_up(postcopy->main);
    return NULL;
}

/* --- all the rest --- */

/* Returns: FALSE: nothing is marked any more. */
static bool next_claim(KumoSendPostcopy *postcopy, Claim *ret)
{
    const KumoMemory *memory = postcopy->sender->memory;

    for (; postcopy->region < memory->n_regions; postcopy->region++, postcopy->next_page = 0) {
        uint64_t n_pages = memory->regions[postcopy->region].size_bytes / PAGE;
        const uint64_t *bitmap = kumo_send_pages_bitmap(postcopy->pages, postcopy->region);
        uint64_t page;

        g_mutex_lock(&postcopy->lock);
        page = next_marked(bitmap, postcopy->next_page, n_pages);
        g_mutex_unlock(&postcopy->lock);
        if (page == n_pages)
            continue;
        postcopy->next_page = claim(postcopy, postcopy->region, page, n_pages, ret);
        return true;
    }
    return false;
}

/* Waits until the piece that went since @sent_bytes and @start_us is no more than the bandwidth
 * allows. What the destination asks for goes meanwhile. */
static void keep_pace(KumoSendPostcopy *postcopy, uint64_t sent_bytes, int64_t start_us)
{
    const KumoSender *sender = postcopy->sender;
    uint64_t piece_bytes = kumo_send_pages_sent_bytes(postcopy->pages) - sent_bytes;
    uint64_t rate;

    while ((rate = atomic_load(&sender->max_postcopy_bandwidth)) > 0) {
        double due_us = MIN((double)piece_bytes * 1e6 / (double)rate, PACE_MAX_US);
        int64_t ahead_ms = (start_us + (int64_t)due_us - g_get_monotonic_time()) / 1000;

        /* Whoever ends the migration finds no one asleep. */
        if (ahead_ms <= 0 ||
            !kumo_migration_cancel_sleep(sender->cancel, (int)MIN(ahead_ms, PACE_MS), NULL))
            return;
    }
}

static bool send_rest(KumoSendPostcopy *postcopy, GError **error)
{
    KumoPagesWriter *writer = kumo_send_pages_writer(postcopy->pages);
    Claim claimed;

    for (;;) {
        uint64_t sent_bytes = kumo_send_pages_sent_bytes(postcopy->pages);
        int64_t start_us = g_get_monotonic_time();

        if (!next_claim(postcopy, &claimed))
            return true;
        if (!send_claim(postcopy, writer, &claimed, error))
            return false;
        kumo_send_pages_note_progress(postcopy->pages);
        keep_pace(postcopy, sent_bytes, start_us);
    }
}

/* --- beginning and end --- */

KumoSendPostcopy *kumo_send_postcopy_new(KumoSender *sender, KumoSendPages *pages,
                                         KumoChannel *main, KumoChannel *faults,
                                         const json_t *units, GError **error)
{
    KumoSendPostcopy *postcopy = g_new0(KumoSendPostcopy, 1);

    postcopy->sender = sender;
    postcopy->pages = pages;
    postcopy->main = main;
    postcopy->faults = faults;
    postcopy->limit_us = (int64_t)sender->config->peer_timeout_s * G_TIME_SPAN_SECOND;
    postcopy->units = g_array_new(FALSE, FALSE, sizeof(Unit));
    postcopy->writer = g_new0(KumoPagesWriter, 1);
    postcopy->writer->channel = faults;
    postcopy->writer->memory = sender->memory;
    g_mutex_init(&postcopy->lock);
    if (!read_units(postcopy, units, error)) {
        kumo_send_postcopy_free(postcopy);
        return NULL;
    }
    round_out(postcopy);
    atomic_store(&sender->progress.remaining_pages, kumo_send_pages_count(pages));
    return postcopy;
}

void kumo_send_postcopy_serve(KumoSendPostcopy *postcopy)
{
    KumoChannel *faults = postcopy->faults;

    faults->wait_on = may_wait_on;
    faults->wait_opaque = postcopy;
    atomic_store(&faults->patience_ms, TICK_MS);
    postcopy->thread = g_thread_new("migrate-faults", serve_thread, postcopy);
}

static void join(KumoSendPostcopy *postcopy)
{
    if (postcopy->thread)
        g_thread_join(g_steal_pointer(&postcopy->thread));
}

bool kumo_send_postcopy_finish(KumoSendPostcopy *postcopy, GError **error)
{
    g_autoptr(GError) rest_error = NULL;

    atomic_store(&postcopy->main->patience_ms, (int)(postcopy->limit_us / 1000));
    if (!send_rest(postcopy, &rest_error))
        kumo_channel_hang_up(postcopy->faults);
    atomic_store(&postcopy->its_turn_us, g_get_monotonic_time());
    join(postcopy);
    if (postcopy->whole)
        return true;
    g_propagate_error(error, rest_error ? g_steal_pointer(&rest_error)
                                        : g_steal_pointer(&postcopy->error));
    return false;
}

/* --- over other connections --- */

typedef struct {
    KumoSendPostcopy *postcopy;
    uint64_t n_left; /* pages that it may name: each once */
} Missing;

static bool mark_missing(void *opaque, uint64_t gpa, uint64_t len, GError **error)
{
    Missing *missing = opaque;
    const KumoMemory *memory = missing->postcopy->sender->memory;
    uint64_t n_pages = len / PAGE, page;
    unsigned number = 0;
    uint64_t *bitmap;

    if (n_pages > missing->n_left)
        return wrong(error, "PAGES: the destination names more than all of its memory");
    missing->n_left -= n_pages;
    /* All of it is of one region: the reader has looked. */
    while (gpa - memory->regions[number].gpa >= memory->regions[number].size_bytes)
        number++;
    bitmap = kumo_send_pages_bitmap(missing->postcopy->pages, number);
    page = (gpa - memory->regions[number].gpa) / PAGE;
    for (uint64_t end = page + n_pages; page < end; page++)
        bitmap[page / WORD_BITS] |= 1ULL << page % WORD_BITS;
    return true;
}

static bool refuse_pages(void *opaque, uint64_t gpa, const void *data, uint64_t len, GError **error)
{
    return wrong(error, "PAGES: a destination has none for the source");
}

static bool read_missing(KumoSendPostcopy *postcopy, GError **error)
{
    g_autofree uint8_t *buf = g_malloc(KUMO_PAGES_MAX_BYTES);
    Missing missing = { .postcopy = postcopy,
                        .n_left = atomic_load(&postcopy->sender->progress.total_bytes) / PAGE };
    const KumoPagesReader reader = { .channel = postcopy->main,
                                     .memory = postcopy->sender->memory,
                                     .missing = mark_missing,
                                     .place = refuse_pages,
                                     .opaque = &missing,
                                     .buf = buf };

    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        if (!kumo_stream_receive(postcopy->main, &record, error)) {
            kumo_prefix_error(error, "waiting for what the destination does not have");
            return false;
        }
        if (record.type == KUMO_RECORD_POSTCOPY)
            return true;
        if (record.type != KUMO_RECORD_PAGES)
            return wrong(error, "%s: has no place among what the destination does not have",
                         kumo_record_name(record.type));
        if (!kumo_pages_receive(&reader, &record, error))
            return false;
    }
}

bool kumo_send_postcopy_resume(KumoSendPostcopy *postcopy, GError **error)
{
    const KumoMemory *memory = postcopy->sender->memory;
    KumoPagesWriter *writer = kumo_send_pages_writer(postcopy->pages);

    for (unsigned i = 0; i < memory->n_regions; i++)
        memset(kumo_send_pages_bitmap(postcopy->pages, i), 0,
               kumo_memory_dirty_words(&memory->regions[i]) * sizeof(uint64_t));
    if (!read_missing(postcopy, error))
        return false;
    round_out(postcopy);
    atomic_store(&postcopy->sender->progress.remaining_pages,
                 kumo_send_pages_count(postcopy->pages));
    /* What was to go over the connection that broke. */
    writer->n_runs = postcopy->writer->n_runs = 0;
    writer->n_data = postcopy->writer->n_data = 0;
    postcopy->region = 0;
    postcopy->next_page = 0;
    atomic_store(&postcopy->its_turn_us, 0);
    g_clear_error(&postcopy->error);
    kumo_send_postcopy_serve(postcopy);
    return true;
}

void kumo_send_postcopy_free(KumoSendPostcopy *postcopy)
{
    if (!postcopy)
        return;
    kumo_channel_hang_up(postcopy->faults);
    join(postcopy);
    g_array_unref(postcopy->units);
    g_free(postcopy->writer);
    g_clear_error(&postcopy->error);
    g_mutex_clear(&postcopy->lock);
    g_free(postcopy);
}
