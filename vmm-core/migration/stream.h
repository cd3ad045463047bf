/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The records of a migration stream; docs/migration.md has their order. Each begins with a header
 * that says what it is and how long; all numbers are little endian. Documents are JSON, bounded and
 * protected by a checksum. The destination answers with acknowledgements.
 *
 * What a peer sends is hostile until it has been checked.
 */
#pragma once

#include <jansson.h>

#include "vmm-core/core/memory.h"
#include "vmm-core/migration/channel.h"
#include "vmm-core/migration/compress.h"

enum {
    KUMO_STREAM_VERSION = 6,          /* the newest that is read */
    KUMO_STREAM_VERSION_PLAIN = 1,    /* of a stream with nothing that came later */
    KUMO_STREAM_VERSION_LANES = 2,    /* with one_way, or several connections */
    KUMO_STREAM_VERSION_PACKED = 3,   /* with compression */
    KUMO_STREAM_VERSION_POSTCOPY = 4, /* some pages may come when the machine runs already */
    KUMO_STREAM_VERSION_SUMMED = 5, /* with one_way and checksum, about which nobody can be asked */
    KUMO_STREAM_VERSION_RECOVER = 6, /* of connections that take the place of broken ones */
};

typedef enum {
    KUMO_RECORD_HELLO = 1, /* document: format, version, made_by, local, paused, one_way,
                              compression, postcopy, token, recover, checksum; acknowledged, with
                              checksum if the destination compares it */
    KUMO_RECORD_MEMORY_FD, /* document: gpa, size, offset, with a descriptor: local only */
    KUMO_RECORD_CONFIG,    /* document: config, machine; acknowledged when the machine is built,
                              with postcopy by what its memory is made of */
    KUMO_RECORD_PAGES,     /* runs of pages and their content, which may be compressed, and with
                              checksum the checksum of that */
    KUMO_RECORD_ROUND,     /* document: id, last; the end of a round of pages; acknowledged */
    KUMO_RECORD_STATE,     /* document: the machine's state; acknowledged when it could run */
    KUMO_RECORD_GO,        /* document: paused; the machine is the destination's; acknowledged */
    KUMO_RECORD_ACK,       /* document: answers, error: null or why not */
    KUMO_RECORD_POSTCOPY,  /* document: bytes; all that is missing has been told; acknowledged */
    KUMO_RECORD_FAULT,     /* from the destination: document: gpa, len; somebody waits for it */
    KUMO_RECORD_WHOLE,     /* from the destination: no page is needed any more */
    KUMO_RECORD_LAST = KUMO_RECORD_WHOLE,
} KumoRecordType;

/* What has been read of a record. */
typedef struct {
    KumoRecordType type;
    uint64_t length;
    uint64_t check;   /* the checksum that the header has */
    json_t *document; /* NULL for PAGES, whose payload is yet to be read */
    int fd;           /* -1: none came along */
} KumoRecord;

void kumo_record_clear(KumoRecord *record);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(KumoRecord, kumo_record_clear)
#define KUMO_RECORD_INIT                                                                           \
    {                                                                                              \
        .fd = -1                                                                                   \
    }

/**
 * kumo_stream_send:
 * @document: (transfer full)
 * @fd: goes along; -1: none
 */
bool kumo_stream_send(KumoChannel *channel, KumoRecordType type, json_t *document, int fd,
                      GError **error);

/* Reads the next record: a document, or the header of PAGES. @record: cleared by the caller in any
 * case. */
bool kumo_stream_receive(KumoChannel *channel, KumoRecord *record, GError **error);

/* The destination: @problem NULL: it went well. */
bool kumo_stream_acknowledge(KumoChannel *channel, KumoRecordType answered, const GError *problem,
                             GError **error);

/* It went well; @more: (transfer full): what else is to be told. */
bool kumo_stream_acknowledge_with(KumoChannel *channel, KumoRecordType answered, json_t *more,
                                  GError **error);

/**
 * kumo_stream_wait_ack:
 * @ret_refused: (out) (optional): the destination said no, with its reason in @error
 *
 * The source: waits for the acknowledgement of @answered.
 */
bool kumo_stream_wait_ack(KumoChannel *channel, KumoRecordType answered, bool *ret_refused,
                          GError **error);

/* The same; @ret_document: (out) (transfer full): all of the acknowledgement. */
bool kumo_stream_wait_ack_document(KumoChannel *channel, KumoRecordType answered,
                                   json_t **ret_document, GError **error);

const char *kumo_record_name(KumoRecordType type);

/* Is @given, (nullable) and hostile, @token? In a time that does not tell how much of it is right.
 */
bool kumo_stream_same_token(const char *token, const char *given);

/* --- pages --- */

typedef enum {
    KUMO_PAGES_DATA = 0, /* their content follows behind the runs */
    KUMO_PAGES_ZERO = 1,
    KUMO_PAGES_MISSING = 2, /* they come later, with postcopy */
} KumoPagesKind;

typedef struct {
    uint64_t gpa;
    uint32_t n_pages; /* of 4 KiB */
    uint32_t kind;    /* of KumoPagesKind */
} KumoPagesRun;

enum {
    KUMO_STREAM_PAGE_BYTES = 4096,
    KUMO_PAGES_MAX_RUNS = 512,
    KUMO_PAGES_MAX_DATA = 1024, /* pages with content in one record */
    KUMO_PAGES_MAX_BYTES = KUMO_PAGES_MAX_DATA * KUMO_STREAM_PAGE_BYTES, /* of them */
    KUMO_PAGES_COPY_BYTES = 128 << 10, /* what stays in a processor's cache */
};

/* The checksum that HELLO names: XXH3, 64 bits, of the data of PAGES as it is sent. */
#define KUMO_PAGES_CHECKSUM "xxh3"

/* Runs that are yet to be sent as one record. */
typedef struct {
    KumoChannel *channel;
    const KumoMemory *memory;
    KumoCompressor *compressor; /* for KUMO_PAGES_MAX_BYTES; NULL: pages go as they are */
    unsigned n_runs;
    uint32_t n_data;
    KumoPagesRun runs[KUMO_PAGES_MAX_RUNS];
    _Atomic uint64_t data_pages, zero_pages;     /* sent in all */
    _Atomic uint64_t packed_pages, packed_bytes; /* data pages that went compressed, as what */
    uint8_t copy[KUMO_PAGES_COPY_BYTES];         /* of what is being sent, with a checksum */
} KumoPagesWriter;

/* Adds a page of RAM; sends a record when one is full. */
bool kumo_pages_add(KumoPagesWriter *writer, uint64_t gpa, KumoPagesKind kind, GError **error);

/* Sends what has been added. */
bool kumo_pages_flush(KumoPagesWriter *writer, GError **error);

/* Where pages go that come. */
typedef struct {
    KumoChannel *channel;
    KumoMemory *memory;
    KumoDecompressor *decompressor; /* for KUMO_PAGES_MAX_BYTES; NULL: pages come as they are */
    /* What is at @gpa comes later. NULL: nothing may. */
    bool (*missing)(void *opaque, uint64_t gpa, uint64_t len, GError **error);
    /* NULL: pages go right into the memory. Else takes them: @data NULL: zeros. */
    bool (*place)(void *opaque, uint64_t gpa, const void *data, uint64_t len, GError **error);
    void *opaque;
    uint8_t *buf; /* with place: of KUMO_PAGES_MAX_BYTES */
} KumoPagesReader;

/* Reads the payload of the PAGES record @record into the memory. */
bool kumo_pages_receive(const KumoPagesReader *reader, const KumoRecord *record, GError **error);
