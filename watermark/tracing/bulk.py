"""Scores of one batch of items under the keys of very many accounts.

The keyed function of an account is two AES keys (:mod:`wmcheck.watermark.prf`). A block of accounts shares one buffer: each
account encrypts the contexts into its slot, the counters of the tokens' blocks are written over the last words of all slots at
once, each account encrypts its slot again, and the lanes of all are picked and folded by a kernel. A block stays in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from wmcheck.watermark.prf import I64, U32, counter_words
from wmcheck.watermark.tracing.bulk_keys import BulkKeys
from wmcheck.watermark.tracing.kernels import Floats, Kernel

# Bytes of blocks that are in work at once, and most items of one account in them.
BLOCK_BYTES = 1 << 18
MAX_ITEMS = 1 << 13

_FIPS_197 = bytes.fromhex("000102030405060708090a0b0c0d0e0f"), bytes.fromhex("00112233445566778899aabbccddeeff")
_FIPS_197_RESULT = bytes.fromhex("69c4e0d86a7b0430d8cdb78070b4c55a")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Items that are encrypted together.

    Attributes:
        messages: u32[blocks, n, 4], what CBC-MAC takes in of each window.
        counters: u32[n], the last word of each token's block.
        lanes: i64[n], where the lane of each token stands in the blocks of an account.
        pieces: i64, starts of the pieces of a kernel; ``joins`` are the first of each segment.
        segments: the segments of the batch whose items these are.
    """

    messages: U32
    counters: U32
    lanes: I64
    pieces: I64
    joins: I64
    segments: slice


