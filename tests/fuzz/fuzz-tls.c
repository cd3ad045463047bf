/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a peer sends where TLS is expected. 'S': to a server, 'C': to a client, which has said what
 * it says first. 'M': what somebody between two ends of one authority does to what the client
 * sends: two bytes say at which byte, one what it is XORed with, and the rest goes in front of it.
 * Nothing of that gets through as content.
 */
#include <gnutls/x509.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm-core/base/fd.h"
#include "vmm-core/migration/channel_tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HOST "destination.example"

enum {
    MAX_BYTES = 64 << 10,  /* what a socket holds in any case */
    CONTENT_BYTES = 20000, /* more than one record of TLS */
    RELAY_BYTES = 4096,
    STUCK_MS = 50,   /* who is left waiting by a change is not waited for */
    SLOW_MS = 10000, /* where there is none */
    BITS = 256,      /* of an elliptic curve */
    DAY_S = 24 * 3600,
};

static KumoChannelTls *server_tls, *client_tls;
static KumoMigrationCancel cancel = { .fd = -1 };
static uint8_t content[CONTENT_BYTES];

/* --- an authority --- */

typedef struct {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
} Certificate;

static void must(int result)
{
    if (result < 0)
        g_error("GnuTLS: %s", gnutls_strerror(result));
}

/* @issuer: NULL: itself. */
static Certificate make_certificate(const char *name, const char *purpose,
                                    const Certificate *issuer)
{
    Certificate self;
    const Certificate *by = issuer ? issuer : &self;
    g_autofree char *dn = g_strdup_printf("CN=%s", name);
    uint8_t serial = issuer ? 2 : 1;
    time_t now = time(NULL);

    must(gnutls_x509_privkey_init(&self.key));
    must(gnutls_x509_privkey_generate(self.key, GNUTLS_PK_ECDSA, BITS, 0));
    must(gnutls_x509_crt_init(&self.crt));
    must(gnutls_x509_crt_set_version(self.crt, 3));
    must(gnutls_x509_crt_set_serial(self.crt, &serial, sizeof(serial)));
    must(gnutls_x509_crt_set_activation_time(self.crt, now - DAY_S));
    must(gnutls_x509_crt_set_expiration_time(self.crt, now + 365 * DAY_S));
    must(gnutls_x509_crt_set_dn(self.crt, dn, NULL));
    must(gnutls_x509_crt_set_key(self.crt, self.key));
    must(gnutls_x509_crt_set_basic_constraints(self.crt, !issuer, -1));
    must(gnutls_x509_crt_set_key_usage(self.crt, issuer ? GNUTLS_KEY_DIGITAL_SIGNATURE
                                                        : GNUTLS_KEY_KEY_CERT_SIGN));
    if (purpose) {
        must(gnutls_x509_crt_set_key_purpose_oid(self.crt, purpose, 0));
        must(gnutls_x509_crt_set_subject_alt_name(self.crt, GNUTLS_SAN_DNSNAME, name,
                                                  (unsigned)strlen(name), GNUTLS_FSAN_SET));
    }
    must(gnutls_x509_crt_sign2(self.crt, by->crt, by->key, GNUTLS_DIG_SHA256, 0));
    return self;
}

static void write_pem(const char *directory, const char *who, const char *what, gnutls_datum_t pem)
{
    g_autofree char *path = g_strdup_printf("%s/%s-%s.pem", directory, who, what);

    g_assert_true(g_file_set_contents(path, (const char *)pem.data, pem.size, NULL));
    gnutls_free(pem.data);
}

static void write_certificate(const char *directory, const char *who, Certificate *certificate)
{
    gnutls_datum_t pem;

    must(gnutls_x509_crt_export2(certificate->crt, GNUTLS_X509_FMT_PEM, &pem));
    write_pem(directory, who, "cert", pem);
    must(gnutls_x509_privkey_export2(certificate->key, GNUTLS_X509_FMT_PEM, &pem));
    write_pem(directory, who, "key", pem);
    gnutls_x509_crt_deinit(certificate->crt);
    gnutls_x509_privkey_deinit(certificate->key);
}

static void remove_directory(const char *path)
{
    g_autoptr(GDir) directory = g_dir_open(path, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(directory))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        g_unlink(file);
    }
    g_rmdir(path);
}

static void prepare(void)
{
    g_autofree char *directory = g_dir_make_tmp("kumo-fuzz-tls-XXXXXX", NULL);
    g_autoptr(GError) error = NULL;
    Certificate authority, server, client;

    g_setenv("KUMO_MODULE_DIR", TLS_MODULE_DIR, TRUE);
    signal(SIGPIPE, SIG_IGN);
    authority = make_certificate("authority", NULL, NULL);
    server = make_certificate(HOST, GNUTLS_KP_TLS_WWW_SERVER, &authority);
    client = make_certificate("source.example", GNUTLS_KP_TLS_WWW_CLIENT, &authority);
    write_certificate(directory, "server", &server);
    write_certificate(directory, "client", &client);
    write_certificate(directory, "ca", &authority);
    server_tls = kumo_channel_tls_new(directory, true, &error);
    client_tls = server_tls ? kumo_channel_tls_new(directory, false, &error) : NULL;
    g_assert_no_error(error);
    remove_directory(directory);
    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = (uint8_t)(i * 7 + i / 256);
}

