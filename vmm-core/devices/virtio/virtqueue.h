/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device's side of a split virtqueue (Virtio 1.2, 2.7). The guest may change the rings at any
 * moment: every field is loaded once, every address and length is checked against guest memory,
 * every chain is bounded by the queue's size, or KUMO_VIRTQ_MAX_INDIRECT in an indirect table. What
 * breaks the rules marks the queue broken; the device then sets DEVICE_NEEDS_RESET and leaves the
 * queue alone.
 *
 * A queue belongs to one thread at a time: the worker between activation and deactivation.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm-core/core/memory.h"

/* The most buffers of a chain in an indirect table, however small the queue is. */
enum { KUMO_VIRTQ_MAX_INDIRECT = 1024 };

typedef struct KumoVirtq {
    /* Set by the driver through the transport, read-only while active. */
    uint16_t size;
    uint16_t max_size;
    bool ready;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    uint16_t msix_vector; /* 0xffff: none */

    /* Set at activation. */
    KumoMemory *memory;
    bool event_idx;
    bool indirect;
    int kick_fd; /* eventfd: the driver made buffers available */
    /* Interrupts the driver; any thread. */
    void (*interrupt)(void *opaque, struct KumoVirtq *queue);
    void *interrupt_opaque;
    uint8_t *desc, *avail, *used; /* the rings in host memory, checked for their whole length */

    /* The worker's own. */
    uint16_t last_avail, last_used;
    uint16_t
        avail_seen; /* the driver's index as last loaded: what lies before it needs no new load */
    uint16_t signalled_used; /* last_used when the driver was last asked about an interrupt */
    bool signalled_valid;    /* FALSE: so much was pushed since that the index wrapped; interrupt */
    bool kicks_off;
    bool broken;
    unsigned index;
} KumoVirtq;

/* A descriptor chain. The caller provides @iov; readable buffers come first. */
typedef struct {
    struct iovec *iov;
    unsigned max_iov;
    unsigned n_readable,
        n_writable; /* iov[0..n_readable) then iov[n_readable..n_readable+n_writable) */
    uint64_t readable_bytes, writable_bytes;
    uint16_t head;
} KumoVirtqChain;

/**
 * kumo_virtq_start:
 *
 * Checks size and addresses and maps the rings of a queue that the driver has made ready. The
 * positions (last_avail, last_used) stay: zero after a reset, or as a snapshot left them.
 *
 * Returns: TRUE, or FALSE with @error if a ring is not aligned or not inside RAM.
 */
bool kumo_virtq_start(KumoVirtq *queue, KumoMemory *memory, uint64_t features, GError **error);

/* Back to the state after a reset. */
void kumo_virtq_reset(KumoVirtq *queue);

typedef enum {
    KUMO_VIRTQ_EMPTY,
    KUMO_VIRTQ_CHAIN,
    KUMO_VIRTQ_BROKEN,
} KumoVirtqResult;

/**
 * kumo_virtq_pop:
 * @chain: iov and max_iov set by the caller; a longer chain breaks the queue. Buffers that cross
 * memory regions take two
 *
 * Takes the next available chain. The pointers in iov are into guest memory: their content changes
 * under the device's feet. Buffers without a byte are left out. When the result is EMPTY and kicks
 * are not disabled, the driver will kick for the next buffer. Allocates nothing.
 */
KumoVirtqResult kumo_virtq_pop(KumoVirtq *queue, KumoVirtqChain *chain);

/* Puts the most recently popped chain back; only before any other was popped. */
void kumo_virtq_unpop(KumoVirtq *queue);

/* Are there available chains? At most one load of guest memory; FALSE for a broken queue. */
bool kumo_virtq_has_work(const KumoVirtq *queue);

/* Returns a chain as used; visible to the driver at once. @written: bytes stored into its writable
 * buffers. */
void kumo_virtq_push(KumoVirtq *queue, uint16_t head, uint32_t written);

/* Puts @n chains into the used ring and publishes them together (mergeable receive buffers). */
void kumo_virtq_push_many(KumoVirtq *queue, const uint16_t *heads, const uint32_t *written,
                          unsigned n);

/* Interrupts the driver if it wants to hear of what was pushed since the last call (2.7.7). */
void kumo_virtq_notify(KumoVirtq *queue);

/* The driver need not kick while the device polls the ring. */
void kumo_virtq_disable_kicks(KumoVirtq *queue);

/* Asks for kicks again. Returns: TRUE if buffers arrived meanwhile: go on polling. */
bool kumo_virtq_enable_kicks(KumoVirtq *queue);

/* Copies between the chain's readable or writable part, from byte @offset of it. Returns: bytes
 * copied. */
size_t kumo_virtq_chain_read(const KumoVirtqChain *chain, size_t offset, void *buf, size_t len);
size_t kumo_virtq_chain_write(KumoVirtq *queue, const KumoVirtqChain *chain, size_t offset,
                              const void *buf, size_t len);

/* To be called after something else than chain_write (a read from a disk) stored @len bytes at
 * @offset of the writable part. */
void kumo_virtq_chain_mark_dirty(KumoVirtq *queue, const KumoVirtqChain *chain, size_t offset,
                                 size_t len);
