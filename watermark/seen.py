"""A growing set of 64-bit codes: sorted runs merged geometrically, 8 bytes a code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.prf import U64


class SeenSet:
    """Codes seen so far. A collision of codes only drops an item that could have been scored."""

    def __init__(self) -> None:
        self._runs: list[U64] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, codes: U64) -> NDArray[np.bool_]:
        """Add codes; bool[n] is True at the first occurrence of each code that was not in the set."""
        order = np.argsort(codes, kind="stable")
        ranked = codes[order]
        new = np.ones(len(ranked), bool)
        np.not_equal(ranked[1:], ranked[:-1], out=new[1:])
        for run in self._runs:
            # Sorted needles walk a run from end to end instead of missing the cache at every probe.
            place = np.minimum(np.searchsorted(run, ranked), len(run) - 1)
            new &= run[place] != ranked
        added = ranked[new]
        while self._runs and len(self._runs[-1]) <= 2 * len(added):
            added = np.concatenate([self._runs.pop(), added])
            added.sort(kind="stable")
        if len(added):
            self._runs.append(added)
        fresh = np.empty(len(codes), bool)
        fresh[order] = new
        return fresh
