"""Making tables of T, the sparse mixture statistic, by importance sampling with proven upper limits.

Documents are drawn from D, half the null law P0 and half the mixture Q whose likelihood ratio to P0 is ``e^T``. Then

    P0(T >= t) = E_D[w 1{T >= t}],   w = dP0/dD = 2 / (1 + e^T),

and on the event w is at most ``b = 2 / (1 + e^t)``: what is averaged lies between 0 and b, which is of the order of the tail
itself however small. The upper limit is Maurer and Pontil's empirical Bernstein bound: with N draws of mean m and variance v,

    P0(T >= t) <= m + sqrt(2 v L / N) + 7 b L / (3 (N - 1))   with probability 1 - doubt,   L = log(2 / doubt),

with the doubt shared out over every row and value that is looked at. The limit is never taken above ``e^-t`` (Markov). One draw
of the longest document serves every row: its first n items are a draw of n items.

References:
    A. Maurer and M. Pontil, "Empirical Bernstein bounds and sample variance penalization", 2009, theorem 4; A. Owen and Y. Zhou,
    "Safe and effective importance sampling", 2000 (defensive mixtures).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.sparse import DOUBT, SHARES, identity, item_terms, mixture
from wmcheck.watermark.core.survival import SurvivalTable, levels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Unit of the thresholds and range of T.
STEP = 0.01
LOWEST, DEPTH = -20.0, 30.0
LEVEL_STEP = 0.04
_ITEMS, _BATCH = 40_000, 2000


def sparse_table(null: Null, parts: Sequence[tuple[Ints, int]], seed: int, *, doubt: float = DOUBT) -> SurvivalTable:
    """The table of T under a null law.

    Args:
        null: a law with experts.
        parts: numbers of items i64[g], ascending, and how many documents to draw for them; short documents can have more.
        seed: of the draws.
        doubt: chance that any threshold of the table is too low.
    """
    values = np.asarray(STEP * np.arange(round(LOWEST / STEP), round(DEPTH / STEP) + 1), dtype=np.float64)
    log_p, thresholds = levels(DEPTH, LEVEL_STEP), []
    n = np.concatenate([part for part, _ in parts])
    rng = np.random.default_rng(seed)
    for part, draws in parts:
        above, squares = tail_sums(null, part, draws, values, rng)
        for row in upper_limits(above, squares, draws, values, doubt / (len(n) * len(values))):
            # The first value whose limit is at most the level; limits fall with the value.
            place = np.searchsorted(-row, -log_p, side="left")
            thresholds.append(np.where(place < len(values), values[np.minimum(place, len(values) - 1)], np.inf))
    return SurvivalTable.of(n, log_p, np.array(thresholds), STEP, identity(null))


def tail_sums(null: Null, n: Ints, draws: int, values: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Sums of w and of w squared over the documents with T at or above each value, f64[g, v] each."""
    shape = (len(n), len(values) + 1)
    sums = np.zeros((2, *shape))
    for start in range(0, draws, _BATCH):
        drawn = draw(null, n, min(_BATCH, draws - start), rng)
        weights = 2.0 * np.exp(-np.logaddexp(0.0, drawn))
        # Cell 0 is below the first value; cell i reaches value i - 1.
        cells = np.searchsorted(values, drawn, side="right") + np.arange(len(n)) * shape[1]
        for place, each in enumerate((weights, weights * weights)):
            sums[place] += np.bincount(cells.ravel(), weights=each.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    above, squares = np.cumsum(sums[:, :, :0:-1], axis=2)[:, :, ::-1]
    return above, squares


def draw(null: Null, n: Ints, draws: int, rng: np.random.Generator) -> Floats:
    """f64[draws, g] values of T at the first n items of documents drawn from D."""
    known, longest = experts(null), int(n[-1])
    at_once = max(1, _ITEMS // longest)
    starts = np.concatenate([[0], n[:-1]])
    found = []
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        scores = null.sample(count * longest, rng).reshape(count, longest)
        expert, share = rng.integers(0, len(known), count), np.array(SHARES)[rng.integers(0, len(SHARES), count)]
        marked = rng.random((count, longest)) < np.where(rng.random(count) < 0.5, share, 0.0)[:, None]
        for place, one in enumerate(known):
            chosen = marked & (expert == place)[:, None]
            scores[chosen] = one.sample(int(chosen.sum()), rng)
        # Row by row: all terms at once would not fit the processor's cache.
        rows = [np.add.reduceat(row.reshape(count, longest), starts, axis=1) for row in item_terms(null, scores.ravel())]
        logs = np.cumsum(rows, axis=2)
        found.append(mixture(logs.reshape(len(logs), -1)).reshape(count, len(n)))
    return np.concatenate(found)


def upper_limits(above: Floats, squares: Floats, draws: int, values: Floats, doubt: float) -> Floats:
    """f64[..., v] nonincreasing logs of upper limits of ``P0(T >= value)``, each too low with probability at most ``doubt``.

    Args:
        above, squares: f64[..., v] sums of w and its square, as from :func:`tail_sums`.
        draws: N.
        values: f64[v] ascending.
    """
    mean = above / draws
    variance = np.maximum(squares - draws * mean**2, 0.0) / (draws - 1)
    weight, most = math.log(2.0 / doubt), 2.0 / (1.0 + np.exp(values))
    limit = mean + np.sqrt(2.0 * variance * weight / draws) + 7.0 * most * weight / (3.0 * (draws - 1))
    return np.asarray(np.minimum.accumulate(np.minimum(np.log(limit), np.minimum(-values, 0.0)), axis=-1))
