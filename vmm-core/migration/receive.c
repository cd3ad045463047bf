/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/receive.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/core/memory_map.h"
#include "vmm-core/core/memory_scan.h"
#include "vmm-core/migration/receive_lanes.h"
#include "vmm-core/migration/stream.h"

enum {
    MAX_PARTS = 4096, /* of memory that is handed over */
    HELLO_PATIENCE_MS = 10000,
    MAX_CONNECTIONS = 128,
    MIN_TOKEN = 16,
    FAREWELL_MS = 500,
};

/* A piece of the source's memory. */
typedef struct {
    uint64_t gpa, size_bytes, offset;
    int fd;
} Part;

typedef struct {
    KumoReceiver *receiver;
    KumoChannel channel;
    GArray *parts;           /* of Part, local only */
    KumoMemory *memory;      /* NULL: the machine is not built */
    KumoReceiveLanes *lanes; /* NULL: there is only one connection */
    bool local;
    bool one_way;           /* nobody waits for answers */
    bool compressed;        /* pages may be */
    KumoPagesReader reader; /* once the machine is built */
    unsigned n_others;      /* connections that are to come with pages */
    char *token;
    bool may_follow;               /* the source may let memory follow */
    KumoChannel faults;            /* then it is asked for pages here */
    KumoReceivePostcopy *postcopy; /* once the machine is built */
    bool following;                /* it has been started, and is the memory's */
    bool greeted;                  /* the source waits for answers, */
    bool told;                     /* and knows why there will be none */
} Run;

#define wrong(error, ...) kumo_refuse(error, "migration stream", __VA_ARGS__)

static void part_clear(void *opaque)
{
    kumo_fd_clear(&((Part *)opaque)->fd);
}

/* Answers @record: with what @error says if not @ok. Returns: @ok, and whether that could be sent.
 */
static bool answer(Run *run, KumoRecordType type, bool ok, GError **error)
{
    if (run->one_way)
        return ok;
    if (ok)
        return kumo_stream_acknowledge(&run->channel, type, NULL, error);
    if (error)
        kumo_stream_acknowledge(&run->channel, type, *error, NULL);
    run->told = true;
    return false;
}

