"""A growing set of 64-bit codes: sorted runs merged geometrically, 8 bytes a code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.prf import U64
from wmcheck.watermark.windows import first_occurrences


class SeenSet:
    """Codes seen so far. A collision of codes only drops an item that could have been scored."""

    def __init__(self) -> None:
        self._runs: list[U64] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, codes: U64) -> NDArray[np.bool_]:
        """Add codes; bool[n] is True at the first occurrence of each code that was not in the set."""
        fresh = np.zeros(len(codes), bool)
        fresh[first_occurrences(codes)] = True
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, codes), len(run) - 1)
            fresh &= run[place] != codes
        new = np.sort(codes[fresh])
        while self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._runs.pop(), new]))
        if len(new):
            self._runs.append(new)
        return fresh
