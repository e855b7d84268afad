"""MurmurHash3 (x86, 32 bits) of rows of 32-bit words in numpy, all with seed 0.

Words are absorbed one by one into a state of 32 bits, which the final mixing closes. Whatever a secret contributes goes through
that state: of 64-bit keys at most 2^32 differ.

Reference: A. Appleby, MurmurHash3, 2011 (public domain).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wmcheck.watermark.prf import U32

_MASK = 0xFFFFFFFF


def state_of(*words: int) -> int:
    """The state after these words, from the start."""
    state = np.zeros(1, np.uint32)
    for word in words:
        state = absorbed(state, np.full(1, word & _MASK, np.uint32))
    return int(state[0])


def absorbed(state: Any, words: U32) -> U32:
    """u32[n]: the states after one more word each; ``state`` is u32[n], or one number for all."""
    mixed = words * np.uint32(0xCC9E2D51)
    mixed = _rotated(mixed, 15)
    mixed *= np.uint32(0x1B873593)
    mixed ^= np.uint32(state) if isinstance(state, int) else state
    mixed = _rotated(mixed, 13)
    mixed *= np.uint32(5)
    mixed += np.uint32(0xE6546B64)
    return mixed


def closed(state: U32, count: Any) -> U32:
    """u32[n]: the hashes of ``count`` words (a number, or u32[n]), whose states are given."""
    value = state ^ (np.uint32(4 * count) if isinstance(count, int) else np.uint32(4) * count)
    value ^= value >> np.uint32(16)
    value *= np.uint32(0x85EBCA6B)
    value ^= value >> np.uint32(13)
    value *= np.uint32(0xC2B2AE35)
    value ^= value >> np.uint32(16)
    return np.asarray(value)


def hash_rows(rows: U32, absent: int) -> U32:
    """u32[n]: the hashes of rows u32[n, h] without the words ``absent``: shorter rows stand as shorter messages."""
    state, held = np.zeros(len(rows), np.uint32), np.zeros(len(rows), np.uint32)
    for column in rows.T:
        word = np.ascontiguousarray(column)
        there = word != np.uint32(absent)
        if there.all():
            state = absorbed(state, word)
        else:
            state = np.where(there, absorbed(state, word), state)
        held += there
    return closed(state, held)


def _rotated(value: U32, by: int) -> U32:
    left = value << np.uint32(by)
    value >>= np.uint32(32 - by)
    left |= value
    return left
