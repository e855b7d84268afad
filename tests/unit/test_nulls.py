"""The null laws: sums super-uniform by enumeration and by sampling; a broken score cannot become evidence."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull

NULLS: list[Null] = [
    BernoulliNull(64, 256),
    BernoulliNull(1, 3),
    ExponentialNull(bound=False),
    WeightedBernoulliNull((3, 2, 1)),
    WeightedBernoulliNull((5, 5), p=0.25),
]


@pytest.mark.parametrize("null", NULLS, ids=lambda null: null.name)
def test_super_uniform_under_its_own_law(null):
    rng = np.random.default_rng(11)
    n, documents = 30, 20_000
    totals = null.sample(n * documents, rng).reshape(documents, n).sum(axis=1)
    p = np.exp(null.log_sf(totals, np.full(documents, n)))
    for level in (0.5, 0.1, 0.01, 0.001):
        assert (p <= level).sum() <= documents * level + 5 * math.sqrt(documents * level)


@pytest.mark.parametrize("null", [BernoulliNull(77, 256), BernoulliNull(1, 3)], ids=lambda null: null.name)
def test_bernoulli_sums_are_super_uniform_by_enumeration(null):
    n, p = 12, null.numerator / null.denominator
    mass = np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
    values = np.exp(null.log_sf(np.arange(n + 1), n))
    for level in values:
        assert mass[values <= level].sum() == pytest.approx(level, rel=1e-12)


@pytest.mark.parametrize("null", [WeightedBernoulliNull((3, 2, 1)), WeightedBernoulliNull((7, 1), p=0.3)])
def test_weighted_sums_are_exact_by_enumeration(null):
    n, d, law = 3, len(null.weights), {}
    for bits in itertools.product((0, 1), repeat=n * d):
        total = float(null.reduce(np.reshape(bits, (n, d)).astype(float)).sum())
        law[total] = law.get(total, 0.0) + null.p ** sum(bits) * (1 - null.p) ** (n * d - sum(bits))
    for total in law:
        tail = sum(mass for other, mass in law.items() if other >= total)
        assert float(null.log_sf([total], [n])[0]) == pytest.approx(math.log(tail), abs=1e-10)


@pytest.mark.parametrize("null", NULLS, ids=lambda null: null.name)
def test_moments_match_samples(null):
    sample = null.sample(200_000, np.random.default_rng(3))
    assert (sample.shape, sample.dtype) == ((200_000,), np.float64)
    assert sample.mean() == pytest.approx(null.mean(), abs=5 * math.sqrt(null.variance() / 200_000))
    assert sample.var() == pytest.approx(null.variance(), rel=0.03)


@pytest.mark.parametrize("null", NULLS, ids=lambda null: null.name)
def test_conventions_of_the_contract(null):
    assert null.log_sf([0.0, 3.0], [0, 0]).tolist() == [0.0, 0.0]
    assert null.log_sf(np.zeros(0), np.zeros(0, np.int64)).shape == (0,)
    assert null.log_sf([0.0, -1.0], [5, 5]).tolist() == [0.0, 0.0]
    assert null.log_sf([1.0], np.array([4, 5])).shape == (2,)
    values = null.log_sf(np.arange(0.0, 20.0), np.full(20, 12))
    assert values.dtype == np.float64
    assert np.all(np.diff(values[np.isfinite(values)]) <= 1e-12)
    assert str(180) in null.describe(180)


def test_totals_keep_their_decimals_only_within_rounding():
    null = BernoulliNull(1, 4)
    assert null.log_sf([54.999999999999], [100]) == null.log_sf([55.000000000001], [100]) == null.log_sf([55], [100])
    for total in (54.5, math.nan, math.inf):
        with pytest.raises(ValueError):
            null.log_sf([total], [100])
        with pytest.raises(ValueError):
            WeightedBernoulliNull((2, 1)).log_sf([total], [100])
    for total in (math.nan, math.inf):
        with pytest.raises(ValueError):
            ExponentialNull(bound=True).log_sf([total], [100])
    for n in (-1, 2.5):
        with pytest.raises(ValueError):
            null.log_sf([1.0], [n])


@pytest.mark.parametrize(
    "null, scores",
    [
        (BernoulliNull(1, 2), np.array([0.0, 2.0])),
        (BernoulliNull(1, 2), np.array([0.0, math.nan])),
        (BernoulliNull(1, 2), np.zeros((2, 2))),
        (ExponentialNull(bound=True), np.array([1.0, math.inf])),
        (ExponentialNull(bound=True), np.array([-0.5])),
        (WeightedBernoulliNull((2, 1)), np.array([[0.0, 0.5]])),
        (WeightedBernoulliNull((2, 1)), np.zeros((3, 3))),
    ],
)
def test_scores_the_law_cannot_produce_are_refused(null, scores):
    with pytest.raises(ValueError):
        null.reduce(scores)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BernoulliNull(0, 4),
        lambda: BernoulliNull(4, 4),
        lambda: WeightedBernoulliNull(()),
        lambda: WeightedBernoulliNull((0, 1)),
        lambda: WeightedBernoulliNull((1,), p=1.0),
    ],
)
def test_impossible_laws_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_descriptions():
    assert BernoulliNull(64, 256).describe(180) == "Binomial(n=180, p=0.25)"
    assert BernoulliNull(1, 3).describe(2) == "Binomial(n=2, p=1/3)"
    assert BernoulliNull(64, 256).name == "Bernoulli(64/256)"
    assert ExponentialNull(bound=False).describe(180) == "Gamma(180, 1)"
    assert ExponentialNull(bound=True).describe(180) == "Gamma(180, 1), as an upper bound"
    layers = WeightedBernoulliNull((10, 5, 1))
    assert layers.describe(9) == "weighted Bernoulli sum (n=9, 3 layers, weights 1 to 10, p=0.5)"
    assert layers.name == "weighted Bernoulli sum (3 layers, weights 1 to 10, p=0.5)"


def test_a_share_that_is_no_double_is_rounded_up():
    assert Fraction(1 / 3) < Fraction(1, 3)
    assert float(BernoulliNull(1, 3).log_sf([1000], [1000])[0]) >= 1000 * math.log(1 / 3)


def test_equal_weights_take_the_binomial():
    equal, rounded = WeightedBernoulliNull((5, 5), p=0.25), BernoulliNull(1, 4)
    assert equal.log_sf([25.0, 24.0, 21.0], [10, 10, 10]).tolist() == rounded.log_sf([5.0] * 3, [20] * 3).tolist()
