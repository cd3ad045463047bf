/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a peer sends. The first byte says to whom:
 *
 *   'A'  a source that waits for an answer
 *   'Z'  a destination that decompresses pages
 *   'P'  one that others bring pages to, and that may be told of missing ones
 *   'S'  one that pages come to with their checksums
 *   'T'  as 'P', with checksums and compressed
 *   'H'  one that waits for a machine, from HELLO to GO
 *   'R'  a source that memory follows from over other connections: up to POSTCOPY over the first,
 *        the rest over that for faults
 *   else a destination that pages come to as they are
 *
 * The checksums in the input are put right first, for they keep nobody out.
 */
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vmm-core/base/fd.h"
#include "vmm-core/migration/receive.h"
#include "vmm-core/migration/send_postcopy.h"
#include "vmm-core/migration/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    MAX_BYTES = 64 << 10,         /* what a socket holds in any case */
    MAX_ANSWERED_BYTES = 6 << 10, /* the answers to which a socket holds, too */
    HEADER_BYTES = 24,
    LENGTH_AT = 8,
    CHECK_AT = 16,
    TYPE_AT = 4,
    RAM_BYTES = 1 << 20,
    UNIT_BYTES = 64 << 10, /* a page of the destination's that asks */
};

typedef struct {
    bool answers;  /* 'A' */
    bool arrives;  /* 'H' */
    bool recovers; /* 'R' */
    /* Of pages: */
    bool compressed, handed_on, summed;
} Peer;

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

/* Behind the data of the @length bytes of PAGES at @payload, which has @n_runs. */
static void put_sum(uint8_t *payload, uint64_t length, uint64_t n_runs)
{
    uint64_t table_end = sizeof(uint64_t) + n_runs * sizeof(KumoPagesRun);
    uint64_t sum;

    if (length < table_end + sizeof(sum))
        return;
    length -= sizeof(sum);
    sum = GUINT64_TO_LE(XXH3_64bits(payload + table_end, length - table_end));
    memcpy(payload + length, &sum, sizeof(sum));
}

static bool has_data(const uint8_t *table, uint64_t n_runs)
{
    for (uint64_t i = 0; i < n_runs; i++) {
        KumoPagesRun run;

        memcpy(&run, table + i * sizeof(run), sizeof(run));
        if (run.kind == KUMO_PAGES_DATA)
            return true;
    }
    return false;
}

/* Returns: where the first POSTCOPY ends, or @size. */
static size_t correct_checksums(uint8_t *data, size_t size, bool summed)
{
    size_t at = 0, told = size;

    while (size - at > HEADER_BYTES) {
        uint8_t *payload = data + at + HEADER_BYTES;
        uint64_t left = size - at - HEADER_BYTES;
        uint64_t length = read_u64(data + at + LENGTH_AT);
        uint64_t n_runs;

        if (length > left)
            break;
        if (data[at + TYPE_AT] != KUMO_RECORD_PAGES) {
            put_checksum(data + at, payload, length);
        } else if (length >= sizeof(n_runs) &&
                   (n_runs = read_u64(payload)) <=
                       (length - sizeof(n_runs)) / sizeof(KumoPagesRun)) {
            put_checksum(data + at, payload + sizeof(n_runs), n_runs * sizeof(KumoPagesRun));
            if (summed && has_data(payload + sizeof(n_runs), n_runs))
                put_sum(payload, length, n_runs);
        }
        if (data[at + TYPE_AT] == KUMO_RECORD_POSTCOPY && told == size)
            told = at + HEADER_BYTES + length;
        at += HEADER_BYTES + length;
    }
    return told;
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

static void receive_pages(KumoChannel *channel, const Peer *peer)
{
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, RAM_BYTES);
    g_autofree uint8_t *buf = peer->handed_on ? g_malloc(KUMO_PAGES_MAX_BYTES) : NULL;
    KumoPagesReader reader = { .channel = channel, .memory = memory };

    channel->pages_summed = peer->summed;
    if (peer->compressed)
        reader.decompressor = kumo_decompressor_new(KUMO_PAGES_MAX_BYTES, NULL);
    if (peer->handed_on) {
        reader.missing = missing;
        reader.place = place;
        reader.opaque = memory;
        reader.buf = buf;
    }
    receive_all(channel, &reader);
    kumo_decompressor_free(reader.decompressor);
}

/* --- a machine that arrives --- */

typedef struct {
    KumoMemory *memory;
    bool built, loaded, gone;
} Arrival;

static void host_started(void *opaque)
{
}

static bool host_build(void *opaque, const json_t *document, KumoMemory **ret_memory,
                       GError **error)
{
    Arrival *arrival = opaque;

    g_assert_true(!arrival->built && json_is_object(document));
    arrival->built = true;
    *ret_memory = arrival->memory;
    return true;
}

