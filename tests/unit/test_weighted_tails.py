"""Tails of weighted sums against closed forms in mpmath, against the lattice tails, and against their own order."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

from wmcheck.watermark.core.lattice import weighted_bernoulli_log_sf
from wmcheck.watermark.core.tails import binomial_log_sf, gamma_log_sf
from wmcheck.watermark.core.weighted_tails import bernoulli_sum_log_sf, exponential_sum_log_sf
from wmcheck.watermark.schemes.tournament import layer_weights

SIXTEENTHS = np.arange(1, 17)
LOG10 = math.log(10.0)


@pytest.fixture(autouse=True)
def _digits():
    with mp.workdps(400):
        yield


def once_each(x, weights):
    """log P of a sum of exponentials of distinct means: the hypoexponential law."""
    weights = [mp.mpf(int(weight)) for weight in weights]
    terms = [mp.exp(-mp.mpf(x) / a) * mp.fprod(a / (a - b) for b in weights if b != a) for a in weights]
    return float(mp.log(mp.fsum(terms)))


def two_gammas(x, a, n, b, m):
    """log P(a Gamma(n) + b Gamma(m) >= x) by partial fractions of the transform, whole n and m."""
    x, a, b = mp.mpf(float(x)), mp.mpf(a), mp.mpf(b)

    def side(a, n, b, m):
        # Coefficients of (1 - a s)^-j in (1 - a s)^-n (1 - b s)^-m, with 1 - b s = (1 - b/a) + (b/a)(1 - a s).
        total, term, poisson, sums = mp.mpf(0), mp.mpf(1), mp.mpf(1), []
        for j in range(n):
            sums.append((sums[-1] if sums else 0) + poisson)
            poisson *= x / a / (j + 1)
        for j in range(n):
            coefficient = (1 - b / a) ** (-m - j) * (-b / a) ** j * mp.binomial(m + j - 1, j)
            total += coefficient * sums[n - j - 1]
        return total * mp.exp(-x / a) * term

    return float(mp.log(side(a, n, b, m) + side(b, m, a, n)))


def counts_of(found):
    row = np.zeros((1, 16), np.int64)
    for level, number in found.items():
        row[0, level - 1] = number
    return row


def exceeds(ours, truth):
    """Relative excess of the bound, which may not be negative beyond rounding."""
    assert ours >= truth - 1e-13 * abs(truth) - 1e-14
    return math.expm1(ours - truth)


@pytest.mark.parametrize("levels", [(1, 5, 16), (14, 15, 16), (1, 2, 3, 4), (1, 4, 8, 12, 16), tuple(range(1, 17))])
@pytest.mark.parametrize("x", [4.0, 30.0, 100.0, 350.0, 1000.0, 3000.0, 11_000.0])
def test_one_item_of_each_weight(levels, x):
    ours = float(exponential_sum_log_sf([x], SIXTEENTHS, counts_of(dict.fromkeys(levels, 1)))[0])
    assert 0 <= exceeds(ours, once_each(x, levels)) + 1e-12 < 2e-3


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 1), (2, 2), (3, 30), (40, 40), (1, 100), (100, 1)])
@pytest.mark.parametrize(("a", "b"), [(16, 1), (16, 15), (5, 9)])
def test_two_weights_down_to_1e_300(n, m, a, b):
    mean, sd = a * n + b * m, math.sqrt(a * a * n + b * b * m)
    counts = counts_of({a: n, b: m})
    found = []
    for x in mean + sd * np.array([-1.0, 0.0, 1.0, 3.0, 6.0, 15.0, 60.0]):
        if x > 0:
            ours = float(exponential_sum_log_sf([x], SIXTEENTHS, counts)[0])
            found.append(ours)
            assert exceeds(ours, two_gammas(x, a, n, b, m)) < 1e-4
    far = 900.0 * max(a, b) + 3.0 * mean
    ours = float(exponential_sum_log_sf([far], SIXTEENTHS, counts)[0])
    truth = two_gammas(far, a, n, b, m)
    assert truth < -300 * LOG10
    assert exceeds(ours, truth) < 0.02
    assert found == sorted(found, reverse=True)


def test_equal_weights_are_the_gamma_law():
    x = np.array([0.5, 20.0, 400.0])
    ours = exponential_sum_log_sf(4 * x, [4, 7], np.array([[12, 0]] * 3))
    assert ours == pytest.approx(gamma_log_sf(x, 12), rel=1e-13)
    # Weights that hardly differ, through the transform.
    near = exponential_sum_log_sf(4 * x, [4.0, 4.0 + 1e-9], np.array([[6, 6]] * 3))
    assert near == pytest.approx(gamma_log_sf(x, 12), abs=2e-6)


def test_many_items_against_simulation():
    rng = np.random.default_rng(3)
    counts = np.array([[30, 20, 10, 5, 4, 0, 3, 1, 1, 2, 1, 1, 1, 0, 2, 9]])
    sums = rng.gamma(np.maximum(counts[0], 1e-12), size=(400_000, 16)) @ SIXTEENTHS
    for share in (0.9, 0.5, 0.1, 0.01, 0.001):
        x = np.quantile(sums, 1 - share)
        ours = math.exp(exponential_sum_log_sf([x], SIXTEENTHS, counts)[0])
        assert ours == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / len(sums)))


def test_a_million_items_and_edges():
    n = np.full((1, 16), 62_500)
    mean, sd = float((n @ SIXTEENTHS)[0]), math.sqrt(float((n @ SIXTEENTHS**2)[0]))
    z = exponential_sum_log_sf(mean + sd * np.array([0.0, 2.0, 6.0]), SIXTEENTHS, np.repeat(n, 3, 0))
    # Normal tails with the first Edgeworth term, whose next one is of order 1e-6 at 0 and 2.
    skew = float(2.0 * (n @ SIXTEENTHS**3)[0]) / sd**3
    for at, ours in zip((0.0, 2.0), z, strict=False):
        normal = 0.5 * math.erfc(at / math.sqrt(2)) + skew / 6 * (at * at - 1) * math.exp(-at * at / 2) / math.sqrt(2 * math.pi)
        assert math.exp(ours) == pytest.approx(normal, rel=2e-5)
    assert z[2] < -19
    empty = np.zeros((3, 16), np.int64)
    assert exponential_sum_log_sf([0.0, -1.0, 1.0], SIXTEENTHS, empty).tolist() == [0.0, 0.0, -math.inf]
    assert exponential_sum_log_sf([], SIXTEENTHS, np.zeros((0, 16))).shape == (0,)
    assert -1e-6 < exponential_sum_log_sf([mean / 2], SIXTEENTHS, n)[0] <= 0.0


def test_documents_keep_their_digits_in_company():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5, (300, 16)) * (rng.random((300, 16)) < 0.4)
    x = np.rint(counts @ SIXTEENTHS * rng.uniform(0.5, 3.0, 300)) + 1.0
    together = exponential_sum_log_sf(x, SIXTEENTHS, counts), bernoulli_sum_log_sf(x, SIXTEENTHS, counts, 0.25)
    for i in range(0, 300, 17):
        assert exponential_sum_log_sf(x[i : i + 1], SIXTEENTHS, counts[i : i + 1])[0] == together[0][i]
        assert bernoulli_sum_log_sf(x[i : i + 1], SIXTEENTHS, counts[i : i + 1], 0.25)[0] == together[1][i]


@pytest.mark.parametrize(
    ("p", "layers", "levels"), [(0.25, (1,), 16), (0.5, (1,), 16), (1 / 256, (1,), 16), (0.9, (1,), 16),
                                (0.5, layer_weights(30), 4), (0.5, layer_weights(3), 4)],
)
@pytest.mark.parametrize("n", [2, 25, 400])
def test_bits_against_the_lattice_tails(p, layers, levels, n):
    rng = np.random.default_rng(n)
    weights = np.arange(1, levels + 1)
    counts = rng.multinomial(n, rng.dirichlet(np.ones(levels)))
    products, numbers = np.outer(weights, layers).ravel(), np.repeat(counts, len(layers))
    top = int(products @ numbers)
    mean, sd = p * top, math.sqrt(p * (1 - p) * (products**2 @ numbers))
    x = np.unique(np.clip(np.rint(mean + sd * np.array([-5.0, -2.0, 0.0, 1.0, 3.0, 5.0, 10.0, 30.0])), 1, top))
    ours = bernoulli_sum_log_sf(x, weights, np.repeat(counts[None], len(x), 0), p, layers=layers)
    for at, found in zip(x, ours, strict=True):
        # Both are upper bounds with rounding paid for.
        assert found == pytest.approx(weighted_bernoulli_log_sf(int(at), products, numbers, p), abs=2e-6, rel=1e-12)


def test_bits_of_one_weight_are_binomial_and_edges():
    counts = np.array([[0, 40]] * 5)
    x = np.array([0, 20, 59, 80, 81])
    ours = bernoulli_sum_log_sf(x, [1, 2], counts, 0.25)
    assert ours[:4] == pytest.approx(binomial_log_sf(np.array([0, 10, 30, 40]), 40, 0.25), abs=1e-6)
    assert ours[4] == -math.inf
    assert bernoulli_sum_log_sf([1, 0], [1, 2], np.zeros((2, 2)), 0.25).tolist() == [-math.inf, 0.0]


@pytest.mark.parametrize(
    "call", [
        lambda: exponential_sum_log_sf([1.0], [1.0, 2.0], [[1]]), lambda: exponential_sum_log_sf([np.nan], [1.0], [[1]]),
        lambda: exponential_sum_log_sf([1.0], [0.0], [[1]]), lambda: exponential_sum_log_sf([1.0], [1.0], [[-1]]),
        lambda: bernoulli_sum_log_sf([1.5], [1], [[2]], 0.5), lambda: bernoulli_sum_log_sf([1], [1], [[2]], 1.0),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ValueError, match="weighted tail"):
        call()
