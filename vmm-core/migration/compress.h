/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compression of a record's pages with zstd (RFC 8878), each record by itself: one frame that tells
 * its size and ends with a checksum. Contents that do not get smaller stay as they are, so what is
 * compressed is always shorter.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

/* Of one thread. */
typedef struct KumoCompressor KumoCompressor;

/**
 * kumo_compressor_new:
 * @level: of zstd, from 1 (fast) up; 0: its default
 * @max_bytes: the most that is compressed at once
 *
 * Returns: (transfer full): or NULL with @error: there is no memory.
 */
KumoCompressor *kumo_compressor_new(unsigned level, size_t max_bytes, GError **error);

/* NULL is fine. */
void kumo_compressor_free(KumoCompressor *compressor);

/* Returns: @max_bytes, where what is to be compressed is put: it must not change meanwhile, as a
 * guest's memory does. */
void *kumo_compressor_input(KumoCompressor *compressor);

/**
 * kumo_compressor_run:
 * @len: of the input, more than 0
 * @ret_len: (out): less than @len if it was compressed, else @len
 *
 * Returns: (transfer none): a frame or the input itself, until the next call; NULL with @error.
 */
void *kumo_compressor_run(KumoCompressor *compressor, size_t len, size_t *ret_len, GError **error);

/* Of one thread. */
typedef struct KumoDecompressor KumoDecompressor;

/* Returns: (transfer full): for up to @max_bytes, before and after; NULL with @error: there is no
 * memory. */
KumoDecompressor *kumo_decompressor_new(size_t max_bytes, GError **error);

/* NULL is fine. */
void kumo_decompressor_free(KumoDecompressor *decompressor);

/* Returns: @max_bytes, where the frame is put. */
void *kumo_decompressor_input(KumoDecompressor *decompressor);

/**
 * kumo_decompressor_run:
 * @len: of the input, which is hostile
 * @expected: what has to come out, no more than @max_bytes
 *
 * Returns: (transfer none): @expected bytes, until the next call; NULL with @error (INVALID): the
 * input is anything but one whole frame of that, with the right checksum.
 */
const void *kumo_decompressor_run(KumoDecompressor *decompressor, size_t len, size_t expected,
                                  GError **error);
