/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/receive_postcopy.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/sandbox.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/stream.h"

enum {
    WINDOW_BYTES = 64 << 10, /* what is next to a page is likely to be touched, too */
    FAULTS = 0,
    REST = 1,
    N_READERS = 2,
    TICK_MS = 500,      /* looks that often whether the source is to be given up */
    FAREWELL_MS = 5000, /* for the source to hear that nothing is needed any more */
};

/* One connection that brings pages, and its thread. */
typedef struct {
    KumoReceivePostcopy *postcopy;
    KumoChannel channel;
    KumoPagesReader pages;
    /* A page that is larger than those of the stream, as far as it has come. */
    uint8_t *staging; /* NULL: there was none yet */
    uint64_t unit_gpa, unit_bytes, unit_filled;
    bool unit_has_data;
} Reader;

struct KumoReceivePostcopy {
    KumoMemory *memory;
    KumoUserfault *engine; /* owned until it has been started */
    KumoPostcopyWatch watch;
    KumoMigrationCancel cancel;
    Reader readers[N_READERS];
    uint64_t largest_page;
    char *token;             /* what the source calls itself */
    bool secured;            /* the source came by TLS */
    _Atomic int64_t last_us; /* when a page came, or was asked for */

    GMutex lock; /* the rest */
    GCond changed;
    unsigned n_users; /* of the connections */
    bool ours;        /* the machine */
    bool whole;       /* no page is needed any more */
    bool following;   /* the machine is ours, and who watches knows */
    bool broken;      /* the connections have to be made anew */
    GError *error;    /* pages are lost */
};

#define wrong(error, ...) kumo_refuse(error, "migration stream", __VA_ARGS__)

/* --- pages that arrive --- */

static const KumoMemBacking *find_backing(const KumoMemory *memory, uint64_t gpa)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (gpa - part->gpa < part->size_bytes)
            return part;
    }
    return NULL;
}

/* Begins a page of @part. It has to come from its beginning to its end. */
static bool begin_unit(Reader *reader, const KumoMemBacking *part, uint64_t gpa, GError **error)
{
    if ((gpa - part->gpa) % part->page_size)
        return wrong(error,
                     "PAGES: 0x%" G_GINT64_MODIFIER "x is not where a page of %" G_GUINT64_FORMAT
                     " bytes begins",
                     gpa, part->page_size);
    if (!reader->staging) {
        void *staging = mmap(NULL, reader->postcopy->largest_page, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (staging == MAP_FAILED) {
            kumo_set_error_errno(error, errno, "post-copy: a buffer for a page");
            return false;
        }
        reader->staging = staging;
    }
    reader->unit_gpa = gpa;
    reader->unit_bytes = part->page_size;
    reader->unit_has_data = false;
    return true;
}

/* Takes up to *@len bytes, and sets it to how many. */
static bool assemble(Reader *reader, const KumoMemBacking *part, uint64_t gpa, const uint8_t *data,
                     uint64_t *len, GError **error)
{
    if (reader->unit_filled == 0 && !begin_unit(reader, part, gpa, error))
        return false;
    if (gpa != reader->unit_gpa + reader->unit_filled)
        return wrong(error, "PAGES: 0x%" G_GINT64_MODIFIER "x comes in the middle of another page",
                     gpa);
    *len = MIN(*len, reader->unit_bytes - reader->unit_filled);
    if (data)
        memcpy(reader->staging + reader->unit_filled, data, *len);
    else
        memset(reader->staging + reader->unit_filled, 0, *len);
    reader->unit_has_data |= data != NULL;
    reader->unit_filled += *len;
    if (reader->unit_filled < reader->unit_bytes)
        return true;
    reader->unit_filled = 0;
    return kumo_userfault_place(reader->postcopy->engine, reader->unit_gpa,
                                reader->unit_has_data ? reader->staging : NULL, reader->unit_bytes,
                                error);
}

static bool is_whole(KumoReceivePostcopy *postcopy)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&postcopy->lock);

    return postcopy->whole;
}

