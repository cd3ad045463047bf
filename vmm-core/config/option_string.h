/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The grammar of option strings: splitting, quoting, lists and numbers. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char *key;
    char *value; /* quotes and brackets still in place; NULL: the item has no '=' */
} KumoOptionItem;

/**
 * kumo_option_split:
 * @name: what @text belongs to, for messages
 *
 * Splits "key=value,key=value" at the commas that stand outside quotes and brackets.
 *
 * Returns: (transfer full): the items (KumoOptionItem), or NULL with @error set.
 */
GPtrArray *kumo_option_split(const char *name, const char *text, GError **error);

/* Returns: (transfer full): @raw without its quotes; a doubled quote inside quotes gives one. */
char *kumo_option_unquote(const char *raw);

/**
 * kumo_option_split_list:
 *
 * Splits "[a,b,c]", or "a" alone, and unquotes the items.
 *
 * Returns: (transfer full): the strings, or NULL with @error set.
 */
GPtrArray *kumo_option_split_list(const char *name, const char *raw, GError **error);

/* Digits only, no sign, no blanks, no overflow. */
bool kumo_option_parse_u64(const char *text, uint64_t *ret_value);

/**
 * kumo_option_parse_int_list:
 *
 * "[0-3,7]": numbers of 0 to INT32_MAX and ranges of them, in the order given.
 *
 * Returns: (transfer full): the numbers (int), or NULL with @error set.
 */
GArray *kumo_option_parse_int_list(const char *name, const char *raw, GError **error);
