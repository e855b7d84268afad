"""Few marked items among many: the likelihood ratio of a mixture of shares and experts.

With ``e_a`` the e-value of one item under expert a, the statistic is

    T = log mean over a and eps in {0.03, 0.1, 0.3, 1} of  prod_i (1 - eps + eps e_a(score_i)).

Text that was edited or mixed with other text leaves a share eps of its items marked; the sum of scores spreads that evidence over
the noise of all of them, T looks for it in the largest.

T is the log of an e-value: each factor has null mean at most 1, items are independent, so each product has mean at most 1, and so
has their average. Hence ``P(T >= t) <= e^-t`` (Markov), which is the p-value where nothing sharper is known. Every e-value grows
with the score, and so does T: under scores that are only stochastically below the null law, T is stochastically below its own
law, and a bound of its tail stays one.

References:
    D. Donoho and J. Jin, "Higher criticism for detecting sparse heterogeneous mixtures", 2004 (the problem); X. Li et al.,
    "Robust detection of watermarks for large language models under human edits", 2024 (edits as a sparse mixture).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull
from wmcheck.watermark.core.statistics import Evidence, Sample
from wmcheck.watermark.core.survival import SurvivalTable, places, shipped

Floats = NDArray[np.float64]

SHARES = (0.03, 0.1, 0.3, 1.0)
# Shipped tables: of exponential scores, and of the default tournament's.
TABLES = ("sparse_exponential", "sparse_layers")
# Chance that any of a table's thousands of limits is too low.
DOUBT = 1e-6
# Scores by which a table and the experts it was made for are compared.
PROBES = 24
_CHUNK = 1 << 15


class Sparse:
    """The mixture of shares and experts; ``log_e`` is T, the p-value is of T.

    For red/green items T grows with the green count and depends on nothing else, so the p-value is the exact tail of the count.
    For other laws with a shipped table it comes from there, or is ``e^-T`` where that is smaller; else ``e^-T``.
    """

    name: ClassVar[str] = "sparse"
    needs_model: ClassVar[bool] = False

    def unfit(self, null: Null) -> str:
        return "" if experts(null) else "no alternative to this law of scores is known"

    def evaluate(self, sample: Sample) -> Evidence:
        null, n = sample.null, sample.counts()
        if isinstance(null, BernoulliNull):
            found = mixture(sums(sample, n)[1])
            return Evidence(found, n, null.log_sf(sample.sums(sample.scores), n), found)
        table = table_of(null)
        head, whole = sums(sample, n if table is None else np.where(n > table.n[-1], n, table.heads(n)))
        found = np.where(n > 0, mixture(whole), 0.0)
        log_p = np.where(n > 0, -mixture(head), 0.0)
        if table is not None:
            rows = np.where(n > table.n[-1], -1, table.rows(n))
            log_p = np.minimum(log_p, table.log_sf(rows, -log_p))
        return Evidence(found, n, np.minimum(log_p, 0.0), found)

    def describe(self, null: Null, n: int) -> str:
        several = f"likelihood ratio of {len(SHARES) * len(experts(null))} sparse alternatives"
        if isinstance(null, BernoulliNull):
            return f"{several}, which grows with the count: {null.describe(n)}"
        table = table_of(null)
        if table is None or n > table.n[-1] or n == 0:
            return f"{several} to {n} items, each {null.name}: 1/e bound"
        return (
            f"{several} to the first {int(table.heads(np.array([n]))[0])} of {n} items, each {null.name}: Monte Carlo table, "
            f"upper limits that hold together at confidence 1 - {DOUBT:g}, and never above 1/e"
        )


def terms(null: Null, scores: Floats) -> Iterator[Floats]:
    """f64[n] ``log(1 - eps + eps e_a)`` of each item, for each pair of expert and share."""
    with np.errstate(divide="ignore"):
        for expert in experts(null):
            gain = np.expm1(expert.log_e(scores))
            for share in SHARES:
                yield np.log1p(share * gain)


def item_terms(null: Null, scores: Floats) -> Iterator[Floats]:
    """:func:`terms`, looked up where the law has few values."""
    if isinstance(null, (BernoulliNull, WeightedBernoulliNull)) and _most(null) <= _CHUNK:
        place = np.rint(scores).astype(np.int64)
        return (row[place] for row in _values(null))
    return terms(null, scores)


@lru_cache(maxsize=64)
def _values(null: BernoulliNull | WeightedBernoulliNull) -> Floats:
    return np.array(list(terms(null, np.arange(_most(null) + 1.0))))


def _most(null: BernoulliNull | WeightedBernoulliNull) -> int:
    return 1 if isinstance(null, BernoulliNull) else sum(null.weights)


def sums(sample: Sample, heads: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Sums of the terms over the first ``heads`` items of each document and over all of them, f64[k, m] each."""
    rows = len(experts(sample.null)) * len(SHARES)
    found = np.zeros((rows, 2, sample.documents))
    late = places(sample.document, sample.counts()) >= heads[sample.document]
    for start in range(0, len(sample.scores), _CHUNK):
        part = slice(start, start + _CHUNK)
        first, count = int(sample.document[part][0]), int(np.ptp(sample.document[part])) + 1
        place = (sample.document[part] - first) + count * late[part]
        for row, values in enumerate(item_terms(sample.null, sample.scores[part])):
            added = np.bincount(place, weights=values, minlength=2 * count).reshape(2, count)
            found[row, :, first : first + count] += added
    return found[:, 0], found.sum(1)


def mixture(logs: Floats) -> Floats:
    """f64[m] log of the mean of products, from logs of them f64[k, m]."""
    return np.asarray(logsumexp(logs, axis=0) - math.log(len(logs)), dtype=np.float64)


def table_of(null: Null) -> SurvivalTable | None:
    """The shipped table of this law and its experts; None if there is none, or if the experts are others by now."""
    if isinstance(null, ExponentialNull):
        return _checked(TABLES[0], ExponentialNull(bound=False))
    if isinstance(null, WeightedBernoulliNull):
        return _checked(TABLES[1], null)
    return None


def identity(null: Null) -> Floats:
    """f64[j] numbers that tell a law with its experts from others: parameters, and terms at scores fixed in advance."""
    law = [null.mean(), null.variance(), null.mean() ** 2 + null.variance()]
    if isinstance(null, WeightedBernoulliNull):
        law += [null.p, *map(float, null.weights)]
    probes = np.rint(null.mean() * np.linspace(0.0, 2.0, PROBES))
    if isinstance(null, ExponentialNull):
        probes = np.linspace(0.0, 16.0, PROBES)
    return np.concatenate([law, *terms(null, probes)])


@lru_cache(maxsize=64)
def _checked(name: str, null: ExponentialNull | WeightedBernoulliNull) -> SurvivalTable | None:
    table, own = shipped(name), identity(null)
    same = table.identity.shape == own.shape and np.allclose(table.identity, own, rtol=1e-9, atol=1e-12)
    return table if same else None
