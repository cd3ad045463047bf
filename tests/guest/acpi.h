/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading the firmware tables. */
#pragma once

#include "tests/guest/machine.h"

/* The sum of @len bytes at @at, 0 for a good table. */
uint8_t byte_sum(const void *at, size_t len);

/* Returns: the table with @signature that the XSDT of the start info's RSDP lists, or NULL. */
const uint8_t *acpi_find(const char *signature);

/* How many tables the XSDT lists, and the one with @index. */
unsigned acpi_count(void);
const uint8_t *acpi_table(unsigned index);

/* Unaligned little-endian fields. */
uint64_t field(const uint8_t *table, unsigned offset, unsigned n_bytes);