static void open_pair(KumoChannel *channel, int *ret_other)
{
    int sockets[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets), ==,
                    0);
    *channel = (KumoChannel){ .fd = sockets[0], .is_socket = true, .cancel = &cancel };
    *ret_other = sockets[1];
}

/* --- one end, and noise --- */

static void talk_to(bool server, const uint8_t *data, size_t size)
{
    KumoChannel channel;
    int other;

    open_pair(&channel, &other);
    g_assert_cmpint(write(other, data, size), ==, (ssize_t)size);
    shutdown(other, SHUT_WR);
    /* Nobody who has no key gets through. */
    g_assert_false(kumo_channel_start_tls(&channel, server ? server_tls : client_tls, NULL,
                                          server ? NULL : HOST, NULL));
    kumo_channel_close(&channel);
    close(other);
}

/* --- two ends, and somebody between them --- */

typedef struct {
    KumoChannel channel;
    int other;
    GThread *thread;
} End;

static void *client_thread(void *opaque)
{
    End *end = opaque;
    struct iovec iov = { content, sizeof(content) };

    if (kumo_channel_start_tls(&end->channel, client_tls, NULL, HOST, NULL))
        kumo_channel_write(&end->channel, &iov, 1, -1, NULL);
    kumo_channel_end_writing(&end->channel);
    return NULL;
}

/* Whether what is read is what was sent. */
static void *server_thread(void *opaque)
{
    End *end = opaque;
    uint8_t buf[1000];
    bool ok = kumo_channel_start_tls(&end->channel, server_tls, NULL, NULL, NULL);
    size_t at;

    for (at = 0; ok && at < sizeof(content); at += sizeof(buf)) {
        ok = kumo_channel_read(&end->channel, buf, sizeof(buf), NULL, NULL);
        g_assert_true(!ok || memcmp(buf, content + at, sizeof(buf)) == 0);
    }
    kumo_channel_end_writing(&end->channel);
    return GSIZE_TO_POINTER(ok ? at : 0);
}

typedef struct {
    size_t at;
    uint8_t change;
    const uint8_t *inserted;
    size_t n_inserted;
    size_t passed;
} Change;

static bool put(int to, const uint8_t *buf, size_t len)
{
    while (len > 0) {
        struct pollfd writable = { .fd = to, .events = POLLOUT };
        ssize_t n = write(to, buf, len);

        if (n > 0) {
            buf += n;
            len -= (size_t)n;
        } else if (errno != EAGAIN || poll(&writable, 1, SLOW_MS) <= 0) {
            return false;
        }
    }
    return true;
}

/* @change: NULL: none. */
static bool pass(int from, int to, Change *change)
{
    uint8_t buf[RELAY_BYTES];
    ssize_t n = read(from, buf, sizeof(buf));
    size_t here;

    if (n <= 0) {
        shutdown(to, SHUT_WR);
        return false;
    }
    if (!change || change->at < change->passed || change->at >= change->passed + (size_t)n) {
        if (change)
            change->passed += (size_t)n;
        return put(to, buf, (size_t)n);
    }
    here = change->at - change->passed;
    change->passed += (size_t)n;
    buf[here] ^= change->change;
    return put(to, buf, here) && put(to, change->inserted, change->n_inserted) &&
           put(to, buf + here, (size_t)n - here);
}

static void relay(int client, int server, Change *change)
{
    struct pollfd fds[] = { { .fd = client, .events = POLLIN },
                            { .fd = server, .events = POLLIN } };
    int patience_ms = change->change || change->n_inserted ? STUCK_MS : SLOW_MS;

    while ((fds[0].fd >= 0 || fds[1].fd >= 0) && poll(fds, G_N_ELEMENTS(fds), patience_ms) > 0) {
        if (fds[0].revents && !pass(client, server, change))
            fds[0].fd = -1;
        if (fds[1].revents && !pass(server, client, NULL))
            fds[1].fd = -1;
    }
    shutdown(client, SHUT_RDWR);
    shutdown(server, SHUT_RDWR);
}

static void talk_between(const uint8_t *data, size_t size)
{
    Change change = { .at = data[0] | (size_t)data[1] << 8,
                      .change = data[2],
                      .inserted = data + 3,
                      .n_inserted = size - 3 };
    End client, server;
    size_t got;

    open_pair(&client.channel, &client.other);
    open_pair(&server.channel, &server.other);
    client.thread = g_thread_new("client", client_thread, &client);
    server.thread = g_thread_new("server", server_thread, &server);
    relay(client.other, server.other, &change);
    g_thread_join(client.thread);
    got = GPOINTER_TO_SIZE(g_thread_join(server.thread));
    /* All there is, if nobody was in between. */
    if (!change.change && !change.n_inserted)
        g_assert_cmpuint(got, ==, sizeof(content));
    for (unsigned i = 0; i < 2; i++) {
        kumo_channel_close(i ? &client.channel : &server.channel);
        close(i ? client.other : server.other);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!server_tls)
        prepare();
    if (size < 1)
        return 0;
    size = MIN(size, MAX_BYTES) - 1;
    if (data[0] == 'M' && size >= 3)
        talk_between(data + 1, size);
    else if (data[0] != 'M')
        talk_to(data[0] == 'S', data + 1, size);
    return 0;
}
