"""From similarity to a likelihood ratio: calibration, its validation measures, and the bound that the data set.

Natural logarithms inside, base 10 in reports. Sources: Brümmer & du Preez 2006 (Cllr, PAV), Morrison 2013 (logistic
calibration), Vergeer et al. 2016 (ELUB).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

Floats = NDArray[np.float64]

# On slopes of scores that have unit spread; keeps collinear signatures from taking opposite signs.
_RIDGE = 1e-3
_PSEUDO_PAIR = 0.5


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """``log LR = intercept + slopes . scores``.

    Attributes:
        intercept: natural logarithm.
        slopes: (signatures,) per unit of normalised score.
    """

    intercept: float
    slopes: Floats

    def log_lr(self, scores: Floats) -> Floats:
        """Natural log likelihood ratio of each row of ``scores`` (pairs, signatures), unbounded."""
        value: Floats = self.intercept + scores @ self.slopes
        return value


def calibrate(
    target: Floats, alternative: Floats, *, weights: tuple[Floats, Floats] | None = None, falling: bool = False,
) -> Calibration:
    """Prior-balanced logistic regression of two sets of score vectors, shrunk towards LR 1.

    Each class lends the other half a pseudo pair, spread over its own scores (Krichevsky and Trofimov's rule): where only
    targets were ever seen, the density of alternatives is taken as ``(1/2)/(n + 1)`` and not as zero. More score never
    weakens the target proposition (slopes are not negative), or never strengthens it where ``falling``.

    Args:
        target: (n1, signatures) scores of pairs under the target proposition.
        alternative: (n0, signatures) scores of pairs under the alternative.
        weights: multiplicity of every pair in both sets, for the bootstrap.
        falling: the alternative explains *high* scores better (the endpoint is the teacher itself).

    Raises:
        ValueError: a set is empty.
    """
    if not len(target) or not len(alternative):
        raise ValueError("calibration needs pairs of both kinds")
    mass1, mass0 = weights if weights is not None else (np.ones(len(target)), np.ones(len(alternative)))
    lend1, lend0 = _PSEUDO_PAIR / (len(target) + 1.0), _PSEUDO_PAIR / (len(alternative) + 1.0)
    share1, share0 = mass1 / mass1.sum(), mass0 / mass0.sum()
    scores = np.vstack([target, alternative])
    # Mass of the target and of the alternative class at every score.
    positive = 0.5 * np.concatenate([(1.0 - lend1) * share1, lend1 * share0])
    negative = 0.5 * np.concatenate([lend0 * share1, (1.0 - lend0) * share0])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = parameters[0] + scores @ parameters[1:]
        value = positive @ np.logaddexp(0.0, -z) + negative @ np.logaddexp(0.0, z)
        slope = (positive + negative) * expit(z) - positive
        gradient = np.concatenate([[slope.sum()], scores.T @ slope + 2.0 * _RIDGE * parameters[1:]])
        return float(value + _RIDGE * parameters[1:] @ parameters[1:]), gradient

    width = scores.shape[1]
    bounds = [(None, None)] + [(None, 0.0) if falling else (0.0, None)] * width
    found = minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return Calibration(intercept=float(found.x[0]), slopes=np.asarray(found.x[1:]))


def cllr(target: Floats, alternative: Floats) -> float:
    """Log-likelihood-ratio cost in bits: 0 is perfect, 1 is what saying nothing costs.

    Args:
        target, alternative: natural log LRs of validation pairs under either proposition.
    """
    return float(np.logaddexp(0.0, -target).mean() + np.logaddexp(0.0, alternative).mean()) / (2.0 * math.log(2.0))


def cllr_min(target: Floats, alternative: Floats) -> float:
    """Cllr after the best monotone recalibration (pool adjacent violators): what discrimination alone costs."""
    scores = np.concatenate([target, alternative])
    truth = np.concatenate([np.ones(len(target)), np.zeros(len(alternative))])
    mass = np.concatenate([np.full(len(target), 0.5 / len(target)), np.full(len(alternative), 0.5 / len(alternative))])
    # Equal scores are one step: they cannot be told apart by any recalibration.
    group = np.unique(scores, return_inverse=True)[1]
    weight = np.bincount(group, mass)
    share = np.bincount(group, mass * truth) / weight
    posterior = isotonic_regression(share, weights=weight).x[group]
    tiny = 1e-15
    log_odds = np.log(np.maximum(posterior, tiny)) - np.log(np.maximum(1.0 - posterior, tiny))
    return cllr(log_odds[truth == 1.0], log_odds[truth == 0.0])


def auc(target: Floats, alternative: Floats) -> float:
    """Probability that a target pair scores above an alternative one; ties count half."""
    order = np.sort(alternative)
    below = np.searchsorted(order, target, side="left")
    through = np.searchsorted(order, target, side="right")
    return float(0.5 * (below + through).mean() / len(order))


def true_positive_rate(target: Floats, alternative: Floats, false_positive_rate: float) -> float:
    """Share of target pairs above the score that at most this share of alternative pairs exceeds."""
    allowed = int(np.floor(false_positive_rate * len(alternative) + 1e-9))
    threshold = np.sort(alternative)[::-1][allowed]
    return float((target > threshold).mean())


def elub(target: Floats, alternative: Floats, *, independent: tuple[int, int]) -> tuple[float, float]:
    """The range of log LRs that the validation pairs can support (empirical lower and upper bound).

    At a threshold t a system earns its keep if ``P(LR < t | target) + t P(LR >= t | alternative) <= min(1, t)``. One
    misleading pair is added on either side, and pairs count as ``independent`` says: pairs that share a model are not.

    Args:
        target, alternative: natural log LRs of validation pairs.
        independent: effective number of target and of alternative pairs (families that they come from).

    Returns:
        Natural logarithms, lower <= 0 <= upper.
    """
    n1, n0 = independent
    high = np.sort(np.unique(np.concatenate([target, alternative])))
    upper = lower = 0.0
    for t in high[high > 0.0]:
        false = (n0 * float((alternative >= t).mean()) + 1.0) / (n0 + 1.0)
        true = float((target >= t).mean())
        # Beyond the last threshold that pays, nothing is supported however large the fitted value.
        if true > 0.0:
            upper = max(upper, min(float(t), float(np.log(true / false))))
    for t in high[high < 0.0]:
        missed = (n1 * float((target <= t).mean()) + 1.0) / (n1 + 1.0)
        rejected = float((alternative <= t).mean())
        if rejected > 0.0:
            lower = min(lower, max(float(t), float(np.log(missed / rejected))))
    return lower, upper


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How a likelihood ratio system did on pairs that it was not fitted on.

    Attributes:
        target, alternative: natural log LRs under either proposition, unbounded.
        auc, cllr, cllr_min: see the functions of those names; log LRs stand in for scores.
        tpr_01, tpr_001: true positive rate at 1% and at 0.1% false positives.
        misleading_alternative, strongly_misleading: share of alternative pairs with LR > 1 and with LR > 100.
        misleading_target: share of target pairs with LR < 1.
        strong_target: share of target pairs with LR > 100.
    """

    target: Floats
    alternative: Floats
    auc: float
    cllr: float
    cllr_min: float
    tpr_01: float
    tpr_001: float
    misleading_alternative: float
    strongly_misleading: float
    misleading_target: float
    strong_target: float

    def to_dict(self) -> dict[str, float | int]:
        """The measures without the pairs."""
        names = [field.name for field in fields(self) if field.name not in ("target", "alternative")]
        measures: dict[str, float | int] = {name: getattr(self, name) for name in names}
        return {"n_target": len(self.target), "n_alternative": len(self.alternative), **measures}


def validate(target: Floats, alternative: Floats) -> Validation:
    """Measure held-out natural log LRs of target and alternative pairs."""
    hundred = np.log(100.0)
    return Validation(
        target=target, alternative=alternative, auc=auc(target, alternative), cllr=cllr(target, alternative),
        cllr_min=cllr_min(target, alternative), tpr_01=true_positive_rate(target, alternative, 0.01),
        tpr_001=true_positive_rate(target, alternative, 0.001), misleading_alternative=float((alternative > 0.0).mean()),
        strongly_misleading=float((alternative > hundred).mean()), misleading_target=float((target < 0.0).mean()),
        strong_target=float((target > hundred).mean()),
    )


def tippett(log_lrs: Floats, grid: Sequence[float] | Floats) -> Floats:
    """Share of pairs whose log LR is at least each value of ``grid``: one curve of a Tippett plot."""
    order = np.sort(log_lrs)
    return 1.0 - np.searchsorted(order, np.asarray(grid), side="left") / len(order)
