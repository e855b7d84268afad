"""Exact tails of a sum of independent integer-weighted Bernoulli variables, with a computed bound on every error.

``S = sum_j w_j B_j``, ``B_j ~ Bin(c_j, p)``. With K the cumulant generating function of S, any t >= 0 and S' the law
tilted by ``e^(t s)``, ``P(S >= x) = e^(K(t) - t x) * sum_{s >= x} P(S' = s) e^(-t (s - x))``. Taking t with
``K'(t) = x`` puts x in the middle of S', so the sum is of order one however small the tail. The masses of S' on a
window of the lattice are the inverse discrete Fourier transform of its characteristic function; their damped sum is a
geometric series at each frequency, so it is formed directly from the frequencies where the function is not negligible.
The error bound adds up mass outside the window (Bernstein) and rounding (at each frequency, modulus times operations).

References:
    Butler, Saddlepoint Approximations, 1.2 (tilting); Boucheron et al., Concentration Inequalities, 2.10 (Bernstein).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from wmcheck.watermark.core.tails import Floats, deviance

Ints = NDArray[np.int64]

_LOG_OUTSIDE = 80.0  # the window leaves out at most 2 e^-80 of the tilted law
_LOG_NEGLIGIBLE = 120.0  # values of the characteristic function below e^-120 are taken as 0, and counted as error
_TABLE_ERROR = 1e-9  # relative error up to which one tilted law may serve several totals
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Tail:
    """A tail probability with its error: the truth lies within ``exp(log_error_bound)`` of ``exp(log_sf)``."""

    log_sf: float
    log_error_bound: float

    def upper(self) -> float:
        """Log of a proven upper bound of the tail."""
        return min(0.0, float(np.logaddexp(self.log_sf, self.log_error_bound)))


def weighted_bernoulli_log_sf(total: int, weights: ArrayLike, counts: ArrayLike, p: float) -> float:
    """Log of P(sum_j w_j B_j >= total), rounded up: the upper end of `weighted_bernoulli_tail`."""
    return weighted_bernoulli_tail(total, weights, counts, p).upper()


def weighted_bernoulli_tail(total: int, weights: ArrayLike, counts: ArrayLike, p: float) -> Tail:
    """P(sum_j w_j B_j >= total) for B_j ~ Bin(counts_j, p), with an error bound; method in the module's text.

    Weights are whole and positive, counts (one a weight) whole and summing up to tens of millions; 0 < p < 1.
    """
    return _Sum.make(weights, counts, p).tail(int(total), 1)


def weighted_bernoulli_log_sf_many(totals: ArrayLike, n_items: ArrayLike, weights: ArrayLike, p: float) -> Floats:
    """Log of P(sum over n items of sum_j w_j B_j >= total), rounded up, for many (total, n), B_j ~ Bernoulli(p).

    A tilted law serves all totals within a few standard deviations of its mean as long as its error bound stays below
    1e-9 of the tail; any other total gets its own law. `weights` are those of every item; 0 items give 0.0.
    """
    item = _Sum.make(weights, np.ones(np.shape(weights), dtype=np.int64), p)
    pairs = np.stack(np.broadcast_arrays(np.asarray(n_items, np.int64), np.asarray(totals, np.int64)), axis=-1)
    if np.any(pairs[..., 0] < 0):
        raise ValueError("weighted Bernoulli tail: need n_items >= 0")
    flat, inverse = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    values = np.full(len(flat), np.nan)
    n, reduced = flat[:, 0], -(-flat[:, 1] // item.step)
    values[(n == 0) | (reduced <= 0)] = 0.0
    inner = np.flatnonzero(np.isnan(values) & (reduced <= n * item.top - item.weights[:1].sum()))
    values[inner] = item.table(n[inner], reduced[inner])
    for i in np.flatnonzero(np.isnan(values)):
        values[i] = item.tail(int(flat[i, 1]), int(n[i])).upper()
    return np.asarray(values[inverse.reshape(-1)].reshape(pairs.shape[:-1]), dtype=np.float64)


@dataclass(frozen=True)
class _Sum:
    """One item: weights merged and divided by their common divisor `step`; n independent items are summed."""

    weights: Ints
    counts: Ints
    p: float
    step: int
    top: int

    @classmethod
    def make(cls, weights: ArrayLike, counts: ArrayLike, p: float) -> _Sum:
        w, c = np.asarray(weights), np.asarray(counts)
        if w.ndim != 1 or w.shape != c.shape or np.any((w != np.rint(w)) | (c != np.rint(c)) | (w < 1) | (c < 0)):
            raise ValueError("weighted Bernoulli tail: need whole weights of 1 or more and as many whole counts")
        if not 0.0 < p < 1.0:
            raise ValueError(f"weighted Bernoulli tail: need 0 < p < 1, got {p}")
        merged, where = np.unique(w[c > 0].astype(np.int64), return_inverse=True)
        step = max(1, int(np.gcd.reduce(merged)))
        sums = np.bincount(where, c[c > 0], merged.size).astype(np.int64)
        return cls(merged // step, sums, float(p), step, int(merged @ sums) // step)

    def tail(self, total: int, n: int) -> Tail:
        total, top = -(-total // self.step), n * self.top
        if total <= 0 or total > top:
            return Tail(0.0 if total <= 0 else -math.inf, -math.inf)
        if total > top - int(self.weights[0]):
            value = n * int(self.counts.sum()) * math.log(self.p)
            return Tail(value, value + math.log(math.expm1(-8 * _EPS * value) + 8 * _EPS))
        tilt = self.solve(total, n)
        log_sf, log_error = _Tilted.make(self, tilt, self.window(n, tilt), n).tails(n, np.array([total]))
        return Tail(float(log_sf[0]), float(log_error[0]))

    def odds(self, tilt: Any) -> Any:
        """Tilted log odds; the two probabilities are their `expit` and that of their negative, to full precision."""
        return math.log(self.p) - math.log1p(-self.p) + tilt * self.weights

    def solve(self, total: int, n: int) -> float:
        """The t >= 0 at which the tilted mean is `total`; 0 for totals at or below the mean."""

        def excess(t: float) -> float:
            return float((n * self.top - total) - n * ((self.weights * self.counts) @ special.expit(-self.odds(t))))

        high = 1.0
        while excess(high) <= 0.0:
            high *= 2.0
        # Any t is valid: an inexact root moves the window by a little and is corrected in the exponent.
        return 0.0 if excess(0.0) >= 0.0 else float(optimize.brentq(excess, 0.0, high, xtol=1e-300, rtol=1e-13))

    def window(self, n: int, tilt: float | None) -> int:
        """Length of the window, a power of two: twice Bernstein's radius, or the whole support (None: for any tilt)."""
        squares, third = self.counts * self.weights.astype(np.float64) ** 2, _LOG_OUTSIDE * int(self.weights[-1]) / 3.0
        odds = 0.0 * self.weights if tilt is None else self.odds(tilt)
        variance = n * float(squares @ (special.expit(odds) * special.expit(-odds)))
        radius = math.ceil(third + math.sqrt(third * third + 2.0 * _LOG_OUTSIDE * variance)) + 2
        return 1 << min(2 * radius + 1, n * self.top + 1).bit_length()

    def table(self, n: Ints, totals: Ints) -> Floats:
        """Upper log tails from shared laws; NaN where a law of its own is needed."""
        out = np.full(totals.shape, np.nan)
        octaves = np.frexp(n)[1]
        for octave in np.unique(octaves):
            # Laws are laid out by the octave of n, not by the n at hand: the same question always gets the same digits.
            chosen, highest = np.flatnonzero(octaves == octave), (1 << int(octave)) - 1
            # Spaced so that no total lies much more than three standard deviations from the mean of its law.
            tilts = np.arange(4097) * 12.0 / math.sqrt(float(self.counts @ self.weights**2) * highest)
            means = special.expit(self.odds(tilts[:, None])) @ (self.weights * self.counts).astype(np.float64)
            index = np.searchsorted((means[1:] + means[:-1]) / 2.0, totals[chosen] / n[chosen])
            for i in np.unique(index):
                group = chosen[index == i]
                tilted = _Tilted.make(self, float(tilts[i]), self.window(highest, None), (highest + 1) // 2)
                for m in np.unique(n[group]):
                    same = group[n[group] == m]
                    for at in np.array_split(same, 1 + same.size * tilted.k.size // 500_000):
                        log_sf, log_error = tilted.tails(int(m), totals[at])
                        upper = np.minimum(np.logaddexp(log_sf, log_error), 0.0)
                        out[at] = np.where(log_error <= log_sf + math.log(_TABLE_ERROR), upper, np.nan)
        return out


@dataclass(frozen=True)
class _Tilted:
    """One tilted item: its characteristic function at the frequencies 2 pi k / size where it is not negligible."""

    item: _Sum
    tilt: float
    size: int
    k: Ints
    log_modulus: Floats
    phase: Floats
    turns: Floats  # sum of the absolute phases, for the rounding bound
    shift: int  # the phase leaves out 2 pi k shift / size: a whole number of steps, hence exact

    @classmethod
    def make(cls, item: _Sum, tilt: float, size: int, n: int) -> _Tilted:
        """For sums of n items or more; `size` as given by `_Sum.window`."""
        odds = np.asarray(item.odds(tilt), dtype=np.float64)
        low, gap = special.expit(-np.abs(odds)), np.tanh(np.abs(odds) / 2.0)
        terms = list(zip(*(array.tolist() for array in (item.weights, item.counts, low, gap)), strict=True))
        parts = [_active(b, terms, size, n) for b in np.array_split(np.arange(size // 2 + 1), 1 + (size >> 19))]
        k, log_modulus = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        phase, turns = np.zeros(k.size), np.zeros(k.size)
        # The likelier outcome is factored out, so that angles stay small and real parts are sums of positive terms.
        for (w, c, a, g), flip in zip(terms, odds > 0.0, strict=True):
            sine, cosine, sign = _half_angle(k, w, size)
            angle = c * np.arctan2(2.0 * a * sine * cosine, g + 2.0 * a * cosine * cosine)
            phase += np.where(flip, -sign, sign) * angle
            turns += angle
        return cls(item, tilt, size, k, log_modulus, phase, turns, int((item.weights * item.counts)[odds > 0.0].sum()))

    def tails(self, n: int, totals: Ints) -> tuple[Floats, Floats]:
        """Log tails of the sum of n items at the totals, and logs of the bounds of their errors."""
        item, t, size, k = self.item, self.tilt, self.size, self.k
        middle = round(n * float((item.weights * item.counts) @ special.expit(item.odds(t))))
        lowest = 0 if size > n * item.top else middle - size // 2
        first = np.maximum(totals, lowest)
        count = np.maximum(lowest + size - first, 0)
        # Geometric series over the window: (1 - z^count) / (1 - z) with z = e^(-t - i omega).
        sine, cosine, _ = _half_angle(k, 1, size)
        divisor = -math.expm1(-t) + math.exp(-t) * 2.0 * sine * (sine + 1j * cosine) + (k == 0)
        modulus = np.exp(n * self.log_modulus) * np.where((k == 0) | (2 * k == size), 1.0, 2.0) / size
        angle = n * self.phase + 2.0 * np.pi / size * (k * ((n * self.shift - first) % size)[:, None] % size)
        end = 2.0 * np.pi / size * (k * (count % size)[:, None] % size)
        series = (1.0 - np.exp(-t * count[:, None] - 1j * end)) / divisor
        series[:, 0] = count if t == 0.0 else np.expm1(-t * count) / math.expm1(-t)
        value = np.maximum((modulus * (np.exp(1j * angle) * series).real).sum(axis=1), 0.0)
        steps = modulus * (16.0 * n * (self.turns - self.log_modulus) + 250.0)
        rounding = _EPS * (steps[0] * series[:, 0].real + float((steps[1:] * 2.0 / np.abs(divisor[1:])).sum()))
        exponent, slack, relative = self._exponent(n, totals)
        outside = (4.0 + 4.0 * item.weights.size) * math.exp(-_LOG_OUTSIDE) + size * math.exp(-_LOG_NEGLIGIBLE)
        error = rounding + value * (relative + np.expm1(slack)) + outside
        with np.errstate(divide="ignore"):
            found = np.stack([np.minimum(exponent + np.log(value), 0.0), exponent + slack + np.log(error)])
        # Below the window of a law that damps, all that is known is that the tail lies between 0 and 1.
        log_sf, log_error = np.where((totals < lowest) & (t > 0.0), 0.0, found)
        return log_sf, log_error

    def _exponent(self, n: int, totals: Ints) -> tuple[Floats, Floats, float]:
        """``K(t) - t total``, the bound of its error, and the relative error from rounding the tilted probabilities."""
        # As minus a divergence plus t times the mean's residual no large terms cancel, and the rounding of the tilted
        # probabilities drops out to first order; in the masses it stays, times the spread of each B_j.
        item, t, p = self.item, self.tilt, self.item.p
        moments = (item.weights * item.counts).astype(np.float64)
        up, down = special.expit(item.odds(t)), special.expit(-item.odds(t))
        change = -up * (1.0 - p) * np.expm1(-t * item.weights)
        divergence = n * float(item.counts @ (deviance(up, p, change) + deviance(down, 1.0 - p, -change)))
        residual = n * float(moments @ change) - (totals - n * p * float(moments.sum()))
        slack = 64.0 * divergence + (8.0 + moments.size) * t * (totals + n * float(moments @ up))
        ulps = 4.0 - math.log(p) - math.log1p(-p) + t * item.weights
        relative = 2.0 * float(ulps @ (54.0 + 13.0 * np.sqrt(n * item.counts * up * down)))
        return np.asarray(t * residual - divergence, np.float64), np.asarray(_EPS * slack, np.float64), _EPS * relative


def _active(k: Ints, terms: list[tuple[int, int, float, float]], size: int, n: int) -> tuple[Ints, Floats]:
    """The frequencies at which the characteristic function of n items is not negligible, and one item's log modulus."""
    log_modulus = np.zeros(k.size)
    for w, c, a, g in terms:
        sine, cosine, _ = _half_angle(k, w, size)
        away, left = 4.0 * a * (1.0 - a) * sine**2, g * g + 4.0 * a * (1.0 - a) * cosine**2
        with np.errstate(divide="ignore"):
            log_modulus = log_modulus + 0.5 * c * np.where(away < 0.5, np.log1p(-np.minimum(away, 0.5)), np.log(left))
        keep = n * log_modulus >= -_LOG_NEGLIGIBLE
        k, log_modulus = k[keep], log_modulus[keep]
    return k, log_modulus


def _half_angle(k: Ints, weight: int, size: int) -> tuple[Floats, Floats, Floats]:
    """|sin|, cos and the sign of the sine of pi k weight / size, each to full relative precision (size: power of 2)."""
    residue = (k * weight + size // 2) % size - size // 2
    part = np.abs(residue) / size
    return np.sin(np.pi * part), np.sin(np.pi * (0.5 - part)), np.sign(residue).astype(np.float64)
