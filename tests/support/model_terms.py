"""Made-up terms of a language model for statistics that need them: valid under the null hypothesis, and of no use."""

from __future__ import annotations

import numpy as np

from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.nulls import ExponentialNull
from wmcheck.watermark.core.statistics import ModelTerms


def synthetic_terms(null, scores, seed=0):
    """Terms of n items: weights and entropies that depend on ``seed`` and n alone, e-values that grow with the scores.

    A fifth of the items has no prediction (weight, entropy and log e-values 0). Pivots are the scores where their law is
    exponential, else exponential draws.
    """
    rng, n = np.random.default_rng([seed, len(scores)]), len(scores)
    known = rng.random(n) < 0.8
    weight = np.where(known, rng.beta(0.6, 1.0, n), 0.0)
    entropy = np.where(known, rng.exponential(1.0, n), 0.0)
    drawn = rng.exponential(1.0, n)
    found = experts(null) or []
    columns = [np.where(known, expert.log_e(scores), 0.0) for expert in found] or [np.zeros(n)]
    names = tuple(expert.name for expert in found) or ("none",)
    pivot = np.asarray(scores) if isinstance(null, ExponentialNull) else drawn
    return ModelTerms(np.stack(columns, 1), names, np.where(known, pivot, 0.0), entropy, weight)


def some(terms, rows):
    """The terms of some items."""
    pivot = None if terms.pivot is None else terms.pivot[rows]
    return ModelTerms(terms.log_e[rows], terms.experts, pivot, terms.entropy[rows], terms.weight[rows])
