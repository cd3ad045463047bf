/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/net/net_queue.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/idle_poll.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/throttle.h"
#include "vmm-core/devices/net/tap.h"
#include "vmm-core/devices/virtio/queue_worker.h"

enum {
    MAX_IOV = 1024,       /* what readv() and writev() take at most */
    RX_IOV = MAX_IOV - 1, /* one is kept for what does not fit */
    /* Buffers of one receive chain; Linux gives a chain of 19 even to a queue of 4, in an indirect
     * table. */
    MIN_RX_CHAIN_IOV = 64,
    MAX_RX_CHAIN_IOV = 256,
    RX_CHAINS = 128, /* taken from the ring in advance */
    OVERFLOW_BYTES =
        68 * 1024, /* for what does not fit: copied, held, or dropped with its length known */
    RX_SMALL_BYTES = 2048, /* see rx_window() */
    RX_SMALL_RUN = 64,
    MIN_TX_BYTES = KUMO_TAP_HEADER_BYTES + 14,
    MAX_TX_BYTES = KUMO_TAP_HEADER_BYTES + 18 + 65535,
    BUDGET = 256,  /* frames before the worker looks at its other sources */
    TX_BATCH = 64, /* frames returned to the driver together */
};

/* A receive chain taken from the ring but not yet filled; its buffers follow those of the one
 * before in rx_iov. */
typedef struct {
    uint16_t head;
    unsigned n_iov;
    uint64_t bytes;
} RxChain;

struct KumoNetPair {
    KumoVirtio *virtio;
    unsigned index;
    KumoLoop *loop;
    int tap_fd;
    char name[16];
    unsigned rx_chain_iov; /* the buffers of one chain, at most */

    /* Set by start. */
    KumoVirtq *rx, *tx; /* NULL while stopped */
    bool mergeable;
    uint32_t max_frame_bytes;
    unsigned rx_queue_size;
    KumoLoopSource *rx_kick, *tx_kick,
        *tap; /* tap is NULL while the pair is disabled or the tap is gone */
    uint32_t tap_events;
    bool rx_starved; /* no buffers: the tap is not read until the driver kicks */
    bool tx_blocked; /* the tap takes no more: the ring is not read until it does */
    bool tx_polling; /* the ring is looked at without kicks */
    KumoIdlePoll tx_idle_poll;
    bool broken;
    bool link_down; /* stays over stop and start */
    /* While the one waits the tap is not read, while the other does the transmit ring is not. */
    KumoThrottle rx_throttle, tx_throttle;

    /* Taken in advance: chains [rx_first, rx_end) with buffers [rx_iov_first, rx_iov_end). */
    RxChain rx_chains[RX_CHAINS];
    unsigned rx_first, rx_end, rx_iov_first, rx_iov_end;
    uint64_t rx_bytes;        /* room in all of them */
    unsigned rx_small_frames; /* since the last large one, at most RX_SMALL_RUN */
    struct iovec rx_iov[MAX_IOV];
    struct iovec tx_iov[MAX_IOV];
    uint8_t *overflow;
    size_t held_bytes; /* a frame in overflow that waits for more buffers; 0: none */

    KumoNetStats stats;
};

static void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static void pair_break(KumoNetPair *pair, const char *why)
{
    pair->broken = true;
    g_clear_pointer(&pair->tap, kumo_loop_remove);
    kumo_virtio_broken(pair->virtio, why);
}

static void tap_want(KumoNetPair *pair)
{
    bool rx = pair->link_down || (!pair->rx_starved && !pair->rx_throttle.waiting);
    uint32_t events = (rx ? EPOLLIN : 0) | (pair->tx_blocked ? EPOLLOUT : 0);

    if (pair->tap && events != pair->tap_events) {
        pair->tap_events = events;
        kumo_loop_modify(pair->tap, events);
    }
}

static void tap_gone(KumoNetPair *pair, const char *why)
{
    kumo_warn("%s: the tap interface is gone (%s)", pair->name, why);
    g_clear_pointer(&pair->tap, kumo_loop_remove);
    pair->tx_blocked = false;
}

/* --- receive --- */

