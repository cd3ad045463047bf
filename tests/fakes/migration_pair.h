/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Source and destination of a migration in one process: a memory of 5 and 3 MiB at each, of the
 * fake hypervisor, and a socket between them. Hosts of its own play the VMM at both ends, and write
 * down what they are asked for, unless a test has others.
 */
#pragma once

#include "tests/fakes/fake_hv.h"
#include "vmm-core/migration/receive.h"
#include "vmm-core/migration/send.h"

#define MIGRATION_PAIR_MIB 0x100000ULL

typedef struct {
    char *directory, *url;
    FakeHvVm *source_vm, *vm;
    KumoMemory *source, *memory;
    KumoChannelListener listener;
    KumoMigrationCancel cancel, send_cancel;
    KumoReceiver receiver;
    KumoSender sender;
    KumoSendMigrationConfig config;
    GThread *thread; /* the destination's; NULL: it has ended */
    bool received;
    GError *receive_error;
    _Atomic unsigned n_differs; /* pages in which the guest has found something else */
    /* Of the hosts that are here: */
    GString *calls;       /* of both, in their order: the protocol makes them take turns */
    unsigned busy_rounds; /* in which the guest writes 2 MiB */
    const char *fail;     /* the call that does */
} MigrationPair;

/* Of @vm. */
KumoMemory *migration_pair_new_memory(FakeHvVm *vm, bool shared);

/* With some pages written at the source; nobody receives yet. @send_host, @receive_host: (nullable)
 * both */
void migration_pair_init(MigrationPair *pair, bool shared, const KumoSendHost *send_host,
                         const KumoReceiveHost *receive_host, void *opaque);
void migration_pair_clear(MigrationPair *pair);

/* The destination waits for a source, on a thread of its own, until it has one or is called off. */
void migration_pair_receive(MigrationPair *pair);
void migration_pair_wait(MigrationPair *pair);

/* Nobody receives any more; @pair's listener listens, for the test to play the destination. */
void migration_pair_take_over(MigrationPair *pair);

/* With what the configuration says now. */
KumoSendResult migration_pair_send(MigrationPair *pair, GError **error);

/* The source's guest writes @len bytes. */
void migration_pair_guest_writes(MigrationPair *pair, uint64_t gpa, uint8_t value, uint64_t len);

/* The destination's guest goes through all of its memory, from the end, and waits for what is
 * missing. Returns: its thread. */
GThread *migration_pair_touch_all(MigrationPair *pair);

void migration_pair_assert_same_memory(const MigrationPair *pair);

/* Nothing of the source's memory is logged any more. */
void migration_pair_assert_log_off(const MigrationPair *pair);
