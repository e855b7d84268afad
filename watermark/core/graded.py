"""Graded scores: items of several known discrete laws on the whole numbers, and upper tails of their sums.

For c > 0 and any period L the trapezoid rule for the inverse Fourier transform of ``e^(c x) P(S >= x)``,

    T = (1 / L) sum_j M(c + i y_j) e^-(c + i y_j) x / (1 - e^-(c + i y_j)),   y_j = 2 pi j / L,   j = 0 .. L - 1
      = sum_m e^(c m L) P(S >= x + m L),

with M the moment generating function of the sum S, is a sum of nonnegative terms of which ``P(S >= x)`` is one: it errs upwards
only. Rounding is bounded and added. Both c and L are free and only decide how tight the bound is.

Rounding: each factor of ``M(c + iy) / M(c)`` and its computed value have modulus at most 1 + e, and differ by at most e, a few
ulps for each value of its law; so products of n factors differ by at most n e, whatever the factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.tails import Floats

Ints = NDArray[np.int64]

# Tilts, in 1 / nat: steps of 10%, around 1, where the tail of a sum of log likelihood ratios has its saddle point.
TILTS = 0.02 * 1.1 ** np.arange(74)
# Chernoff's bound serves where it is above e^-1 already, below e^-700, and for sums of more items than this.
LOG_CLEAR, LOG_EXTREME, MOST_ITEMS = -1.0, -700.0, 20_000
_LOG_ALIAS = 16.0
_EPS = float(np.finfo(np.float64).eps)
_COUNTS = 1 << 22  # documents x laws at a time
_LEAST_PERIOD, _MOST_PERIOD = 64, 1 << 16


@dataclass(frozen=True, slots=True)
class Graded:
    """Scores of n items with known laws under the null hypothesis, one column an expert.

    An item of group g takes step a with probability ``p[g, a]``, or is stochastically below that law, with values that never
    fall from step to step. That holds given the groups, which may depend on keyed noise of other tokens than the steps do, but
    ``p[group, -1]`` may not: it decides how the error is shared. Items of a document are independent.

    Attributes:
        group: i64[n] the law of each item.
        step: i64[n] what it came to.
        p: f64[groups, steps], rows sum to 1.
        values: i64[groups, steps, experts] scores in whole ``unit``.
        unit: nats; scores are logs of likelihood ratios, rounded.
        experts: names.
        shares: of the experts in a weighted Bonferroni correction; they sum to 1.
    """

    group: Ints
    step: Ints
    p: Floats
    values: Ints
    unit: float
    experts: tuple[str, ...]
    shares: tuple[float, ...]

    def take(self, rows: Ints) -> Graded:
        """The scores of some items."""
        return replace(self, group=self.group[rows], step=self.step[rows])

    @classmethod
    def join(cls, parts: Sequence[Graded]) -> Graded:
        """Scores under the same laws, one list after another."""
        group, step = (np.concatenate([getattr(part, name) for part in parts]) for name in ("group", "step"))
        return replace(parts[0], group=group, step=step)

    def log_p(self, document: Ints, documents: int) -> Floats:
        """f64[documents, experts] logs of upper bounds of P(sum of scores >= observed); 0 for documents without items.

        ``document`` is i64[n], ascending.
        """
        step = max(1, _COUNTS // max(len(self.p), 1))
        if documents <= step:
            return self._log_p(document, documents)
        starts = np.arange(0, documents, step)
        ends = np.searchsorted(document, [*starts, documents])
        return np.concatenate([
            self.take(np.arange(low, high))._log_p(document[low:high] - start, min(step, documents - int(start)))
            for start, low, high in zip(starts, ends[:-1], ends[1:], strict=True)
        ])

    def _log_p(self, document: Ints, documents: int) -> Floats:
        used, group = np.unique(self.group, return_inverse=True)
        counts = np.bincount(document * max(len(used), 1) + group.reshape(-1), minlength=documents * len(used))
        of_law = np.asarray(counts.reshape(documents, len(used)), dtype=np.float64)
        out = np.zeros((documents, len(self.experts)))
        for column in range(len(self.experts)):
            scores = self.values[self.group, self.step, column]
            totals = np.asarray(np.bincount(document, weights=scores, minlength=documents), dtype=np.float64)
            out[:, column] = log_sf(totals, of_law, self.p[used], self.values[used, :, column], self.unit)
        return out


def log_sf(totals: Floats, counts: Floats, p: Floats, values: Ints, unit: float) -> Floats:
    """Natural log of P(sum >= total) for m sums, rounded up: the bound of the module's text, or Chernoff's.

    Args:
        totals: f64[m], whole.
        counts: f64[m, g] items of each law.
        p: f64[g, a] probabilities, rows sum to 1.
        values: i64[g, a].
        unit: what a whole number is in nats; it only chooses the tilts that are tried.

    Returns:
        f64[m], at most 0.0.
    """
    n = counts.sum(1)
    out = np.zeros(len(n))
    if not counts.size:
        return out
    tilts = np.asarray(TILTS * unit, dtype=np.float64)
    log_m, mean, variance = _moments(tilts, p, values)
    # Rounding of n log M(c) and of the tilted laws, as a factor of the tail.
    slack = 8 * _EPS * (n[:, None] * (8.0 + p.shape[1] + np.abs(values).max() * tilts) + np.abs(totals)[:, None] * tilts)
    bounds = counts @ log_m - totals[:, None] * tilts + slack
    at = (bounds - np.log(-np.expm1(-tilts))).argmin(1)
    rows = np.arange(len(n))
    chernoff = np.minimum(bounds.min(1), 0.0)
    out = np.where(n > 0, chernoff, 0.0)
    sharp = np.flatnonzero((n > 0) & (chernoff < LOG_CLEAR) & (chernoff > LOG_EXTREME) & (n <= MOST_ITEMS))
    here, there = rows[sharp], at[sharp]
    period = _periods(totals[here], (counts @ mean)[here, there], (counts @ variance)[here, there], tilts[there])
    keys, where = np.unique(np.stack([there, period]), axis=1, return_inverse=True)
    for index in range(keys.shape[1]):
        part = here[where.reshape(-1) == index]
        tilt, length = int(keys[0, index]), int(keys[1, index])
        share = _share(totals[part], counts[part], p, values, float(tilts[tilt]), length)
        out[part] = np.minimum(out[part], bounds[part, tilt] + np.log(np.minimum(share, 1.0)))
    return out


def _moments(tilts: Floats, p: Floats, values: Ints) -> tuple[Floats, Floats, Floats]:
    """log M, mean and variance of each law under each tilt, f64[g, tilts]."""
    log_m, mean, variance = (np.empty((len(p), len(tilts))) for _ in range(3))
    for index, tilt in enumerate(tilts):
        tilted, log_m[:, index] = _tilted(p, values, float(tilt))
        mean[:, index] = (tilted * values).sum(1)
        variance[:, index] = (tilted * values**2).sum(1) - mean[:, index] ** 2
    return log_m, mean, np.maximum(variance, 0.0)


def _tilted(p: Floats, values: Ints, tilt: float) -> tuple[Floats, Floats]:
    """The laws with weights ``e^(tilt value)``, f64[g, a], and the logs of their normalisers."""
    exponent = tilt * values
    top = exponent.max(1, keepdims=True)
    weight = p * np.exp(exponent - top)
    total = weight.sum(1, keepdims=True)
    return weight / total, np.log(total[:, 0]) + top[:, 0]


def _periods(totals: Floats, mean: Floats, variance: Floats, tilt: Floats) -> Ints:
    """Powers of 2 for which shifted terms are about e^-16 of the tail."""
    sd = np.sqrt(variance)
    wanted = _LOG_ALIAS + np.log1p(2.5 * tilt * sd)
    wide = 1.2 * np.sqrt(2.0 * wanted * variance)
    below = np.where(tilt * tilt * variance < 2.0 * wanted, wanted / tilt + 0.5 * tilt * variance, wide)
    length = np.abs(mean - totals) + np.maximum(wide, below)
    return np.asarray(2 ** np.ceil(np.log2(np.clip(length, _LEAST_PERIOD, _MOST_PERIOD))), dtype=np.int64)


def _share(totals: Floats, counts: Floats, p: Floats, values: Ints, tilt: float, period: int) -> Floats:
    """Upper bound of the tail over ``M(c) e^(-c x)``, for sums that share tilt and period."""
    used = np.flatnonzero(counts.any(0))
    law, whole, n = _tilted(p[used], values[used], tilt)[0], values[used], counts[:, used]
    j = np.arange(period // 2 + 1)
    turn = np.exp(2j * np.pi * np.arange(period) / period)
    factor = np.zeros((len(used), j.size), np.complex128)
    for step in range(law.shape[1]):
        factor += law[:, step, None] * turn[(whole[:, step, None] * j) % period]
    with np.errstate(divide="ignore"):
        size = np.exp(n @ np.maximum(np.log(np.abs(factor)), -700.0))
    angle = n @ np.angle(factor)
    divisor = 1.0 - np.exp(-tilt) * turn[-j % period]
    weight = np.where((j == 0) | (2 * j == period), 1.0, 2.0) / period
    phase = turn[(-(totals.astype(np.int64)[:, None] * j)) % period] / divisor
    value = ((size * np.exp(1j * angle) * phase).real * weight).sum(1)
    error = _EPS * (n.sum(1) * (8.0 * law.shape[1] + 64.0) + period) * (weight / np.abs(divisor)).sum()
    return np.asarray(np.maximum(value, 0.0) + error)
