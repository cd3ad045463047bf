/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file that is loaded into guest memory. Files are not trusted; their contents go straight from
 * the file into guest memory, and only after every address in them was checked.
 */
#pragma once

#include "vmm-core/core/memory.h"

/* Bytes of a file that a probe wants to see. */
enum { KUMO_X86_PROBE_BYTES = 1024 };

/* What a payload took of guest memory, and how it is entered. */
typedef struct {
    uint32_t entry_gpa;
    uint64_t start_gpa,
        end_gpa; /* of all that it occupies, room for its own decompression included */
    bool bzimage;
    uint64_t initramfs_limit;  /* an initramfs has to end at or below it */
    uint64_t cmdline_max;      /* bytes without the final NUL */
    uint8_t setup_header[128]; /* bzimage: the file's setup header from 0x1f1 on */
    unsigned setup_header_len;
} KumoX86Payload;

/**
 * kumo_x86_read_file_into:
 *
 * Reads [@offset, @offset + @len) of a file into guest memory at @gpa.
 *
 * Returns: TRUE, or FALSE with @error if it is not all RAM or the file ends early.
 */
bool kumo_x86_read_file_into(KumoMemory *memory, int fd, uint64_t offset, uint64_t gpa,
                             uint64_t len, const char *what, const char *path, GError **error);
