/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A small driver side of virtio 1.2 over PCI with split rings. */
#pragma once

#include "tests/guest/machine.h"

enum {
    VIRTIO_VENDOR = 0x1af4,
    VIRTIO_NET = 1,
    VIRTIO_BLK = 2,
    VIRTIO_CONSOLE = 3,
    VIRTIO_RNG = 4,
    VIRTIO_BALLOON = 5,
    VIRTIO_MEM = 24,

    /* Offsets in the common configuration (4.1.4.3). */
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_NUM_QUEUES = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,

    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 0x40,
    STATUS_FAILED = 0x80,

    FEATURE_INDIRECT = 28,
    FEATURE_EVENT_IDX = 29,
    FEATURE_VERSION_1 = 32,

    DESC_NEXT = 1,
    DESC_WRITE = 2,
    DESC_INDIRECT = 4,

    NO_VECTOR = 0xffff,
    MAX_QUEUE_SIZE = 256,
};

typedef struct {
    uint64_t address;
    uint32_t len;
    uint16_t flags, next;
} Desc;

typedef struct {
    unsigned slot;
    uint64_t common, isr, device, notify;
    uint32_t notify_multiplier;
    uint64_t features; /* negotiated */
} Virtio;

typedef struct {
    uint16_t index, size;
    Desc *desc;
    volatile uint16_t *avail; /* flags, idx, ring[] */
    volatile uint16_t *used;  /* flags, idx, { id, len }[] as halves */
    uint16_t next_desc, last_used;
    bool quiet; /* with the event index: want no interrupts */
    uint64_t notify;
} Queue;

typedef struct {
    void *address;
    uint32_t len;
    bool device_writes;
} Buffer;

/* Finds the @nth device of @type and its structures. Returns: whether there is one. */
bool virtio_find(unsigned type, unsigned nth, Virtio *ret);

uint8_t virtio_status(const Virtio *device);
void virtio_set_status(const Virtio *device, uint8_t status);
uint64_t virtio_offered(const Virtio *device);

/* Resets, then negotiates those of @wanted that are offered, and version 1. Returns: whether it was
 * accepted. */
bool virtio_begin(Virtio *device, uint64_t wanted);

/* Sets queue @index up with as many entries as the device wants, MAX_QUEUE_SIZE at most. */
bool virtio_queue(const Virtio *device, unsigned index, unsigned msix_vector, Queue *ret);
void virtio_ready(const Virtio *device);

/* Makes one chain of @n buffers available. The driver has to take it back before its entries are
 * used again. */
void queue_add(Queue *queue, const Buffer *buffers, unsigned n);
/* The same for a chain whose descriptors are written already, from @head on. */
void queue_offer(Queue *queue, uint16_t head);
void queue_kick(const Queue *queue);
/* With the event index: kicks if the device asked for it somewhere since the index was @before. */
void queue_kick_if_wanted(const Queue *queue, uint16_t before);
/* Tells the device, by the event index, whether the next used entry is to interrupt (see quiet). */
void queue_want(Queue *queue);
/* Returns: whether a used entry was there; its head and length. */
bool queue_take(Queue *queue, uint32_t *ret_head, uint32_t *ret_len);
/* queue_kick() and queue_take(), looking for at most @us. */
bool queue_run(Queue *queue, uint32_t *ret_len, uint64_t us);
/* Sets the device up by the book. Returns: whether it takes part, and gives a buffer back. */
bool virtio_works(Virtio *device, unsigned type);