static bool place(void *opaque, uint64_t gpa, const void *content, uint64_t len, GError **error)
{
    Reader *reader = opaque;
    KumoReceivePostcopy *postcopy = reader->postcopy;
    const uint8_t *data = content;

    if (is_whole(postcopy))
        return true;
    while (len > 0) {
        const KumoMemBacking *part = find_backing(postcopy->memory, gpa);
        uint64_t n;

        if (!part)
            return wrong(error, "PAGES: 0x%" G_GINT64_MODIFIER "x is no RAM", gpa);
        n = MIN(len, part->size_bytes - (gpa - part->gpa));
        if (part->page_size == KUMO_STREAM_PAGE_BYTES
                ? !kumo_userfault_place(postcopy->engine, gpa, data, n, error)
                : !assemble(reader, part, gpa, data, &n, error))
            return false;
        gpa += n;
        data = data ? data + n : NULL;
        len -= n;
    }
    return true;
}

/* --- the threads --- */

static bool read_pages(Reader *reader, GError **error)
{
    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        if (!kumo_stream_receive(&reader->channel, &record, error)) {
            kumo_prefix_error(error, "waiting for pages that follow");
            return false;
        }
        atomic_store(&reader->postcopy->last_us, g_get_monotonic_time());
        if (record.type != KUMO_RECORD_PAGES)
            return wrong(error, "%s: has no place among pages that follow",
                         kumo_record_name(record.type));
        if (!kumo_pages_receive(&reader->pages, &record, error))
            return false;
    }
}

/* The source may say nothing as long as nobody waits for a page. Before the machine is ours, it is
 * the main thread that may, while it loads the state. */
static bool may_wait_on(void *opaque)
{
    KumoReceivePostcopy *postcopy = opaque;
    int64_t silent_us = g_get_monotonic_time() - atomic_load(&postcopy->last_us);
    uint32_t timeout_s = postcopy->watch.timeout_s;
    int64_t limit_us = (int64_t)timeout_s * G_TIME_SPAN_SECOND;
    bool ours;

    g_mutex_lock(&postcopy->lock);
    ours = postcopy->ours;
    g_mutex_unlock(&postcopy->lock);
    if (!ours)
        limit_us = kumo_patience_ms(timeout_s, KUMO_PATIENCE_STILL_MS) * G_TIME_SPAN_MILLISECOND;
    return !limit_us || silent_us < limit_us || kumo_userfault_awaited_bytes(postcopy->engine) == 0;
}

/* Under the lock: nobody uses the connections any more, nor will. */
static void close_channels(KumoReceivePostcopy *postcopy)
{
    for (unsigned i = 0; i < N_READERS; i++)
        kumo_channel_close(&postcopy->readers[i].channel);
}

/* Under the lock. */
static void hang_up(KumoReceivePostcopy *postcopy)
{
    for (unsigned i = 0; i < N_READERS; i++)
        kumo_channel_hang_up(&postcopy->readers[i].channel);
}

static void leave(KumoReceivePostcopy *postcopy)
{
    g_mutex_lock(&postcopy->lock);
    if (--postcopy->n_users == 0 && (postcopy->whole || postcopy->broken))
        close_channels(postcopy);
    g_cond_broadcast(&postcopy->changed);
    g_mutex_unlock(&postcopy->lock);
}

/* A connection is of no use any more. If the machine is ours, whoever waits for a page waits for
 * another one; else there will be no machine. Any thread that uses the connections. */
static void cut_off(KumoReceivePostcopy *postcopy, const GError *error)
{
    bool ours, first = false;

    g_mutex_lock(&postcopy->lock);
    ours = postcopy->ours;
    if (ours && !postcopy->broken && !postcopy->whole && !postcopy->error) {
        first = true;
        postcopy->broken = true;
        /* The source hears it, too. */
        hang_up(postcopy);
    }
    g_mutex_unlock(&postcopy->lock);
    if (!ours)
        kumo_userfault_fail(postcopy->engine, error);
    else if (first)
        postcopy->watch.broken(postcopy->watch.opaque, error);
}