/* Moves what was taken in advance to the front of the arrays when they run full. */
static void rx_compact(KumoNetPair *pair)
{
    unsigned n_chains = pair->rx_end - pair->rx_first;
    unsigned n_iov = pair->rx_iov_end - pair->rx_iov_first;

    memmove(pair->rx_chains, pair->rx_chains + pair->rx_first,
            n_chains * sizeof(pair->rx_chains[0]));
    memmove(pair->rx_iov, pair->rx_iov + pair->rx_iov_first, n_iov * sizeof(pair->rx_iov[0]));
    pair->rx_first = 0;
    pair->rx_end = n_chains;
    pair->rx_iov_first = 0;
    pair->rx_iov_end = n_iov;
}

/* No more can be taken in advance. */
static bool rx_is_full(const KumoNetPair *pair)
{
    return pair->rx_end == RX_CHAINS || pair->rx_iov_end + pair->rx_chain_iov > RX_IOV;
}

static bool rx_enough(const KumoNetPair *pair)
{
    if (!pair->mergeable)
        return pair->rx_end > pair->rx_first;
    return pair->rx_bytes >= pair->max_frame_bytes;
}

/* Takes chains until the largest frame fits, or the ring has no more. Returns: FALSE if there is
 * none at all. */
static bool rx_fill(KumoNetPair *pair)
{
    while (!rx_enough(pair)) {
        KumoVirtqChain chain = { .max_iov = pair->rx_chain_iov };
        KumoVirtqResult result;

        if (rx_is_full(pair)) {
            rx_compact(pair);
            if (rx_is_full(pair))
                break;
        }
        chain.iov = pair->rx_iov + pair->rx_iov_end;
        result = kumo_virtq_pop(pair->rx, &chain);
        if (result == KUMO_VIRTQ_EMPTY)
            break;
        if (result == KUMO_VIRTQ_BROKEN) {
            pair_break(pair, "receive queue against the rules");
            return false;
        }
        if (chain.n_readable || !chain.writable_bytes) {
            pair_break(pair, "receive buffer that cannot be written");
            return false;
        }
        pair->rx_chains[pair->rx_end++] = (RxChain){ .head = chain.head,
                                                     .n_iov = chain.n_writable,
                                                     .bytes = chain.writable_bytes };
        pair->rx_iov_end += chain.n_writable;
        pair->rx_bytes += chain.writable_bytes;
    }
    return pair->rx_end > pair->rx_first;
}

/* Gives back to the ring what was taken and not filled, last first. */
static void rx_unfill(KumoNetPair *pair)
{
    for (unsigned i = pair->rx_first; i < pair->rx_end; i++)
        kumo_virtq_unpop(pair->rx);
    pair->rx_first = pair->rx_end = pair->rx_iov_first = pair->rx_iov_end = 0;
    pair->rx_bytes = 0;
}

/* All buffers that were taken in advance, as if they were one chain. */
static KumoVirtqChain rx_all(KumoNetPair *pair)
{
    return (KumoVirtqChain){ .iov = pair->rx_iov + pair->rx_iov_first,
                             .n_writable = pair->rx_iov_end - pair->rx_iov_first,
                             .writable_bytes = pair->rx_bytes };
}

/* A frame of @len bytes lies in the first chains: hands them to the driver. */
static void rx_deliver(KumoNetPair *pair, size_t len)
{
    uint16_t heads[RX_CHAINS];
    uint32_t written[RX_CHAINS];
    unsigned n = 0;
    size_t left = len;
    KumoVirtqChain first = rx_all(pair);
    uint16_t num_buffers;

    kumo_virtq_chain_mark_dirty(pair->rx, &first, 0, len);
    while (left) {
        const RxChain *chain = &pair->rx_chains[pair->rx_first++];

        heads[n] = chain->head;
        written[n] = (uint32_t)MIN(left, chain->bytes);
        left -= written[n];
        pair->rx_iov_first += chain->n_iov;
        pair->rx_bytes -= chain->bytes;
        n++;
    }
    /* The tap leaves this field of the header alone (5.1.6.4). The view on all buffers is still
     * whole. */
    num_buffers = GUINT16_TO_LE((uint16_t)n);
    kumo_virtq_chain_write(pair->rx, &first, offsetof(struct virtio_net_hdr_v1, num_buffers),
                           &num_buffers, sizeof(num_buffers));
    kumo_virtq_push_many(pair->rx, heads, written, n);
    counter_add(&pair->stats.rx_frames, 1);
    counter_add(&pair->stats.rx_bytes, len - KUMO_TAP_HEADER_BYTES);
    kumo_throttle_charge(&pair->rx_throttle, KUMO_RATE_OTHER, len - KUMO_TAP_HEADER_BYTES, 1);
}

