/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/stream.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/memory.h"

/* "kumo" */
#define RECORD_MAGIC 0x6f6d756bU

enum {
    DOCUMENT_MAX_BYTES = 64 << 20, /* far above what the largest VM has */
    SUM_BYTES = sizeof(uint64_t),  /* the checksum behind the data of PAGES */
};

typedef struct {
    uint32_t magic;
    uint32_t type;
    uint64_t length; /* of the payload */
    uint64_t check;  /* of the payload, of PAGES of the table of its runs */
} Header;

G_STATIC_ASSERT(sizeof(Header) == 24);
G_STATIC_ASSERT(sizeof(KumoPagesRun) == 16);

/* The first bytes of SHA-256: against faults on the way, not against who sends. */
static uint64_t checksum(const void *data, size_t len)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize digest_len = sizeof(digest);
    uint64_t value;

    g_checksum_update(sum, data, (gssize)len);
    g_checksum_get_digest(sum, digest, &digest_len);
    memcpy(&value, digest, sizeof(value));
    return GUINT64_FROM_LE(value);
}

static const char *const names[] = {
    [KUMO_RECORD_HELLO] = "HELLO",
    [KUMO_RECORD_MEMORY_FD] = "MEMORY_FD",
    [KUMO_RECORD_CONFIG] = "CONFIG",
    [KUMO_RECORD_PAGES] = "PAGES",
    [KUMO_RECORD_ROUND] = "ROUND",
    [KUMO_RECORD_STATE] = "STATE",
    [KUMO_RECORD_GO] = "GO",
    [KUMO_RECORD_ACK] = "ACK",
    [KUMO_RECORD_POSTCOPY] = "POSTCOPY",
    [KUMO_RECORD_FAULT] = "FAULT",
    [KUMO_RECORD_WHOLE] = "WHOLE",
};

const char *kumo_record_name(KumoRecordType type)
{
    return type >= KUMO_RECORD_HELLO && type <= KUMO_RECORD_LAST ? names[type] : "unknown";
}

void kumo_record_clear(KumoRecord *record)
{
    json_decref(record->document);
    kumo_fd_clear(&record->fd);
    *record = (KumoRecord)KUMO_RECORD_INIT;
}

#define wrong(error, ...) kumo_refuse(error, "migration stream", __VA_ARGS__)

static void make_header(Header *header, KumoRecordType type, uint64_t length, uint64_t check)
{
    *header = (Header){ .magic = GUINT32_TO_LE(RECORD_MAGIC),
                        .type = GUINT32_TO_LE((uint32_t)type),
                        .length = GUINT64_TO_LE(length),
                        .check = GUINT64_TO_LE(check) };
}

bool kumo_stream_send(KumoChannel *channel, KumoRecordType type, json_t *document, int fd,
                      GError **error)
{
    char *text = json_dumps(document, JSON_COMPACT);
    size_t len = text ? strlen(text) : 0;
    struct iovec iov[2];
    Header header;
    bool ok;

    json_decref(document);
    if (!text || len > DOCUMENT_MAX_BYTES) {
        free(text);
        return wrong(error, "%s: cannot be written as JSON", kumo_record_name(type));
    }
    make_header(&header, type, len, checksum(text, len));
    iov[0] = (struct iovec){ &header, sizeof(header) };
    iov[1] = (struct iovec){ text, len };
    ok = kumo_channel_write(channel, iov, G_N_ELEMENTS(iov), fd, error);
    free(text);
    return ok;
}

