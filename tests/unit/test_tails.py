"""Binomial and gamma log tails against mpmath, down to where no double reaches."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

from wmcheck.watermark.core.tails import binomial_log_sf, deviance, gamma_log_sf

LOG10 = math.log(10.0)
TARGETS = (3, 6, 30, 100, 300, 1000, 5000)  # -log10 of the tail


@pytest.fixture(autouse=True)
def _digits():
    with mp.workdps(60):
        yield


def beta_log_sf(k, n, p):
    return mp.log(mp.betainc(k, n - k + 1, 0, mp.mpf(p), regularized=True))


def summed_log_sf(k, n, p):
    """The tail by summing its terms: what is left where mpmath's hypergeometric series takes too long."""
    p = mp.mpf(p)
    first = mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1) + k * mp.log(p) + (n - k) * mp.log(1 - p)
    term, total, i = mp.mpf(1), mp.mpf(1), 0
    while i < n - k and term > total * mp.mpf(10) ** -25:
        term *= mp.mpf(n - k - i) / (k + 1 + i) * p / (1 - p)
        total, i = total + term, i + 1
    return first + mp.log(total)


def poisson_log_sf(shape, x):
    """Q(a, x) for whole a: the Poisson probability of fewer than a events, summed from the top."""
    a, x = mp.mpf(shape), mp.mpf(x)
    term, total, i = mp.mpf(1), mp.mpf(1), 1
    while i < a and term > total * mp.mpf(10) ** -25:
        term *= (a - i) / x
        total, i = total + term, i + 1
    return (a - 1) * mp.log(x) - x - mp.loggamma(a) + mp.log(total)


def agrees(ours, truth, absolute=1e-11):
    return abs(float(mp.mpf(float(ours)) - truth)) <= absolute + 1e-12 * abs(float(truth))


def first_below(tail, low, high, target):
    """The smallest whole threshold whose tail is at most 10^-target, or None."""
    if tail(high) > -target * LOG10:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tail(middle) > -target * LOG10 else (low, middle)
    return high


# mp.mp.dps = 60; mp.log(mp.betainc(k, n - k + 1, 0, p, regularized=True))
@pytest.mark.parametrize(
    "k, n, p, expected",
    [
        (70, 200, 0.25, "-6.8802911664369999444"),
        (127, 200, 0.25, "-68.440792700686914102"),
        (186, 200, 0.25, "-213.33345309145823123"),
        (20, 50, 1 / 256, "-79.531436184096114222"),
        (3512, 10000, 0.25, "-257.11347562028238816"),
        (4130, 10000, 0.25, "-638.94508973709360042"),
        (6340, 10000, 0.25, "-3278.6782760900011593"),
    ],
)
def test_binomial_stored(k, n, p, expected):
    assert agrees(binomial_log_sf(k, n, p), mp.mpf(expected))


# mp.mp.dps = 60; mp.log(mp.gammainc(a, x, mp.inf, regularized=True))
@pytest.mark.parametrize(
    "shape, x, expected",
    [
        (0.5, 3, "-4.2470847467855897372"),
        (10, 40.25, "-19.551257289087634131"),
        (200, 285.5, "-17.069947079190276628"),
        (200, 1330, "-756.37783829508264259"),
        (10000, 10500, "-14.665107486336821732"),
        (10000, 19000, "-2586.8801292694364962"),
    ],
)
def test_gamma_stored(shape, x, expected):
    assert agrees(gamma_log_sf(x, shape), mp.mpf(expected))


@pytest.mark.parametrize("n", [20, 200, 3000, 100_000])
@pytest.mark.parametrize("p", [1 / 256, 0.25, 0.5, 0.9])
def test_binomial_against_mpmath(n, p):
    foreign = beta_log_sf if n <= 200 else summed_log_sf
    for target in TARGETS:
        k = first_below(lambda k: float(binomial_log_sf(k, n, p)), 0, n, target)
        if k is not None:
            assert agrees(binomial_log_sf(k, n, p), foreign(k, n, p))


