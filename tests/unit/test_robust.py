"""The smaller of the sum's and the sparse mixture's p-values, corrected for the choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, WeightedBernoulliNull
from wmcheck.watermark.core.robust import Robust
from wmcheck.watermark.core.sparse import Sparse
from wmcheck.watermark.core.statistics import ExactSum, Sample
from wmcheck.watermark.schemes.tournament import layer_weights

NULLS = [ExponentialNull(bound=True), WeightedBernoulliNull(layer_weights(30)), WeightedBernoulliNull((3, 2, 1))]


def sample_of(null, n=80, documents=50):
    scores = null.sample(n * documents, np.random.default_rng(1))
    scores[:n] = np.quantile(scores, 0.95)
    scores[n : n + 6] = scores.max()
    return Sample(scores, np.repeat(np.arange(documents), n), documents, null)


@pytest.mark.parametrize("null", NULLS, ids=["exponential", "30 layers", "3 layers"])
def test_it_is_twice_the_smaller_and_at_most_one(null):
    sample = sample_of(null)
    plain, mixed, both = (each.evaluate(sample) for each in (ExactSum(), Sparse(), Robust()))
    smaller = np.minimum(plain.log_p, mixed.log_p)
    np.testing.assert_allclose(both.log_p, np.minimum(0.0, smaller + math.log(2.0)))
    np.testing.assert_array_equal(both.totals, plain.totals)
    np.testing.assert_array_equal(both.log_e, mixed.log_e)
    assert both.log_p[0] < -50
    assert (both.log_p == 0.0).any()


def test_red_green_counts_pay_no_factor():
    sample = sample_of(BernoulliNull(64, 256))
    np.testing.assert_array_equal(Robust().evaluate(sample).log_p, ExactSum().evaluate(sample).log_p)
    assert Robust().describe(sample.null, 80) == "Binomial(n=80, p=0.25)"
    assert Robust().evaluate(sample).log_e is not None


def test_it_says_both_laws():
    text = Robust().describe(NULLS[0], 80)
    assert text.startswith("twice the smaller of two: Gamma(80, 1), as an upper bound; likelihood ratio of 12 sparse")


def test_a_law_without_known_alternatives_leaves_the_sum():
    class Shifted(ExponentialNull):
        """A law of another distribution."""

    class Other:
        name = "other"

        def __init__(self, law):
            self.log_sf, self.describe, self.reduce, self.sample = law.log_sf, law.describe, law.reduce, law.sample

    null = Other(Shifted(bound=False))
    found = Robust().evaluate(sample_of(null))
    assert found.log_e is None
    np.testing.assert_array_equal(found.log_p, ExactSum().evaluate(sample_of(null)).log_p)
    assert Robust().describe(null, 3) == "Gamma(3, 1)"
