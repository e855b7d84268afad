"""Null laws of red/green lists of an exact size: ``green`` of ``vocabulary`` ids, not a coin for each id.

- :class:`FixedListNull`: every effective seed has its own list, and items are distinct (seed, id) pairs.
- :class:`HypergeometricNull`: one list for all, and items are distinct ids.

References:
    W. Hoeffding, "On the distribution of the number of successes in independent trials", Ann. Math. Stat. 27, 1956, theorem 4;
    V. A. Vatutin and V. G. Mikhailov, "Limit theorems for the number of empty cells", Theory Probab. Appl. 27, 1982
    (a hypergeometric variable is a sum of independent indicators); C. Loader, "Fast and accurate computation of binomial
    probabilities", 2000 (the hypergeometric probability as three binomial ones).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.nulls import _sums, _whole, _zeros_and_ones
from wmcheck.watermark.core.tails import Floats, binomial_log_sf, deviance, stirling_error

_LOG_2PI = math.log(2.0 * math.pi)
_SMALL = 1e-18


@dataclass(frozen=True)
class _List:
    green: int
    vocabulary: int

    def __post_init__(self) -> None:
        if not 0 < self.green < self.vocabulary:
            raise ValueError(f"need 0 < green < vocabulary, got {self.green}/{self.vocabulary}")

    def reduce(self, scores: Floats) -> Floats:
        return _zeros_and_ones(scores, 1)

    def mean(self) -> float:
        return self.green / self.vocabulary

    def variance(self) -> float:
        return self.mean() * (1.0 - self.mean())


@dataclass(frozen=True)
class FixedListNull(_List):
    """One item is 1 where its id is on the list of its seed: ``green`` of ``vocabulary`` ids, drawn for each seed.

    A seed with m distinct ids has Hypergeometric(vocabulary, green, m) green ones, which is a sum of m independent indicators;
    so the sum S over n items is one of n independent indicators with mean n q, q = green / vocabulary. Hoeffding's theorem
    gives P(S >= t) <= P(Bin(n, q) >= t) for whole t >= n q + 1. Below that log p is 0. With one id a seed the bound is exact.
    """

    @property
    def name(self) -> str:
        return f"{self.green} of {self.vocabulary} ids"

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        totals, n = _sums(totals, n)
        totals = _whole(totals)
        proven = (totals - 1.0) * self.vocabulary >= n * self.green
        bound = binomial_log_sf(np.where(proven, totals, 0.0), n, self._upper_p())
        return np.where((n == 0) | ~proven, 0.0, bound)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return (rng.integers(0, self.vocabulary, n) < self.green).astype(np.float64)

    def describe(self, n: int) -> str:
        return f"at most Binomial(n={n}, p={self.green}/{self.vocabulary}), from one above the mean on"

    def _upper_p(self) -> float:
        """The share as a double, rounded up: the tail grows with p, so the bound stays a bound."""
        share = self.green / self.vocabulary
        return share if Fraction(share) >= Fraction(self.green, self.vocabulary) else float(np.nextafter(share, 1.0))


@dataclass(frozen=True)
class HypergeometricNull(_List):
    """One item is 1 where its id is on the one list of ``green`` of ``vocabulary`` ids; ids are distinct.

    The sum over n items is hypergeometric. Where n exceeds the vocabulary, some ids are outside of it and never on the list: the
    law of n = vocabulary is then a bound, as that of a larger n always is.
    """

    @property
    def name(self) -> str:
        return f"one list of {self.green} of {self.vocabulary} ids"

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        totals, n = _sums(totals, n)
        shape = totals.shape
        totals, n = _whole(totals).ravel(), np.minimum(n, float(self.vocabulary)).ravel()
        least = np.maximum(0.0, n - (self.vocabulary - self.green))
        out = np.zeros(len(totals))
        out[totals > np.minimum(n, float(self.green))] = -np.inf
        inside = (totals > least) & np.isfinite(out)
        out[inside] = self._tail(totals[inside], n[inside])
        return np.where(n == 0, 0.0, out).reshape(shape)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Distinct ids in a random order; over again with another list after ``vocabulary`` of them."""
        one = (np.arange(self.vocabulary) < self.green).astype(np.float64)
        lists = [rng.permutation(one) for _ in range(max(1, -(-n // self.vocabulary)))]
        return np.concatenate(lists)[:n]

    def describe(self, n: int) -> str:
        return f"Hypergeometric({self.vocabulary} ids, {self.green} green, n={n})"

    def _tail(self, k: Floats, n: Floats) -> Floats:
        """Log P(X >= k) for thresholds inside the support: summed upwards above the mean, the complement below it."""
        above = k * self.vocabulary > n * self.green
        start = np.where(above, k, k - 1.0)
        total = self._log_mass(start, n) + np.log(self._series(start, n, above))
        with np.errstate(divide="ignore"):
            return np.where(above, np.minimum(total, 0.0), np.log1p(-np.minimum(np.exp(np.minimum(total, 0.0)), 1.0)))

    def _log_mass(self, k: Floats, n: Floats) -> Floats:
        share = n / self.vocabulary
        green, red = np.full_like(k, self.green), np.full_like(k, self.vocabulary - self.green)
        # Expected counts from whole numbers: share * green loses the digits that a deviance near 0 needs.
        mass = _log_binomial(k, green, share, (k * self.vocabulary - n * self.green) / self.vocabulary)
        mass += _log_binomial(n - k, red, share, ((n - k) * self.vocabulary - n * red) / self.vocabulary)
        return np.asarray(mass - _log_binomial(n, np.full_like(k, self.vocabulary), share, np.zeros_like(k)))

    def _series(self, k: Floats, n: Floats, upward: NDArray[np.bool_]) -> Floats:
        """Sum of the probabilities from k on, over that of k; the terms fall from the start, as k is on its side of the mean."""
        out, left = np.ones_like(k), np.arange(len(k))
        term, place, rest = np.ones_like(k), k.copy(), self.vocabulary - self.green
        while len(left):
            up, count = upward[left], n[left]
            rising = (self.green - place) * (count - place) / ((place + 1.0) * (rest - count + place + 1.0))
            falling = place * (rest - count + place) / ((self.green - place + 1.0) * (count - place + 1.0))
            term = term * np.where(up, rising, falling)
            place = place + np.where(up, 1.0, -1.0)
            out[left] += term
            going = term > _SMALL * out[left]
            left, term, place = left[going], term[going], place[going]
        return out


def _log_binomial(k: Floats, n: Floats, p: Floats, difference: Floats) -> Floats:
    """Log probability of k successes of n (Loader 2000); ``difference`` is ``k - n p``."""
    inside = (k > 0) & (k < n) & (p > 0) & (p < 1)
    some, rest = np.where(inside, k, 1.0), np.where(inside, n - k, 1.0)
    size, share = np.where(inside, n, 2.0), np.where(inside, p, 0.5)
    gap = np.where(inside, difference, 0.0)
    usual = (
        stirling_error(size) - stirling_error(some) - stirling_error(rest) - deviance(some, size * share, gap)
        - deviance(rest, size * (1.0 - share), -gap) + 0.5 * (np.log(size / (some * rest)) - _LOG_2PI)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        none, all_ = n * np.log1p(-p), n * np.log(p)
    edge = np.where((k == 0) & (p > 0), np.where(n > 0, none, 0.0), np.where((k == n) & (p < 1), all_, 0.0))
    return np.asarray(np.where(inside, usual, edge))
