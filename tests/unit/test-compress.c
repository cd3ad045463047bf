/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages that are compressed, on their way through a stream, and frames as a hostile source makes
 * them. */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zstd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/migration/stream.h"

#define PAGE      ((size_t)KUMO_STREAM_PAGE_BYTES)
#define RAM_BYTES (16U << 20)

typedef struct {
    KumoMigrationCancel cancel;
    KumoChannel channels[2]; /* of the source, of the destination */
    KumoMemory *source, *memory;
    KumoPagesWriter *writer;
    KumoPagesReader reader;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    int sockets[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), ==, 0);
    g_assert_true(kumo_migration_cancel_init(&f->cancel, NULL));
    for (unsigned i = 0; i < 2; i++)
        g_assert_true(kumo_channel_open_fd(&f->channels[i], sockets[i], &f->cancel, NULL));
    f->source = kumo_memory_new_for_test(0, RAM_BYTES);
    f->memory = kumo_memory_new_for_test(0, RAM_BYTES);
    f->writer = g_new0(KumoPagesWriter, 1);
    f->writer->channel = &f->channels[0];
    f->writer->memory = f->source;
    f->writer->compressor = kumo_compressor_new(0, KUMO_PAGES_MAX_BYTES, NULL);
    f->reader = (KumoPagesReader){ .channel = &f->channels[1], .memory = f->memory };
    f->reader.decompressor = kumo_decompressor_new(KUMO_PAGES_MAX_BYTES, NULL);
    g_assert_nonnull(f->writer->compressor);
    g_assert_nonnull(f->reader.decompressor);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 2; i++)
        kumo_channel_close(&f->channels[i]);
    kumo_compressor_free(f->writer->compressor);
    kumo_decompressor_free(f->reader.decompressor);
    g_free(f->writer);
    kumo_memory_free(f->source);
    kumo_memory_free(f->memory);
    kumo_migration_cancel_clear(&f->cancel);
}

static void fill(Fixture *f, size_t page, size_t n, bool random)
{
    uint8_t *at = kumo_memory_at(f->source, page * PAGE, n * PAGE);

    for (size_t i = 0; i < n * PAGE; i++)
        at[i] = random ? (uint8_t)g_random_int() : (uint8_t)(i / PAGE + i % 7 + 1);
}

static void *receive_thread(void *opaque)
{
    Fixture *f = opaque;

    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;
        g_autoptr(GError) error = NULL;

        g_assert_true(kumo_stream_receive(&f->channels[1], &record, &error));
        if (record.type == KUMO_RECORD_ROUND)
            return NULL;
        g_assert_cmpint(record.type, ==, KUMO_RECORD_PAGES);
        kumo_pages_receive(&f->reader, &record, &error);
        g_assert_no_error(error);
    }
}

static void send_all(Fixture *f, size_t first, size_t n)
{
    GThread *thread = g_thread_new("receive", receive_thread, f);

    for (size_t i = first; i < first + n; i++)
        g_assert_true(kumo_pages_add(f->writer, i * PAGE, KUMO_PAGES_DATA, NULL));
    g_assert_true(kumo_pages_flush(f->writer, NULL));
    g_assert_true(kumo_stream_send(&f->channels[0], KUMO_RECORD_ROUND, json_object(), -1, NULL));
    g_thread_join(thread);
}

/* More than one record, with pages of zeros in between that are no data. */
static void test_round_trip(Fixture *f, gconstpointer data)
{
    fill(f, 0, 2500, false);
    memset(kumo_memory_at(f->memory, 2500 * PAGE, PAGE), 0xaa, PAGE);
    g_assert_true(kumo_pages_add(f->writer, 2500 * PAGE, KUMO_PAGES_ZERO, NULL));
    send_all(f, 0, 2500);
    g_assert_cmpmem(kumo_memory_at(f->memory, 0, RAM_BYTES), RAM_BYTES,
                    kumo_memory_at(f->source, 0, RAM_BYTES), RAM_BYTES);
    g_assert_cmpuint(f->writer->data_pages, ==, 2500);
    g_assert_cmpuint(f->writer->zero_pages, ==, 1);
    g_assert_cmpuint(f->writer->packed_pages, ==, 2500);
    g_assert_cmpuint(f->writer->packed_bytes, <, 2500 * PAGE / 10);
    g_assert_cmpuint(f->channels[0].sent_bytes, <, f->writer->packed_bytes + 2000);
}

