/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <time.h>

#include "kumo-build.h"
#include "vmm-core/base/error.h"
#include "vmm-core/tls/module.h"

/* RFC 8446; nothing that is older has a place between two kumos. */
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3"

/* Counted: each session has it until its end. */
struct KumoTlsIdentity {
    gnutls_certificate_credentials_t credentials;
    bool server;
};

struct KumoTlsSession {
    gnutls_session_t session;
    GMutex lock; /* one thread may send while another one receives */
    KumoTlsIdentity *identity;
    char *host;
    gnutls_typed_vdata_st expected[2]; /* of the other side's certificate */
};

/* --- what we are --- */

static void identity_clear(void *opaque)
{
    KumoTlsIdentity *identity = opaque;

    if (identity->credentials)
        gnutls_certificate_free_credentials(identity->credentials);
}

static void identity_free(KumoTlsIdentity *identity)
{
    if (identity)
        g_atomic_rc_box_release_full(identity, identity_clear);
}

static bool wrong_file(const char *path, const char *why, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "tls_dir: %s: %s", path, why);
    return false;
}

/* So that its owner hears of it, and not only the other side. */
static bool check_dates(const KumoTlsIdentity *identity, const char *path, GError **error)
{
    gnutls_x509_crt_t *list = NULL;
    unsigned n = 0;
    time_t now = time(NULL);
    bool ok = true;
    int status = gnutls_certificate_get_x509_crt(identity->credentials, 0, &list, &n);

    if (status < 0)
        return wrong_file(path, gnutls_strerror(status), error);
    if (n && gnutls_x509_crt_get_expiration_time(list[0]) < now)
        ok = wrong_file(path, "the certificate has expired", error);
    else if (n && gnutls_x509_crt_get_activation_time(list[0]) > now)
        ok = wrong_file(path, "the certificate is not valid yet", error);
    for (unsigned i = 0; i < n; i++)
        gnutls_x509_crt_deinit(list[i]);
    gnutls_free(list);
    return ok;
}

static bool load_files(KumoTlsIdentity *identity, const char *directory, GError **error)
{
    const char *who = identity->server ? "server" : "client";
    g_autofree char *ca = g_build_filename(directory, "ca-cert.pem", NULL);
    g_autofree char *cert = g_strdup_printf("%s/%s-cert.pem", directory, who);
    g_autofree char *key = g_strdup_printf("%s/%s-key.pem", directory, who);
    const char *const paths[] = { ca, cert, key };
    int status;

    for (unsigned i = 0; i < G_N_ELEMENTS(paths); i++) {
        g_autofree char *text = NULL;
        g_autoptr(GError) local = NULL;

        if (!g_file_get_contents(paths[i], &text, NULL, &local))
            return wrong_file(paths[i], local->message, error);
    }
    status = gnutls_certificate_set_x509_trust_file(identity->credentials, ca, GNUTLS_X509_FMT_PEM);
    if (status <= 0)
        return wrong_file(ca, status ? gnutls_strerror(status) : "has no certificate", error);
    status =
        gnutls_certificate_set_x509_key_file(identity->credentials, cert, key, GNUTLS_X509_FMT_PEM);
    if (status < 0) {
        g_autofree char *both = g_strdup_printf("%s and %s", cert, key);

        return wrong_file(both, gnutls_strerror(status), error);
    }
    return check_dates(identity, cert, error);
}

static KumoTlsIdentity *identity_load(const char *directory, bool server, GError **error)
{
    KumoTlsIdentity *identity = g_atomic_rc_box_new0(KumoTlsIdentity);

    identity->server = server;
    if (gnutls_certificate_allocate_credentials(&identity->credentials) < 0) {
        identity->credentials = NULL;
        identity_free(identity);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE, "tls_dir: no memory");
        return NULL;
    }
    if (load_files(identity, directory, error))
        return identity;
    identity_free(identity);
    return NULL;
}

/* --- a connection --- */

static void end(KumoTlsSession *session)
{
    if (!session)
        return;
    gnutls_deinit(session->session);
    identity_free(session->identity);
    g_mutex_clear(&session->lock);
    g_free(session->host);
    g_free(session);
}

static bool failed(int status, const char *what, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "TLS: %s: %s", what, gnutls_strerror(status));
    return false;
}

/* The other side's certificate has to be of our authority, for what it does, and a server's of its
 * host. */
static void expect_peer(KumoTlsSession *session)
{
    static const char client_purpose[] = GNUTLS_KP_TLS_WWW_CLIENT;
    static const char server_purpose[] = GNUTLS_KP_TLS_WWW_SERVER;
    unsigned n = 0;

    session->expected[n++] = (gnutls_typed_vdata_st){
        .type = GNUTLS_DT_KEY_PURPOSE_OID,
        .data = (unsigned char *)(session->identity->server ? client_purpose : server_purpose),
    };
    if (!session->identity->server)
        session->expected[n++] = (gnutls_typed_vdata_st){
            .type = GNUTLS_DT_DNS_HOSTNAME,
            .data = (unsigned char *)session->host,
        };
    gnutls_session_set_verify_cert2(session->session, session->expected, n, 0);
}

