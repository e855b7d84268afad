"""Laws of searched payloads: exact by enumeration, bounds by enumeration and by sampling without replacement."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull
from wmcheck.watermark.core.payload_nulls import (
    MOST_AT_ONE_POSITION,
    BestOf,
    LargestCounts,
    largest_count_law,
    largest_counts_log_sf,
)
from wmcheck.watermark.core.tails import binomial_log_sf


def test_the_best_of_payloads_is_bonferroni_in_log_space():
    inner = ExponentialNull(bound=True)
    null = BestOf(inner, 1000)
    totals, n = np.array([0.0, 50.0, 5000.0]), np.array([20, 20, 20])
    expected = np.minimum(inner.log_sf(totals, n) + math.log(1000), 0.0)
    assert null.log_sf(totals, n) == pytest.approx(expected)
    assert null.log_sf([0.0], [0])[0] == 0.0
    assert null.log_sf(totals, n)[2] < -4000
    assert (null.mean(), null.variance()) == (inner.mean(), inner.variance())
    assert null.reduce(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert "1000 payloads" in null.describe(20)
    assert "1000 payloads" in null.name
    with pytest.raises(ValueError):
        BestOf(inner, 0)


@pytest.mark.parametrize("dependence", ["independent", "opposite", "equal"])
def test_the_best_of_payloads_holds_under_any_dependence(dependence):
    rng, null, n, documents = np.random.default_rng(3), BestOf(BernoulliNull(1, 4), 8), 30, 20_000
    draws = rng.random((documents, n, 8 if dependence == "independent" else 1))
    # Opposite: payload m is green where the one draw lies in its own eighths.
    shifted = draws if dependence != "opposite" else (draws + np.arange(8) / 8) % 1.0
    best = (shifted < 0.25).sum(1).max(1)
    p = np.exp(null.log_sf(best, np.full(documents, n)))
    for level in (0.5, 0.1, 0.01):
        assert (p <= level).mean() <= level + 5 * math.sqrt(level * (1 - level) / documents)
    sums = null.sample(n * documents, rng).reshape(documents, n).sum(1)
    assert (np.exp(null.log_sf(sums, np.full(documents, n))) <= 0.1).mean() <= 0.1


@pytest.mark.parametrize(("n", "colours"), [(0, 3), (1, 2), (2, 4), (5, 4), (7, 3), (8, 2), (9, 4), (6, 5), (3, 16)])
def test_the_law_of_the_largest_count_by_enumeration(n, colours):
    law = np.zeros(n + 1)
    for thrown in itertools.product(range(colours), repeat=n):
        law[np.bincount(thrown, minlength=colours).max()] += colours**-n
    assert largest_count_law(n, colours) == pytest.approx(law, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(("n", "colours"), [(40, 2), (75, 4), (200, 4), (MOST_AT_ONE_POSITION, 4), (300, 16)])
def test_large_laws_keep_their_far_tails(n, colours):
    law = largest_count_law(n, colours)
    assert law.sum() == pytest.approx(1.0, abs=1e-11)
    assert law[: -(-n // colours)].sum() == 0.0
    # More than half of the items can be in one colour at a time.
    for most in range(n // 2 + 1, n + 1, 7):
        exact = colours * math.comb(n, most) * (colours - 1) ** (n - most) / colours**n
        if exact > 1e-290:
            assert law[most] == pytest.approx(exact, rel=1e-9)
    with pytest.raises(ValueError):
        largest_count_law(MOST_AT_ONE_POSITION + 1, 4)


@pytest.mark.parametrize(("counts", "colours"), [((3, 0, 4), 2), ((2, 3, 1), 3), ((6,), 4), ((1, 1, 1, 1), 2)])
def test_the_sum_of_largest_counts_is_exact_for_uniform_colours(counts, colours):
    n = sum(counts)
    where = np.repeat(np.arange(len(counts)), counts)
    law = np.zeros(n + 1)
    for thrown in itertools.product(range(colours), repeat=n):
        table = np.zeros((len(counts), colours), int)
        np.add.at(table, (where, np.array(thrown)), 1)
        law[table.max(1).sum()] += colours**-n
    shares = np.full(n, 1 / colours)
    for total in range(n + 1):
        exact = law[total:].sum()
        assert largest_counts_log_sf(total, counts, colours, shares) == pytest.approx(math.log(exact), abs=1e-11)


def test_colours_of_one_permutation_stay_below_the_bound():
    """Eight items under one permutation of ten ids in two positions: every tail is bounded."""
    rng, colours, vocabulary, largest = np.random.default_rng(0), 3, 10, 4
    where = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    chunk = np.arange(vocabulary) // largest
    found = np.zeros(9)
    draws = 40_000
    for _ in range(draws):
        colour = rng.permutation(chunk)[:8]
        found[sum(np.bincount(colour[where == place]).max() for place in (0, 1))] += 1 / draws
    shares = np.minimum(largest / (vocabulary - np.arange(8)), 1.0)
    for total in range(9):
        bound = math.exp(largest_counts_log_sf(total, (4, 4), colours, shares))
        assert found[total:].sum() <= bound + 5 * math.sqrt(0.25 / draws)


def test_far_tails_and_many_items_fall_back_on_bonferroni():
    shares = np.full(3000, 0.25)
    for total, counts in ((2600, [750] * 4), (2900, [500] * 6)):
        found = largest_counts_log_sf(total, counts, 4, shares)
        assert found == pytest.approx(float(binomial_log_sf(total, 3000, 0.25)) + len(counts) * math.log(4), rel=1e-9)
    # One above the mean is where Hoeffding's bound begins.
    assert largest_counts_log_sf(750, [750] * 4, 4, shares) == 0.0
    assert largest_counts_log_sf(0, [], 4, np.zeros(0)) == 0.0
    for total, counts, shares in ((5, [4], np.full(4, 0.5)), (1, [4], np.full(3, 0.5)), (-1, [1], np.full(1, 0.5))):
        with pytest.raises(ValueError):
            largest_counts_log_sf(total, counts, 2, shares)


def test_bounds_meet_where_the_tail_leaves_doubles():
    shares = np.full(500, 0.25)
    values = [largest_counts_log_sf(total, [125] * 4, 4, shares) for total in range(125, 501)]
    assert np.all(np.diff(values) <= 1e-9)
    assert values[0] == pytest.approx(0.0, abs=1e-2)
    assert values[-1] == pytest.approx(-500 * math.log(4) + 4 * math.log(4), rel=1e-12)


def test_the_null_of_positions_describes_itself():
    null = LargestCounts(BernoulliNull(1, 4), 4**8, 4, 8)
    assert null.log_sf([60.0], [100])[0] == pytest.approx(float(binomial_log_sf(60, 100, 0.25)) + 8 * math.log(4))
    assert "4^8 messages" in null.describe(100)
    assert "n=100" in null.describe(100)
