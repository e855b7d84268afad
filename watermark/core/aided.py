"""The model-aided test: keyed evidence weighed against a language model's predictions, always together with the key-only sum.

The model enters through e-values of items and, for some schemes, through scores of known discrete law. Both are valid
whatever the model predicted, since predictions depend on the text alone and the null hypothesis is about the key alone; a bad
model costs power. The p-value is a weighted Bonferroni minimum of two or three p-values of the document,

    p = min(p_sum / w, p_graded / (s (1 - w)), 1 / E / ((1 - s) (1 - w))),

with p_sum the exact tail of the key-only sum, p_graded that of the sum of graded scores, E the mean of the experts' products
and s the share of the graded scores. ``P(p <= a) <= a w + a s (1 - w) + a (1 - s)(1 - w) = a``; the same holds given the
text and the predictions, so w may depend on them.

The sum's share w. A model that is of no use then costs the key-only test a factor 1 / w of its p-value; w = .45 is 8% to 9%
more tokens for half of the texts at p = 1e-5, 6% for nine tenths. But text is sometimes so short, or so predictable, that
the model-aided score could hardly reach a p-value below e^-16 (``S``, minus the log of the probability that every graded score
is at its top: for Gumbel-max, minus the log of the predicted probability of the text). There the key-only sum, which needs
twice to four times as much, has no chance, and w = .1. Text that could not reach e^-7 with the model keeps w = .45:
predictions that know the text leave the key nothing to choose.

The e-value is the mean, weighted .6 and .4, of E and of the mean of the key-only experts' products.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.graded import Graded
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.statistics import Evidence, Floats, Sample

# Share of the key-only sum, and what it falls to where text of this predicted surprise S, in nats, is within the model's reach.
SUM_SHARE, LEAST_SUM_SHARE = 0.45, 0.1
REACH = (3.0, 7.0, 16.0, 26.0)
# Share of the model in the e-value.
MODEL_SHARE = 0.6
# Log p-values are rounded up to this, so that a document gets the same digits in any company.
_DIGIT = 2.0**-26


class ModelAided:
    """The smaller of the model-aided and the key-only p-value, corrected for the choice; total is the log of the e-value."""

    name: ClassVar[str] = "aided"
    needs_model: ClassVar[bool] = True
    needs_ratios: ClassVar[bool] = True

    def unfit(self, null: Null) -> str:
        return ""

    def evaluate(self, sample: Sample) -> Evidence:
        terms, n = sample.terms(self.name), sample.counts()
        share = sum_share(sample, terms.graded)
        model = _mean_product(sample, terms.log_e, terms.shares)
        tails = [sample.null.log_sf(sample.sums(sample.scores), n) - np.log(share)]
        graded = 0.0
        if terms.graded is not None:
            graded = sum(terms.graded.shares)
            log_p = terms.graded.log_p(sample.document, sample.documents)
            tails.append((log_p - np.log(terms.graded.shares)).min(1) - np.log1p(-share))
        if graded < 1.0 - 1e-9:
            tails.append(-model - math.log1p(-graded) - np.log1p(-share))
        log_p = np.ceil(np.minimum.reduce(tails) / _DIGIT) * _DIGIT
        log_e = self._log_e(sample, model)
        return Evidence(log_e, n, np.where(n > 0, np.minimum(log_p, 0.0), 0.0), log_e)

    def _log_e(self, sample: Sample, model: Floats) -> Floats:
        found = experts(sample.null)
        if not found:
            return model
        alone = _mean_product(sample, np.stack([expert.log_e(sample.scores) for expert in found], axis=1), ())
        return np.logaddexp(math.log(MODEL_SHARE) + model, math.log1p(-MODEL_SHARE) + alone)

    def describe(self, null: Null, n: int) -> str:
        return (
            f"smaller of two corrected tails: the sum against {null.describe(n)}; the model-aided score, whatever the model, "
            "against its law given the predictions, or one over its e-value"
        )


def sum_share(sample: Sample, graded: Graded | None) -> Floats:
    """f64[m] the key-only sum's share w of the error of each document; see the module's text."""
    if graded is None:
        return np.full(sample.documents, SUM_SHARE)
    with np.errstate(divide="ignore"):
        surprise = sample.sums(-np.log(graded.p[:, -1])[graded.group])
    low, high = LEAST_SUM_SHARE, SUM_SHARE
    return np.interp(surprise, REACH, (high, low, low, high))


def _mean_product(sample: Sample, log_e: Floats, shares: tuple[float, ...]) -> Floats:
    """f64[m] log of the mean over experts of the products of f64[n, k] e-values."""
    columns = log_e.shape[1]
    if not columns:
        return np.zeros(sample.documents)
    weights = np.array(shares) if shares else np.full(columns, 1.0 / columns)
    sums = np.stack([sample.sums(column) for column in log_e.T], axis=1)
    return np.asarray(np.logaddexp.reduce(sums + np.log(weights / weights.sum()), axis=1))
