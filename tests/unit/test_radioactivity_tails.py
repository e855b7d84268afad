"""Tails of weighted sums: upper bounds, close to the truth."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.list_nulls import FixedListNull, HypergeometricNull
from wmcheck.watermark.core.mixed_nulls import MixedExponentialNull
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, WeightedBernoulliNull
from wmcheck.watermark.core.payload_nulls import BestOf
from wmcheck.watermark.core.weighted_tails import bernoulli_sum_log_sf
from wmcheck.watermark.radioactivity.laws import TILTS, WeightedLaw, levels_of
from wmcheck.watermark.radioactivity.smooth import bits_sum_log_sf

COINS, EXP, LAYERS = BernoulliNull(64, 256), ExponentialNull(bound=True), WeightedBernoulliNull((10, 7, 3, 1))


def exact_tail(total, weights, counts, p):
    """P(sum >= total) by convolution on whole weights."""
    law = np.ones(1)
    for weight, count in zip(weights, counts, strict=True):
        one = np.zeros(weight * count + 1)
        one[::weight] = binom.pmf(np.arange(count + 1), count, p)
        law = np.convolve(law, one)
    return law[total:].sum()


@pytest.mark.parametrize("p", [0.02, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("counts", [(1, 1, 1), (7, 0, 3), (40, 30, 20)])
def test_bits_are_bounded_from_above_and_closely(p, counts):
    weights, counts = (1, 3, 10), np.array(counts)
    top = int(counts @ weights)
    totals = np.unique(np.linspace(1, top, 12).astype(int))
    truth = np.array([exact_tail(total, weights, counts, p) for total in totals])
    # One by one and together, where tilts are shared.
    for found in (
        bits_sum_log_sf(totals.astype(float), np.array(weights, float), counts.astype(float), p),
        np.concatenate([bits_sum_log_sf(np.array([float(x)]), np.array(weights, float), counts * 1.0, p) for x in totals]),
    ):
        known = truth > 1e-12
        assert np.all(found[known] >= np.log(truth[known]) - 1e-9)
        sure = known & (found < 0) & (truth < 0.9)
        assert np.all(found[sure] <= np.log(truth[sure]) + 0.1)


def test_bits_far_out_agree_with_the_lattice():
    rng = np.random.default_rng(0)
    weights, counts = np.array([1, 2, 3, 5, 8]), rng.multinomial(3000, np.ones(5) / 5)
    mean, sd = 0.25 * counts @ weights, math.sqrt(0.1875 * (counts @ weights**2))
    totals = np.floor(mean + sd * np.array([0.0, 2.0, 5.0, 15.0, 40.0]))
    lattice = bernoulli_sum_log_sf(totals, weights, np.broadcast_to(counts, (5, 5)), 0.25)
    found = bits_sum_log_sf(totals, weights.astype(float), counts.astype(float), 0.25)
    assert np.all(found >= lattice)
    assert np.all(found <= lattice + 0.01 + 0.005 * np.array([0.0, 2.0, 5.0, 15.0, 40.0]))
    assert found[-1] < -600


def test_bits_of_both_signs_are_bits_with_flipped_coins():
    # w B = -|w| + |w| (1 - B), and a fair coin flipped is one.
    weights, counts = np.array([3.0, 1.0, -2.0]), np.array([20.0, 30.0, 25.0])
    for total in (20.0, 40.0, 60.0):
        flipped = bits_sum_log_sf(np.array([total + 50.0]), np.abs(weights), counts, 0.5)[0]
        assert bits_sum_log_sf(np.array([total]), weights, counts, 0.5)[0] == pytest.approx(flipped, abs=1e-6)


def test_impossible_and_certain_totals():
    weights, counts = np.array([1.5, 2.5]), np.array([4.0, 4.0])
    found = bits_sum_log_sf(np.array([16.1, 16.0, -100.0]), weights, counts, 0.25)
    assert found[0] == -math.inf
    assert 8 * math.log(0.25) <= found[1] < 8 * math.log(0.25) + 0.2
    assert found[2] == 0.0


@pytest.mark.parametrize("null", [COINS, EXP, LAYERS, MixedExponentialNull((0.9, 0.1)), FixedListNull(25, 100)])
def test_weighted_p_values_are_super_uniform(null):
    rng = np.random.default_rng(1)
    levels, _ = levels_of(rng.random(60) ** 2 + 1e-3)
    levels = levels[levels > 0]
    law = WeightedLaw.of(null)
    totals = np.array([levels @ null.sample(len(levels), rng) for _ in range(800)])
    log_p = law.log_sf(totals, levels)
    for level in (0.5, 0.1, 0.01):
        assert binom.sf(int((log_p <= math.log(level)).sum()) - 1, 800, level) > 1e-5
    if not isinstance(null, FixedListNull):
        assert (log_p <= math.log(0.1)).mean() > 0.07


def test_equal_weights_have_the_law_of_the_scheme():
    law = WeightedLaw.of(COINS)
    assert law.log_sf(np.array([40.0]), np.full(100, 0.5))[0] == COINS.log_sf(80, 100)
    other = WeightedLaw.of(BestOf(COINS, 8), equal=True)
    assert other.log_sf(np.array([40.0]), np.ones(100))[0] == BestOf(COINS, 8).log_sf(40, 100)
    with pytest.raises(ConfigError, match="no proven law"):
        WeightedLaw.of(BestOf(COINS, 8))


@pytest.mark.parametrize("null", [COINS, EXP, LAYERS])
def test_chernoff_of_both_signs_bounds_simulated_tails(null):
    rng = np.random.default_rng(2)
    weights = np.rint(rng.normal(size=50) * 8)
    law, held = WeightedLaw.of(null), np.unique(weights, return_counts=True)
    totals = np.array([weights @ null.sample(50, rng) for _ in range(4000)])
    for level in (0.1, 0.01):
        cut = float(np.quantile(totals, 1 - level))
        bound = law.chernoff(cut, *held)
        assert math.log(level) - 0.1 < bound < math.log(level) + 3.0


@pytest.mark.parametrize("null", [COINS, EXP, LAYERS, HypergeometricNull(25, 100)])
def test_the_betting_bound_is_the_reciprocal_of_an_e_value(null):
    """Weights that follow the scores so far: a strategy that no fixed-weight law covers."""
    rng, law, found = np.random.default_rng(3), WeightedLaw.of(null), []
    sd, mean = math.sqrt(null.variance()), null.mean()
    for _ in range(600):
        weights, total = [], 0.0
        for score in null.sample(40, rng):
            ahead = total / sd
            weights.append(1.0 if ahead <= 0 else 0.05)
            total += weights[-1] * (score - mean)
        found.append(law.betting(total + mean * sum(weights), np.array(weights)))
    found = np.array(found)
    assert np.exp(-found[found < 0]).sum() / 600 < 3.0
    for level in (0.1, 0.01):
        assert binom.sf(int((found <= math.log(level)).sum()) - 1, 600, level) > 1e-4
    assert len(TILTS) == 24


def test_the_betting_bound_is_small_for_a_strong_signal():
    law, n = WeightedLaw.of(COINS), 2000
    exact = float(COINS.log_sf(700, n))
    assert exact < law.betting(700.0, np.ones(n)) < exact + 8.0


def test_levels_are_close_to_weights_and_few():
    weights = np.concatenate([10.0 ** np.linspace(-3, 0, 500), [-0.2, 1e-9]])
    levels, unit = levels_of(weights)
    assert unit == 1.0
    assert len(np.unique(levels)) <= 66
    kept = levels != 0
    assert np.all(np.abs(levels[kept] / weights[kept] - 1) < 0.095)
    assert levels[-1] == 0
    assert levels[-2] < 0
    assert levels_of(np.array([0.25, 0.5]), top=1.0) == (pytest.approx([0.25, 0.5]), 1.0)
    assert levels_of(np.zeros(0))[1] == 1.0