/* What does not get smaller goes as it is; a record with one page as well. */
static void test_incompressible(Fixture *f, gconstpointer data)
{
    fill(f, 0, 300, true);
    fill(f, 300, 1, false);
    send_all(f, 0, 300);
    g_assert_cmpuint(f->writer->packed_pages, ==, 0);
    g_assert_cmpuint(f->channels[0].sent_bytes, >, 300 * PAGE);
    send_all(f, 300, 1);
    g_assert_cmpuint(f->writer->packed_pages, ==, 1);
    g_assert_cmpmem(kumo_memory_at(f->memory, 0, RAM_BYTES), RAM_BYTES,
                    kumo_memory_at(f->source, 0, RAM_BYTES), RAM_BYTES);
}

/* Each level that is allowed is one of the library's. */
static void test_levels(void)
{
    for (unsigned level = 0; level <= 20; level++) {
        KumoCompressor *compressor = kumo_compressor_new(level, 4 * PAGE, NULL);
        size_t len = 0;

        g_assert_nonnull(compressor);
        memset(kumo_compressor_input(compressor), 'x', 4 * PAGE);
        g_assert_nonnull(kumo_compressor_run(compressor, 4 * PAGE, &len, NULL));
        g_assert_cmpuint(len, <, 100);
        kumo_compressor_free(compressor);
    }
}

/* --- a hostile source --- */

typedef struct {
    uint32_t magic, type;
    uint64_t length, check;
} RawHeader;

/* One run of @n_pages with @len bytes of data behind it. */
static void send_record(Fixture *f, uint32_t n_pages, const void *data, size_t len, size_t said_len)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize digest_len = sizeof(digest);
    uint64_t n_runs = GUINT64_TO_LE(1);
    KumoPagesRun run = { 0, GUINT32_TO_LE(n_pages), GUINT32_TO_LE(KUMO_PAGES_DATA) };
    RawHeader header = { GUINT32_TO_LE(0x6f6d756b), GUINT32_TO_LE(KUMO_RECORD_PAGES),
                         GUINT64_TO_LE(24 + said_len), 0 };
    struct iovec iov[] = {
        { &header, sizeof(header) }, { &n_runs, 8 }, { &run, sizeof(run) }, { (void *)data, len }
    };

    g_checksum_update(sum, (const guchar *)&run, sizeof(run));
    g_checksum_get_digest(sum, digest, &digest_len);
    memcpy(&header.check, digest, 8);
    g_assert_true(kumo_channel_write(&f->channels[0], iov, G_N_ELEMENTS(iov), -1, NULL));
    shutdown(f->channels[0].fd, SHUT_WR);
}

/* The destination refuses that with @word, and nothing of it is in its memory. */
static void expect_refusal(uint32_t n_pages, const void *data, size_t len, size_t said_len,
                           const char *word)
{
    g_auto(KumoRecord) record = KUMO_RECORD_INIT;
    g_autoptr(GError) error = NULL;
    Fixture f = { 0 };
    const uint8_t *ram;

    set_up(&f, NULL);
    send_record(&f, n_pages, data, len, said_len);
    g_assert_true(kumo_stream_receive(&f.channels[1], &record, NULL));
    g_assert_false(kumo_pages_receive(&f.reader, &record, &error));
    if (!strstr(error->message, word))
        g_error("%s: %s", word, error->message);
    ram = kumo_memory_at(f.memory, 0, RAM_BYTES);
    for (size_t i = 0; i < 8 * PAGE; i++)
        g_assert_cmpuint(ram[i], ==, 0);
    tear_down(&f, NULL);
}

/* Returns: how long a frame of @len bytes is, with a checksum and, if @sized, with its size. */
static size_t make_frame(uint8_t *frame, size_t room, size_t len, bool sized)
{
    g_autofree uint8_t *content = g_malloc(len + 1);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t n;

    memset(content, 'x', len);
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, sized);
    n = ZSTD_compress2(context, frame, room, content, len);
    g_assert_false(ZSTD_isError(n));
    ZSTD_freeCCtx(context);
    return n;
}