/* What the next frame is read into. A long vector costs the kernel time for each frame: after many
 * small ones only the first buffers are offered, the rest of a larger frame goes into our own. */
static void rx_window(const KumoNetPair *pair, unsigned *ret_n_iov, uint64_t *ret_room)
{
    unsigned i = pair->rx_first;

    *ret_n_iov = pair->rx_chains[i].n_iov;
    *ret_room = pair->rx_chains[i].bytes;
    if (!pair->mergeable)
        return;
    if (pair->rx_small_frames < RX_SMALL_RUN) {
        *ret_n_iov = pair->rx_iov_end - pair->rx_iov_first;
        *ret_room = pair->rx_bytes;
        return;
    }
    while (*ret_room < RX_SMALL_BYTES && ++i < pair->rx_end) {
        *ret_n_iov += pair->rx_chains[i].n_iov;
        *ret_room += pair->rx_chains[i].bytes;
    }
}

/* The kernel wrote what did not fit into the window behind it into our own buffer. */
static void rx_copy_rest(KumoNetPair *pair, uint64_t room, size_t len)
{
    KumoVirtqChain all = rx_all(pair);

    kumo_virtq_chain_write(pair->rx, &all, room, pair->overflow, len - room);
}

/*
 * Is the driver going to add buffers for a frame that the present ones are too few for? Linux does
 * when half of the ring is free, others for each buffer that they get back. A ring that is fuller
 * than that, or whose buffers are too small, may never have room.
 */
static bool rx_may_hold(const KumoNetPair *pair, size_t len)
{
    return pair->mergeable && len <= OVERFLOW_BYTES && !rx_enough(pair) && !rx_is_full(pair) &&
           (pair->rx_end - pair->rx_first) * 2 < pair->rx_queue_size;
}

/* Brings a frame together in our own buffer: its first @room bytes are in the guest's. */
static void rx_hold(KumoNetPair *pair, uint64_t room, size_t len)
{
    const struct iovec *iov = pair->rx_iov + pair->rx_iov_first;
    size_t at = 0;

    memmove(pair->overflow + room, pair->overflow, len - room);
    for (; at < room; iov++) {
        size_t part = MIN(iov->iov_len, room - at);

        memcpy(pair->overflow + at, iov->iov_base, part);
        at += part;
    }
    pair->held_bytes = len;
}

static void rx_count_drop(KumoNetPair *pair, size_t len)
{
    kumo_warn_guest("%s: frame of %zu bytes dropped: the guest's buffers hold %" G_GUINT64_FORMAT,
                    pair->name, len,
                    pair->mergeable ? pair->rx_bytes : pair->rx_chains[pair->rx_first].bytes);
    counter_add(&pair->stats.rx_dropped, 1);
}

/* Returns: FALSE if the frame that is held has to wait on; TRUE when there is none any more. */
static bool rx_let_go(KumoNetPair *pair)
{
    KumoVirtqChain all = rx_all(pair);
    size_t len = pair->held_bytes;

    if (pair->rx_bytes < len && rx_may_hold(pair, len))
        return false;
    pair->held_bytes = 0;
    if (pair->rx_bytes < len) {
        rx_count_drop(pair, len);
        return true;
    }
    kumo_virtq_chain_write(pair->rx, &all, 0, pair->overflow, len);
    rx_deliver(pair, len);
    return true;
}

static void rx_forget_held(KumoNetPair *pair)
{
    if (pair->held_bytes)
        counter_add(&pair->stats.rx_dropped, 1);
    pair->held_bytes = 0;
}

