"""The null law of a weighted sum of independent Exp(1) scores, as where several keys may have marked a token and none is known.

The sum over n items is a sum of independent Gamma laws of different scales. With ``b < a``, ``a Gamma(r)`` is ``b Gamma(r + K)``
for K negative binomial (``r`` successes of probability ``p = b / a``), so that

    P(a Gamma(r) + b Gamma(s) >= x) = sum over k of P(K = k) Q(s + r + k, x / b):

all terms are positive, and they are log-concave in k (so are a negative binomial law and a Poisson distribution function), so
that what a cut leaves out is at most a geometric series. That bound is added: the tail is exact to a relative 1e-12 and never
below the truth by more than rounding.

References:
    P. Moschopoulos, "The distribution of the sum of independent gamma random variables", Ann. Inst. Statist. Math. 37, 1985;
    F. Satterthwaite, 1946, for the moment match that peers use instead, which is anti-conservative in the tail.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.tails import Floats, deviance, gamma_log_sf, stirling_error

# Share of the sum that a cut may leave out before the cut is moved.
_LEFT_OUT = 1e-12
# No score of 24 or 32 bits brings a sum to so many times its mean.
_ABSURD = 100.0
# Terms worked on at a time.
_TERMS = 1 << 16
# Products of ratios stay in doubles between this and its inverse.
_SAFE = 1e-140
_LOG_2PI = math.log(2.0 * math.pi)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MixedExponentialNull:
    """One item is ``sum of w_j s_j`` over d independent scores ``s_j`` that are Exp(1): the fused score of several keys.

    Args:
        weights: d numbers, 0 or more, of at most two distinct values apart from 0.
        excess: scores are stochastically below Exp(1) plus this many nats each; ``reduce`` takes it off.
        bound: False where scores are exactly Exp(1), True where they are only stochastically below it.

    References:
        As in the module; vLLM and TextSeal fuse two keys so.
    """

    weights: tuple[float, ...]
    excess: float = 0.0
    bound: bool = False

    def __post_init__(self) -> None:
        weights = [weight for weight in self.weights if weight]
        if not weights or not all(0.0 < weight < math.inf for weight in weights) or len(set(weights)) > 2:
            raise ValueError(f"need weights of 0 or more, of at most two values, got {self.weights}")

    @property
    def name(self) -> str:
        return ("at most " if self.bound else "") + " + ".join(f"{weight:g} Exponential(1)" for weight in self.weights)

    def reduce(self, scores: Floats) -> Floats:
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] != len(self.weights) or not np.all(np.isfinite(scores)) or np.any(scores < 0):
            raise ValueError(f"mixed null: scores must be rows of {len(self.weights)} finite numbers, 0 or more")
        return np.asarray(np.maximum(scores - self.excess, 0.0) @ np.asarray(self.weights))

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        x, n = np.broadcast_arrays(np.asarray(totals, np.float64), np.asarray(n, np.float64))
        if not np.all(np.isfinite(x)) or np.any(n < 0) or np.any(n != np.rint(n)):
            raise ValueError("mixed null: need finite totals and whole numbers of items")
        (small, shape), *rest = sorted(Counter(weight for weight in self.weights if weight).items())
        if rest:
            found = mixed_gamma_log_sf(x, small, shape * n, rest[0][0], rest[0][1] * n)
        else:
            found = gamma_log_sf(x / small, shape * n)
        return np.where(n == 0, 0.0, found)

    def mean(self) -> float:
        return float(sum(self.weights))

    def variance(self) -> float:
        return float(sum(weight * weight for weight in self.weights))

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return np.asarray(rng.exponential(size=(n, len(self.weights))) @ np.asarray(self.weights))

    def describe(self, n: int) -> str:
        law = " + ".join(f"{weight:g} Gamma({n}, 1)" for weight in self.weights)
        return f"{law}, as an upper bound" if self.bound else law


def mixed_gamma_log_sf(x: ArrayLike, small: float, shape_small: ArrayLike, large: float, shape_large: ArrayLike) -> Floats:
    """Natural log of P(small Gamma(shape_small) + large Gamma(shape_large) >= x), element by element.

    Args:
        x: thresholds; at or below 0 the answer is 0.0. Above a hundred means it is a bound, as if all scales were the larger.
        small: the smaller scale.
        shape_small: its shapes, whole numbers.
        large: the larger scale; the work grows with ``large / small``.
        shape_large: its shapes, whole numbers; where both are 0 the law is that which is always 0.
    """
    x, s, r = (np.array(part, np.float64) for part in np.broadcast_arrays(x, shape_small, shape_large))
    if not 0.0 < small < large:
        raise ValueError("mixed gamma tail: need 0 < small < large")
    out = np.zeros(x.shape)
    absurd = x > _ABSURD * (s * small + r * large)
    out[absurd] = gamma_log_sf(x[absurd] / large, (s + r)[absurd])
    inside = (x > 0) & (s + r > 0) & ~absurd
    out[inside] = _tails(x[inside], s[inside], r[inside], small, large)
    return out


def _tails(x: Floats, s: Floats, r: Floats, small: float, large: float) -> Floats:
    """The sums between cuts, in blocks of rows of similar length; cuts that leave too much out move away until they do not."""
    found = np.zeros(len(x))
    left, right = _cuts(x, s, r, small, large)
    rows = np.argsort(right - left, kind="stable")
    while len(rows):
        again: list[Ints] = []
        start = 0
        while start < len(rows):
            # Rows ascend in length: the last one decides the width of a block.
            widths = (right - left)[rows[start:]] + 1
            count = max(1, int(np.searchsorted(np.arange(1, len(widths) + 1) * widths, _TERMS, side="right")))
            block = rows[start : start + count]
            start += count
            value, low, high = _block(x[block], s[block], r[block], small, large, left[block], right[block])
            found[block] = value
            span = (right[block] - left[block]) // 3 + 8
            left[block[low]] = np.maximum(left[block] - span, 0)[low]
            right[block[high]] = (right[block] + span)[high]
            again.append(block[low | high])
        rows = np.concatenate(again)
        rows = rows[np.argsort((right - left)[rows], kind="stable")]
    return np.minimum(found, 0.0)


def _cuts(x: Floats, s: Floats, r: Floats, small: float, large: float) -> tuple[Ints, Ints]:
    """Where the terms that matter begin and end, by the tilted law of K: its mean, and some standard deviations."""
    a, b = large, small
    above = x - (s * b + r * a)
    linear = x * (a + b) - a * b * (s + r)
    # The tilt under which the sum has mean x, none where x is below the mean: the smaller root of a quadratic.
    root = np.sqrt(np.maximum(linear * linear - 4.0 * a * b * x * above, 0.0))
    tilt = np.where(above > 0, 2.0 * above / np.maximum(linear + root, 1e-300), 0.0)
    q = np.minimum((1.0 - b / a) / np.maximum(1.0 - b * tilt, 1e-300), 1.0 - 1e-12)
    centre, wide = r * q / (1.0 - q), r * q / (1.0 - q) ** 2
    narrow = 1.0 / (1.0 / np.maximum(wide, 1e-300) + 1.0 / (s + r + centre))
    far = above > 4.0 * np.sqrt(s * b * b + r * a * a)
    # Above the mean by little, the condition that the sum is large hardly narrows the law of K; its upper tail is geometric.
    sd = np.sqrt(np.where(far, narrow, wide))
    left = np.floor(centre - 7.5 * sd)
    right = np.ceil(centre + np.where(far, 9.5 * sd + 16.0, 8.0 * sd + 8.0 / (1.0 - q)))
    return np.maximum(left, 0.0).astype(np.int64), right.astype(np.int64)


def _block(
    x: Floats, s: Floats, r: Floats, small: float, large: float, left: Ints, right: Ints
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Log tails with bounds of what is left out below and above, and where those are too large."""
    p, y, shape = small / large, x / small, s + r
    first, here, end = left.astype(np.float64), np.arange(len(x)), right - left
    k = first[:, None] + np.arange(int(end.max()) + 1)
    # Both factors of the terms relative to those of the first, by recurrence.
    step = (r[:, None] + k[:, :-1]) / (k[:, :-1] + 1.0) * (1.0 - p)
    anchor = gamma_log_sf(y, shape + first)
    rise = np.empty(step.shape)
    rise[:, :1] = (_log_poisson(shape + first, y) - anchor)[:, None]
    rise[:, 1:] = y[:, None] / (shape[:, None] + k[:, 1:-1])
    parts, scale = _products(step, rise, end)
    parts[np.arange(k.shape[1]) > end[:, None]] = 0.0
    total = parts.sum(1)
    below = np.where(left > 0, _beyond(parts[:, 0], parts[here, np.minimum(1, end)]), 0.0)
    above = _beyond(parts[here, end], parts[here, np.maximum(end - 1, 0)])
    low, high = below > _LEFT_OUT * total, above > _LEFT_OUT * total
    value = _log_negative_binomial(first, r, p) + anchor + scale + np.log(np.where(low | high, total, total + below + above))
    return value, low, high


