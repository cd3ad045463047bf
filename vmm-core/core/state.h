/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * State tables. What a device, a vCPU or the machine has to keep over a snapshot or a migration is
 * a plain structure that a static table describes, field by field. One encoder and one decoder work
 * from the table; what they write is self-describing: names, values, and the table's version.
 * Snapshots hold it as JSON; a stream may hold the same walk of the table in another notation.
 *
 * The rules, the same for every table:
 * - A stream made by an older kumo is read for ever. A field that is added raises the table's
 * version and says since which one it is there; a stream from before gives it its default.
 * - A missing field that the stream's version has is refused, by name.
 * - A table of a newer version than ours is refused; the message names both.
 * - An unknown field is refused, by name, unless who wrote it marked it as one that readers may do
 *   without: its name ends in '?' in the stream. Such a field needs no new version and may be
 * missing.
 *
 * A stream is hostile: every number is checked against its type, every length against the table.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct KumoStateTable KumoStateTable;

typedef enum {
    KUMO_STATE_U8,
    KUMO_STATE_U16,
    KUMO_STATE_U32,
    KUMO_STATE_U64, /* in JSON "0x1f": its numbers are signed */
    KUMO_STATE_BOOL,
    KUMO_STATE_TABLE,  /* a structure inside this one, described by .table */
    KUMO_STATE_BYTES,  /* uint8_t[count]; in JSON hexadecimal digits */
    KUMO_STATE_BLOB,   /* uint8_t *, owned, and its length, a size_t at count_offset */
    KUMO_STATE_STRING, /* char *, owned; NULL: none */
} KumoStateType;

typedef struct {
    const char *name;
    KumoStateType type;
    size_t offset;
    size_t count; /* U8 to TABLE: elements of an array, 0: no array; BYTES: its length */
    bool list; /* U8 to TABLE: a pointer to owned elements, their number a size_t at count_offset */
    size_t count_offset; /* list, BLOB */
    size_t max;          /* list, BLOB: the most elements; STRING: the most bytes */
    uint32_t since;      /* the version of the table that first had it; 0 is the same as 1 */
    uint64_t def;        /* U8 to BOOL: its value in streams from before, for every element */
    bool optional;       /* written with a '?': readers may drop it, streams may lack it */
    const KumoStateTable *table;
} KumoStateField;

struct KumoStateTable {
    const char *name;
    uint32_t version; /* from 1 */
    const KumoStateField *fields;
    size_t n_fields;
    size_t size; /* of the structure */
};

/* The usual beginning of a row: { KUMO_STATE_ROW(U32, KumoFoo, bar), .count = 4 } */
#define KUMO_STATE_ROW(kind, structure, member)                                                    \
    .name = #member, .type = KUMO_STATE_##kind, .offset = offsetof(structure, member)

/**
 * kumo_state_encode:
 *
 * Returns: (transfer full): @object as @table describes it.
 */
json_t *kumo_state_encode(const KumoStateTable *table, const void *object);

/**
 * kumo_state_decode:
 * @path: what @json is, for messages: "devices._disk0"
 * @object: (out caller-allocates): uninitialised; kumo_state_clear() it in any case
 *
 * Returns: TRUE, or FALSE with @error (INVALID) naming the field and what is wrong with it.
 */
bool kumo_state_decode(const KumoStateTable *table, const json_t *json, const char *path,
                       void *object, GError **error);

/* For loading: refuses a state of another machine. Returns: @saved == @present, or FALSE with
 * @error naming @field. */
bool kumo_state_check_u64(const char *field, uint64_t saved, uint64_t present, GError **error);

/* The same for all fields of two structures that hold nothing but single numbers. */
bool kumo_state_check_same(const KumoStateTable *table, const void *saved, const void *present,
                           GError **error);

/* Frees what the fields of @object own and sets all of it to zero. */
void kumo_state_clear(const KumoStateTable *table, void *object);