/* Reads one frame. Returns: FALSE if there is none. */
static bool rx_frame(KumoNetPair *pair)
{
    struct iovec *iov = pair->rx_iov + pair->rx_iov_first;
    uint64_t all_room = pair->mergeable ? pair->rx_bytes : pair->rx_chains[pair->rx_first].bytes;
    unsigned n_iov;
    uint64_t room;
    struct iovec kept;
    ssize_t n;

    rx_window(pair, &n_iov, &room);
    kept = iov[n_iov];
    iov[n_iov] = (struct iovec){ .iov_base = pair->overflow, .iov_len = OVERFLOW_BYTES };
    do
        n = readv(pair->tap_fd, iov, (int)n_iov + 1);
    while (n < 0 && errno == EINTR);
    iov[n_iov] = kept;

    if (n < 0) {
        if (errno == EBADFD || errno == EFAULT || errno == ENODEV)
            tap_gone(pair, g_strerror(errno));
        else if (errno != EAGAIN)
            kumo_warn_guest("%s: receive: %s", pair->name,
                            g_strerror(errno)); /* EIO: the link is down */
        return false;
    }
    if ((uint64_t)n > all_room && rx_may_hold(pair, (size_t)n)) {
        rx_hold(pair, room, (size_t)n);
        return true;
    }
    if ((uint64_t)n > all_room || n < KUMO_TAP_HEADER_BYTES) {
        rx_count_drop(pair, (size_t)n);
        return true;
    }
    if ((uint64_t)n > room)
        rx_copy_rest(pair, room, (size_t)n);
    if (n > RX_SMALL_BYTES)
        pair->rx_small_frames = 0;
    else if (pair->rx_small_frames < RX_SMALL_RUN)
        pair->rx_small_frames++;
    rx_deliver(pair, (size_t)n);
    return true;
}

/* Nothing that came while the link was down is there when it is up again. */
static void rx_drop(KumoNetPair *pair)
{
    rx_forget_held(pair);
    for (unsigned i = 0; i < BUDGET; i++) {
        ssize_t n = read(pair->tap_fd, pair->overflow, OVERFLOW_BYTES);

        if (n >= 0) {
            counter_add(&pair->stats.rx_dropped, 1);
        } else if (errno == EBADFD || errno == ENODEV) {
            tap_gone(pair, g_strerror(errno));
            return;
        } else if (errno != EINTR) {
            break;
        }
    }
    tap_want(pair);
}

static void rx_run(KumoNetPair *pair)
{
    bool retry;

    if (pair->broken || !pair->rx || !pair->tap)
        return;
    if (pair->link_down) {
        rx_drop(pair);
        return;
    }
    if (pair->rx_throttle.waiting) {
        tap_want(pair);
        return;
    }
    kumo_virtq_disable_kicks(pair->rx);
    do {
        retry = false;
        pair->rx_starved = false;
        for (unsigned i = 0; i < BUDGET && !pair->rx_throttle.waiting; i++) {
            bool held = pair->held_bytes != 0;

            if (!rx_fill(pair) || (held && !rx_let_go(pair))) {
                if (pair->broken)
                    break;
                pair->rx_starved = true;
                retry = kumo_virtq_enable_kicks(pair->rx);
                break;
            }
            if (!held && !rx_frame(pair))
                break;
        }
    } while (retry);
    kumo_virtq_notify(pair->rx);
    tap_want(pair);
}

/* --- transmit --- */

typedef enum { TX_SENT, TX_AGAIN, TX_BROKEN } TxResult;

/* The kernel checks what the header says against the frame; it copies both, so the guest cannot
 * change them between. */
static TxResult tx_frame(KumoNetPair *pair, const KumoVirtqChain *chain)
{
    ssize_t n;

    if (chain->n_writable || chain->readable_bytes < KUMO_TAP_HEADER_BYTES) {
        pair_break(pair, "transmit buffer without a header or writable");
        return TX_BROKEN;
    }
    if (chain->readable_bytes < MIN_TX_BYTES || chain->readable_bytes > MAX_TX_BYTES ||
        !pair->tap || pair->link_down) {
        counter_add(&pair->stats.tx_dropped, 1);
        return TX_SENT;
    }
    do
        n = writev(pair->tap_fd, chain->iov, (int)chain->n_readable);
    while (n < 0 && errno == EINTR);
    if (n >= 0) {
        counter_add(&pair->stats.tx_frames, 1);
        counter_add(&pair->stats.tx_bytes, (uint64_t)n - MIN((uint64_t)n, KUMO_TAP_HEADER_BYTES));
        return TX_SENT;
    }
    if (errno == EAGAIN)
        return TX_AGAIN;
    if (errno == EBADFD || errno == ENODEV)
        tap_gone(pair, g_strerror(errno));
    else if (errno != EIO) /* the link is down */
        kumo_warn_guest("%s: frame of %" G_GUINT64_FORMAT " bytes dropped: %s", pair->name,
                        chain->readable_bytes, g_strerror(errno));
    counter_add(&pair->stats.tx_dropped, 1);
    return TX_SENT;
}