def _products(step: Floats, rise: Floats, end: Ints) -> tuple[Floats, Floats]:
    """Terms f64[m, w] from the ratios of their first factors and the additions to their second, and logs of what scales them.

    ``rise`` holds the log of the first addition, then the ratios of additions.
    """
    weight, mass = np.ones((len(step), step.shape[1] + 1)), np.ones((len(step), step.shape[1] + 1))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.cumprod(step, axis=1, out=weight[:, 1:])
        mass[:, 1:2] = np.exp(rise[:, :1])
        mass[:, 2:] = rise[:, 1:]
        np.cumprod(mass[:, 1:], axis=1, out=mass[:, 1:])
        np.cumsum(mass, axis=1, out=mass)
    last = np.arange(len(step)), end
    if np.all((weight[last] > _SAFE) & (weight.max(1) < 1.0 / _SAFE) & (mass[last] < 1.0 / _SAFE)):
        return weight * mass, np.zeros(len(step))
    # Out of the range of doubles: the same in logs, at five times the cost.
    weight[:, 0] = mass[:, 0] = 0.0
    np.cumsum(np.log(step), axis=1, out=weight[:, 1:])
    mass[:, 1:2] = rise[:, :1]
    mass[:, 2:] = np.log(rise[:, 1:])
    np.cumsum(mass[:, 1:], axis=1, out=mass[:, 1:])
    terms = weight + np.logaddexp.accumulate(mass, axis=1)
    terms[np.arange(terms.shape[1]) > end[:, None]] = -np.inf
    scale = terms.max(1)
    return np.exp(terms - scale[:, None]), scale


def _beyond(last: Floats, before: Floats) -> Floats:
    """At most what log-concave terms sum to beyond the last one, given that and the one before it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(last > 0, last / before, 0.0)
        return np.where(ratio < 1.0, last * ratio / (1.0 - ratio), np.inf)


def _log_poisson(k: Floats, y: Floats) -> Floats:
    """Log of the Poisson probability of k > 0 at mean y, in Loader's saddle-point form."""
    return np.asarray(-stirling_error(k) - deviance(k, y, k - y) - 0.5 * (_LOG_2PI + np.log(k)))


def _log_negative_binomial(k: Floats, r: Floats, p: float) -> Floats:
    """Log of P(K = k): ``r / (r + k)`` times the binomial probability of r successes in r + k, in Loader's form."""
    inner = np.maximum(k, 1.0)
    n, off = r + inner, r * (1.0 - p) - inner * p
    errors = stirling_error(n) - stirling_error(r) - stirling_error(inner)
    spread = 0.5 * (np.log(n / (r * inner)) - _LOG_2PI)
    binomial = errors - deviance(r, n * p, off) - deviance(inner, n * (1.0 - p), -off) + spread
    return np.where(k > 0, binomial + np.log(r / n), r * math.log(p))