static bool receive_document(KumoChannel *channel, KumoRecord *record, GError **error)
{
    const char *name = kumo_record_name(record->type);
    g_autofree char *text = NULL;
    json_error_t where;

    if (record->length > DOCUMENT_MAX_BYTES)
        return wrong(error, "%s: %" G_GUINT64_FORMAT " bytes, at most %d are allowed", name,
                     record->length, DOCUMENT_MAX_BYTES);
    /* The memory is touched as it comes, not before. */
    text = g_try_malloc(record->length + 1);
    if (!text)
        return wrong(error, "%s: no memory for %" G_GUINT64_FORMAT " bytes", name, record->length);
    if (!kumo_channel_read(channel, text, record->length, NULL, error))
        return false;
    if (checksum(text, record->length) != record->check)
        return wrong(error, "%s: its checksum is wrong", name);
    record->document = json_loadb(text, record->length, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(record->document))
        return wrong(error, "%s: is not a JSON object", name);
    return true;
}

/* An alert or a handshake of RFC 8446, section 5.1. */
static bool looks_like_tls(uint32_t magic)
{
    const uint8_t *bytes = (const uint8_t *)&magic;

    return (bytes[0] == 21 || bytes[0] == 22) && bytes[1] == 3;
}

bool kumo_stream_receive(KumoChannel *channel, KumoRecord *record, GError **error)
{
    Header header;

    *record = (KumoRecord)KUMO_RECORD_INIT;
    if (!kumo_channel_read(channel, &header.magic, sizeof(header.magic), &record->fd, error))
        return false;
    if (looks_like_tls(header.magic))
        return wrong(error, "the other side speaks TLS, which is not wanted here (tls_dir)");
    if (GUINT32_FROM_LE(header.magic) != RECORD_MAGIC)
        return wrong(error, "a record does not begin like one of kumo");
    if (!kumo_channel_read(channel, &header.type, sizeof(header) - sizeof(header.magic), NULL,
                           error))
        return false;
    record->type = (KumoRecordType)GUINT32_FROM_LE(header.type);
    record->length = GUINT64_FROM_LE(header.length);
    record->check = GUINT64_FROM_LE(header.check);
    if (record->type < KUMO_RECORD_HELLO || record->type > KUMO_RECORD_LAST)
        return wrong(error, "record type %u is not known", GUINT32_FROM_LE(header.type));
    channel->n_received++;
    if (record->type == KUMO_RECORD_PAGES)
        return true;
    return receive_document(channel, record, error);
}

bool kumo_stream_acknowledge(KumoChannel *channel, KumoRecordType answered, const GError *problem,
                             GError **error)
{
    return kumo_stream_send(channel, KUMO_RECORD_ACK,
                            json_pack("{s:i, s:s?}", "answers", (int)answered, "error",
                                      problem ? problem->message : NULL),
                            -1, error);
}

bool kumo_stream_acknowledge_with(KumoChannel *channel, KumoRecordType answered, json_t *more,
                                  GError **error)
{
    json_object_set_new(more, "answers", json_integer(answered));
    json_object_set_new(more, "error", json_null());
    return kumo_stream_send(channel, KUMO_RECORD_ACK, more, -1, error);
}

static bool wait_ack(KumoChannel *channel, KumoRecordType answered, json_t **ret_document,
                     bool *ret_refused, GError **error)
{
    g_auto(KumoRecord) record = KUMO_RECORD_INIT;
    const json_t *problem;

    if (!kumo_stream_receive(channel, &record, error)) {
        kumo_prefix_error(error, "waiting for the answer to %s", kumo_record_name(answered));
        return false;
    }
    problem = json_object_get(record.document, "error");
    if (record.type == KUMO_RECORD_ACK && json_is_string(problem)) {
        g_autofree char *shown = g_utf8_make_valid(json_string_value(problem), -1);

        if (ret_refused)
            *ret_refused = true;
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "the destination says: %.2000s", shown);
        return false;
    }
    if (record.type != KUMO_RECORD_ACK || !json_is_null(problem) ||
        json_integer_value(json_object_get(record.document, "answers")) != (json_int_t)answered)
        return wrong(error, "%s: the destination answers something else",
                     kumo_record_name(answered));
    if (ret_document)
        *ret_document = json_incref(record.document);
    return true;
}

bool kumo_stream_wait_ack(KumoChannel *channel, KumoRecordType answered, bool *ret_refused,
                          GError **error)
{
    return wait_ack(channel, answered, NULL, ret_refused, error);
}

