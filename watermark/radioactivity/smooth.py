"""Upper tails of sums of bits with any real weights, of either sign: proven bounds, within a percent in all ordinary cases.

Let ``S = sum_k w_k B_k``, ``B_k ~ Bin(n_k, p)``, and N normal with mean 0 and a small standard deviation t, independent of S. As
``P(S >= x) P(N >= -a) <= P(S + N >= x - a)``,

    P(S >= x) <= P(S + N >= x - a) / Phi(a / t).

The sum S + N has a density, and its moment generating function M falls like a normal one along the imaginary axis. So the tail on
the right is what :mod:`wmcheck.watermark.core.weighted_tails` computes for exponentials: by Poisson's summation formula the
trapezoid rule for ``M(c + iy) / (c + iy) e^-(c + iy) x`` errs upwards only, what nodes beyond the last one hold is at most
``e^(-t^2 y^2 / 2) / (pi t^2 y^2)`` of ``M(c) e^(-c x)``, and rounding is bounded node by node. With t a thousandth of the
standard deviation of S and ``a = 3.5 t`` the bound exceeds the tail by a factor of about ``e^(0.0035 z)`` at z deviations.

References:
    As in ``core/weighted_tails``; smoothing by a narrow normal law as in the proof of A. Berry, Trans. AMS 49, 1941.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr

Floats = NDArray[np.float64]

NARROW = 1e-3  # standard deviation of N in those of S
MARGIN = 3.5  # a in those of N
LAST = 7.5  # last node, in units of 1 / t
BELOW = 3.0  # standard deviations below the mean where 1 is the bound given
_LOG_ALIAS = 21.0  # shifted terms of about e^-21 of the tail
_LOG_NEGLIGIBLE = 60.0  # nodes of modulus below e^-60 are left out, and counted as error
_CELLS = 1 << 18
_EPS = float(np.finfo(np.float64).eps)
_GRID = 2.0  # tilts a standard deviation, where totals share them
_SHARED = 4  # more totals than this share tilts


def bits_sum_log_sf(totals: Floats, weights: Floats, counts: Floats, p: float) -> Floats:
    """Natural logs of P(sum >= total), rounded up, at most 0.

    Args:
        totals: f64[m].
        weights: f64[k] of either sign, not 0.
        counts: f64[k] whole numbers of bits of each weight.
        p: probability of a bit, in (0, 1).
    """
    totals = np.asarray(totals, np.float64)
    law = _Bits(np.asarray(weights, np.float64), np.asarray(counts, np.float64), math.log(p) - math.log1p(-p))
    mean, sd = p * law.first, math.sqrt(p * (1.0 - p) * law.second)
    out = np.zeros(len(totals))
    if not sd:
        return out
    top = float(law.n @ np.maximum(law.w, 0.0))
    out[totals > top * (1.0 + 1e-12)] = -np.inf
    live = np.flatnonzero((totals > mean - BELOW * sd) & np.isfinite(out))
    if not len(live):
        return out
    shift = MARGIN * NARROW * sd
    tilts = np.array([law.tilt(float(x) - shift, NARROW * sd) for x in totals[live]])
    if len(live) > _SHARED:
        # Any tilt is valid.
        tilts = np.maximum(np.rint(tilts * sd * _GRID), 1.0) / (_GRID * sd)
    for tilt in np.unique(tilts):
        same = live[tilts == tilt]
        out[same] = law.upper(float(tilt), totals[same] - shift, NARROW * sd)
    return np.minimum(out - float(log_ndtr(MARGIN)), 0.0)


class _Bits:
    def __init__(self, w: Floats, n: Floats, odds: float) -> None:
        self.w, self.n, self.odds = w, n, odds
        self.first, self.second = float(n @ w), float(n @ (w * w))

    def tilt(self, x: float, narrow: float) -> float:
        """The minimum of ``log M(c) - c x - log c`` over c > 0, as far as bisection of its logarithm goes."""
        scale = math.sqrt(self.second)
        low, high = math.log(1e-4 / scale), math.log(1e4 / float(np.abs(self.w).max()))
        for _ in range(50):
            middle = 0.5 * (low + high)
            c = math.exp(middle)
            mean = float(self.n @ (self.w * expit(self.odds + c * self.w))) + narrow * narrow * c
            low, high = (middle, high) if mean < x + 1.0 / c else (low, middle)
        return math.exp(low)

    def upper(self, c: float, x: Floats, narrow: float) -> Floats:
        """f64[m] logs of bounds of P(S + N >= x), by the rule under the tilt c."""
        up = expit(self.odds + c * self.w)
        mean = float(self.n @ (self.w * up)) + narrow * narrow * c
        variance = float(self.n @ (self.w**2 * up * (1.0 - up))) + narrow * narrow
        step = 2.0 * math.pi / self._period(c, mean, variance, x)
        nodes = math.ceil(LAST / narrow / step)
        value, rounding = np.zeros(len(x)), np.zeros(len(x))
        for j in np.array_split(np.arange(nodes + 1), 1 + (nodes + 1) * max(len(self.w), len(x)) // _CELLS):
            one, other = self._nodes(c, x, j, step, narrow, nodes)
            value, rounding = value + one, rounding + other
        end = nodes * step * narrow
        left_out = math.exp(-0.5 * end * end) / (math.pi * end * end)
        terms = np.logaddexp(0.0, self.odds + c * self.w) - np.logaddexp(0.0, self.odds)
        log_m = float(self.n @ terms) + 0.5 * (narrow * c) ** 2
        slack = 16 * _EPS * (float(self.n @ (1.0 + np.abs(terms) + np.abs(self.odds + c * self.w))) + c * np.abs(x))
        bound = np.minimum(np.maximum(value, 0.0) + rounding + left_out, 1.0)
        return np.asarray(log_m - c * x + slack + np.log(bound))

    def _period(self, c: float, mean: float, variance: float, x: Floats) -> float:
        """Distance of the shifted terms: only its size, not the bound, depends on how well they vanish."""
        wanted = _LOG_ALIAS + math.log1p(2.5 * c * math.sqrt(variance))
        third = float(np.abs(self.w).max()) * wanted / 3.0
        far = float(np.abs(mean - x).max())
        above = far + third + math.sqrt(third * third + 2.0 * variance * wanted)
        spread = math.sqrt(2.0 * wanted * variance)
        below = far + (wanted / c + 0.5 * c * variance if c * c * variance < 2.0 * wanted else spread)
        return max(above, below)

    def _nodes(
        self, c: float, x: Floats, j: NDArray[np.int64], step: float, narrow: float, nodes: int
    ) -> tuple[Floats, Floats]:
        """Sums over some nodes, and bounds of their rounding errors."""
        y = j * step
        weight = np.where(j == 0, 0.5, 1.0) * (step / math.pi)
        envelope = weight * np.exp(-0.5 * (narrow * y) ** 2) / np.hypot(c, y)
        argument = 32.0 * y * (float(self.n @ np.abs(self.w)) + float(np.abs(x).max()))
        error = _EPS * float(np.sum(envelope * argument))
        tilted = self.odds + c * self.w
        low, gap = expit(-np.abs(tilted)), np.tanh(np.abs(tilted) / 2.0)
        both = 4.0 * low * (1.0 - low)
        half = 0.5 * np.multiply.outer(y, self.w)
        sine = np.sin(half)
        away = both * sine**2
        logs = np.log1p(-np.minimum(away, 0.5))
        much = away >= 0.5
        logs[much] = np.log(np.maximum((gap**2 + both * np.cos(half) ** 2)[much], 1e-300))
        modulus = 0.5 * (logs @ self.n)
        live = modulus > -_LOG_NEGLIGIBLE
        # What is left out is at most so much.
        error += math.exp(-_LOG_NEGLIGIBLE) * float(envelope[~live].sum())
        y, half, sine, modulus, envelope = y[live], half[live], sine[live], modulus[live], envelope[live]
        cosine = np.cos(half)
        # The likelier outcome is factored out, so that real parts are sums of positive terms.
        part = np.arctan2(2.0 * low * sine * cosine, gap + 2.0 * low * cosine**2)
        sign = np.where(tilted > 0, -self.n, self.n)
        angle, turns = part @ sign, np.abs(part) @ self.n
        whole = float(self.n @ np.where(tilted > 0, self.w, 0.0))
        size = envelope * np.exp(modulus)
        turned = np.multiply.outer(whole - x, y) + (angle - np.arctan2(y, c))
        # No matrix product here: it promises no order of its sums.
        value = np.sum(size * np.cos(turned), axis=1)
        digits = 32.0 * (turns - modulus) + 250.0 + nodes
        error += _EPS * float(np.sum(size * digits))
        return value, np.full(len(x), error)
