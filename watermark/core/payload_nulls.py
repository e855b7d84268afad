"""Null laws where a text is searched for the payload that it carries, as upper bounds in log space.

Of ``choices`` payloads, whose scores may depend on each other in any way, the best one has
``P(some score >= s) <= choices * P(one score >= s)`` (Bonferroni). Where each place of a text belongs to one of several positions
and each position decodes to its largest count of colours, the law of the sum of these counts is known as well
(:func:`largest_counts_log_sf`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.tails import Floats, binomial_log_sf

# Up to this many items at one position no weight of the law of the largest count leaves the range of doubles.
MOST_AT_ONE_POSITION = 512
# Below this a tail that was summed in doubles may lack terms that underflowed.
_SUMMED_FLOOR = 1e-280


@dataclass(frozen=True)
class BestOf:
    """The best of several payloads, each with the null law ``inner``; one item is an item under one payload.

    Args:
        inner: the law of one payload.
        choices: how many payloads are tried.
    """

    inner: Null
    choices: int

    def __post_init__(self) -> None:
        if self.choices < 1:
            raise ValueError(f"need one payload or more, got {self.choices}")

    @property
    def name(self) -> str:
        return f"best of {self.choices} payloads, each {self.inner.name}"

    def reduce(self, scores: Floats) -> Floats:
        return self.inner.reduce(scores)

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        """Of the best total; see :class:`Null`."""
        one = self.inner.log_sf(totals, n)
        return np.where(np.asarray(n) == 0, 0.0, np.minimum(one + math.log(self.choices), 0.0))

    def mean(self) -> float:
        return self.inner.mean()

    def variance(self) -> float:
        return self.inner.variance()

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return self.inner.sample(n, rng)

    def describe(self, n: int) -> str:
        return f"{self.inner.describe(n)}, times {self.choices} payloads (Bonferroni)"


@dataclass(frozen=True)
class LargestCounts(BestOf):
    """The sum over positions of the largest of ``colours`` counts: the best of ``colours ** positions`` messages."""

    colours: int = 2
    positions: int = 1

    def describe(self, n: int) -> str:
        return (
            f"sum of the largest of {self.colours} colour counts at each of {self.positions} positions (n={n}), multinomial, or "
            f"Bonferroni over {self.colours}^{self.positions} messages"
        )


def largest_counts_log_sf(total: int, counts: ArrayLike, colours: int, shares: Floats) -> float:
    """Natural log of a bound of P(sum over positions of the largest colour count >= total).

    The smaller of two bounds on the same tail:

    - Each item has each colour with conditional probability at most ``shares[i]`` given the items before it, so the law of all
      colours is at most ``prod(colours * shares)`` times that of independent uniform colours, under which the counts at a
      position are multinomial and positions are independent: an exact tail, times that factor.
    - For one message the number of items of its colours is stochastically below a sum of independent coins of probabilities
      ``shares``, whose tail is at most the binomial of their mean from one above the mean on (Hoeffding 1956, theorem 4);
      Bonferroni over the messages.

    Args:
        total: the sum.
        counts: items at each position.
        colours: number of colours.
        shares: bounds in [1 / colours, 1], one an item, for every colour alike.

    References:
        B. Levin, "A representation for multinomial cumulative distribution functions", 1981 (Poisson weights); W. Hoeffding,
        "On the distribution of the number of successes in independent trials", 1956.
    """
    held = np.asarray(counts, np.int64)
    held = held[held > 0]
    n = int(held.sum())
    if n != len(shares) or not 0 <= total <= n:
        raise ValueError("largest counts: the total, the counts and the shares disagree")
    if n == 0:
        return 0.0
    bound = 0.0
    # Rounded up: the tail grows with the share.
    mean = min(float(np.mean(shares)) * (1.0 + 1e-13), 1.0)
    if total >= n * mean + 1.0:
        bound = float(binomial_log_sf(total, n, mean)) + len(held) * math.log(colours)
    if int(held.max()) <= MOST_AT_ONE_POSITION:
        law = np.ones(1)
        for count in np.sort(held):
            law = np.convolve(law, largest_count_law(int(count), colours))
        tail = float(law[total:].sum())
        if tail > _SUMMED_FLOOR:
            bound = min(bound, math.log(tail) + max(float(np.log(colours * shares).sum()), 0.0))
    return min(bound, 0.0)


@lru_cache(maxsize=4096)
def largest_count_law(n: int, colours: int) -> NDArray[np.float64]:
    """Probabilities of 0 to n as the largest count of n items that are thrown into ``colours`` equally likely colours.

    With Poisson counts given their sum: ``j`` colours have ``m`` items and the others fewer. Sums of positive terms, so that
    small probabilities are as accurate as large ones.

    Args:
        n: 0 to :data:`MOST_AT_ONE_POSITION`.
        colours: 2 or more.
    """
    if not 0 <= n <= MOST_AT_ONE_POSITION:
        raise ValueError(f"largest count: {n} items at one position")
    law = np.zeros(n + 1)
    if n == 0:
        law[0] = 1.0
        return law
    ids = np.arange(n + 1)
    weights = np.exp(ids * math.log(n / colours) - n / colours - gammaln(ids + 1.0))
    whole = float(np.exp(n * math.log(n) - n - gammaln(n + 1.0)))
    for most in range(-(-n // colours), n + 1):
        fewer, below = weights[:most], np.ones(1)
        # below[s]: weight of the colours left with s items, each of them with fewer than `most`.
        powers = [below]
        for _ in range(colours - 1):
            below = np.convolve(below, fewer[: n - most + 1])[: n - most + 1]
            powers.append(below)
        for full in range(1, min(colours, n // most) + 1):
            rest, left = powers[colours - full], n - full * most
            if left < len(rest):
                law[most] += math.comb(colours, full) * weights[most] ** full * rest[left]
    law /= whole
    law.setflags(write=False)
    return law
