"""The tail of a weighted sum of two Gamma laws, against high-precision sums, convolution and simulation."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy import special, stats

from wmcheck.watermark.core import mixed_nulls
from wmcheck.watermark.core.mixed_nulls import MixedExponentialNull, mixed_gamma_log_sf
from wmcheck.watermark.core.tails import gamma_log_sf


def reference(x, small, s, large, r):
    """The log tail by the integral over the smaller part, in pieces: no negative binomial law in it."""
    edges = np.linspace(0.0, x, 257)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    u = (edges[:-1, None] + (nodes + 1.0) / 2.0 * np.diff(edges)[:, None]).ravel()
    logs = stats.gamma.logpdf(u, s, scale=small) + gamma_log_sf((x - u) / large, r)
    logs += np.log(np.tile(weights, 256) * (x / 512))
    return float(special.logsumexp(np.append(logs, gamma_log_sf(x / small, s))))


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.3, 0.45, 0.8])
@pytest.mark.parametrize(("n", "ratio"), [(1, 0.5), (1, 4.0), (3, 1.2), (12, 2.0), (40, 1.0), (40, 3.0)])
def test_the_tail_is_that_of_the_integral(alpha, n, ratio):
    small, large = sorted((alpha, 1.0 - alpha))
    found = float(MixedExponentialNull((1.0 - alpha, alpha)).log_sf(n * ratio, n))
    assert found == pytest.approx(reference(n * ratio, small, n, large, n), rel=1e-10, abs=1e-10)


def series(x, small, s, large, r):
    """The log tail by the series in 80 digits, to the end."""
    with mpmath.workdps(80):
        p, y = mpmath.mpf(small) / mpmath.mpf(large), mpmath.mpf(x) / mpmath.mpf(small)
        term = mpmath.exp(-y)
        below = mpmath.mpf(0)
        for j in range(s + r):
            below += term
            term *= y / (j + 1)
        weight, total, k = p**r, mpmath.mpf(0), 0
        while True:
            total += weight * below
            below += term
            term *= y / (s + r + k + 1)
            weight *= mpmath.mpf(r + k) / (k + 1) * (1 - p)
            k += 1
            # Terms fall by less and less than the ratio of the weights, below which the rest is geometric.
            ratio = mpmath.mpf(r + k) / (k + 1) * (1 - p)
            if ratio < 1 and below > 0 and weight / (1 - ratio) < total * mpmath.mpf(10) ** -14:
                return float(mpmath.log(total))


@pytest.mark.parametrize(("n", "ratio"), [(60, 8.0), (200, 0.9), (200, 2.0), (200, 5.0), (500, 1.05)])
def test_far_tails_keep_their_digits(n, ratio):
    found = float(MixedExponentialNull((0.9, 0.1)).log_sf(n * ratio, n))
    assert found == pytest.approx(series(n * ratio, 0.1, n, 0.9, n), rel=1e-12, abs=1e-11)


def test_one_call_for_many_texts_is_many_calls():
    rng = np.random.default_rng(0)
    null = MixedExponentialNull((0.9, 0.1))
    n = rng.integers(0, 400, 300)
    totals = n * rng.choice([0.2, 1.0, 1.1, 1.5, 3.0, 40.0], 300)
    together = null.log_sf(totals, n)
    assert together == pytest.approx([float(null.log_sf(x, m)) for x, m in zip(totals, n, strict=True)], rel=1e-12, abs=1e-12)
    assert (together[n == 0] == 0.0).all()
    assert (together <= 0.0).all()
    assert np.isfinite(together).all()
    assert together.min() < -10_000


def test_cuts_that_are_too_short_are_moved(monkeypatch):
    expected = MixedExponentialNull((0.9, 0.1)).log_sf([150.0, 300.0, 1000.0], 150)
    monkeypatch.setattr(
        mixed_nulls, "_cuts",
        lambda x, s, r, small, large: (np.full(len(x), 1100), np.full(len(x), 1101)),
    )
    assert MixedExponentialNull((0.9, 0.1)).log_sf([150.0, 300.0, 1000.0], 150) == pytest.approx(expected, rel=1e-11)


def test_logs_take_over_where_products_leave_the_range_of_doubles(monkeypatch):
    expected = MixedExponentialNull((0.7, 0.3)).log_sf([100.0, 180.0, 400.0], 90)
    monkeypatch.setattr(mixed_nulls, "_SAFE", 1.0)
    assert MixedExponentialNull((0.7, 0.3)).log_sf([100.0, 180.0, 400.0], 90) == pytest.approx(expected, rel=1e-12)


def test_absurd_totals_are_bounded_and_cheap():
    null = MixedExponentialNull((0.9, 0.1))
    for total in (2e4 * 0.99, 2e4 * 1.01, 1e9):
        found = float(null.log_sf(total, 200))
        assert float(gamma_log_sf(total / 0.9, 200)) <= found <= float(gamma_log_sf(total / 0.9, 400)) + 1e-9
    assert mixed_gamma_log_sf([0.0, 1.0, -1.0], 0.1, 0, 0.9, 0).tolist() == [0.0, -math.inf, 0.0]


def test_convolution_on_a_grid_agrees():
    n, alpha, step = 5, 0.25, 1e-3
    grid = np.arange(0, 40, step)
    parts = [np.diff(stats.gamma.cdf(np.append(grid, 40.0), n, scale=scale)) for scale in (alpha, 1 - alpha)]
    both = np.fft.irfft(np.fft.rfft(parts[0], 1 << 17) * np.fft.rfft(parts[1], 1 << 17), 1 << 17)
    for x in (3.0, 5.0, 9.0):
        # Sums of two lower cell ends: the true tail lies between those at x and at two steps less.
        place = round(x / step)
        found = math.exp(float(MixedExponentialNull((1 - alpha, alpha)).log_sf(x, n)))
        assert both[place:].sum() <= found + 1e-9
        assert found <= both[place - 2 :].sum() + 1e-9


def test_equal_and_missing_weights_are_gamma_laws():
    totals = np.array([2.0, 7.0, 30.0])
    assert MixedExponentialNull((0.5, 0.5)).log_sf(totals, 6) == pytest.approx(gamma_log_sf(2 * totals, 12))
    assert MixedExponentialNull((1.0, 0.0)).log_sf(totals, 6) == pytest.approx(gamma_log_sf(totals, 6))
    # Three scores, two of one weight: shapes add.
    null = MixedExponentialNull((0.25, 0.5, 0.25))
    assert null.log_sf(totals, 6) == pytest.approx(mixed_gamma_log_sf(totals, 0.25, 12, 0.5, 6), rel=1e-12)
    drawn = np.sort(null.sample(60_000, np.random.default_rng(1)).reshape(-1, 6).sum(1))
    assert np.mean(drawn >= 8.0) == pytest.approx(math.exp(float(null.log_sf(8.0, 6))), abs=0.01)


def test_moments_names_and_bounds():
    null = MixedExponentialNull((0.9, 0.1), excess=1e-3, bound=True)
    drawn = null.sample(200_000, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(null.mean(), abs=0.01)
    assert drawn.var() == pytest.approx(null.variance(), abs=0.02)
    assert null.name == "at most 0.9 Exponential(1) + 0.1 Exponential(1)"
    assert null.describe(7) == "0.9 Gamma(7, 1) + 0.1 Gamma(7, 1), as an upper bound"
    assert MixedExponentialNull((0.5, 0.5)).describe(7) == "0.5 Gamma(7, 1) + 0.5 Gamma(7, 1)"
    assert null.reduce(np.array([[1.001, 2.001], [0.0, 0.0005]])) == pytest.approx([1.1, 0.0])


@pytest.mark.parametrize("weights", [(), (0.0,), (1.0, -0.1), (0.1, 0.2, 0.7), (math.inf, 1.0), (math.nan, 1.0)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        MixedExponentialNull(weights)


@pytest.mark.parametrize("scores", [np.ones(3), np.ones((3, 3)), -np.ones((3, 2)), np.full((3, 2), np.nan)])
def test_impossible_scores_are_refused(scores):
    with pytest.raises(ValueError, match="scores"):
        MixedExponentialNull((0.9, 0.1)).reduce(scores)


@pytest.mark.parametrize(("totals", "n"), [(math.nan, 3), (math.inf, 3), (1.0, -1), (1.0, 1.5), (1.0, math.nan)])
def test_impossible_totals_are_refused(totals, n):
    with pytest.raises(ValueError, match="totals"):
        MixedExponentialNull((0.9, 0.1)).log_sf(totals, n)
    with pytest.raises(ValueError, match="small"):
        mixed_gamma_log_sf(1.0, 0.5, 2, 0.5, 2)


@pytest.mark.parametrize(("alpha", "n", "mean", "factor"), [
    (0.1, 100, 1.5, 1.26), (0.1, 100, 2.0, 3.3), (0.1, 200, 2.0, 11.0), (0.2, 100, 2.0, 9.6), (0.2, 200, 2.0, 92.0),
])
def test_a_moment_match_is_anti_conservative(alpha, n, mean, factor):
    variance = (1 - alpha) ** 2 + alpha**2
    exact = math.exp(float(MixedExponentialNull((1 - alpha, alpha)).log_sf(n * mean, n)))
    matched = float(special.gammaincc(n / variance, n * mean / variance))
    assert exact / matched == pytest.approx(factor, rel=0.02)
