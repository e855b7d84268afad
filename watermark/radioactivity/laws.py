"""Tails of weighted sums of scores under each null law: exact, or proven upper bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.list_nulls import FixedListNull, HypergeometricNull
from wmcheck.watermark.core.mixed_nulls import MixedExponentialNull
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull
from wmcheck.watermark.core.weighted_tails import exponential_sum_log_sf
from wmcheck.watermark.radioactivity.smooth import bits_sum_log_sf

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["exponential", "bits", "list", "other"]

# Levels of weights: powers of 2^(1/4) down to 2^-10.5 of the largest weight, of either sign.
STEPS, OCTAVES = 4, 10.5
# Tilts of the bound for watermarked texts, in units of 1 / sd of a score: 2 to 2^-9.5 by halves of an octave.
TILTS = 2.0 * 2.0 ** (-0.5 * np.arange(24))
# Numbers of 32 bits stand for cells of the unit interval.
CELL = 2.0**-32
_ROUNDING = 1e-11


@dataclass(frozen=True)
class WeightedLaw:
    """The null law of sums of weight times score.

    Attributes:
        null: the law of one item.
        kind: exponential scores; bits; bits of lists of a fixed size, which are negatively associated; or others, whose sums have
            a known law for equal weights alone.
        parts: scales of the exponentials of one score, or whole weights of its bits.
        p: probability of a bit, rounded up.
    """

    null: Null
    kind: Kind
    parts: tuple[float, ...]
    p: float = 0.5

    @classmethod
    def of(cls, null: Null, where: str = "weighted_test", *, equal: bool = False) -> WeightedLaw:
        """The law for items of ``null``; of ``equal`` weights every null law has one.

        Raises:
            ConfigError: no proven tail of weighted sums of such items is known here.
        """
        if isinstance(null, ExponentialNull):
            return cls(null, "exponential", (1.0,))
        if isinstance(null, MixedExponentialNull):
            return cls(null, "exponential", tuple(weight for weight in null.weights if weight))
        if isinstance(null, BernoulliNull):
            return cls(null, "bits", (1.0,), float(np.nextafter(null.mean(), 1.0)))
        if isinstance(null, WeightedBernoulliNull):
            return cls(null, "bits", tuple(float(weight) for weight in null.weights), null.p)
        if isinstance(null, (FixedListNull, HypergeometricNull)):
            return cls(null, "list", (1.0,), float(np.nextafter(null.mean(), 1.0)))
        if equal:
            return cls(null, "other", (1.0,))
        raise ConfigError(
            f"weighted sums of such scores have no proven law here: {null.name}", where=where,
            hint="the reading and the sampled test suit every contract that scores tokens",
        )

    def log_sf(self, totals: Floats, levels: Floats) -> Floats:
        """Natural logs of P(sum of levels times scores >= total), at most 0: exact, or proven upper bounds.

        Args:
            totals: f64[m] for the same items.
            levels: f64[k], not 0, of few distinct values: the weights of the items. Those of lists of a fixed size are positive.
        """
        x = np.asarray(totals, np.float64)
        if not len(levels):
            return np.zeros(len(x))
        weights, counts = np.unique(levels, return_counts=True)
        if len(weights) == 1 and weights[0] > 0:
            return np.asarray(self.null.log_sf(self._rounded(x / weights[0]), np.full(len(x), counts[0])), np.float64)
        if self.kind == "bits" or (self.kind == "exponential" and weights[0] > 0):
            products = np.multiply.outer(weights, np.asarray(self.parts)).ravel()
            distinct, place = np.unique(products, return_inverse=True)
            merged = np.bincount(place, np.repeat(counts, len(self.parts)), len(distinct))
            if self.kind == "bits":
                return bits_sum_log_sf(x, distinct, merged.astype(np.float64), self.p)
            return exponential_sum_log_sf(x, distinct, np.broadcast_to(merged.astype(np.int64), (len(x), len(merged))))
        return np.array([self.chernoff(float(one), weights, counts) for one in x])

    def chernoff(self, total: float, weights: Floats, counts: Ints) -> float:
        """Log of Chernoff's bound of P(sum >= total) for weights of either sign.

        Bits of lists of a fixed size are negatively associated, so that the moment generating function of a sum with weights of
        one sign is at most that of independent bits (K. Joag-Dev and F. Proschan, Ann. Statist. 11, 1983).
        """
        mean = float(counts @ weights) * self.null.mean()
        if total <= mean or not np.any(weights):
            return 0.0
        top = float(weights.max(initial=0.0)) * max(self.parts)
        highest = 1.0 / top if self.kind == "exponential" and top > 0 else math.inf
        low, high = 0.0, min(highest, 1.0 / max(float(np.abs(weights).max()), 1e-300))
        while math.isinf(highest) and self._slope(high, weights, counts) < total and high * top < 600.0:
            low, high = high, 2.0 * high
        for _ in range(80):
            middle = 0.5 * (low + high)
            if self._slope(middle, weights, counts) < total:
                low = middle
            else:
                high = middle
        cumulant = self.log_mgf(low, weights, counts)
        return min(0.0, cumulant - low * total + _ROUNDING * (abs(cumulant) + abs(low * total) + 1.0))

    def log_mgf(self, tilt: float, weights: Floats, counts: Any = 1) -> float:
        """Upper bound of the log of E exp(tilt x sum of weights x scores), infinite where there is none."""
        total = 0.0
        for part in self.parts:
            at = tilt * part * weights
            if self.kind == "exponential":
                if np.any(at >= 1.0):
                    return math.inf
                # Scores are ends of cells: below Exp(1), and by at most a cell of the unit interval.
                total += float(np.sum(counts * (-np.log1p(-at) + np.where(at < 0, (1.0 - at) * 2.0 * CELL, 0.0))))
            else:
                total += float(np.sum(counts * (np.logaddexp(math.log1p(-self.p), math.log(self.p) + at))))
        return total

    def _slope(self, tilt: float, weights: Floats, counts: Ints) -> float:
        total = 0.0
        for part in self.parts:
            at = tilt * part * weights
            if self.kind == "exponential":
                total += float(np.sum(counts * part * weights / np.maximum(1.0 - at, 1e-300)))
            else:
                up = 1.0 / (1.0 + np.exp(-np.clip(at + math.log(self.p / (1.0 - self.p)), -700, 700)))
                total += float(np.sum(counts * part * weights * up))
        return total

    def betting(self, total: float, weights: Floats) -> float:
        """Log of a p-value where each weight may depend on the scores of earlier windows: the reciprocal of an e-value.

        ``exp(tilt S - sum of log E exp(tilt w X))`` has mean at most 1 for each tilt that was fixed beforehand if the weights of
        a window are known before its scores (V. de la Pena, Ann. Probab. 27, 1999); so has the mean over ``TILTS``.
        """
        weights, counts = np.unique(weights, return_counts=True)
        sd = math.sqrt(self.null.variance())
        logs: list[float] = [float(tilt) / sd * total - self.log_mgf(float(tilt / sd), weights, counts) for tilt in TILTS]
        best = max(logs)
        if not math.isfinite(best):
            return 0.0
        value = best + math.log(sum(math.exp(log - best) for log in logs) / len(TILTS))
        return min(0.0, -value + _ROUNDING * (abs(value) + 1.0))

    def describe(self, n: int, levels: int, text: str, *, signed: bool = False) -> str:
        """The law, as printed in a report."""
        what = f"sum of {n} items, each {self.null.name}, with weights of {levels} level{'s' if levels != 1 else ''}"
        if text == "marked":
            return f"{what}: reciprocal of an e-value over {len(TILTS)} tilts, as the weights may depend on earlier scores"
        if levels <= 1:
            return self.null.describe(n)
        chernoff = self.kind == "list" or (signed and self.kind == "exponential")
        bound = "Chernoff's bound" if chernoff else "Fourier inversion, as an upper bound"
        return f"{what}{' of both signs' if signed else ''}: {bound}"

    def _rounded(self, totals: Floats) -> Floats:
        return totals if self.kind == "exponential" else np.rint(totals)


def levels_of(weights: Floats, top: float | None = None) -> tuple[Floats, float]:
    """Weights in steps: f64[k] signed powers of 2^(1/4), 0 for those below 2^-10.5; and the weight of step 1.

    Rounding is a choice that no key enters; it moves a weight by 9% at most, which costs about a tenth of a percent of z.

    Args:
        weights: f64[k] of either sign.
        top: the weight of step 1; default the largest.
    """
    size = np.abs(weights)
    top = float(size.max(initial=0.0)) if top is None else top
    if not top:
        return np.zeros(len(weights)), 1.0
    with np.errstate(divide="ignore"):
        step = np.rint(np.log2(size / top) * STEPS)
    return np.where(step >= -STEPS * OCTAVES, np.sign(weights) * 2.0 ** (np.maximum(step, -1e4) / STEPS), 0.0), top