bool kumo_stream_wait_ack_document(KumoChannel *channel, KumoRecordType answered,
                                   json_t **ret_document, GError **error)
{
    return wait_ack(channel, answered, ret_document, NULL, error);
}

bool kumo_stream_same_token(const char *token, const char *given)
{
    size_t len = strlen(token);
    unsigned difference = 0;

    if (!given || strlen(given) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        difference |= (unsigned)(token[i] ^ given[i]);
    return difference == 0;
}

/* --- pages --- */

static bool extends(const KumoPagesWriter *writer, uint64_t gpa, KumoPagesKind kind)
{
    const KumoPagesRun *run = writer->n_runs ? &writer->runs[writer->n_runs - 1] : NULL;
    uint64_t len = run ? (uint64_t)run->n_pages * KUMO_STREAM_PAGE_BYTES : 0;

    return run && run->kind == (uint32_t)kind && run->n_pages < UINT32_MAX &&
           run->gpa + len == gpa && kumo_memory_at(writer->memory, run->gpa, len + 1);
}

bool kumo_pages_add(KumoPagesWriter *writer, uint64_t gpa, KumoPagesKind kind, GError **error)
{
    if ((kind == KUMO_PAGES_DATA && writer->n_data == KUMO_PAGES_MAX_DATA) ||
        (writer->n_runs == KUMO_PAGES_MAX_RUNS && !extends(writer, gpa, kind))) {
        if (!kumo_pages_flush(writer, error))
            return false;
    }
    if (extends(writer, gpa, kind))
        writer->runs[writer->n_runs - 1].n_pages++;
    else
        writer->runs[writer->n_runs++] = (KumoPagesRun){ gpa, 1, (uint32_t)kind };
    writer->n_data += kind == KUMO_PAGES_DATA;
    return true;
}

/* Converts the runs into @table. Returns: how many of @iov their data is. */
static unsigned gather(const KumoPagesWriter *writer, KumoPagesRun *table, struct iovec *iov,
                       uint64_t *ret_n_zeros)
{
    unsigned n_iov = 0;

    for (unsigned i = 0; i < writer->n_runs; i++) {
        const KumoPagesRun *run = &writer->runs[i];
        uint64_t len = (uint64_t)run->n_pages * KUMO_STREAM_PAGE_BYTES;

        table[i] = (KumoPagesRun){ GUINT64_TO_LE(run->gpa), GUINT32_TO_LE(run->n_pages),
                                   GUINT32_TO_LE(run->kind) };
        if (run->kind == KUMO_PAGES_DATA)
            iov[n_iov++] = (struct iovec){ kumo_memory_at(writer->memory, run->gpa, len), len };
        else if (run->kind == KUMO_PAGES_ZERO)
            *ret_n_zeros += run->n_pages;
    }
    return n_iov;
}

/* Puts one piece, compressed if that is shorter, in the place of those of @iov. */
static bool pack(KumoPagesWriter *writer, struct iovec *iov, unsigned *n_iov, size_t *len,
                 GError **error)
{
    uint8_t *to = kumo_compressor_input(writer->compressor);
    size_t packed_len;
    void *packed;

    for (unsigned i = 0; i < *n_iov; i++) {
        memcpy(to, iov[i].iov_base, iov[i].iov_len);
        to += iov[i].iov_len;
    }
    packed = kumo_compressor_run(writer->compressor, *len, &packed_len, error);
    if (!packed)
        return false;
    if (packed_len < *len) {
        writer->packed_pages += writer->n_data;
        writer->packed_bytes += packed_len;
    }
    iov[0] = (struct iovec){ packed, packed_len };
    *n_iov = 1;
    *len = packed_len;
    return true;
}

enum { N_HEADS = 3 }; /* what comes before the data: the header, the number of runs, these */

/* The guest may write to a page while it is sent: what is sent is a copy, and its checksum. @iov:
 * the heads, and the data. */
static bool write_summed(KumoPagesWriter *writer, struct iovec *iov, unsigned n_iov, GError **error)
{
    struct iovec out[N_HEADS + 2];
    unsigned n_out = N_HEADS;
    XXH3_state_t state;
    size_t used = 0;
    uint64_t sum;

    XXH3_64bits_reset(&state);
    memcpy(out, iov, N_HEADS * sizeof(*out));
    for (unsigned i = N_HEADS; i < n_iov; i++) {
        const uint8_t *from = iov[i].iov_base;

        for (size_t left = iov[i].iov_len, n; left > 0; left -= n, from += n) {
            bool is_last = i + 1 == n_iov && left <= sizeof(writer->copy) - used;

            n = MIN(left, sizeof(writer->copy) - used);
            memcpy(writer->copy + used, from, n);
            used += n;
            if (used < sizeof(writer->copy) && !is_last)
                continue;
            XXH3_64bits_update(&state, writer->copy, used);
            out[n_out++] = (struct iovec){ writer->copy, used };
            if (is_last) {
                sum = GUINT64_TO_LE(XXH3_64bits_digest(&state));
                out[n_out++] = (struct iovec){ &sum, sizeof(sum) };
            }
            if (!kumo_channel_write(writer->channel, out, n_out, -1, error))
                return false;
            n_out = 0;
            used = 0;
        }
    }
    return true;
}

bool kumo_pages_flush(KumoPagesWriter *writer, GError **error)
{
    size_t table_len = writer->n_runs * sizeof(KumoPagesRun);
    size_t data_len = (size_t)writer->n_data * KUMO_STREAM_PAGE_BYTES;
    g_autofree KumoPagesRun *table = g_new(KumoPagesRun, MAX(writer->n_runs, 1));
    struct iovec iov[KUMO_PAGES_MAX_RUNS + N_HEADS];
    bool summed = writer->channel->pages_summed && data_len > 0;
    uint64_t n_runs = GUINT64_TO_LE((uint64_t)writer->n_runs), n_zeros = 0;
    unsigned n_data_iov;
    Header header;

    if (writer->n_runs == 0)
        return true;
    n_data_iov = gather(writer, table, iov + N_HEADS, &n_zeros);
    if (writer->compressor && data_len &&
        !pack(writer, iov + N_HEADS, &n_data_iov, &data_len, error))
        return false;
    make_header(&header, KUMO_RECORD_PAGES,
                sizeof(n_runs) + table_len + data_len + (summed ? SUM_BYTES : 0),
                checksum(table, table_len));
    iov[0] = (struct iovec){ &header, sizeof(header) };
    iov[1] = (struct iovec){ &n_runs, sizeof(n_runs) };
    iov[2] = (struct iovec){ table, table_len };
    writer->data_pages += writer->n_data;
    writer->zero_pages += n_zeros;
    writer->n_runs = 0;
    writer->n_data = 0;
    return summed ? write_summed(writer, iov, N_HEADS + n_data_iov, error)
                  : kumo_channel_write(writer->channel, iov, N_HEADS + n_data_iov, -1, error);
}

/* All of @len bytes from @gpa on is RAM: of one region. */
static void zero_range(KumoMemory *memory, uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];
        uint64_t start = MAX(gpa, part->gpa);
        uint64_t end = MIN(gpa + len, part->gpa + part->size_bytes);

        if (start >= end)
            continue;
        /* What is not there is zero: but for private files, and only whole pages can go. */
        if (part->page_size == KUMO_STREAM_PAGE_BYTES && (part->fd < 0 || part->shared) &&
            kumo_memory_discard(memory, start, end - start) == 0)
            continue;
        memset(part->hva + (start - part->gpa), 0, end - start);
    }
}

