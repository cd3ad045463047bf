/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a peer sends to a destination, or, if the first byte is 'A', to a source that waits for an
 * answer; 'Z': to one that decompresses pages; 'P': to one that others bring pages to and that may
 * be told of missing ones. The checksums in the input are put right first, for they keep nobody
 * out.
 */
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm-core/migration/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    MAX_BYTES = 64 << 10, /* what a socket holds in any case */
    HEADER_BYTES = 24,
    LENGTH_AT = 8,
    CHECK_AT = 16,
    TYPE_AT = 4,
    RAM_BYTES = 1 << 20,
};

static uint64_t read_u64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof(value));
    return GUINT64_FROM_LE(value);
}

static void put_checksum(uint8_t *record, const uint8_t *payload, uint64_t len)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize digest_len = sizeof(digest);

    g_checksum_update(sum, payload, (gssize)len);
    g_checksum_get_digest(sum, digest, &digest_len);
    memcpy(record + CHECK_AT, digest, sizeof(uint64_t));
}

static void correct_checksums(uint8_t *data, size_t size)
{
    size_t at = 0;

    while (size - at > HEADER_BYTES) {
        const uint8_t *payload = data + at + HEADER_BYTES;
        uint64_t left = size - at - HEADER_BYTES;
        uint64_t length = read_u64(data + at + LENGTH_AT);

        if (length > left)
            return;
        if (data[at + TYPE_AT] != KUMO_RECORD_PAGES)
            put_checksum(data + at, payload, length);
        else if (length >= sizeof(uint64_t) &&
                 read_u64(payload) <= (length - sizeof(uint64_t)) / sizeof(KumoPagesRun))
            put_checksum(data + at, payload + sizeof(uint64_t),
                         read_u64(payload) * sizeof(KumoPagesRun));
        at += HEADER_BYTES + length;
    }
}

static bool is_ram(void *opaque, uint64_t gpa, uint64_t len)
{
    return len > 0 && gpa % KUMO_STREAM_PAGE_BYTES == 0 && kumo_memory_at(opaque, gpa, len);
}

static bool missing(void *opaque, uint64_t gpa, uint64_t len, GError **error)
{
    g_assert_true(is_ram(opaque, gpa, len));
    return true;
}

static bool place(void *opaque, uint64_t gpa, const void *data, uint64_t len, GError **error)
{
    g_assert_true(is_ram(opaque, gpa, len));
    if (data)
        memcpy(kumo_memory_at(opaque, gpa, len), data, len);
    return true;
}

static void receive_all(KumoChannel *channel, const KumoPagesReader *reader)
{
    bool ok = true;

    while (ok) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        ok = kumo_stream_receive(channel, &record, NULL) &&
             (record.type != KUMO_RECORD_PAGES || kumo_pages_receive(reader, &record, NULL));
        g_assert_true(!ok || record.type == KUMO_RECORD_PAGES || json_is_object(record.document));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static KumoMigrationCancel cancel = { .fd = -1 };
    bool is_answer = size > 0 && data[0] == 'A';
    bool is_compressed = size > 0 && data[0] == 'Z';
    bool follows = size > 0 && data[0] == 'P';
    g_autofree uint8_t *buf = follows ? g_malloc(KUMO_PAGES_MAX_BYTES) : NULL;
    g_autoptr(KumoMemory) memory = NULL;
    g_autofree uint8_t *copy = NULL;
    KumoChannel channel = { .is_socket = true, .cancel = &cancel };
    int sockets[2];

    data += is_answer || is_compressed || follows;
    size = MIN(size - (is_answer || is_compressed || follows), MAX_BYTES);
    if (size == 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets) < 0)
        return 0;
    copy = g_memdup2(data, size);
    correct_checksums(copy, size);
    g_assert_cmpint(write(sockets[0], copy, size), ==, (ssize_t)size);
    close(sockets[0]);
    channel.fd = sockets[1];
    if (is_answer) {
        kumo_stream_wait_ack(&channel, KUMO_RECORD_STATE, NULL, NULL);
    } else {
        KumoPagesReader reader = { .channel = &channel };

        reader.memory = memory = kumo_memory_new_for_test(0, RAM_BYTES);
        reader.decompressor =
            is_compressed ? kumo_decompressor_new(KUMO_PAGES_MAX_BYTES, NULL) : NULL;
        if (follows) {
            reader.missing = missing;
            reader.place = place;
            reader.opaque = memory;
            reader.buf = buf;
        }
        receive_all(&channel, &reader);
        kumo_decompressor_free(reader.decompressor);
    }
    kumo_channel_close(&channel);
    return 0;
}