static void *reader_thread(void *opaque)
{
    Reader *reader = opaque;
    KumoReceivePostcopy *postcopy = reader->postcopy;
    g_autoptr(GError) error = NULL;

    kumo_sandbox_enter(&kumo_userfault_thread);
    read_pages(reader, &error);
    if (!is_whole(postcopy))
        cut_off(postcopy, error);
    leave(postcopy);
    return NULL;
}

static void reader_clear(Reader *reader)
{
    kumo_decompressor_free(reader->pages.decompressor);
    g_free(reader->pages.buf);
    if (reader->staging)
        munmap(reader->staging, reader->postcopy->largest_page);
    *reader = (Reader){ .channel.fd = -1 };
}

/* Under the lock. @channel and @decompressor are the reader's from now on. */
static void set_up_reader(KumoReceivePostcopy *postcopy, unsigned number, KumoChannel *channel,
                          KumoDecompressor *decompressor)
{
    Reader *reader = &postcopy->readers[number];

    reader_clear(reader);
    *reader = (Reader){ .postcopy = postcopy, .channel = *channel };
    postcopy->n_users++;
    channel->fd = -1;
    channel->codec = NULL;
    reader->channel.cancel = &postcopy->cancel;
    reader->channel.wait_on = number == FAULTS ? may_wait_on : NULL;
    reader->channel.wait_opaque = postcopy;
    atomic_store(&reader->channel.patience_ms, number == FAULTS ? TICK_MS : 0);
    reader->pages = (KumoPagesReader){ .channel = &reader->channel,
                                       .memory = postcopy->memory,
                                       .decompressor = decompressor,
                                       .place = place,
                                       .opaque = reader,
                                       .buf = g_malloc(KUMO_PAGES_MAX_BYTES) };
    if (postcopy->error || postcopy->broken)
        kumo_channel_hang_up(&reader->channel);
}

/* It ends in any case. */
static bool run_reader(KumoReceivePostcopy *postcopy, unsigned number, GError **error)
{
    GThread *thread =
        g_thread_try_new("postcopy", reader_thread, &postcopy->readers[number], error);

    if (thread)
        g_thread_unref(thread);
    else
        leave(postcopy);
    return thread != NULL;
}

static bool start_reader(KumoReceivePostcopy *postcopy, unsigned number, KumoChannel *channel,
                         KumoDecompressor *decompressor, GError **error)
{
    g_mutex_lock(&postcopy->lock);
    set_up_reader(postcopy, number, channel, decompressor);
    g_mutex_unlock(&postcopy->lock);
    return run_reader(postcopy, number, error);
}

/* --- for the engine, on its thread --- */

static KumoFetch fetch(void *opaque, uint64_t gpa, void *buf, size_t len, GError **error)
{
    KumoReceivePostcopy *postcopy = opaque;
    KumoFetch result = KUMO_FETCH_LATER;
    bool ours;

    g_mutex_lock(&postcopy->lock);
    ours = postcopy->ours;
    if (postcopy->broken) {
        /* It is asked for over the next connection. */
        g_mutex_unlock(&postcopy->lock);
        return result;
    }
    postcopy->n_users++;
    g_mutex_unlock(&postcopy->lock);
    atomic_store(&postcopy->last_us, g_get_monotonic_time());
    if (!kumo_stream_send(&postcopy->readers[FAULTS].channel, KUMO_RECORD_FAULT,
                          json_pack("{s:I, s:I}", "gpa", (json_int_t)gpa, "len", (json_int_t)len),
                          -1, error)) {
        if (ours) {
            cut_off(postcopy, *error);
            g_clear_error(error);
        } else {
            result = KUMO_FETCH_FAILED;
        }
    }
    leave(postcopy);
    return result;
}