static uint64_t tx_cost(const KumoVirtqChain *chain)
{
    return chain->readable_bytes - MIN(chain->readable_bytes, KUMO_TAP_HEADER_BYTES);
}

static bool tx_poll(void *opaque);

/* Sends up to a batch. Returns: frames taken from the ring. */
static unsigned tx_batch(KumoNetPair *pair)
{
    static const uint32_t none[TX_BATCH];
    uint16_t heads[TX_BATCH];
    unsigned n = 0;

    while (n < TX_BATCH) {
        KumoVirtqChain chain = { .iov = pair->tx_iov, .max_iov = MAX_IOV };
        KumoVirtqResult result = kumo_virtq_pop(pair->tx, &chain);
        TxResult sent;

        if (result == KUMO_VIRTQ_EMPTY)
            break;
        if (result == KUMO_VIRTQ_BROKEN) {
            pair_break(pair, "transmit queue against the rules");
            break;
        }
        if (!kumo_throttle_admit(&pair->tx_throttle, KUMO_RATE_OTHER, tx_cost(&chain))) {
            kumo_virtq_unpop(pair->tx);
            break;
        }
        sent = tx_frame(pair, &chain);
        if (sent == TX_AGAIN) {
            kumo_virtq_unpop(pair->tx);
            kumo_throttle_postpone(&pair->tx_throttle, KUMO_RATE_OTHER, tx_cost(&chain));
            pair->tx_blocked = true;
            break;
        }
        if (sent == TX_BROKEN)
            break;
        heads[n++] = chain.head;
    }
    if (n)
        kumo_virtq_push_many(pair->tx, heads, none, n);
    return n;
}

/* Sends until the ring is empty, and a moment longer if the driver was quick of late. What else the
 * worker has to do gets its turn meanwhile. */
static void tx_run(KumoNetPair *pair)
{
    unsigned sent = 0;

    pair->tx_polling = false;
    if (pair->broken || !pair->tx || pair->tx_blocked || pair->tx_throttle.waiting)
        return;
    while (sent < BUDGET) {
        unsigned n;

        kumo_virtq_disable_kicks(pair->tx);
        n = tx_batch(pair);
        sent += n;
        kumo_virtq_notify(pair->tx);
        if (pair->broken || pair->tx_throttle.waiting)
            return;
        if (pair->tx_blocked) {
            tap_want(pair);
            return;
        }
        if (n)
            kumo_idle_poll_worked(&pair->tx_idle_poll);
        if (n == TX_BATCH)
            continue;
        if (n)
            kumo_idle_poll_begin(&pair->tx_idle_poll);
        if (n && pair->tx_idle_poll.window_ns)
            break;
        if (!kumo_virtq_enable_kicks(pair->tx))
            return;
    }
    pair->tx_polling = true;
    kumo_loop_poll(pair->loop, tx_poll, pair);
}

/* Kicks are off meanwhile, so a driver that is quick enough saves its exit, too. */
static bool tx_poll(void *opaque)
{
    KumoNetPair *pair = opaque;

    if (!pair->tx_polling)
        return false;
    if (kumo_virtq_has_work(pair->tx)) {
        tx_run(pair);
    } else if (!kumo_idle_poll_goes_on(&pair->tx_idle_poll)) {
        pair->tx_polling = false;
        if (kumo_virtq_enable_kicks(pair->tx))
            tx_run(pair);
    }
    return pair->tx_polling;
}

/* --- the worker --- */

/* The kicks' counters are never read: edge-triggered, every kick wakes us. */
static void on_rx_kick(void *opaque, uint32_t events)
{
    KumoNetPair *pair = opaque;

    if (pair->rx_starved)
        rx_run(pair);
}

static void on_tx_kick(void *opaque, uint32_t events)
{
    tx_run(opaque);
}

/* The rate limiter's timers. */
static void rx_go_on(void *opaque)
{
    rx_run(opaque);
}

static void tx_go_on(void *opaque)
{
    tx_run(opaque);
}

static void on_tap(void *opaque, uint32_t events)
{
    KumoNetPair *pair = opaque;

    if (events & (EPOLLERR | EPOLLHUP)) {
        tap_gone(pair, "hung up");
        return;
    }
    if (events & EPOLLOUT) {
        pair->tx_blocked = false;
        tx_run(pair);
        tap_want(pair);
    }
    if (events & EPOLLIN)
        rx_run(pair);
}

