/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ELF files with the PVH entry note: kernels and firmware. */
#pragma once

#include "vmm-core/arch/x86_64/payload.h"

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
