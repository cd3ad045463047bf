/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's side of a virtio device for unit tests: guest memory is a plain allocation, the
 * transport is replaced (this file defines the kumo_virtio_pci_*() functions), kicks and interrupts
 * are eventfds. A test makes a KumoFakeDriver, adds the device under test to its machine,
 * negotiates, puts chains into the rings and waits for them to come back.
 */
#pragma once

#include "vmm-core/devices/virtio/virtio_pci.h"

enum {
    KUMO_FAKE_RAM_BYTES = 32 << 20,
    KUMO_FAKE_MAX_QUEUES = 32,
    KUMO_FAKE_WAIT_MS = 10000,
};

/* One buffer of a chain. */
typedef struct {
    uint64_t gpa;
    uint32_t len;
    bool writable; /* by the device */
} KumoFakeBuf;

typedef struct {
    uint16_t size; /* what the driver asks for, at most the device's maximum */
    uint16_t next_desc;
    uint16_t avail_idx;
    uint16_t used_idx; /* next used element to take */
    int irq_fd;
    uint64_t n_interrupts; /* seen by kumo_fake_driver_wait() */
} KumoFakeQueue;

typedef struct {
    KumoMachine machine;
    KumoVmConfig *config;
    KumoVirtio *virtio; /* the device that was realized last */
    KumoVirtioPciParams params;
    KumoFakeQueue queues[KUMO_FAKE_MAX_QUEUES];
    uint64_t ram_next;  /* see kumo_fake_driver_alloc() */
    int needs_reset;    /* atomic: how often the device asked for it */
    int config_changes; /* atomic */
} KumoFakeDriver;

/* Only one exists at a time. */
KumoFakeDriver *kumo_fake_driver_new(void);

/* Removes all devices of its machine. */
void kumo_fake_driver_free(KumoFakeDriver *driver);

/* Returns: the address of @len fresh, zeroed, page-aligned bytes; never given back. */
uint64_t kumo_fake_driver_alloc(KumoFakeDriver *driver, uint64_t len);
void *kumo_fake_driver_ptr(KumoFakeDriver *driver, uint64_t gpa);

/**
 * kumo_fake_driver_start:
 * @features: what to accept of what the device offers; VERSION_1 is added
 * @queue_size: upper bound of every queue's size
 *
 * Sets up all queues and activates the device. It is an error of the test if that fails.
 */
void kumo_fake_driver_start(KumoFakeDriver *driver, uint64_t features, uint16_t queue_size);

/* Resets the device. */
void kumo_fake_driver_stop(KumoFakeDriver *driver);

/**
 * kumo_fake_driver_add:
 *
 * Makes a chain available, without a kick. Descriptors are taken round and round: no more chains
 * may be outstanding than the queue has descriptors for.
 *
 * Returns: its head.
 */
uint16_t kumo_fake_driver_add(KumoFakeDriver *driver, unsigned queue, const KumoFakeBuf *bufs,
                              unsigned n);

/* The same by one indirect table. */
uint16_t kumo_fake_driver_add_indirect(KumoFakeDriver *driver, unsigned queue,
                                       const KumoFakeBuf *bufs, unsigned n);

/* Writes descriptor @index as given, for chains against the rules; kumo_fake_driver_publish() makes
 * one available. */
void kumo_fake_driver_desc(KumoFakeDriver *driver, unsigned queue, uint16_t index, uint64_t gpa,
                           uint32_t len, uint16_t flags, uint16_t next);
void kumo_fake_driver_publish(KumoFakeDriver *driver, unsigned queue, uint16_t head);

void kumo_fake_driver_kick(KumoFakeDriver *driver, unsigned queue);

/* Kicks if the device asks for it for what was added last (2.7.10). Returns: whether it did. */
bool kumo_fake_driver_kick_if_wanted(KumoFakeDriver *driver, unsigned queue);

/* Takes a used element if there is one. */
bool kumo_fake_driver_take(KumoFakeDriver *driver, unsigned queue, uint16_t *head, uint32_t *len);

/* Waits for a used element and takes it. Returns: FALSE after KUMO_FAKE_WAIT_MS. */
bool kumo_fake_driver_wait(KumoFakeDriver *driver, unsigned queue, uint16_t *head, uint32_t *len);

/* Waits until the device has asked for a reset. */
bool kumo_fake_driver_wait_broken(KumoFakeDriver *driver);