@pytest.mark.parametrize("shape", [1, 3, 50, 200, 3000, 100_000])
def test_gamma_against_mpmath(shape):
    for target in TARGETS:
        x = first_below(lambda x: float(gamma_log_sf(x, shape)), 0, 20 * shape + 20_000, target) + 0.125
        assert agrees(gamma_log_sf(x, shape), poisson_log_sf(shape, x))


@pytest.mark.parametrize("z", [40, 200])
def test_a_thousand_million_items(z):
    n, p = 10**9, 0.25
    k = int(n * p + z * math.sqrt(n * p * (1 - p)))
    assert agrees(binomial_log_sf(k, n, p), summed_log_sf(k, n, p), absolute=2e-10)
    x = n + z * math.sqrt(n)
    assert agrees(gamma_log_sf(x, n), poisson_log_sf(n, x), absolute=2e-10)


@pytest.mark.parametrize("p", [1e-9, 1 / 256, 0.25, 0.5, 0.9])
def test_binomial_is_exact_over_the_whole_support(p):
    n, q = 60, 1 - mp.mpf(p)
    mass = [mp.binomial(n, k) * mp.mpf(p) ** k * q ** (n - k) for k in range(n + 1)]
    for k, ours in enumerate(binomial_log_sf(np.arange(n + 1), n, p)):
        assert agrees(ours, mp.log(mp.fsum(mass[k:])), absolute=1e-14)


def test_tails_meet_where_the_method_changes():
    k = np.arange(0, 5001)
    values = binomial_log_sf(k, 5000, 0.25)
    assert np.all(np.diff(values) <= 0)
    second = np.diff(values[2000:-50], 2)  # log-concave: a jump between the two methods would break the sign
    assert np.all(second < 1e-9)
    x = np.linspace(0, 5000, 20_001)
    assert np.all(np.diff(gamma_log_sf(x, 200)) <= 0)


def test_edges():
    ends = [0.0, 0.0, math.log1p(-1 / 32), math.log(1 / 32), -math.inf]
    assert binomial_log_sf([-3, 0, 1, 5, 6], 5, 0.5).tolist() == ends
    assert binomial_log_sf([0, 1], 0, 0.5).tolist() == [0.0, -math.inf]
    assert binomial_log_sf([0, 1, 3], 3, [0.0, 0.0, 1.0]).tolist() == [0.0, -math.inf, 0.0]
    assert gamma_log_sf([-1.0, 0.0], 0).tolist() == [0.0, 0.0]
    assert gamma_log_sf([0.5, -1.0, math.inf], [0, 3, 3]).tolist() == [-math.inf, 0.0, -math.inf]
    assert binomial_log_sf([], 5, 0.5).shape == gamma_log_sf([], 3).shape == (0,)
    assert binomial_log_sf(3, 5, 0.5).shape == ()
    assert gamma_log_sf(np.ones((2, 1)), np.ones(3)).shape == (2, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: binomial_log_sf(math.nan, 5, 0.5),
        lambda: binomial_log_sf(2.5, 5, 0.5),
        lambda: binomial_log_sf(2, -1, 0.5),
        lambda: binomial_log_sf(2, 5, 1.5),
        lambda: gamma_log_sf(math.nan, 1),
        lambda: gamma_log_sf(1.0, -1),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_deviance_does_not_cancel():
    for x, m in ((1000.0, 1000.5), (1e9, 1e9 + 3), (5.0, 7.0), (1e-3, 1e3), (0.0, 2.0)):
        truth = (mp.mpf(x) * mp.log(mp.mpf(x) / m) if x else mp.mpf(0)) - (mp.mpf(x) - m)
        assert float(deviance(x, m, x - m)) == pytest.approx(float(truth), rel=1e-14)
