"""The sparse mixture: its value, its e-value, its tables against exact and simulated laws, and its look-up."""

from __future__ import annotations

import math
from importlib.resources import files

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from wmcheck.watermark.core import experts as experts_module
from wmcheck.watermark.core import sparse
from wmcheck.watermark.core.experts import BETA_SHARES, POWERS
from wmcheck.watermark.core.monte_carlo import sparse_table
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, WeightedBernoulliNull
from wmcheck.watermark.core.sparse import SHARES, Sparse, table_of
from wmcheck.watermark.core.statistics import Sample
from wmcheck.watermark.core.survival import FOLDER, grid
from wmcheck.watermark.schemes.tournament import layer_weights

EXPONENTIAL, LAYERS = ExponentialNull(bound=False), WeightedBernoulliNull(layer_weights(30))


def sample_of(null, *documents):
    """The documents, one row of reduced scores each."""
    owner = np.repeat(np.arange(len(documents)), [len(scores) for scores in documents])
    return Sample(np.concatenate(documents).astype(float), owner, len(documents), null)


def evaluate(null, *documents):
    return Sparse().evaluate(sample_of(null, *documents))


def by_hand(scores):
    """The statistic from beta densities of scipy."""
    pivots, products = -np.expm1(-np.asarray(scores)), []
    for shares in BETA_SHARES.values():
        density = sum(
            share / sum(shares) * stats.beta.pdf(pivots, power, 1) for power, share in zip(POWERS, shares, strict=True)
        )
        products += [np.prod(1 - eps + eps * density) for eps in SHARES]
    return math.log(np.mean(products))


def test_the_statistic_is_the_log_of_the_mean_product_of_beta_densities():
    scores = np.array([0.2, 1.5, 6.0, 0.01, 3.3])
    assert evaluate(EXPONENTIAL, scores).totals[0] == pytest.approx(by_hand(scores), rel=1e-10)


def test_the_e_value_has_mean_one_under_each_law():
    found, _ = integrate.quad(lambda x: math.exp(evaluate(EXPONENTIAL, [x]).log_e[0] - x), 0, 60, limit=300)
    assert found == pytest.approx(1.0, abs=1e-3)
    green = BernoulliNull(64, 256)
    log_e = evaluate(green, *[np.arange(8) < k for k in range(9)]).log_e
    assert stats.binom.pmf(np.arange(9), 8, 0.25) @ np.exp(log_e) == pytest.approx(1.0, rel=1e-9)
    law = np.ones(1)
    for weight in LAYERS.weights:
        law = np.convolve(law, np.eye(weight + 1)[[0, weight]].sum(0) / 2)
    log_e = evaluate(LAYERS, *np.arange(len(law))[:, None]).log_e
    assert law @ np.exp(log_e) == pytest.approx(1.0, rel=1e-9)


def test_red_green_p_values_are_the_exact_tail_of_the_count():
    green = BernoulliNull(64, 256)
    documents = [np.arange(40) < k for k in (0, 10, 22, 40)]
    found = evaluate(green, *documents)
    np.testing.assert_allclose(found.log_p, stats.binom.logsf([-1, 9, 21, 39], 40, 0.25), rtol=1e-9)
    assert np.all(np.diff(found.log_e) > 0)


@pytest.mark.parametrize("value", [0.1, 0.5, 1.0, 1.3, 1.6])
def test_the_table_is_above_the_exact_law_of_one_item_and_close(value):
    score = optimize.brentq(lambda x: by_hand([x]) - value, 1e-9, 30)
    table = table_of(EXPONENTIAL)
    found = table.log_sf(table.rows(np.array([1])), np.array([value]))[0]
    assert -score <= found <= -score + 0.4


@pytest.mark.parametrize("null", [EXPONENTIAL, LAYERS], ids=["exponential", "layers"])
@pytest.mark.parametrize("n", [10, 101])
def test_the_table_is_above_simulated_tails_and_close(null, n):
    documents = 12_000
    scores = null.sample(n * documents, np.random.default_rng([n, 7]))
    found = Sparse().evaluate(Sample(scores, np.repeat(np.arange(documents), n), documents, null))
    for level in (0.3, 0.03, 0.003):
        hits = int((found.log_p <= math.log(level)).sum())
        assert stats.binom.sf(hits - 1, documents, level) > 1e-6
        assert stats.binom.cdf(hits, documents, 0.6 * level) > 1e-6


