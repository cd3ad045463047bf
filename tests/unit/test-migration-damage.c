/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bit of a migration's stream turns over on the way: the machine stays at its source, or its
 * memory is what it was. */
#include <glib-unix.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fakes/migration_pair.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/migration/stream.h"

enum {
    GO_BYTES = 24 + 16 /* header and {"paused":false} */,
    N_RANDOM = 60,
    N_FIRST = 400,
    STEP = 9
};

typedef MigrationPair Fixture;

/* Stands between the source's socket and the destination's. */
typedef struct {
    int source, destination;
    int64_t at; /* which byte is changed; -1: none */
    int64_t n_bytes;
    GThread *there, *back;
} Wire;

static bool pass(int from, int to, uint8_t *buf, size_t size, ssize_t *ret_n, int64_t flip_at)
{
    *ret_n = read(from, buf, size);
    if (*ret_n <= 0)
        return false;
    if (flip_at >= 0 && flip_at < *ret_n)
        buf[flip_at] ^= 1 << (flip_at & 7);
    return kumo_write_full(to, buf, (size_t)*ret_n);
}

static void *there_thread(void *opaque)
{
    Wire *wire = opaque;
    g_autofree uint8_t *buf = g_malloc(65536);
    ssize_t n = 0;

    while (pass(wire->source, wire->destination, buf, 65536, &n, wire->at - wire->n_bytes))
        wire->n_bytes += n;
    shutdown(wire->destination, SHUT_WR);
    /* One that refuses reads no more: the source is to learn it. */
    shutdown(wire->source, SHUT_RD);
    return NULL;
}

static void *back_thread(void *opaque)
{
    Wire *wire = opaque;
    uint8_t buf[4096];
    ssize_t n = 0;

    while (pass(wire->destination, wire->source, buf, sizeof(buf), &n, -1))
        ;
    shutdown(wire->source, SHUT_WR);
    return NULL;
}

/* Whether the memory is checked is asked of the configuration. Returns: how many bytes there were.
 */
static int64_t migrate(KumoCompression compression, int64_t at, int64_t total)
{
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_autoptr(GError) error = NULL;
    KumoChannel channel;
    Fixture f = { 0 };
    Wire wire = { .at = at };
    KumoSendResult result;
    int sockets[2];

    migration_pair_init(&f, false, NULL, NULL, NULL);
    migration_pair_receive(&f);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), ==, 0);
    g_array_append_val(fds, sockets[0]);
    f.config.stream_fd = fds;
    f.config.peer_timeout_s = 1;
    f.config.compression = compression;
    f.busy_rounds = 2;
    f.config.downtime_ms = 0;
    g_assert_true(kumo_channel_connect(&channel, "url", f.url, &f.send_cancel, NULL));
    wire.source = sockets[1];
    /* Blocking, as the wire is. */
    wire.destination = dup(channel.fd);
    g_assert_true(g_unix_set_fd_nonblocking(wire.destination, FALSE, NULL));
    kumo_channel_close(&channel);
    wire.there = g_thread_new("there", there_thread, &wire);
    wire.back = g_thread_new("back", back_thread, &wire);
    result = migration_pair_send(&f, &error);
    shutdown(sockets[0], SHUT_RDWR);
    g_thread_join(wire.there);
    g_thread_join(wire.back);
    close(sockets[0]);
    close(sockets[1]);
    close(wire.destination);
    /* A stranger is turned away, and the wait for a source goes on. */
    kumo_migration_cancel_set(&f.cancel);
    migration_pair_wait(&f);
    if (f.received) {
        g_assert_cmpint(result, ==, KUMO_SEND_DONE);
        migration_pair_assert_same_memory(&f);
    } else if (result != KUMO_SEND_FAILED) {
        /* What is said last may be waited for. */
        g_assert_cmpint(result, ==, KUMO_SEND_UNKNOWN);
        g_assert_cmpint(at, >=, total - GO_BYTES);
    }
    /* In all there is nothing that may change but whether it ends with a new line. */
    if (at >= 0)
        g_assert_false(f.received);
    else
        g_assert_true(f.received);
    migration_pair_clear(&f);
    return wire.n_bytes;
}

static void test_any_byte(gconstpointer data)
{
    KumoCompression compression = GPOINTER_TO_INT(data);
    g_autoptr(GRand) rand = g_rand_new();
    int64_t total = migrate(compression, -1, 0);

    for (int64_t at = 0; at < N_FIRST; at += STEP)
        migrate(compression, at, total);
    for (int64_t at = total - 150; at < total; at += STEP)
        migrate(compression, at, total);
    for (unsigned i = 0; i < N_RANDOM; i++) {
        int64_t at = g_rand_int_range(rand, 0, (gint32)total);

        g_test_message("byte %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT, at, total);
        migrate(compression, at, total);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_test_add_data_func("/migration/damage/plain", GINT_TO_POINTER(KUMO_COMPRESSION_NONE),
                         test_any_byte);
    g_test_add_data_func("/migration/damage/compressed", GINT_TO_POINTER(KUMO_COMPRESSION_ZSTD),
                         test_any_byte);
    return g_test_run();
}
