/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Linux bzImage files, entered at their 32-bit entry (Linux Documentation/arch/x86/boot). */
#pragma once

#include "vmm-core/arch/x86_64/payload.h"

/* Is it a bzImage? @head are the first @len bytes. */
bool kumo_x86_bzimage_probe(const uint8_t *head, size_t len);
bool kumo_x86_bzimage_load(KumoMemory *memory, int fd, uint64_t size, const char *what,
                           const char *path, KumoX86Payload *ret, GError **error);
/* Writes the zero page (Linux Documentation/arch/x86/zero-page). */
bool kumo_x86_bzimage_write_zero_page(KumoMemory *memory, const KumoX86Payload *payload,
                                      uint64_t initramfs_gpa, uint64_t initramfs_size,
                                      uint64_t rsdp_gpa, GError **error);
