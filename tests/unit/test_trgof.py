"""Truncated goodness of fit: the statistic against its definition, crossing against Kolmogorov-Smirnov and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from wmcheck.watermark.core import crossing
from wmcheck.watermark.core.crossing import crossing_log_p
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull
from wmcheck.watermark.core.statistics import STATISTICS, Sample
from wmcheck.watermark.core.survival import shipped
from wmcheck.watermark.core.trgof import TABLES, divergence, exact_log_sf, make_table, phi

NULL = ExponentialNull(bound=True)
NAMES = ["trgof1", "trgof1.5", "trgof2"]
POWERS = [1.0, 1.5, 2.0]


@pytest.mark.parametrize(("n", "distance"), [(1, 0.3), (5, 0.5), (50, 0.2), (500, 0.1), (500, 0.3), (1500, 0.05)])
def test_crossing_of_a_straight_line_is_the_one_sided_kolmogorov_smirnov_law(n, distance):
    found = crossing_log_p(np.arange(1, n + 1) / n - distance, n)
    assert found == pytest.approx(math.log(stats.ksone.sf(distance, n)) + 1e-7, abs=2e-9)


def test_crossing_of_two_boundaries_in_closed_form():
    for low, high in ((0.1, 0.4), (0.0, 0.7), (0.3, 0.3), (1e-9, 2e-9)):
        stay = (1 - high) ** 2 + 2 * (high - low) * (1 - high)
        exact = 2 * low + high**2 - 2 * low * high
        assert 1 - stay == pytest.approx(exact, abs=1e-12)
        assert crossing_log_p(np.array([low, high]), 2) == pytest.approx(math.log(exact), abs=2e-7)


def test_no_boundary_no_crossing_and_bad_boundaries_are_refused():
    assert crossing_log_p(np.zeros(4), 4) == -math.inf
    for bounds in ([0.5, 0.4], [0.5, 1.0], [0.5], [0.1, math.nan]):
        with pytest.raises(ValueError, match="boundaries"):
            crossing_log_p(np.array(bounds), 2)


def test_the_bound_for_long_documents_is_above_the_exact_chance_and_close(monkeypatch):
    n, distance = 1800, 0.05
    bounds = np.arange(1, n + 1) / n - distance
    exact = math.log(stats.ksone.sf(distance, n))
    monkeypatch.setattr(crossing, "EXACT", 100)
    assert exact < crossing_log_p(bounds, n) < exact + 0.2
    assert -14 < exact_log_sf(12.0, 5000, 1.0) < -7


def by_definition(p_values, s):
    """sup over r in [1/n, 1) of n K(F(r), r) on a fine grid of r and at the p-values."""
    n = len(p_values)
    grid = np.concatenate([np.linspace(1 / n, 1, 20_001)[:-1], p_values[(p_values >= 1 / n)]])
    share = (p_values[:, None] <= grid).mean(0)
    keep = share > grid
    u, v = share[keep], grid[keep]
    if s == 1.0:
        found = stats.entropy([u, 1 - u], [v, 1 - v], axis=0)
    else:
        found = (1 - u**s * v ** (1 - s) - (1 - u) ** s * (1 - v) ** (1 - s)) / (s * (1 - s))
    return float(n * found.max(initial=0.0))


@pytest.mark.parametrize("s", POWERS)
def test_the_statistic_is_the_supremum_of_its_definition(s):
    rng = np.random.default_rng(1)
    documents = [rng.exponential(1 + share, n) for share in (0.0, 1.0) for n in (2, 9, 60)]
    counts = np.array([len(scores) for scores in documents])
    found = divergence(np.concatenate(documents), np.repeat(np.arange(6), counts), counts, s)
    np.testing.assert_allclose(found, [by_definition(np.exp(-scores), s) for scores in documents], rtol=1e-9)


def test_divergences_of_known_values():
    u, v = np.array([0.5, 0.2, 1.0]), np.array([0.25, 0.4, 0.5])
    np.testing.assert_allclose(phi(u, v, 2.0), [0.5 * 0.0625 / 0.1875, 0.0, 0.5])
    np.testing.assert_allclose(phi(u, v, 1.0), [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0, math.log(2)])
    np.testing.assert_allclose(phi(u, v, 1.5 + 1e-9), phi(u, v, 1.5), rtol=1e-7)


@pytest.mark.parametrize("s", POWERS)
@pytest.mark.parametrize("n", [7, 80])
def test_the_exact_law_agrees_with_simulation(s, n):
    documents = 15_000
    scores = np.random.default_rng([n, 3]).exponential(size=n * documents)
    found = divergence(scores, np.repeat(np.arange(documents), n), np.full(documents, n), s)
    for value in (1.0, 2.5, 5.0):
        chance, hits = math.exp(exact_log_sf(value, n, s)), int((found >= value).sum())
        assert stats.binom.sf(hits - 1, documents, chance) > 1e-5
        assert stats.binom.cdf(hits, documents, chance) > 1e-5


@pytest.mark.parametrize("name", TABLES)
def test_the_shipped_tables_are_above_the_exact_law_and_close(name):
    table, s = shipped(name), TABLES[name]
    assert table.identity[0] == s
    for n, value in ((5, 3.0), (40, 6.0), (333, 5.0), (333, 9.0), (1000, 8.0)):
        head = int(table.heads(np.array([n]))[0])
        found = table.log_sf(table.rows(np.array([n])), np.array([value]))[0]
        exact = exact_log_sf(value, head, s)
        # Small documents have few values of S, and levels are 0.1 apart.
        assert exact <= found + 1e-12
        assert found <= exact + 0.35 or found <= table.log_p[-1]


def test_a_small_table_is_made_like_the_shipped_one():
    made, table = make_table(1.5, items=6, depth=3.0), shipped("trgof_1.5")
    np.testing.assert_array_equal(made.codes, table.codes[:6, : made.codes.shape[1]])


@pytest.mark.parametrize("name", NAMES)
def test_strong_documents_have_no_floor(name):
    n = 200
    scores = np.full(n, 3.0)
    found = STATISTICS[name]().evaluate(Sample(scores, np.zeros(n, np.int64), 1, NULL))
    head = int(shipped(f"trgof_{STATISTICS[name].s:g}").heads(np.array([n]))[0])
    assert found.log_p[0] < -50
    assert found.log_p[0] == pytest.approx(exact_log_sf(float(found.totals[0]), head, STATISTICS[name].s))
    assert found.n[0] == n
    assert f"first {head} of {n}" in STATISTICS[name]().describe(NULL, n)


@pytest.mark.parametrize("name", NAMES)
def test_raising_any_score_never_raises_p(name):
    rng, scores = np.random.default_rng(5), []
    for _ in range(40):
        plain = rng.exponential(1.5, 60)
        raised = plain.copy()
        raised[rng.integers(60)] += rng.exponential(3.0)
        scores += [plain, raised]
    found = STATISTICS[name]().evaluate(Sample(np.concatenate(scores), np.repeat(np.arange(80), 60), 80, NULL))
    assert np.all(found.log_p[1::2] <= found.log_p[::2])
    assert np.all(found.totals[1::2] >= found.totals[::2])


def test_items_without_a_uniform_p_value_are_refused():
    assert STATISTICS["trgof1"]().unfit(BernoulliNull(1, 4))
    assert not STATISTICS["trgof2"]().unfit(NULL)
