/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/channel_tls.h"

#include <poll.h>
#include <stdatomic.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/module.h"
#include "vmm-core/tls/module.h"

enum {
    HANDSHAKE_PATIENCE_MS = 10000,
    /* What a server says when it has accepted the client's certificate: in TLS 1.3 a client has
     * otherwise no way to know before it sends something. */
    WELCOME = 'k',
};

struct KumoChannelTls {
    const KumoTlsModule *ops;
    KumoTlsIdentity *identity;
    bool server;
};

/* The session of one channel. */
typedef struct {
    const KumoTlsModule *ops;
    KumoTlsSession *tls;
} Session;

void kumo_channel_tls_prepare(void)
{
    g_autoptr(GError) error = NULL;

    if (!kumo_module_load("TLS", KUMO_TLS_MODULE_FILE, KUMO_TLS_MODULE_SYMBOL, &error))
        kumo_debug("%s", error->message);
}

KumoChannelTls *kumo_channel_tls_new(const char *directory, bool server, GError **error)
{
    const KumoTlsModule *ops =
        kumo_module_load("TLS", KUMO_TLS_MODULE_FILE, KUMO_TLS_MODULE_SYMBOL, error);
    KumoTlsIdentity *identity = ops ? ops->identity_load(directory, server, error) : NULL;
    KumoChannelTls *tls;

    if (!identity)
        return NULL;
    tls = g_new0(KumoChannelTls, 1);
    *tls = (KumoChannelTls){ ops, identity, server };
    return tls;
}

void kumo_channel_tls_free(KumoChannelTls *tls)
{
    if (!tls)
        return;
    tls->ops->identity_free(tls->identity);
    g_free(tls);
}

/* Waits for what @step wants. Returns: whether to try again. */
static bool wait_step(KumoChannel *channel, KumoTlsStep step, GError **error)
{
    return kumo_channel_wait(channel, step == KUMO_TLS_WANTS_READ ? POLLIN : POLLOUT, error);
}

static bool tls_write(KumoChannel *channel, const struct iovec *iov, unsigned n_iov, GError **error)
{
    Session *session = channel->session;

    for (unsigned i = 0; i < n_iov; i++) {
        size_t done = 0;

        while (done < iov[i].iov_len) {
            size_t n = 0;
            KumoTlsStep step;

            if (!kumo_migration_cancel_check(channel->cancel, error))
                return false;
            step = session->ops->send(session->tls, (const char *)iov[i].iov_base + done,
                                      iov[i].iov_len - done, &n, error);
            if (step == KUMO_TLS_FAILED ||
                (step != KUMO_TLS_DONE && !wait_step(channel, step, error)))
                return false;
            done += n;
            atomic_fetch_add_explicit(&channel->sent_bytes, n, memory_order_relaxed);
        }
    }
    return true;
}

static bool tls_read(KumoChannel *channel, void *buf, size_t len, GError **error)
{
    Session *session = channel->session;

    while (len > 0) {
        size_t n = 0;
        KumoTlsStep step;

        if (!kumo_migration_cancel_check(channel->cancel, error))
            return false;
        step = session->ops->receive(session->tls, buf, len, &n, error);
        if (step == KUMO_TLS_FAILED || (step != KUMO_TLS_DONE && !wait_step(channel, step, error)))
            return false;
        if (step == KUMO_TLS_DONE && n == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "the other side closed the connection");
            return false;
        }
        buf = (char *)buf + n;
        len -= n;
    }
    return true;
}

static void tls_end(void *opaque)
{
    Session *session = opaque;

    session->ops->end(session->tls);
    g_free(session);
}

static const KumoChannelCodec codec = { .write = tls_write, .read = tls_read, .end = tls_end };

/* Returns: (transfer full) (nullable): the host of "tcp:host:port", without brackets. */
static char *host_of(const char *url)
{
    const char *colon = url ? strrchr(url, ':') : NULL;
    char *host = colon && colon > url + 4 ? g_strndup(url + 4, (gsize)(colon - url) - 4) : NULL;
    size_t len = host ? strlen(host) : 0;

    if (len > 1 && host[0] == '[' && host[len - 1] == ']') {
        memmove(host, host + 1, len - 2);
        host[len - 2] = '\0';
    }
    return host;
}

static bool shake_hands(KumoChannel *channel, GError **error)
{
    Session *session = channel->session;

    for (;;) {
        KumoTlsStep step = session->ops->handshake(session->tls, error);

        if (step == KUMO_TLS_DONE)
            return true;
        if (step == KUMO_TLS_FAILED || !wait_step(channel, step, error))
            return false;
    }
}

static bool welcome(KumoChannel *channel, bool server, GError **error)
{
    char word = WELCOME;
    const struct iovec iov = { &word, sizeof(word) };

    if (server)
        return tls_write(channel, &iov, 1, error);
    if (!tls_read(channel, &word, sizeof(word), error))
        return false;
    if (word == WELCOME)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "TLS: the destination is no kumo");
    return false;
}

bool kumo_channel_start_tls(KumoChannel *channel, KumoChannelTls *tls, const char *url,
                            const char *name, GError **error)
{
    g_autofree char *host = name ? g_strdup(name) : host_of(url);
    int patience_ms = atomic_load(&channel->patience_ms);
    KumoTlsSession *session;
    bool ok;

    session = tls->ops->begin(tls->identity, host, channel->fd, error);
    if (!session)
        return false;
    channel->session = g_memdup2(&(Session){ tls->ops, session }, sizeof(Session));
    channel->codec = &codec;
    atomic_store(&channel->patience_ms, HANDSHAKE_PATIENCE_MS);
    ok = shake_hands(channel, error) && welcome(channel, tls->server, error);
    atomic_store(&channel->patience_ms, patience_ms);
    return ok;
}