static bool read_u64(const json_t *document, const char *key, uint64_t *ret)
{
    const json_t *value = json_object_get(document, key);

    *ret = (uint64_t)json_integer_value(value);
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

/* --- HELLO --- */

static bool read_connections(Run *run, const json_t *document, GError **error)
{
    const json_t *given = json_object_get(document, "connections");
    const char *token = json_string_value(json_object_get(document, "token"));
    json_int_t n = given ? json_integer_value(given) : 1;

    if (n < 1 || n > MAX_CONNECTIONS)
        return wrong(error, "connections: %" JSON_INTEGER_FORMAT ", from 1 to %d are allowed", n,
                     MAX_CONNECTIONS);
    if (n > 1 && (run->local || run->one_way || run->receiver->listener->is_stream))
        return wrong(error, "connections: there can be only one if memory is handed over, nobody "
                            "answers or a descriptor is received from");
    if ((n > 1 || run->may_follow) && (!token || strlen(token) < MIN_TOKEN))
        return wrong(error, "token: is missing");
    run->n_others = (unsigned)n - 1;
    g_free(run->token);
    run->token = g_strdup(token);
    return true;
}

static bool read_compression(Run *run, const json_t *document, GError **error)
{
    const json_t *given = json_object_get(document, "compression");
    const char *name = json_string_value(given);
    g_autofree char *shown = g_utf8_make_valid(name ? name : "what is given", -1);

    run->compressed = g_strcmp0(name, "zstd") == 0;
    if (given && !run->compressed)
        return wrong(error, "compression: %.100s is not known here, zstd is", shown);
    if (run->compressed && run->local)
        return wrong(error, "compression: there is none of memory that is handed over");
    return true;
}

/* Who reads what nobody can be asked about must know it; of another source's it is told what is
 * done here. */
static bool read_checksum(Run *run, const json_t *document, GError **error)
{
    const json_t *given = json_object_get(document, "checksum");

    run->channel.pages_summed = g_strcmp0(json_string_value(given), KUMO_PAGES_CHECKSUM) == 0;
    return !given || !run->one_way || run->channel.pages_summed ||
           wrong(error, "checksum: is not known here, " KUMO_PAGES_CHECKSUM " is");
}

static bool read_postcopy(Run *run, const json_t *document, GError **error)
{
    run->may_follow = json_is_true(json_object_get(document, "postcopy"));
    if (run->may_follow && (run->local || run->one_way || run->receiver->listener->is_stream))
        return wrong(error, "postcopy: memory cannot follow if it is handed over, nobody answers "
                            "or a descriptor is received from");
    if (run->may_follow && !run->receiver->postcopy)
        return wrong(error, "memory_mode: the source wants memory to follow the VM, and this "
                            "destination was not told that it may");
    return true;
}

static bool check_hello(Run *run, const KumoRecord *record, GError **error)
{
    const json_t *document = record->document;
    const char *format = json_string_value(json_object_get(document, "format"));
    json_int_t version = json_integer_value(json_object_get(document, "version"));

    run->one_way = json_is_true(json_object_get(document, "one_way"));
    if (record->type != KUMO_RECORD_HELLO || g_strcmp0(format, "kumo-migration") != 0)
        return wrong(error, "does not begin with HELLO of kumo-migration");
    if (version < 1 || version > KUMO_STREAM_VERSION)
        return wrong(error, "version %" JSON_INTEGER_FORMAT ": this kumo reads up to version %d",
                     version, KUMO_STREAM_VERSION);
    if (!run->one_way && !run->channel.is_socket)
        return wrong(error, "one_way: the source waits for answers, which a file cannot give");
    if (json_is_true(json_object_get(document, "recover")))
        return wrong(error, "recover: this destination waits for a VM, not for the memory of one");
    run->local = json_is_true(json_object_get(document, "local"));
    if (!read_postcopy(run, document, error) || !read_connections(run, document, error) ||
        !read_compression(run, document, error) || !read_checksum(run, document, error))
        return false;
    if (run->local && run->one_way)
        return wrong(error, "local: memory is not handed over one way");
    if (run->local && !kumo_channel_is_unix(&run->channel))
        return wrong(error, "local: memory can only be handed over on a UNIX socket");
    return true;
}

static bool answer_hello(Run *run, bool ok, GError **error)
{
    if (!ok || run->one_way || !run->channel.pages_summed)
        return answer(run, KUMO_RECORD_HELLO, ok, error);
    return kumo_stream_acknowledge_with(&run->channel, KUMO_RECORD_HELLO,
                                        json_pack("{s:s}", "checksum", KUMO_PAGES_CHECKSUM), error);
}

/* Somebody who connects and is no source does not end the wait for one. */
static bool wait_for_source(Run *run, GError **error)
{
    KumoReceiver *receiver = run->receiver;
    bool only_one = receiver->listener->is_stream;

    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;
        g_autoptr(GError) local = NULL;

        if (!kumo_channel_accept(&run->channel, receiver->listener, receiver->cancel, error))
            return false;
        atomic_store(&run->channel.patience_ms, only_one ? 0 : HELLO_PATIENCE_MS);
        if ((!receiver->tls ||
             kumo_channel_start_tls(&run->channel, receiver->tls, NULL, NULL, &local)) &&
            kumo_stream_receive(&run->channel, &record, &local) &&
            answer_hello(run, check_hello(run, &record, &local), &local))
            break;
        if (!kumo_migration_cancel_check(receiver->cancel, error))
            return false;
        if (only_one) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        kumo_warn("migration: who connected is no source: %s", local->message);
        kumo_channel_close(&run->channel);
    }
    /* Its guest runs: we wait as long as it takes. */
    atomic_store(&run->channel.patience_ms, 0);
    run->greeted = !run->one_way;
    run->told = false;
    if (run->n_others || run->may_follow) {
        run->lanes = kumo_receive_lanes_accept(receiver->listener, run->token,
                                               run->n_others + run->may_follow, receiver->tls,
                                               &run->channel, error);
        if (!run->lanes)
            return false;
        if (run->may_follow)
            kumo_receive_lanes_take_last(run->lanes, &run->faults);
    }
    kumo_channel_listener_close(receiver->listener);
    receiver->host->started(receiver->opaque);
    return true;
}

