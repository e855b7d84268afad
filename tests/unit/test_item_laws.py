"""Tails of sums of finite lattice laws: brute force in fractions, far tails in 60 digits, and the reported error bound."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from wmcheck.watermark.core.item_laws import LatticeLaw, lattice_log_sf, lattice_tail
from wmcheck.watermark.core.lattice import weighted_bernoulli_tail

RAGGED = (3, (0.125, 0.0, 0.5, 0.25, 0.125))
NEGATIVE = (-4, (0.5, 0.0625, 0.0, 0.0, 0.4375))


def exact_law(laws):
    """Lowest value and masses of the sum, in exact fractions of the given doubles."""
    low, law = 0, [Fraction(1)]
    for one in laws:
        for _ in range(one.copies):
            longer = [Fraction(0)] * (len(law) + one.weight * (len(one.masses) - 1))
            for s, mass in enumerate(law):
                for i, p in enumerate(one.masses):
                    longer[s + one.weight * i] += mass * Fraction(float(p))
            low, law = low + one.weight * one.low, longer
    return low, law


def check(total, laws, truth):
    found = lattice_tail(total, laws)
    error = abs(mp.e ** mp.mpf(found.log_sf) - truth)
    assert error <= mp.e ** mp.mpf(found.log_error_bound) or error == 0
    assert mp.e ** mp.mpf(lattice_log_sf(total, laws)) >= truth * (1 - mp.mpf("1e-50")) or found.upper() == 0.0
    if truth:
        assert found.log_error_bound - found.log_sf < math.log(1e-7)


@pytest.mark.parametrize("laws", [
    [LatticeLaw(*RAGGED, copies=1)],
    [LatticeLaw(*RAGGED, copies=5)],
    [LatticeLaw(*RAGGED, weight=7, copies=2), LatticeLaw(*NEGATIVE, weight=2, copies=3), LatticeLaw(0, (0.5, 0.5), copies=11)],
    [LatticeLaw(*NEGATIVE, copies=40)],
    [LatticeLaw(5, (1.0,), copies=3), LatticeLaw(*RAGGED, copies=9)],
    [LatticeLaw(0, (1.0 - 2.0**-40, 2.0**-40), copies=12), LatticeLaw(*NEGATIVE, weight=3, copies=4)],
])
def test_every_tail_agrees_with_exact_convolution(laws):
    laws = [LatticeLaw(law.low, np.array(law.masses), law.weight, law.copies) for law in laws]
    low, law = exact_law(laws)
    with mp.workdps(60):
        for total in range(low - 2, low + len(law) + 2):
            tail = sum(law[max(total - low, 0) :], Fraction(0))
            check(total, laws, mp.mpf(tail.numerator) / mp.mpf(tail.denominator))


@pytest.mark.parametrize("n", [1, 40, 3000])
@pytest.mark.parametrize("z", [-3.0, 0.0, 1.0, 5.0, 25.0])
def test_weighted_bits_agree_with_their_own_method(n, z):
    weights, counts = np.unique(np.round(np.linspace(10, 1, 30)).astype(int), return_counts=True)
    laws = [LatticeLaw(0, np.array([0.625, 0.375]), int(w), int(n * c)) for w, c in zip(weights, counts, strict=True)]
    mean, deviation = 0.375 * n * (weights @ counts), math.sqrt(0.234375 * n * (weights**2 @ counts))
    total = min(round(mean + z * deviation), n * int(weights @ counts))
    other, found = weighted_bernoulli_tail(total, weights, n * counts, 0.375), lattice_tail(total, laws)
    assert found.log_sf == pytest.approx(other.log_sf, abs=1e-8)
    assert found.upper() >= other.log_sf - 1e-10 * abs(other.log_sf)


def test_far_below_the_smallest_double():
    # All but one of 4,000 variables at their top.
    law = LatticeLaw(0, np.array([0.25, 0.75 - 2.0**-10, 2.0**-10]), copies=4000)
    top = 4000 * math.log(2.0**-10)
    expected = top + math.log1p(4000 * (0.75 - 2.0**-10) / 2.0**-10)
    assert lattice_log_sf(7999, [law]) == pytest.approx(expected, rel=1e-12)
    assert lattice_log_sf(8000, [law]) == pytest.approx(top, rel=1e-12)
    assert lattice_log_sf(8001, [law]) == -math.inf
    assert lattice_log_sf(0, [law]) == 0.0


def test_many_copies_keep_a_small_error():
    masses = np.bincount(np.random.default_rng(0).binomial(300, 0.5, 2**16)) / 2**16
    mean, variance = masses @ np.arange(len(masses)), masses @ np.arange(len(masses)) ** 2
    n = 300_000
    total = math.ceil(n * mean + 12 * math.sqrt(n * (variance - mean**2)))
    found = lattice_tail(total, [LatticeLaw(0, masses, copies=n)])
    assert found.log_error_bound - found.log_sf < math.log(1e-3)
    assert -80 < found.log_sf < -70


def test_nothing_to_sum():
    assert lattice_log_sf(0, []) == 0.0
    assert lattice_log_sf(1, []) == -math.inf
    assert lattice_log_sf(1, [LatticeLaw(0, np.array([0.5, 0.5]), copies=0)]) == -math.inf


@pytest.mark.parametrize("bad", [
    {"masses": np.array([0.5, 0.4])}, {"masses": np.array([1.5, -0.5])}, {"masses": np.ones((1, 1))}, {"weight": 0},
    {"copies": -1},
])
def test_impossible_laws(bad):
    with pytest.raises(ValueError):
        LatticeLaw(**{"low": 0, "masses": np.array([0.5, 0.5]), **bad})
