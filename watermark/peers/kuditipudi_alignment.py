"""Alignment of a text with a key sequence: the least cost over shifts of the sequence and over blocks of the text.

``phi = min over starts s and shifts j of sum over i of cost(token at s + i, place (j + i) mod n)``, or the Levenshtein distance
of the two stretches with that cost for a substitution and ``gamma`` for a gap. Costs of all shifts stand side by side in one row
for each token, turned by its place, so that a shift is a column: sums are sums of rows, and blocks are differences of running
sums.

References:
    R. Kuditipudi, J. Thickstun, T. Hashimoto, P. Liang, "Robust distortion-free watermarks for language models", TMLR 2024,
    section 2 (alignment cost, edits).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.tails import Floats
from wmcheck.watermark.prf import I64

# Costs held at a time where the sum over a whole text is all that is needed.
_CELLS = 1 << 22
# Cells of a diagonal of the dynamic programme that are worked on at a time: as many as caches hold.
_LANES = 1 << 17


class Alignment:
    """One text, to be aligned with tables of costs.

    Args:
        rows: i64[m] row of the table of each token.
        places: i64[m] ascending places of the tokens in their text; gaps are tokens that are not scored.
        length: n, the length of the key sequence.
        block: number of places of a block; None for the whole text.
    """

    def __init__(self, rows: I64, places: I64, length: int, block: int | None) -> None:
        self._rows, self._places, self._n, self._block = rows, places - places[0], length, block
        span = int(self._places[-1]) + 1
        starts = np.arange(1 if block is None or block >= span else span - block + 1)
        self._low = np.searchsorted(self._places, starts)
        self._high = np.searchsorted(self._places, starts + (span if block is None else block))
        self._kept: NDArray[np.intp] | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks, all tried."""
        return len(self._low)

    @property
    def bounds(self) -> tuple[I64, I64]:
        """i64[blocks] each: first token of a block, and the one behind its last."""
        return self._low, self._high

    def residues(self) -> I64:
        """i64[m] places modulo the length of the key sequence: tokens of one residue read one place of it, whatever the shift."""
        return np.asarray(self._places % self._n)

    def least(self, table: Floats) -> Floats:
        """f64[blocks]: the least cost over all shifts; ``table`` f64[d, n] has the cost of each row at each place."""
        if self.blocks == 1:
            total = np.zeros(self._n)
            for part in self._indices():
                total += table.take(part).sum(0)
            return np.asarray(total.min(keepdims=True))
        running = np.zeros((len(self._rows) + 1, self._n))
        done = 0
        for part in self._indices():
            stop = done + len(part)
            np.cumsum(table.take(part), axis=0, out=running[done + 1 : stop + 1])
            running[done + 1 : stop + 1] += running[done]
            done = stop
        return np.array([(running[high] - running[low]).min() for low, high in zip(self._low, self._high, strict=True)])

    def least_edited(self, table: Floats, gamma: float) -> Floats:
        """The same with edits, in blocks of scored tokens whatever their places: the stretch of the key sequence is as long as
        the block, and either may skip at ``gamma`` each."""
        k = len(self._rows) if self._block is None else min(self._block, len(self._rows))
        count, n = len(self._rows) - k + 1, self._n
        # [i, c]: the cost of token i at place c of the key sequence, which begins again after its end.
        costs = np.tile(table, -(-(n + k) // n))[:, : n + k].take(self._rows, axis=0)
        shifts = max(1, min(n, _LANES // (k + 1)))
        blocks = max(1, _LANES // ((k + 1) * shifts))
        best = np.full(count, np.inf)
        for first in range(0, count, blocks):
            part = costs[first : first + blocks + k - 1]
            for shift in range(0, n, shifts):
                found = _edited(part, k, slice(shift, min(shift + shifts, n)), gamma)
                best[first : first + blocks] = np.minimum(best[first : first + blocks], found)
        return best

    def _indices(self) -> Iterator[NDArray[np.intp]]:
        """Flat indices into the table, [tokens, shifts], a stretch of the text at a time."""
        step = max(1, _CELLS // self._n)
        if len(self._rows) <= step:
            if self._kept is None:
                self._kept = self._index(slice(None))
            yield self._kept
            return
        for start in range(0, len(self._rows), step):
            yield self._index(slice(start, start + step))

    def _index(self, part: slice) -> NDArray[np.intp]:
        turned = (self._places[part, None] + np.arange(self._n)) % self._n
        return np.asarray(self._rows[part, None] * self._n + turned, np.intp)


def _edited(costs: Floats, k: int, shifts: slice, gamma: float) -> Floats:
    """f64[s]: the least edit costs of the blocks of k tokens over some shifts, a diagonal of the dynamic programme at a time.

    A diagonal holds the cells ``a + b = d`` for a tokens and b places, by a; it needs the two diagonals before it alone.
    """
    count, lanes = len(costs) - k + 1, shifts.stop - shifts.start
    wide, step = costs.strides
    two, one, here = (np.empty((count, k + 1, lanes)) for _ in range(3))
    two[:, 0] = 0.0
    one[:, :2] = gamma
    spare = np.empty((count, k, lanes))
    for d in range(2, 2 * k + 1):
        low, high = max(1, d - k), min(k, d - 1)
        # [s, a, j]: the cost of token s + low - 1 + a at place d - low - 1 - a of the stretch that begins at shift j.
        corner = costs[low - 1 :, d - low - 1 + shifts.start :]
        turned = np.lib.stride_tricks.as_strided(
            corner, (count, high - low + 1, lanes), (wide, wide - step, step), writeable=False
        )
        cells, skips = here[:, low : high + 1], spare[:, : high - low + 1]
        np.add(two[:, low - 1 : high], turned, out=cells)
        np.minimum(one[:, low - 1 : high], one[:, low : high + 1], out=skips)
        if gamma:
            skips += gamma
        np.minimum(cells, skips, out=cells)
        if d <= k:
            here[:, 0] = here[:, d] = gamma * d
        two, one, here = one, here, two
    return np.asarray(one[:, k].min(1))
