"""How high the best segment of n null items gets: a proven bound and the sharp asymptotic law.

Scores s of items are independent with ``E0 e^s = 1`` (log likelihood ratios). ``S_k`` is their running sum and ``M`` the
largest sum over any interval of n items. Ville's inequality from every start gives ``P0(M >= x) <= n e^-x``. Two facts about
the walk sharpen it, and the bound stays proven:

1. Starts. ``W_k = max(0, W_{k-1} + s_k)`` is the largest sum over the intervals that end at k. If some ``W_k >= x > 0``, take
   the first, and the last i < k with ``W_i = 0``: the walk from i reaches x before it comes back to 0 or below. That event,
   of probability q(x), is independent of ``W_i``. Hence ``P0(M >= x) <= q(x) sum_{i<n} P0(W_i = 0)``, and reversing time,
   ``P0(W_i = 0) = P0(S_1 <= 0, ..., S_i <= 0) = u_i``, which falls with i.
2. Rises. Under the law P1 with density e^s the walk drifts upwards. ``q(x) = E1[e^-S_T; T < T_0] <= e^-x P1(T < T_0)``, with T
   the first time at x or above and T_0 at 0 or below. From x or above P1 gives a return to 0 at most e^-x (Ville for e^-S),
   so ``P1(S_k > 0 for all k) = v >= P1(T < T_0) (1 - e^-x)``. Hence ``q(x) <= v e^-x / (1 - e^-x)``.

Together ``P0(M >= x) <= v e^-x / (1 - e^-x) sum_{i<n} u_i``. Upper bounds of u_i and v suffice; they come from the exact laws
of finitely many steps (sums rounded down for u and up for v where the law is continuous), so that stopping early or a coarse
lattice costs power, never validity. Where items are only stochastically below the null law, M is too, since every score here
grows with its item: couple them item by item.

Letting x grow, with ``m = E1 s``: ``P0(M >= x) ~ 1 - exp(-K n e^-x)``, ``K = (u v)^2 / m`` (the limits of u and v; the
remaining factor ``u v / m`` is the mean of e^-overshoot). This law is asymptotic; near-lattice scores waver about it.

References:
    S. Karlin and S. Altschul, PNAS 87, 1990; S. Karlin and A. Dembo, Advances in Applied Probability 24, 1992; D. Siegmund,
    Sequential Analysis, 1985, chapter 8; F. Spitzer, Principles of Random Walk, 1964.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, singledispatch

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft, next_fast_len, rfft

from wmcheck.watermark.core.experts import BetaMixture, Expert, GreenShare, TiltMixture
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull

Floats = NDArray[np.float64]

# The walk is followed on a lattice of this many nats, down to DEPTH from its barrier and at most so many steps.
STEP, DEPTH, STEPS = 0.01, 25.0, 600
COIN_STEPS = 4096
# Following ends when so many steps change less than this share.
CHECKED, SETTLED = 32, 1e-5
# Room for rounding in some 1e5 additions of probabilities.
SLACK = 1e-9


@dataclass(frozen=True)
class Walk:
    """Constants of the walk of one expert's scores under one null law.

    Attributes:
        starts: f64[m + 1], upper bounds of ``u_0 + ... + u_{i-1}`` for i up to m; u_m serves for all later items.
        start: upper bound of u_m, the share of items at which the best segment may begin.
        rise: upper bound of v.
        growth: m = E1 s, nats an item that a segment gains; 0 where it is not known (no sharp law then).
    """

    starts: Floats
    start: float
    rise: float
    growth: float

    @property
    def k(self) -> float:
        """The constant K of the asymptotic law; 1 where it is not known."""
        both = self.start * self.rise
        # The overshoot is positive; where u and v have not settled their bounds must not say otherwise.
        return both * min(both / self.growth, 1.0) if self.growth > 0 else 1.0

    def least(self, log_p: float, n: int, *, sharp: bool = False) -> float:
        """A score below which no segment of n items has a p-value of exp(log_p) or less (sharp: by the asymptotic law)."""
        count = self.k * n if sharp else min(self._count(n) * self.rise, float(n))
        return max(math.log(max(count, 1e-300)) - log_p - (1e-9 if sharp else 0.0), 0.0)

    def _count(self, n: int) -> float:
        """Upper bound of the expected number of items at which the best segment may begin."""
        known = len(self.starts) - 1
        return float(self.starts[min(n, known)]) + max(n - known, 0) * self.start

    def log_bound(self, score: ArrayLike, n: int) -> Floats:
        """Natural log of the proven upper bound of P0(M >= score) over n items."""
        x = np.asarray(score, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            sharp = math.log(max(self._count(n) * self.rise, 1e-300)) - x - np.log(-np.expm1(-np.maximum(x, 1e-12)))
            plain = math.log(max(n, 1)) - x
        return np.where((x > 0) & (n > 0), np.minimum(np.minimum(sharp, plain), 0.0), 0.0)

    def log_sharp(self, score: ArrayLike, n: int) -> Floats:
        """Natural log of ``1 - exp(-K n e^-score)``: accurate for long texts and small p, and proven for none."""
        x = np.asarray(score, np.float64)
        expected = math.log(self.k * max(n, 1)) - x
        near = np.log(-np.expm1(-np.exp(np.clip(expected, -30.0, 30.0))))
        return np.where((x > 0) & (n > 0), np.where(expected < -30.0, expected, near), 0.0)


# Ville's inequality from every start, for laws about which nothing more is known.
PLAIN = Walk(np.zeros(1), 1.0, 1.0, 0.0)


@singledispatch
def walk(null: Null, expert: Expert) -> Walk:
    """The walk of ``expert.log_e`` over items of the law ``null``: Ville's bound alone where the law has no entry here."""
    return PLAIN


