/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A virtio-blk device on an image of its own behind the fake driver, and requests to it. */
#pragma once

#include "tests/fakes/virtio_driver.h"
#include "vmm-core/devices/block/virtio_blk.h"

enum { DISK_BYTES = 8 << 20, QUEUE_SIZE = 128 };

#define FEATURE(bit) (1ULL << (bit))
#define ALL_FEATURES (~0ULL)

typedef struct {
    KumoFakeDriver *driver;
    KumoDiskConfig *config;
    char *path;
    int fd; /* the image, to look into */
    uint64_t header, status, data;
} KumoDiskFixture;

/* What a test wants different from a plain writable disk. */
typedef struct {
    bool readonly, direct;
    unsigned num_queues, queue_size;
    KumoRateLimit limit;
    const char *group;
    const char *options; /* further keys of --disk */
} KumoDiskVariant;

/* For g_test_add(), @data is a KumoDiskVariant or NULL; disk_add() does it. */
void disk_setup(KumoDiskFixture *f, gconstpointer data);

void disk_teardown(KumoDiskFixture *f, gconstpointer data);

/* Writes the header at f->header and an impossible status at f->status. */
void disk_put_header(KumoDiskFixture *f, uint32_t type, uint64_t sector);

/* One request on queue 0 with @n data buffers. Returns: its status. */
uint8_t disk_request(KumoDiskFixture *f, uint32_t type, uint64_t sector, const KumoFakeBuf *data,
                     unsigned n, uint32_t *ret_len);

/* A read or write of @len bytes at f->data. Returns: its status. */
uint8_t disk_transfer(KumoDiskFixture *f, bool write, uint64_t sector, uint32_t len);

/* A pattern. */
void disk_fill(uint8_t *p, size_t len, unsigned seed);

/* Returns: the counter of vm.counters. */
uint64_t disk_counter(KumoDiskFixture *f, const char *name);

/* @type: VIRTIO_BLK_T_DISCARD or _WRITE_ZEROES. Returns: its status. */
uint8_t disk_discard(KumoDiskFixture *f, uint32_t type, uint64_t sector, uint32_t n,
                     uint32_t flags);

/* @len bytes of the image have @value. */
void disk_assert_content(KumoDiskFixture *f, uint64_t offset, size_t len, int value);

/* Makes @n reads of @len bytes available on @queue. */
void disk_add_reads(KumoDiskFixture *f, unsigned queue, unsigned n, uint32_t len);

/* Waits for so many requests of @queue. */
void disk_wait_reads(KumoDiskFixture *f, unsigned queue, unsigned n);

/* Adds a test with this fixture. */
void disk_add(const char *path, const KumoDiskVariant *variant,
              void (*func)(KumoDiskFixture *, gconstpointer));