static bool host_load(void *opaque, const json_t *state, GError **error)
{
    Arrival *arrival = opaque;

    g_assert_true(arrival->built && !arrival->loaded && json_is_object(state));
    arrival->loaded = true;
    return true;
}

static bool host_go(void *opaque, bool paused, GError **error)
{
    Arrival *arrival = opaque;

    g_assert_true(arrival->loaded && !arrival->gone);
    arrival->gone = true;
    return true;
}

static void host_on_main(void *opaque, void (*func)(void *arg), void *arg)
{
    func(arg);
}

static void receive_machine(int fd)
{
    static const KumoReceiveHost host = { host_started, host_build, host_load, host_go,
                                          host_on_main };
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, RAM_BYTES);
    KumoMigrationCancel cancel = { .fd = -1 };
    Arrival arrival = { .memory = memory };
    KumoChannelListener listener;
    KumoReceiver receiver = {
        .listener = &listener, .host = &host, .opaque = &arrival, .cancel = &cancel
    };

    kumo_channel_listen_fd(&listener, fd);
    g_assert_true(kumo_receive_run(&receiver, NULL) == arrival.gone);
    kumo_channel_listener_close(&listener);
}

/* --- a source that is asked over other connections --- */

static void send_missing(KumoChannel *main, KumoChannel *faults)
{
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, RAM_BYTES);
    const KumoSendMigrationConfig config = { .peer_timeout_s = 1 };
    KumoSender sender = { .config = &config, .memory = memory, .cancel = main->cancel };
    KumoSendPages *pages = kumo_send_pages_new(&sender, main, 1, NULL);
    json_t *units = json_pack("[[i, i, i]]", 0, RAM_BYTES, UNIT_BYTES);
    KumoSendPostcopy *postcopy = kumo_send_postcopy_new(&sender, pages, main, faults, units, NULL);

    g_assert_nonnull(postcopy);
    if (kumo_send_postcopy_resume(postcopy, NULL)) {
        g_assert_cmpuint(kumo_send_pages_count(pages), <=, RAM_BYTES / KUMO_STREAM_PAGE_BYTES);
        kumo_send_postcopy_finish(postcopy, NULL);
    }
    kumo_send_postcopy_free(postcopy);
    kumo_send_pages_free(pages);
    json_decref(units);
}

/* --- */

/* Returns: the first byte was one that says something. */
static bool read_peer(uint8_t first, Peer *ret)
{
    *ret = (Peer){ .answers = first == 'A',
                   .arrives = first == 'H',
                   .recovers = first == 'R',
                   .compressed = first == 'Z' || first == 'T',
                   .handed_on = first == 'P' || first == 'T',
                   .summed = first == 'S' || first == 'T' };
    return ret->answers || ret->arrives || ret->recovers || ret->compressed || ret->handed_on ||
           ret->summed;
}

/* Returns: a socket to a peer that has sent @size bytes, and nothing else. @ret_peer: its end. */
static int connect_peer(const uint8_t *data, size_t size, int *ret_peer)
{
    int sockets[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets), ==,
                    0);
    g_assert_cmpint(write(sockets[0], data, size), ==, (ssize_t)size);
    shutdown(sockets[0], SHUT_WR);
    *ret_peer = sockets[0];
    return sockets[1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static KumoMigrationCancel cancel = { .fd = -1 };
    KumoChannel channel = { .is_socket = true, .cancel = &cancel };
    KumoChannel faults = { .fd = -1, .is_socket = true, .cancel = &cancel };
    g_autofree uint8_t *copy = NULL;
    int peer_fd, faults_peer_fd = -1;
    size_t told;
    Peer peer;

    if (size == 0)
        return 0;
    if (read_peer(data[0], &peer)) {
        data++;
        size--;
    }
    size = MIN(size, peer.arrives || peer.recovers ? MAX_ANSWERED_BYTES : MAX_BYTES);
    copy = g_memdup2(data, size);
    told = correct_checksums(copy, size, peer.summed);
    channel.fd = connect_peer(copy, peer.recovers ? told : size, &peer_fd);
    if (peer.recovers) {
        faults.fd = connect_peer(copy + told, size - told, &faults_peer_fd);
        send_missing(&channel, &faults);
        kumo_channel_close(&faults);
        close(faults_peer_fd);
    } else if (peer.arrives) {
        receive_machine(kumo_fd_steal(&channel.fd));
    } else if (peer.answers) {
        kumo_stream_wait_ack(&channel, KUMO_RECORD_STATE, NULL, NULL);
    } else {
        receive_pages(&channel, &peer);
    }
    kumo_channel_close(&channel);
    close(peer_fd);
    return 0;
}