/* --- memory by descriptor --- */

static bool take_part(Run *run, KumoRecord *record, GError **error)
{
    Part part = { .fd = record->fd };
    uint64_t end;
    struct stat st;
    int seals;

    if (!run->local || run->memory || record->fd < 0 || run->parts->len == MAX_PARTS)
        return wrong(error, "MEMORY_FD: has no place here");
    if (!read_u64(record->document, "gpa", &part.gpa) ||
        !read_u64(record->document, "size", &part.size_bytes) ||
        !read_u64(record->document, "offset", &part.offset) ||
        !kumo_add_u64(part.offset, part.size_bytes, &end) || part.size_bytes == 0)
        return wrong(error, "MEMORY_FD: gpa, size or offset is wrong");
    if (fstat(part.fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < end)
        return wrong(error, "MEMORY_FD: the file is shorter than its memory");
    /* Only files of a file system, which the user has named, have no seals. */
    seals = fcntl(part.fd, F_GET_SEALS);
    if (seals >= 0 && !(seals & F_SEAL_SHRINK) && st.st_nlink == 0)
        return wrong(error, "MEMORY_FD: the memory is not sealed against shrinking");
    record->fd = -1;
    g_array_append_val(run->parts, part);
    return true;
}

/* Puts the source's memory in the place of ours. */
static bool map_parts(Run *run, GError **error)
{
    const KumoMemory *memory = run->memory;

    if (run->parts->len != memory->n_backings)
        return wrong(error, "MEMORY_FD: %u parts, this machine's memory has %u", run->parts->len,
                     memory->n_backings);
    for (unsigned i = 0; i < memory->n_backings; i++) {
        KumoMemBacking *own = (KumoMemBacking *)&memory->backings[i];
        Part *part = &g_array_index(run->parts, Part, i);

        if (part->gpa != own->gpa || part->size_bytes != own->size_bytes || !own->shared ||
            own->fd < 0 || part->offset % own->page_size)
            return wrong(error,
                         "MEMORY_FD: 0x%" G_GINT64_MODIFIER "x of %" G_GUINT64_FORMAT
                         " bytes: this machine's memory is different",
                         part->gpa, part->size_bytes);
        if (mmap(own->hva, own->size_bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED,
                 part->fd, (off_t)part->offset) == MAP_FAILED ||
            !kumo_mem_backing_lock(own, own->hva, own->size_bytes)) {
            kumo_set_error_errno(error, errno, "mapping the source's memory");
            return false;
        }
        madvise(own->hva, own->size_bytes, MADV_DONTDUMP);
        kumo_fd_clear(&own->fd);
        own->fd = kumo_fd_steal(&part->fd);
        own->fd_offset = part->offset;
    }
    return true;
}

/* --- the rest, in its order --- */

/* A source does not send pages of zeros: what a file has from before has to go. */
static void begin_with_zeros(KumoMemory *memory)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (kumo_memory_is_named_file(part) &&
            (!part->shared || kumo_memory_discard(memory, part->gpa, part->size_bytes) != 0))
            memset(part->hva, 0, part->size_bytes);
    }
}

/* A call to the main thread, which alone may use userfaultfd and start its thread. */
typedef struct {
    Run *run;
    bool ok;
    GError **error;
} Call;

static bool call_main(Run *run, void (*func)(void *arg), GError **error)
{
    Call call = { .run = run, .error = error };

    run->receiver->host->on_main(run->receiver->opaque, func, &call);
    return call.ok;
}

static bool set_missing(void *opaque, uint64_t gpa, uint64_t len, GError **error)
{
    return kumo_receive_postcopy_set_missing(opaque, gpa, len, error);
}

