"""Reed-Solomon codes over bytes for messages in a watermark, and their decoding from sums of scores.

A message of ``bits`` bits is k bytes, big-endian; its codeword has ``length`` bytes, the message first. The code is that of the
library ``reedsolo``: the field of 256 elements with polynomial 0x11d, generator 2, first consecutive root 0. Two codewords agree
at no more than k - 1 places, so any k places determine the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import MissingExtraError

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]

SYMBOLS = 256
FIELD = 0x11D
# Up to this many bits every codeword is tried.
EXHAUSTIVE_BITS = 20
# Beyond: this many of the surest places, and of the likeliest symbols at each.
SUREST = 7
LIKELIEST = 16


class ReedSolomon:
    """The code of messages of ``bits`` bits in ``length`` bytes.

    Args:
        bits: 1 to 32.
        length: N, more than ``ceil(bits / 8)`` and at most 255.

    Raises:
        MissingExtraError: ``reedsolo`` is not installed (when the code is first used).
    """

    def __init__(self, bits: int, length: int) -> None:
        self.bits, self.length = bits, length
        self.size = -(-bits // 8)

    @cached_property
    def _codec(self) -> Any:
        try:
            from reedsolo import RSCodec
        except ImportError:
            raise MissingExtraError(
                "reedsolo is not installed, and payloads with an error-correcting code need it", where="payload-code",
                hint="pip install 'wmcheck[payload]'",
            ) from None
        return RSCodec(self.length - self.size, c_exp=8, prim=FIELD, generator=2, fcr=0)

    @cached_property
    def _basis(self) -> Bytes:
        """u8[bits, N]: codewords of the messages with one bit. All others are sums of these: addition is exclusive or."""
        rows = [list(self._codec.encode(bytearray((1 << bit).to_bytes(self.size, "big")))) for bit in range(self.bits)]
        return np.array(rows, np.uint8)

    @cached_property
    def _products(self) -> Bytes:
        """u8[256, 256]: products in the field."""
        log, power = np.array(self._codec.gf_log, np.int64), np.array(self._codec.gf_exp, np.int64)
        found: Bytes = power[(log[:, None] + log[None, :]) % 255].astype(np.uint8)
        found[0], found[:, 0] = 0, 0
        return found

    def encode(self, messages: I64) -> Bytes:
        """u8[m, N]: the codewords of i64[m] messages below ``2 ** bits``."""
        chosen = (messages[:, None] >> np.arange(self.bits)) & 1
        found: Bytes = np.bitwise_xor.reduce(chosen[:, :, None].astype(np.uint8) * self._basis, axis=1)
        return found

    def decode(self, table: Floats, sure: Callable[[int, Bytes], bool] = lambda message, codeword: False) -> int:
        """The message whose codeword has the largest sum of ``table`` f64[N, 256] over its places, as far as it is found.

        All messages are tried up to :data:`EXHAUSTIVE_BITS` bits. Beyond, those that have one of the likeliest symbols at k of
        the surest places (Fossorier and Lin 1995, with lists in place of flips).

        Args:
            table: a score for each symbol at each place.
            sure: of the best message so far and its codeword, whether the search may stop there.
        """
        if self.bits <= EXHAUSTIVE_BITS:
            return self._best_of_all(table)
        best, top = 0, -np.inf
        for codewords in self._candidates(table):
            totals = sums_over(table, codewords)
            for place in np.argsort(-totals, kind="stable"):
                message = int.from_bytes(codewords[place, : self.size].tobytes(), "big")
                if totals[place] <= top:
                    break
                # The first byte of a message whose bits do not fill it has no high ones.
                if message >> self.bits == 0:
                    best, top = message, float(totals[place])
                    break
            if np.isfinite(top) and sure(best, self.encode(np.array([best]))[0]):
                break
        return best

    def _best_of_all(self, table: Floats) -> int:
        """By the two halves of the bits: the codeword of a message is the sum of those of its halves."""
        half = self.bits // 2
        low, high = self.encode(np.arange(1 << half)), self.encode(np.arange(1 << (self.bits - half)) << half)
        totals = np.zeros((len(high), len(low)), np.float32)
        for place, row in enumerate(table.astype(np.float32)):
            totals += row[high[:, place, None] ^ low[None, :, place]]
        first, second = divmod(int(totals.argmax()), len(low))
        return first << half | second

    def _candidates(self, table: Floats) -> Iterator[Bytes]:
        """u8[m, N] codewords for each choice of k of the surest places, the surest choice first."""
        order = np.sort(table, axis=1)
        gaps = order[:, -1] - order[:, -2]
        surest = np.argsort(-gaps, kind="stable")[: max(SUREST, self.size)]
        likeliest = np.argsort(-table, axis=1, kind="stable")[:, :LIKELIEST]
        chosen = [surest[list(places)] for places in combinations(range(len(surest)), self.size)]
        for places in sorted(chosen, key=lambda places: -float(gaps[places].sum())):
            codewords = np.zeros((1, self.length), np.uint8)
            for place, unit in zip(places, self._units(places), strict=True):
                terms = self._products[likeliest[place]][:, unit]
                codewords = (codewords[:, None] ^ terms[None]).reshape(-1, self.length)
            yield codewords

    def _units(self, places: I64) -> Bytes:
        """u8[k, N]: the codewords with a 1 at one of k ``places`` and 0 at the others, by elimination over the field."""
        # Row i: the codeword of the message with byte i equal to 1.
        bits = 8 * (self.size - 1 - np.arange(self.size))
        rows = self._basis[bits].copy() if self.bits > bits[0] else self.encode(np.left_shift(1, bits))
        for row, place in enumerate(places):
            other = row + int(np.argmax(rows[row:, place] != 0))
            rows[[row, other]] = rows[[other, row]]
            inverse = int(np.argmax(self._products[rows[row, place]] == 1))
            rows[row] = self._products[inverse][rows[row]]
            for rest in range(self.size):
                if rest != row:
                    rows[rest] ^= self._products[rows[rest, place]][rows[row]]
        return rows


def sums_over(table: Floats, codewords: Bytes) -> Floats:
    """f64[m]: sums of ``table`` f64[N, 256] over the symbols of u8[m, N] codewords."""
    totals = np.zeros(len(codewords))
    for place, row in enumerate(table):
        totals += row[codewords[:, place]]
    return totals


def agreements(counts: I64, most: int) -> NDArray[np.bool_]:
    """bool[s, N]: every set of at most ``most`` of the N places that hold items; the others change nothing."""
    held = np.flatnonzero(counts)
    rows = [chosen for size in range(min(most, len(held)) + 1) for chosen in combinations(held.tolist(), size)]
    found = np.zeros((len(rows), len(counts)), np.bool_)
    for row, chosen in enumerate(rows):
        found[row, list(chosen)] = True
    return found