static bool read_runs(KumoChannel *channel, const KumoRecord *record, KumoPagesRun *runs,
                      uint64_t *ret_n_runs, GError **error)
{
    uint64_t n_runs = 0;

    if (record->length < sizeof(n_runs))
        return wrong(error, "PAGES: %" G_GUINT64_FORMAT " bytes are too few", record->length);
    if (!kumo_channel_read(channel, &n_runs, sizeof(n_runs), NULL, error))
        return false;
    n_runs = GUINT64_FROM_LE(n_runs);
    if (n_runs == 0 || n_runs > KUMO_PAGES_MAX_RUNS)
        return wrong(error, "PAGES: %" G_GUINT64_FORMAT " runs, from 1 to %d are allowed", n_runs,
                     KUMO_PAGES_MAX_RUNS);
    if (!kumo_channel_read(channel, runs, n_runs * sizeof(KumoPagesRun), NULL, error))
        return false;
    *ret_n_runs = n_runs;
    return true;
}

/* Converts @run and checks that it is RAM. Returns: (nullable): where it is. */
static uint8_t *check_run(const KumoPagesReader *reader, KumoPagesRun *run, GError **error)
{
    uint32_t last_kind = reader->missing ? KUMO_PAGES_MISSING : KUMO_PAGES_ZERO;
    uint64_t len;
    uint8_t *hva;

    run->gpa = GUINT64_FROM_LE(run->gpa);
    run->n_pages = GUINT32_FROM_LE(run->n_pages);
    run->kind = GUINT32_FROM_LE(run->kind);
    len = (uint64_t)run->n_pages * KUMO_STREAM_PAGE_BYTES;
    hva = len && run->gpa % KUMO_STREAM_PAGE_BYTES == 0
              ? kumo_memory_at(reader->memory, run->gpa, len)
              : NULL;
    if (!hva || run->kind > last_kind) {
        wrong(error, "PAGES: %u pages of kind %u at 0x%" G_GINT64_MODIFIER "x are no RAM",
              run->n_pages, run->kind, run->gpa);
        return NULL;
    }
    return hva;
}

