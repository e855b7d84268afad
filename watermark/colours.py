"""Red/green lists under a model's predictions: likelihood ratios of the colours.

The transform gives w the probability ``P_w e^(d g_w) / Z``, ``Z = sum_v P_v e^(d g_v) = 1 + sum_v P_v (e^d - 1) g_v``, with
independent colours ``g_v``, green with probability gamma. It is biased: the ratio is taken to the mean over the colours, not
to ``P_w``. With ``J_g = E[1 / Z | g_w = g]`` over the others' colours and ``a_g = e^(d g) J_g``:

- **all colours**: ``L = (e^(d g_w) / Z) / (gamma a_1 + (1 - gamma) a_0)``. The null mean is 1 if the denominator is the mean
  of the numerator, and less if it is larger.
- **own colour**: ``L_g = R^g / (gamma R + 1 - gamma)`` with g the colour of w. For **any** R > 0 that is independent of this
  colour its null mean is 1, and its law is known. R is the ratio of the two probabilities of w: given the colours of the other
  candidates where they may be read (``e^d Z_0 / Z_1``), else in the mean over them (``a_1 / a_0``).

J is an integral of a product, ``E[1 / Z] = int_0^inf h(t) dt``, ``h(t) = E e^-(t Z)``. A Gauss-Radau rule with a node at the left
end of an interval falls short of the integral by an odd derivative of h times a positive number, and h is completely monotone
(a mean of decaying exponentials), so its odd derivatives are negative; beyond the last interval h falls at least like
``e^-t``, as Z is at least 1: **the rule errs upwards only**. It is the denominator of "all colours", so the e-value stays one.
Intervals that grow by a factor of 4 keep it within 2e-4 of J for any strength d.

Which items: who reads the colours of other candidates must not have two items with a (seed, candidate) in common, and takes one
item for each distinct window with seeds that are made of the whole window. "Own colour" with a_1 / a_0 reads what the score
reads, so its items are independent whenever those of the count are: one for each distinct (seed, token). It serves every rule.

References:
    Kirchenbauer et al., "A watermark for large language models", 2023, section 3 (the transform); W. Gautschi, Orthogonal
    Polynomials, 3.1.4 (Radau rules and the sign of their remainder).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import roots_jacobi

from wmcheck.watermark.core.graded import Graded
from wmcheck.watermark.law import Aided, Floats, Law
from wmcheck.watermark.ratios import parts, probabilities

# Nodes of an interval, and where the last one ends.
NODES = 5
_GROWTH, _LAST = 4.0, 16.0
UNIT = 0.01
# Steps of log R between 0 and d.
LEVELS = 128
MIXED = (0.99, 0.7)


def mean_inverse(p: Floats, gamma: float, delta: float) -> tuple[Floats, Floats]:
    """f64[n] upper bounds of ``J_0`` and ``J_1``: the mean of 1 / Z where candidate 0 is red, and where it is green.

    Args:
        p: f64[n, k] rows that sum to 1.
        gamma: share of green.
        delta: nats.
    """
    gain = np.expm1(delta)
    red, green = np.zeros(len(p)), np.zeros(len(p))
    for node, weight in zip(*_rule(delta), strict=True):
        others = weight * np.prod(1.0 - gamma + gamma * np.exp(-node * gain * p[:, 1:]), axis=1)
        red += others
        green += others * np.exp(-node * gain * p[:, 0])
    return red, green


def colour_terms(green: NDArray[np.bool_], law: Law, gamma: float, delta: float, *, shared: bool) -> Aided:
    """E-values and graded scores of n items by colours.

    Args:
        green: bool[n, k] colours of the candidates; only those of column 0 are read if ``shared``.
        law: predictions; candidates must be distinct, see :func:`wmcheck.watermark.ratios.distinct`.
        gamma, delta: of the scheme.
        shared: items may share a (seed, candidate): only "own colour" is used.
    """
    n = len(law)
    log_ratio, full = np.zeros(n), np.ones(n)
    for rows, part in parts(law):
        p = probabilities(part.log_p)
        red, bright = mean_inverse(p, gamma, delta)
        if shared:
            log_ratio[rows] = np.log(bright / red) + delta
            continue
        others = 1.0 + np.expm1(delta) * (p[:, 1:] * green[rows, 1:]).sum(1)
        gain = np.expm1(delta) * p[:, 0]
        log_ratio[rows] = np.log(others / (others + gain)) + delta
        above = np.exp(delta * (green[rows, 0] - 1.0)) / (others + gain * green[rows, 0])
        full[rows] = above / (gamma * bright + (1.0 - gamma) * np.exp(-delta) * red)
    graded = _own_colour(green[:, 0], np.where(law.known, log_ratio, 0.0), gamma, delta, 1.0 if shared else 0.4)
    own = np.log(_own_table(gamma, delta))[graded.group, graded.step][:, None]
    if shared:
        return Aided(own, ("own colour",), None, (1.0,), graded)
    whole = np.log((1.0 - np.array(MIXED)) + np.multiply.outer(np.where(law.known, full, 1.0), np.array(MIXED)))
    names = ("own colour", *(f"all colours, {share:g}" for share in MIXED))
    return Aided(np.concatenate([own, whole], axis=1), names, None, (0.2, 0.5, 0.3), graded)


def _own_colour(green: NDArray[np.bool_], log_ratio: Floats, gamma: float, delta: float, share: float) -> Graded:
    """The scores log L_g, with log R rounded to a grid that begins with 0: no evidence."""
    group = np.clip(np.rint(log_ratio / delta * LEVELS), 0, LEVELS).astype(np.int64)
    p = np.tile(np.array([1.0 - gamma, gamma]), (LEVELS + 1, 1))
    values = np.rint(np.log(_own_table(gamma, delta)) / UNIT).astype(np.int64)[:, :, None]
    return Graded(group, green.astype(np.int64), p, values, UNIT, ("own colour",), (share,))


def _own_table(gamma: float, delta: float) -> Floats:
    """f64[levels, 2] L_0 and L_1 by level of log R."""
    ratio = np.exp(np.arange(LEVELS + 1) * (delta / LEVELS))[:, None]
    return np.asarray(np.concatenate([np.ones_like(ratio), ratio], axis=1) / (gamma * ratio + 1.0 - gamma))


@lru_cache(maxsize=64)
def _rule(delta: float) -> tuple[Floats, Floats]:
    """Nodes and weights of the rule for the integral of ``h(t) = e^-t k(t)``, with ``e^-t`` in the weights."""
    inner, weights = roots_jacobi(NODES - 1, 0.0, 1.0)
    nodes = np.append(-1.0, inner)
    weights = np.append(2.0 / NODES**2, weights / (1.0 + inner))
    ends = [0.0, math.exp(-delta)]
    while ends[-1] < _LAST:
        ends.append(min(_GROWTH * ends[-1], _LAST))
    middle, half = (np.array(ends[1:]) + ends[:-1]) / 2.0, np.diff(ends) / 2.0
    t = np.append((middle[:, None] + half[:, None] * nodes).ravel(), _LAST)
    return t, np.append((half[:, None] * weights).ravel(), 1.0) * np.exp(-t)
