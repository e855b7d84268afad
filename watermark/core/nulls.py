"""Null laws: what the score of one item looks like when the text is independent of the key, and exact tails of sums.

An item is one distinct (effective seed, token) pair; items are independent under the null, so the sum over n of them
has the tail given here, exactly or as a proven upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.lattice import weighted_bernoulli_log_sf_many
from wmcheck.watermark.core.tails import Floats, binomial_log_sf, gamma_log_sf

Ints = NDArray[np.int64]

_WHOLE = 1e-6  # a sum of whole numbers further than this from a whole number was not computed from this law's scores


class Null(Protocol):
    """The exact law of one item's score when the text is independent of the key."""

    @property
    def name(self) -> str:
        """The law of one item, as printed in a report."""
        ...

    def reduce(self, scores: Floats) -> Floats:
        """One number an item from its scores, f64[n] or f64[n, d]; refuses scores this law cannot produce."""
        ...

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        """Natural log of P(sum of n reduced items >= total): exact or a proven upper bound; 0.0 where n is 0."""
        ...

    def mean(self) -> float:
        """Mean of one reduced item."""
        ...

    def variance(self) -> float:
        """Variance of one reduced item."""
        ...

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """n independent reduced items."""
        ...

    def describe(self, n: int) -> str:
        """The law of the sum of n items, as printed in a report."""
        ...


@dataclass(frozen=True)
class BernoulliNull:
    """One item is 1 with probability ``numerator / denominator``, else 0: a red/green list of known share.

    The sum over n items is binomial.

    References:
        Kirchenbauer et al., "A watermark for large language models", 2023, section 3.
    """

    numerator: int
    denominator: int

    def __post_init__(self) -> None:
        if not 0 < self.numerator < self.denominator:
            raise ValueError(f"need 0 < numerator < denominator, got {self.numerator}/{self.denominator}")

    @property
    def name(self) -> str:
        return f"Bernoulli({self.numerator}/{self.denominator})"

    def reduce(self, scores: Floats) -> Floats:
        return _zeros_and_ones(scores, 1)

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        totals, n = _sums(totals, n)
        return np.where(n == 0, 0.0, binomial_log_sf(_whole(totals), n, self._upper_p()))

    def mean(self) -> float:
        return self.numerator / self.denominator

    def variance(self) -> float:
        return self.mean() * (1.0 - self.mean())

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return (rng.integers(0, self.denominator, n) < self.numerator).astype(np.float64)

    def describe(self, n: int) -> str:
        return f"Binomial(n={n}, p={_decimal(self.numerator, self.denominator)})"

    def _upper_p(self) -> float:
        """The share as a double, rounded up: the tail grows with p, so the bound stays a bound."""
        p = self.numerator / self.denominator
        exact = Fraction(self.numerator, self.denominator)
        return p if Fraction(p) >= exact else float(np.nextafter(p, 1.0))


@dataclass(frozen=True)
class ExponentialNull:
    """One item is Exp(1), such as ``-log(1 - r)`` with r uniform: the Gumbel-max score.

    The sum over n items is Gamma(n, 1).

    Args:
        bound: False where scores are exactly Exp(1). True where they are only stochastically below Exp(1), as with
            uniforms of finitely many bits rounded down: the sum is then stochastically below Gamma(n, 1), whose tail
            is a proven upper bound.
        excess: scores are stochastically below Exp(1) plus this many nats, as with uniforms rounded up; ``reduce`` takes it off.

    References:
        S. Aaronson, "Watermarking of large language models", 2023; M. Shaked and J. Shanthikumar, Stochastic Orders,
        theorem 1.A.3 (sums keep the order).
    """

    bound: bool
    excess: float = 0.0

    @property
    def name(self) -> str:
        return "at most Exponential(1)" if self.bound else "Exponential(1)"

    def reduce(self, scores: Floats) -> Floats:
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 1 or not np.all(np.isfinite(scores)) or np.any(scores < 0):
            raise ValueError("exponential null: scores must be one row of finite numbers, 0 or more")
        return np.maximum(scores - self.excess, 0.0) if self.excess else scores

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        totals, n = _sums(totals, n)
        return np.where(n == 0, 0.0, gamma_log_sf(totals, n))

    def mean(self) -> float:
        return 1.0

    def variance(self) -> float:
        return 1.0

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.exponential(size=n)

    def describe(self, n: int) -> str:
        return f"Gamma({n}, 1), as an upper bound" if self.bound else f"Gamma({n}, 1)"


