/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guest memory whose pages come when they are touched (Linux, Documentation/admin-guide/mm/
 * userfaultfd.rst). Whoever touches a page that is not there yet waits in the kernel, vCPUs, the
 * VMM's own threads and the kernel on their behalf (io_uring, vhost) alike, until the engine has
 * put it there.
 *
 * Each page is missing until it is settled, which happens once: by content that arrives, or because
 * it is known to be zeros or was discarded. What was settled is never written again. When nothing
 * is missing any more, memory is as any other, and the engine's thread ends.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm-core/core/memory_map.h"

/* Serves the guest's page faults. */
extern const KumoThreadKind kumo_userfault_thread;

typedef enum {
    KUMO_FETCH_DATA,   /* the buffer has it */
    KUMO_FETCH_ZEROS,  /* it is all zeros */
    KUMO_FETCH_LATER,  /* it has been asked for and comes by kumo_userfault_place() */
    KUMO_FETCH_FAILED, /* it cannot be had: @error is set */
} KumoFetch;

/* Who has the pages. All are called on the engine's thread, with no lock held. */
typedef struct {
    /* What is at [@gpa, @gpa + @len)? Whole pages of one backing, none of them settled when it was
     * called. */
    KumoFetch (*fetch)(void *opaque, uint64_t gpa, void *buf, size_t len, GError **error);
    /* Bytes around a page that is touched that are fetched with it: a power of two, 0: the page
     * alone. */
    size_t window_bytes;
    /* Bytes that are fetched at a time while nobody waits; 0: nothing is, the rest comes of itself.
     */
    size_t background_bytes;
    /* NULL or: nothing is missing any more. */
    void (*finished)(void *opaque);
    /* Some page cannot be had, and who waits for it waits for ever: the machine is lost. Called
     * once; @error says why. */
    void (*failed)(void *opaque, const GError *error);
    /* NULL or frees @opaque, on the thread that calls kumo_userfault_free(). */
    void (*release)(void *opaque);
} KumoUserfaultOps;

typedef struct KumoUserfault KumoUserfault;

/* May this process use userfaultfd, as memory on demand needs it? FALSE with @error (DENIED): no.
 */
bool kumo_userfault_check(GError **error);

/* Can the pages of @part come one by one? Not those of a file on a disk, nor a private copy of a
 * file. */
bool kumo_userfault_supports(const KumoMemBacking *part);

/**
 * kumo_userfault_new:
 * @backings: are mapped for as long as the engine lives; what is not supported is left alone
 * @opaque: for @ops; released by kumo_userfault_free(), and only then: not when this fails
 *
 * All pages are missing, but nothing waits for them before kumo_userfault_start().
 *
 * Returns: (transfer full): or NULL with @error (DENIED: the host's administrator does not allow
 * it).
 */
KumoUserfault *kumo_userfault_new(const KumoMemBacking *backings, unsigned n_backings,
                                  const KumoUserfaultOps *ops, void *opaque, GError **error);

/**
 * kumo_userfault_set_missing:
 * @missing: TRUE: drops what is there of [@gpa, @gpa + @len); FALSE: what is there is right, and
 * what is not is zeros
 *
 * Before kumo_userfault_start(). Only whole pages of what memory is made of count.
 *
 * Returns: 0 or an errno value.
 */
int kumo_userfault_set_missing(KumoUserfault *engine, uint64_t gpa, uint64_t len, bool missing);

/**
 * kumo_userfault_start:
 *
 * From now on whoever touches what is missing waits for it: kumo_memory_come_on_demand() calls it.
 *
 * Returns: TRUE, or FALSE with @error set; then it can only be freed.
 */
bool kumo_userfault_start(KumoUserfault *engine, GError **error);

/**
 * kumo_userfault_place:
 * @data: @len bytes; NULL: zeros
 *
 * [@gpa, @gpa + @len), whole pages of what memory is made of, has arrived. What of it is settled
 * stays as it is. Any thread.
 *
 * Returns: TRUE, or FALSE with @error: the host is out of memory, or this is no memory.
 */
bool kumo_userfault_place(KumoUserfault *engine, uint64_t gpa, const void *data, uint64_t len,
                          GError **error);

/* The pages cannot be had any more, because of @error: as if a fetch had failed. Any thread. */
void kumo_userfault_fail(KumoUserfault *engine, const GError *error);

/* What somebody waits for and was asked for is asked for again, as the answer was lost on its way.
 * Any thread. */
void kumo_userfault_ask_again(KumoUserfault *engine);

/**
 * kumo_userfault_next_missing:
 * @gpa: (inout): from where on; set to where the next pages begin that are missing
 * @ret_len: (out): their bytes
 *
 * Returns: FALSE: no more are. Any thread.
 */
bool kumo_userfault_next_missing(KumoUserfault *engine, uint64_t *gpa, uint64_t *ret_len);

/* Returns: (nullable): what kumo_userfault_new() was given, if that was with @ops. */
void *kumo_userfault_opaque(const KumoUserfault *engine, const KumoUserfaultOps *ops);

/* Returns: bytes that are missing. Any thread. */
uint64_t kumo_userfault_missing_bytes(KumoUserfault *engine);

/* Returns: bytes that are missing and were asked for, as somebody waits for them. Any thread. */
uint64_t kumo_userfault_awaited_bytes(KumoUserfault *engine);

/**
 * kumo_userfault_wait:
 * @timeout_ms: -1: as long as it takes
 *
 * Returns: TRUE if nothing is missing; FALSE: it is still, or the engine has failed, and then
 * @error (optional) says why.
 */
bool kumo_userfault_wait(KumoUserfault *engine, int timeout_ms, GError **error);

/* Returns: the bytes of a page of what @gpa is made of; 0 if that is none of the engine's. */
uint64_t kumo_userfault_page_bytes(KumoUserfault *engine, uint64_t gpa);

/* Whole pages at [@hva, @hva + @len) are about to be discarded: they are zeros from now on. To be
 * ended in any case; no page is put anywhere in between. */
void kumo_userfault_begin_discard(KumoUserfault *engine, const uint8_t *hva, uint64_t len);
void kumo_userfault_end_discard(KumoUserfault *engine);

/* The machine will not run: whoever waits finds zeros, and nobody waits any more. Any thread. */
void kumo_userfault_abandon(KumoUserfault *engine);

/* Ends it. What is missing is zeros afterwards, so nothing may run any more that would notice. */
void kumo_userfault_free(KumoUserfault *engine);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoUserfault, kumo_userfault_free)