@walk.register
def _(null: BernoulliNull, expert: Expert) -> Walk:
    return _coin_walk(null, expert) if isinstance(expert, GreenShare) else PLAIN


@walk.register
def _(null: ExponentialNull, expert: Expert) -> Walk:
    return _exponential_walk(expert) if isinstance(expert, BetaMixture) else PLAIN


@walk.register
def _(null: WeightedBernoulliNull, expert: Expert) -> Walk:
    return _weighted_walk(null, expert) if isinstance(expert, TiltMixture) else PLAIN


@lru_cache(maxsize=256)
def _coin_walk(null: BernoulliNull, expert: GreenShare) -> Walk:
    """Two values, so that the number of greens after k steps tells the sum and nothing is rounded."""
    loss, gain = expert.log_e(np.array([0.0, 1.0]))
    p, q = null.mean(), expert.q
    share = -loss / (gain - loss)
    stays, inside = [1.0], np.ones(1)
    rises, rising = [1.0], np.ones(1)
    for k in range(1, COIN_STEPS + 1):
        # Counts of greens at which the sum is at most 0; a tie goes to the side that makes the bound larger.
        most = min(k, math.floor(k * share + SLACK))
        inside = (np.append(inside * (1.0 - p), 0.0) + np.append(0.0, inside * p))[: most + 1]
        stays.append(float(inside.sum()))
        least = max(0, math.floor(k * share - SLACK) + 1)
        rising = np.append(rising * (1.0 - q), 0.0) + np.append(0.0, rising * q)
        rising[:least] = 0.0
        rises.append(float(rising.sum()))
        if k % CHECKED == 0 and all(one[-CHECKED] - one[-1] < SETTLED * one[-1] for one in (stays, rises)):
            break
    return _made(np.array(stays), rises[-1], q * gain + (1.0 - q) * loss)


@lru_cache(maxsize=64)
def _exponential_walk(expert: BetaMixture) -> Walk:
    shares, powers = np.array(expert.shares) / sum(expert.shares), np.array(expert.powers)
    edges = np.linspace(0.0, 40.0, 40_001)
    scores = expert.log_e(edges)
    # Above the last edge the ratio has reached its limit, where every power of r is 1.
    top = float(np.log(shares @ powers))
    null_mass = np.append(-np.diff(np.exp(-edges)), math.exp(-edges[-1]))
    with np.errstate(divide="ignore"):
        log_r = np.log(-np.expm1(-edges))
    reached = np.exp(np.multiply.outer(log_r, powers)) @ shares
    expert_mass = np.append(np.diff(reached), 1.0 - reached[-1])
    return _lattice_walk(scores, np.append(scores[1:], top), null_mass, expert_mass)


@lru_cache(maxsize=64)
def _weighted_walk(null: WeightedBernoulliNull, expert: TiltMixture) -> Walk:
    mass = np.ones(1)
    for weight in null.weights:
        mass = np.convolve(mass, np.bincount([0, weight], weights=[1.0 - null.p, null.p]))
    scores = expert.log_e(np.arange(len(mass), dtype=np.float64))
    return _lattice_walk(scores, scores, mass, mass * np.exp(scores))


def _lattice_walk(low: Floats, high: Floats, null_mass: Floats, expert_mass: Floats) -> Walk:
    """The walk of scores that lie in [low, high] with the given masses under P0 and P1, one entry a cell."""
    stays = _stays(np.floor(low / STEP), null_mass)
    # A walk that stays above 0 is one that stays below 0, upside down; strictly, so one lattice point lower.
    rises = _stays(-np.ceil(high / STEP), expert_mass, strict=True)
    return _made(stays, float(rises[-1]), float((low * expert_mass).sum()))


def _stays(jumps: Floats, mass: Floats, *, strict: bool = False) -> Floats:
    """f64[m + 1]: upper bounds of the chance that k jumps never lead above 0 (strict: nor to 0), k from 0."""
    depth = round(DEPTH / STEP)
    place = np.clip(jumps, -depth, depth).astype(np.int64)
    law = np.bincount(place + depth, weights=mass, minlength=2 * depth + 1)
    size = next_fast_len(3 * depth + 1)
    spectrum = rfft(law, size)
    # inside[j] is the mass at -depth + j; what sinks below counts as never coming back.
    inside, sunk = np.zeros(depth + 1), 0.0
    inside[depth] = 1.0
    found = [1.0]
    for step in range(1, STEPS + 1):
        # Index i of the product is place i - 2 depth.
        moved = np.maximum(irfft(rfft(inside, size) * spectrum, size)[: 3 * depth + 1], 0.0)
        sunk += float(moved[:depth].sum())
        inside = moved[depth : 2 * depth + 1].copy()
        if strict:
            inside[depth] = 0.0
        found.append(float(inside.sum()) + sunk)
        if step % CHECKED == 0 and found[-CHECKED] - found[-1] < SETTLED * found[-1]:
            break
    return np.array(found)


def _made(stays: Floats, rise: float, growth: float) -> Walk:
    stays = np.minimum(np.minimum.accumulate(stays) + SLACK, 1.0)
    starts = np.concatenate([[0.0], np.cumsum(stays[:-1])])
    return Walk(starts, float(stays[-1]), min(rise + SLACK, 1.0), growth)