/* The source may go. */
static void say_whole(KumoReceivePostcopy *postcopy)
{
    KumoChannel *channel = &postcopy->readers[FAULTS].channel;
    g_autoptr(GError) error = NULL;

    if (!kumo_stream_send(channel, KUMO_RECORD_WHOLE, json_object(), -1, &error))
        kumo_warn("migration: the source does not hear that all memory is here: %s",
                  error->message);
    kumo_channel_end_writing(channel);
}

static void finished(void *opaque)
{
    KumoReceivePostcopy *postcopy = opaque;
    bool tell, connected;

    g_mutex_lock(&postcopy->lock);
    postcopy->whole = true;
    postcopy->n_users++;
    tell = postcopy->following;
    connected = !postcopy->broken;
    g_mutex_unlock(&postcopy->lock);
    if (connected)
        say_whole(postcopy);
    leave(postcopy);
    if (tell)
        postcopy->watch.finished(postcopy->watch.opaque);
}

/* On any thread. */
static void failed(void *opaque, const GError *error)
{
    KumoReceivePostcopy *postcopy = opaque;
    bool ours;

    g_mutex_lock(&postcopy->lock);
    if (!postcopy->error)
        postcopy->error = g_error_copy(error);
    ours = postcopy->ours;
    /* The source hears it, too. */
    hang_up(postcopy);
    g_mutex_unlock(&postcopy->lock);
    if (ours)
        postcopy->watch.failed(postcopy->watch.opaque, error);
    else
        kumo_userfault_abandon(postcopy->engine);
}

static void release(void *opaque)
{
    KumoReceivePostcopy *postcopy = opaque;
    int64_t until = g_get_monotonic_time() + (int64_t)FAREWELL_MS * G_TIME_SPAN_MILLISECOND;
    bool farewell;

    g_mutex_lock(&postcopy->lock);
    farewell = postcopy->ours && !postcopy->whole && !postcopy->error && !postcopy->broken;
    postcopy->whole = true;
    g_mutex_unlock(&postcopy->lock);
    /* The machine ends before all of its memory has come. */
    if (farewell)
        say_whole(postcopy);
    else
        kumo_migration_cancel_force(&postcopy->cancel);
    g_mutex_lock(&postcopy->lock);
    while (postcopy->n_users && g_cond_wait_until(&postcopy->changed, &postcopy->lock, until))
        ;
    kumo_migration_cancel_force(&postcopy->cancel);
    while (postcopy->n_users)
        g_cond_wait(&postcopy->changed, &postcopy->lock);
    close_channels(postcopy);
    g_mutex_unlock(&postcopy->lock);
    for (unsigned i = 0; i < N_READERS; i++)
        reader_clear(&postcopy->readers[i]);
    g_free(postcopy->token);
    kumo_migration_cancel_clear(&postcopy->cancel);
    g_clear_error(&postcopy->error);
    g_mutex_clear(&postcopy->lock);
    g_cond_clear(&postcopy->changed);
    g_free(postcopy);
}

static const KumoUserfaultOps ops = {
    .fetch = fetch,
    .window_bytes = WINDOW_BYTES,
    .finished = finished,
    .failed = failed,
    .release = release,
};

/* --- beginning --- */

static bool check_memory(const KumoMemory *memory, GError **error)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        if (kumo_userfault_supports(&memory->backings[i]))
            continue;
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "memory_mode: the memory at 0x%" G_GINT64_MODIFIER
                    "x is of a file whose pages cannot follow one by one",
                    memory->backings[i].gpa);
        return false;
    }
    return true;
}

