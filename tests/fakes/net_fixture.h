/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A virtio-net device on a tap of its own behind the fake driver, and a socket that is its host. */
#pragma once

#include "tests/fakes/virtio_driver.h"
#include "vmm-core/devices/net/virtio_net.h"

enum {
    QUEUE_SIZE = 64,
    HEADER = 12,
    NET_ETHERTYPE = 0x88b5, /* for local experiments */
    BUF_BYTES = 2048,
};

#define FEATURE(bit) (1ULL << (bit))
#define BASIC        (KUMO_VIRTIO_F_RING_EVENT_IDX | KUMO_VIRTIO_F_RING_INDIRECT_DESC)
#define MERGEABLE    FEATURE(VIRTIO_NET_F_MRG_RXBUF)
#define CONTROL      FEATURE(VIRTIO_NET_F_CTRL_VQ)
#define MQ           FEATURE(VIRTIO_NET_F_MQ)

#define NET_TAP "kumotest9"

typedef struct {
    KumoFakeDriver *driver;
    KumoNetConfig *config;
    int peer; /* packet socket on the tap: what the host sees */
    uint64_t buf;
} KumoNetFixture;

/* As g_test_init(), and makes a network namespace for the taps. */
void net_test_init(int *argc, char ***argv);

/* Returns: whether this host has no taps for a test; then it is marked as skipped. */
bool net_skipped(void);

/* For g_test_add(), @data is the number of pairs of queues; net_add() does it. */
void net_setup(KumoNetFixture *f, gconstpointer data);

void net_teardown(KumoNetFixture *f, gconstpointer data);

/* A broadcast of @len bytes with a pattern. */
void net_make_frame(uint8_t *frame, size_t len, unsigned seed);

/* The host sends such a frame. */
void net_host_send(KumoNetFixture *f, size_t len, unsigned seed);

/* Offers @n receive buffers of @len bytes, numbered from @first. */
void net_give_more_buffers(KumoNetFixture *f, unsigned first, unsigned n, uint32_t len);

/* The same from 0 on. */
void net_give_buffers(KumoNetFixture *f, unsigned n, uint32_t len);

/* Head @head was the @head-th buffer of net_give_buffers(). */
uint8_t *net_buffer(KumoNetFixture *f, uint16_t head);

/* Returns: the counter of vm.counters. */
uint64_t net_counter(KumoNetFixture *f, const char *name);

/* Adds a test with this fixture. */
void net_add(const char *path, unsigned pairs, void (*func)(KumoNetFixture *, gconstpointer));
