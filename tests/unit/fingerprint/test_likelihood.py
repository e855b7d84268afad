"""Calibration and its measures against scipy, closed forms and small worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu, norm

from wmcheck.fingerprint.likelihood import auc, calibrate, cllr, cllr_min, elub, tippett, true_positive_rate, validate

PRECISE = {"xatol": 1e-8, "fatol": 1e-14, "maxiter": 4000}
scores = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=12).map(np.array)


def sample(target=40, alternative=300, shift=2.5, seed=0, width=1):
    rng = np.random.default_rng(seed)
    return shift + rng.standard_normal((target, width)), rng.standard_normal((alternative, width))


# --- calibration


def lent_loss(parameters, target, alternative):
    """Prior-balanced logistic loss, each class with half a pseudo pair of the other, and the ridge of the slope."""
    n1, n0 = len(target), len(alternative)
    z1, z0 = (parameters[0] + side @ parameters[1:] for side in (target, alternative))
    lend1, lend0 = 0.5 / (n1 + 1), 0.5 / (n0 + 1)
    loss = 0.5 * np.mean((1 - lend1) * np.logaddexp(0, -z1) + lend0 * np.logaddexp(0, z1))
    loss += 0.5 * np.mean((1 - lend0) * np.logaddexp(0, z0) + lend1 * np.logaddexp(0, -z0))
    return loss + 1e-3 * np.square(parameters[1:]).sum()


@pytest.mark.parametrize("width", [1, 2])
def test_calibration_minimises_its_loss(width):
    target, alternative = sample(width=width)
    fit = calibrate(target, alternative)
    found = minimize(lent_loss, np.zeros(1 + width), args=(target, alternative), method="Nelder-Mead", options=PRECISE)
    np.testing.assert_allclose([fit.intercept, *fit.slopes], found.x, atol=2e-3)


@pytest.mark.parametrize("mu", [1.0, 2.0])
def test_slope_and_intercept_of_two_normals(mu):
    """log N(x; mu, 1) / N(x; 0, 1) = mu x - mu^2 / 2; the ridge and the pseudo pairs pull the slope in a little."""
    n = 40_000
    quantiles = norm.ppf((np.arange(n) + 0.5) / n)[:, None]
    fit = calibrate(mu + quantiles, quantiles)
    assert mu * 0.95 < fit.slopes[0] <= mu * 1.001
    assert fit.log_lr(np.array([[mu / 2]]))[0] == pytest.approx(0.0, abs=1e-3)


def test_perfect_separation_is_bounded_by_the_number_of_pairs():
    """No alternative was ever seen up there: the density is taken as half a pair in n + 1."""
    for n in (10, 100, 1000):
        fit = calibrate(np.full((20, 1), 5.0), np.zeros((n, 1)))
        assert 0.0 < fit.log_lr(np.array([[5.0]]))[0] <= math.log(2 * (n + 1))


def test_slopes_never_have_the_wrong_sign():
    target, alternative = sample()
    assert calibrate(-target, -alternative).slopes[0] == 0.0
    assert calibrate(target, alternative, falling=True).slopes[0] == 0.0
    assert calibrate(-target, -alternative, falling=True).slopes[0] < 0.0
    rng = np.random.default_rng(1)
    useless = [np.hstack([side, -0.5 * side + rng.standard_normal(side.shape)]) for side in (target, alternative)]
    assert (calibrate(*useless).slopes >= 0.0).all()


def test_weights_are_multiplicities():
    target, alternative = sample(12, 30)
    times = np.random.default_rng(2).integers(0, 4, 30)
    fit = calibrate(target, alternative, weights=(np.full(12, 2.0), times.astype(float)))
    shares = times / times.sum()

    def loss(parameters):
        z1, z0 = (parameters[0] + side[:, 0] * parameters[1] for side in (target, alternative))
        lend1, lend0 = 0.5 / 13, 0.5 / 31
        one = np.mean((1 - lend1) * np.logaddexp(0, -z1) + lend0 * np.logaddexp(0, z1))
        zero = shares @ ((1 - lend0) * np.logaddexp(0, z0) + lend1 * np.logaddexp(0, -z0))
        return 0.5 * (one + zero) + 1e-3 * parameters[1] ** 2

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options=PRECISE)
    np.testing.assert_allclose([fit.intercept, *fit.slopes], found.x, atol=1e-3)


def test_calibration_needs_both_kinds():
    with pytest.raises(ValueError, match="pairs of both kinds"):
        calibrate(np.empty((0, 1)), np.zeros((3, 1)))


# --- measures


def test_cllr_of_saying_nothing_is_one():
    assert cllr(np.zeros(3), np.zeros(50)) == pytest.approx(1.0)
    assert cllr_min(np.zeros(3), np.zeros(50)) == pytest.approx(1.0)


def test_cllr_by_hand():
    """LR 4 and 1 for targets, 1/2 for an alternative: (log2(1 + 1/4) + log2(2)) / 2 and log2(1 + 1/2), averaged."""
    expected = 0.5 * ((math.log2(1.25) + 1.0) / 2 + math.log2(1.5))
    assert cllr(np.log([4.0, 1.0]), np.log([0.5])) == pytest.approx(expected)


def test_cllr_min_by_hand():
    """Targets 1 and 3, alternatives 0 and 2: the middle two are pooled, the outer ones are certain: half the cost of nothing."""
    assert cllr_min(np.array([1.0, 3.0]), np.array([0.0, 2.0])) == pytest.approx(0.5)
    assert cllr_min(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == pytest.approx(0.0, abs=1e-9)
    assert cllr_min(np.array([1.0]), np.array([1.0, 0.0])) == pytest.approx(0.5 * (math.log2(1.5) + 0.5 * math.log2(3)))


def pav_cost(target, alternative):
    """Pool adjacent violators, written out: blocks of (target share, alternative share) merged until odds rise."""
    steps = sorted(set(target) | set(alternative))
    blocks = [[np.mean(target == x), np.mean(alternative == x)] for x in steps]
    i = 0
    while i + 1 < len(blocks):
        (a1, a0), (b1, b0) = blocks[i], blocks[i + 1]
        if a1 * (b1 + b0) >= b1 * (a1 + a0):
            blocks[i : i + 2] = [[a1 + b1, a0 + b0]]
            i = max(i - 1, 0)
        else:
            i += 1
    cost = 0.0
    for one, zero in blocks:
        cost += one * math.log2(1 + zero / one) if one else 0.0
        cost += zero * math.log2(1 + one / zero) if zero else 0.0
    return cost / 2


@given(scores, scores)
def test_cllr_min_is_the_cost_after_pooling(target, alternative):
    assert cllr_min(target, alternative) == pytest.approx(pav_cost(target, alternative), abs=1e-9)


@given(scores, scores)
def test_no_monotone_recalibration_beats_cllr_min(target, alternative):
    least = cllr_min(target, alternative)
    for slope in (0.2, 1.0, 3.0):
        assert cllr(slope * target, slope * alternative) >= least - 1e-9
    assert cllr_min(np.exp(target), np.exp(alternative)) == pytest.approx(least)


@given(scores, scores)
def test_auc_is_the_mann_whitney_statistic(target, alternative):
    expected = mannwhitneyu(target, alternative).statistic / (len(target) * len(alternative))
    assert auc(target, alternative) == pytest.approx(expected)


def test_true_positive_rate_keeps_to_the_false_positive_rate():
    alternative = np.arange(1000.0)
    target = np.array([500.0, 989.0, 989.5, 999.5])
    assert true_positive_rate(target, alternative, 0.01) == 0.5
    assert true_positive_rate(target, alternative, 0.001) == 0.25
    assert true_positive_rate(np.array([5.0]), np.array([5.0, 1.0]), 0.001) == 0.0


def test_validation_counts_misleading_evidence():
    found = validate(np.log([200.0, 2.0, 0.5, 101.0]), np.log([0.1, 3.0, 150.0, 1.0]))
    assert (found.misleading_target, found.strong_target) == (0.25, 0.5)
    assert (found.misleading_alternative, found.strongly_misleading) == (0.5, 0.25)
    assert found.to_dict()["n_target"] == 4
    assert "target" not in found.to_dict()


def test_tippett_is_the_share_at_or_above():
    assert tippett(np.array([0.0, 1.0, 2.0, 2.0]), [-1, 0, 0.5, 2, 3]).tolist() == [1.0, 1.0, 0.75, 0.5, 0.0]


# --- bounds


@given(scores, scores, st.integers(1, 50), st.integers(1, 50))
def test_the_bounds_never_exceed_what_so_many_models_can_show(target, alternative, n1, n0):
    low, high = elub(target, alternative, independent=(n1, n0))
    assert -math.log(n1 + 1) - 1e-12 <= low <= 0.0 <= high <= math.log(n0 + 1) + 1e-12
    assert high <= max(0.0, target.max())
    assert low >= min(0.0, alternative.min())


@given(scores, scores, st.integers(1, 50))
def test_the_upper_bound_grows_with_independent_models(target, alternative, n0):
    bounds = [elub(target, alternative, independent=(9, n))[1] for n in (n0, n0 + 1, 10 * n0)]
    assert bounds == sorted(bounds)


@given(scores, scores, st.integers(1, 50), st.integers(1, 50))
def test_the_bounds_are_mirror_images(target, alternative, n1, n0):
    low, high = elub(target, alternative, independent=(n1, n0))
    assert elub(-alternative, -target, independent=(n0, n1)) == pytest.approx((-high, -low))


@given(scores, scores, st.integers(1, 50))
def test_more_false_support_never_raises_the_upper_bound(target, alternative, n0):
    worse = alternative.copy()
    worse[worse.argmin()] = 6.0
    assert elub(target, worse, independent=(9, n0))[1] <= elub(target, alternative, independent=(9, n0))[1] + 1e-12


def test_the_upper_bound_by_hand():
    """Ten targets at LR 50, 100 alternatives below 1: at t = 50 nothing false, one pair in 101 is added, 1/(1/101) = 101 > 50."""
    target, alternative = np.full(10, math.log(50.0)), np.full(100, -1.0)
    assert elub(target, alternative, independent=(10, 100))[1] == pytest.approx(math.log(50.0))
    assert elub(target, alternative, independent=(10, 30))[1] == pytest.approx(math.log(31.0))
    one_false = np.append(alternative[1:], math.log(60.0))
    assert elub(target, one_false, independent=(10, 100))[1] == pytest.approx(math.log(50.0))
    assert elub(target, one_false, independent=(10, 30))[1] == pytest.approx(math.log(31.0 / 1.3))


def test_a_useless_system_supports_nothing():
    same = np.linspace(-1, 1, 41)
    low, high = elub(same, same, independent=(41, 41))
    assert low == pytest.approx(0.0, abs=1e-9)
    assert high == pytest.approx(0.0, abs=1e-9)


def test_bounded_lrs_seldom_mislead():
    """P(LR >= k | alternative) stays near or below 1/k for calibrated and bounded normal scores."""
    target, alternative = sample(60, 600, shift=2.0, seed=3)
    fit = calibrate(target, alternative)
    low, high = elub(fit.log_lr(target), fit.log_lr(alternative), independent=(60, 200))
    fresh = fit.log_lr(np.random.default_rng(4).standard_normal((100_000, 1)))
    bounded = np.clip(fresh, low, high)
    for k in (2.0, 5.0, 10.0):
        assert (bounded >= math.log(k)).mean() <= 1 / k
