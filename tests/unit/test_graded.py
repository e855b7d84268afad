"""Tails of sums of known discrete laws, against convolutions and binomials."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from wmcheck.watermark.core.graded import LOG_CLEAR, LOG_EXTREME, Graded, log_sf

P = np.array([[0.3, 0.5, 0.2], [0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
VALUES = np.array([[-5, 2, 9], [-1, 3, 30], [0, 0, 0]])


def convolved(counts):
    """Lowest value and tails P(S >= lowest + i) by plain convolution."""
    low, law = 0, np.ones(1)
    for p, values, count in zip(P, VALUES, counts, strict=True):
        base = np.zeros(values.max() - values.min() + 1)
        np.add.at(base, values - values.min(), p)
        for _ in range(count):
            law, low = np.convolve(law, base), low + int(values.min())
    return low, law[::-1].cumsum()[::-1]


@pytest.mark.parametrize("counts", [(20, 30, 4), (1, 0, 0), (0, 1, 7), (300, 5, 0)])
def test_the_bound_is_the_tail_where_it_is_sharp_and_never_below(counts):
    low, tail = convolved(counts)
    totals = np.arange(low, low + len(tail))
    sums = np.tile(np.array(counts, float), (len(totals), 1))
    found = log_sf(totals.astype(float), sums, P, VALUES, 0.05)
    with np.errstate(divide="ignore"):
        true = np.log(tail)
    seen = true > -25
    assert (found[seen] >= true[seen] - 1e-9).all()
    sharp = seen & (found < LOG_CLEAR)
    # Steps of the tilts leave a little of the shifted terms.
    assert (found[sharp] <= true[sharp] + 1e-4).all()
    assert (found <= 0).all()


def test_bits_are_binomial_far_into_the_tail():
    n = 400
    totals = np.arange(220, 400, 10)
    found = log_sf(totals.astype(float), np.full((len(totals), 1), n), np.array([[0.5, 0.5]]), np.array([[0, 1]]), 1.0)
    assert found == pytest.approx(binom.logsf(totals - 1, n, 0.5), rel=1e-6)
    assert (found >= binom.logsf(totals - 1, n, 0.5) - 1e-9).all()


def test_extreme_and_long_sums_have_chernoffs_bound():
    n = 30_000
    found = log_sf(np.array([16_000.0]), np.array([[float(n)]]), np.array([[0.5, 0.5]]), np.array([[0, 1]]), 1.0)
    exact = binom.logsf(15_999, n, 0.5)
    assert exact <= found[0] <= exact + math.log(30)
    far = log_sf(np.array([1990.0]), np.array([[2000.0]]), np.array([[0.5, 0.5]]), np.array([[0, 1]]), 1.0)
    assert binom.logsf(1989, 2000, 0.5) <= far[0] < LOG_EXTREME


def test_sums_are_independent_of_their_company_and_empty_ones_say_nothing():
    rng = np.random.default_rng(0)
    n, document = 90, np.repeat([0, 2], [40, 50])
    group, step = rng.integers(0, 3, n), np.full(n, 2)
    graded = Graded(group, step, P, np.stack([VALUES, 2 * VALUES], axis=2), 0.05, ("one", "two"), (0.5, 0.5))
    together = graded.log_p(document, 3)
    alone = graded.take(np.arange(40, 90)).log_p(np.zeros(50, np.int64), 1)
    assert together[2] == pytest.approx(alone[0], rel=1e-9)
    # Twice the values are the same score.
    assert together[:, 0] == pytest.approx(together[:, 1], rel=1e-3)
    assert (together[1] == 0).all()
    assert (together[[0, 2]] < -20).all()
    assert (graded.take(np.zeros(0, np.int64)).log_p(np.zeros(0, np.int64), 2) == 0).all()


def test_p_values_are_super_uniform_and_close_to_uniform():
    rng, m, n = np.random.default_rng(1), 20_000, 25
    steps = np.stack([rng.choice(3, (m, n), p=P[0]), rng.choice(3, (m, n), p=P[1])], axis=2)
    totals = VALUES[0][steps[:, :, 0]].sum(1) + VALUES[1][steps[:, :, 1]].sum(1)
    found = log_sf(totals.astype(float), np.tile([25.0, 25.0, 0.0], (m, 1)), P, VALUES, 0.05)
    hits = int((found <= math.log(0.01)).sum())
    assert 0.8 * 0.01 * m < hits < 0.01 * m + 4 * math.sqrt(0.01 * m)


def test_many_documents_are_tested_in_parts(monkeypatch):
    rng = np.random.default_rng(2)
    document = np.sort(rng.integers(0, 50, 600))
    found = Graded(rng.integers(0, 3, 600), rng.integers(1, 3, 600), P, VALUES[:, :, None], 0.05, ("one",), (1.0,))
    whole = found.log_p(document, 53)
    monkeypatch.setattr("wmcheck.watermark.core.graded._COUNTS", 3 * 7)
    assert found.log_p(document, 53) == pytest.approx(whole, rel=1e-9)
