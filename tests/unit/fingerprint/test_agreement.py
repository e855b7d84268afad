"""Surprisal-weighted agreement on tables small enough to work out by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from wmcheck.fingerprint.agreement import Choices, agreement, explain
from wmcheck.fingerprint.behaviour import Observation


def table(**choices):
    return {item: Observation("s", tokens if isinstance(tokens, tuple) else (tokens,)) for item, tokens in choices.items()}


def test_worth_and_chance_by_hand():
    """Six models, one item: a a a a b b. The pair itself is left out of the count: (4 - 2 + 1/2) / (6 - 2 + 1), and so on."""
    choices = Choices([table(q=token) for token in "aaaabb"])
    worth, chance = choices.surprisal()
    a, b = -math.log(2.5 / 5), -math.log(0.5 / 5)
    assert worth[choices.column(0, "a")] == pytest.approx(a)
    assert worth[choices.column(0, "b")] == pytest.approx(b)
    assert chance[0] == pytest.approx((6 * a + 1 * b) / 15)


def test_a_rare_choice_in_common_counts_more_than_a_usual_one():
    scores = agreement([table(q=token) for token in "aaaabb"], excluded={}, least=1)
    assert scores.raw[4, 5] > 0 > scores.raw[0, 4]
    assert scores.raw[4, 5] - scores.raw[0, 1] == pytest.approx(math.log(5 / 0.5) - math.log(5 / 2.5))


def random_tables(models=9, items=40, samples=1, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    return [
        {
            f"q{item}": Observation(f"s{item % 3}", tuple(map(str, rng.integers(0, 3, samples))))
            for item in range(items) if rng.random() >= missing
        }
        for _ in range(models)
    ]


@pytest.mark.parametrize("samples", [1, 4])
def test_gains_cancel_over_all_pairs(samples):
    """Worth of agreement less chance has mean zero over pairs of models, however many samples each gave."""
    totals = Choices(random_tables(samples=samples)).by_block()[0].sum(0)
    assert totals[np.triu_indices(9, 1)].sum() == pytest.approx(0.0, abs=1e-9)


def test_scores_of_incomplete_tables_item_by_item():
    rows = random_tables(missing=0.3, samples=2)
    choices = Choices(rows)
    worth, chance = choices.surprisal()
    scores = agreement(rows, excluded={}, least=1)
    for one, other in combinations(range(9), 2):
        common = [item for item in rows[one].keys() & rows[other].keys() if item in choices.items]
        gain = 0.0
        for item in common:
            number = choices.number(item)
            first, second = rows[one][item].tokens, rows[other][item].tokens
            gain += sum(worth[choices.column(number, x)] / 4 for x in first for y in second if x == y) - chance[number]
        assert scores.shared[one, other] == len(common)
        assert scores.raw[one, other] == pytest.approx(gain / len(common))


def test_parts_leave_one_block_out_each():
    rows = random_tables(items=80)
    scores = agreement(rows, excluded={}, least=1)
    totals, counts = Choices(rows).by_block()
    for number, part in enumerate(scores.parts):
        expected = (totals.sum(0) - totals[number]) / (counts.sum(0) - counts[number])
        np.testing.assert_allclose(part, expected)


def test_items_of_few_models_say_nothing():
    rows = [table(q="a", rare="x"), table(q="a", rare="x"), table(q="a", rare="x"), table(q="b")]
    assert Choices(rows).items == ["q"]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("pool", [False, True])
def test_explained_shares_add_up_to_the_score(pool, samples):
    rows = random_tables(missing=0.2, samples=samples)
    raw = agreement(rows, excluded={}, least=1, pool=pool).raw
    parts = explain(rows, 2, 7, pool=pool)
    assert sum(part.value for part in parts) == pytest.approx(raw[2, 7])
    assert {part.decision for part in parts} <= rows[2].keys() & rows[7].keys()


def test_pooled_worth_is_that_of_the_token_over_all_items():
    """Feature x is taken in 6 of 8 answers of each of ten items, whichever models take it: one worth for all items."""
    rows = [{f"q{item}": Observation("f", ("x" if (model + item) % 8 < 6 else "y",)) for item in range(10)} for model in range(8)]
    choices = Choices(rows, pool=True)
    worth, _ = choices.surprisal()
    assert {round(float(worth[choices.column(n, "x")]), 12) for n in range(10)} == {round(-math.log(4.5 / 7), 12)}
    assert {round(float(worth[choices.column(n, "y")]), 12) for n in range(10)} == {round(-math.log(0.5 / 7), 12)}


def test_excluded_models_and_thin_pairs_have_no_score():
    rows = random_tables()
    rows[0] = {"q0": rows[0]["q0"]}
    scores = agreement(rows, excluded={4: "why"}, least=5)
    assert np.isnan(scores.raw[4]).all()
    assert np.isnan(scores.parts[:, :, 4]).all()
    assert np.isnan(scores.raw[0, 1])
    assert scores.shared[0, 1] == 1
    assert scores.excluded == {4: "why"}


def test_no_tables_in_common_give_no_scores():
    scores = agreement([{}, {}, {}], excluded={}, least=1)
    assert np.isnan(scores.raw).all()
    assert (scores.shared == 0).all()
