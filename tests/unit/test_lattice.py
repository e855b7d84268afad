"""Tails of weighted Bernoulli sums: brute force in fractions, far tails in 60 digits, and the reported error bound."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from wmcheck.watermark.core.lattice import (
    weighted_bernoulli_log_sf,
    weighted_bernoulli_log_sf_many,
    weighted_bernoulli_tail,
)
from wmcheck.watermark.core.tails import binomial_log_sf

TOURNAMENT = np.round(np.linspace(10, 1, 30)).astype(int)


def exact_tails(weights, counts, p):
    """P(S >= s) for every s, by convolution in exact fractions (p is the double, exactly)."""
    p, law = Fraction(p), [Fraction(1)]
    for weight, count in zip(weights, counts, strict=True):
        for _ in range(count):
            longer = [Fraction(0)] * (len(law) + weight)
            for s, mass in enumerate(law):
                longer[s] += mass * (1 - p)
                longer[s + weight] += mass * p
            law = longer
    tails = [Fraction(0)]
    for mass in reversed(law):
        tails.append(tails[-1] + mass)
    return tails[:0:-1]


def high_precision_tails(weights, counts, p, digits=60):
    """The natural logs of the same, by multiplying out the binomial factors: fast enough for far tails."""
    with mp.workdps(digits):
        law = [mp.mpf(1)]
        for weight, count in zip(weights, counts, strict=True):
            factor = [mp.binomial(count, i) * mp.mpf(p) ** i * (1 - mp.mpf(p)) ** (count - i) for i in range(count + 1)]
            longer = [mp.mpf(0)] * (len(law) + weight * count)
            for i, chance in enumerate(factor):
                for s, mass in enumerate(law):
                    longer[s + weight * i] += mass * chance
            law = longer
        tails = [mp.mpf(0)]
        for mass in reversed(law):
            tails.append(tails[-1] + mass)
        return [mp.log(tail) for tail in tails[:0:-1]]


def log_of(fraction):
    with mp.workdps(60):
        return mp.log(mp.mpf(fraction.numerator) / fraction.denominator)


@pytest.mark.parametrize(
    "weights, counts, p",
    [
        ([1], [1], 0.5),
        ([1], [40], 0.25),
        ([1, 2, 3], [5, 4, 3], 0.5),
        ([10, 11], [4, 4], 0.5),
        ([3, 7], [10, 6], 1 / 256),
        ([2, 4, 6], [4, 4, 4], 0.3),
        ([1, 2, 10], [12, 6, 4], 0.9),
        ([1000, 1], [3, 8], 0.01),
        ([5, 5, 1, 3], [2, 3, 0, 1], 0.5 + 1e-9),
    ],
)
def test_against_fractions(weights, counts, p):
    tails = exact_tails(weights, counts, p)
    step = max(1, len(tails) // 150)
    for total in {*range(0, len(tails), step), len(tails) - 2, len(tails) - 1}:
        found, truth = weighted_bernoulli_tail(total, weights, counts, p), log_of(tails[total])
        error = abs(float(mp.expm1(mp.mpf(found.log_sf) - truth)))
        bound = math.exp(found.log_error_bound - found.log_sf)
        assert error <= bound + 1e-16
        assert bound < 1e-9
        assert found.upper() >= float(truth) - 1e-15 * abs(float(truth))
        assert weighted_bernoulli_log_sf(total, weights, counts, p) == found.upper()


@pytest.mark.parametrize("weights, counts, p", [([1, 4, 9], [150, 60, 30], 5e-5), ([2, 3, 5], [200, 200, 100], 2e-3)])
def test_far_tails_against_mpmath(weights, counts, p):
    logs = high_precision_tails(weights, counts, p)
    for target in (3, 6, 30, 100, 300, 1000):
        total = next(s for s, log in enumerate(logs) if log <= -target * math.log(10.0))
        found = weighted_bernoulli_tail(total, weights, counts, p)
        error = abs(float(mp.mpf(found.log_sf) - logs[total]))
        assert error <= math.exp(found.log_error_bound - found.log_sf) < 1e-8


def test_a_thousand_decades_against_the_binomial():
    for n, p in ((5000, 0.25), (10**6, 0.5), (30_000_000, 0.5)):
        for z in (-3, 0, 3, 10, 40, 72):
            k = int(n * p + z * math.sqrt(n * p * (1 - p)))
            found = weighted_bernoulli_tail(k, [1], [n], p)
            assert found.log_sf == pytest.approx(float(binomial_log_sf(k, n, p)), rel=1e-12, abs=2e-11)
            assert found.log_error_bound - found.log_sf < math.log(1e-8)


def test_a_million_tournament_tokens():
    n, top = 10**6, int(TOURNAMENT.sum())
    sigma = math.sqrt(n * float((TOURNAMENT**2).sum()) / 4)
    for z in (0, 5, 30):
        total = int(n * top / 2 + z * sigma)
        found = weighted_bernoulli_tail(total, TOURNAMENT, np.full(30, n), 0.5)
        assert found.log_error_bound - found.log_sf < math.log(1e-8)
        # At this size the central limit theorem is good to about 1e-3 of log p.
        normal = float(mp.log(mp.erfc(z / mp.sqrt(2)) / 2))
        assert found.log_sf == pytest.approx(normal, rel=2e-3, abs=1e-3)


def test_extremes():
    assert weighted_bernoulli_log_sf(0, [2, 3], [4, 4], 0.5) == 0.0
    assert weighted_bernoulli_log_sf(-7, [2, 3], [4, 4], 0.5) == 0.0
    assert weighted_bernoulli_log_sf(21, [2, 3], [4, 4], 0.5) == -math.inf
    assert weighted_bernoulli_log_sf(20, [2, 3], [4, 4], 0.5) == pytest.approx(8 * math.log(0.5), rel=1e-14)
    assert weighted_bernoulli_log_sf(19, [2, 3], [4, 4], 0.5) == pytest.approx(8 * math.log(0.5), rel=1e-14)
    assert weighted_bernoulli_log_sf(10**7 - 1, [1], [10**7], 0.5) == pytest.approx(
        10**7 * math.log(0.5) + math.log1p(10**7), rel=1e-12
    )
    assert weighted_bernoulli_log_sf(0, [], [], 0.5) == 0.0
    assert weighted_bernoulli_log_sf(1, [], [], 0.5) == -math.inf


def test_a_common_divisor_changes_nothing():
    fine, coarse = ([1, 2, 5], [9, 9, 9], 0.3), ([6, 12, 30], [9, 9, 9], 0.3)
    for total in range(0, 73, 4):
        assert weighted_bernoulli_log_sf(total, *fine) == weighted_bernoulli_log_sf(6 * total, *coarse)
        assert weighted_bernoulli_log_sf(total, *fine) == weighted_bernoulli_log_sf(6 * total - 5, *coarse)


@pytest.mark.parametrize("weights, p", [([1, 2, 3], 0.5), ([10, 11], 0.25), (TOURNAMENT.tolist(), 0.5), ([4, 4], 0.9)])
def test_many_equals_one_by_one(weights, p):
    rng = np.random.default_rng(5)
    n = rng.integers(0, 60, 150)
    totals = (rng.random(150) * 1.05 * n * sum(weights)).astype(int) - 1
    found = weighted_bernoulli_log_sf_many(totals, n, weights, p)
    for value, total, items in zip(found, totals, n, strict=True):
        alone = weighted_bernoulli_log_sf(int(total), weights, [items] * len(weights), p) if items else 0.0
        assert value == alone or abs(value - alone) <= 3e-9


def test_the_answer_does_not_depend_on_the_company():
    rng = np.random.default_rng(8)
    n = np.concatenate([rng.integers(1, 400, 300), [7000, 100_000]])
    totals = (n * TOURNAMENT.sum() * (0.5 + 0.2 * rng.random(n.size))).astype(int)
    together = weighted_bernoulli_log_sf_many(totals, n, TOURNAMENT, 0.5)
    alone = [
        float(weighted_bernoulli_log_sf_many([s], [m], TOURNAMENT, 0.5)[0]) for s, m in zip(totals, n, strict=True)
    ]
    assert alone == together.tolist()


def test_many_falls_monotonically_in_the_total():
    top = 40 * int(TOURNAMENT.sum())
    values = weighted_bernoulli_log_sf_many(np.arange(-1, top + 2), 40, TOURNAMENT, 0.5)
    assert values[[0, 1, -1]].tolist() == [0.0, 0.0, -math.inf]
    assert np.all(np.diff(values[:-1]) <= 1e-9 * np.maximum(1.0, np.abs(values[:-2])))


def test_many_shapes_and_refusals():
    assert weighted_bernoulli_log_sf_many([], [], [1, 2], 0.5).shape == (0,)
    assert weighted_bernoulli_log_sf_many(np.ones((2, 1)), np.ones(3), [1, 2], 0.5).shape == (2, 3)
    for weights, counts in (([0], [1]), ([1.5], [1]), ([1, 2], [1]), ([1], [-1])):
        with pytest.raises(ValueError, match="weighted Bernoulli"):
            weighted_bernoulli_tail(1, weights, counts, 0.5)
    for p in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="0 < p < 1"):
            weighted_bernoulli_tail(1, [1], [1], p)
    with pytest.raises(ValueError, match="n_items"):
        weighted_bernoulli_log_sf_many([1], [-1], [1], 0.5)