KumoReceivePostcopy *kumo_receive_postcopy_new(KumoMemory *memory, const KumoPostcopyWatch *watch,
                                               const char *token, bool secured, GError **error)
{
    KumoReceivePostcopy *postcopy;

    if (!check_memory(memory, error))
        return NULL;
    postcopy = g_new0(KumoReceivePostcopy, 1);
    postcopy->memory = memory;
    postcopy->watch = *watch;
    postcopy->token = g_strdup(token);
    postcopy->secured = secured;
    for (unsigned i = 0; i < N_READERS; i++)
        postcopy->readers[i].channel.fd = -1;
    for (unsigned i = 0; i < memory->n_backings; i++)
        postcopy->largest_page = MAX(postcopy->largest_page, memory->backings[i].page_size);
    g_mutex_init(&postcopy->lock);
    g_cond_init(&postcopy->changed);
    if (!kumo_migration_cancel_init(&postcopy->cancel, error) ||
        !(postcopy->engine =
              kumo_userfault_new(memory->backings, memory->n_backings, &ops, postcopy, error))) {
        release(postcopy);
        return NULL;
    }
    for (unsigned i = 0; i < memory->n_backings; i++)
        kumo_userfault_set_missing(postcopy->engine, memory->backings[i].gpa,
                                   memory->backings[i].size_bytes, false);
    return postcopy;
}

json_t *kumo_receive_postcopy_describe(const KumoReceivePostcopy *postcopy)
{
    json_t *units = json_array();

    for (unsigned i = 0; i < postcopy->memory->n_backings; i++) {
        const KumoMemBacking *part = &postcopy->memory->backings[i];

        json_array_append_new(units,
                              json_pack("[I, I, I]", (json_int_t)part->gpa,
                                        (json_int_t)part->size_bytes, (json_int_t)part->page_size));
    }
    return json_pack("{s:o}", "units", units);
}

bool kumo_receive_postcopy_set_missing(KumoReceivePostcopy *postcopy, uint64_t gpa, uint64_t len,
                                       GError **error)
{
    while (len > 0) {
        const KumoMemBacking *part = find_backing(postcopy->memory, gpa);
        uint64_t n, start, end;
        int err;

        if (!part)
            return wrong(error, "PAGES: 0x%" G_GINT64_MODIFIER "x is no RAM", gpa);
        n = MIN(len, part->size_bytes - (gpa - part->gpa));
        /* A page of ours of which something is missing comes as a whole. */
        start = kumo_align_down(gpa - part->gpa, part->page_size);
        end = kumo_align_up(gpa - part->gpa + n, part->page_size);
        err = kumo_userfault_set_missing(postcopy->engine, part->gpa + start, end - start, true);
        if (err) {
            kumo_set_error_errno(error, err, "post-copy: dropping the pages that follow");
            return false;
        }
        gpa += n;
        len -= n;
    }
    return true;
}

bool kumo_receive_postcopy_start(KumoReceivePostcopy *postcopy, KumoChannel *faults, GError **error)
{
    KumoUserfault *engine = postcopy->engine;

    /* The engine may ask at once. */
    if (!start_reader(postcopy, FAULTS, faults, NULL, error)) {
        kumo_userfault_free(engine);
        return false;
    }
    if (!kumo_memory_come_on_demand(postcopy->memory, engine, error))
        return false;
    /* A failure that came before could not wake who began to wait only now. */
    if (kumo_receive_postcopy_commit(postcopy, false, error))
        return true;
    kumo_userfault_abandon(engine);
    return false;
}

bool kumo_receive_postcopy_commit(KumoReceivePostcopy *postcopy, bool ours, GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&postcopy->lock);

    if (postcopy->error) {
        g_propagate_error(error, g_error_copy(postcopy->error));
        return false;
    }
    postcopy->ours = ours;
    if (!ours && postcopy->broken)
        kumo_userfault_abandon(postcopy->engine);
    return true;
}

void kumo_receive_postcopy_follow(KumoReceivePostcopy *postcopy, KumoChannel *channel,
                                  KumoDecompressor *decompressor)
{
    g_autoptr(GError) error = NULL;
    bool whole;

    g_mutex_lock(&postcopy->lock);
    postcopy->following = true;
    whole = postcopy->whole;
    g_mutex_unlock(&postcopy->lock);
    if (whole)
        postcopy->watch.finished(postcopy->watch.opaque);
    if (!start_reader(postcopy, REST, channel, decompressor, &error) && !whole)
        kumo_userfault_fail(postcopy->engine, error);
}

