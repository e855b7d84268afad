"""Experts are alternatives: their e-values have mean 1 under the null law, and grow with the score."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from wmcheck.watermark.core.experts import BetaMixture, experts
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, WeightedBernoulliNull

NULLS = [ExponentialNull(bound=True), BernoulliNull(1, 4), BernoulliNull(1, 2), WeightedBernoulliNull((10, 5, 1)),
         WeightedBernoulliNull(tuple(range(30, 0, -1)))]
CASES = [(null, expert) for null in NULLS for expert in experts(null)]
cases = pytest.mark.parametrize(("null", "expert"), CASES, ids=[f"{null.name}-{expert.name}" for null, expert in CASES])


def test_every_law_of_a_scheme_has_experts():
    assert [len(experts(null)) for null in NULLS] == [3, 5, 5, 3, 3]


@cases
def test_the_mean_under_the_null_law_is_one(null, expert):
    if isinstance(null, ExponentialNull):
        mean = quad(lambda score: np.exp(expert.log_e(np.array([score]))[0] - score), 0.0, 60.0, limit=500)[0]
    elif isinstance(null, BernoulliNull):
        low, high = np.exp(expert.log_e(np.array([0.0, 1.0])))
        mean = (1 - null.mean()) * low + null.mean() * high
    else:
        chances = np.ones(1)
        for weight in null.weights:
            chances = np.convolve(chances, np.bincount([0, weight], weights=[1 - null.p, null.p]))
        mean = chances @ np.exp(expert.log_e(np.arange(len(chances), dtype=float)))
    assert mean == pytest.approx(1.0, abs=1e-7)


@cases
def test_larger_scores_are_never_less_evidence(null, expert):
    values = np.unique(null.sample(2000, np.random.default_rng(0)))
    assert (np.diff(expert.log_e(values)) >= -1e-12).all()


@cases
def test_samples_follow_the_alternative(null, expert):
    # Under the alternative the mean of 1/e is the null law's mass where the alternative lives: 1.
    scores = expert.sample(200_000, np.random.default_rng(1))
    inverse = np.exp(-expert.log_e(scores))
    assert abs(inverse.mean() - 1.0) < 6 * inverse.std() / np.sqrt(len(inverse))


def test_a_beta_law_by_scipy():
    from scipy.stats import beta

    pivots = np.array([0.01, 0.3, 0.9, 0.999])
    expert = BetaMixture("", (3.0,), (1.0,))
    assert expert.log_e(-np.log1p(-pivots)) == pytest.approx(beta(3, 1).logpdf(pivots))


def test_extreme_scores_stay_finite_and_ordered():
    for expert in experts(ExponentialNull(bound=True)):
        found = expert.log_e(np.array([0.0, 1e-300, 1e-9, 30.0, 800.0]))
        assert np.isfinite(found).all()
        assert (np.diff(found) >= 0).all()


def test_a_law_of_another_distribution_has_none_until_it_brings_its_own():
    class Foreign:
        name = "foreign"

    assert list(experts(Foreign())) == []
