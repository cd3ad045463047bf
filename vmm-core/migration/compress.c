/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/compress.h"

#include <stdint.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "vmm-core/base/error.h"

struct KumoCompressor {
    ZSTD_CCtx *context;
    size_t max_bytes;
    void *input, *output; /* max_bytes each */
};

struct KumoDecompressor {
    ZSTD_DCtx *context;
    size_t max_bytes;
    void *input, *output; /* max_bytes each */
};

#define wrong(error, ...) kumo_refuse(error, "migration stream", __VA_ARGS__)

static void set_no_memory(size_t max_bytes, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "compression: no memory for twice %zu bytes",
                max_bytes);
}

/* --- compression --- */

static bool set_up(ZSTD_CCtx *context, unsigned level)
{
    return !ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, (int)level)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1));
}

KumoCompressor *kumo_compressor_new(unsigned level, size_t max_bytes, GError **error)
{
    KumoCompressor *compressor = g_new0(KumoCompressor, 1);

    compressor->max_bytes = max_bytes;
    compressor->context = ZSTD_createCCtx();
    compressor->input = g_try_malloc(max_bytes);
    compressor->output = g_try_malloc(max_bytes);
    if (compressor->context && compressor->input && compressor->output &&
        set_up(compressor->context, level))
        return compressor;
    set_no_memory(max_bytes, error);
    kumo_compressor_free(compressor);
    return NULL;
}

void kumo_compressor_free(KumoCompressor *compressor)
{
    if (!compressor)
        return;
    ZSTD_freeCCtx(compressor->context);
    g_free(compressor->input);
    g_free(compressor->output);
    g_free(compressor);
}

void *kumo_compressor_input(KumoCompressor *compressor)
{
    return compressor->input;
}

void *kumo_compressor_run(KumoCompressor *compressor, size_t len, size_t *ret_len, GError **error)
{
    /* A frame that has no room here would be no shorter than what is in it. */
    size_t n =
        ZSTD_compress2(compressor->context, compressor->output, len - 1, compressor->input, len);

    if (!ZSTD_isError(n)) {
        *ret_len = n;
        return compressor->output;
    }
    if (ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall) {
        *ret_len = len;
        return compressor->input;
    }
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "compression: %s", ZSTD_getErrorName(n));
    return NULL;
}

/* --- decompression --- */

KumoDecompressor *kumo_decompressor_new(size_t max_bytes, GError **error)
{
    KumoDecompressor *decompressor = g_new0(KumoDecompressor, 1);

    decompressor->max_bytes = max_bytes;
    decompressor->context = ZSTD_createDCtx();
    decompressor->input = g_try_malloc(max_bytes);
    decompressor->output = g_try_malloc(max_bytes);
    if (decompressor->context && decompressor->input && decompressor->output)
        return decompressor;
    set_no_memory(max_bytes, error);
    kumo_decompressor_free(decompressor);
    return NULL;
}

void kumo_decompressor_free(KumoDecompressor *decompressor)
{
    if (!decompressor)
        return;
    ZSTD_freeDCtx(decompressor->context);
    g_free(decompressor->input);
    g_free(decompressor->output);
    g_free(decompressor);
}

void *kumo_decompressor_input(KumoDecompressor *decompressor)
{
    return decompressor->input;
}

/* RFC 8878, section 3.1.1: the library would take other kinds, and older ones. */
static bool begins_well(const uint8_t *input, size_t len)
{
    enum { DESCRIPTOR_AT = 4, HAS_CHECKSUM = 1 << 2 };
    uint32_t magic;

    if (len <= DESCRIPTOR_AT)
        return false;
    memcpy(&magic, input, sizeof(magic));
    return GUINT32_FROM_LE(magic) == ZSTD_MAGICNUMBER && (input[DESCRIPTOR_AT] & HAS_CHECKSUM);
}

const void *kumo_decompressor_run(KumoDecompressor *decompressor, size_t len, size_t expected,
                                  GError **error)
{
    /* An unknown size and no frame at all are other large numbers. */
    unsigned long long said = ZSTD_getFrameContentSize(decompressor->input, len);
    size_t n;

    g_return_val_if_fail(len <= decompressor->max_bytes && expected <= decompressor->max_bytes,
                         NULL);
    if (!begins_well(decompressor->input, len)) {
        wrong(error, "PAGES: what is compressed is no frame of zstd with a checksum");
        return NULL;
    }
    if (said != expected) {
        wrong(error, "PAGES: what is compressed does not say that it is %zu bytes", expected);
        return NULL;
    }
    /* Of several frames the others could be empty, or to be skipped. */
    n = ZSTD_findFrameCompressedSize(decompressor->input, len);
    if (!ZSTD_isError(n) && n != len) {
        wrong(error, "PAGES: %zu bytes behind what is compressed", len - n);
        return NULL;
    }
    n = ZSTD_decompressDCtx(decompressor->context, decompressor->output, expected,
                            decompressor->input, len);
    if (n == expected)
        return decompressor->output;
    wrong(error, "PAGES: cannot be decompressed: %s",
          ZSTD_isError(n) ? ZSTD_getErrorName(n) : "it is too short");
    return NULL;
}
