"""Philox4x32-10 in numpy, and the keyed functions that vLLM builds from it.

Philox is a bijection of 128-bit counters under a 64-bit key. Words stay in ``uint64`` lanes below 2^32, so that a round is two
products and eight passes in place; items go in parts that a core's cache holds.

Reference: J. Salmon, M. Moraes, R. Dror and D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from wmcheck.watermark.prf import I64, U32, U64

MASK = np.uint64(0xFFFFFFFF)
# Items worked on at a time.
PART = 16_384
_SHIFT = np.uint64(32)
_FACTORS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_BUMPS = (0x9E3779B9, 0xBB67AE85)
_CONTEXT = 0x574D4358
_TOKEN = 0x574D544B


class PhiloxKeys:
    """One or more secret 64-bit keys of Philox."""

    __slots__ = ("values",)

    def __init__(self, *values: int) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.values)} secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled; give workers a key source such as 'file:vllm.key'")


def philox(counter: Sequence[U64], low: Any, high: Any, spare: U64) -> tuple[list[U64], U64]:
    """Ten rounds on n counters.

    Args:
        counter: four u64[n] of 32-bit words; they are overwritten.
        low: first word of the key, one for all (int) or u64[n], which is overwritten.
        high: second word of the key, likewise.
        spare: u64[n] to write into.

    Returns:
        The four words of the result, in the given arrays, and the array that is free again.
    """
    a, b, c, d = counter
    for number in range(10):
        if number:
            low, high = _bumped(low, _BUMPS[0]), _bumped(high, _BUMPS[1])
        np.multiply(a, _FACTORS[0], out=a)
        np.multiply(c, _FACTORS[1], out=c)
        np.right_shift(c, _SHIFT, out=spare)
        np.bitwise_xor(spare, b, out=spare)
        np.bitwise_xor(spare, low if isinstance(low, np.ndarray) else np.uint64(low), out=spare)
        np.right_shift(a, _SHIFT, out=b)
        np.bitwise_xor(b, d, out=b)
        np.bitwise_xor(b, high if isinstance(high, np.ndarray) else np.uint64(high), out=b)
        np.bitwise_and(c, MASK, out=c)
        np.bitwise_and(a, MASK, out=a)
        a, b, c, d, spare = spare, c, b, a, d
    return [a, b, c, d], spare


def _bumped(word: Any, step: int) -> Any:
    if not isinstance(word, np.ndarray):
        return (word + step) & 0xFFFFFFFF
    np.add(word, np.uint64(step), out=word)
    return np.bitwise_and(word, MASK, out=word)


def picked(words: Sequence[U64], place: U64) -> U32:
    """u32[n]: of four words each, the one at ``place`` (0 to 3)."""
    found = words[0]
    for number in (1, 2, 3):
        np.copyto(found, words[number], where=place == np.uint64(number))
    return found.astype(np.uint32)


def seeded_words(seeds: U64, tokens: I64) -> U32:
    """u32[n]: word number ``tokens[i]`` (counter token / 4, word token % 4) of the stream whose 64-bit key is ``seeds[i]``."""
    out = np.empty(len(tokens), np.uint32)
    for start in range(0, len(tokens), PART):
        part = slice(start, start + PART)
        ids, keys = tokens[part].astype(np.uint64), seeds[part]
        zero = [np.zeros(len(ids), np.uint64) for _ in range(4)]
        words, _ = philox([ids >> np.uint64(2), *zero[:3]], keys & MASK, keys >> _SHIFT, zero[3])
        out[part] = picked(words, ids & np.uint64(3))
    return out


def vllm_words(windows: U32, tokens: I64, key: int) -> U32:
    """u32[n]: the word of ``tokens[i]`` after the context ``windows[i]``, in vLLM's ``philox4x32-10-v1``.

    The context is absorbed in blocks of four ids; its four words then stand in counter and key of the call that gives words for
    four neighbouring tokens. Distinct contexts of up to four ids, of equal length, are distinct counters.
    """
    low, high = key & 0xFFFFFFFF, key >> 32
    out = np.empty(len(tokens), np.uint32)
    width = windows.shape[1]
    for start in range(0, len(tokens), PART):
        part = slice(start, start + PART)
        held, ids = windows[part], tokens[part].astype(np.uint64)
        state, spare = vllm_state(held, width, low, high)
        # The context's last word goes into the key of the second call, the token into the counter.
        np.right_shift(ids, np.uint64(2), out=spare)
        np.bitwise_xor(state[3], np.uint64(low), out=state[3])
        words, _ = philox([spare, *state[:3]], state[3], high ^ _TOKEN, np.empty_like(spare))
        out[part] = picked(words, ids & np.uint64(3))
    return out


def vllm_state(windows: U32, width: int, low: int, high: int) -> tuple[list[U64], U64]:
    """The four words of each context, and a free array."""
    n = len(windows)
    state = [np.full(n, word, np.uint64) for word in (_CONTEXT, width, 0, 0)]
    spare = np.empty(n, np.uint64)
    for offset in range(0, width, 4):
        for place in range(4):
            column = offset + place
            block: Any = windows[:, column] if column < width else np.uint64(0xFFFFFFFF - place)
            np.bitwise_xor(state[place], block, out=state[place])
        state, spare = philox(state, low ^ offset, high, spare)
    return state, spare


def vllm_row(window: U32, vocabulary: int, key: int) -> U32:
    """u32[V]: the words of all tokens after one context."""
    low, high = key & 0xFFFFFFFF, key >> 32
    state, _ = vllm_state(window[None], len(window), low, high)
    first, second, third, last = (int(word[0]) for word in state)
    blocks = -(-vocabulary // 4)
    counter = [np.arange(blocks, dtype=np.uint64), *(np.full(blocks, word, np.uint64) for word in (first, second, third))]
    words, _ = philox(counter, low ^ last, high ^ _TOKEN, np.empty(blocks, np.uint64))
    return np.stack(words, axis=1).reshape(-1)[:vocabulary].astype(np.uint32)