static void test_hostile(void)
{
    enum { ROOM = 1 << 20, SKIPPABLE = 12 };
    /* RFC 8878, section 3.1.2: to be skipped, with 4 bytes. */
    static const uint8_t skippable[SKIPPABLE] = { 0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4 };
    g_autofree uint8_t *frame = g_malloc(ROOM);
    size_t len = make_frame(frame, ROOM, 2 * PAGE, true);

    /* Ends before it is complete, at each of its bytes: in the record, or in the stream. */
    for (size_t cut = 1; cut < len; cut++)
        expect_refusal(2, frame, cut, cut, "PAGES: ");
    expect_refusal(2, frame, len - 1, len, "closed the connection");
    expect_refusal(2, frame, 0, 0, "no frame of zstd");
    /* Each of its bytes wrong; that may be another frame of this size, but the checksum is in it.
     */
    for (size_t at = 0; at < len; at++) {
        frame[at] ^= 0x41;
        expect_refusal(2, frame, len, len, "PAGES: ");
        frame[at] ^= 0x41;
    }
    /* Something behind it. */
    memcpy(frame + len, skippable, sizeof(skippable));
    expect_refusal(2, frame, len + SKIPPABLE, len + SKIPPABLE, "behind what is compressed");
    len = make_frame(frame, ROOM, 2 * PAGE, true);
    len += make_frame(frame + len, ROOM - len, 0, true);
    expect_refusal(2, frame, len, len, "behind what is compressed");
    /* Before it. */
    memcpy(frame, skippable, sizeof(skippable));
    len = SKIPPABLE + make_frame(frame + SKIPPABLE, ROOM - SKIPPABLE, 2 * PAGE, true);
    expect_refusal(2, frame, len, len, "no frame of zstd");
    /* No checksum at its end; and of a version before the RFC. */
    len = make_frame(frame, ROOM, 2 * PAGE, true);
    frame[4] &= ~4;
    expect_refusal(2, frame, len - 4, len - 4, "no frame of zstd");
    frame[4] |= 4;
    frame[0]--;
    expect_refusal(2, frame, len, len, "no frame of zstd");
    /* More or less than the run has, or it does not say. */
    len = make_frame(frame, ROOM, PAGE, true);
    expect_refusal(2, frame, len, len, "does not say that it is 8192 bytes");
    len = make_frame(frame, ROOM, 64 << 20, true);
    expect_refusal(2, frame, len, len, "does not say that it is 8192 bytes");
    len = make_frame(frame, ROOM, 2 * PAGE, false);
    expect_refusal(2, frame, len, len, "does not say");
    /* One that says that it is small, and is not. RFC 8878, section 3.1.1.1: two bytes, less 256,
     * behind magic and descriptor. */
    len = make_frame(frame, ROOM, 4 * PAGE, true);
    g_assert_cmpuint(frame[4], ==, 0x64);
    g_assert_cmpuint(frame[5] + frame[6] * 256U + 256, ==, 4 * PAGE);
    frame[6] = (2 * PAGE - 256) >> 8;
    expect_refusal(2, frame, len, len, "cannot be decompressed");
    /* What is as long as the pages, or longer, is no frame. */
    expect_refusal(1, frame, PAGE + 1, PAGE + 1, "do not fit");
    expect_refusal(1, frame, 0, SIZE_MAX - 24, "do not fit");
    expect_refusal(KUMO_PAGES_MAX_DATA + 1, frame, 100, 100, "do not fit");
}

/* A stream without compression has no frames. */
static void test_not_wanted(Fixture *f, gconstpointer data)
{
    g_auto(KumoRecord) record = KUMO_RECORD_INIT;
    g_autoptr(GError) error = NULL;
    uint8_t frame[1000];
    size_t len = make_frame(frame, sizeof(frame), 2 * PAGE, true);

    send_record(f, 2, frame, len, len);
    g_clear_pointer(&f->reader.decompressor, kumo_decompressor_free);
    g_assert_true(kumo_stream_receive(&f->channels[1], &record, NULL));
    g_assert_false(kumo_pages_receive(&f->reader, &record, &error));
    g_assert_nonnull(strstr(error->message, "do not fit"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/compress/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("round-trip", test_round_trip);
    ADD("incompressible", test_incompressible);
    ADD("not-wanted", test_not_wanted);
#undef ADD
    g_test_add_func("/compress/levels", test_levels);
    g_test_add_func("/compress/hostile", test_hostile);
    return g_test_run();
}