static void prepare_postcopy(void *arg)
{
    Call *call = arg;
    Run *run = call->run;

    run->postcopy = kumo_receive_postcopy_new(run->memory, &run->receiver->watch, run->token,
                                              run->receiver->tls != NULL, call->error);
    run->reader.missing = set_missing;
    run->reader.opaque = run->postcopy;
    call->ok = run->postcopy != NULL;
}

static void start_postcopy(void *arg)
{
    Call *call = arg;
    Run *run = call->run;

    run->following = true;
    call->ok = kumo_receive_postcopy_start(run->postcopy, &run->faults, call->error);
}

/* Memory has all but what follows: from now on none of it is written but by who brings that. */
static bool begin_postcopy(Run *run, GError **error)
{
    if (!run->postcopy || run->following)
        return wrong(error, "POSTCOPY: has no place here");
    if (!kumo_receive_lanes_finish(run->lanes, error) || !call_main(run, start_postcopy, error))
        return false;
    /* Its guest stands still, and STATE is all that is left. */
    atomic_store(&run->channel.patience_ms,
                 kumo_patience_ms(run->receiver->watch.timeout_s, KUMO_PATIENCE_STILL_MS));
    return true;
}

static void follow(void *arg)
{
    Call *call = arg;
    Run *run = call->run;

    kumo_receive_postcopy_follow(run->postcopy, &run->channel,
                                 g_steal_pointer(&run->reader.decompressor));
}

static bool build(Run *run, const KumoRecord *record, GError **error)
{
    KumoReceiver *receiver = run->receiver;

    if (run->memory)
        return wrong(error, "CONFIG: comes twice");
    if (!receiver->host->build(receiver->opaque, record->document, &run->memory, error))
        return false;
    if (run->local)
        return map_parts(run, error);
    begin_with_zeros(run->memory);
    run->reader.channel = &run->channel;
    run->reader.memory = run->memory;
    if (run->compressed)
        run->reader.decompressor = kumo_decompressor_new(KUMO_PAGES_MAX_BYTES, error);
    if (run->compressed && !run->reader.decompressor)
        return false;
    if (run->may_follow && !call_main(run, prepare_postcopy, error))
        return false;
    return !run->lanes || kumo_receive_lanes_start(run->lanes, run->memory, run->compressed, error);
}

static bool check_built(const Run *run, const KumoRecord *record, GError **error)
{
    return run->memory != NULL ||
           wrong(error, "%s: comes before CONFIG", kumo_record_name(record->type));
}

static bool load(Run *run, const KumoRecord *record, GError **error)
{
    KumoReceiver *receiver = run->receiver;

    return check_built(run, record, error) && kumo_receive_lanes_finish(run->lanes, error) &&
           receiver->host->load(receiver->opaque, record->document, error) &&
           /* What it was loaded from may have been lost meanwhile. */
           (!run->following || kumo_receive_postcopy_commit(run->postcopy, false, error));
}

/* With post-copy the source is told what our memory is made of. */
static bool answer_config(Run *run, bool ok, GError **error)
{
    if (!ok || !run->postcopy)
        return answer(run, KUMO_RECORD_CONFIG, ok, error);
    return kumo_stream_acknowledge_with(&run->channel, KUMO_RECORD_CONFIG,
                                        kumo_receive_postcopy_describe(run->postcopy), error);
}

/* Returns: FALSE with @error, which the source has been told where it waits for an answer. */
static bool handle_record(Run *run, KumoRecord *record, GError **error)
{
    switch (record->type) {
    case KUMO_RECORD_MEMORY_FD:
        return take_part(run, record, error);
    case KUMO_RECORD_CONFIG:
        return answer_config(run, build(run, record, error), error);
    case KUMO_RECORD_POSTCOPY:
        return answer(run, record->type, begin_postcopy(run, error), error);
    case KUMO_RECORD_PAGES:
        return check_built(run, record, error) &&
               (!(run->local || run->following) || wrong(error, "PAGES: not here")) &&
               kumo_pages_receive(&run->reader, record, error);
    case KUMO_RECORD_ROUND:
        return answer(
            run, record->type,
            check_built(run, record, error) && kumo_receive_lanes_check(run->lanes, error), error);
    case KUMO_RECORD_STATE:
        return answer(run, record->type, load(run, record, error), error);
    default:
        return wrong(error, "%s: is not for a destination", kumo_record_name(record->type));
    }
}

