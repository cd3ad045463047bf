/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bodies of requests that are a few named values and no section of the configuration. */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One value: either a string or a size in bytes. All are needed. */
typedef struct {
    const char *key;
    const char **ret_text; /* belongs to the body */
    uint64_t *ret_size_bytes;
} KumoApiValue;

/**
 * kumo_api_read_body:
 *
 * Returns: TRUE, or FALSE with @error (INVALID) naming the field: unknown, of another type or
 * missing.
 */
bool kumo_api_read_body(const json_t *body, const KumoApiValue *values, size_t n_values,
                        GError **error);
