/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a payload into guest memory: an ELF file with the PVH entry note (kernels and firmware),
 * or a Linux bzImage with its 32-bit entry. The files are not trusted; their contents go straight
 * from the file into guest memory, and only after every address in them was checked.
 */
#pragma once

#include "vmm-core/core/arch.h"

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

/* elf.c */
/* Is it an ELF file? @head are the first @len bytes. */
bool kumo_x86_elf_probe(const uint8_t *head, size_t len);
/**
 * kumo_x86_elf_load:
 * @what: "kernel" or "firmware", for messages
 * @size: of the file
 *
 * Returns: TRUE, or FALSE with @error naming @path set; guest memory may be partly written then.
 */
bool kumo_x86_elf_load(KumoMemory *memory, int fd, uint64_t size, const char *what,
                       const char *path, KumoX86Payload *ret, GError **error);

/* bzimage.c */
bool kumo_x86_bzimage_probe(const uint8_t *head, size_t len);
bool kumo_x86_bzimage_load(KumoMemory *memory, int fd, uint64_t size, const char *what,
                           const char *path, KumoX86Payload *ret, GError **error);
/* Writes the zero page (Linux Documentation/arch/x86/zero-page). */
bool kumo_x86_bzimage_write_zero_page(KumoMemory *memory, const KumoX86Payload *payload,
                                      uint64_t initramfs_gpa, uint64_t initramfs_size,
                                      uint64_t rsdp_gpa, GError **error);

/* boot.c */
/* Bytes of a file that a probe wants to see. */
enum { KUMO_X86_PROBE_BYTES = 1024 };

/**
 * kumo_x86_read_file_into:
 *
 * Reads [@offset, @offset + @len) of a file into guest memory at @gpa.
 *
 * Returns: TRUE, or FALSE with @error if it is not all RAM or the file ends early.
 */
bool kumo_x86_read_file_into(KumoMemory *memory, int fd, uint64_t offset, uint64_t gpa,
                             uint64_t len, const char *what, const char *path, GError **error);

/**
 * kumo_x86_load_payload:
 * @rsdp_gpa: for the boot parameters
 *
 * Loads firmware or kernel, initramfs and command line of @config, and writes the boot parameters.
 *
 * Returns: TRUE and the registers of the boot processor in @ret_entry; FALSE with @error naming the
 * file.
 */
bool kumo_x86_load_payload(KumoMemory *memory, const KumoPayloadConfig *config, uint64_t rsdp_gpa,
                           KumoArchEntry *ret_entry, GError **error);