static void tap_attach(KumoNetPair *pair, GError **error)
{
    pair->tap_events = EPOLLIN;
    pair->rx_starved = false;
    pair->tx_blocked = false;
    pair->tap = kumo_loop_add_fd(pair->loop, pair->tap_fd, EPOLLIN, on_tap, pair, error);
    tap_want(pair);
}

typedef struct {
    KumoNetPair *pair;
    KumoVirtq *rx, *tx;
    bool mergeable, enabled, link_up, ok;
    KumoRateLimiter *rx_limiter, *tx_limiter;
    uint32_t max_frame_bytes;
    GError **error;
} PairCall;

static void stop_on_worker(void *opaque)
{
    KumoNetPair *pair = opaque;

    g_clear_pointer(&pair->tap, kumo_loop_remove);
    g_clear_pointer(&pair->rx_kick, kumo_loop_remove);
    g_clear_pointer(&pair->tx_kick, kumo_loop_remove);
    kumo_throttle_cancel(&pair->rx_throttle);
    kumo_throttle_cancel(&pair->tx_throttle);
    rx_forget_held(pair);
    if (pair->rx) {
        rx_unfill(pair);
        kumo_virtq_notify(pair->rx);
    }
    if (pair->tx)
        kumo_virtq_notify(pair->tx);
    pair->rx = pair->tx = NULL;
    pair->tx_polling = false;
    kumo_loop_poll(pair->loop, NULL, NULL);
}

static void start_on_worker(void *opaque)
{
    PairCall *call = opaque;
    KumoNetPair *pair = call->pair;

    pair->rx = call->rx;
    pair->tx = call->tx;
    pair->rx_queue_size = call->rx->size;
    pair->mergeable = call->mergeable;
    pair->max_frame_bytes = call->max_frame_bytes;
    pair->broken = pair->rx_starved = pair->tx_blocked = false;
    pair->tx_idle_poll = (KumoIdlePoll){ 0 };
    pair->rx_kick = kumo_loop_add_fd(pair->loop, call->rx->kick_fd, EPOLLIN | EPOLLET, on_rx_kick,
                                     pair, call->error);
    if (!pair->rx_kick)
        goto fail;
    pair->tx_kick = kumo_loop_add_fd(pair->loop, call->tx->kick_fd, EPOLLIN | EPOLLET, on_tx_kick,
                                     pair, call->error);
    if (!pair->tx_kick)
        goto fail;
    if (call->enabled) {
        tap_attach(pair, call->error);
        if (!pair->tap)
            goto fail;
    }
    call->ok = true;
    tx_run(pair); /* what was made available before a pause */
    return;

fail:
    stop_on_worker(pair);
}

bool kumo_net_pair_start(KumoNetPair *pair, KumoVirtq *rx, KumoVirtq *tx, bool mergeable,
                         uint32_t max_frame_bytes, bool enabled, GError **error)
{
    PairCall call = { .pair = pair,
                      .rx = rx,
                      .tx = tx,
                      .mergeable = mergeable,
                      .max_frame_bytes = max_frame_bytes,
                      .enabled = enabled,
                      .error = error };

    kumo_loop_call(pair->loop, start_on_worker, &call);
    return call.ok;
}

void kumo_net_pair_stop(KumoNetPair *pair)
{
    kumo_loop_call(pair->loop, stop_on_worker, pair);
}

static void set_enabled_on_worker(void *opaque)
{
    PairCall *call = opaque;
    KumoNetPair *pair = call->pair;
    g_autoptr(GError) error = NULL;

    if (!call->enabled) {
        g_clear_pointer(&pair->tap, kumo_loop_remove);
        rx_forget_held(pair);
        if (pair->tx_blocked) {
            /* Nothing is going to wake it any more: what is left in the ring is dropped. */
            pair->tx_blocked = false;
            tx_run(pair);
        }
    } else if (pair->rx && !pair->tap && !pair->broken) {
        tap_attach(pair, &error);
        if (error)
            kumo_error("%s: %s", pair->name, error->message);
    }
}

void kumo_net_pair_set_enabled(KumoNetPair *pair, bool enabled)
{
    PairCall call = { .pair = pair, .enabled = enabled };

    kumo_loop_call(pair->loop, set_enabled_on_worker, &call);
}

static void set_max_frame_on_worker(void *opaque)
{
    PairCall *call = opaque;

    call->pair->max_frame_bytes = call->max_frame_bytes;
}

