"""Exact tails of a sum of independent variables on the whole numbers, each of any known finite law, with a computed bound on
every error.

``S = sum_j w_j (X_j1 + .. + X_jc)``, all X independent, X_j. of law j. With K the cumulant generating function of S, any t >= 0
and S' the law tilted by ``e^(t s)``, ``P(S >= x) = e^(K(t) - t x) * sum_{s >= x} P(S' = s) e^(-t (s - x))``. Taking t with
``K'(t) = x`` puts x in the middle of S', so the sum is of order one however small the tail. The masses of S' come from the
product of the discrete Fourier transforms of the tilted laws, on the whole support or on a window that leaves out at most
2 e^-80 (Bernstein). Rounding enters as a distance: transforms are accurate in the 2-norm, and the damping weights have a known
2-norm, so by Cauchy-Schwarz the error of the sum is at most the product. Masses that are given are taken as exact.

References:
    Butler, Saddlepoint Approximations, 1.2 (tilting); Boucheron et al., Concentration Inequalities, 2.10 (Bernstein); Higham,
    Accuracy and Stability of Numerical Algorithms, 24.1 (the transform's error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from wmcheck.watermark.core.lattice import Tail
from wmcheck.watermark.core.tails import Floats

Ints = NDArray[np.int64]

_LOG_OUTSIDE = 80.0  # the window leaves out at most 2 e^-80 of the tilted law
_FEW = 8  # copies up to which a power is a plain product
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class LatticeLaw:
    """``copies`` independent variables, each ``weight`` times a variable that is ``low + i`` with probability ``masses[i]``."""

    low: int
    masses: Floats
    weight: int = 1
    copies: int = 1

    def __post_init__(self) -> None:
        masses = np.asarray(self.masses)
        if masses.ndim != 1 or not np.all(masses >= 0.0) or abs(float(masses.sum()) - 1.0) > 1e-9:
            raise ValueError("lattice law: masses must be 0 or more and sum to 1")
        if self.weight < 1 or self.copies < 0:
            raise ValueError(f"lattice law: need weight >= 1 and copies >= 0, got {self.weight} and {self.copies}")


def lattice_log_sf(total: int, laws: Sequence[LatticeLaw]) -> float:
    """Log of P(S >= total), rounded up: the upper end of `lattice_tail`."""
    return lattice_tail(total, laws).upper()


def lattice_tail(total: int, laws: Sequence[LatticeLaw]) -> Tail:
    """P(S >= total) for the sum S of independent variables, with an error bound; method in the module's text."""
    items = _Laws.make(laws)
    if items is None or total <= items.low:
        return Tail(0.0 if total <= (items.low if items else 0) else -math.inf, -math.inf)
    if total > items.top:
        return Tail(-math.inf, -math.inf)
    if total == items.top:
        value = float(items.copies @ items.log_masses[np.arange(len(items.ends)), items.ends])
        return Tail(value, value + math.log(_EPS * (16.0 - 16.0 * value + float(items.copies.sum()))))
    return _tilted_tail(total, items, items.solve(total))


@dataclass(frozen=True, slots=True)
class _Laws:
    """Laws in rows, padded with masses of 0: the values are weights times ``places``."""

    places: Ints
    log_masses: Floats
    weights: Ints
    copies: Floats
    ends: Ints
    low: int
    top: int

    @classmethod
    def make(cls, laws: Sequence[LatticeLaw]) -> _Laws | None:
        kept = [law for law in laws if law.copies]
        if not kept:
            return None
        longest = max(len(law.masses) for law in kept)
        masses = np.zeros((len(kept), longest))
        for row, law in zip(masses, kept, strict=True):
            row[: len(law.masses)] = law.masses
        places = np.array([law.low for law in kept], np.int64)[:, None] + np.arange(longest)
        weights, copies = (np.array([getattr(law, name) for law in kept], np.int64) for name in ("weight", "copies"))
        first, ends = (masses > 0.0).argmax(1), longest - 1 - (masses[:, ::-1] > 0.0).argmax(1)
        rows, scale = np.arange(len(kept)), weights * copies
        with np.errstate(divide="ignore"):
            logs = np.log(masses)
        low, top = int(scale @ places[rows, first]), int(scale @ places[rows, ends])
        return cls(places, logs, weights, copies.astype(np.float64), ends, low, top)

    def tilted(self, tilt: float, centres: Ints) -> tuple[Floats, Floats, Floats]:
        """Masses of the tilted laws, log of ``E e^(t w (X - centre))`` of each, and the relative error of both."""
        shift = tilt * self.weights[:, None] * (self.places - centres[:, None])
        logs = self.log_masses + shift
        peak = logs.max(1, keepdims=True)
        raw = np.exp(logs - peak)
        norm = raw.sum(1, keepdims=True)
        masses, log_norm = raw / norm, (peak + np.log(norm))[:, 0]
        sizes = np.where(masses > 0.0, np.abs(shift) - np.where(masses > 0.0, self.log_masses, 0.0), 0.0)
        return masses, log_norm, _EPS * (64.0 + 8.0 * (masses * sizes).sum(1) + 8.0 * np.abs(log_norm))

    def mean(self, tilt: float) -> float:
        """Mean of the tilted sum."""
        masses, _, _ = self.tilted(tilt, self.places[:, 0])
        return float((self.copies * self.weights) @ (masses * self.places).sum(1))

    def solve(self, total: int) -> float:
        """The t >= 0 at which the tilted mean is about ``total``, below the top; 0 for totals at or below the mean."""
        # Any t is valid: an inexact root moves the window by a little and is corrected in the exponent.
        if self.mean(0.0) >= total:
            return 0.0
        high = 1.0 / 64.0
        while self.mean(high) < total:
            high *= 4.0
        return float(optimize.brentq(lambda t: self.mean(t) - total, 0.0, high, xtol=1e-15, rtol=1e-9))


