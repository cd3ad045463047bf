# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes that the small guest knows."""


def pattern(length, seed=1):
    """What fill() in runtime.c makes."""
    mask = (1 << 64) - 1
    state = seed * 2 + 1
    words = []
    for _ in range(length // 8):
        state ^= state << 13 & mask
        state ^= state >> 7
        state ^= state << 17 & mask
        words.append(state)
    return b"".join(word.to_bytes(8, "little") for word in words)
