"""E-values: how several become one, and how p-values become them. Natural logs throughout.

An e-value has mean at most 1 under the null hypothesis, so that it exceeds 1 / alpha with probability at most alpha
(Markov). Which combination is one again depends on how the parts depend on each other:

- averages under weights fixed in advance always are: documents that share contexts under one key, several statistics of one
  text, several keys;
- products only where each part has mean at most 1 given the parts before it: documents under independent keys, or items
  that are new to one stream, see :mod:`wmcheck.watermark.core.sequential`.

To name hypotheses among many, :func:`~wmcheck.watermark.core.multiplicity.e_bh` bounds the share of false ones under any
dependence.

References:
    V. Vovk and R. Wang, "E-values: calibration, combination and applications", Annals of Statistics 49, 2021.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, logsumexp

Floats = NDArray[np.float64]


def average(log_e: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Weighted mean of e-values: an e-value however they depend on one another.

    ``E[sum_i w_i e_i] = sum_i w_i E[e_i] <= 1`` needs no independence. Weights must not depend on the data.

    Args:
        log_e: f64[m] natural logs of e-values; -inf (an e-value of 0) is allowed.
        weights: f64[m], 0 or more and not all 0; equal if not given. They are scaled to sum to 1.

    Returns:
        Natural log of the mean.

    Raises:
        ValueError: nothing to combine, NaN, or impossible weights.
    """
    values = _row(log_e)
    shares = np.ones(values.size) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != values.shape or not np.all(np.isfinite(shares)) or shares.min() < 0 or not shares.sum() > 0:
        raise ValueError("e-values: need one weight an e-value, 0 or more, not all 0")
    if np.all(np.isneginf(values[shares > 0])):
        return -math.inf
    return float(logsumexp(values, b=shares / shares.sum()))


def product(log_e: ArrayLike) -> float:
    """Product of e-values of which each has mean at most 1 given those before it, such as independent ones.

    Never for documents that share contexts under one key: what is chance in one is the same chance in the other, and the
    product counts it twice. Use :func:`average`, or one stream in which every item counts once.

    Args:
        log_e: f64[m] natural logs of e-values; -inf (an e-value of 0) is allowed, and decides.

    Returns:
        Natural log of the product.

    Raises:
        ValueError: nothing to combine, or NaN.
    """
    values = _row(log_e)
    return -math.inf if np.isneginf(values).any() else float(values.sum())


def calibrate(log_p: ArrayLike, kappa: float = 0.5) -> Floats:
    """The e-value ``kappa p^(kappa - 1)`` of each p-value; its integral over p in (0, 1) is 1.

    Args:
        log_p: natural logs of valid p-values, at most 0.
        kappa: in (0, 1), fixed in advance; 1/2 gives ``1 / (2 sqrt(p))``.

    Returns:
        Natural logs, in the shape given.

    Raises:
        ValueError: ``kappa`` or a p-value out of range.
    """
    if not 0.0 < kappa < 1.0:
        raise ValueError(f"calibrator: kappa must lie between 0 and 1, got {kappa}")
    return np.asarray(math.log(kappa) + (kappa - 1.0) * _logs(log_p), dtype=np.float64)


def calibrate_mixture(log_p: ArrayLike) -> Floats:
    """The e-value ``(1 - p + p log p) / (p log^2 p)`` of each p-value: the average of :func:`calibrate` over all kappa.

    No kappa to choose: for small p it is ``1 / (p log^2 p)``, within a few decades of ``1 / p``.

    Args:
        log_p: natural logs of valid p-values, at most 0.

    Returns:
        Natural logs, in the shape given; ``log(1/2)`` at p = 1.

    Raises:
        ValueError: a p-value above 1 or NaN.
    """
    depth = -_logs(log_p)
    # 1 - p + p log p is the regularised incomplete gamma function P(2, -log p): no cancellation near p = 1.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = depth + np.log(gammainc(2.0, depth)) - 2.0 * np.log(depth)
    return np.asarray(np.where(depth < 1e-150, math.log(0.5), found), dtype=np.float64)


def as_log_p(log_e: ArrayLike) -> Floats:
    """The p-value ``min(1, 1 / e)`` of each e-value (Markov's inequality), in natural logs."""
    values = np.asarray(log_e, np.float64)
    if np.isnan(values).any():
        raise ValueError("e-values: NaN")
    return np.minimum(-values, 0.0)


def _row(log_e: ArrayLike) -> Floats:
    values = np.asarray(log_e, np.float64)
    if values.ndim != 1 or not values.size or np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("e-values: need one row of one or more finite numbers")
    return values


def _logs(log_p: ArrayLike) -> Floats:
    values = np.asarray(log_p, np.float64)
    if np.isnan(values).any() or np.any(values > 0.0) or np.isinf(values).any():
        raise ValueError("calibrator: log p-values must be finite numbers at most 0")
    return values