class BulkScorer:
    """Totals of a batch of items under the keys of accounts.

    Args:
        kernel: of the scheme.
        windows: u32[n, h].
        tokens: i64[n].
        starts: i64[segments], the first item of each segment, from 0 on; none is empty.
    """

    def __init__(self, kernel: Kernel, windows: U32, tokens: I64, starts: I64) -> None:
        self._kernel = kernel
        self.segments = len(starts)
        self._chunks = [_chunk(kernel, windows, tokens, starts, low, min(low + MAX_ITEMS, len(tokens)))
                        for low in range(0, len(tokens), MAX_ITEMS)]

    def totals(self, keys: BulkKeys, start: int, stop: int) -> Floats:
        """Totals of accounts ``start`` to ``stop - 1``: f64[outputs, accounts, segments]."""
        found = np.zeros((self._kernel.outputs, stop - start, self.segments))
        if not self._chunks:
            return found
        longest = max(len(chunk.counters) for chunk in self._chunks)
        height = max(1, min(stop - start, BLOCK_BYTES // (16 * longest)))
        buffers = _Buffers(height, longest)
        ready = self._shared(keys) if keys.shared else None
        make = encryptors()
        for low in range(start, stop, height):
            high = min(low + height, stop)
            tokens = make(keys.tokens(low, high))
            contexts = [] if keys.shared else make(keys.contexts(low, high))
            for number, chunk in enumerate(self._chunks):
                blocks = buffers.encrypt(chunk, contexts, tokens, None if ready is None else ready[number])
                held = blocks.view(np.uint8) if self._kernel.bits == 8 else blocks
                lanes = np.take(held, chunk.lanes, axis=1, mode="clip")
                found[:, low - start : high - start, chunk.segments] += self._kernel.fold(lanes, chunk.pieces, chunk.joins)
        return found

    def _shared(self, keys: BulkKeys) -> list[memoryview]:
        """The tokens' messages of each chunk, the same for all accounts."""
        made = []
        for chunk in self._chunks:
            buffers, encrypt = _Buffers(1, len(chunk.counters)), encryptors()(keys.contexts(0, 1))
            made.append(memoryview(buffers.digests(chunk, encrypt).tobytes()))
        return made


class _Buffers:
    """Two buffers of blocks, and the slot of each account in them."""

    def __init__(self, height: int, longest: int) -> None:
        # Ciphers want room for one more block than they write.
        self._memory = [np.empty(16 * (height * longest + 1), np.uint8) for _ in range(2)]
        self._slots: dict[int, list[list[tuple[memoryview, memoryview]]]] = {}
        self._height = height

    def digests(self, chunk: _Chunk, contexts: list[Any]) -> U32:
        """The tokens' messages u32[accounts, 4 n]: digests and counters, in the first buffer or the second."""
        return self._message(chunk, contexts)[0]

    def encrypt(self, chunk: _Chunk, contexts: list[Any], tokens: list[Any], ready: memoryview | None) -> U32:
        """The tokens' blocks u32[accounts, 4 n]; ``ready`` is the message of all accounts, where they share one."""
        n, height = len(chunk.counters), len(tokens)
        slots = self._of(n)
        if ready is not None:
            for cipher, (_, room) in zip(tokens, slots[0], strict=False):
                cipher.update_into(ready, room)
            return self._view(0, n, height)
        _, side = self._message(chunk, contexts)
        for cipher, (message, _), (_, room) in zip(tokens, slots[side], slots[1 - side], strict=False):
            cipher.update_into(message, room)
        return self._view(1 - side, n, height)

    def _message(self, chunk: _Chunk, contexts: list[Any]) -> tuple[U32, int]:
        n, height, side = len(chunk.counters), len(contexts), 0
        slots = self._of(n)
        first = chunk.messages[0].reshape(-1).view(np.uint8).data
        for cipher, (_, room) in zip(contexts, slots[side], strict=False):
            cipher.update_into(first, room)
        for message in chunk.messages[1:]:
            self._view(side, n, height)[:] ^= message.reshape(-1)
            for cipher, (state, _), (_, room) in zip(contexts, slots[side], slots[1 - side], strict=False):
                cipher.update_into(state, room)
            side = 1 - side
        view = self._view(side, n, height)
        view.reshape(height, n, 4)[:, :, 3] = chunk.counters
        return view, side

    def _view(self, side: int, n: int, height: int) -> U32:
        return self._memory[side][: 16 * n * height].view(np.uint32).reshape(height, 4 * n)

    def _of(self, n: int) -> list[list[tuple[memoryview, memoryview]]]:
        """For each buffer and account: its slot, and its slot with room for a block more."""
        if n not in self._slots:
            size = 16 * n
            self._slots[n] = [
                [(held[start : start + size], held[start : start + size + 16]) for start in range(0, self._height * size, size)]
                for held in (memory.data for memory in self._memory)
            ]
        return self._slots[n]


def _chunk(kernel: Kernel, windows: U32, tokens: I64, starts: I64, low: int, high: int) -> _Chunk:
    windows, tokens = windows[low:high], tokens[low:high]
    n, width = windows.shape
    blocks = max(1, -(-width // 4))
    message = np.zeros((n, blocks * 4), np.uint32)
    message[:, :width] = windows
    in_block = 128 // kernel.bits
    first = int(np.searchsorted(starts, low, side="right")) - 1
    last = int(np.searchsorted(starts, high))
    begins = np.maximum(starts[first:last] - low, 0)
    lengths = np.diff(begins, append=n)
    counts = -(-lengths // kernel.piece)
    joins = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum())) - np.repeat(joins, counts)
    pieces = np.repeat(begins, counts) + within * min(kernel.piece, n)
    return _Chunk(
        np.ascontiguousarray(message.reshape(n, blocks, 4).transpose(1, 0, 2)), counter_words(tokens // in_block),
        np.arange(n) * in_block + tokens % in_block, pieces, joins, slice(first, last),
    )


@cache
def encryptors() -> Any:
    """A function from a list of AES keys to one of ECB encryptors, cheap for a million keys.

    One algorithm object takes one key after another, which saves two of five microseconds. That it does is checked against the
    vector of FIPS-197, appendix C.1; where it does not, every key has an object of its own.
    """
    algorithm, mode = algorithms.AES(bytes(16)), modes.ECB()
    cipher = Cipher(algorithm, mode)

    begin = cipher.encryptor

    def fast(keys: list[bytes]) -> list[Any]:
        made = []
        for key in keys:
            algorithm.key = key
            made.append(begin())
        return made

    def plain(keys: list[bytes]) -> list[Any]:
        return [Cipher(algorithms.AES(key), mode).encryptor() for key in keys]

    try:
        _, made = fast([bytes(range(1, 17)), _FIPS_197[0]])
        sound = made.update(_FIPS_197[1]) == _FIPS_197_RESULT
    except (AttributeError, TypeError):
        sound = False
    return fast if sound else plain
