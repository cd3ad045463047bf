/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic on sizes and addresses that come from outside. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Each stores the result in *@ret and returns true, or returns false on overflow; *@ret is
 * undefined then. */
static inline bool kumo_add_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}

static inline bool kumo_sub_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_sub_overflow(a, b, ret);
}

static inline bool kumo_mul_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}

/* Is [@start, @start + @len) inside [@outer, @outer + @outer_len)? Nothing wraps. */
static inline bool kumo_range_inside(uint64_t start, uint64_t len, uint64_t outer,
                                     uint64_t outer_len)
{
    return start >= outer && len <= outer_len && start - outer <= outer_len - len;
}

/* Do [@a, @a + @a_len) and [@b, @b + @b_len) share a byte? Both must not wrap. */
static inline bool kumo_range_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a_len && b_len && a <= b + (b_len - 1) && b <= a + (a_len - 1);
}

static inline bool kumo_is_pow2(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* @align is a power of two. The upward form must not be given values within @align of the top. */
static inline uint64_t kumo_align_down(uint64_t value, uint64_t align)
{
    return value & ~(align - 1);
}

static inline uint64_t kumo_align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}
