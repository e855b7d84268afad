"""Statistics: from the scores of scored items to one log p-value a document. One file and one registry line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a statistic found in each document.

    Attributes:
        totals: f64[m] value of the statistic.
        n: i64[m] number of items scored.
        log_p: f64[m] natural log of the p-value, exact or a proven upper bound.
    """

    totals: NDArray[np.float64]
    n: NDArray[np.int64]
    log_p: NDArray[np.float64]


class Statistic(Protocol):
    """A test statistic over independent items with a known null law."""

    name: ClassVar[str]

    def evaluate(self, scores: NDArray[np.float64], document: NDArray[np.int64], documents: int, null: Null) -> Evidence:
        """Test each document.

        Args:
            scores: f64[n] reduced scores (``null.reduce``) of the scored items.
            document: i64[n] index of the document of each item.
            documents: m.
            null: the law of one item.
        """


class ExactSum:
    """The sum of scores against its exact null law (or a proven bound of it)."""

    name: ClassVar[str] = "sum"

    def evaluate(self, scores: NDArray[np.float64], document: NDArray[np.int64], documents: int, null: Null) -> Evidence:
        totals = np.bincount(document, weights=scores, minlength=documents).astype(np.float64)
        n = np.bincount(document, minlength=documents).astype(np.int64)
        return Evidence(totals, n, null.log_sf(totals, n))


STATISTICS: Registry[type[Statistic]] = Registry(
    "statistic", {"sum": "wmcheck.watermark.core.statistics:ExactSum"}, entry_points="wmcheck.statistics"
)