void kumo_net_pair_set_max_frame(KumoNetPair *pair, uint32_t max_frame_bytes)
{
    PairCall call = { .pair = pair, .max_frame_bytes = max_frame_bytes };

    kumo_loop_call(pair->loop, set_max_frame_on_worker, &call);
}

static void set_link_on_worker(void *opaque)
{
    PairCall *call = opaque;
    KumoNetPair *pair = call->pair;

    if (pair->tap && pair->rx)
        rx_run(pair); /* what is in the tap came while the link was as it was */
    pair->link_down = !call->link_up;
    if (pair->tap && pair->rx)
        rx_run(pair);
}

void kumo_net_pair_set_link(KumoNetPair *pair, bool up)
{
    PairCall call = { .pair = pair, .link_up = up };

    kumo_loop_call(pair->loop, set_link_on_worker, &call);
}

bool kumo_net_pair_prepare_limiters(KumoNetPair *pair, GError **error)
{
    return kumo_throttle_prepare(&pair->rx_throttle, pair->loop, error) &&
           kumo_throttle_prepare(&pair->tx_throttle, pair->loop, error);
}

static void set_limiters_on_worker(void *opaque)
{
    PairCall *call = opaque;

    kumo_throttle_set_limiter(&call->pair->rx_throttle, call->rx_limiter);
    kumo_throttle_set_limiter(&call->pair->tx_throttle, call->tx_limiter);
}

void kumo_net_pair_set_limiters(KumoNetPair *pair, KumoRateLimiter *rx, KumoRateLimiter *tx)
{
    PairCall call = { .pair = pair, .rx_limiter = rx, .tx_limiter = tx };

    kumo_loop_call(pair->loop, set_limiters_on_worker, &call);
}

bool kumo_net_pair_bind(KumoNetPair *pair, const GPtrArray *affinity, GError **error)
{
    return kumo_queue_worker_bind(pair->loop, affinity, pair->index, true, error);
}

static const KumoSyscall net_calls[] = {
    { KUMO_SYSCALL(readv) },
    { KUMO_SYSCALL(writev) },
};

static const KumoSyscallTable net_table = KUMO_SYSCALL_TABLE(net_calls);
static const KumoSyscallTable *const net_tables[] = { &kumo_loop_syscalls, &net_table, NULL };

const KumoThreadKind kumo_net_thread = {
    .name = "network",
    .roles = KUMO_THREAD_HAS_DEVICES,
    .tables = net_tables,
};

KumoNetPair *kumo_net_pair_new(KumoVirtio *virtio, unsigned index, uint16_t queue_size, int tap_fd,
                               KumoRateLimiter *rx_limiter, KumoRateLimiter *tx_limiter,
                               GError **error)
{
    KumoNetPair *pair = g_new0(KumoNetPair, 1);
    char suffix[8];

    g_snprintf(suffix, sizeof(suffix), "_qp%u", index % 1000);
    g_snprintf(pair->name, sizeof(pair->name), "%.*s%s",
               (int)(sizeof(pair->name) - 1 - strlen(suffix)), virtio->device.id, suffix);
    pair->virtio = virtio;
    pair->index = index;
    pair->tap_fd = tap_fd;
    pair->rx_chain_iov = CLAMP(queue_size, MIN_RX_CHAIN_IOV, MAX_RX_CHAIN_IOV) + 4;
    pair->overflow = g_malloc(OVERFLOW_BYTES);
    pair->loop = kumo_loop_new(pair->name, &kumo_net_thread, error);
    if (!pair->loop ||
        !kumo_throttle_init(&pair->rx_throttle, pair->loop, rx_limiter, rx_go_on, pair, error) ||
        !kumo_throttle_init(&pair->tx_throttle, pair->loop, tx_limiter, tx_go_on, pair, error))
        g_clear_pointer(&pair, kumo_net_pair_free);
    return pair;
}

void kumo_net_pair_free(KumoNetPair *pair)
{
    if (!pair)
        return;
    kumo_throttle_clear(&pair->rx_throttle);
    kumo_throttle_clear(&pair->tx_throttle);
    kumo_loop_free(pair->loop);
    g_free(pair->overflow);
    g_free(pair);
}

const KumoNetStats *kumo_net_pair_stats(const KumoNetPair *pair)
{
    return &pair->stats;
}
