"""Shipped tables of survival functions of statistics whose null law has no quick formula.

An entry is a threshold: the chance, under the null law of n items, that the statistic reaches it is at most the entry's level.
Looking a value up therefore never gives a p-value that is too small:

- a value between two thresholds gets the level of the lower one, and there is no level beyond the last;
- a document whose n lies between two rows is tested by its first items alone, as many as the lower row has: which items those
  are depends on their place, not on their scores, so the law is that row's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDER = "tail_tables"
_UNREACHED = 1 << 29
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class SurvivalTable:
    """Thresholds of a statistic by number of items and level.

    Attributes:
        n: i64[g] numbers of items, ascending from 1.
        log_p: f64[k] natural logs of the levels, descending from below 0.
        codes: i64[g, k] thresholds in units of ``step``, nondecreasing along a row; those of 2^29 and more are out of
            reach.
        step: unit of the statistic.
        identity: f64[j] numbers by which the owner knows that the table is of its own law.
    """

    n: Ints
    log_p: Floats
    codes: Ints
    step: float
    identity: Floats

    def rows(self, n: Ints) -> Ints:
        """i64[m] the row of the largest number of items that is at most n; -1 for n = 0."""
        return np.asarray(np.searchsorted(self.n, n, side="right") - 1, dtype=np.int64)

    def heads(self, n: Ints) -> Ints:
        """i64[m] how many first items of documents of n items are tested."""
        rows = self.rows(n)
        return np.where(rows < 0, 0, self.n[np.maximum(rows, 0)])

    def log_sf(self, rows: Ints, values: Floats) -> Floats:
        """f64[m] natural logs of upper bounds of P(statistic >= value); 0 in row -1."""
        found = np.zeros(len(rows))
        levels = np.concatenate([[0.0], self.log_p])
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            codes = self.codes[np.maximum(rows[part], 0)]
            reached = (codes * self.step <= values[part, None]) & (codes < _UNREACHED)
            found[part] = np.where(rows[part] < 0, 0.0, levels[reached.sum(1)])
        return found

    @classmethod
    def of(cls, n: Ints, log_p: Floats, thresholds: Floats, step: float, identity: Floats) -> SurvivalTable:
        """A table of thresholds f64[g, k] in units of the statistic, inf where out of reach; they are rounded up."""
        reachable = np.isfinite(thresholds)
        codes = np.where(reachable, np.ceil(np.where(reachable, thresholds, 0.0) / step - 1e-9), _UNREACHED).astype(np.int64)
        return cls(n, log_p, np.maximum.accumulate(codes, axis=1), step, identity)

    def save(self, path: Path) -> None:
        """Write the table; codes are stored as differences, which compress well."""
        np.savez_compressed(
            path, n=self.n.astype(np.int32), log_p=self.log_p, step=self.step, identity=self.identity,
            codes=np.diff(self.codes, axis=1, prepend=0).astype(np.int32),
        )

    @classmethod
    def read(cls, path: Path) -> SurvivalTable:
        """Read what :meth:`save` wrote."""
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            return cls(
                data["n"].astype(np.int64), data["log_p"], np.cumsum(data["codes"].astype(np.int64), axis=1),
                float(data["step"]), data["identity"],
            )


@lru_cache(maxsize=16)
def shipped(name: str) -> SurvivalTable:
    """A table that ships with the package."""
    return SurvivalTable.read(Path(str(files("wmcheck.watermark.core") / FOLDER / f"{name}.npz")))


def grid(limit: int, growth: float, dense: int = 60) -> Ints:
    """i64[g] every n to ``dense``, then steps by the factor ``growth`` to ``limit``."""
    found = list(range(1, min(dense, limit) + 1))
    while found[-1] < limit:
        found.append(min(limit, max(found[-1] + 1, int(found[-1] * growth))))
    return np.array(found, np.int64)


def levels(depth: float, step: float) -> Floats:
    """f64[k] natural logs of levels from ``-step`` to ``-depth``."""
    return np.asarray(-step * np.arange(1, round(depth / step) + 1), dtype=np.float64)


def places(document: Ints, counts: Ints) -> Ints:
    """i64[n] place of each item within its document; items come in order of documents."""
    starts = np.cumsum(counts) - counts
    return np.arange(len(document)) - starts[document]
