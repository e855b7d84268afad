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
# Cells of a row of the dynamic programme that are worked on at a time.
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
        stretches = np.lib.stride_tricks.sliding_window_view(self._rows, k)
        step = max(1, _LANES // ((k + 1) * self._n))
        return np.concatenate([
            _edited(table, stretches[start : start + step], gamma) for start in range(0, len(stretches), step)
        ])

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


def _edited(table: Floats, blocks: I64, gamma: float) -> Floats:
    """f64[s]: the least edit costs of blocks i64[s, k] over all shifts, a row of the dynamic programme at a time."""
    (count, k), n = blocks.shape, table.shape[1]
    # Turned by every shift: [row, b, j] is the cost at the b-th place of the stretch that begins at j.
    repeated = np.tile(table, -(-(n + k - 1) // n))[:, : n + k - 1]
    turned = np.lib.stride_tricks.sliding_window_view(repeated, n, axis=1)
    skipped = gamma * np.arange(k + 1)[:, None, None]
    before = np.broadcast_to(skipped, (k + 1, count, n)).copy()
    here = np.empty_like(before)
    for place in range(k):
        here[0] = gamma * (place + 1)
        costs = turned[blocks[:, place]].transpose(1, 0, 2) if count > 1 else turned[blocks[0, place], :, None]
        np.add(before[:-1], costs, out=here[1:])
        np.minimum(here[1:], before[1:] + gamma, out=here[1:])
        # Skips along the key sequence: a running minimum once the cost of the skips is taken off.
        if gamma:
            here -= skipped
        np.minimum.accumulate(here, axis=0, out=here)
        if gamma:
            here += skipped
        before, here = here, before
    return np.asarray(before[k].min(1))
