"""Planning arithmetic: what a watermark scores on tokens drawn from given next-token laws, and how much is enough.

Everything here takes the keyed function's outputs as ideal uniforms, so no key is needed. A law is a row of probabilities;
which token each belongs to is of no interest. Long laws are shortened: the likeliest tokens as they are, the rest as a few
equal ones (:func:`shorten`), which understates entropy a little and so errs towards more tokens needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, ndtri, polygamma

from wmcheck.watermark.core.nulls import Null

Floats = NDArray[np.float64]
Masses = NDArray[np.float32]
Draw = Callable[[Masses, np.random.Generator], Floats]

TOP = 192
TAIL = 64
# Laws are cut where less than this is left; what is cut off goes to the others in proportion.
SPARE = 1e-4
DUST = 1e-6
CELLS = 1 << 20
SYNTHETIC_VOCABULARY = 1000
# Up to this many items every threshold is computed, above they are interpolated.
EXACT_COUNTS = 40


def shorten(likeliest: ArrayLike, rest: ArrayLike) -> Masses:
    """f32[n, k + 64] rows that sum to 1.

    Args:
        likeliest: [n, k] the largest probabilities of each law, falling.
        rest: [n] probability of all other tokens, which become 64 equal ones.
    """
    top, left = np.asarray(likeliest, np.float32), np.asarray(rest, np.float32)
    # What rounding leaves of a sum of 1 is no token.
    left = np.where(left > DUST, left, np.float32(0.0))
    rows = np.concatenate([top, np.repeat(left[:, None] / TAIL, TAIL, axis=1)], axis=1)
    return np.asarray(rows / rows.sum(1, keepdims=True), np.float32)


def gumbel_mean(p: ArrayLike) -> Floats:
    """Mean score ``-log(1 - r)`` of a Gumbel-max token of probability p: ``psi(1 + 1/p) + gamma`` (Aaronson 2022).

    The pivot r is Beta(1/p, 1), so 1 - r is Beta(1, 1/p) and the mean is that of minus its logarithm.
    """
    return np.asarray(digamma(1.0 + 1.0 / np.asarray(p, np.float64)) - digamma(1.0))


def gumbel_variance(p: ArrayLike) -> Floats:
    """Variance of the same score: ``psi'(1) - psi'(1 + 1/p)``."""
    return np.asarray(polygamma(1, 1.0) - polygamma(1, 1.0 + 1.0 / np.asarray(p, np.float64)))


def green_share(masses: ArrayLike, gamma: float, delta: float, nodes: int = 400) -> Floats:
    """Probability that a red/green token is green, over colours and token: f64[n].

    With ``Z = sum P_v e^(delta c_v)`` it is ``1 - (1 - gamma) sum_w P_w E[1 / (P_w + Z_w)]``, Z_w the sum without w, and
    ``E[1/Z] = integral of E[e^(-tZ)] dt`` is a product over tokens. The midpoint rule in log t; its error is below 1e-6.

    References:
        Kirchenbauer et al., "A watermark for large language models", 2023, section 3 (the sampling rule).
    """
    law, log_t = np.asarray(masses, np.float64), np.linspace(-14.0, 9.0, nodes)
    red = np.zeros(len(law))
    for t, step in zip(np.exp(log_t), np.gradient(log_t), strict=True):
        factor = np.logaddexp(math.log(gamma) - t * law * math.exp(delta), math.log1p(-gamma) - t * law)
        others = factor.sum(1, keepdims=True) - factor
        red += step * t * (law * np.exp(-t * law + others)).sum(1)
    return np.asarray(1.0 - (1.0 - gamma) * red)


def first_layer_mean(masses: ArrayLike) -> Floats:
    """Mean bit of a token after one tournament layer: ``1/2 + (1 - sum P^2) / 4``, f64[n] (Dathathri et al. 2024).

    Two candidates w, w' are drawn from P and the larger bit wins: 3/4 where they differ as tokens, 1/2 where not.
    """
    law = np.asarray(masses, np.float64)
    return np.asarray(0.5 + 0.25 * (1.0 - (law * law).sum(1)))


def gumbel_scores(masses: Masses, rng: np.random.Generator) -> Floats:
    """f64[n] scores of Gumbel-max tokens: a token of probability p has pivot ``U^p``."""
    p = masses[np.arange(len(masses)), sampled(masses, rng)].astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(-np.expm1(p * np.log1p(-rng.random(len(p))))))


def redgreen_scores(gamma: float, delta: float) -> Draw:
    """Draws 1.0 for green tokens of the red/green rule and 0.0 for red ones."""
    gain = math.exp(min(delta, 50.0))

    def draw(masses: Masses, rng: np.random.Generator) -> Floats:
        green = rng.random(masses.shape, dtype=np.float32) < gamma
        share = np.einsum("nk,nk->n", masses, green, dtype=np.float64)
        return _coins(share * gain / (share * gain + (1.0 - share)), rng)

    return draw


def reweight_scores(alpha: float) -> Draw:
    """Draws 1.0 where the token's lane lies in the upper half, under the reweight ``max(c - a, 0) + max(c - 1 + a, 0)``."""

    def draw(masses: Masses, rng: np.random.Generator) -> Floats:
        lanes = rng.random(masses.shape, dtype=np.float32)
        order = np.argsort(lanes, axis=1)
        reached = np.take_along_axis(masses, order, 1).cumsum(1, dtype=np.float64)
        # Of the tokens in keyed order only the mass below the middle lane matters.
        below = (lanes < 0.5).sum(1)
        at = np.where(below > 0, reached[np.arange(len(reached)), np.maximum(below, 1) - 1], 0.0) / reached[:, -1]
        return _coins(1.0 - np.maximum(at - alpha, 0.0) - np.maximum(at - (1.0 - alpha), 0.0), rng)

    return draw


