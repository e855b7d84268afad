"""How the lanes of many accounts become totals, a block of accounts at a time.

A kernel is the score of one scheme, written for an array of lanes [accounts, items]. Sums of ``-log(1 - u)`` are taken as logs of
products of 30 factors each: in float64 the product neither overflows nor loses more than rounding, and a log costs as much as
the rest. Whole-number scores are summed exactly. What a kernel gives is a screen with a known error; what is reported is always
computed again by the scheme itself (:mod:`wmcheck.watermark.tracing.search`).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.layers import ACCOUNT
from wmcheck.watermark.prf import I64, U8
from wmcheck.watermark.scheme import Scheme
from wmcheck.watermark.schemes.gumbel import Gumbel
from wmcheck.watermark.schemes.layered import Layered
from wmcheck.watermark.schemes.redgreen import RedGreen
from wmcheck.watermark.schemes.reweight import Reweight
from wmcheck.watermark.schemes.tournament import Tournament, layer_weights

Floats = NDArray[np.float64]

_RANGE = 2.0**32
_LOG_RANGE = 32.0 * math.log(2.0)
# Relative rounding of a product of 30 factors, its log and the sum over pieces, with much to spare.
_ROUNDING = 1e-11


class Kernel(Protocol):
    """Totals of lanes over segments of items.

    Attributes:
        bits: of a lane, 8 or 32.
        outputs: numbers a segment.
        piece: most items of a product.
    """

    bits: int
    outputs: int
    piece: int

    def fold(self, lanes: NDArray[Any], pieces: I64, joins: I64) -> Floats:
        """Totals of segments.

        Args:
            lanes: u8 or u32 [accounts, items].
            pieces: where each piece of at most ``piece`` items begins; none is empty and none reaches into two segments.
            joins: the first piece of each segment.

        Returns:
            f64[outputs, accounts, segments].
        """

    def error(self, n: int) -> float:
        """How far the total of n items may be from the sum of the scheme's own scores."""


class GumbelKernel:
    """Sums of ``-log(1 - w / 2^32)``: 32 log 2 an item less the log of the product of ``2^32 - w``."""

    bits, outputs, piece = 32, 1, 30

    def fold(self, lanes: NDArray[Any], pieces: I64, joins: I64) -> Floats:
        factors = np.subtract(_RANGE, lanes, dtype=np.float64)
        logs = np.log(np.multiply.reduceat(factors, pieces, axis=1))
        logs -= np.diff(pieces, append=lanes.shape[1]) * _LOG_RANGE
        return np.negative(np.add.reduceat(logs, joins, axis=1))[None]

    def error(self, n: int) -> float:
        return _ROUNDING * (n + 1)


class BelowKernel:
    """Numbers of lanes below a bound (green tokens), or not below it."""

    outputs, piece = 1, 1 << 30

    def __init__(self, bits: int, bound: int, *, below: bool) -> None:
        self.bits, self._bound, self._below = bits, bound, below

    def hits(self, lanes: NDArray[Any]) -> U8:
        """1 where a lane counts, else 0."""
        bound = lanes.dtype.type(self._bound)
        found: U8 = (lanes < bound if self._below else lanes >= bound).view(np.uint8)
        return found

    def fold(self, lanes: NDArray[Any], pieces: I64, joins: I64) -> Floats:
        return np.add.reduceat(self.hits(lanes), pieces[joins], axis=1, dtype=np.int64).astype(np.float64)[None]

    def error(self, n: int) -> float:
        return 0.0


class BitsKernel:
    """Weighted sums of the low bits of lanes, by a table of each half of a lane."""

    bits, outputs, piece = 32, 1, 1 << 30

    def __init__(self, weights: tuple[int, ...]) -> None:
        self.largest = sum(weights)
        self._table = _half_sums(weights)

    def sums(self, lanes: NDArray[Any]) -> NDArray[np.uint16]:
        """The score of each lane."""
        halves = self._halves(lanes)
        return halves[:, 0::2] + halves[:, 1::2]

    def fold(self, lanes: NDArray[Any], pieces: I64, joins: I64) -> Floats:
        return np.add.reduceat(self._halves(lanes), 2 * pieces[joins], axis=1, dtype=np.int64).astype(np.float64)[None]

    def _halves(self, lanes: NDArray[Any]) -> NDArray[np.uint16]:
        index = lanes.view(np.uint16).astype(np.intp)
        index[:, 1::2] += 1 << 16
        return np.take(self._table, index, mode="clip")

    def error(self, n: int) -> float:
        return 0.0


@cache
def _half_sums(weights: tuple[int, ...]) -> NDArray[np.uint16]:
    """The weighted bits of every lower half of a lane, then those of every upper half."""
    halves = np.arange(1 << 16)[:, None]
    parts = [weights[:16], weights[16:]]
    tables = [(halves >> np.arange(len(part)) & 1) @ np.array(part, np.int64) for part in parts]
    return np.concatenate(tables).astype(np.uint16)


def kernel_of(scheme: Scheme) -> Kernel | None:
    """The kernel of a scheme; None where each account must be scored by the scheme itself.

    A kernel also says that the same items are scored under the keys of all accounts of a root.
    """
    if isinstance(scheme, Layered):
        return kernel_of(scheme.inner[scheme.width]) if scheme.only == ACCOUNT else None
    # Exact types: what derives from a scheme may score in another way.
    if type(scheme) is Gumbel:
        return GumbelKernel()
    if type(scheme) is RedGreen and scheme.rule == "left":
        return BelowKernel(8, scheme.green, below=True)
    if type(scheme) is Reweight:
        return BelowKernel(32, 1 << 31, below=False)
    if type(scheme) is Tournament:
        return BitsKernel(layer_weights(scheme.layers))
    return None