def _tilted_tail(total: int, items: _Laws, tilt: float) -> Tail:
    """The tail from the law tilted by ``tilt``."""
    start = np.rint((items.tilted(tilt, items.places[:, 0])[0] * items.places).sum(1)).astype(np.int64)
    masses, log_norm, relative = items.tilted(tilt, start)
    away = items.weights[:, None] * (items.places - start[:, None])
    offset = int((items.copies.astype(np.int64) * items.weights) @ start)
    lowest, size, outside = _window(items, masses, away, offset)
    first = total - offset - lowest
    if first <= 0:
        # All that is left out lies below the total or above the window.
        return Tail(0.0, -math.inf) if tilt == 0.0 else Tail(0.0, 0.0)
    product, spread = _product(items, masses, away, size)
    law = np.roll(fft.irfft(product, size), -lowest % size)[first:]
    damping = np.exp(-tilt * np.arange(len(law)))
    value = max(float(law @ damping), 0.0)
    norm = math.sqrt(float(damping @ damping))
    error = spread * norm + float(items.copies @ relative) + outside + 64.0 * _EPS * value
    exponent = float(items.copies @ log_norm) - tilt * (total - offset)
    slack = float(items.copies @ relative) + 8.0 * _EPS * (abs(exponent) + 2.0 * tilt * abs(total - offset))
    with np.errstate(divide="ignore"):
        log_value = float(np.log(value))
    return Tail(min(exponent + log_value, 0.0), exponent + slack + math.log(error + value * math.expm1(slack)))


def _window(items: _Laws, masses: Floats, away: Ints, offset: int) -> tuple[int, int, float]:
    """First place and length (a power of two) of the window around the tilted law, and a bound of the mass it leaves out."""
    whole = items.top - items.low + 1
    means = (masses * away).sum(1)
    spreads = away - means[:, None]
    variance = float(items.copies @ (masses * spreads**2).sum(1))
    third = _LOG_OUTSIDE * float(np.abs(np.where(masses > 0.0, spreads, 0.0)).max()) / 3.0
    radius = math.ceil(third + math.sqrt(third * third + 2.0 * _LOG_OUTSIDE * variance)) + 2
    if whole <= 2 * radius + 1:
        return items.low - offset, 1 << (whole - 1).bit_length(), 0.0
    size = 1 << (2 * radius).bit_length()
    return round(float(items.copies @ means)) - size // 2, size, 4.0 * math.exp(-_LOG_OUTSIDE)


def _product(items: _Laws, masses: Floats, away: Ints, size: int) -> tuple[NDArray[np.complex128], float]:
    """Transform of the tilted sum, and a bound of the error in the 2-norm of the masses that it gives."""
    product, steps, transforms = np.ones(size // 2 + 1, np.complex128), np.zeros(size // 2 + 1), 0.0
    accuracy = _EPS * 16.0 * size.bit_length()
    for row, copies in enumerate(items.copies.astype(np.int64)):
        wrapped = np.bincount(away[row] % size, weights=masses[row], minlength=size)
        found = fft.rfft(wrapped)
        if copies <= _FEW:
            for _ in range(copies):
                product *= found
            steps += copies
        else:
            found[found == 0.0] = 1e-300
            logs = copies * np.log(found)
            product *= np.exp(logs)
            steps += np.abs(logs.real) + np.abs(logs.imag) + 1.0
        transforms += accuracy * int(copies) * math.sqrt(float(wrapped @ wrapped))
    # 2-norms over the whole spectrum are at most sqrt 2 times those over this half of it.
    powers = _EPS * math.sqrt(2.0 / size) * float(np.linalg.norm(np.abs(product) * (16.0 + 8.0 * steps)))
    return product, 2.0 * transforms + powers + accuracy