def tournament_scores(weights: tuple[int, ...]) -> Draw:
    """Draws weighted sums of the bits of tournament tokens."""

    def draw(masses: Masses, rng: np.random.Generator) -> Floats:
        law, words = masses.copy(), rng.integers(0, 1 << 32, masses.shape, dtype=np.uint32)
        for layer in range(len(weights)):
            won = (words >> np.uint32(layer) & np.uint32(1)).astype(np.float32)
            law *= 1.0 + won - np.einsum("nk,nk->n", law, won)[:, None]
        chosen = words[np.arange(len(law)), sampled(law, rng)]
        bits = chosen[:, None] >> np.arange(len(weights), dtype=np.uint32) & np.uint32(1)
        return np.asarray(bits @ np.asarray(weights, np.float64))

    return draw


def sampled(masses: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """i64[n] one column a row, with probability proportional to its mass."""
    reached = masses.cumsum(1, dtype=np.float64)
    at = (reached < rng.random((len(masses), 1)) * reached[:, -1:]).sum(1)
    return np.asarray(np.minimum(at, masses.shape[1] - 1), np.int64)


def drawn(masses: Masses, draw: Draw, draws: int, rng: np.random.Generator) -> Floats:
    """f64[n, draws] scores of tokens drawn anew from each law; laws of few tokens are dealt with together, and fast."""
    widths = 1 + ((1.0 - masses.cumsum(1, dtype=np.float64)) > SPARE).sum(1).clip(max=masses.shape[1] - 1)
    order, found = np.argsort(widths, kind="stable"), np.empty((len(masses), draws))
    start = 0
    while start < len(order):
        # A group ends where its widest law, times its rows, fills the budget.
        cells = widths[order[start:]] * np.arange(1, len(order) - start + 1)
        stop = start + max(1, int(np.searchsorted(cells, CELLS)))
        rows = order[start:stop]
        part = masses[rows, : widths[rows[-1]]]
        part = part / part.sum(1, keepdims=True)
        found[rows] = np.stack([draw(part, rng) for _ in range(draws)], axis=1)
        start = stop
    return found


def thresholds(null: Null, counts: NDArray[np.int64], log_alpha: float) -> Floats:
    """The least total of n items with p at most alpha, for each of the counts: f64, inf where there is none.

    Up to 40 items by bisection of the exact tail; between larger counts, 7% apart, interpolated on the scale of the
    standard deviation, which is within a fraction of one step of the law.
    """
    counts = np.asarray(counts, np.int64)
    highest = int(counts.max(initial=1))
    knots = [*range(1, EXACT_COUNTS + 1)]
    while knots[-1] < highest:
        knots.append(math.ceil(knots[-1] * 1.07))
    n = np.array(knots, np.int64)
    exact = _bisected(null, n, log_alpha)
    scale = (exact - n * null.mean()) / np.sqrt(n * null.variance())
    found = np.full(counts.shape, np.inf)
    low = (counts >= 1) & (counts <= EXACT_COUNTS)
    found[low] = exact[counts[low] - 1]
    high = counts > EXACT_COUNTS
    m = counts[high]
    finite = np.isfinite(scale)
    found[high] = m * null.mean() + np.sqrt(m * null.variance()) * np.interp(np.log(m), np.log(n[finite]), scale[finite])
    if finite.any():
        found[counts < n[finite][0]] = np.inf
    return found


def _bisected(null: Null, n: NDArray[np.int64], log_alpha: float) -> Floats:
    sample = null.sample(64, np.random.default_rng(0))
    whole = bool(np.all(sample == np.rint(sample)))
    low = np.floor(n * null.mean())
    high = low + 4.0
    for _ in range(60):
        short = null.log_sf(high, n) > log_alpha
        if not short.any():
            break
        high = np.where(short, low + 2.0 * (high - low), high)
    while True:
        middle = np.floor((low + high) / 2.0) if whole else (low + high) / 2.0
        if np.all(high - low <= (1.0 if whole else 1e-6 * high)):
            break
        enough = null.log_sf(middle, n) <= log_alpha
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    # A bounded law has totals that no text can reach; the tail there is zero, not small.
    return np.where(np.isneginf(null.log_sf(high, n)), np.inf, high)


def synthetic_laws(n: int, bits: float, rng: np.random.Generator) -> Floats:
    """f64[n, 1000] laws of ``bits`` mean entropy that varies from place to place as in a language model's text.

    ``P = softmax(s (-log(rank + 2.7) + z / 2))``, ``s = exp(mu + 0.9 z')`` a place, z and z' standard normal; mu sets the
    mean entropy. At a mean of 1 bit, 42% of places are below 0.3 bit.
    """
    return _softmax(_synthetic_scale(round(float(bits), 6)), rng.standard_normal((n, 1)), rng)


@cache
def _synthetic_scale(bits: float) -> float:
    low, high = -6.0, 9.0
    # Quantiles instead of draws: most of the spread of the mean entropy comes from the scales.
    places = np.asarray(ndtri((np.arange(2000)[:, None] + 0.5) / 2000))
    for _ in range(16):
        middle = (low + high) / 2.0
        law = _softmax(middle, places, np.random.default_rng(0))
        entropy = -np.sum(law * np.log2(np.maximum(law, 1e-300))) / len(law)
        low, high = (middle, high) if entropy > bits else (low, middle)
    return (low + high) / 2.0


def _softmax(mu: float, places: Floats, rng: np.random.Generator) -> Floats:
    scale = np.exp(mu + 0.9 * places)
    ranks = -np.log(np.arange(1, SYNTHETIC_VOCABULARY + 1) + 2.7)
    logits = scale * (ranks + 0.5 * rng.standard_normal((len(places), SYNTHETIC_VOCABULARY)))
    law = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(law / law.sum(1, keepdims=True))


def _coins(p: Floats, rng: np.random.Generator) -> Floats:
    return (rng.random(len(p)) < p).astype(np.float64)