static KumoTlsSession *begin(KumoTlsIdentity *identity, const char *host, int fd, GError **error)
{
    KumoTlsSession *session = g_new0(KumoTlsSession, 1);
    unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS |
                     (identity->server ? GNUTLS_SERVER : GNUTLS_CLIENT | GNUTLS_FORCE_CLIENT_CERT);
    int status;

    g_mutex_init(&session->lock);
    session->identity = g_atomic_rc_box_acquire(identity);
    session->host = g_strdup(host);
    status = gnutls_init(&session->session, flags);
    if (status >= 0)
        status = gnutls_priority_set_direct(session->session, PRIORITY, NULL);
    if (status >= 0)
        status =
            gnutls_credentials_set(session->session, GNUTLS_CRD_CERTIFICATE, identity->credentials);
    if (status < 0) {
        failed(status, "set-up", error);
        end(session);
        return NULL;
    }
    if (identity->server)
        gnutls_certificate_server_set_request(session->session, GNUTLS_CERT_REQUIRE);
    expect_peer(session);
    gnutls_transport_set_int(session->session, fd);
    /* Who waits for how long is the caller's affair. */
    gnutls_handshake_set_timeout(session->session, GNUTLS_INDEFINITE_TIMEOUT);
    return session;
}

static KumoTlsStep wanted(KumoTlsSession *session)
{
    return gnutls_record_get_direction(session->session) ? KUMO_TLS_WANTS_WRITE
                                                         : KUMO_TLS_WANTS_READ;
}

static const char *peer_of(const KumoTlsSession *session)
{
    return session->identity->server ? "the source" : "the destination";
}

static void explain(KumoTlsSession *session, int status, GError **error)
{
    const char *peer = peer_of(session);
    gnutls_datum_t text = { 0 };

    switch (status) {
    case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
    case GNUTLS_E_CERTIFICATE_ERROR:
        gnutls_certificate_verification_status_print(
            gnutls_session_get_verify_cert_status(session->session), GNUTLS_CRT_X509, &text, 0);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_DENIED, "TLS: the certificate of %s%s%s: %s",
                    peer, session->identity->server ? "" : " ",
                    session->identity->server ? "" : session->host,
                    text.data ? g_strchomp((char *)text.data) : gnutls_strerror(status));
        gnutls_free(text.data);
        break;
    case GNUTLS_E_NO_CERTIFICATE_FOUND:
    case GNUTLS_E_CERTIFICATE_REQUIRED:
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_DENIED, "TLS: %s has shown no certificate", peer);
        break;
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
    case GNUTLS_E_WARNING_ALERT_RECEIVED:
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_DENIED, "TLS: %s refuses this connection: %s",
                    peer, gnutls_alert_get_name(gnutls_alert_get(session->session)));
        break;
    case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
    case GNUTLS_E_UNEXPECTED_PACKET:
    case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
    case GNUTLS_E_RECORD_OVERFLOW:
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_DENIED,
                    "TLS: %s does not speak TLS (tls_dir) as this side does", peer);
        break;
    case GNUTLS_E_PREMATURE_TERMINATION:
    case GNUTLS_E_PULL_ERROR:
    case GNUTLS_E_PUSH_ERROR:
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO,
                    "TLS: %s ended the connection; does it speak TLS (tls_dir)?", peer);
        break;
    default:
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_DENIED, "TLS: with %s: %s", peer,
                    gnutls_strerror(status));
    }
}

static KumoTlsStep handshake(KumoTlsSession *session, GError **error)
{
    int status;

    do
        status = gnutls_handshake(session->session);
    while (status == GNUTLS_E_INTERRUPTED || status == GNUTLS_E_WARNING_ALERT_RECEIVED);
    if (status == GNUTLS_E_AGAIN)
        return wanted(session);
    if (status >= 0)
        return KUMO_TLS_DONE;
    explain(session, status, error);
    /* So that the other side hears why. */
    gnutls_alert_send_appropriate(session->session, status);
    return KUMO_TLS_FAILED;
}

static KumoTlsStep finish_transfer(KumoTlsSession *session, ssize_t n, bool sending, size_t *ret_n,
                                   GError **error)
{
    *ret_n = 0;
    if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
        return sending ? KUMO_TLS_WANTS_WRITE : wanted(session);
    if (n == GNUTLS_E_PREMATURE_TERMINATION && !sending)
        n = 0;
    if (n >= 0) {
        *ret_n = (size_t)n;
        return KUMO_TLS_DONE;
    }
    if (n == GNUTLS_E_FATAL_ALERT_RECEIVED)
        explain(session, (int)n, error);
    else
        failed((int)n, sending ? "sending to the other side" : "receiving from the other side",
               error);
    return KUMO_TLS_FAILED;
}

static KumoTlsStep send_some(KumoTlsSession *session, const void *buf, size_t len, size_t *ret_n,
                             GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&session->lock);

    return finish_transfer(session, gnutls_record_send(session->session, buf, len), true, ret_n,
                           error);
}

static KumoTlsStep receive_some(KumoTlsSession *session, void *buf, size_t len, size_t *ret_n,
                                GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&session->lock);

    return finish_transfer(session, gnutls_record_recv(session->session, buf, len), false, ret_n,
                           error);
}

extern const KumoTlsModule kumo_tls_module;
__attribute__((visibility("default"))) const KumoTlsModule kumo_tls_module = {
    .version = KUMO_VERSION,
    .identity_load = identity_load,
    .identity_free = identity_free,
    .begin = begin,
    .handshake = handshake,
    .send = send_some,
    .receive = receive_some,
    .end = end,
};
