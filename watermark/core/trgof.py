"""Truncated goodness of fit: are there too many small p-values among the items, at any level?

With ``p_i = e^-score_i`` (uniform where scores are exponential), F their empirical distribution function and n their number,

    S = sup over r in [1/n, 1) of  n K_s^+(F(r), r),

    K_s(u, v) = (1 - u^s v^(1-s) - (1-u)^s (1-v)^(1-s)) / (s (1 - s)),   K_1 = u log(u/v) + (1-u) log((1-u)/(1-v)),

and K_s^+ = K_s where u > v, else 0. s = 1 is the Kullback-Leibler divergence (Berk and Jones), s = 2 half the square of higher
criticism, s = 1.5 lies between. F jumps at the p-values, so ``S = max_k n K_s^+(k/n, max(p_(k), 1/n))``. Below u, K_s falls
with v: S grows when a p-value falls. So scores that are only stochastically below Exp(1) make S stochastically smaller, and a
tail of S remains a bound. (A cut at the last p-value below 1/n, in place of 1/n itself, would not be monotone.)

The null law is exact, not simulated: S >= t means that some ordered p-value lies at or below a boundary, see
:mod:`wmcheck.watermark.core.crossing`. A shipped table of it serves documents of up to 1,000 items as far as it reaches.

References:
    X. Li, F. Ruan, H. Wang, Q. Long and W. Su, "Robust detection of watermarks for large language models under human edits",
    2024; W. He et al., "On the empirical power of goodness-of-fit tests in watermark detection", 2025; L. Jager
    and J. Wellner, "Goodness-of-fit tests via phi-divergences", 2007.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from wmcheck.watermark.core.crossing import EXACT, crossing_log_p
from wmcheck.watermark.core.nulls import ExponentialNull, Null
from wmcheck.watermark.core.statistics import Evidence, Sample
from wmcheck.watermark.core.survival import SurvivalTable, grid, levels, places, shipped

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TABLES = {"trgof_1": 1.0, "trgof_1.5": 1.5, "trgof_2": 2.0}
# Documents up to so many items are looked up as far as the table goes: to 10^-6.5, in steps of 0.04 decades.
TABLE_ITEMS, GROWTH, DEPTH, LEVEL_STEP, STEP = 1000, 1.025, 15.0, 0.1, 0.01
_HALVINGS = 52


class TrGof:
    """The statistic S of one s; subclasses name it."""

    name: ClassVar[str]
    needs_model: ClassVar[bool] = False
    s: ClassVar[float]

    def unfit(self, null: Null) -> str:
        return "" if isinstance(null, ExponentialNull) else "it needs continuous scores, one uniform p-value an item"

    def evaluate(self, sample: Sample) -> Evidence:
        n, table = sample.counts(), shipped(f"trgof_{self.s:g}")
        short = n <= table.n[-1]
        heads = np.where(short, table.heads(n), n)
        totals = divergence(sample.scores, sample.document, heads, self.s)
        rows = np.where(short, table.rows(n), -1)
        log_p = table.log_sf(rows, totals)
        for place in np.flatnonzero(~short | (log_p <= table.log_p[-1])):
            log_p[place] = min(log_p[place], exact_log_sf(float(totals[place]), int(heads[place]), self.s))
        return Evidence(totals, n, log_p)

    def describe(self, null: Null, n: int) -> str:
        table = shipped(f"trgof_{self.s:g}")
        first = int(table.heads(np.array([n]))[0]) if n <= table.n[-1] else n
        law = "boundary crossing of n uniforms, as an upper bound"
        return f"largest phi-divergence (s = {self.s:g}) of the first {first} of {n} items, each {null.name}: {law}"


class TrGof1(TrGof):
    """s = 1."""

    name: ClassVar[str] = "trgof1"
    s: ClassVar[float] = 1.0


class TrGof15(TrGof):
    """s = 1.5."""

    name: ClassVar[str] = "trgof1.5"
    s: ClassVar[float] = 1.5


class TrGof2(TrGof):
    """s = 2: higher criticism."""

    name: ClassVar[str] = "trgof2"
    s: ClassVar[float] = 2.0


def divergence(scores: Floats, document: Ints, heads: Ints, s: float) -> Floats:
    """f64[m] S of the first ``heads`` items of each document; 0 for none.

    Args:
        scores: f64[n] scores, Exp(1) under the null law.
        document: i64[n] index of each item's document, ascending.
        heads: i64[m].
        s: 1 or more.
    """
    counts = np.bincount(document, minlength=len(heads)).astype(np.int64)
    if not np.array_equal(counts, heads):
        kept = places(document, counts) < heads[document]
        scores, document = scores[kept], document[kept]
    ordered = scores[np.lexsort((-scores, document))]
    size = heads[document].astype(np.float64)
    u = (places(document, heads) + 1.0) / size
    v = np.minimum(np.maximum(np.exp(-ordered), 1.0 / size), 1.0)
    found = size * phi(u, v, s)
    out, some = np.zeros(len(heads)), heads > 0
    starts = np.cumsum(heads) - heads
    out[some] = np.maximum.reduceat(found, starts[some]) if len(found) else 0.0
    return out


def phi(u: Floats, v: Floats, s: float) -> Floats:
    """``K_s^+(u, v)`` for 0 < u <= 1 and 0 < v <= 1."""
    beyond = u > v
    v = np.where(beyond, v, 0.5)
    if s == 1.0:
        found = xlogy(u, u / v) + xlogy(1.0 - u, (1.0 - u) / (1.0 - v))
    elif s == 2.0:
        found = (u - v) ** 2 / (2.0 * v * (1.0 - v))
    else:
        found = (u**s * v ** (1.0 - s) + (1.0 - u) ** s * (1.0 - v) ** (1.0 - s) - 1.0) / (s * (s - 1.0))
    return np.asarray(np.where(beyond, np.maximum(found, 0.0), 0.0))


def exact_log_sf(value: float, n: int, s: float) -> float:
    """Natural log of P(S >= value) for n uniforms: exact up to 2,000 items, an upper bound beyond.

    ``S >= value`` holds when some ``max(p_(k), 1/n)`` is at most ``b_k``, the root of ``n K_s(k/n, v) = value`` below k/n; a root
    below 1/n cannot be reached. Roots are rounded up.
    """
    if n < 1 or value <= 0.0:
        return 0.0
    return crossing_log_p(_boundaries(value, n, s), n)


def make_table(s: float, items: int = TABLE_ITEMS, depth: float = DEPTH) -> SurvivalTable:
    """The table of S: thresholds at which the exact chance is at most the level."""
    n, log_p = grid(items, GROWTH), levels(depth, LEVEL_STEP)
    return SurvivalTable.of(n, log_p, np.array([_thresholds(int(size), s, log_p) for size in n]), STEP, np.array([s, EXACT]))


def _boundaries(value: float, n: int, s: float) -> Floats:
    k = np.arange(1, n + 1)
    u = k / n
    high = u.copy()
    if s == 2.0:
        # The quadratic (u - v)^2 = 2 c v (1 - v) in the form that does not cancel.
        c = value / n
        high = u * u / (u + c + np.sqrt(c * (c + 2.0 * u * (1.0 - u)))) * (1.0 + 1e-14)
    else:
        low = np.zeros(n)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            reached = n * phi(u, np.maximum(middle, 1e-300), s) >= value
            low, high = np.where(reached, middle, low), np.where(reached, high, middle)
    return np.maximum.accumulate(np.where(high * n < 1.0 - 1e-12, 0.0, np.minimum(high, 1.0 - 1e-15)))


def _thresholds(n: int, s: float, log_p: Floats) -> Floats:
    """f64[k] the smallest multiples of ``STEP`` found at which the exact log tail is at most each level."""
    most = float(n * phi(np.array([1.0]), np.array([1.0 / n]), s)[0])
    found, value, last = np.full(len(log_p), np.inf), 0.0, 0.0
    slope = -0.5
    for place, level in enumerate(log_p):
        while last > level and value <= most:
            before, at = value, last
            value = np.ceil((value + max((level - last) / slope, STEP)) / STEP) * STEP
            last = exact_log_sf(value, n, s)
            if last < at:
                slope = min(-0.05, max(-2.0, (last - at) / (value - before)))
        if last > level:
            break
        found[place] = value
    return found
