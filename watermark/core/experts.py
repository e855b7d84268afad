"""Experts: fixed alternatives to a null law, as one e-value an item.

An expert is a law that scores of watermarked text might follow; its e-value of an item is the likelihood ratio to the null
law, with mean 1 (at most 1 where scores are only stochastically below the null law, since every ratio here grows with
the score). Products over items are e-values; several experts are combined by averaging their products.

The shares were fitted on synthetic next-token laws of 1, 2 and 4 bits (``benchmarks/synthetic.py``). They are chosen before
any text is seen: a poor fit costs power, never validity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull

Floats = NDArray[np.float64]

# Beta(b, 1) laws of the pivot r = 1 - e^-score; 1 is the null law.
POWERS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
BETA_SHARES = {
    "1 bit": (0.4939, 0.2035, 0.0653, 0.039, 0.064, 0.066, 0.0238, 0.0266, 0.0179),
    "2 bits": (0.2975, 0.2211, 0.075, 0.0337, 0.085, 0.116, 0.0423, 0.0657, 0.0637),
    "4 bits": (0.1408, 0.1077, 0.0803, 0.0726, 0.0611, 0.1431, 0.0716, 0.1235, 0.1994),
}
# Shift of the mean of a weighted sum of bits, in standard deviations of one item; 0 is the null law.
OFFSETS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
TILT_SHARES = {
    "1 bit": (0.2462, 0.6205, 0.0714, 0.0083, 0.0534, 0.0003, 0.0),
    "2 bits": (0.0107, 0.6743, 0.1367, 0.0285, 0.1497, 0.0, 0.0),
    "4 bits": (0.0, 0.2988, 0.1275, 0.0166, 0.5329, 0.0241, 0.0),
}
# Share of the way from gamma to 1 that the green share has moved.
GREEN_STEPS = (0.05, 0.1, 0.2, 0.35, 0.5)


class Expert(Protocol):
    """One alternative to a null law.

    Attributes:
        name: for reports.
    """

    @property
    def name(self) -> str: ...

    def log_e(self, scores: Floats) -> Floats:
        """Natural logs of the e-values, f64 of the shape of the reduced scores; a nondecreasing function of the score."""
        ...

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """n independent reduced scores under this alternative."""
        ...


@dataclass(frozen=True)
class BetaMixture:
    """Scores ``-log(1 - r)`` whose pivot r is a mixture of Beta(b, 1) laws, b at least 1; the null law is b = 1.

    Attributes:
        powers: the b.
        shares: of the components; they sum to 1.

    References:
        Pivots of Gumbel-max text follow Beta(1/P, 1) given the token's probability P (Aaronson 2022; Li et al. 2024).
    """

    name: str
    powers: tuple[float, ...]
    shares: tuple[float, ...]

    def log_e(self, scores: Floats) -> Floats:
        powers, shares = np.array(self.powers), np.array(self.shares) / sum(self.shares)
        with np.errstate(divide="ignore"):
            log_r = np.log(-np.expm1(-np.asarray(scores, np.float64)))
        ratio = np.zeros(np.shape(scores))
        # Powers of r directly: every term is at most 1,000, so nothing overflows and no exponent needs a shift.
        with np.errstate(invalid="ignore"):
            for power, share in zip(powers, shares, strict=True):
                ratio += share * power * (np.exp((power - 1.0) * log_r) if power > 1.0 else 1.0)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(ratio), dtype=np.float64)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        shares = np.array(self.shares) / sum(self.shares)
        powers = np.array(self.powers)[rng.choice(len(shares), n, p=shares)]
        # 1 - u^(1/b) by expm1: the score of a pivot near 1 keeps its precision.
        return np.asarray(-np.log(-np.expm1(np.log(rng.random(n)) / powers)), dtype=np.float64)


@dataclass(frozen=True)
class GreenShare:
    """Green with probability q in place of gamma."""

    name: str
    null: BernoulliNull
    q: float

    def log_e(self, scores: Floats) -> Floats:
        gamma = self.null.mean()
        gain, loss = np.log(self.q / gamma), np.log1p(-self.q) - np.log1p(-gamma)
        return np.asarray(np.where(np.asarray(scores) > 0.5, gain, loss), dtype=np.float64)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        return (rng.random(n) < self.q).astype(np.float64)


@dataclass(frozen=True)
class TiltMixture:
    """Exponential tilts of a weighted sum of bits: ``exp(theta score - K(theta))``, K the null law's cumulant function.

    Attributes:
        offsets: theta is ``offset / sd`` of one item: its mean moves by about ``offset`` standard deviations.
        shares: of the tilts; they sum to 1.
    """

    name: str
    null: WeightedBernoulliNull
    offsets: tuple[float, ...]
    shares: tuple[float, ...]

    def log_e(self, scores: Floats) -> Floats:
        thetas = self._thetas()
        weights = np.array(self.null.weights, np.float64)
        log_p, log_q = np.log(self.null.p), np.log1p(-self.null.p)
        cumulants = np.logaddexp(log_q, log_p + np.multiply.outer(thetas, weights)).sum(1)
        used = np.array(self.shares) > 0
        shares = np.array(self.shares)[used] / sum(self.shares)
        terms = np.multiply.outer(np.asarray(scores, np.float64), thetas[used]) - cumulants[used] + np.log(shares)
        return np.asarray(logsumexp(terms, axis=-1))

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        thetas = self._thetas()[rng.choice(len(self.shares), n, p=np.array(self.shares) / sum(self.shares))]
        weights = np.array(self.null.weights, np.float64)
        odds = np.log(self.null.p) - np.log1p(-self.null.p) + np.multiply.outer(thetas, weights)
        return np.asarray((rng.random(odds.shape) < 1.0 / (1.0 + np.exp(-odds))) @ weights)

    def _thetas(self) -> Floats:
        return np.asarray(np.array(self.offsets) / np.sqrt(self.null.variance()), dtype=np.float64)


@singledispatch
def experts(null: Null) -> Sequence[Expert]:
    """The experts of a null law, all chosen in advance; none for a law that has no entry here.

    A law of another distribution adds its own with ``experts.register``.
    """
    return ()


@experts.register
def _(null: ExponentialNull) -> Sequence[Expert]:
    return [BetaMixture(name, POWERS, shares) for name, shares in BETA_SHARES.items()]


@experts.register
def _(null: BernoulliNull) -> Sequence[Expert]:
    gamma = null.mean()
    return [GreenShare(f"green {step:g}", null, gamma + (1.0 - gamma) * step) for step in GREEN_STEPS]


@experts.register
def _(null: WeightedBernoulliNull) -> Sequence[Expert]:
    return [TiltMixture(name, null, OFFSETS, shares) for name, shares in TILT_SHARES.items()]
