/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS 1.3 with certificates at both ends, as a module of its own: it links GnuTLS, which costs more
 * to load than all the rest of kumo. It knows nothing of migrations, and never waits.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct KumoTlsIdentity KumoTlsIdentity;
typedef struct KumoTlsSession KumoTlsSession;

typedef enum {
    KUMO_TLS_DONE,
    KUMO_TLS_WANTS_READ,  /* the socket has to be readable first */
    KUMO_TLS_WANTS_WRITE, /* or writable */
    KUMO_TLS_FAILED,      /* with an error */
} KumoTlsStep;

typedef struct {
    const char *version; /* KUMO_VERSION of the build: the module of another one does not fit */

    /**
     * identity_load:
     * @directory: with ca-cert.pem, and of a server server-cert.pem and server-key.pem, else
     * client-cert.pem, client-key.pem
     *
     * Returns: (transfer full): NULL with @error (INVALID) naming the file that is missing, wrong
     * or expired.
     */
    KumoTlsIdentity *(*identity_load)(const char *directory, bool server, GError **error);
    /* Sessions that were begun with it go on. */
    void (*identity_free)(KumoTlsIdentity *identity);

    /**
     * begin:
     * @host: whose certificate a client expects: a name or an address
     * @fd: a non-blocking socket, which stays the caller's
     */
    KumoTlsSession *(*begin)(KumoTlsIdentity *identity, const char *host, int fd, GError **error);
    /* Again until it is DONE: then the other side has shown a certificate of the same authority.
     * @error: DENIED. */
    KumoTlsStep (*handshake)(KumoTlsSession *session, GError **error);
    /* @ret_n: (out): bytes of @buf that went, or came; 0 with DONE of receive: the other side has
     * closed the connection. After WANTS_* the same has to be asked for again. One thread may send
     * while another one receives. */
    KumoTlsStep (*send)(KumoTlsSession *session, const void *buf, size_t len, size_t *ret_n,
                        GError **error);
    KumoTlsStep (*receive)(KumoTlsSession *session, void *buf, size_t len, size_t *ret_n,
                           GError **error);
    void (*end)(KumoTlsSession *session);
} KumoTlsModule;

/* The one symbol that the module exports: a KumoTlsModule. */
#define KUMO_TLS_MODULE_SYMBOL "kumo_tls_module"
#define KUMO_TLS_MODULE_FILE   "kumo-tls.so"
