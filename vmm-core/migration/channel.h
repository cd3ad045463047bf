/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection of a migration: a UNIX or TCP stream, blocking for the thread that uses it, which
 * another can call off at any moment.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm-core/migration/cancel.h"

/* How long the other side may let us wait at most, while the guest stands still. */
enum {
    KUMO_PATIENCE_STILL_MS = 20000,
    KUMO_PATIENCE_GO_MS = 10000, /* for GO when it could be said */
    /* For its answer: longer, so that a destination that had no GO has said no before. */
    KUMO_PATIENCE_ANSWER_MS = 15000,
};

/* Returns: @most_ms or, if that is shorter, @timeout_s; 0: that is for ever. */
static inline int kumo_patience_ms(uint32_t timeout_s, int most_ms)
{
    return timeout_s && timeout_s < (uint32_t)most_ms / 1000 ? (int)timeout_s * 1000 : most_ms;
}

typedef struct KumoChannel KumoChannel;

/* How bytes go that are not sent as they are. */
typedef struct {
    /* As kumo_channel_write() and kumo_channel_read(), without descriptors. */
    bool (*write)(KumoChannel *channel, const struct iovec *iov, unsigned n_iov, GError **error);
    bool (*read)(KumoChannel *channel, void *buf, size_t len, GError **error);
    void (*end)(void *session);
} KumoChannelCodec;

struct KumoChannel {
    int fd;
    bool is_socket;
    const KumoChannelCodec *codec; /* NULL: in plain text */
    void *session;                 /* the codec's */
    KumoMigrationCancel *cancel;
    _Atomic int patience_ms; /* how long the other side may let us wait; 0: for ever */
    /* NULL or: the patience has ended. Returns: whether it begins anew. */
    bool (*wait_on)(void *opaque);
    void *wait_opaque;
    _Atomic uint64_t sent_bytes; /* by kumo_channel_write() */
    uint64_t received_bytes;     /* by kumo_channel_read() */
    /* Of stream.c. */
    uint64_t n_received; /* records */
    bool pages_summed;   /* behind the data of PAGES comes its checksum */
};

/**
 * kumo_channel_connect:
 * @field: what @url is, for messages
 * @url: "unix:/path" or "tcp:host:port"
 *
 * Returns: TRUE with @channel open, or FALSE with @error set.
 */
bool kumo_channel_connect(KumoChannel *channel, const char *field, const char *url,
                          KumoMigrationCancel *cancel, GError **error);

/**
 * kumo_channel_open_fd:
 * @fd: (transfer full): a file, a pipe or a connected socket; made non-blocking where it could
 * block for long
 *
 * Returns: TRUE with @channel open, or FALSE with @error set and @fd closed.
 */
bool kumo_channel_open_fd(KumoChannel *channel, int fd, KumoMigrationCancel *cancel,
                          GError **error);

/* Where a migration is to come in. */
typedef struct {
    int fd;
    bool is_stream;  /* fd is the connection itself, the only one */
    char *path;      /* of a UNIX socket, which is removed in the end; else NULL */
    int patience_ms; /* how long one waits for a connection; 0: for ever */
} KumoChannelListener;

/* (transfer full): @fd is where the migration comes from. */
void kumo_channel_listen_fd(KumoChannelListener *listener, int fd);

/* A UNIX socket at whose path nobody listens any more is replaced. */
bool kumo_channel_listen(KumoChannelListener *listener, const char *field, const char *url,
                         GError **error);
void kumo_channel_listener_close(KumoChannelListener *listener);

/* Waits for one connection; takes the one that there is if @listener is a stream. */
bool kumo_channel_accept(KumoChannel *channel, KumoChannelListener *listener,
                         KumoMigrationCancel *cancel, GError **error);

/* Waits until the other side lets us go on, or the patience ends. Returns: as
 * kumo_migration_cancel_wait(). */
bool kumo_channel_wait(KumoChannel *channel, short events, GError **error);

/* From now on nothing calls off what is written, which the other side may let us wait for
 * @patience_ms: to say why one goes. */
void kumo_channel_take_leave(KumoChannel *channel, int patience_ms);

/* Ends the connection for both sides, whoever waits for it here; any thread, until
 * kumo_channel_close(). */
void kumo_channel_hang_up(KumoChannel *channel);

void kumo_channel_close(KumoChannel *channel);

/* Makes sure that what was written to a file is on the disk; fine for what is no file. */
bool kumo_channel_sync(KumoChannel *channel, GError **error);

/* Returns: whether descriptors can go over it. */
bool kumo_channel_is_unix(const KumoChannel *channel);

/* Nothing more is written: the other side reads the end, behind what was. */
void kumo_channel_end_writing(KumoChannel *channel);

/**
 * kumo_channel_write:
 * @iov: changed
 * @fd: goes with the first byte; -1: none
 *
 * Writes all of @iov. Returns: TRUE, or FALSE with @error: IO: the other side is gone; STATE:
 * called off.
 */
bool kumo_channel_write(KumoChannel *channel, struct iovec *iov, unsigned n_iov, int fd,
                        GError **error);

/**
 * kumo_channel_read:
 * @ret_fd: (out) (optional): a descriptor that came along, (transfer full), or -1; without it one
 * is closed
 *
 * Reads @len bytes. Returns: as kumo_channel_write().
 */
bool kumo_channel_read(KumoChannel *channel, void *buf, size_t len, int *ret_fd, GError **error);
