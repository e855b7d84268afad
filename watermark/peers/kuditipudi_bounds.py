"""Proven bounds of the alignment cost under a random key, and the laws of single items.

Any shift of the key sequence is as random as any other, so a union over shifts and blocks bounds the least cost. At one shift the
costs of the exponential scheme are at most Exp(1) each, independent for distinct pairs of place and token. Those of the inverse
transform scheme are distances ``|U - eta|`` of uniforms ``U``, one a place, from the known ranks ``eta`` of the tokens: their
generating functions are integrals of exponentials of piecewise linear functions, which Chernoff's bound takes as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.tails import Floats
from wmcheck.watermark.prf import I64

# Tilts tried: the bound holds at each, so it holds at the best of them.
TILTS = 0.1 * 1.04 ** np.arange(300)
# Uniforms stand on a grid of this step, rounded down, so that a distance is at most this much too small.
GRID = 2.0**-24


def distance_log_p(least: Floats, eta: Floats, bounds: tuple[I64, I64], residues: I64 | None) -> Floats:
    """Natural log of Chernoff's bound of P(sum of distances of a block <= its least), one shift.

    Args:
        least: f64[blocks] sums.
        eta: f64[m] relative ranks of the tokens.
        bounds: i64[blocks] each, tokens of a block.
        residues: i64[m] place of the key sequence, where tokens share places (one block); None where none do.
    """
    low, high = bounds
    slack = least + GRID * (high - low)
    if residues is not None:
        return np.asarray(np.minimum((_shared(eta, residues) + TILTS * slack).min(keepdims=True), 0.0))
    best = np.zeros(len(least))
    for tilt in TILTS:
        running = np.concatenate([[0.0], np.cumsum(np.log(_one(eta, tilt)))])
        np.minimum(best, running[high] - running[low] + tilt * slack, out=best)
    return best


def _one(eta: Floats, tilt: float) -> Floats:
    """``E exp(-t |U - eta|)``."""
    return np.asarray(-(np.expm1(-tilt * eta) + np.expm1(-tilt * (1.0 - eta))) / tilt)


def _shared(eta: Floats, residues: I64) -> Floats:
    """For each tilt, log of ``E exp(-t sum |U_r - eta|)`` where tokens of one residue ``r`` share the uniform ``U_r``."""
    order = np.lexsort((eta, residues))
    total, tilts = np.zeros(len(TILTS)), TILTS[:, None]
    for ranks in np.split(eta[order], np.flatnonzero(np.diff(residues[order])) + 1):
        knots = np.concatenate([[0.0], ranks, [1.0]])
        # Between knots the sum of distances is linear: it changes by (ranks below) - (ranks above) a unit.
        slopes = np.abs(2.0 * np.arange(len(ranks) + 1) - len(ranks))
        heights = np.abs(knots[:, None] - ranks[None]).sum(1)
        base, wide = np.minimum(heights[:-1], heights[1:]), np.diff(knots)
        flat = slopes == 0.0
        steep = tilts * np.where(flat, 1.0, slopes)
        part = np.where(flat, wide, -np.expm1(-steep * wide) / steep)
        lowest = float(base.min())
        total += np.log((np.exp(tilts * (lowest - base)) * part).sum(1)) - TILTS * lowest
    return total


@dataclass(frozen=True)
class DistanceNull:
    """One item is ``-|U - V|`` with independent uniforms: the negative distance of the inverse transform scheme.

    Its sums are bounded by Chernoff's inequality: for plans, as a text knows the ranks of its own tokens.
    """

    @property
    def name(self) -> str:
        return "negative distance of uniforms"

    def reduce(self, scores: Floats) -> Floats:
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 1 or not np.all((scores >= -1.0) & (scores <= 0.0)):
            raise ValueError("distance null: scores must be one row of numbers from -1 to 0")
        return scores

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        totals, n = np.broadcast_arrays(np.asarray(totals, np.float64), np.asarray(n, np.float64))
        one = np.log(2.0 / TILTS + 2.0 * np.expm1(-TILTS) / TILTS**2)
        found = (n[..., None] * one - totals[..., None] * TILTS).min(-1)
        return np.where(n == 0, 0.0, np.minimum(found, 0.0))

    def mean(self) -> float:
        return -1.0 / 3.0

    def variance(self) -> float:
        return 1.0 / 18.0

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return np.asarray(-np.abs(rng.random(n) - rng.random(n)))

    def describe(self, n: int) -> str:
        return f"sum of {n} distances of uniforms, Chernoff's bound"


@dataclass(frozen=True)
class AlignedNull:
    """The law of one item, and of the best of all shifts for sums.

    Args:
        base: the law at one shift.
        shifts: how many are tried.
        permutations: number of random keys of a permutation test; 0 for the union bound.
    """

    base: Null
    shifts: int
    permutations: int

    @property
    def name(self) -> str:
        return self.base.name

    def reduce(self, scores: Floats) -> Floats:
        return self.base.reduce(scores)

    def log_sf(self, totals: ArrayLike, n: ArrayLike) -> Floats:
        found = np.minimum(self.base.log_sf(totals, n) + math.log(self.shifts), 0.0)
        if self.permutations:
            found = np.maximum(found, -math.log(self.permutations + 1))
        return np.where(np.asarray(n) == 0, 0.0, found)

    def mean(self) -> float:
        return self.base.mean()

    def variance(self) -> float:
        return self.base.variance()

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return self.base.sample(n, rng)

    def describe(self, n: int) -> str:
        if self.permutations:
            return f"rank among {self.permutations:,} random key sequences (n={n})"
        return f"{self.base.describe(n)}, best of {self.shifts} shifts by a union bound"