@dataclass(frozen=True)
class WeightedBernoulliNull:
    """One item is d independent bits, each 1 with probability p, summed with whole-number weights: tournament layers.

    References:
        Dathathri et al., "Scalable watermarking for identifying large language model outputs", Nature 634, 2024,
        weighted mean score; the tail as in `wmcheck.watermark.core.lattice`.
    """

    weights: tuple[int, ...]
    p: float = 0.5

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights) < 1 or not 0.0 < self.p < 1.0:
            raise ValueError(f"need weights of 1 or more and 0 < p < 1, got {self.weights} and {self.p}")

    @property
    def name(self) -> str:
        return f"weighted Bernoulli sum ({self._layers()}, p={self.p:g})"

    def reduce(self, scores: Floats) -> Floats:
        bits = _zeros_and_ones(scores, 2)
        if bits.shape[1] != len(self.weights):
            raise ValueError(f"expected {len(self.weights)} bits an item, got {bits.shape[1]}")
        return bits @ np.asarray(self.weights, dtype=np.float64)

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        totals, n = _sums(totals, n)
        totals = np.clip(_whole(totals), 0.0, n * sum(self.weights) + 1.0)
        if len(set(self.weights)) == 1:
            bits = np.where(n == 0, 0.0, np.ceil(totals / self.weights[0]))
            return binomial_log_sf(bits, n * len(self.weights), self.p)
        return weighted_bernoulli_log_sf_many(totals.astype(np.int64), n.astype(np.int64), self.weights, self.p)

    def mean(self) -> float:
        return self.p * sum(self.weights)

    def variance(self) -> float:
        return self.p * (1.0 - self.p) * sum(weight * weight for weight in self.weights)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        bits = (rng.random((n, len(self.weights))) < self.p).astype(np.float64)
        return bits @ np.asarray(self.weights, dtype=np.float64)

    def describe(self, n: int) -> str:
        return f"weighted Bernoulli sum (n={n}, {self._layers()}, p={self.p:g})"

    def _layers(self) -> str:
        low, high = min(self.weights), max(self.weights)
        return f"{len(self.weights)} layers, weights {f'{low} to {high}' if low < high else low}"


def _zeros_and_ones(scores: Floats, ndim: int) -> Floats:
    scores = np.asarray(scores)
    unsigned = scores.dtype.kind in "bu" and scores.max(initial=0) <= 1
    if scores.ndim != ndim or not (unsigned or np.all((scores == 0.0) | (scores == 1.0))):
        raise ValueError(f"Bernoulli null: scores must be 0 or 1 in an array of {ndim} dimension(s)")
    return scores.astype(np.float64, copy=False)


def _sums(totals: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Totals and counts in one shape; an infinite or missing total is a fault upstream and must not become evidence."""
    totals, n = np.broadcast_arrays(np.asarray(totals, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not np.all(np.isfinite(totals)) or not np.all(np.isfinite(n)):
        raise ValueError("null: totals and numbers of items must be finite")
    if np.any(n < 0) or np.any(n != np.rint(n)):
        raise ValueError("null: numbers of items must be whole and 0 or more")
    return totals, n


def _whole(totals: Floats) -> Floats:
    rounded = np.rint(totals)
    if np.any(np.abs(totals - rounded) > _WHOLE):
        raise ValueError("null: a sum of whole-number scores must be a whole number")
    return rounded


def _decimal(numerator: int, denominator: int) -> str:
    """The share in full when it is a short decimal, else as a fraction."""
    p = numerator / denominator
    return f"{p:g}" if Fraction(f"{p:g}") == Fraction(numerator, denominator) else f"{numerator}/{denominator}"