/* The pages of @run, which somebody else takes. */
static bool hand_on(const KumoPagesReader *reader, const KumoPagesRun *run, uint64_t len,
                    const uint8_t *unpacked, GError **error)
{
    if (run->kind == KUMO_PAGES_ZERO)
        return reader->place(reader->opaque, run->gpa, NULL, len, error);
    if (!unpacked && !kumo_channel_read(reader->channel, reader->buf, len, NULL, error))
        return false;
    return reader->place(reader->opaque, run->gpa, unpacked ? unpacked : reader->buf, len, error);
}

/* Reads @len bytes of data, and adds them to the checksum @sum (nullable) while they are in the
 * processor's cache. */
static bool read_data(const KumoPagesReader *reader, uint8_t *to, uint64_t len, XXH3_state_t *sum,
                      GError **error)
{
    while (len > 0) {
        uint64_t n = sum ? MIN(len, KUMO_PAGES_COPY_BYTES) : len;

        if (!kumo_channel_read(reader->channel, to, n, NULL, error))
            return false;
        if (sum)
            XXH3_64bits_update(sum, to, n);
        to += n;
        len -= n;
    }
    return true;
}

/* Reads the checksum of what was added to @sum. */
static bool check_sum(const KumoPagesReader *reader, const XXH3_state_t *sum, GError **error)
{
    const KumoChannel *channel = reader->channel;
    uint64_t sent = 0;

    if (!kumo_channel_read(reader->channel, &sent, sizeof(sent), NULL, error))
        return false;
    return GUINT64_FROM_LE(sent) == XXH3_64bits_digest(sum) ||
           wrong(error,
                 "PAGES: the checksum of pages is wrong: record %" G_GUINT64_FORMAT
                 " of this connection, which ends behind its byte %" G_GUINT64_FORMAT,
                 channel->n_received, channel->received_bytes);
}

