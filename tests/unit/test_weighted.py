"""Entropy-weighted statistics: the laws they claim, and that predictions only ever move weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, gamma

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.lattice import weighted_bernoulli_log_sf
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, WeightedBernoulliNull
from wmcheck.watermark.core.statistics import STATISTICS, ModelTerms, Sample
from wmcheck.watermark.core.weighted import SWEET_BITS, Sweet, Weighted

EXPONENTIAL, GREEN = ExponentialNull(bound=True), BernoulliNull(1, 4)


def sample_of(null, scores, weight, entropy=None, document=None, documents=1):
    n = len(scores)
    entropy = np.zeros(n) if entropy is None else np.asarray(entropy, float)
    terms = ModelTerms(np.zeros((n, 0)), (), None, entropy, np.asarray(weight))
    where = np.zeros(n, np.int64) if document is None else np.asarray(document)
    return Sample(np.asarray(scores, float), where, documents, null, terms)


def test_registered_and_needs_a_model():
    for name in ("weighted", "sweet"):
        statistic = STATISTICS[name]()
        assert statistic.name == name
        assert statistic.needs_model
        with pytest.raises(ConfigError, match="language model"):
            statistic.evaluate(Sample(np.ones(3), np.zeros(3, np.int64), 1, EXPONENTIAL))


def test_equal_weights_give_the_gamma_and_binomial_laws():
    found = Weighted().evaluate(sample_of(EXPONENTIAL, [2.0, 3.0, 1.0, 4.0], [0.5] * 4))
    assert found.totals[0] == 5.0
    assert found.log_p[0] == pytest.approx(gamma.logsf(10.0, 4), rel=1e-12)
    found = Weighted().evaluate(sample_of(GREEN, [1.0, 1.0, 1.0, 0.0, 1.0], [0.31] * 5))
    assert found.log_p[0] == pytest.approx(binom.logsf(3, 5, 0.25), rel=1e-6)


def test_two_exponentials_in_closed_form():
    # P(E/4 + E' >= x) = (e^-x - e^-4x / 4) / (3/4)
    x = 0.25 * 3.0 + 5.0
    found = Weighted().evaluate(sample_of(EXPONENTIAL, [3.0, 5.0, 9.0], [0.25, 1.0, 0.03]))
    assert found.totals[0] == x
    assert found.n[0] == 3
    assert found.log_p[0] == pytest.approx(math.log((math.exp(-x) - math.exp(-4 * x) / 4) / 0.75), rel=1e-12)


def test_layers_times_item_weights():
    null = WeightedBernoulliNull((3, 1))
    # Weights 0.25, 0.5 and 1 are 1, 2 and 4 quarters.
    found = Weighted().evaluate(sample_of(null, [4.0, 3.0, 4.0], [0.25, 0.5, 1.0]))
    total = 4 + 2 * 3 + 4 * 4
    expected = weighted_bernoulli_log_sf(total, [3, 1, 6, 2, 12, 4], [1] * 6, 0.5)
    assert found.totals[0] == total / 4
    assert found.log_p[0] == pytest.approx(expected, abs=1e-6)


def test_sweet_tests_items_of_high_entropy_alone():
    threshold = SWEET_BITS * math.log(2)
    entropy = [0.0, threshold, 1.01 * threshold, 3.0]
    found = Sweet().evaluate(sample_of(EXPONENTIAL, [9.0, 9.0, 2.0, 3.0], np.ones(4), entropy))
    assert found.totals[0] == 5.0
    assert found.n[0] == 4
    assert found.log_p[0] == pytest.approx(gamma.logsf(5.0, 2), rel=1e-12)
    found = Sweet().evaluate(sample_of(GREEN, [0.0, 0.0, 1.0, 1.0], np.ones(4), entropy))
    assert found.log_p[0] == pytest.approx(2 * math.log(0.25), rel=1e-12)


@pytest.mark.parametrize("statistic", [Weighted(), Sweet()])
@pytest.mark.parametrize("null", [EXPONENTIAL, GREEN, WeightedBernoulliNull((10, 5, 1))])
def test_documents_without_weight_say_nothing(statistic, null):
    sample = sample_of(null, np.ones(6), np.full(6, 0.01), document=[0, 0, 0, 2, 2, 2], documents=4)
    found = statistic.evaluate(sample)
    assert found.log_p.tolist() == [0.0] * 4
    assert found.totals.tolist() == [0.0] * 4
    assert found.n.tolist() == [3, 0, 3, 0]


def test_a_law_without_exact_weighted_sums_is_refused():
    class Other:
        name = "other"

    assert Weighted().unfit(Other())
    assert Sweet().unfit(Other()) == ""
    with pytest.raises(TypeError, match="other"):
        Weighted().evaluate(sample_of(Other(), [1.0], [1.0]))


@pytest.mark.parametrize("null", [EXPONENTIAL, GREEN, BernoulliNull(1, 2)])
def test_weights_find_what_the_sum_misses(null):
    """A tenth of the items carries the mark and the model knows which: the weighted p-value is far the smaller."""
    rng = np.random.default_rng(4)
    n = 600
    marked = rng.random(n) < 0.1
    scores = np.where(marked, np.where(null is EXPONENTIAL, 3.0, 1.0), null.sample(n, rng))
    sample = sample_of(null, scores, np.where(marked, 0.9, 0.05), np.where(marked, 2.0, 0.01))
    plain = STATISTICS["sum"]().evaluate(sample).log_p[0]
    assert Weighted().evaluate(sample).log_p[0] < 2 * plain - 5
    assert Sweet().evaluate(sample).log_p[0] < 2 * plain - 5


def test_weights_beyond_their_range_are_clipped():
    found = Weighted().evaluate(sample_of(EXPONENTIAL, [2.0, 3.0], [1.0 + 1e-12, -1e-12]))
    assert found.log_p[0] == pytest.approx(-2.0, rel=1e-12)


def test_reports_name_the_law():
    assert "k/16" in Weighted().describe(EXPONENTIAL, 7)
    assert "k/4" in Weighted().describe(WeightedBernoulliNull((2, 1)), 7)
    assert "0.9 bit" in Sweet().describe(GREEN, 7)