/* --- over other connections --- */

KumoReceivePostcopy *kumo_receive_postcopy_of(const KumoMemory *memory)
{
    return memory->userfault ? kumo_userfault_opaque(memory->userfault, &ops) : NULL;
}

bool kumo_receive_postcopy_is_broken(KumoReceivePostcopy *postcopy)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&postcopy->lock);

    return postcopy->broken;
}

bool kumo_receive_postcopy_is_secured(const KumoReceivePostcopy *postcopy)
{
    return postcopy->secured;
}

const char *kumo_receive_postcopy_token(const KumoReceivePostcopy *postcopy)
{
    return postcopy->token;
}

uint64_t kumo_receive_postcopy_missing_bytes(KumoReceivePostcopy *postcopy)
{
    return kumo_userfault_missing_bytes(postcopy->engine);
}

/* Whoever still looks after a broken connection finds its end. */
static bool wait_unused(KumoReceivePostcopy *postcopy, KumoMigrationCancel *cancel, GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&postcopy->lock);

    while (postcopy->n_users) {
        if (!kumo_migration_cancel_check(cancel, error))
            return false;
        g_cond_wait_until(&postcopy->changed, &postcopy->lock,
                          g_get_monotonic_time() + (int64_t)TICK_MS * G_TIME_SPAN_MILLISECOND);
    }
    return true;
}

bool kumo_receive_postcopy_tell_missing(KumoReceivePostcopy *postcopy, KumoChannel *channel,
                                        GError **error)
{
    g_autofree KumoPagesWriter *writer = g_new0(KumoPagesWriter, 1);
    uint64_t gpa = 0, len, n_bytes = 0;

    if (!wait_unused(postcopy, channel->cancel, error))
        return false;
    writer->channel = channel;
    writer->memory = postcopy->memory;
    for (; kumo_userfault_next_missing(postcopy->engine, &gpa, &len); gpa += len) {
        for (uint64_t offset = 0; offset < len; offset += KUMO_STREAM_PAGE_BYTES) {
            if (!kumo_pages_add(writer, gpa + offset, KUMO_PAGES_MISSING, error))
                return false;
        }
        n_bytes += len;
    }
    return kumo_pages_flush(writer, error) &&
           kumo_stream_send(channel, KUMO_RECORD_POSTCOPY,
                            json_pack("{s:I}", "bytes", (json_int_t)n_bytes), -1, error);
}

bool kumo_receive_postcopy_reconnect(KumoReceivePostcopy *postcopy, KumoChannel *main,
                                     KumoChannel *faults, KumoDecompressor *decompressor,
                                     GError **error)
{
    bool whole, ok;

    atomic_store(&postcopy->last_us, g_get_monotonic_time());
    g_mutex_lock(&postcopy->lock);
    postcopy->broken = false;
    whole = postcopy->whole;
    set_up_reader(postcopy, FAULTS, faults, NULL);
    set_up_reader(postcopy, REST, main, decompressor);
    /* Who tells how it goes on is not to find a connection closed that it has not seen yet. */
    postcopy->n_users++;
    g_mutex_unlock(&postcopy->lock);
    ok = run_reader(postcopy, FAULTS, error);
    ok = run_reader(postcopy, REST, ok ? error : NULL) && ok;
    if (!ok) {
        g_mutex_lock(&postcopy->lock);
        postcopy->broken = true;
        hang_up(postcopy);
        g_mutex_unlock(&postcopy->lock);
    } else if (whole) {
        say_whole(postcopy);
    } else {
        kumo_userfault_ask_again(postcopy->engine);
    }
    leave(postcopy);
    return ok;
}

void kumo_receive_postcopy_free(KumoReceivePostcopy *postcopy)
{
    if (postcopy)
        kumo_userfault_free(postcopy->engine);
}
