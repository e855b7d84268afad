"""The gap: by how much the token that came beats the best other candidate, keyed noise and a model's prediction together.

``s_v = log P_v + G_v`` with standard Gumbel noise ``G_v = -log(-log u_v)`` of independent uniforms is what Gumbel-max sampling
compares; P is the law of any model on a candidate set, and w the token that came. ``D = s_w - max of the others' s_v``.

Null law. Text, candidates and P do not depend on the key. ``s_w`` is a Gumbel variable of location ``log P_w``, the maximum of
the others an independent one of location ``log(1 - P_w)``; their difference is logistic with location
``l = log(P_w / (1 - P_w))`` and scale 1, **whatever the model**. Only differences of ``log P`` matter, so P need not be
normalised. With the model that wrote the text D > 0 surely, with a proxy D is rarely far below 0. Hence the e-value of an item

    L = pi_0 + sum_k pi_k 1{D > -c_k} (1 + e^-(c_k + l)),      P0(D > -c) = 1 / (1 + e^-(c + l)).

Its null mean is 1. It is a nondecreasing function of D, so whatever lowers D or raises l keeps the mean at most 1: callers give
the lower end of each cell of their grid for w and the upper end for the others (then D is at most that of uniforms spread
evenly over the cells, which are exactly uniform); l is rounded up to a grid; thresholds are moved by far more than rounding.

L takes one of ten values with known probabilities given l, so the tail of a sum of log L has a sharp bound
(:mod:`wmcheck.watermark.core.graded`); it needs a third fewer tokens than Markov's 1/E with a fair proxy.

References:
    E. Gumbel, Statistics of Extremes, 1958 (maxima and differences of the law); Maddison et al., "A* sampling", 2014 (the
    maximum of ``log P_v + G_v`` over a set is a Gumbel variable of location log of its mass, independent of which v attains it).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from wmcheck.watermark.core.graded import Graded
from wmcheck.watermark.law import Aided, Floats, Law

SLACK = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
# pi_0 and pi_k of the experts, rounded from fits by expectation maximisation to synthetic text whose proxies' logits were off
# by normal noise: "good" 0.3 (0.01 to 0.03 nats from the truth), "fair" 1 to 1.5 (0.14 to 0.75), "poor" 2.5 (0.8 to 2).
EXPERTS = {
    "good proxy": (0.01, 0.70, 0.12, 0.10, 0.04, 0.02, 0.01, 0.0, 0.0),
    "fair proxy": (0.02, 0.25, 0.06, 0.09, 0.16, 0.20, 0.15, 0.06, 0.01),
    "poor proxy": (0.08, 0.07, 0.03, 0.03, 0.05, 0.11, 0.16, 0.25, 0.22),
}
SHARES = (0.5, 0.3, 0.2)
# With a sharp tail one expert is within a few percent of the best at every quality of the proxy, exact to poor.
SHARP = "fair proxy"

UNIT = 0.05
_CELL = 1.0 / 32.0
_LOWEST, _HIGHEST = -21.0, 8.0
_MARGIN = 1e-9


def gap_terms(own: Floats, others: Floats, law: Law) -> Aided:
    """E-values, graded scores and pivots of n items by their gaps.

    Args:
        own: f64[n] lower ends of the noise ``-log(-log u)`` of the tokens that came; -inf is allowed.
        others: f64[n, k - 1] upper ends of the noise of the other candidates of ``law``; inf is allowed.
        law: predictions at the n places. Candidates must be distinct, see :func:`wmcheck.watermark.ratios.distinct`.
    """
    ahead, place = gaps(own, others, law)
    p, log_l = _tables()
    # Rounded up; what lies above the grid, or has no other candidate, is certain and says nothing.
    group = np.ceil((np.clip(place, _LOWEST, _HIGHEST + 1.0) - _LOWEST + _MARGIN) / _CELL).astype(np.int64)
    group = np.clip(group, 0, len(p) - 1)
    step = np.searchsorted(-np.array(SLACK)[::-1] + _MARGIN, ahead, side="left").astype(np.int64)
    sharp = list(EXPERTS).index(SHARP)
    values = np.rint(log_l[:, :, [sharp]] / UNIT).astype(np.int64)
    graded = Graded(group, step, p, values, UNIT, (SHARP,), (1.0,))
    with np.errstate(invalid="ignore"):
        pivot = np.nan_to_num(np.logaddexp(0.0, ahead - place), nan=0.0, posinf=0.0)
    return Aided(log_l[group, step], tuple(EXPERTS), pivot, SHARES, graded)


def gaps(own: Floats, others: Floats, law: Law) -> tuple[Floats, Floats]:
    """f64[n] gaps D and f64[n] locations of their null laws, inf where there is no other candidate; arguments as above."""
    rest = law.log_p[:, 1:]
    with np.errstate(invalid="ignore"):
        # A candidate of probability 0 never wins, whatever its noise.
        best = np.where(np.isneginf(rest), -np.inf, rest + others).max(1, initial=-np.inf)
        ahead = law.log_p[:, 0] + own - best
    place = law.log_p[:, 0] - np.logaddexp.reduce(rest, axis=1, initial=-np.inf)
    return np.where(np.isnan(ahead), -np.inf, ahead), place


@lru_cache(maxsize=1)
def _tables() -> tuple[Floats, NDArray[np.float64]]:
    """f64[g, 9] null probabilities of the steps and f64[g, 9, 3] log e-values of the experts, by location."""
    place = np.append(np.arange(_LOWEST, _HIGHEST + _CELL / 2, _CELL), np.inf)[:, None]
    slack = np.array(SLACK)[::-1]
    above = expit(slack + place)
    p = -np.diff(above, axis=1, prepend=1.0, append=0.0)
    ones = np.ones((len(p), 1))
    log_l = np.empty((*p.shape, len(EXPERTS)))
    for column, shares in enumerate(EXPERTS.values()):
        pi = np.array(shares) / sum(shares)
        log_l[:, :, column] = np.log(np.cumsum(np.concatenate([pi[0] * ones, pi[:0:-1] / above], axis=1), axis=1))
    # A certain token: the highest step, for sure, and no evidence.
    log_l[-1] = 0.0
    return np.maximum(p, 0.0), log_l