/* What ended the first connection may be what happened on another. */
static void tell_of_lanes(Run *run, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (kumo_receive_lanes_check(run->lanes, &local))
        return;
    kumo_stream_acknowledge(&run->channel, KUMO_RECORD_ROUND, local, NULL);
    run->told = true;
    g_clear_error(error);
    g_propagate_error(error, g_steal_pointer(&local));
}

/* Until the state has been loaded. */
static bool receive_machine(Run *run, GError **error)
{
    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        if (!kumo_stream_receive(&run->channel, &record, error)) {
            tell_of_lanes(run, error);
            return false;
        }
        if (!handle_record(run, &record, error))
            return false;
        if (record.type == KUMO_RECORD_STATE)
            return true;
    }
}

static bool receive_go(Run *run, GError **error)
{
    KumoReceiver *receiver = run->receiver;
    g_auto(KumoRecord) record = KUMO_RECORD_INIT;
    g_autoptr(GError) lost = NULL;
    bool paused;

    /* It has nothing to do any more but to say it. */
    if (!run->one_way)
        atomic_store(&run->channel.patience_ms,
                     kumo_patience_ms(receiver->watch.timeout_s, KUMO_PATIENCE_GO_MS));
    if (!kumo_stream_receive(&run->channel, &record, error)) {
        kumo_prefix_error(error, "waiting for GO");
        return false;
    }
    if (record.type != KUMO_RECORD_GO)
        return wrong(error, "%s: comes instead of GO", kumo_record_name(record.type));
    paused = json_is_true(json_object_get(record.document, "paused"));
    if (!kumo_migration_cancel_commit(receiver->cancel, error))
        return false;
    if (run->following && !kumo_receive_postcopy_commit(run->postcopy, true, error))
        return answer(run, KUMO_RECORD_GO, false, error);
    if (run->following && receiver->watch.started)
        receiver->watch.started(receiver->watch.opaque);
    if (!receiver->host->go(receiver->opaque, paused, error)) {
        if (run->following)
            kumo_receive_postcopy_commit(run->postcopy, false, NULL);
        return answer(run, KUMO_RECORD_GO, false, error);
    }
    /* The machine is here, whether the source hears of it or not. */
    if (!run->one_way && !kumo_stream_acknowledge(&run->channel, KUMO_RECORD_GO, NULL, &lost))
        kumo_warn("migration: the source does not hear that the VM runs here: %s", lost->message);
    if (run->following)
        call_main(run, follow, NULL);
    return true;
}

/* A source that waits, or will when it goes on, need not guess then. */
static void say_why(Run *run, const GError *problem)
{
    if (!run->greeted || run->told || !problem)
        return;
    kumo_channel_take_leave(&run->channel, FAREWELL_MS);
    kumo_stream_acknowledge(&run->channel, KUMO_RECORD_GO, problem, NULL);
}

bool kumo_receive_run(KumoReceiver *receiver, GError **error)
{
    Run run = { .receiver = receiver, .channel.fd = -1, .faults.fd = -1 };
    GError *problem = NULL;
    bool ok;

    run.parts = g_array_new(FALSE, FALSE, sizeof(Part));
    g_array_set_clear_func(run.parts, part_clear);
    ok = wait_for_source(&run, &problem) && receive_machine(&run, &problem) &&
         receive_go(&run, &problem);
    if (!ok)
        say_why(&run, problem);
    if (problem)
        g_propagate_error(error, problem);
    kumo_receive_lanes_free(run.lanes);
    if (!run.following)
        kumo_receive_postcopy_free(run.postcopy);
    kumo_channel_close(&run.channel);
    kumo_channel_close(&run.faults);
    kumo_decompressor_free(run.reader.decompressor);
    g_array_unref(run.parts);
    g_free(run.token);
    return ok;
}
