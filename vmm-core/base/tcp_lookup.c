/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/tcp_lookup.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

struct KumoTcpLookup {
    gatomicrefcount refs; /* the owner's and the thread's */
    char *field, *url, *address;
    bool passive;
    unsigned retry_s;
    int done_fd; /* an eventfd; what follows it is the thread's until it is signalled */
    struct addrinfo *found;
    GError *error;

    GMutex lock;
    GCond abandoned;
    bool is_abandoned; /* under the lock */
};

bool kumo_tcp_address_has_name(const char *address)
{
    const char *colon = strrchr(address, ':');
    g_autofree char *host = colon ? g_strndup(address, (gsize)(colon - address)) : NULL;

    return host && host[0] != '[' && !g_hostname_is_ip_address(host);
}

static void lookup_unref(KumoTcpLookup *lookup)
{
    if (!g_atomic_ref_count_dec(&lookup->refs))
        return;
    if (lookup->found)
        freeaddrinfo(lookup->found);
    g_clear_error(&lookup->error);
    kumo_fd_clear(&lookup->done_fd);
    g_mutex_clear(&lookup->lock);
    g_cond_clear(&lookup->abandoned);
    g_free(lookup->field);
    g_free(lookup->url);
    g_free(lookup->address);
    g_free(lookup);
}

/* Returns: FALSE if nobody wants to know any more. */
static bool rest(KumoTcpLookup *lookup)
{
    int64_t until_us = g_get_monotonic_time() + (int64_t)lookup->retry_s * G_USEC_PER_SEC;
    bool wanted;

    g_mutex_lock(&lookup->lock);
    while (!lookup->is_abandoned && g_cond_wait_until(&lookup->abandoned, &lookup->lock, until_us))
        ;
    wanted = !lookup->is_abandoned;
    g_mutex_unlock(&lookup->lock);
    return wanted;
}

static void *lookup_thread(void *opaque)
{
    KumoTcpLookup *lookup = opaque;
    bool told = false;

    for (;;) {
        lookup->found = kumo_tcp_resolve(lookup->field, lookup->url, lookup->address,
                                         lookup->passive, &lookup->error);
        if (lookup->found || !lookup->retry_s)
            break;
        if (!told)
            kumo_info("%s; it is looked up again", lookup->error->message);
        told = true;
        if (!rest(lookup))
            break;
        g_clear_error(&lookup->error);
    }
    kumo_eventfd_signal(lookup->done_fd);
    lookup_unref(lookup);
    return NULL;
}

KumoTcpLookup *kumo_tcp_lookup_new(const char *field, const char *url, const char *address,
                                   bool passive, unsigned retry_s, GError **error)
{
    KumoTcpLookup *lookup = g_new0(KumoTcpLookup, 1);
    GThread *thread = NULL;

    g_atomic_ref_count_init(&lookup->refs);
    g_mutex_init(&lookup->lock);
    g_cond_init(&lookup->abandoned);
    lookup->field = g_strdup(field);
    lookup->url = g_strdup(url);
    lookup->address = g_strdup(address);
    lookup->passive = passive;
    lookup->retry_s = retry_s;
    lookup->done_fd = kumo_eventfd_new(error);
    if (lookup->done_fd >= 0) {
        g_atomic_ref_count_inc(&lookup->refs);
        thread = g_thread_try_new("resolver", lookup_thread, lookup, error);
        if (!thread)
            lookup_unref(lookup);
    }
    if (!thread) {
        lookup_unref(lookup);
        return NULL;
    }
    g_thread_unref(thread);
    return lookup;
}

int kumo_tcp_lookup_fd(const KumoTcpLookup *lookup)
{
    return lookup->done_fd;
}

struct addrinfo *kumo_tcp_lookup_take(KumoTcpLookup *lookup, GError **error)
{
    if (lookup->error)
        g_propagate_error(error, g_steal_pointer(&lookup->error));
    return g_steal_pointer(&lookup->found);
}

void kumo_tcp_lookup_free(KumoTcpLookup *lookup)
{
    if (!lookup)
        return;
    g_mutex_lock(&lookup->lock);
    lookup->is_abandoned = true;
    g_cond_signal(&lookup->abandoned);
    g_mutex_unlock(&lookup->lock);
    lookup_unref(lookup);
}

struct addrinfo *kumo_tcp_resolve_within(const char *field, const char *url, const char *address,
                                         bool passive, unsigned patience_ms, GError **error)
{
    int64_t until_us = g_get_monotonic_time() + (int64_t)patience_ms * 1000;
    g_autoptr(KumoTcpLookup) lookup = NULL;
    int n;

    if (!kumo_tcp_address_has_name(address))
        return kumo_tcp_resolve(field, url, address, passive, error);
    lookup = kumo_tcp_lookup_new(field, url, address, passive, 0, error);
    if (!lookup)
        return NULL;
    do {
        struct pollfd ready = { .fd = lookup->done_fd, .events = POLLIN };
        int64_t left_us = until_us - g_get_monotonic_time();

        n = poll(&ready, 1, (int)(MAX(left_us, 0) / 1000));
    } while (n < 0 && errno == EINTR);
    if (n > 0)
        return kumo_tcp_lookup_take(lookup, error);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s: %.256s: no name server answers", field, url);
    return NULL;
}