def test_a_small_table_made_again_is_a_bound_and_never_beyond_markov():
    table = sparse_table(EXPONENTIAL, [(np.array([1, 2]), 20_000), (np.array([40]), 4000)], 3)
    values = np.array([0.5, 1.0, 1.5])
    exact = [-optimize.brentq(lambda x, v=value: by_hand([x]) - v, 1e-9, 30) for value in values]
    assert np.all(table.log_sf(np.zeros(3, int), values) >= exact)
    assert table.n.tolist() == [1, 2, 40]
    far = np.array([5.0, 12.0, 29.0])
    markov = table.log_sf(np.full(3, 2), far)
    assert np.all(markov <= -far + 0.06)
    assert table.log_sf(np.array([-1]), np.array([20.0])).tolist() == [0.0]


def test_only_the_first_items_up_to_a_row_of_the_table_count_for_p_and_all_for_e():
    n = int(table_of(EXPONENTIAL).n[-1]) - 1
    head = int(table_of(EXPONENTIAL).heads(np.array([n]))[0])
    assert head < n
    scores = EXPONENTIAL.sample(n, np.random.default_rng(1))
    scores[:200] += 3.0
    other = scores.copy()
    other[head:] = 20.0
    plain, raised, cut = (evaluate(EXPONENTIAL, each) for each in (scores, other, scores[:head]))
    assert plain.log_p[0] == raised.log_p[0] == pytest.approx(cut.log_p[0], rel=1e-9)
    assert raised.log_e[0] > plain.log_e[0]
    assert plain.n[0] == n
    assert f"first {head} of {n} items" in Sparse().describe(EXPONENTIAL, n)


def test_beyond_the_table_the_p_value_is_one_over_e():
    longer = int(table_of(EXPONENTIAL).n[-1]) + 1
    scores = EXPONENTIAL.sample(longer, np.random.default_rng(2))
    scores[::20] += 4.0
    found = evaluate(EXPONENTIAL, scores)
    assert found.log_e[0] > 20
    assert found.log_p[0] == -found.log_e[0]
    strong = evaluate(EXPONENTIAL, np.full(300, 5.0))
    assert strong.log_p[0] <= -strong.log_e[0] * 0.95
    assert "1/e" in Sparse().describe(EXPONENTIAL, longer)


def test_other_weights_or_other_experts_have_no_table(monkeypatch):
    few = WeightedBernoulliNull((3, 2, 1))
    found = evaluate(few, np.full(30, 6.0))
    assert table_of(few) is None
    assert found.log_p[0] == -found.log_e[0] < -20
    assert table_of(LAYERS) is not None
    assert table_of(WeightedBernoulliNull(LAYERS.weights, 0.4)) is None
    monkeypatch.setitem(experts_module.TILT_SHARES, "2 bits", (0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0))
    sparse._checked.cache_clear()
    try:
        assert table_of(LAYERS) is None
    finally:
        sparse._checked.cache_clear()


def test_raising_any_score_never_raises_p():
    rng = np.random.default_rng(3)
    for _ in range(40):
        scores = EXPONENTIAL.sample(50, rng)
        scores[: rng.integers(0, 20)] += 2.0
        raised = scores.copy()
        raised[rng.integers(50)] += rng.exponential(3.0)
        found = evaluate(EXPONENTIAL, scores, raised)
        assert found.log_p[1] <= found.log_p[0]


def test_on_text_marked_in_part_it_finds_more_than_the_sum():
    rng, n, documents = np.random.default_rng(4), 500, 600
    scores = EXPONENTIAL.sample(n * documents, rng)
    marked = rng.random(n * documents) < 0.1
    scores[marked] = experts_module.experts(EXPONENTIAL)[1].sample(int(marked.sum()), rng)
    sample = Sample(scores, np.repeat(np.arange(documents), n), documents, EXPONENTIAL)
    plain = EXPONENTIAL.log_sf(sample.sums(scores), sample.counts())
    power = [float(np.mean(log_p <= math.log(1e-3))) for log_p in (plain, Sparse().evaluate(sample).log_p)]
    assert power[1] > power[0] + 0.1


def test_tables_are_small_and_sound():
    folder = files("wmcheck.watermark.core") / FOLDER
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) < 1 << 20
    for null in (EXPONENTIAL, LAYERS):
        table = table_of(null)
        assert np.all(np.diff(table.codes, axis=1) >= 0)
        assert np.all(np.diff(table.n) > 0)
        assert np.all(np.diff(table.log_p) < 0)
    assert grid(200, 1.1)[:3].tolist() == [1, 2, 3]
    assert grid(200, 1.1)[-1] == 200


def test_a_law_without_known_alternatives_is_refused():
    class Other:
        name = "other"

    assert Sparse().unfit(Other())
    assert not Sparse().unfit(EXPONENTIAL)