/* What fills the places of data: from the connection, or from @unpacked. */
static bool fill(const KumoPagesReader *reader, const KumoPagesRun *runs, uint8_t *const *places,
                 uint64_t n_runs, const uint8_t *unpacked, XXH3_state_t *sum, GError **error)
{
    for (uint64_t i = 0; i < n_runs; i++) {
        uint64_t len = (uint64_t)runs[i].n_pages * KUMO_STREAM_PAGE_BYTES;

        if (runs[i].kind == KUMO_PAGES_MISSING) {
            if (!reader->missing(reader->opaque, runs[i].gpa, len, error))
                return false;
        } else if (reader->place) {
            if (!hand_on(reader, &runs[i], len, unpacked, error))
                return false;
            if (unpacked && runs[i].kind == KUMO_PAGES_DATA)
                unpacked += len;
        } else if (runs[i].kind == KUMO_PAGES_ZERO) {
            zero_range(reader->memory, runs[i].gpa, len);
        } else if (unpacked) {
            memcpy(places[i], unpacked, len);
            unpacked += len;
        } else if (!read_data(reader, places[i], len, sum, error)) {
            return false;
        }
    }
    return true;
}

/* Reads @packed_len bytes that are to become @len. Returns: (transfer none): those, or NULL. */
static const uint8_t *unpack(const KumoPagesReader *reader, uint64_t packed_len, uint64_t len,
                             XXH3_state_t *sum, GError **error)
{
    if (!read_data(reader, kumo_decompressor_input(reader->decompressor), packed_len, sum, error) ||
        (sum && !check_sum(reader, sum, error)))
        return NULL;
    return kumo_decompressor_run(reader->decompressor, packed_len, len, error);
}

/* The @sent bytes of data of a record, which are those of its runs, or compressed. */
static bool receive_data(const KumoPagesReader *reader, const KumoPagesRun *runs,
                         uint8_t *const *places, uint64_t n_runs, uint64_t sent, uint64_t len,
                         GError **error)
{
    const uint8_t *unpacked = NULL;
    XXH3_state_t state;
    XXH3_state_t *sum = reader->channel->pages_summed && len > 0 ? &state : NULL;

    if (sum)
        XXH3_64bits_reset(sum);
    if (sent < len) {
        unpacked = unpack(reader, sent, len, sum, error);
        if (!unpacked)
            return false;
    } else if (sum && reader->place) {
        /* Whoever takes them gives them to a guest that runs: what is wrong must not get there. */
        if (!read_data(reader, reader->buf, len, sum, error) || !check_sum(reader, sum, error))
            return false;
        unpacked = reader->buf;
    }
    return fill(reader, runs, places, n_runs, unpacked, sum, error) &&
           (!sum || unpacked || check_sum(reader, sum, error));
}

bool kumo_pages_receive(const KumoPagesReader *reader, const KumoRecord *record, GError **error)
{
    KumoPagesRun runs[KUMO_PAGES_MAX_RUNS];
    uint8_t *places[KUMO_PAGES_MAX_RUNS];
    uint64_t n_runs = 0, n_data = 0, other, len, sent;

    if (!read_runs(reader->channel, record, runs, &n_runs, error))
        return false;
    other = sizeof(n_runs) + n_runs * sizeof(KumoPagesRun);
    if (checksum(runs, n_runs * sizeof(KumoPagesRun)) != record->check)
        return wrong(error, "PAGES: the checksum of the table is wrong");
    for (uint64_t i = 0; i < n_runs; i++) {
        places[i] = check_run(reader, &runs[i], error);
        if (!places[i])
            return false;
        n_data += runs[i].kind == KUMO_PAGES_DATA ? runs[i].n_pages : 0;
    }
    len = n_data * KUMO_STREAM_PAGE_BYTES;
    other += reader->channel->pages_summed && n_data ? SUM_BYTES : 0;
    sent = record->length - other;
    if (n_data > KUMO_PAGES_MAX_DATA || record->length < other || sent > len ||
        (sent < len && !reader->decompressor))
        return wrong(error, "PAGES: %" G_GUINT64_FORMAT " bytes do not fit its runs",
                     record->length);
    return receive_data(reader, runs, places, n_runs, sent, len, error);
}
