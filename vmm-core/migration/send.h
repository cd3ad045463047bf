/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The source's half of a migration, on a thread of its own: memory while the guest runs, then, with
 * the guest stopped, what it wrote since and the state of the machine.
 */
#pragma once

#include <jansson.h>

#include "vmm-core/config/config.h"
#include "vmm-core/core/memory.h"
#include "vmm-core/migration/channel_tls.h"

/* What the sender needs of the VMM; called on the sender's thread. */
typedef struct {
    /* Stops the guest; not called for one that is paused. */
    bool (*stop)(void *opaque, GError **error);
    /* The guest is stopped and its memory has been sent. Gives up the locks of disks, unless
     * one_way. Returns: (transfer full): its state. */
    json_t *(*hand_over)(void *opaque, GError **error);
    /* The guest is to run slower: for @percent of the time it does not; 0: as fast as it can. */
    void (*throttle)(void *opaque, unsigned percent);
    /* A round of memory begins. */
    void (*iteration)(void *opaque, unsigned id);
    /* The machine runs at the destination, and the rest of its memory follows. */
    void (*followed)(void *opaque);
    /* With a recovery: the destination did not answer GO. Is the machine certainly there? */
    bool (*is_away)(void *opaque);
    /* With a recovery: a connection has broken, or could not be made again. */
    void (*broken)(void *opaque, const GError *error);
    /* Memory follows over other connections. */
    void (*recovered)(void *opaque);
} KumoSendHost;

typedef enum {
    KUMO_SEND_CONNECT,  /* to the destination, which builds the machine */
    KUMO_SEND_MEMORY,   /* the guest runs while its memory is sent */
    KUMO_SEND_HANDOVER, /* it is stopped */
    KUMO_SEND_POSTCOPY, /* it runs at the destination, and the rest of its memory follows, */
    KUMO_SEND_BROKEN,   /* once there is another connection, */
    KUMO_SEND_RECOVER,  /* which is being made */
} KumoSendPhase;

/* Where another connection is to be made to, when one has broken. */
typedef struct {
    KumoSendMigrationConfig *config; /* its destination_url and tls_name */
    KumoChannelTls *tls;             /* NULL: in plain text */
} KumoSendAttempt;

void kumo_send_attempt_free(KumoSendAttempt *attempt);

typedef struct {
    int fd;                             /* an eventfd, signalled when there is one */
    _Atomic(KumoSendAttempt *) attempt; /* (transfer full); in the phase BROKEN only */
} KumoSendRecovery;

/* Written by the sender, read by anybody. */
typedef struct {
    _Atomic int phase;            /* of KumoSendPhase */
    _Atomic uint32_t iterations;  /* rounds of memory that were begun */
    _Atomic uint64_t total_bytes; /* all RAM */
    _Atomic uint64_t sent_bytes;  /* on the wire */
    _Atomic uint64_t data_pages, zero_pages;
    _Atomic uint64_t packed_pages;       /* of data_pages those that went compressed, */
    _Atomic uint64_t packed_bytes;       /* and what they became */
    _Atomic uint64_t remaining_pages;    /* of this round */
    _Atomic uint64_t dirty_pages;        /* that the guest wrote during the last round */
    _Atomic uint32_t throttle_percent;   /* for which the guest does not run, for auto_converge */
    _Atomic uint64_t bytes_per_s;        /* on the wire */
    _Atomic uint64_t memory_bytes_per_s; /* the same but for compression */
    _Atomic uint64_t expected_downtime_ms;
    _Atomic uint64_t page_requests; /* of the destination, with post-copy */
    _Atomic uint64_t downtime_us;   /* from the stop until the destination has the machine */
} KumoSendProgress;

typedef struct {
    const KumoSendMigrationConfig *config;
    /* These begin as in config, and may be changed meanwhile. */
    _Atomic uint32_t downtime_ms;
    _Atomic uint64_t max_bandwidth;
    _Atomic uint64_t max_postcopy_bandwidth;
    _Atomic bool stop_guest;     /* at once, and the rest goes while it stands still */
    _Atomic bool start_postcopy; /* with KUMO_MEMORY_HYBRID: what has not been sent follows */
    json_t *document;            /* owned: {"config": ..., "machine": ...} */
    KumoMemory *memory;
    KumoChannelTls *tls; /* NULL: in plain text */
    bool paused;         /* the guest does not run, nor will it at the destination */
    const KumoSendHost *host;
    void *opaque;
    KumoMigrationCancel *cancel;
    KumoSendRecovery *recovery; /* NULL: what is cut off stays so */
    KumoSendProgress progress;
    bool switched; /* set by kumo_send_run(): when it said GO, some memory was to follow */
} KumoSender;

typedef enum {
    KUMO_SEND_DONE,    /* the machine is the destination's; with one_way: it has been written */
    KUMO_SEND_FAILED,  /* the destination will not run it */
    KUMO_SEND_UNKNOWN, /* the destination was told to run it, and did not answer: it may have */
    KUMO_SEND_CUT_OFF, /* it is the destination's, which has lost a part of its memory */
} KumoSendResult;

/* Returns: how it ended, with @error set unless it is DONE. */
KumoSendResult kumo_send_run(KumoSender *sender, GError **error);
