/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bodies of requests that are a few named values and no section of the configuration. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One value: a string, a size in bytes, a number, or a truth. */
typedef struct {
    const char *key;
    const char **ret_text; /* belongs to the body */
    uint64_t *ret_size_bytes;
    uint64_t min_bytes, max_bytes; /* of that; max_bytes 0: as much as there may be */
    uint32_t *ret_number;
    bool *ret_truth;
    bool *ret_has; /* NULL: the value is needed. Else it may be left out or null, and stays as it
                      was */
} KumoApiValue;

/**
 * kumo_api_read_body:
 *
 * Returns: TRUE, or FALSE with @error (INVALID) naming the field: unknown, of another type or
 * missing.
 */
bool kumo_api_read_body(const json_t *body, const KumoApiValue *values, size_t n_values,
                        GError **error);
