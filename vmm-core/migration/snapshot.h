/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot on disk: a directory with config.json (the VM's configuration), state.json (all of the
 * machine but its memory, with a checksum), memory-ranges (guest memory, range after range in
 * the order of their addresses, pages of zeros left out as holes) and memory-checksums (of that).
 * state.json comes last: a directory without it is not a snapshot.
 */
#pragma once

#include <jansson.h>

#include "vmm-core/core/memory.h"
#include "vmm-core/migration/memory_demand.h"

typedef struct {
    char *directory;
    json_t *config;
    json_t *state;
    int memory_fd;
    KumoMemorySums *sums; /* of the memory's file; NULL: of an older kumo, which wrote none */
} KumoSnapshot;

/**
 * kumo_snapshot_directory:
 * @field: what @url is, for messages
 *
 * Returns: (transfer full): the directory that "file:///DIRECTORY" names; NULL with @error set.
 */
char *kumo_snapshot_directory(const char *field, const char *url, GError **error);

/**
 * kumo_snapshot_write:
 * @directory: exists; none of the four files is in it
 *
 * Returns: TRUE, or FALSE with @error and none of the files left behind.
 */
bool kumo_snapshot_write(const char *directory, const json_t *config, const json_t *state,
                         const KumoMemory *memory, GError **error);

/**
 * kumo_snapshot_open:
 *
 * Reads the descriptions and checks that they are whole.
 *
 * Returns: (transfer full): or NULL with @error naming the file and what is wrong with it.
 */
KumoSnapshot *kumo_snapshot_open(const char *directory, GError **error);
void kumo_snapshot_free(KumoSnapshot *snapshot);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoSnapshot, kumo_snapshot_free)

/**
 * kumo_snapshot_load_memory:
 * @memory: fresh
 *
 * Copies all of it.
 *
 * Returns: TRUE, or FALSE with @error: the file has another size than @memory, is
 * damaged, or cannot be read.
 */
bool kumo_snapshot_load_memory(const KumoSnapshot *snapshot, KumoMemory *memory, GError **error);

/**
 * kumo_snapshot_serve_memory:
 * @memory: fresh
 * @watch: how it goes
 *
 * The guest's pages come from the file when they are first touched, and the rest by and by. Until
 * then the file has to stay as it is (it may be unlinked); what is damaged of it is lost. Where the
 * host does not let us use userfaultfd, private memory of normal pages is mapped from the file;
 * then it has to stay as it is while the VM lives, nothing finds out whether it is damaged, and
 * @watch hears nothing.
 *
 * Returns: as kumo_snapshot_load_memory(); DENIED with @error where there is no way.
 */
bool kumo_snapshot_serve_memory(const KumoSnapshot *snapshot, KumoMemory *memory,
                                const KumoMemoryDemandWatch *watch, GError **error);
