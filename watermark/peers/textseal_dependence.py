"""How far sums of TextSeal scores stray from those of independent items, measured for one text over random keys.

A token's hash is ``f(C (A + q k))`` mod 2^64: ``A`` is a public linear form of window and token, ``k`` the key, ``C`` and ``q``
are odd constants. Under a key that is uniform mod 2^64 all items of a text therefore read one uniform number ``X`` at known
distances, ``f(X + C A_i)``. Each item is uniform by itself, but pairs correlate by up to 0.3, as their distance happens to lie:
the law of the sum depends on the text and has no closed form. It is drawn here: sums under random ``X`` are exact draws from it,
and the rank of the sum under test among them is an exact p-value. Further out the tail is a Gamma law with a shift (Pearson's
type III) whose variance and third moment are the measured ones, at an upper limit and never below those of independent items.
That part is measured, not proven.

References:
    K. Pearson, "Contributions to the mathematical theory of evolution II", 1895 (the fitted law); E. Pitman, "Significance tests
    which may be applied to samples from any populations", 1937 (ranks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.tails import Floats, gamma_log_sf
from wmcheck.watermark.prf import U64

MODULUS = 8191
# -log(1 - u) of the uniforms u = h / 8191.
SCORES = -np.log1p(-np.arange(MODULUS) / MODULUS)
# Standard errors that the moments of a sample of keys are raised by.
RAISED = 2.0
# Hashes a text may cost before it gets fewer random keys than asked for, and the fewest.
WORK = 1 << 28
FEWEST = 2048
_BLOCK = 1 << 16


def hashes(points: U64) -> NDArray[np.int64]:
    """The last steps of the hash: ``x ^ (x >> 13)`` of the signed number, modulo 8191."""
    signed = points.view(np.int64)
    return np.asarray((signed ^ (signed >> 13)) % MODULUS)


def random_sums(
    points: U64, weights: tuple[float, ...], offsets: tuple[int, ...], keys: int, rng: np.random.Generator
) -> Floats:
    """f64[keys]: sums of the items' fused scores under random keys.

    Args:
        points: u64[n], ``C A`` of each item.
        weights: of the keys that each item is scored under.
        offsets: what each of those keys adds to ``points``, relative to the first.
        keys: number of draws.
        rng: what draws them.
    """
    uniform = rng.integers(0, 1 << 64, keys, dtype=np.uint64)
    found = np.zeros(keys)
    step = max(1, min(len(points), _BLOCK))
    rows = max(1, _BLOCK // step)
    with np.errstate(over="ignore"):
        for start in range(0, keys, rows):
            base = uniform[start : start + rows, None]
            for first in range(0, len(points), step):
                here = base + points[None, first : first + step]
                for weight, offset in zip(weights, offsets, strict=True):
                    found[start : start + rows] += weight * SCORES[hashes(here + np.uint64(offset))].sum(1)
    return found


@dataclass(frozen=True)
class Widened:
    """The law of sums of one text's items, measured under random keys.

    Args:
        base: the law of one item, as if items were independent.
        sums: f64[B] sums under random keys.
        n: number of items.
        third: third central moment of one independent item.
    """

    base: Null
    sums: Floats
    n: int
    third: float

    def log_rank(self, total: float) -> float:
        """Natural log of the rank of ``total`` among the sums: exact for a key that is uniform, at least ``1 / (B + 1)``."""
        return math.log((1 + self._above(total)) / (1 + len(self.sums)))

    def log_sf(self, total: float) -> float:
        """Natural log of P(sum >= total): the largest of the tail of independent items, the fitted tail and, where some random
        key scores as high, the rank."""
        plain = float(self.base.log_sf(np.array([total]), np.array([self.n]))[0])
        ranked = self.log_rank(total) if self._above(total) else -math.inf
        return min(0.0, max(plain, self._fitted(total), ranked))

    def moments(self) -> tuple[float, float]:
        """Variance and third central moment of the sum at their upper limits."""
        centred = self.sums - self.n * float(SCORES.mean()) * self.base.mean()
        limits = []
        for power, least in ((2, self.n * self.base.variance()), (3, self.n * self.third)):
            raised = centred**power
            limits.append(max(least, float(raised.mean() + RAISED * raised.std() / math.sqrt(len(raised)))))
        return limits[0], limits[1]

    def _fitted(self, total: float) -> float:
        variance, third = self.moments()
        scale, shift = third / (2.0 * variance), self.n * self.base.mean() - 2.0 * variance * variance / third
        return float(gamma_log_sf((total - shift) / scale, 4.0 * variance**3 / third**2))

    def _above(self, total: float) -> int:
        # Sums of the same scores in another order differ in their last bits.
        return int(np.count_nonzero(self.sums >= total - 1e-9 * max(total, 1.0)))


@dataclass(frozen=True)
class MeasuredNull:
    """The law of one item for plans and reports; p-values come from :class:`Widened`.

    Args:
        base: the law as if items were independent.
        keys: number of random keys.
        rank: the p-value is the rank among them and nothing below.
    """

    base: Null
    keys: int
    rank: bool

    @property
    def name(self) -> str:
        return f"{self.base.name}, items dependent"

    def reduce(self, scores: Floats) -> Floats:
        return self.base.reduce(scores)

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        found = self.base.log_sf(totals, n)
        return np.maximum(found, -math.log(self.keys + 1)) if self.rank else found

    def mean(self) -> float:
        return self.base.mean()

    def variance(self) -> float:
        return self.base.variance()

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return self.base.sample(n, rng)

    def describe(self, n: int) -> str:
        if self.rank:
            return f"rank among {self.keys:,} random keys (n={n})"
        return f"{self.base.describe(n)}, widened by dependence measured under random keys (not proven)"
