"""Items weighted by how much a language model says the key could choose there, with the exact law of the weighted sum.

A place whose next token was certain says nothing about the key and adds noise like any other. Weights depend on text and model
alone, never on the key, so given the weights the sum has a known law whatever the model: a bad model costs power. The normal
approximation and a gamma law of matched moments, common for such sums, are not bounds (where 1e-10 is true of 200 exponentials
of even weights they say 1e-13.9 and 1e-10.4) and are not used.

References:
    Lee et al., "Who wrote this code? Watermarking for code generation", ACL 2024 (SWEET: items of high entropy only); Lu et
    al., "An entropy-based text watermarking detection method", ACL 2024 (EWD: weights that grow with the entropy).
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull
from wmcheck.watermark.core.statistics import Evidence, Sample
from wmcheck.watermark.core.weighted_tails import bernoulli_sum_log_sf, exponential_sum_log_sf

LEVELS = 16
# Items of many bits: fewer levels keep the lattice of their sums small.
LAYER_LEVELS = 4
# Bits of entropy above which SWEET counts an item.
SWEET_BITS = 0.9


class Weighted:
    """The sum of scores times ``1 - sum p^2`` of the prediction, in steps of 1/16 (1/4 for items of several bits).

    Items whose weight rounds to 0, such as those without a prediction, do not count; a document of such items has p = 1.
    """

    name: ClassVar[str] = "weighted"
    needs_model: ClassVar[bool] = True

    def unfit(self, null: Null) -> str:
        known = isinstance(null, (ExponentialNull, BernoulliNull, WeightedBernoulliNull))
        return "" if known else "weighted sums of such items have no exact law here"

    def evaluate(self, sample: Sample) -> Evidence:
        levels, null = _levels(sample.null), sample.null
        step = np.rint(np.clip(sample.terms(self.name).weight, 0.0, 1.0) * levels).astype(np.int64)
        counts = np.bincount(sample.document * (levels + 1) + step, minlength=sample.documents * (levels + 1))
        counts = counts.reshape(sample.documents, levels + 1)[:, 1:].astype(np.int64)
        totals, log_p = sample.sums(sample.scores * step), np.zeros(sample.documents)
        some, steps = counts.any(1), np.arange(1, levels + 1)
        if isinstance(null, ExponentialNull):
            log_p[some] = exponential_sum_log_sf(totals[some], steps, counts[some])
        elif isinstance(null, BernoulliNull):
            # The share rounded up: the tail grows with it.
            share = float(np.nextafter(null.mean(), 1.0))
            log_p[some] = bernoulli_sum_log_sf(np.rint(totals[some]), steps, counts[some], share)
        elif isinstance(null, WeightedBernoulliNull):
            log_p[some] = bernoulli_sum_log_sf(np.rint(totals[some]), steps, counts[some], null.p, layers=null.weights)
        else:
            raise TypeError(f"no exact law of weighted sums of {null.name}")
        return Evidence(totals / levels, sample.counts(), log_p)

    def describe(self, null: Null, n: int) -> str:
        return (
            f"sum of {n} items, each {null.name}, with weights of k/{_levels(null)} from predicted collision probabilities: "
            "Fourier inversion, as an upper bound"
        )


class Sweet:
    """The sum of scores of items whose predicted entropy exceeds 0.9 bit, against the null law of as many items.

    The threshold is fixed in advance. A document without such items has p = 1.
    """

    name: ClassVar[str] = "sweet"
    needs_model: ClassVar[bool] = True

    def unfit(self, null: Null) -> str:
        return ""

    def evaluate(self, sample: Sample) -> Evidence:
        used: NDArray[np.bool_] = sample.terms(self.name).entropy > SWEET_BITS * math.log(2.0)
        part = Sample(sample.scores[used], sample.document[used], sample.documents, sample.null)
        totals = part.sums(part.scores)
        return Evidence(totals, sample.counts(), sample.null.log_sf(totals, part.counts()))

    def describe(self, null: Null, n: int) -> str:
        return f"{null.describe(n)}, n lowered to the items of more than {SWEET_BITS} bit of predicted entropy"


def _levels(null: Null) -> int:
    return LAYER_LEVELS if isinstance(null, WeightedBernoulliNull) else LEVELS
