"""Decisions conditioned on propensity and difficulty: the Rasch model, and Yen's Q3 of its residuals.

Two models that both refuse a lot agree a lot; that says nothing of where either comes from. What is left after every
model's propensity (one per stratum) and every item's difficulty have been taken out does: refusing the same odd things.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]

RIDGE = 0.4
VARIANCE_FLOOR = 0.02
_STEPS = 80
_TOLERANCE = 1e-7


@dataclass(frozen=True, kw_only=True)
class RaschFit:
    """A fitted Rasch model.

    Attributes:
        propensity: (models, strata) float64, logit of a model's readiness in a stratum.
        difficulty: (items,) float64, logit offset of an item.
        expected: (models, items) float64, probability of the decision.
        residual: (models, items) float64, standardised residual, centred for each model; 0 where nothing was observed.
        observed: (models, items) bool.
    """

    propensity: Floats
    difficulty: Floats
    expected: Floats
    residual: Floats
    observed: NDArray[np.bool_]


def fit_rasch(decisions: Floats, strata: NDArray[np.int64], *, ridge: float = RIDGE) -> RaschFit:
    """Fit ``logit P = propensity[model, stratum] + difficulty[item]`` by alternating ridge Newton steps.

    Args:
        decisions: (models, items) in [0, 1], the share of samples in which the decision was taken; NaN where unobserved.
        strata: (items,) stratum of each item, counted from 0.
        ridge: penalty on both sets of parameters; keeps models and items without variation finite.

    Returns:
        The fit with its residuals (specs: "refusal / decision signature", steps 2 and 3).
    """
    observed = ~np.isnan(decisions)
    target = np.where(observed, decisions, 0.0)
    models, items = decisions.shape
    member = np.zeros((items, int(strata.max(initial=0)) + 1))
    member[np.arange(items), strata] = 1.0
    propensity = np.zeros((models, member.shape[1]))
    difficulty = np.zeros(items)
    for _ in range(_STEPS):
        error, weight = _errors(target, observed, propensity, difficulty, strata)
        step = np.clip((error.sum(0) - ridge * difficulty) / (weight.sum(0) + ridge), -1.0, 1.0)
        difficulty += step
        error, weight = _errors(target, observed, propensity, difficulty, strata)
        move = np.clip((error @ member - ridge * propensity) / (weight @ member + ridge), -1.0, 1.0)
        propensity += move
        if max(np.abs(step).max(initial=0.0), np.abs(move).max(initial=0.0)) < _TOLERANCE:
            break
    expected = expit(propensity[:, strata] + difficulty)
    spread = np.sqrt(np.maximum(expected * (1.0 - expected), VARIANCE_FLOOR))
    residual = np.where(observed, (target - expected) / spread, 0.0)
    mean = residual.sum(1) / np.maximum(observed.sum(1), 1)
    residual = np.where(observed, residual - mean[:, None], 0.0)
    return RaschFit(propensity=propensity, difficulty=difficulty, expected=expected, residual=residual, observed=observed)


def _errors(
    target: Floats, observed: NDArray[np.bool_], propensity: Floats, difficulty: Floats, strata: NDArray[np.int64],
) -> tuple[Floats, Floats]:
    expected = expit(propensity[:, strata] + difficulty)
    return np.where(observed, target - expected, 0.0), np.where(observed, expected * (1.0 - expected), 0.0)


def q3(residual: Floats, observed: NDArray[np.bool_], block: NDArray[np.int64], blocks: int) -> tuple[Floats, Floats]:
    """Yen's Q3: the cosine of two models' residuals over the items that both answered.

    Args:
        residual: (models, items), 0 where unobserved.
        observed: (models, items).
        block: (items,) block of each item, counted from 0.
        blocks: how many there are.

    Returns:
        (models, models) float64 in [-1, 1], NaN where a pair shares no item or one of the two has no residual at all; and
        (blocks, models, models), the same without one block of items each.
    """
    cover = observed.astype(np.float64)
    models = len(residual)
    inner, norms = np.zeros((blocks, models, models)), np.zeros((blocks, models, models))
    for number in range(blocks):
        mine = residual[:, block == number]
        inner[number] = mine @ mine.T
        norms[number] = np.square(mine) @ cover[:, block == number].T
    whole = _cosine(inner.sum(0), norms.sum(0))
    return whole, _cosine(inner.sum(0) - inner, norms.sum(0) - norms)


def _cosine(inner: Floats, norms: Floats) -> Floats:
    # Differences of sums may leave a rounding error where nothing is left.
    norms = np.where(norms > 1e-9, norms, 0.0)
    scale = np.sqrt(norms * np.swapaxes(norms, -1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0.0, inner / scale, np.nan)
